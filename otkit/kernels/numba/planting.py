"""The first basis of a small problem, and the rules of artificial arcs, compiled."""

from __future__ import annotations

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.jit import clear, jit, least, ordered, wide
from otkit.kernels.numba.pricing import _place, lowest
from otkit.kernels.numba.simplex import _thread

# What `judge` finds.
GOES_ON, OPTIMAL, INFEASIBLE = range(3)
# As in `otkit.solvers.exact.basis`.
_GRAIN = 2.0**-62
_MODERATE, _STEEPER, _SURE, _HOPELESS = 2.0, 8.0, 50.0, 64.0
# Masses are sent greedily along arcs of least cost less _PREFERRED of the mean cost of the point that asks least. In
# such means costs count up to _CAP times the mean of the least of each _PART in a row: no good plan pays more. Measured
# on 29 families of 20 to 300 points: 0.61 to 0.75 of the pivots of lines in the order given and arcs of least cost, and
# twice as many in one of 29 at 300 points; shares of 1/8 and 1/4, and caps of 4 and 16, take up to 1.1 times as many.
_PREFERRED, _CAP, _PART = 0.5, 8.0, 16


@ordered
def _supplies(n, weight, flow):
    """Weights as whole numbers of grains, of equal sums for the n rows and the columns."""
    share, largest = np.int64(0), n
    for v in range(weight.size):
        flow[v] = np.int64(np.rint(weight[v] / _GRAIN))
        share += flow[v] if v < n else -flow[v]
        if v >= n and weight[v] > weight[largest]:
            largest = v
    flow[largest] += share


@jit
def _cap(R, n, m, zero):
    """The largest cost that counts in `_means`."""
    total, count = 0.0, 0
    for i in range(n):
        for first in range(0, m - _PART + 1, _PART):
            low = lowest(R[i, first : first + _PART], zero)
            if low < np.inf:
                total += low
                count += 1
    return _CAP * total / count if total > 0.0 else np.inf


@jit
def _means(R, n, m, of_rows, of_cols):
    """Write the mean of the finite costs of each row and column."""
    wide()
    clear(of_cols)
    cap = _cap(R, n, m, np.zeros(_PART))
    for i in range(n):
        total = 0.0
        for j in range(m):
            cost = least(R[i, j], cap) if R[i, j] < np.inf else 0.0
            total += cost
            of_cols[j] += cost
        of_rows[i] = total / m
    for j in range(m):
        of_cols[j] /= n


@ordered
def _send(u, to, costs, left, shut, parent, flow, cost):
    """Send what a node has along its cheapest arcs to those from `to` on that still want some."""
    while left[u] > 0:
        value = lowest(costs, shut)
        if value == np.inf:
            return
        k = _place(costs, shut, value)
        v = to + k
        moved = min(left[u], left[v])
        left[u] -= moved
        left[v] -= moved
        below, above = (u, v) if left[u] == 0 else (v, u)
        parent[below], flow[below], cost[below] = above, moved, costs[k]
        if left[v] == 0:
            shut[k] = -np.inf


@ordered
def plant(R, n, m, weight, parent, thread, reverse, size, last, up, flow, cost, natural):
    """The basis of masses sent greedily between the first n rows and m columns of R.

    Each row in turn sends what it has along its cheapest arcs to columns that still want some: first the rows of high
    costs, which would find little left nearby, and rather to columns of high costs. If there are more columns than
    rows, each column in turn asks rows. Arcs so found are a forest. All of them carry mass.
    """
    root, swapped = n + m, m > n
    lines, others, at, to = (m, n, n, 0) if swapped else (n, m, 0, n)
    left, nothing, waiting = np.empty(root + 1, dtype=np.int64), np.zeros(lines), np.empty(lines)
    costs, shut = np.empty(others), np.empty(others)
    _supplies(n, weight, left)
    of_rows, of_cols = (shut, waiting) if swapped else (waiting, shut)
    _means(R, n, m, of_rows, of_cols)
    for v in range(root + 1):
        parent[v], flow[v], cost[v], natural[v] = root if v < root else -1, 0, 0.0, 0.0
    for v in range(others):
        shut[v] = _PREFERRED * shut[v] if left[to + v] > 0 else -np.inf
    for _ in range(lines):
        line = _place(nothing, waiting, lowest(nothing, waiting))
        waiting[line] = -np.inf
        for k in range(others):
            costs[k] = R[k, line] if swapped else R[line, k]
        _send(at + line, to, costs, left, shut, parent, flow, cost)
    for v in range(root + 1):
        if parent[v] == root:
            flow[v] = left[v]
        up[v] = v < n or v == root or (parent[v] == root and left[v] == 0)
    _thread(parent, thread, reverse, size, last)


@ordered
def charge(natural, surcharge, scale, parent, up, flow, cost):
    """Set the costs of artificial arcs: the price of their node, and the surcharge on those that carry mass.

    A surcharge above the range of the costs is on every one.

    Returns the surcharge.
    """
    root = natural.size - 1
    for v in range(root):
        if parent[v] == root:
            price = -natural[v] if up[v] else natural[v]
            cost[v] = price + (surcharge if surcharge > scale or flow[v] > 0 else 0.0)
    return surcharge


@ordered
def judge(natural, scale, points, surcharge, parent, up, flow, cost, pi):
    """What follows from optimality among all arcs, as in `otkit.solvers.exact.basis.judged`; and the surcharge."""
    root, missing, largest, mean = natural.size - 1, np.int64(0), 0.0, 0.0
    for v in range(root):
        missing += flow[v] if parent[v] == root else 0
        largest = max(largest, abs(pi[v]))
        mean += pi[v] / root
    if missing == 0:
        if surcharge == 0.0 or largest <= 2 * (_MODERATE + 1) * scale:
            return OPTIMAL, surcharge
        for v in range(root):
            natural[v] = pi[v] - mean
        return GOES_ON, charge(natural, 0.0 * scale, scale, parent, up, flow, cost)
    if surcharge > _SURE * scale and missing * _GRAIN <= 16 * points * UNIT:
        return OPTIMAL, surcharge
    steeper = surcharge * _STEEPER
    if surcharge > _HOPELESS * points * scale or not steeper < np.inf:
        return INFEASIBLE, surcharge
    return GOES_ON, charge(natural, steeper, scale, parent, up, flow, cost)
