"""Branch and bound through a tree of points, compiled: least costs, costs up to a limit, and largest costs.

Costs are ``(factor·S)^exponent``, for the sum S of squared or absolute differences of the coordinates, or the largest
of these. A leaf evaluates them as the operations on tiles do. A node is left out only if its bound exceeds what is
sought by more than rounding can explain: by `Form.rounding` of all terms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.entries import slack
from otkit.kernels.numba.jit import exact, jit

EUCLIDEAN, CITYBLOCK, CHEBYSHEV = 0, 1, 2


class Form(NamedTuple):
    """The formula of a cost, and the relative and absolute error that decisions about nodes allow for."""

    ground: int
    factor: float
    exponent: float
    rounding: float
    least: float


class Target(NamedTuple):
    """The points that are searched, in the order of their tree: their tree, offsets, potentials and bounds.

    ``bounds (nodes, d + 2)`` are those of the sum of offset and potential, by `otkit.kernels.numba.tree.cover`.
    """

    points: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    leaves: int
    low: np.ndarray
    high: np.ndarray
    offset: np.ndarray
    potential: np.ndarray
    bounds: np.ndarray


@exact
def _sum(x, y, ground):
    """The sum S of two points, bitwise equal to that of `Cost`."""
    total = 0.0
    for k in range(x.size):
        difference = x[k] - y[k]
        if ground == EUCLIDEAN:
            total += difference * difference
        elif ground == CITYBLOCK:
            total += abs(difference)
        else:
            total = max(total, abs(difference))
    return total


@exact
def _cost(total, factor, exponent):
    scaled = total if factor == 1.0 else factor * total
    if exponent == 1.0:
        return scaled
    if exponent == 0.5:
        return np.sqrt(scaled)
    return scaled * scaled if exponent == 2.0 else scaled**exponent


@jit
def _steepness(total, cost, factor, exponent):
    """The derivative of the cost with respect to the sum."""
    if exponent == 1.0:
        return factor
    return exponent * cost / total if total > 0 else 0.0


@jit
def _parabola(x, low, high, bounds, factor, rounding):
    """The least factor·‖x − y‖² less the affine function of a node, over its box."""
    d = x.size
    value = size = 0.0
    for k in range(d):
        begin, end, slope = low[k] - x[k], high[k] - x[k], bounds[k]
        t = min(max(slope / (2 * factor), begin), end)
        square = factor * t * t
        value += square - slope * (t - begin)
        size += square + abs(slope) * (abs(t) + abs(begin))
    return value - bounds[d] - rounding * size


@jit
def _tangent(x, low, high, bounds, form):
    """A lower bound of the cost less the affine function of a node, over its box: by a tangent plane, or constant.

    A convex cost lies above its tangent at the centre of the box.
    """
    d = x.size
    middle = nearest = 0.0
    axis, largest = 0, -1.0
    for k in range(d):
        begin, end = low[k] - x[k], high[k] - x[k]
        t, gap = abs(begin + end) / 2, max(begin, -end, 0.0)
        if t > largest:
            axis, largest = k, t
        if form.ground == EUCLIDEAN:
            middle, nearest = middle + t * t, nearest + gap * gap
        elif form.ground == CITYBLOCK:
            middle, nearest = middle + t, nearest + gap
        else:
            middle, nearest = max(middle, t), max(nearest, gap)
    value = size = _cost(middle, form.factor, form.exponent)
    steepness = _steepness(middle, value, form.factor, form.exponent)
    for k in range(d):
        width, t = high[k] - low[k], (low[k] - x[k] + (high[k] - x[k])) / 2
        rise = 0.0
        if form.ground == EUCLIDEAN:
            rise = steepness * 2 * t * width
        elif form.ground == CITYBLOCK or k == axis:
            rise = steepness * width if t > 0 else -steepness * width
        drop = bounds[k] * width
        value += min(-rise / 2, rise / 2 - drop)
        size += abs(rise) + abs(drop)
    flat = _cost(nearest, form.factor, form.exponent)
    return max(value - bounds[d] - form.rounding * size, flat - bounds[d + 1] - form.rounding * flat)


@jit
def _bound(x, node, target, form):
    low, high, bounds = target.low[node], target.high[node], target.bounds[node]
    if form.ground == EUCLIDEAN and form.exponent == 1.0:
        return _parabola(x, low, high, bounds, form.factor, form.rounding)
    return _tangent(x, low, high, bounds, form)


@jit
def _limit(value, row, form):
    """The bound from which a node has nothing below `value`, of costs less all offsets."""
    return value + row + form.rounding * (abs(value) + abs(row)) + form.least


@jit
def _value(x, p, row, transposed, target, form):
    cost = _cost(_sum(x, target.points[p], form.ground), form.factor, form.exponent)
    return slack(cost, row, target.offset[p], transposed, target.potential[p])


@jit
def _least(x, row, transposed, target, form, hint, stack, waiting_bounds):
    """The least reduced cost less potential of a point, and where; ``hint`` is a good place or −1."""
    best, where = np.inf, hint
    if hint >= 0:
        best = _value(x, hint, row, transposed, target, form)
    limit = _limit(best, row, form)
    stack[0], waiting_bounds[0], waiting = 0, -np.inf, 1
    while waiting > 0:
        waiting -= 1
        if waiting_bounds[waiting] >= limit:
            continue
        v = stack[waiting]
        if v >= target.leaves:
            for p in range(target.start[v], target.stop[v]):
                value = _value(x, p, row, transposed, target, form)
                if value < best:
                    best, where = value, p
            limit = _limit(best, row, form)
            continue
        near, far = 2 * v + 1, 2 * v + 2
        least, most = _bound(x, near, target, form), _bound(x, far, target, form)
        if most < least:
            near, far, least, most = far, near, most, least
        if not most >= limit:
            stack[waiting], waiting_bounds[waiting] = far, most
            waiting += 1
        if not least >= limit:
            stack[waiting], waiting_bounds[waiting] = near, least
            waiting += 1
    return best, where


@jit
def c_transform(queries, row, transposed, target, form, low, high, out):
    """The least reduced cost less potential of the queries ``low:high``, each from the answer of the one before."""
    stack, bounds, hint = np.empty(64, dtype=np.int64), np.empty(64), -1
    for q in range(low, high):
        out[q], hint = _least(queries[q], row[q], transposed, target, form, hint, stack, bounds)


@jit
def collect(queries, row, limits, target, form, low, high, out):
    """The points of cost less offsets up to a limit, or above it by less than rounding can explain.

    ``limits`` bounds costs less the offsets and potentials of both sides. Points and sums S are written to `out`, and
    the number of those of each query. Returns the query that did not fit, or `high`.
    """
    counts, found, sums = out
    stack, count = np.empty(64, dtype=np.int64), 0
    for q in range(low, high):
        limit = _limit(limits[q], row[q], form)
        before, waiting = count, 1
        stack[0] = 0
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            if v >= target.leaves:
                if count + target.stop[v] - target.start[v] > found.size:
                    return q
                for p in range(target.start[v], target.stop[v]):
                    total = _sum(queries[q], target.points[p], form.ground)
                    cost = _cost(total, form.factor, form.exponent)
                    value = cost - (target.offset[p] + target.potential[p])
                    size = cost + abs(target.offset[p]) + abs(target.potential[p])
                    if value - form.rounding * size <= limit:
                        found[count], sums[count] = p, total
                        count += 1
                continue
            for child in (2 * v + 2, 2 * v + 1):
                if not _bound(queries[q], child, target, form) > limit:
                    stack[waiting] = child
                    waiting += 1
        counts[q - low] = count - before
    return high
