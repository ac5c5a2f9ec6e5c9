"""Small exact problems, compiled: from weights and costs to a vertex, its potentials and its bounds, item by item.

An item is a pair of measures. Its costs are a matrix, or are formed from points where they are needed. `solve` runs a
range of items without the interpreter: weights are checked and normalised, costs checked and reduced, masses sent
greedily along cheap arcs, and the basis pivoted to optimality by `simplex.pivot`. Items are independent, so results do
not depend on threads.

An item that is not solved in the ordinary way gets a flag instead of an answer: invalid data, masses that differ, an
infeasible problem, an interval that is wide. The caller sends it the general way, which says what is wrong.
"""

from __future__ import annotations

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.entries import _distances
from otkit.kernels.numba.jit import jit, least, most, ordered
from otkit.kernels.numba.planting import GOES_ON, OPTIMAL, charge, judge, plant
from otkit.kernels.numba.pricing import _place, lowest
from otkit.kernels.numba.proof import EXPONENT, FACTOR, GROUND, NON_NEGATIVE, SPREAD, masses, potentials, prove, total
from otkit.kernels.numba.simplex import pivot, price

# Reasons why an item has no answer.
WEIGHTS, UNEQUAL, COSTS, STRANDED, RANGE, UNSOLVED, WIDE = range(1, 8)
# Columns of the numbers of an item; all are at mass 1 and in the caller's costs, except the largest reduced cost.
VALUE, LOWER, UPPER, ROUNDING, ERROR, MASS, RESCALED, SPAN, LOW, HIGH = range(10)
# Columns of its counts.
FLAG, PIVOTS, ARCS, FORBIDDEN = range(4)
# Rows of its vectors.
A, B, ROW, COL, F, G = range(6)

# The best arc of so many rows that have one enters (measured: 1 and 8 take up to a quarter more at 20 to 200 points).
_TOGETHER = 4
# As in `otkit.solvers.exact.basis`: tolerance on reduced costs, and the rules of artificial arcs.
_ROUNDING = 32 * UNIT
# An interval is narrow if it is at most this fraction of its upper end, or of the largest reduced cost where this is at
# most so many times the power mean, of exponent −1/2, of the reduced costs above a fraction of the offsets.
_WIDE, _ORDINARY, _ZERO = 1e-9, 2.0**20, 2.0**-40


@ordered
def _weights(w, at, size, out, order):
    """Write the weights over their total, and the indices of the points, those with mass first.

    Returns the total, and the number of points with mass, 0 where these are no weights. Without weights, all are equal.
    """
    whole, good = 1.0, True
    if w.size:
        whole = total(w, at, size)
        for k in range(size):
            good &= w[at + k] >= 0.0
        good &= 0.0 < whole < np.inf
    if not good:
        return whole, 0
    count, empty = 0, size
    for k in range(size):
        out[k] = w[at + k] / whole if w.size else 1.0 / size
        if out[k] > 0.0:
            order[count] = k
            count += 1
    for k in range(size - 1, -1, -1):
        if not out[k] > 0.0:
            empty -= 1
            order[empty] = k
    return whole, count


@ordered
def _gather(C, rows, cols, R):
    for i in range(rows.size):
        k = rows[i]
        for j in range(cols.size):
            R[i, j] = C[k, cols[j]]


@ordered
def _spread(x, at, size, low, high):
    for k in range(at, at + size):
        for d in range(x.shape[1]):
            low, high = min(low, x[k, d]), max(high, x[k, d])
    return low, high


@ordered
def _form(x, at_x, y, at_y, metric, rows, cols, R):
    """Costs between points; returns whether distinct points are far enough from each other."""
    turned = np.empty((x.shape[1], cols.size))
    for j in range(cols.size):
        for d in range(x.shape[1]):
            turned[d, j] = y[at_y + cols[j], d]
    for i in range(rows.size):
        _distances(x[at_x + rows[i]], turned, int(metric[GROUND]), R[i])
    factor, exponent = metric[FACTOR], metric[EXPONENT]
    if factor != 1.0 or exponent != 1.0:
        for i in range(rows.size):
            for j in range(cols.size):
                s = factor * R[i, j]
                R[i, j] = np.sqrt(s) if exponent == 0.5 else s * s if exponent == 2.0 else s**exponent
    low, high = _spread(x, at_x, rows.size, np.inf, -np.inf)
    low, high = _spread(y, at_y, cols.size, low, high)
    return high == low or high - low >= metric[SPREAD]


