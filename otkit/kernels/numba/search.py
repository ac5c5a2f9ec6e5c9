"""Branch and bound through a tree of points, compiled: least costs, costs up to a limit, and largest costs.

Costs are ``(factor·S)^exponent``, for the sum S of squared or absolute differences of the coordinates, or the largest
of these. A leaf evaluates them as the operations on tiles do. A node is left out only if its bound exceeds what is
sought by more than rounding can explain: by `Form.rounding` of all terms.

Hot loops read neither slices of arrays nor arrays of named tuples: both count references, which takes longer than all
else, and threads wait for each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.entries import slack
from otkit.kernels.numba.jit import exact, jit

EUCLIDEAN, CITYBLOCK, CHEBYSHEV = 0, 1, 2
# Nodes that wait at a time: at most one for each level, and the next two.
DEEP = 64


class Form(NamedTuple):
    """The formula of a cost, and the relative and absolute error that decisions about nodes allow for."""

    ground: int
    factor: float
    exponent: float
    rounding: float
    least: float


class Target(NamedTuple):
    """The points that are searched, in the order of their tree, with offsets and potentials.

    ``size (n,)`` is the sum of the absolute terms of both. ``bounds (nodes, 3 d + 2)`` are those of their sum, by
    `otkit.kernels.numba.tree.cover`.
    """

    points: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    leaves: int
    offset: np.ndarray
    potential: np.ndarray
    size: np.ndarray
    bounds: np.ndarray


@exact
def _sum(queries, q, points, p, ground):
    """The sum S of two points, bitwise equal to that of `Cost`."""
    total = 0.0
    for k in range(points.shape[1]):
        difference = queries[q, k] - points[p, k]
        if ground == EUCLIDEAN:
            total += difference * difference
        elif ground == CITYBLOCK:
            total += abs(difference)
        else:
            total = max(total, abs(difference))
    return total


@exact
def cost_of(total, factor, exponent):
    """The cost of a sum S, bitwise equal to that of `Cost`."""
    scaled = total if factor == 1.0 else factor * total
    if exponent == 1.0:
        return scaled
    if exponent == 0.5:
        return np.sqrt(scaled)
    return scaled * scaled if exponent == 2.0 else scaled**exponent


@jit
def _parabola(queries, q, v, bounds, form):
    """The least factor·‖x − y‖² less the affine function of a node, over its box."""
    d, factor = queries.shape[1], form.factor
    value = size = 0.0
    for k in range(d):
        x, slope = queries[q, k], bounds[v, 2 * d + k]
        begin, end = bounds[v, k] - x, bounds[v, d + k] - x
        t = min(max(slope / (2 * factor), begin), end)
        square = factor * t * t
        value += square - slope * (t - begin)
        size += square + abs(slope) * (abs(t) + abs(begin))
    return value - bounds[v, 3 * d] - form.rounding * size


@jit
def added(total, part, ground):
    """The sum S with one more coordinate, of this absolute difference."""
    if ground == EUCLIDEAN:
        return total + part * part
    return total + part if ground == CITYBLOCK else max(total, part)


@jit
def _tangent(queries, q, v, bounds, form):
    """A lower bound of the cost less the affine function of a node, over its box: by a tangent plane, or constant.

    A convex cost lies above its tangent at the centre of the box.
    """
    d = queries.shape[1]
    middle = nearest = 0.0
    axis, largest = 0, -1.0
    for k in range(d):
        begin, end = bounds[v, k] - queries[q, k], bounds[v, d + k] - queries[q, k]
        t = abs(begin + end) / 2
        if t > largest:
            axis, largest = k, t
        middle = added(middle, t, form.ground)
        nearest = added(nearest, max(begin, -end, 0.0), form.ground)
    value = size = cost_of(middle, form.factor, form.exponent)
    steepness = form.exponent * value / middle if middle > 0 else 0.0
    for k in range(d):
        begin, end, slope = bounds[v, k] - queries[q, k], bounds[v, d + k] - queries[q, k], bounds[v, 2 * d + k]
        t, width = (begin + end) / 2, bounds[v, d + k] - bounds[v, k]
        rise = 0.0
        if form.ground == EUCLIDEAN:
            rise = steepness * 2 * t * width
        elif form.ground == CITYBLOCK or k == axis:
            rise = steepness * width if t > 0 else -steepness * width
        drop = slope * width
        value += min(-rise / 2, rise / 2 - drop)
        size += abs(rise) + abs(drop)
    flat = cost_of(nearest, form.factor, form.exponent)
    tilted = value - bounds[v, 3 * d] - form.rounding * size
    return max(tilted, flat - bounds[v, 3 * d + 1] - form.rounding * flat)


@jit
def bound(queries, q, v, bounds, form):
    """A lower bound of the costs less offsets and potentials of the points in a node."""
    if form.ground == EUCLIDEAN and form.exponent == 1.0:
        return _parabola(queries, q, v, bounds, form)
    return _tangent(queries, q, v, bounds, form)


@jit
def limit_of(value, row, form):
    """The bound from which on a node has nothing below `value`, of costs less the offsets and potentials of columns."""
    return value + row + form.rounding * (abs(value) + abs(row)) + form.least


@jit
def value_of(queries, q, points, p, row, transposed, offset, potential, form):
    """The reduced cost less the potential of a column."""
    cost = cost_of(_sum(queries, q, points, p, form.ground), form.factor, form.exponent)
    return slack(cost, row, offset[p], transposed, potential[p])


@jit
def children(queries, q, v, limit, bounds, form, stack, room, waiting):
    """Put the children of a node on the stack, the better one on top, if they may have something below the limit."""
    near, far = 2 * v + 1, 2 * v + 2
    least, most = bound(queries, q, near, bounds, form), bound(queries, q, far, bounds, form)
    if most < least:
        near, far, least, most = far, near, most, least
    if not most >= limit:
        stack[waiting], room[waiting] = far, most
        waiting += 1
    if not least >= limit:
        stack[waiting], room[waiting] = near, least
        waiting += 1
    return waiting


@jit
def _below(cost, offset, potential, size, limit, form):
    """Whether a cost less offset and potential is at most a limit, up to rounding."""
    value = cost - (offset + potential)
    return value - form.rounding * (cost + size) <= limit


@jit
def collect(queries, limits, target, other, form, low, high, out):
    """The columns of the queries ``low:high`` of cost less offset and potential up to a limit, and some by rounding.

    There are limits ``(2, n)`` for the columns as in `target`, and as in `other` with other potentials. Columns and
    their sums S are written to `out`, with the number of those of each query. Returns the first query that did not
    fit, or `high`.
    """
    points, start, stop, leaves, offset, potential, size, bounds = target
    _, _, _, _, _, potential_of_other, size_of_other, bounds_of_other = other
    counts, found, sums = out
    stack, count = np.empty(DEEP, dtype=np.int64), 0
    for q in range(low, high):
        limit, limit_of_other, before = limits[0, q], limits[1, q], count
        stack[0], waiting = 0, 1
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            if v < leaves:
                for child in (2 * v + 2, 2 * v + 1):
                    some = not bound(queries, q, child, bounds, form) > limit
                    if not some and limit_of_other > -np.inf:
                        some = not bound(queries, q, child, bounds_of_other, form) > limit_of_other
                    if some:
                        stack[waiting] = child
                        waiting += 1
                continue
            if count + stop[v] - start[v] > found.size:
                return q
            for p in range(start[v], stop[v]):
                total = _sum(queries, q, points, p, form.ground)
                cost = cost_of(total, form.factor, form.exponent)
                if _below(cost, offset[p], potential[p], size[p], limit, form) or _below(
                    cost, offset[p], potential_of_other[p], size_of_other[p], limit_of_other, form
                ):
                    found[count], sums[count] = p, total
                    count += 1
        counts[q - low] = count - before
    return high


@jit
def nearest(queries, target, form, low, high, found):
    """The columns of least cost less offset and potential of the queries ``low:high``: ``found (n, k)``, −1 if none."""
    points, start, stop, leaves, offset, potential, _, bounds = target
    k = found.shape[1]
    stack, room, values = np.empty(DEEP, dtype=np.int64), np.empty(DEEP), np.empty(k)
    for q in range(low, high):
        for r in range(k):
            values[r], found[q, r] = np.inf, -1
        stack[0], room[0], waiting = 0, -np.inf, 1
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            if room[waiting] >= values[k - 1]:
                continue
            if v < leaves:
                waiting = children(queries, q, v, values[k - 1], bounds, form, stack, room, waiting)
                continue
            for p in range(start[v], stop[v]):
                cost = cost_of(_sum(queries, q, points, p, form.ground), form.factor, form.exponent)
                value, r = cost - (offset[p] + potential[p]), k - 1
                if not value < values[r]:
                    continue
                while r > 0 and values[r - 1] > value:
                    values[r], found[q, r] = values[r - 1], found[q, r - 1]
                    r -= 1
                values[r], found[q, r] = value, p


@jit
def _most(queries, q, v, bounds, lowest, form):
    """An upper bound of the costs less offsets of the points in a node, of which `lowest` has the lowest offset."""
    d, total = queries.shape[1], 0.0
    if not lowest[v] < np.inf:
        return -np.inf
    for k in range(d):
        x = queries[q, k]
        total = added(total, max(bounds[v, d + k] - x, x - bounds[v, k]), form.ground)
    cost = cost_of(total, form.factor, form.exponent)
    return cost - lowest[v] + form.rounding * (cost + abs(lowest[v]))


@jit
def farthest(queries, row, target, lowest, form, low, high, best):
    """The larger of `best` and the largest reduced cost of the queries ``low:high``; offsets inf do not count."""
    points, start, stop, leaves, offset, potential, _, bounds = target
    stack = np.empty(DEEP, dtype=np.int64)
    for q in range(low, high):
        if not row[q] < np.inf:
            continue
        stack[0], waiting = 0, 1
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            limit = best + row[q] - form.rounding * (abs(best) + abs(row[q]))
            if _most(queries, q, v, bounds, lowest, form) <= limit:
                continue
            if v < leaves:
                stack[waiting], stack[waiting + 1] = 2 * v + 1, 2 * v + 2
                waiting += 2
                continue
            for p in range(start[v], stop[v]):
                best = max(best, value_of(queries, q, points, p, row[q], False, offset, potential, form))
    return best


@jit
def join(queries, prices, own, target, labels, common, form, out):
    """The pair of least cost less all offsets and potentials that leaves each component, from its queries.

    Queries have the sums ``prices`` of their offset and potential, and the component `own`. Columns have the component
    ``labels``; it is that of all columns of a node where ``common`` is not −1. The cost, the query and the column are
    written to `out`, by component.
    """
    best, tail, head = out
    points, start, stop, leaves, offset, potential, _, bounds = target
    stack, room = np.empty(DEEP, dtype=np.int64), np.empty(DEEP)
    for q in range(prices.size):
        if not prices[q] > -np.inf:
            continue
        limit = best[own[q]] + prices[q]
        stack[0], room[0], waiting = 0, -np.inf, 1
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            if room[waiting] >= limit or common[v] == own[q]:
                continue
            if v < leaves:
                waiting = children(queries, q, v, limit, bounds, form, stack, room, waiting)
                continue
            for p in range(start[v], stop[v]):
                if labels[p] == own[q]:
                    continue
                cost = cost_of(_sum(queries, q, points, p, form.ground), form.factor, form.exponent)
                value = cost - (offset[p] + potential[p])
                if value < limit:
                    limit = value
                    best[own[q]], tail[own[q]], head[own[q]] = value - prices[q], q, p
