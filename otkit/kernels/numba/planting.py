"""The first basis of a small problem, and the rules of artificial arcs, compiled."""

from __future__ import annotations

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.jit import ordered
from otkit.kernels.numba.pricing import _place, lowest
from otkit.kernels.numba.simplex import _thread

# What `judge` finds.
GOES_ON, OPTIMAL, INFEASIBLE = range(3)
# As in `otkit.solvers.exact.basis`.
_GRAIN = 2.0**-62
_MODERATE, _STEEPER, _SURE, _HOPELESS = 2.0, 8.0, 50.0, 64.0


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


@ordered
def plant(R, n, m, weight, parent, thread, reverse, size, last, up, flow, cost, natural):
    """The basis of masses sent greedily between the first n rows and m columns of R.

    Each row in turn sends what it has along its cheapest arcs to columns that still want some. If there are more
    columns than rows, each column in turn asks rows. Arcs so found are a forest. All of them carry mass.
    """
    root, swapped = n + m, m > n
    lines, others, at, to = (m, n, n, 0) if swapped else (n, m, 0, n)
    left, costs, shut = np.empty(root + 1, dtype=np.int64), np.empty(others), np.empty(others)
    _supplies(n, weight, left)
    for v in range(root + 1):
        parent[v], flow[v], cost[v], natural[v] = root if v < root else -1, 0, 0.0, 0.0
    for v in range(others):
        shut[v] = 0.0 if left[to + v] > 0 else -np.inf
    for line in range(lines):
        u = at + line
        for k in range(others):
            costs[k] = R[k, line] if swapped else R[line, k]
        while left[u] > 0:
            value = lowest(costs, shut)
            if value == np.inf:
                break
            k = _place(costs, shut, value)
            v = to + k
            moved = min(left[u], left[v])
            left[u] -= moved
            left[v] -= moved
            below, above = (u, v) if left[u] == 0 else (v, u)
            parent[below], flow[below], cost[below] = above, moved, value
            if left[v] == 0:
                shut[k] = -np.inf
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
