"""Small exact problems, compiled: from weights and costs to a vertex, its potentials and its bounds, item by item.

`solve` runs a range of items without the interpreter: masses are sent greedily along cheap arcs, and the basis is
pivoted to optimality by `simplex.pivot`. Items are independent, so results do not depend on threads.
"""

from __future__ import annotations

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.items import (
    ARCS,
    ERROR,
    FLAG,
    FORBIDDEN,
    LOW,
    LOWER,
    PIVOTS,
    ROUNDING,
    SPAN,
    UNSOLVED,
    UPPER,
    VALUE,
    WIDE,
    begin,
    write,
)  # fmt: skip
from otkit.kernels.numba.jit import inlined, ordered
from otkit.kernels.numba.planting import GOES_ON, OPTIMAL, charge, judge, plant
from otkit.kernels.numba.pricing import _place, lowest
from otkit.kernels.numba.proof import ABSOLUTE, OF_SPAN, OF_VALUE, masses, potentials, prove
from otkit.kernels.numba.simplex import pivot, price

# The best arc of so many rows that have one enters (measured: 1 and 8 take up to a quarter more at 20 to 200 points).
_TOGETHER = 4
# As in `otkit.solvers.exact.basis`: tolerance on reduced costs, and the rules of artificial arcs.
_ROUNDING = 32 * UNIT
# Some costs are far larger than others if the largest reduced cost is more than so many times their size, as
# `otkit.certificates.width.ordinary` has it.
_ORDINARY, _ZERO, _EXACT, _PAID = 2.0**20, 2.0**-40, 1e-9, 2.0**-10


@ordered
def _enter(R, n, m, pi, row, tolerance):
    """The best arc of the next rows that have one of negative reduced cost.

    Returns its row, −1 if there is none, its column, and the row to go on from.
    """
    g, best, found, least_of_row = pi[n : n + m], -tolerance, np.int64(-1), 0.0
    for seen in range(n):
        value = lowest(R[row], g)
        if value + pi[row] < best:
            best, found, least_of_row = value + pi[row], row, value
        row = row + 1 if row + 1 < n else 0
        if seen + 1 >= _TOGETHER and found >= 0:
            break
    return found, _place(R[found], g, least_of_row) if found >= 0 else 0, row


@ordered
def _improve(R, n, m, scale, limit, parent, thread, reverse, size, last, up, flow, cost, pi):
    """Pivot until no arc of the first n rows and m columns has a negative reduced cost.

    Returns the number of pivots, and whether this is so.
    """
    loose, row, pivots, fresh = np.empty(pi.size, dtype=np.uint64), np.int64(0), 0, True
    tolerance = _ROUNDING * max(scale, price(parent, thread, up, cost, pi))
    while pivots < limit:
        i, j, row = _enter(R, n, m, pi, row, tolerance)
        drifted = i >= 0 and (parent[i] == n + j or parent[n + j] == i)  # an arc of the tree
        if i < 0 and fresh:
            return pivots, True
        if i < 0 or drifted:
            tolerance, fresh = _ROUNDING * max(scale, price(parent, thread, up, cost, pi)), True
            pivots += drifted
            continue
        fresh = False
        pivots += 1
        pivot(i, n + j, R[i, j], parent, thread, reverse, size, last, up, flow, cost, pi, pi, loose)
    return pivots, False


@ordered
def _narrow(R, n, m, row, col, span, lower, upper, metric):
    """Whether an interval is narrow, as `otkit.certificates.width.precise`."""
    width = upper - lower
    if width <= metric[OF_VALUE] * abs(upper):
        return True
    if not width <= metric[OF_SPAN] * span:
        return False
    total, count, least = 0.0, 0, max(metric[ABSOLUTE] / _EXACT, _PAID * lower)
    for i in range(n):
        for j in range(m):
            error = _ZERO * (abs(row[i]) + abs(col[j]))
            own = abs(row[i] + col[j])
            size = R[i, j] if R[i, j] > error else own if own > least else 0.0
            if error < size < np.inf:
                total += 1.0 / np.sqrt(size)
                count += 1
    return span * (total / count) ** 2 <= _ORDINARY if count else False


