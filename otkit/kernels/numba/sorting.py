"""Sorting of points on a line with their weights, compiled: by buckets, in time proportional to their number."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import ordered

# Points are sorted by comparisons where buckets have more than so many, as the mean over points.
_CROWDED = 8


@ordered
def _bucketed(x, w, bucket, first, out_x, out_w):
    """Write the points and weights by buckets, of which `first` has the places, and sort neighbours by insertion."""
    for i in range(x.size):
        at = first[bucket[i]]
        first[bucket[i]] += 1
        out_x[at] = x[i]
        if w.size:
            out_w[at] = w[i]
    for i in range(1, x.size):
        value, weight, at = out_x[i], out_w[i], i
        while at > 0 and out_x[at - 1] > value:
            out_x[at], out_w[at] = out_x[at - 1], out_w[at - 1]
            at -= 1
        out_x[at], out_w[at] = value, weight


@ordered
def in_order(x, w, out_x, out_w):
    """Write finite points in order, and their weights, all equal where `w` is empty; returns whether this was done.

    It is not done where the points are too unequally spread, or not finite. Equal points keep their order.
    """
    n, low, high, zero = x.size, x[0], x[0], 0.0
    for i in range(n):
        low, high, zero = min(low, x[i]), max(high, x[i]), zero + 0.0 * x[i]
    scale = (n - 1) / (high - low) if high > low else 0.0
    if not (zero == 0.0 and scale < np.inf and (high - low) * scale < n):
        return False
    bucket, first = np.empty(n, dtype=np.int32), np.zeros(n + 1, dtype=np.int32)
    for i in range(n):
        bucket[i] = np.int32((x[i] - low) * scale)
        first[bucket[i] + 1] += 1
    squares = 0
    for k in range(1, n + 1):
        squares += first[k] * first[k]
        first[k] += first[k - 1]
    if high > low and squares > _CROWDED * n:
        return False
    if not w.size:
        for i in range(n):
            out_w[i] = 1.0 / n
    _bucketed(x, w, bucket, first, out_x, out_w)
    return True
