"""The north-west corner rule on sorted weights, compiled: the plan that keeps the order of both sides.

Its arcs form a staircase of n + m − 1 steps, each to the next row or to the next column. Arrays have one row per item.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import exact, jit


@exact
def _difference(x, y):
    """x − y and its rounding error, as `otkit.linalg.trees.difference`."""
    z = x - y
    back = z - x
    return z, (x - (z - back)) - (y + back)


@jit
def _climb(a, b, rows, cols, masses):
    """The steps of one item; returns the L1 distance between its marginals and the weights in exact arithmetic."""
    n, m = a.size, b.size
    i, j = 0, 0
    have, want, defect = a[0], b[0], 0.0
    for step in range(n + m - 1):
        # At the end of one side only the other one advances, whatever excess rounding has left.
        to_next_row = j == m - 1 or (i < n - 1 and have <= want)
        mass = have if to_next_row else want
        mass = mass if mass > 0.0 else 0.0
        rows[step], cols[step], masses[step] = i, j, mass
        have, lost_a = _difference(have, mass)
        want, lost_b = _difference(want, mass)
        defect += abs(lost_a) + abs(lost_b)
        if to_next_row:
            defect += abs(have)
            i += 1
            have = a[i] if i < n else 0.0
        else:
            defect += abs(want)
            j += 1
            want = b[j]
    return defect + abs(want)


@jit
def climb(a, b, rows, cols, masses, defect):
    """Write the steps for sorted weights ``a (B, n)`` and ``b (B, m)`` to arrays ``(B, n + m − 1)``."""
    for k in range(a.shape[0]):
        defect[k] = _climb(a[k], b[k], rows[k], cols[k], masses[k])


@jit
def potentials(rows, cols, costs, f, g):
    """Write the potentials ``f (B, n)``, ``g (B, m)`` that equal the costs on every step, with ``f = 0`` in row 0."""
    for k in range(rows.shape[0]):
        f[k, 0], g[k, 0] = 0.0, costs[k, 0]
        for step in range(1, rows.shape[1]):
            i, j = rows[k, step], cols[k, step]
            if i > rows[k, step - 1]:
                f[k, i] = costs[k, step] - g[k, j]
            else:
                g[k, j] = costs[k, step] - f[k, i]


def staircase(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and mass of each step, ``(B, n + m − 1)``, and the defects ``(B,)``, for sorted weights."""
    shape = a.shape[0], a.shape[1] + b.shape[1] - 1
    rows, cols = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    masses, defect = np.empty(shape), np.empty(shape[0])
    climb(a, b, rows, cols, masses, defect)
    return rows, cols, masses, defect
