"""Conjugate gradients, compiled, with a coarse correction beside the diagonal.

The matrix of a Newton step is the Laplacian of a graph: where the plan ties each point to a few neighbours, potentials
that change slowly from neighbour to neighbour are what the diagonal leaves nearly all iterations to. Neighbours are
aggregated, and the matrix that is left of these few unknowns is factorised (aggregation: Vaněk, Mandel & Brezina 1996;
two levels added: Dryja & Widlund 1990).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otkit.kernels.numba_math import dot, gather, jit
from otkit.linalg import Memory, Scaling, Schur, Solution, Sparse

# Iterations without a coarse correction.
_PLAIN = 50
# Entries of the matrix of the aggregates, relative to those of T: few enough, and at most.
_SMALL, _LARGE = 1, 8
# What is strong in a row, relative to its largest entry; and where aggregates are joined again.
_STRONG, _TOUCHING = 0.05, 1e-3
# Aggregates that are more than this fraction of what they are made of are none.
_FEWER = 0.9
# Keeps what is inverted from being singular within rounding.
_RIDGE = 1e-13


def sparsified(rows: Sparse, by: Scaling) -> tuple[Sparse, float]:
    """As `otkit.kernels.sparsified`."""
    from scipy.sparse import csr_array

    n, m = rows.T.shape
    ends, cols, data, mass = _sparsify(*_rows(rows.T), *by)
    turned = _turn(ends, cols, data, m)
    T, other = (
        csr_array((data, cols.view(np.int32), ends.astype(np.int32)), shape=shape)
        for (ends, cols, data), shape in (((ends, cols, data), (n, m)), (turned, (m, n)))
    )
    return Sparse(T, other), mass


@jit
def _sparsify(ends, cols, data, left, right, least_row, least_col, half_row, half_col):
    out_ends, out_cols, out_data = np.zeros(ends.size, np.uint64), np.empty(cols.size, np.uint32), np.empty(cols.size)
    one, at, mass = np.uint64(1), np.uint64(0), 0.0
    half = right * half_col
    for i in range(np.uint64(ends.size - 1)):
        least, scale = least_row[i], left[i] * half_row[i]
        for k in range(ends[i], ends[i + one]):
            j = cols[k]
            entry = data[k] * left[i] * right[j]
            kept = entry >= min(least, least_col[j])
            out_cols[at], out_data[at] = j, data[k] * scale * half[j]
            at += np.uint64(kept)
            mass += entry if kept else 0.0
        out_ends[i + one] = at
    return out_ends, out_cols[:at].copy(), out_data[:at].copy(), mass


@jit
def _turn(ends, cols, data, m):
    """The transposed rows."""
    one, count = np.uint64(1), np.zeros(m + 1, np.uint64)
    for k in range(cols.size):
        count[cols[k] + one] += one
    for j in range(m):
        count[j + 1] += count[j]
    out_ends, rows, out = count.copy(), np.empty(cols.size, np.uint32), np.empty(cols.size)
    for i in range(np.uint64(ends.size - 1)):
        for k in range(ends[i], ends[i + one]):
            at = count[cols[k]]
            rows[at], out[at] = i, data[k]
            count[cols[k]] = at + one
    return out_ends, rows, out


def conjugate_gradients(
    matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int, memory: Memory | None = None
) -> Solution:
    """As `otkit.linalg.conjugate_gradients`; a coarse correction helps where many iterations are needed.

    It takes as long to make as some iterations, so that as many are done without it. For the next matrices it is there.
    """
    memory, y, steps, accurate = memory or Memory(), start.copy(), 0, False
    T, turned = _rows(matrix.T), _rows(matrix.turned)

    def iterate(limit: int, coarse: _Coarse) -> tuple[int, bool]:
        found = _conjugate_gradients(
            matrix.square, *T, *turned, matrix.diagonal, *coarse, rhs, rtol, limit, y
        )
        return steps + int(found[0]), bool(found[1])

    if memory.coarse is None:
        steps, accurate = iterate(min(_PLAIN, limit), _NONE)
        if accurate or steps < _PLAIN:
            return Solution(y, steps, accurate)
        memory.coarse = _coarse(matrix, T, turned)
    steps, accurate = iterate(limit - steps, memory.coarse)
    return Solution(y, steps, accurate)


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # ends, columns and entries


def _rows(T: Any) -> _Rows:
    """Those of a matrix of SciPy, with unsigned places: a signed one might be negative, and is looked at each time."""
    return T.indptr.astype(np.uint64), T.indices.astype(np.uint32), T.data


class _Coarse(NamedTuple):
    """The part of the space that is solved for at once.

    Attributes
    ----------
    label : numpy array of int (m,)
        The aggregate of each unknown.
    weight : numpy array (m,)
        The vectors of the aggregates, of norm 1.
    inverse : numpy array (K, K)
        That of the matrix of these K vectors.
    """

    label: np.ndarray
    weight: np.ndarray
    inverse: np.ndarray


_NONE = _Coarse(np.zeros(0, np.int64), np.zeros(0), np.empty((0, 0)))


def _coarse(matrix: Schur, T: _Rows, turned: _Rows) -> _Coarse:
    """Aggregates of the unknowns that rows of T tie together; none where few unknowns are tied to each other."""
    m, strong = turned[0].size - 1, _STRONG
    if matrix.smooth is None:
        return _NONE
    label, count = np.arange(m), m
    while count * count > _SMALL * T[2].size:
        joined, fewer = _join(*T, *turned, label, count, strong)
        if fewer > _FEWER * count:
            break
        label, count, strong = joined, fewer, _TOUCHING
    if count * count > _LARGE * T[2].size:
        return _NONE
    norm = np.sqrt(np.bincount(label, matrix.smooth**2, count))[label]
    weight = np.divide(matrix.smooth, norm, out=np.zeros(m), where=norm > 0)
    inverse = _inverse(_galerkin(*T, label, weight, count), matrix.square + _RIDGE)
    return _NONE if inverse is None else _Coarse(label, weight, inverse)


def _inverse(A: np.ndarray, shift: float) -> np.ndarray | None:
    """That of a symmetric matrix with a shift; None where it is not positive definite."""
    from scipy.linalg.lapack import dpotrf, dpotri

    A[np.diag_indices(len(A))] += shift
    factor, failed = dpotrf(A.T, overwrite_a=True)
    if failed:
        return None
    half, failed = dpotri(factor, overwrite_c=True)
    return None if failed else np.triu(half) + np.triu(half, 1).T


@jit
def _join(ends, cols, data, turned_ends, rows, turned_data, label, count, strong):
    """Join aggregates that rows tie together: the new labels of the unknowns, and how many aggregates there are.

    Those that are strong in a row become one where none of them is part of another yet. Each that is left goes with the
    row that it is strongest in, to the strongest there that is part of one.
    """
    n, one, fewer = np.uint64(ends.size - 1), np.uint64(1), 0
    joined, home = np.full(count, -1), np.full(n, -1)
    for i in range(n):
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
    for i in range(n):
        top = 0.0
        for k in range(ends[i], ends[i + one]):
            at = joined[label[cols[k]]]
            entry = data[k] if at >= 0 else 0.0
            home[i] = at if entry > top else home[i]
            top = max(top, entry)
    alone, best = joined < 0, np.zeros(count)
    for j in range(label.size):
        at = label[j]
        if alone[at]:
            for k in range(turned_ends[j], turned_ends[j + 1]):
                better = turned_data[k] > best[at] and home[rows[k]] >= 0
                best[at] = turned_data[k] if better else best[at]
                joined[at] = home[rows[k]] if better else joined[at]
    out = np.empty(label.size, np.int64)
    for j in range(label.size):
        out[j] = max(0, joined[label[j]])  # without entries it is in no sum
    return out, fewer


@jit
def _galerkin(ends, cols, data, label, weight, count):
    """−ZᵀTᵀTZ for the vectors Z of the aggregates."""
    out, row, found = np.zeros((count, count)), np.zeros(count), np.empty(count + 1, np.uint64)
    one = np.uint64(1)
    for i in range(np.uint64(ends.size - 1)):
        many = np.uint64(0)
        for k in range(ends[i], ends[i + one]):
            at = label[cols[k]]
            found[many] = at
            many += np.uint64(row[at] == 0.0)
            row[at] += data[k] * weight[cols[k]]
        for p in range(many):
            for q in range(many):
                out[found[p], found[q]] -= row[found[p]] * row[found[q]]
        for p in range(many):
            row[found[p]] = 0.0
    return out


@jit
def _multiply(ends, cols, data, v, out):
    for i in range(out.size):
        out[i] = gather(cols, data, ends[i], ends[i + 1], v)


@jit
def _correct(label, weight, inverse, small, solved, residual, out):
    """Add what the aggregates solve for."""
    for p in range(small.size):
        small[p] = 0.0
    for j in range(residual.size):
        small[label[j]] += weight[j] * residual[j]
    for p in range(small.size):
        total = 0.0
        for q in range(small.size):
            total += inverse[p, q] * small[q]
        solved[p] = total
    for j in range(residual.size):
        out[j] += weight[j] * solved[label[j]]


@jit
def _add(x, factor, y):
    for j in range(x.size):
        x[j] += factor * y[j]


@jit
def _apply(square, ends, cols, data, turned_ends, turned_cols, turned_data, v, middle, out):
    _multiply(ends, cols, data, v, middle)
    _multiply(turned_ends, turned_cols, turned_data, middle, out)
    for j in range(out.size):
        out[j] = square * v[j] - out[j]


@jit
def _conjugate_gradients(
    square, ends, cols, data, turned_ends, turned_cols, turned_data, diagonal, label, weight, inverse, rhs, rtol, limit,
    y,
):  # fmt: skip
    """Solve in place from ``y (m,)``; returns the number of iterations, and whether the residual is small enough.

    Where a number leaves the finite ones, y is what it was before.
    """
    middle, image = np.empty(ends.size - 1), np.empty(y.size)
    small, solved = np.empty(inverse.shape[0]), np.empty(inverse.shape[0])
    residual, direction, step = rhs.copy(), np.zeros(y.size), np.empty(y.size)
    _apply(square, ends, cols, data, turned_ends, turned_cols, turned_data, y, middle, image)
    _add(residual, -1.0, image)
    goal = rtol * np.sqrt(dot(rhs, rhs))
    before = np.inf
    for count in range(limit):
        if np.sqrt(dot(residual, residual)) <= goal:
            return count, True
        for j in range(y.size):
            step[j] = residual[j] / diagonal[j]
        if small.size > 0:
            _correct(label, weight, inverse, small, solved, residual, step)
        now = dot(residual, step)
        for j in range(y.size):
            direction[j] = step[j] + (now / before) * direction[j]
        before = now
        _apply(square, ends, cols, data, turned_ends, turned_cols, turned_data, direction, middle, image)
        length = now / dot(direction, image)
        if not abs(length) < np.inf:
            return count, False
        _add(y, length, direction)
        _add(residual, -length, image)
    return limit, np.sqrt(dot(residual, residual)) <= goal
