"""The north-west corner rule on sorted weights, compiled: the plan that keeps the order of both sides.

Its arcs form a staircase of n + m − 1 steps, each to the next row or to the next column. Arrays have one row per item.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import add, difference, exact, jit, ordered

# Row, column and mass of each entry; and the weights of points, cell by cell, with where each cell begins.
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
Members = tuple[np.ndarray, np.ndarray]


@exact
def raised(distance, power):
    """The power of a distance."""
    if power == 1.0:
        return distance
    return distance * distance if power == 2.0 else distance**power


@exact
def cost(x, y, power):
    """The cost |x − y|^power."""
    return raised(abs(x - y), power)


@jit
def _last(w, at, n):
    """The place of the last of n weights from `at` on that is not 0."""
    last = at + n - 1
    while last > at and w[last] == 0.0:
        last -= 1
    return last


@jit
def _climb(a, b, rows, cols, masses):
    """The steps of one item; returns the L1 distance between its marginals and the weights in exact arithmetic."""
    n, m = a.size, b.size
    i, j, last_i, last_j = 0, 0, _last(a, 0, n), _last(b, 0, m)
    have, want, defect = a[0], b[0], 0.0
    for step in range(n + m - 1):
        # At the end of the weights of one side only the other one advances, whatever excess rounding has left. Steps
        # to points after both ends carry nothing.
        goes_on = i < last_i or j < last_j
        end_i, end_j = (last_i, last_j) if goes_on else (n - 1, m - 1)
        to_next_row = j == end_j or (i < end_i and have <= want)
        mass = have if to_next_row or not goes_on else want
        mass = mass if mass > 0.0 else 0.0
        rows[step], cols[step], masses[step] = i, j, mass
        have, lost_a = difference(have, mass)
        want, lost_b = difference(want, mass)
        defect += abs(lost_a) + abs(lost_b)
        if to_next_row:
            defect += abs(have)
            i += 1
            have = a[i] if i < n else 0.0
        else:
            defect += abs(want)
            j += 1
            want = b[j]
    return defect + abs(have) + abs(want)


@jit
def climb(a, b, rows, cols, masses, defect):
    """Write the steps for sorted weights ``a (B, n)`` and ``b (B, m)`` to arrays ``(B, n + m − 1)``."""
    for k in range(a.shape[0]):
        defect[k] = _climb(a[k], b[k], rows[k], cols[k], masses[k])


@ordered
def walk(x, w, at, n, to, m, whole_a, whole_b, power):
    """The cost of the steps between two sides, and the defect as in `_climb`.

    The sides are n and m sorted points ``x (N,)`` from the places `at` and `to` on, with weights over their totals.
    """
    i, j, last_i, last_j = at, to, _last(w, at, n), _last(w, to, m)
    have, want, defect, sent, lost = w[i] / whole_a, w[j] / whole_b, 0.0, 0.0, 0.0
    while True:
        # As in `_climb`. The mass is subtracted exactly from the side that it equals.
        if j == last_j or (i < last_i and have <= want):
            mass = have if have > 0.0 else 0.0
            sent, lost = add(sent, lost, mass * cost(x[i], x[j], power))
            want, left = difference(want, mass)
            defect += abs(have - mass) + abs(left)
            if i == last_i:
                return sent + lost, defect + abs(want)
            i += 1
            have = w[i] / whole_a
        else:
            mass = want if want > 0.0 else 0.0
            sent, lost = add(sent, lost, mass * cost(x[i], x[j], power))
            have, left = difference(have, mass)
            defect += abs(want - mass) + abs(left)
            j += 1
            want = w[j] / whole_b


@ordered
def paid(x, w, n, power, linear, defect):
    """Costs of the staircases of sorted points ``x (B, n + m)`` of both sides, and their defects, without arcs."""
    for k in range(x.shape[0]):
        linear[k], defect[k] = walk(x[k], w[k], 0, n, n, x.shape[1] - n, 1.0, 1.0, power)


@jit
def potentials(rows, cols, costs, f, g):
    """Write the potentials ``f (B, n)``, ``g (B, m)`` that equal the costs on every step, with 0 in the first row."""
    for k in range(rows.shape[0]):
        f[k, rows[k, 0]], g[k, cols[k, 0]] = 0.0, costs[k, 0]
        for step in range(1, rows.shape[1]):
            i, j = rows[k, step], cols[k, step]
            if i != rows[k, step - 1]:
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


@ordered
def _divide(rows, cols, masses, a, x_ends, b, y_ends, at_rows, at_cols, parts):
    """Write the entries of `divided`; returns their number."""
    i, j = x_ends[:-1].copy(), y_ends[:-1].copy()
    have, want = a[i], b[j]
    count = 0
    for arc in range(masses.size):
        X, Y, mass = rows[arc], cols[arc], masses[arc]
        while True:
            # The last point of a cell takes whatever excess rounding has left.
            last_x, last_y = i[X] + 1 == x_ends[X + 1], j[Y] + 1 == y_ends[Y + 1]
            part = mass
            if not last_x and have[X] < part:
                part = have[X]
            if not last_y and want[Y] < part:
                part = want[Y]
            at_rows[count], at_cols[count], parts[count] = i[X], j[Y], part
            count += 1
            have[X] -= part
            want[Y] -= part
            if part == mass:
                break
            mass -= part
            if not last_x and have[X] <= 0.0:
                i[X] += 1
                have[X] = a[i[X]]
            if not last_y and want[Y] <= 0.0:
                j[Y] += 1
                want[Y] = b[j[Y]]
    return count


def divided(arcs: Entries, rows: Members, cols: Members) -> Entries:
    """A plan between cells, handed to their points in order.

    An entry ends an arc, or a point that is not the last of its cell: arcs without cycles leave at most n + m − 1.
    """
    most = arcs[2].size + rows[0].size + cols[0].size
    i, j, mass = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64), np.empty(most)
    count = _divide(*arcs, *rows, *cols, i, j, mass)
    return i[:count], j[:count], mass[:count]
