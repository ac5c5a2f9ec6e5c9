"""Sorting of points on a line with their weights, compiled: by buckets, in time proportional to their number."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import jit, least, most, ordered

# Points are sorted by comparisons where buckets have more than so many, as the mean over points.
_CROWDED = 8


@jit
def _range(x):
    """The ends of points, the least size of those that are not 0, and 0 if all are finite."""
    low, high, size, zero = np.inf, -np.inf, np.inf, 0.0
    for i in range(x.size):
        low, high, zero = least(low, x[i]), most(high, x[i]), zero + 0.0 * x[i]
        size = least(size, abs(x[i]) if x[i] != 0.0 else np.inf)
    return low, high, size, zero


@ordered
def _place(x, bucket, first, out_x):
    """Write the points by buckets, of which `first` has the places, and sort neighbours by insertion."""
    for i in range(x.size):
        at = first[bucket[i]]
        first[bucket[i]] += 1
        out_x[at] = x[i]
    for i in range(1, x.size):
        value, at = out_x[i], i
        while at > 0 and out_x[at - 1] > value:
            out_x[at] = out_x[at - 1]
            at -= 1
        out_x[at] = value


@ordered
def _place_both(x, w, bucket, first, out_x, out_w):
    """The same for points with weights."""
    for i in range(x.size):
        at = first[bucket[i]]
        first[bucket[i]] += 1
        out_x[at], out_w[at] = x[i], w[i]
    for i in range(1, x.size):
        value, weight, at = out_x[i], out_w[i], i
        if out_x[i - 1] > value:
            while at > 0 and out_x[at - 1] > value:
                out_x[at], out_w[at] = out_x[at - 1], out_w[at - 1]
                at -= 1
            out_x[at], out_w[at] = value, weight


@ordered
def in_order(x, w, out_x, out_w):
    """Write finite points in order, and their weights, all equal where `w` is empty.

    Returns the least size of a point that is not 0, and −1 where this was not done: the points are too unequally
    spread, or not finite. Equal points keep their order.
    """
    n, (low, high, size, zero) = x.size, _range(x)
    scale = (n - 1) / (high - low) if high > low else 0.0
    if not (zero == 0.0 and scale < np.inf and (high - low) * scale < n):
        return -1.0
    bucket, first = np.empty(n, dtype=np.int32), np.zeros(n + 1, dtype=np.int32)
    for i in range(n):
        bucket[i] = np.int32((x[i] - low) * scale)
    for i in range(n):
        first[bucket[i] + 1] += 1
    squares = 0
    for k in range(1, n + 1):
        squares += first[k] * first[k]
        first[k] += first[k - 1]
    if high > low and squares > _CROWDED * n:
        return -1.0
    if w.size:
        _place_both(x, w, bucket, first, out_x, out_w)
    else:
        _place(x, bucket, first, out_x)
        for i in range(n):
            out_w[i] = 1.0 / n
    return size
