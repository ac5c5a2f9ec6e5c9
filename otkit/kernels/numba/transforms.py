"""The c-transform through a tree, compiled: neighbouring queries share the search for the nodes that are near.

Let z be the middle of the box around some queries, and y the answer of one of them. From z to another query, the cost
to a point p of a node changes by as much as that to y, but for a difference D. A node whose bound at z exceeds the
value of y at z by D has nothing for any of these queries. For squared distances ``D = 2·|⟨q − z, p − y⟩|``, for
distances it is at most twice that of q and z.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import jit
from otkit.kernels.numba.search import DEEP, EUCLIDEAN, added, bound, children, cost_of, limit_of, value_of

# Number of queries that share a search, and maximum number of nodes that it finds.
_GROUP, _NODES = 16, 256
# Sharing pays if it leaves at most this share of the nodes of a search. Otherwise so many groups search by themselves.
_PAYS, _ALONE = 0.75, 8


@jit
def _box(queries, low, high, middle, half):
    """The middle ``(1, d)`` and half the sides ``(d,)`` of the box around queries."""
    for k in range(half.size):
        first = last = queries[low, k]
        for q in range(low + 1, high):
            first, last = min(first, queries[q, k]), max(last, queries[q, k])
        middle[0, k], half[k] = (first + last) / 2, (last - first) / 2


@jit
def _difference(v, points, y, bounds, half, form):
    """How much more the cost to the points of a node may fall than that to y, from the middle to the box."""
    total = 0.0
    for k in range(half.size):
        if form.exponent == 1.0 and form.ground == EUCLIDEAN:
            furthest = max(points[y, k] - bounds[v, k], bounds[v, half.size + k] - points[y, k])
            total += form.factor * half[k] * furthest
        else:
            total = added(total, half[k], form.ground)
    if form.exponent == 1.0:
        return 2 * total
    return 2 * cost_of(total, form.factor, form.exponent)


@jit
def _level(points, y, middle, half, prices, form):
    """The value of y at the middle, raised by what rounding can explain at any query; `prices` is the size of terms."""
    here = furthest = 0.0
    for k in range(half.size):
        away = abs(middle[0, k] - points[y, k])
        here = added(here, away, form.ground)
        furthest = added(furthest, away + half[k], form.ground)
    here, furthest = cost_of(here, form.factor, form.exponent), cost_of(furthest, form.factor, form.exponent)
    return here + form.rounding * (furthest + prices) + form.least


@jit
def _near(points, y, level, bounds, leaves, middle, half, form, stack, found):
    """The nodes that may have answers of some query in the box; returns their number, and that of nodes visited."""
    stack[0], waiting, count, visits = 0, 1, 0, 0
    while waiting > 0:
        waiting -= 1
        v = stack[waiting]
        if v >= leaves or count + waiting + 2 > found.size:
            found[count] = v
            count += 1
            continue
        visits += 2
        for child in (2 * v + 2, 2 * v + 1):
            shift = (1 + form.rounding) * _difference(child, points, y, bounds, half, form)
            if not bound(middle, 0, child, bounds, form) - shift >= level:
                stack[waiting] = child
                waiting += 1
    return count, visits


@jit
def _least(queries, q, row, transposed, target, form, best, where, nodes, count, stack, room):
    """The least reduced cost less potential of a query in some nodes, if it is below `best`; and where it is.

    The last number is that of nodes visited.
    """
    points, start, stop, leaves, offset, potential, bounds = target
    limit, visits = limit_of(best, row[q], form), 0
    for c in range(count):
        v = nodes[c]
        stack[0], room[0], waiting = v, -np.inf if v == 0 else bound(queries, q, v, bounds, form), 1
        while waiting > 0:
            waiting -= 1
            v = stack[waiting]
            if room[waiting] >= limit:
                continue
            if v < leaves:
                visits += 2
                waiting = children(queries, q, v, limit, bounds, form, stack, room, waiting)
                continue
            for p in range(start[v], stop[v]):
                value = value_of(queries, q, points, p, row[q], transposed, offset, potential, form)
                if value < best:
                    best, where = value, p
            limit = limit_of(best, row[q], form)
    return best, where, visits


@jit
def c_transform(queries, row, transposed, target, form, low, high, out):
    """The least reduced cost less potential of the queries ``low:high``, each from the answer of another."""
    points, start, stop, leaves, offset, potential, _, bounds = target
    of = points, start, stop, leaves, offset, potential, bounds
    stack, room, nodes = np.empty(DEEP, dtype=np.int64), np.empty(DEEP), np.empty(_NODES, dtype=np.int64)
    middle, half, where = np.empty((1, points.shape[1])), np.empty(points.shape[1]), -1
    shares, alone = form.exponent == 1.0 or (form.exponent == 0.5 and form.ground == EUCLIDEAN), 0
    for first in range(low, high, _GROUP):
        last = min(first + _GROUP, high)
        nodes[0], count = 0, 1
        for k in range(first, last):
            # The one in the middle comes first. It takes the place of the first one.
            q = (first + last) // 2 if k == first else first if k == (first + last) // 2 else k
            best = np.inf
            if where >= 0:
                best = value_of(queries, q, points, where, row[q], transposed, offset, potential, form)
            best, where, visits = _least(queries, q, row, transposed, of, form, best, where, nodes, count, stack, room)
            out[q] = best
            if k > first or where < 0 or not shares:
                continue
            if alone > 0:
                alone -= 1
                continue
            _box(queries, first, last, middle, half)
            price, most = offset[where] + potential[where], 0.0
            for i in range(first, last):
                most = max(most, abs(row[i]))
            size = abs(offset[where]) + abs(potential[where]) + most
            level = _level(points, where, middle, half, size, form) - price
            count, shared = _near(points, where, level, bounds, leaves, middle, half, form, stack, nodes)
            if count + shared / _GROUP > _PAYS * visits:
                nodes[0], count, alone = 0, 1, _ALONE
