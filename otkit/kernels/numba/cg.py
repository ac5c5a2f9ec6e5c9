"""Sparse matrices of Newton steps, and conjugate gradients for them, compiled.

With few entries, SciPy's overhead costs more than the products.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit.kernels.numba.coarse import NONE, Coarse, Rows, coarse_correction, correct
from otkit.kernels.numba.jit import dot, gather, jit
from otkit.linalg.cg import Memory, Schur, Solution
from otkit.linalg.sparse import Scaling, Sparse

# Iterations without a coarse correction.
_PLAIN = 40


def sparsified(rows: Sparse, by: Scaling) -> tuple[Sparse, float]:
    """As `otkit.linalg.sparse.sparsified`."""
    from scipy.sparse import csr_array

    n, m = rows.T.shape
    ends, cols, data, mass = _sparsify(*_rows(rows.T), *by)
    transposed = _turn(ends, cols, data, m)
    T, other = (
        csr_array((data, cols.view(np.int32), ends.astype(np.int32)), shape=shape)
        for (ends, cols, data), shape in (((ends, cols, data), (n, m)), (transposed, (m, n)))
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
    """The rows of the transposed matrix."""
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
    """As `otkit.linalg.cg.conjugate_gradients`, with a coarse correction if many iterations are needed.

    The setup of the correction costs as much as `_PLAIN` iterations, so these are done without it first. `memory` keeps
    the correction for the following matrices.
    """
    memory, y, steps, accurate = memory or Memory(), start.copy(), 0, False
    T, transposed = _rows(matrix.T), _rows(matrix.transposed)

    def iterate(limit: int, coarse: Coarse) -> tuple[int, bool]:
        found = _conjugate_gradients(matrix.square, T, transposed, matrix.diagonal, coarse, rhs, rtol, limit, y)
        return steps + int(found[0]), bool(found[1])

    if memory.coarse is None:
        steps, accurate = iterate(min(_PLAIN, limit), NONE)
        if accurate or steps < _PLAIN:
            return Solution(y, steps, accurate)
        memory.coarse = coarse_correction(matrix.smooth, matrix.square, T, transposed)
    steps, accurate = iterate(limit - steps, memory.coarse)
    return Solution(y, steps, accurate)


def _rows(T: Any) -> Rows:
    """The rows of a SciPy matrix, with unsigned indices: Numba would check signed ones for negative values."""
    return Rows(T.indptr.astype(np.uint64), T.indices.astype(np.uint32), T.data)


@jit
def _multiply(T, v, out):
    for i in range(out.size):
        out[i] = gather(T.cols, T.data, T.ends[i], T.ends[i + 1], v)


@jit
def _add(x, factor, y):
    for j in range(x.size):
        x[j] += factor * y[j]


@jit
def _apply(square, T, transposed, v, middle, out):
    _multiply(T, v, middle)
    _multiply(transposed, middle, out)
    for j in range(out.size):
        out[j] = square * v[j] - out[j]


@jit
def _conjugate_gradients(square, T, transposed, diagonal, coarse, rhs, rtol, limit, y):
    """Solve in place from ``y (m,)``; returns the number of iterations, and whether the residual is small enough.

    If a step is not finite, the iteration ends and y is not updated.
    """
    middle, image = np.empty(T.ends.size - 1), np.empty(y.size)
    small, solved = np.empty(coarse.inverse.shape[1]), np.empty(coarse.inverse.shape[0])
    residual, direction, step = rhs.copy(), np.zeros(y.size), np.empty(y.size)
    _apply(square, T, transposed, y, middle, image)
    _add(residual, -1.0, image)
    goal = rtol * np.sqrt(dot(rhs, rhs))
    before = np.inf
    for count in range(limit):
        if np.sqrt(dot(residual, residual)) <= goal:
            return count, True
        for j in range(y.size):
            step[j] = residual[j] / diagonal[j]
        if small.size > 0:
            correct(coarse.label, coarse.weight, coarse.inverse, small, solved, residual, step)
        now = dot(residual, step)
        for j in range(y.size):
            direction[j] = step[j] + (now / before) * direction[j]
        before = now
        _apply(square, T, transposed, direction, middle, image)
        length = now / dot(direction, image)
        if not abs(length) < np.inf:
            return count, False
        _add(y, length, direction)
        _add(residual, -length, image)
    return limit, np.sqrt(dot(residual, residual)) <= goal
