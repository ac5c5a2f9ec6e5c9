"""Conjugate gradients, compiled: with few entries, SciPy's bookkeeping takes longer than the products."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba_math import dot, gather, jit
from otkit.linalg import Schur, Solution


def conjugate_gradients(matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int) -> Solution:
    """As `otkit.linalg.conjugate_gradients`."""
    y = start.copy()
    parts = (
        x for T in (matrix.T, matrix.turned) for x in (T.indptr.astype(np.int64), T.indices.astype(np.uint32), T.data)
    )
    steps, accurate = _conjugate_gradients(matrix.square, *parts, matrix.diagonal, rhs, rtol, limit, y)
    return Solution(y, int(steps), bool(accurate))


@jit
def _multiply(ends, cols, data, v, out):
    for i in range(out.size):
        out[i] = gather(cols, data, ends[i], ends[i + 1], v)


@jit
def _scaled_inner(x, diagonal):
    total = 0.0
    for j in range(x.size):
        total += x[j] * x[j] / diagonal[j]
    return total


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
    square, ends, cols, data, turned_ends, turned_cols, turned_data, diagonal, rhs, rtol, limit, y
):
    """Solve in place from ``y (m,)``; returns the number of iterations, and whether the residual is small enough.

    Where a number leaves the finite ones, y is what it was before.
    """
    middle, image = np.empty(ends.size - 1), np.empty(y.size)
    residual, direction = rhs.copy(), np.zeros(y.size)
    _apply(square, ends, cols, data, turned_ends, turned_cols, turned_data, y, middle, image)
    _add(residual, -1.0, image)
    goal = rtol * np.sqrt(dot(rhs, rhs))
    before = np.inf
    for step in range(limit):
        if np.sqrt(dot(residual, residual)) <= goal:
            return step, True
        now = _scaled_inner(residual, diagonal)
        for j in range(y.size):
            direction[j] = residual[j] / diagonal[j] + (now / before) * direction[j]
        before = now
        _apply(square, ends, cols, data, turned_ends, turned_cols, turned_data, direction, middle, image)
        length = now / dot(direction, image)
        if not abs(length) < np.inf:
            return step, False
        _add(y, length, direction)
        _add(residual, -length, image)
    return limit, np.sqrt(dot(residual, residual)) <= goal