@ordered
def optimum(R, n, m, weight, span, limit):
    """An optimal basis of the first n rows and m columns, from masses that are sent greedily.

    Returns the number of pivots, −1 if none was found, and the parent, the node before, the flow, the cost of the arc,
    and the price of each node, as in `otkit.kernels.numba.simplex`.
    """
    nodes = n + m
    links = np.empty((5, nodes + 1), dtype=np.int32)
    parent, thread, reverse, size, last = links[0], links[1], links[2], links[3], links[4]
    up, flow = np.empty(nodes + 1, dtype=np.bool_), np.empty(nodes + 1, dtype=np.int64)
    numbers = np.empty((3, nodes + 1))
    cost, pi, natural = numbers[0], numbers[1], numbers[2]
    plant(R, n, m, weight, parent, thread, reverse, size, last, up, flow, cost, natural)
    scale = span if span > 0.0 else 1.0
    surcharge, state, pivots = charge(natural, scale, scale, parent, up, flow, cost), GOES_ON, 0
    while state == GOES_ON:
        left = limit - pivots
        done, optimal = _improve(R, n, m, scale, left, parent, thread, reverse, size, last, up, flow, cost, pi)
        pivots += done
        if not optimal:
            return -1, parent, reverse, flow, cost, pi
        state, surcharge = judge(natural, scale, R.shape[0] + R.shape[1], surcharge, parent, up, flow, cost, pi)
    return pivots if state == OPTIMAL else -1, parent, reverse, flow, cost, pi


@inlined
def _item(item, v, metric, limit, num, info, ends, mass):
    """Solve an item; returns a flag."""
    R, row, col, nr, nc, rows, cols, weight = item
    n, m = R.shape
    info[PIVOTS], parent, reverse, _, cost, pi = optimum(R, nr, nc, weight, num[SPAN], limit)
    if info[PIVOTS] < 0:
        return UNSOLVED
    info[ARCS], linear, defect, num[ERROR] = masses(nr, weight, rows, cols, parent, reverse, cost, ends, mass)
    f, g = np.empty(n), np.empty(m)
    potentials(R, nr, nc, weight, pi, f, g)
    num[VALUE], num[LOWER], num[UPPER], num[ROUNDING] = prove(
        nr, nc, weight, row, col, f, g, linear, defect, num[SPAN], num[LOW], info[FORBIDDEN], metric
    )
    write(item, f, g, v)
    return 0 if _narrow(R, nr, nc, row, col, num[SPAN], num[LOWER], num[UPPER], metric) else WIDE


@ordered
def solve(
    C, x, y, metric, w_a, w_b, at_a, at_b, first, second, unit, limit, low, high, room, num, info, vectors, ends, mass
):
    """Solve the items ``low … high``; only arrays of items are written, those of one item again by each.

    Parameters
    ----------
    C : array (items or 1, n, m)
        The costs; empty if they are formed from points.
    x, y : array (N, d), (M, d)
        The points of all measures, those of a measure together; unused with a matrix.
    metric : array (9,)
        The cost, as described by the names from `GROUND` on.
    w_a, w_b : array (N,), (M,)
        Weights of the points; empty where all points of a measure weigh the same.
    at_a, at_b : array of int (P, 2)
        Measure p has the points ``at[p, 0] … at[p, 1]``.
    first, second : array of int (items,)
        The measures of an item.
    unit : float
        The unit roundoff of the weights as given.
    limit : int
        Maximum number of pivots of an item.
    room : array (K,)
        Memory for the reduced costs of an item, at least n·m numbers. NumPy allocates it in huge pages where it is
        large, and Numba does not.
    num, info : array (items, 10), array of int (items, 4)
        Numbers and counts, by the names from `VALUE` and from `FLAG` on. The flag is 0 where the item is solved.
    vectors : array (items or 1, 6, w)
        Weights, offsets and potentials, by the names from `A` on.
    ends, mass : array of int32 (items or 1, K, 2), array (items or 1, K)
        Rows and columns of the arcs of the vertex, and their masses.
    """
    costs, measures = (C, x, y, metric), (w_a, w_b, at_a, at_b, first, second)
    for k in range(low, high):
        own = k % vectors.shape[0]
        item = begin(costs, measures, unit, k, room, num[k], info[k], vectors[own])
        if info[k, FLAG] == 0:
            info[k, FLAG] = _item(item, vectors[own], metric, limit, num[k], info[k], ends[own], mass[own])
