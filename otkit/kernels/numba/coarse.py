"""A coarse correction for conjugate gradients: few unknowns, solved for at once.

The matrix of a Newton step is the Laplacian of a graph. Where the plan ties each point to a few neighbours, potentials
that change slowly from one to the next are what the diagonal leaves nearly all iterations to. Neighbours are therefore
aggregated (Vaněk, Mandel & Brezina 1996), and what the aggregates solve for is added to what the diagonal does (Dryja &
Widlund 1990).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import STRIDE, jit, wide

# Entries of the matrix of the aggregates, relative to those of T: few enough, and at most; and the aggregates at most.
_SMALL, _LARGE, _MOST = 1, 8, 512
# What is strong in a row, relative to its largest entry; and where aggregates are joined again.
_STRONG, _TOUCHING = 0.05, 1e-3
# Aggregates that are more than this fraction of what they are made of are none.
_FEWER = 0.9
# Keeps what is inverted from being singular within rounding.
_RIDGE = 1e-13


class Rows(NamedTuple):
    """A sparse matrix by rows: where each ends, its columns and its entries, with unsigned places."""

    ends: np.ndarray
    cols: np.ndarray
    data: np.ndarray


class Coarse(NamedTuple):
    """The part of the space that is solved for at once.

    Attributes
    ----------
    label : numpy array of int (m,)
        The aggregate of each unknown.
    weight : numpy array (m,)
        The vectors of the aggregates, of norm 1.
    inverse : numpy array (K, ≥ K)
        That of the matrix of these K vectors, filled up with columns of zeros.
    """

    label: np.ndarray
    weight: np.ndarray
    inverse: np.ndarray


NONE = Coarse(np.zeros(0, np.int64), np.zeros(0), np.empty((0, 0)))


def coarse_correction(smooth: np.ndarray | None, square: float, T: Rows, transposed: Rows) -> Coarse:
    """Aggregates of the unknowns that rows of T tie together; none where few unknowns are tied to each other."""
    m, strong = transposed.ends.size - 1, _STRONG
    if smooth is None:
        return NONE
    label, count = np.arange(m), m
    while count * count > min(_SMALL * T.data.size, _MOST * _MOST):
        joined, fewer = _join(T, transposed, label, count, strong)
        if fewer > _FEWER * count:
            break
        label, count, strong = joined, fewer, _TOUCHING
    if count * count > min(_LARGE * T.data.size, _MOST * _MOST):
        return NONE
    norm = np.sqrt(np.bincount(label, smooth**2, count))[label]
    weight = np.divide(smooth, norm, out=np.zeros(m), where=norm > 0)
    inverse = _galerkin(*T, label, weight, count)
    inverse[np.arange(count), np.arange(count)] += square + _RIDGE
    return Coarse(label, weight, inverse) if _invert(inverse) else NONE


@jit
def _invert(A):
    """Invert a symmetric matrix in place, in its first columns; whether it is positive definite.

    LAPACK's threads wait for each other where other libraries keep the cores busy: it was seen to take a hundred times
    as long.
    """
    wide()
    row = np.empty(A.shape[1])
    for p in range(A.shape[0]):
        if not A[p, p] > 0.0:
            return False
        inverse = 1.0 / A[p, p]
        for j in range(row.size):
            row[j] = A[p, j] * inverse
        for i in range(A.shape[0]):
            factor = A[i, p]
            for j in range(row.size):
                A[i, j] -= factor * row[j]
            A[i, p] = -factor * inverse
        for j in range(row.size):
            A[p, j] = row[j]
        A[p, p] = inverse
    return True


@jit
def _join(T, transposed, label, count, strong):
    """Join aggregates that rows tie together: the new labels of the unknowns, and how many aggregates there are.

    Each that is part of none goes with the row that it is strongest in, to the strongest there that is part of one.
    """
    joined, fewer = _seeds(T.ends, T.cols, T.data, label, count, strong)
    home = _homes(T.ends, T.cols, T.data, label, joined)
    ends, rows, data = transposed
    alone, best = joined < 0, np.zeros(count)
    for j in range(label.size):
        at = label[j]
        if alone[at]:
            for k in range(ends[j], ends[j + 1]):
                better = data[k] > best[at] and home[rows[k]] >= 0
                best[at] = data[k] if better else best[at]
                joined[at] = home[rows[k]] if better else joined[at]
    out = np.empty(label.size, np.int64)
    for j in range(label.size):
        out[j] = max(0, joined[label[j]])  # without entries it is in no sum
    return out, fewer


@jit
def _seeds(ends, cols, data, label, count, strong):
    """Those that are strong in a row become one, where none of them is part of another yet; the others are -1."""
    joined, fewer, one = np.full(count, -1), 0, np.uint64(1)
    for i in range(np.uint64(ends.size - 1)):
        bound, taken = 0.0, 0
        for k in range(ends[i], ends[i + one]):
            bound = max(bound, strong * data[k])
        for k in range(ends[i], ends[i + one]):
            taken += (data[k] >= bound) & (joined[label[cols[k]]] >= 0)
        if taken == 0 and bound > 0.0:
            for k in range(ends[i], ends[i + one]):
                if data[k] >= bound:
                    joined[label[cols[k]]] = fewer
            fewer += 1
    return joined, fewer


@jit
def _homes(ends, cols, data, label, joined):
    """What the strongest entry of each row that is part of anything is part of."""
    n, one = np.uint64(ends.size - 1), np.uint64(1)
    home = np.full(n, -1)
    for i in range(n):
        top = 0.0
        for k in range(ends[i], ends[i + one]):
            at = joined[label[cols[k]]]
            entry = data[k] if at >= 0 else 0.0
            home[i] = at if entry > top else home[i]
            top = max(top, entry)
    return home


@jit
def _galerkin(ends, cols, data, label, weight, count):
    """−ZᵀTᵀTZ for the vectors Z of the aggregates, and columns of zeros."""
    out, row = np.zeros((count, -(-count // STRIDE) * STRIDE)), np.zeros(count)
    found = np.empty(count + 1, np.uint64)
    one, last = np.uint64(1), np.full(count, ends.size, np.uint64)
    for i in range(np.uint64(ends.size - 1)):
        many = np.uint64(0)
        for k in range(ends[i], ends[i + one]):
            at = label[cols[k]]
            found[many] = at
            many += np.uint64(last[at] != i)
            last[at] = i
            row[at] += data[k] * weight[cols[k]]
        for p in range(many):
            for q in range(many):
                out[found[p], found[q]] -= row[found[p]] * row[found[q]]
        for p in range(many):
            row[found[p]] = 0.0
    return out


@jit
def correct(label, weight, inverse, small, solved, residual, out):
    """Add what the aggregates solve for."""
    for q in range(small.size):
        small[q] = 0.0
    for j in range(residual.size):
        small[label[j]] += weight[j] * residual[j]
    for p in range(solved.size):
        total = 0.0
        for q in range(small.size):
            total += inverse[p, q] * small[q]
        solved[p] = total
    for j in range(residual.size):
        out[j] += weight[j] * solved[label[j]]