@jit
def _highest(costs, count):
    """The largest finite one of the first costs, and the number of infinite ones."""
    top, infinite = -np.inf, 0
    for j in range(count):
        top = most(top, costs[j] if costs[j] < np.inf else -np.inf)
        infinite += not costs[j] < np.inf
    return top, infinite


@jit
def _bad(costs):
    """The number of costs that are NaN or −inf."""
    bad = 0
    for j in range(costs.size):
        bad += not costs[j] > -np.inf
    return bad


@ordered
def _reduce_rows(R, nr, nc, row, num, info):
    """Reduce the costs in place by the least one of each row, among columns with mass; returns a flag."""
    zero, infinite = np.empty(nc), 0
    for j in range(nc):
        zero[j] = 0.0
    num[LOW], num[HIGH] = np.inf, -np.inf
    for i in range(row.size):
        if _bad(R[i]):
            return COSTS
        value = lowest(R[i], zero)
        row[i] = value if value < np.inf else 0.0
        if i < nr:
            top, count = _highest(R[i], nc)
            num[LOW], num[HIGH], infinite = min(num[LOW], value), max(num[HIGH], top), infinite + count
            if value == np.inf:
                return STRANDED
        for j in range(R.shape[1]):
            R[i, j] -= row[i]
    info[FORBIDDEN] = infinite > 0
    return 0 if num[HIGH] - num[LOW] < np.inf else RANGE


@ordered
def _reduce_columns(R, nr, nc, col, num):
    """Reduce the costs in place by the least one of each column, among rows with mass; returns a flag."""
    for j in range(col.size):
        col[j] = np.inf
    for i in range(nr):
        for j in range(col.size):
            col[j] = least(col[j], R[i, j])
    for j in range(col.size):
        if not col[j] < np.inf:
            if j < nc:
                return STRANDED
            col[j] = 0.0
    num[SPAN] = 0.0
    for i in range(R.shape[0]):
        for j in range(col.size):
            R[i, j] -= col[j]
        if i < nr:
            num[SPAN] = max(num[SPAN], _highest(R[i], nc)[0])
    return 0


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
def _narrow(R, n, m, row, col, span, width, upper):
    """Whether an interval is narrow. Of others, the general way decides what follows."""
    if width <= _WIDE * abs(upper):
        return True
    if not width <= _WIDE * span:
        return False
    total, count = 0.0, 0
    for i in range(n):
        for j in range(m):
            if _ZERO * (abs(row[i]) + abs(col[j])) < R[i, j] < np.inf:
                total += 1.0 / np.sqrt(R[i, j])
                count += 1
    return span * (total / count) ** 2 <= _ORDINARY if count else False


