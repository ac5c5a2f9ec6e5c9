"""Items of small problems, compiled: a pair of measures, with its weights checked and its costs reduced.

An item that is not solved in the ordinary way gets a flag instead of an answer: invalid data, masses that differ, an
infeasible problem, an interval that is wide. The caller sends it the general way, which says what is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.distances import _distances
from otkit.kernels.numba.jit import copy, jit, least, most, ordered, wide
from otkit.kernels.numba.pricing import lowest
from otkit.kernels.numba.proof import EXPONENT, FACTOR, GROUND, NON_NEGATIVE, SPREAD, total

# Reasons why an item has no answer.
WEIGHTS, UNEQUAL, COSTS, STRANDED, RANGE, UNSOLVED, WIDE = range(1, 8)
# Columns of the numbers of an item; all are at mass 1 and in the caller's costs, except the largest reduced cost.
VALUE, LOWER, UPPER, ROUNDING, ERROR, MASS, RESCALED, SPAN, LOW, HIGH = range(10)
# Columns of its counts.
FLAG, PIVOTS, ARCS, FORBIDDEN = range(4)
# Rows of its vectors.
A, B, ROW, COL, F, G = range(6)


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
def _gather(C, rows, cols, all_have_mass, R):
    for i in range(rows.size):
        if all_have_mass:  # columns are in their order
            copy(C[rows[i]], R[i])
            continue
        for j in range(cols.size):
            R[i, j] = C[rows[i], cols[j]]


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
def _largest(costs, count):
    wide()
    top = costs[0]
    for j in range(count):
        top = most(top, costs[j])
    return top


@jit
def _highest(costs, count):
    """The largest finite one of the first costs, and whether some are infinite."""
    top = _largest(costs, count)
    if top < np.inf:
        return top, False
    top = -np.inf
    for j in range(count):
        top = most(top, costs[j] if costs[j] < np.inf else -np.inf)
    return top, True


@jit
def _bad(costs):
    """The number of costs that are NaN or −inf."""
    wide()
    bad = 0
    for j in range(costs.size):
        bad += not costs[j] > -np.inf
    return bad


@jit
def _subtract(value, costs):
    wide()
    for j in range(costs.size):
        costs[j] -= value


@jit
def _subtract_all(values, costs):
    wide()
    for j in range(costs.size):
        costs[j] -= values[j]


@ordered
def _reduce_rows(R, nr, nc, row, num, info):
    """Reduce the costs in place by the least one of each row, among columns with mass; returns a flag."""
    zero, infinite = np.empty(nc), False
    for j in range(nc):
        zero[j] = 0.0
    num[LOW], num[HIGH] = np.inf, -np.inf
    for i in range(row.size):
        if _bad(R[i]):
            return COSTS
        value = lowest(R[i], zero)
        row[i] = value if value < np.inf else 0.0
        if i < nr:
            top, some = _highest(R[i], nc)
            num[LOW], num[HIGH], infinite = min(num[LOW], value), max(num[HIGH], top), infinite or some
            if value == np.inf:
                return STRANDED
        _subtract(row[i], R[i])
    info[FORBIDDEN] = infinite
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
        _subtract_all(col, R[i])
        if i < nr:
            num[SPAN] = max(num[SPAN], _highest(R[i], nc)[0])
    return 0


class Item(NamedTuple):
    """A pair of measures: costs, reduced by ``row`` and ``col``, and weights over their totals.

    Points with mass come first: ``nr`` rows and ``nc`` columns. ``rows`` and ``cols`` have the places of all points,
    ``weight (nr + nc,)`` has the weights of those with mass.
    """

    R: np.ndarray
    row: np.ndarray
    col: np.ndarray
    nr: int
    nc: int
    rows: np.ndarray
    cols: np.ndarray
    weight: np.ndarray


@ordered
def begin(costs, measures, unit, k, room, num, info, v):
    """The item k, whose reduced costs are in ``room``.

    Its numbers and counts are ``num (10,)`` and ``info (4,)``, with a flag; its weights go to ``v``.
    """
    (C, x, y, metric), (w_a, w_b, at_a, at_b, first, second) = costs, measures
    p, q = first[k], second[k]
    n, m = at_a[p, 1] - at_a[p, 0], at_b[q, 1] - at_b[q, 0]
    rows, cols = np.empty(n, dtype=np.int64), np.empty(m, dtype=np.int64)
    total_a, nr = _weights(w_a, at_a[p, 0], n, v[A], rows)
    total_b, nc = _weights(w_b, at_b[q, 0], m, v[B], cols)
    num[MASS] = total_a / 2 + total_b / 2
    num[RESCALED] = abs(total_a - total_b) / num[MASS]
    item = Item(room[: n * m].reshape((n, m)), np.empty(n), np.empty(m), nr, nc, rows, cols, np.empty(nr + nc))
    info[FLAG] = 0
    if nr == 0 or nc == 0:
        info[FLAG] = WEIGHTS
    elif not num[RESCALED] <= np.sqrt(unit):
        info[FLAG] = UNEQUAL
    elif C.size:
        _gather(C[k % C.shape[0]], rows, cols, nc == m, item.R)
    elif not _form(x, at_a[p, 0], y, at_b[q, 0], metric, rows, cols, item.R):
        info[FLAG] = COSTS
    if info[FLAG] != 0:
        return item
    for i in range(nr):
        item.weight[i] = v[A, rows[i]]
    for j in range(nc):
        item.weight[nr + j] = v[B, cols[j]]
    info[FLAG] = _reduce_rows(item.R, nr, nc, item.row, num, info) or _reduce_columns(item.R, nr, nc, item.col, num)
    if info[FLAG] == 0 and metric[NON_NEGATIVE] and info[FORBIDDEN]:
        info[FLAG] = RANGE  # no distance forbids its arc: powers have overflown
    return item


@ordered
def write(item, f, g, v):
    """Write offsets and potentials of an item at the places of its points."""
    for i in range(f.size):
        v[ROW, item.rows[i]], v[F, item.rows[i]] = item.row[i], f[i]
    for j in range(g.size):
        v[COL, item.cols[j]], v[G, item.cols[j]] = item.col[j], g[j]
