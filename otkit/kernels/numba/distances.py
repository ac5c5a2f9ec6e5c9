"""Costs between points, compiled: differences one by one, or products of matrices where coordinates are many."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import copy, exact, jit, wide

EUCLIDEAN, CITYBLOCK = 0, 1
# Multiplications of a product of matrices that OpenBLAS does in one thread: threads within threads would wait for each
# other. Below some size it reads the factors where they are, which is quicker: 49 Gflop/s in place of 32 for sides of
# 32 in place of 45, and 128 coordinates.
ALONE, SIDE = 2**18, 32


@exact
def _distances(x, y, ground, out):
    d = x.size
    for j in range(out.size):
        out[j] = 0.0
    last = d - d % 4
    for c in range(0, last, 4):  # four at a time, so that sums are read and written less often
        x0, x1, x2, x3 = x[c], x[c + 1], x[c + 2], x[c + 3]
        for j in range(out.size):
            d0, d1, d2, d3 = x0 - y[c, j], x1 - y[c + 1, j], x2 - y[c + 2, j], x3 - y[c + 3, j]
            total = out[j] + (d0 * d0 if ground == EUCLIDEAN else abs(d0))
            total += d1 * d1 if ground == EUCLIDEAN else abs(d1)
            total += d2 * d2 if ground == EUCLIDEAN else abs(d2)
            out[j] = total + (d3 * d3 if ground == EUCLIDEAN else abs(d3))
    for c in range(last, d):
        for j in range(out.size):
            difference = x[c] - y[c, j]
            out[j] += difference * difference if ground == EUCLIDEAN else abs(difference)


@exact
def _powers(out, power):
    for j in range(out.size):
        out[j] = np.sqrt(out[j]) if power == 0.5 else out[j] * out[j]


@jit
def distances(x, y, ground, power, out):
    """Costs between points ``x (k or 1, r, d)`` and ``y (k or 1, d, m)``, bitwise equal to those of `Cost`."""
    for k in range(out.shape[0]):
        for r in range(out.shape[1]):
            _distances(x[k % x.shape[0], r], y[k % y.shape[0]], ground, out[k, r])
            if power != 1.0:
                _powers(out[k, r], power)


@exact
def _from_products(out, x, y, cancelled):
    """‖x‖² + ‖y‖² − 2·out in place; returns the number of entries that have cancelled."""
    found = 0
    for j in range(out.size):
        size = x + y[j]
        out[j] = size - 2.0 * out[j]
        found += out[j] < cancelled * size
    return found


@jit
def _square_distance(x, y):
    wide()
    total = 0.0
    for d in range(x.size):
        difference = x[d] - y[d]
        total += difference * difference
    return total


@exact
def _mend(out, x, y, length, lengths, cancelled):
    """Recompute the squared distances that have cancelled."""
    for j in range(out.size):
        if out[j] < cancelled * (length + lengths[j]):
            out[j] = _square_distance(x, y[j])


@jit
def _mirror(out, first, stop):
    """Set the entries of rows ``first…stop`` left of the column `first` to those above the diagonal."""
    for left in range(0, first, stop - first):
        right = min(left + stop - first, first)
        for i in range(first, stop):
            for j in range(left, right):
                out[i, j] = out[j, i]


@jit
def from_products(x, y, lengths_x, lengths_y, power, cancelled, alike, out):
    """Costs ``(k, r, m)`` between points ``x (k or 1, r, d)`` and ``y (k or 1, m, d)``, by products of matrices.

    The squared lengths of the points are ``lengths_x (k or 1, r)`` and ``lengths_y (k or 1, m)``. Where the points are
    `alike`, only the entries on and above the diagonal are computed.
    """
    side = max(1, min(SIDE, int(np.sqrt(ALONE / x.shape[2]))))
    height = min(side, out.shape[1])
    width = side * side // height
    for k in range(out.shape[0]):
        kx, ky = k % x.shape[0], k % y.shape[0]
        for i in range(0, out.shape[1], height):
            stop, left = min(i + height, out.shape[1]), i if alike else 0
            for j in range(left, out.shape[2], width):
                part = np.dot(x[kx, i:stop], y[ky, j : j + width].T)
                for r in range(part.shape[0]):
                    copy(part[r], out[k, i + r, j : j + width])
            for r in range(i, stop):
                length, lengths, entries = lengths_x[kx, r], lengths_y[ky, left:], out[k, r, left:]
                if _from_products(entries, length, lengths, cancelled):
                    _mend(entries, x[kx, r], y[ky, left:], length, lengths, cancelled)
                if power != 1.0:
                    _powers(entries, power)
            if alike:
                _mirror(out[k], i, stop)