@ordered
def _item(R, nr, nc, weight, rows, cols, vectors, metric, limit, num, info, ends, mass):
    """Solve an item of costs ``R (n, m)``; the first `nr` rows and `nc` columns have these weights. Returns a flag."""
    (n, m), nodes = R.shape, nr + nc
    row, col = np.empty(n), np.empty(m)
    flag = _reduce_rows(R, nr, nc, row, num, info) or _reduce_columns(R, nr, nc, col, num)
    if not flag and metric[NON_NEGATIVE] and info[FORBIDDEN]:  # no distance forbids its arc: powers have overflown
        flag = RANGE
    if flag:
        return flag
    links = np.empty((5, nodes + 1), dtype=np.int32)
    parent, thread, reverse, size, last = links[0], links[1], links[2], links[3], links[4]
    up, flow = np.empty(nodes + 1, dtype=np.bool_), np.empty(nodes + 1, dtype=np.int64)
    numbers = np.empty((3, nodes + 1))
    cost, pi, natural = numbers[0], numbers[1], numbers[2]
    plant(R, nr, nc, weight, parent, thread, reverse, size, last, up, flow, cost, natural)
    scale = num[SPAN] if num[SPAN] > 0.0 else 1.0
    surcharge, state, pivots = charge(natural, scale, scale, parent, up, flow, cost), GOES_ON, 0
    while state == GOES_ON:
        left = limit - pivots
        done, optimal = _improve(R, nr, nc, scale, left, parent, thread, reverse, size, last, up, flow, cost, pi)
        pivots += done
        if not optimal:
            return UNSOLVED
        state, surcharge = judge(natural, scale, n + m, surcharge, parent, up, flow, cost, pi)
    if state != OPTIMAL:
        return UNSOLVED
    info[PIVOTS] = pivots
    info[ARCS], linear, defect, num[ERROR] = masses(nr, weight, rows, cols, parent, reverse, cost, ends, mass)
    f, g = np.empty(n), np.empty(m)
    potentials(R, nr, nc, weight, pi, f, g)
    num[VALUE], num[LOWER], num[UPPER], num[ROUNDING] = prove(
        nr, nc, weight, row, col, f, g, linear, defect, num[SPAN], num[LOW], info[FORBIDDEN], metric
    )
    for i in range(n):
        vectors[ROW, rows[i]], vectors[F, rows[i]] = row[i], f[i]
    for j in range(m):
        vectors[COL, cols[j]], vectors[G, cols[j]] = col[j], g[j]
    return 0 if _narrow(R, nr, nc, row, col, num[SPAN], num[UPPER] - num[LOWER], num[UPPER]) else WIDE


@ordered
def solve(
    C, x, y, metric, w_a, w_b, at_a, at_b, first, second, unit, limit, begin, end, num, info, vectors, ends, mass
):
    """Solve the items ``begin … end``; only arrays of items are written, those of one item again by each.

    Parameters
    ----------
    C : array (items or 1, n, m)
        The costs; empty if they are formed from points.
    x, y : array (N, d), (M, d)
        The points of all measures, those of a measure together; unused with a matrix.
    metric : array (7,)
        The cost, as described by the names from `GROUND` on.
    w_a, w_b : array (N,), (M,)
        Weights of the points; empty where all points of a measure weigh the same.
    at_a, at_b : array of int
        Measure p has the points ``at[p] … at[p + 1]``.
    first, second : array of int (items,)
        The measures of an item.
    unit : float
        The unit roundoff of the weights as given.
    limit : int
        Maximum number of pivots of an item.
    num, info : array (items, 10), array of int (items, 4)
        Numbers and counts, by the names from `VALUE` and from `FLAG` on. The flag is 0 where the item is solved.
    vectors : array (items or 1, 6, w)
        Weights, offsets and potentials, by the names from `A` on.
    ends, mass : array of int32 (items or 1, K, 2), array (items or 1, K)
        Rows and columns of the arcs of the vertex, and their masses.
    """
    for k in range(begin, end):
        p, q, own = first[k], second[k], k % vectors.shape[0]
        n, m, v = at_a[p + 1] - at_a[p], at_b[q + 1] - at_b[q], vectors[own]
        rows, cols = np.empty(n, dtype=np.int64), np.empty(m, dtype=np.int64)
        total_a, nr = _weights(w_a, at_a[p], n, v[A], rows)
        total_b, nc = _weights(w_b, at_b[q], m, v[B], cols)
        num[k, MASS] = total_a / 2 + total_b / 2
        num[k, RESCALED] = abs(total_a - total_b) / num[k, MASS]
        if nr == 0 or nc == 0:
            info[k, FLAG] = WEIGHTS
            continue
        if not num[k, RESCALED] <= np.sqrt(unit):
            info[k, FLAG] = UNEQUAL
            continue
        R, weight = np.empty((n, m)), np.empty(nr + nc)
        if C.size:
            _gather(C[k % C.shape[0]], rows, cols, R)
        elif not _form(x, at_a[p], y, at_b[q], metric, rows, cols, R):
            info[k, FLAG] = COSTS
            continue
        for i in range(nr):
            weight[i] = v[A, rows[i]]
        for j in range(nc):
            weight[nr + j] = v[B, cols[j]]
        info[k, FLAG] = _item(R, nr, nc, weight, rows, cols, v, metric, limit, num[k], info[k], ends[own], mass[own])
