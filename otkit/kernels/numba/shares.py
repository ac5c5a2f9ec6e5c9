"""Sinkhorn iterations between samples and prototypes of equal shares, compiled as a whole.

Scaled scores L ``(n, m)`` are shifted by potentials r and c, so that the largest entry of every row and column of
E_ij = e^(L_ij − r_i − c_j) is 1. The plan after an iteration is E_ij·v_j/Σ_k E_ik·v_k: samples are scaled last. An
iteration is one pass over E, which adds each row to the sums of the columns once its own is known. All is in the
precision of the scores, except for sums over many rows. Entries of E that are not normal numbers count as 0. That is
below rounding while no product of a row and no sum of a column is small, which every pass checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from otkit.kernels import threads
from otkit.kernels.numba.jit import clear, jit, least, most, raise_all, wide
from otkit.kernels.numba.tiles import Part, parts

_ROWS = 64  # rows that are summed in the precision of the scores
_WIDE = 128  # columns from which on four rows at a time take less time than one

# Sums of k terms with weights up to 1 are right to rounding from k times this number on, though some count as 0.
_FLOORS = {kind.dtype: 2 * float(kind.tiny) / float(kind.eps) for kind in (np.finfo(np.float32), np.finfo(np.float64))}


def assigned(scores: np.ndarray, scale: float, n_iters: int, hard: bool) -> np.ndarray | None:
    """The assignments of ``scores (B, n, m)`` times `scale`, or with `hard` the largest of each row, ``(B, n)``.

    None if entries of E that are 0 could count, or a score is not finite, or so large that differences overflow.
    """
    items, n, m = scores.shape
    E, labels = np.empty_like(scores), np.empty((items, n if hard else 0), dtype=np.int64)
    floor, cut = _FLOORS[scores.dtype], parts(n, m, items)
    if cut[0].rows.stop == n:
        good = np.zeros(items, dtype=np.bool_)

        def work(part: Part) -> None:
            _assign(scores, part.items.start, part.items.stop, scale, floor, n_iters, E, labels, good)

        threads.each(work, cut, scores.size)
        done = bool(good.all())
    else:
        done = all(_in_groups(scores[k], scale, floor, n_iters, E[k], labels[k]) for k in range(items))
    return None if not done else labels if hard else E


def _in_groups(S: np.ndarray, scale: float, floor: float, n_iters: int, E: np.ndarray, labels: np.ndarray) -> bool:
    """Assign the samples of one large problem, with its rows divided among threads; False if a sum is too small."""
    n, m = S.shape
    cut = parts(n, m, 1)
    r, c, v = np.empty(n, S.dtype), np.empty((len(cut), m), S.dtype), np.empty(m, S.dtype)
    sums, lows = np.empty((len(cut), m)), np.empty(len(cut))

    def each(work: Callable[..., None], *given: Any) -> float:
        # A pass takes a quarter of the time of exponentials in double precision, or half for scores in that.
        time = S.nbytes // 16
        threads.each(lambda part: work(S, E, part.rows.start, part.rows.stop, part.group, lows, *given), cut, time)
        return float(lows.min())

    low = each(_shifts, r, c)
    if low > 0:
        each(_exponentials, scale, r, r.max(), c.max(0), sums)
    for left in range(n_iters - 1, -1, -1):
        if not (low >= m * floor and low * _invert(sums, v) >= n * floor):
            return False
        low = each(_balance, v, sums) if left else each(_label, v, labels) if labels.size else each(_end, v)
    return low >= m * floor


@jit
def _shifts(S, E, first, stop, group, lows, r, c):
    """The largest score of some rows, and of each column less these; a low of 0 if a difference is not finite."""
    wide()
    zero, largest = S.dtype.type(0), S.dtype.type(0)
    half = 1.5e38 if S.itemsize == 4 else 8e307  # less than half the largest number
    for j in range(S.shape[1]):
        c[group, j] = -np.inf
    for i in range(first, stop):
        top = S[i, 0]
        for j in range(S.shape[1]):
            top = most(top, S[i, j])
            largest = most(largest, abs(S[i, j]))
            zero += S[i, j] * 0  # not a number where the score is none
        for j in range(S.shape[1]):
            c[group, j] = most(c[group, j], S[i, j] - top)
        r[i] = top
    lows[group] = zero == 0 and largest < half


@jit
def _flush(part, sums):
    for j in range(sums.size):
        sums[j] += part[j]
    clear(part)


@jit
def _add(E, i, f, part):
    """Add four rows from `i` on, times `f`, to the sums of the columns."""
    for j in range(part.size):
        part[j] += (E[i, j] * f[0] + E[i + 1, j] * f[1]) + (E[i + 2, j] * f[2] + E[i + 3, j] * f[3])


@jit
def _exponentials(S, E, first, stop, group, lows, scale, r, top, c, sums):
    """E, and the sums of its columns, with the weights e^(r_i − top) of the rows."""
    wide()
    m, factor = E.shape[1], E.dtype.type(scale)
    count = 4 if m >= _WIDE else _ROWS
    part, f = np.zeros(m, E.dtype), np.empty(count, E.dtype)
    clear(sums[group])
    for i in range(first, stop, count):
        end = min(i + count, stop)
        for k in range(i, end):
            f[k - i] = (r[k] - top) * factor
            for j in range(m):
                E[k, j] = (S[k, j] - r[k] - c[j]) * factor
        raise_all(E[i:end])
        raise_all(f[: end - i])
        if m >= _WIDE and end == i + 4:
            _add(E, i, f, part)
        else:
            for k in range(i, end):
                for j in range(m):
                    part[j] += E[k, j] * f[k - i]
        if (end - first) % _ROWS == 0:
            _flush(part, sums[group])
    _flush(part, sums[group])


@jit
def _invert(sums, v):
    """Scalings of the columns by their sums ``(G, m)``, of at most 1, and the smallest sum."""
    for k in range(1, sums.shape[0]):
        for j in range(v.size):
            sums[0, j] += sums[k, j]
    lowest = np.inf
    for j in range(v.size):
        lowest = least(lowest, sums[0, j])
    for j in range(v.size):
        v[j] = lowest / sums[0, j]
    return lowest


@jit
def _product(E, v):
    total = E.dtype.type(0)
    for j in range(v.size):
        total += E[j] * v[j]
    return total


@jit
def _divide(E, i, v, f):
    """The reciprocals `f` of the products of four rows from `i` on with `v`; returns the smallest product."""
    t0 = t1 = t2 = t3 = E.dtype.type(0)
    for j in range(v.size):
        t0 += E[i, j] * v[j]
        t1 += E[i + 1, j] * v[j]
        t2 += E[i + 2, j] * v[j]
        t3 += E[i + 3, j] * v[j]
    one = E.dtype.type(1)
    f[0], f[1], f[2], f[3] = one / t0, one / t1, one / t2, one / t3
    return least(least(t0, t1), least(t2, t3))


@jit
def _balance(S, E, first, stop, group, lows, v, sums):
    """The sums of the columns of E, each row of which is divided by its product with `v`, and the smallest product."""
    wide()
    one = E.dtype.type(1)
    low, part, f, i = E.dtype.type(np.inf), np.zeros(v.size, E.dtype), np.empty(4, E.dtype), first
    clear(sums[group])
    while i < stop:
        if v.size >= _WIDE and i + 4 <= stop:
            low = least(low, _divide(E, i, v, f))
            _add(E, i, f, part)
            i += 4
        else:
            product = _product(E[i], v)
            low, factor = least(low, product), one / product
            for j in range(v.size):
                part[j] += E[i, j] * factor
            i += 1
        if (i - first) % _ROWS == 0:
            _flush(part, sums[group])
    _flush(part, sums[group])
    lows[group] = low


@jit
def _end(S, E, first, stop, group, lows, v):
    """Turn E into assignments."""
    wide()
    one, low, f, i = E.dtype.type(1), E.dtype.type(np.inf), np.empty(4, E.dtype), first
    while i < stop:
        if v.size >= _WIDE and i + 4 <= stop:
            low = least(low, _divide(E, i, v, f))
            for k in range(4):
                for j in range(v.size):
                    E[i + k, j] *= v[j] * f[k]
            i += 4
        else:
            product = _product(E[i], v)
            low, factor = least(low, product), one / product
            for j in range(v.size):
                E[i, j] *= v[j] * factor
            i += 1
    lows[group] = low


@jit
def _label(S, E, first, stop, group, lows, v, labels):
    """The columns of the largest assignments, and the smallest of these before the division by products."""
    wide()
    low = np.inf
    for i in range(first, stop):
        best = 0
        for j in range(v.size):
            if E[i, j] * v[j] > E[i, best] * v[best]:
                best = j
        labels[i] = best
        low = least(low, np.float64(E[i, best] * v[best]))
    lows[group] = low


@jit
def _assign(scores, first, stop, scale, floor, n_iters, assignments, labels, good):
    """Assign the samples of some items. `good` says in which no sum is too small."""
    n, m = scores.shape[1:]
    r, c, v = np.empty(n, scores.dtype), np.empty((1, m), scores.dtype), np.empty(m, scores.dtype)
    sums, lows = np.empty((1, m)), np.empty(1)
    for k in range(first, stop):
        S, E = scores[k], assignments[k]
        _shifts(S, E, 0, n, 0, lows, r, c)
        if lows[0] > 0:
            _exponentials(S, E, 0, n, 0, lows, scale, r, r.max(), c[0], sums)
        for left in range(n_iters - 1, -1, -1):
            if not (lows[0] >= m * floor and lows[0] * _invert(sums, v) >= n * floor):
                lows[0] = 0.0
                break
            if left > 0:
                _balance(S, E, 0, n, 0, lows, v, sums)
            elif labels.size:
                _label(S, E, 0, n, 0, lows, v, labels[k])
            else:
                _end(S, E, 0, n, 0, lows, v)
        good[k] = lows[0] >= m * floor
