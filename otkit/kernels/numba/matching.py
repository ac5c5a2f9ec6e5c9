"""Assignments of few rows to many columns by shortest augmenting paths, compiled (Crouse 2016)."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import ordered


@ordered
def match(costs, starts, shapes, found, low, high):
    """The column of each row in ``found``, of the problems `low` to `high`; −1 in the first row if there is none.

    ``costs`` has the matrices of all problems, one after the other, each with at most as many rows as columns.
    ``starts (B, 2)`` are the places of the first cost and of the first row of each, ``shapes (B, 2)`` their sizes.
    """
    for item in range(low, high):
        n, m = shapes[item]
        first, row = starts[item]
        C = costs[first : first + n * m].reshape(n, m)
        if not _assign(C, found[row : row + n]):
            found[row] = -1


@ordered
def _assign(C, column):
    """The column of each row; whether there are columns of finite cost."""
    n, m = C.shape
    u, v, distance, left = np.zeros(n), np.zeros(m), np.empty(m), np.empty(m)
    owner, before = np.full(m, -1), np.empty(m, np.int64)
    rows, columns = np.empty(n, np.int64), np.empty(n, np.int64)
    for start in range(n):
        distance[:] = np.inf
        left[:] = v
        lowest, i, number = 0.0, start, 0
        while True:
            rows[number] = i
            _relax(C[i], lowest - u[i], left, i, distance, before)
            j = _nearest(distance, left, owner)
            lowest = distance[j]
            if lowest == np.inf:
                return False
            if owner[j] < 0:
                break
            columns[number] = j
            number += 1
            left[j] = -np.inf  # scanned: no distance to it becomes shorter
            i = owner[j]
        u[start] += lowest
        for t in range(number):
            u[rows[t + 1]] += lowest - distance[columns[t]]
            v[columns[t]] -= lowest - distance[columns[t]]
        i = -1
        while i != start:
            i = before[j]
            owner[j] = i
            column[i], j = j, column[i]
    return True


@ordered
def _relax(row, base, v, i, distance, before):
    """Shorten the distances to columns by a row."""
    for j in range(row.size):
        new = base + row[j] - v[j]
        shorter = new < distance[j]
        distance[j] = new if shorter else distance[j]
        before[j] = i if shorter else before[j]


@ordered
def _nearest(distance, left, owner):
    """The nearest column that was not scanned; one that no row has, if there is a choice."""
    place, lowest = 0, np.inf
    for j in range(distance.size):
        if distance[j] <= lowest and left[j] != -np.inf and (distance[j] < lowest or owner[place] >= 0):
            place, lowest = j, distance[j]
    return place
