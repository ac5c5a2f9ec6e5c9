"""Sinkhorn iterations between samples and prototypes of equal shares, compiled as a whole.

With E = exp(L − max L), for scaled scores L ``(n, m)``, the plan after an iteration is E_ij·v_j/Σ_k E_ik·v_k. Samples
are scaled last. An iteration is one pass over E, which adds each row to the sums of the columns once its own is known.
All is in the precision of the scores, except for sums over many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from otkit.kernels import threads
from otkit.kernels.numba.jit import clear, exp, exp_single, jit, least, most, wide
from otkit.kernels.numba.tiles import Part, parts

_ROWS = 64  # rows that are summed in the precision of the scores


def assigned(scores: np.ndarray, scale: float, n_iters: int, hard: bool) -> np.ndarray | None:
    """The assignments of ``scores (B, n, m)`` times `scale`, or with `hard` the largest of each row, ``(B, n)``.

    None if the range of the scores is too wide for exponentials without shifts, or a score is not finite.
    """
    items, n, m = scores.shape
    E, labels = np.empty_like(scores), np.empty((items, n if hard else 0), dtype=np.int64)
    widest = -math.log(np.finfo(scores.dtype).tiny) / 2
    cut = parts(n, m, items)
    if cut[0].rows.stop == n:
        good = np.zeros(items, dtype=np.bool_)

        def work(part: Part) -> None:
            _assign(scores, part.items.start, part.items.stop, scale, widest, n_iters, E, labels, good)

        threads.each(work, cut, scores.size)
        done = bool(good.all())
    else:
        done = all(_in_groups(scores[k], scale, widest, n_iters, E[k], labels[k]) for k in range(items))
    return None if not done else labels if hard else E


def _in_groups(S: np.ndarray, scale: float, widest: float, n_iters: int, E: np.ndarray, labels: np.ndarray) -> bool:
    """Assign the samples of one large problem, with its rows divided among threads; False if its range is too wide."""
    cut = parts(S.shape[0], S.shape[1], 1)
    ends, sums, v = np.empty((len(cut), 2)), np.empty((len(cut), S.shape[1])), np.empty(S.shape[1], S.dtype)

    def each(work: Callable[..., None], *given: Any) -> None:
        threads.each(lambda part: work(S, E, part.rows.start, part.rows.stop, part.group, *given), cut, S.size)

    each(_span, ends)
    top, low = ends[:, 0].max(), ends[:, 1].min()
    if not (top - low) * scale < widest:
        return False
    each(_exponentials, scale, top, sums)
    for _ in range(n_iters - 1):
        _invert(sums, v)
        each(_balance, v, sums)
    _invert(sums, v)
    each(_end, v, labels)
    return True


@jit
def _span(S, E, first, stop, group, ends):
    """The largest and the smallest score of some rows; infinite if one is not finite."""
    top, low, bad = -np.inf, np.inf, 0
    for i in range(first, stop):
        for j in range(S.shape[1]):
            bad += not abs(S[i, j]) < np.inf
        for j in range(S.shape[1]):
            top = most(top, S[i, j])
        for j in range(S.shape[1]):
            low = least(low, S[i, j])
    ends[group, 0], ends[group, 1] = (top, low) if bad == 0 else (np.inf, -np.inf)


@jit
def _flush(part, sums):
    for j in range(sums.size):
        sums[j] += part[j]
    clear(part)


@jit
def _exponentials(S, E, first, stop, group, scale, top, sums):
    """E, and its sums over the rows."""
    wide()
    factor, shift = E.dtype.type(scale), E.dtype.type(top)
    part = np.zeros(E.shape[1], E.dtype)
    clear(sums[group])
    for i in range(first, stop):
        if E.itemsize == 4:
            for j in range(E.shape[1]):
                E[i, j] = exp_single((S[i, j] - shift) * factor)
        else:
            for j in range(E.shape[1]):
                E[i, j] = exp((S[i, j] - shift) * factor)
        for j in range(E.shape[1]):
            part[j] += E[i, j]
        if (i - first) % _ROWS == _ROWS - 1:
            _flush(part, sums[group])
    _flush(part, sums[group])


@jit
def _invert(sums, v):
    """Scalings of the columns by their sums ``(G, m)``, of at most 1."""
    for k in range(1, sums.shape[0]):
        for j in range(v.size):
            sums[0, j] += sums[k, j]
    lowest = np.inf
    for j in range(v.size):
        lowest = least(lowest, sums[0, j])
    for j in range(v.size):
        v[j] = lowest / sums[0, j]


@jit
def _product(E, v):
    total = E.dtype.type(0)
    for j in range(v.size):
        total += E[j] * v[j]
    return total


@jit
def _balance(S, E, first, stop, group, v, sums):
    """The sums of the columns of E, each row of which is divided by its product with `v`."""
    wide()
    one, part = E.dtype.type(1), np.zeros(E.shape[1], E.dtype)
    clear(sums[group])
    for i in range(first, stop):
        factor = one / _product(E[i], v)
        for j in range(v.size):
            part[j] += E[i, j] * factor
        if (i - first) % _ROWS == _ROWS - 1:
            _flush(part, sums[group])
    _flush(part, sums[group])


@jit
def _end(S, E, first, stop, group, v, labels):
    """Turn E into assignments, or if there is room for labels, find the largest of each row."""
    wide()
    one = E.dtype.type(1)
    for i in range(first, stop):
        if labels.size:
            best = 0
            for j in range(v.size):
                if E[i, j] * v[j] > E[i, best] * v[best]:
                    best = j
            labels[i] = best
        else:
            factor = one / _product(E[i], v)
            for j in range(v.size):
                E[i, j] = E[i, j] * v[j] * factor


@jit
def _assign(scores, low, high, scale, widest, n_iters, assignments, labels, good):
    """Assign the samples of some items. `good` says which have a range that is not too wide."""
    n, m = scores.shape[1:]
    ends, sums, v = np.empty((1, 2)), np.empty((1, m)), np.empty(m, scores.dtype)
    for k in range(low, high):
        S, E = scores[k], assignments[k]
        _span(S, E, 0, n, 0, ends)
        top = ends[0, 0]
        good[k] = (top - ends[0, 1]) * scale < widest
        if not good[k]:
            continue
        _exponentials(S, E, 0, n, 0, scale, top, sums)
        for _ in range(n_iters - 1):
            _invert(sums, v)
            _balance(S, E, 0, n, 0, v, sums)
        _invert(sums, v)
        _end(S, E, 0, n, 0, v, labels[k])
