"""Assignments of few rows to many columns by shortest augmenting paths, compiled (Crouse 2016)."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import copy, jit, least, ordered

INVALID, INFEASIBLE = 1, 2


@ordered
def match(costs, ends, starts, queries, targets, flags, low, high):
    """The matched queries of problems ``low…high``, in increasing order, and their targets.

    ``costs (B, Q, T)`` has the targets of problem k from ``ends[k]`` to ``ends[k + 1]``. Its pairs are written from
    ``starts[k]`` on. ``flags (B,)`` says which problems have a cost that is NaN or −inf, or no finite matching.
    """
    for item in range(low, high):
        first, size, count = ends[item], ends[item + 1] - ends[item], costs.shape[1]
        C = np.empty((min(size, count), max(size, count)))
        good = True
        for q in range(count):
            for t in range(size):
                c = costs[item, q, first + t]
                good &= c > -np.inf
                if size <= count:
                    C[t, q] = c
                else:
                    C[q, t] = c
        owner = np.full(C.shape[1], -1)
        if not good:
            flags[item] = INVALID
        elif not _assign(C, owner):
            flags[item] = INFEASIBLE
        else:
            _write(owner, size <= count, queries[starts[item] :], targets[starts[item] :])


@ordered
def _write(owner, are_queries, queries, targets):
    """The pairs of a matching by queries, where `owner` has the row of each column, and columns may be the queries."""
    at = 0
    for j in range(owner.size):
        if owner[j] >= 0 and are_queries:
            queries[at], targets[at] = j, owner[j]
            at += 1
        elif owner[j] >= 0:
            queries[owner[j]], targets[owner[j]] = owner[j], j


@ordered
def _assign(C, owner):
    """The row of each column, −1 without one; whether there are columns of finite cost for all rows."""
    n, m = C.shape
    u, v, distance, left = np.zeros(n), np.zeros(m), np.empty(m), np.empty(m)
    before, column = np.empty(m, np.int64), np.full(n, -1)
    rows, columns, at = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
    for start in range(n):
        distance[:] = np.inf
        copy(v, left)
        lowest, i, number = 0.0, start, 0
        while True:
            rows[number] = i
            _relax(C[i], lowest - u[i], left, i, distance, before)
            lowest = _lowest(distance)
            if lowest == np.inf:
                return False
            j = _nearest(distance, lowest, owner)
            if owner[j] < 0:
                break
            columns[number], at[number] = j, lowest
            number += 1
            left[j], distance[j] = -np.inf, np.inf  # scanned: no distance to it becomes shorter
            i = owner[j]
        u[start] += lowest
        for t in range(number):
            u[rows[t + 1]] += lowest - at[t]
            v[columns[t]] -= lowest - at[t]
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


@jit
def _lowest(distance):
    lowest = np.inf
    for j in range(distance.size):
        lowest = least(lowest, distance[j])
    return lowest


@ordered
def _nearest(distance, lowest, owner):
    """A nearest column; one that no row has, if there is a choice."""
    place = -1
    for j in range(distance.size):
        if distance[j] == lowest:
            if owner[j] < 0:
                return j
            place = j
    return place
