"""A coarse-grid correction for conjugate gradients, with a direct solve for few unknowns.

The matrix of a Newton step is the Laplacian of a graph. Where the plan couples each point to a few neighbours, smooth
potentials converge slowly with the diagonal preconditioner, and cost nearly all iterations. Neighbours are therefore
aggregated (Vaněk, Mandel & Brezina 1996). The coarse solution on the aggregates is added to the diagonal preconditioner
(Dryja & Widlund 1990).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import STRIDE, jit, wide

# Entries of the coarse matrix relative to the entries of T: aggregation stops at _SMALL, and with more than _LARGE no
# correction is used. Maximum number of aggregates.
_SMALL, _LARGE, _MOST = 1, 8, 512
# Threshold of strong entries of a row, relative to its largest entry: at first, and when aggregates are joined again.
_STRONG, _TOUCHING = 0.05, 1e-3
# Aggregation stops if more than this fraction of the aggregates would remain.
_FEWER = 0.9
# Shift that keeps the coarse matrix from being singular within rounding.
_RIDGE = 1e-13


class Rows(NamedTuple):
    """A sparse matrix by rows (CSR): the ends of rows, columns and entries, with unsigned indices."""

    ends: np.ndarray
    cols: np.ndarray
    data: np.ndarray


class Coarse(NamedTuple):
    """The coarse space of the correction.

    Attributes
    ----------
    label : numpy array of int (m,)
        The aggregate of each unknown.
    weight : numpy array (m,)
        The vectors of the aggregates, of norm 1 on each aggregate.
    inverse : numpy array (K, ≥ K)
        The inverse of the Galerkin matrix of these K vectors, padded with columns of zeros.
    """

    label: np.ndarray
    weight: np.ndarray
    inverse: np.ndarray


NONE = Coarse(np.zeros(0, np.int64), np.zeros(0), np.empty((0, 0)))


def coarse_correction(smooth: np.ndarray | None, square: float, T: Rows, transposed: Rows) -> Coarse:
    """The coarse correction for aggregates of unknowns coupled by rows of T; `NONE` if too few are coupled."""
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
    """Invert a symmetric matrix in place, in its first columns; returns whether it is positive definite.

    LAPACK is not used, since its threads wait for each other if other libraries keep the cores busy. Times a hundred
    times longer were observed.
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
    """Join aggregates that are coupled by rows; returns the new labels of the unknowns and the number of aggregates.

    An aggregate that is part of no seed joins the seed of the strongest assigned entry in the row where it is strongest
    itself.
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
        out[j] = max(0, joined[label[j]])  # unknowns without entries do not affect any sum
    return out, fewer


@jit
def _seeds(ends, cols, data, label, count, strong):
    """New aggregates (seeds) of the strong entries of rows, if none of them is part of a seed yet; others get −1."""
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
    """For each row, the seed of its strongest entry that is part of a seed; −1 for none."""
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
    """The Galerkin matrix −ZᵀTᵀTZ for the vectors Z of the aggregates, padded with columns of zeros."""
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
    """Add the coarse correction of a residual to ``out``."""
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
