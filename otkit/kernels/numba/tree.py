"""Balanced trees over points, compiled: how they grow, what is in their nodes, and cuts through them.

Node v has the children 2v + 1 and 2v + 2, and the points ``start[v]:stop[v]`` of arrays that are in the order of the
tree. All leaves have the same depth.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import clear, exact, jit


@jit
def _swap(points, order, i, j):
    order[i], order[j] = order[j], order[i]
    for k in range(points.shape[1]):
        points[i, k], points[j, k] = points[j, k], points[i, k]


@jit
def _split(points, order, low, high, middle, axis):
    """Order the points ``low:high`` along an axis: those before `middle` are not above those after it (Hoare)."""
    left, right = low, high - 1
    while left < right:
        a, b, c = points[left, axis], points[(left + right) // 2, axis], points[right, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                _swap(points, order, i, j)
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@jit
def grow(points, order, start, stop, top, levels):
    """Split the points of node `top`, and of its descendants, at the median of their widest coordinate."""
    first, count = top, 1
    for _ in range(levels):
        for v in range(first, first + count):
            low, high = start[v], stop[v]
            middle, widest, axis = (low + high) // 2, -1.0, 0
            for k in range(points.shape[1]):
                least, most = points[low, k], points[low, k]
                for p in range(low, high):
                    least, most = min(least, points[p, k]), max(most, points[p, k])
                if most - least > widest:
                    widest, axis = most - least, k
            _split(points, order, low, high, middle, axis)
            start[2 * v + 1], stop[2 * v + 1], start[2 * v + 2], stop[2 * v + 2] = low, middle, middle, high
        first, count = 2 * first + 1, 2 * count


@jit
def enclose(points, start, stop, leaves, low, high):
    """The lowest and the highest coordinates of every node."""
    for v in range(start.size - 1, -1, -1):
        for k in range(points.shape[1]):
            if v >= leaves:
                low[v, k] = high[v, k] = points[start[v], k]
                for p in range(start[v] + 1, stop[v]):
                    low[v, k], high[v, k] = min(low[v, k], points[p, k]), max(high[v, k], points[p, k])
            else:
                low[v, k] = min(low[2 * v + 1, k], low[2 * v + 2, k])
                high[v, k] = max(high[2 * v + 1, k], high[2 * v + 2, k])


@jit
def moments(points, weights, start, stop, leaves, mass, mean, variance):
    """Mass, mean and variance of every node. Points without mass count equally where a node has none."""
    d = points.shape[1]
    for v in range(start.size - 1, -1, -1):
        total, spread = 0.0, 0.0
        leaf = v >= leaves
        first, last = (start[v], stop[v]) if leaf else (2 * v + 1, 2 * v + 3)
        for p in range(first, last):
            total += weights[p] if leaf else mass[p]
        for k in range(d):
            mean[v, k] = 0.0
        for p in range(first, last):
            share = (weights[p] if leaf else mass[p]) / total if total > 0 else 1 / (last - first)
            for k in range(d):
                mean[v, k] += share * (points[p, k] if leaf else mean[p, k])
        for p in range(first, last):
            share = (weights[p] if leaf else mass[p]) / total if total > 0 else 0.0
            if not leaf:
                spread += share * variance[p]
            for k in range(d):
                spread += share * ((points[p, k] if leaf else mean[p, k]) - mean[v, k]) ** 2
        mass[v], variance[v] = total, spread


@jit
def cut(start, stop, leaves, whole, first):
    """The first point of each cell: of the highest nodes that are `whole`, and of single points where no node is.

    They are written to `first`, in order. Returns their number.
    """
    stack = np.zeros(64, dtype=np.int64)
    waiting, count = 1, 0
    while waiting > 0:
        waiting -= 1
        v = stack[waiting]
        if whole[v]:
            first[count] = start[v]
            count += 1
        elif v >= leaves:
            for p in range(start[v], stop[v]):
                first[count] = p
                count += 1
        else:
            stack[waiting], stack[waiting + 1] = 2 * v + 2, 2 * v + 1
            waiting += 2
    return count


@exact
def _away(x, anchor, moved):
    """The difference of a coordinate to a mean that is relative to an anchor."""
    return (x - anchor) - moved


@jit
def summarise(points, weights, first, mass, mean, variance):
    """Mass, mean ``(cells, d)`` and variance of the cells that begin at ``first (cells,)``.

    Without mass, they have the mean of the points and the variance 0.
    """
    for c in range(first.size):
        low, high = first[c], first[c + 1] if c + 1 < first.size else weights.size
        total = spread = 0.0
        for p in range(low, high):
            total += weights[p]
        for k in range(points.shape[1]):
            # Differences to a point of the cell keep the digits of their mean.
            moved = 0.0
            for p in range(low, high):
                share = weights[p] / total if total > 0 else 1 / (high - low)
                moved += share * _away(points[p, k], points[low, k], 0.0)
            for p in range(low, high):
                share = weights[p] / total if total > 0 else 0.0
                spread += share * _away(points[p, k], points[low, k], moved) ** 2
            mean[c, k] = points[low, k] + moved
        mass[c], variance[c] = total, spread


@jit
def _sums(points, value, low, high, anchor, A, sums):
    """Sums of products, relative to an anchor and to the first finite value: ``A (d, d + 1)`` and ``sums (d + 1,)``.

    Returns the number of finite values and the first one.
    """
    d, count, first = anchor.size, 0, 0.0
    clear(sums)
    for k in range(d):
        clear(A[k])
    for p in range(low, high):
        if not abs(value[p]) < np.inf:
            continue
        if count == 0:
            first = value[p]
        count += 1
        sums[d] += value[p] - first
        for k in range(d):
            away = points[p, k] - anchor[k]
            sums[k] += away
            A[k, d] += away * (value[p] - first)
            for i in range(d):
                A[k, i] += away * (points[p, i] - anchor[i])
    return count, first


@jit
def _regress(points, value, low, high, anchor, A, sums, slope):
    """The slope of the affine function of least squares through the finite values; returns their number and mean."""
    d = anchor.size
    count, first = _sums(points, value, low, high, anchor, A, sums)
    if count == 0:
        return 0, 0.0
    trace = 0.0
    for k in range(d):
        for i in range(d + 1):
            A[k, i] -= sums[k] * sums[i] / count
        trace += A[k, k]
    for k in range(d):
        A[k, k] += 1e-9 * trace + 1e-300
    _eliminate(A, slope)
    return count, first + sums[d] / count


@jit
def _eliminate(A, x):
    """The solution of a small positive definite system, whose right side is the last column."""
    d = x.size
    for i in range(d):
        for j in range(i + 1, d):
            factor = A[j, i] / A[i, i]
            for k in range(i, d + 1):
                A[j, k] -= factor * A[i, k]
    for i in range(d - 1, -1, -1):
        x[i] = A[i, d]
        for k in range(i + 1, d):
            x[i] -= A[i, k] * x[k]
        x[i] /= A[i, i]


@jit
def cover(points, value, size, start, stop, top, levels, rounding, bounds):
    """Affine functions above the values of the points in `top` and its descendants, where values −inf do not count.

    A row of ``bounds (nodes, 3 d + 2)`` begins with the lowest and the highest coordinates. It is completed by the
    slope, the function at the lowest coordinates, and the largest value of a point. The last two are raised by
    `rounding`, relative to all terms, and to the `size` of the terms of the values.
    """
    d = points.shape[1]
    A, sums, slope = np.empty((d, d + 1)), np.empty(d + 1), np.empty(d)
    first, count = top, 1
    for _ in range(levels):
        for v in range(first, first + count):
            _cover(points, value, size, start[v], stop[v], rounding, A, sums, slope, bounds[v])
        first, count = 2 * first + 1, 2 * count


@jit
def _cover(points, value, size, low, high, rounding, A, sums, slope, out):
    d = slope.size
    count, mean = _regress(points, value, low, high, out[:d], A, sums, slope)
    steepest = 0.0
    for k in range(d):
        steepest += abs(slope[k]) * (out[d + k] - out[k])
    largest = above = -np.inf
    bulk = tilt = 0.0
    for p in range(low, high):
        if value[p] > -np.inf:
            rise = 0.0
            for k in range(d):
                rise += slope[k] * (points[p, k] - out[k])
            tilt += rise
            largest, above, bulk = max(largest, value[p]), max(above, value[p] - rise), max(bulk, size[p])
    # The slope does not help, or is no number.
    if not (count and steepest < np.inf and above - (mean - tilt / count) < largest - mean):
        clear(slope)
        steepest, above = 0.0, largest
    for k in range(d):
        out[2 * d + k] = slope[k]
    out[3 * d], out[3 * d + 1] = -np.inf, -np.inf
    if largest > -np.inf:
        out[3 * d] = above + rounding * (abs(above) + bulk + steepest)
        out[3 * d + 1] = largest + rounding * bulk


@jit
def lowest(value, start, stop, leaves, out):
    """The lowest value of the points of every node."""
    for v in range(start.size - 1, -1, -1):
        if v < leaves:
            out[v] = min(out[2 * v + 1], out[2 * v + 2])
            continue
        out[v] = np.inf
        for p in range(start[v], stop[v]):
            out[v] = min(out[v], value[p])


@jit
def agree(labels, start, stop, leaves, out):
    """The label that all points of a node have, −1 where they differ."""
    for v in range(start.size - 1, -1, -1):
        if v < leaves:
            out[v] = out[2 * v + 1] if out[2 * v + 1] == out[2 * v + 2] else -1
            continue
        out[v] = labels[start[v]]
        for p in range(start[v] + 1, stop[v]):
            if labels[p] != out[v]:
                out[v] = -1
