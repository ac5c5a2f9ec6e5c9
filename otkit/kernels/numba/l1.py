"""L1 distances between the rows of ``x (n, d)`` and ``y (m, d)``, and their gradient, compiled.

Where coordinates are many, inner loops run over them: kernels take some rows of y and some coordinates at a time, which
the second-level cache holds. Where they are few, inner loops run over the rows of y, and kernels read its transpose.
All write to the rows ``low…high`` of the first side. Threads divide these rows.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import clear, copy, jit, wide

# Coordinates and rows at a time, and the distance of rows in memory.
_COORDINATES, _POINTS = 512, 32
_STRIDE = _COORDINATES + 16


@jit
def _four(x0, x1, y0, y1):
    """The distances of two rows from two others: each entry is read once for two differences."""
    wide()
    a = b = c = d = x0.dtype.type(0)
    for k in range(x0.size):
        a += abs(x0[k] - y0[k])
        b += abs(x0[k] - y1[k])
        c += abs(x1[k] - y0[k])
        d += abs(x1[k] - y1[k])
    return a, b, c, d


@jit
def _load(x, low, high, first, out):
    """Copy some coordinates of some rows. Rows at a distance of powers of 2 would evict each other from the caches."""
    for i in range(low, high):
        copy(x[i][first : first + _COORDINATES], out[i - low])


@jit
def distances(x, y, out, low, high):
    """Set ``out (n, m)`` to Σ_k |x_ik − y_jk|."""
    m, zero = len(y), out.dtype.type(0)
    u, v = np.empty((high - low, _STRIDE), x.dtype), np.empty((_POINTS, _STRIDE), x.dtype)
    for i in range(low, high):
        clear(out[i])
    for first in range(0, x.shape[1], _COORDINATES):
        size = min(_COORDINATES, x.shape[1] - first)
        _load(x, low, high, first, u)
        for start in range(0, m, _POINTS):
            stop = min(start + _POINTS, m)
            _load(y, start, stop, first, v)
            for i in range(low, high, 2):
                # The last row stands for one that is not there.
                below = min(i + 1, high - 1)
                x0, x1 = u[i - low][:size], u[below - low][:size]
                for j in range(start, stop, 2):
                    beside = min(j + 1, stop - 1)
                    a, b, c, d = _four(x0, x1, v[j - start][:size], v[beside - start][:size])
                    out[i, j] += a
                    out[i, beside] += b if beside > j else zero
                    out[below, j] += c if below > i else zero
                    out[below, beside] += d if below > i and beside > j else zero


@jit
def _add_signs(x, y0, y1, y2, y3, y4, y5, y6, y7, c, out):
    """Add Σ_j c_j·sign(x − y_j) of 8 rows, so that the sum is read and written once for all."""
    zero = x.dtype.type(0)
    c0, c1, c2, c3, c4, c5, c6, c7 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    n0, n1, n2, n3, n4, n5, n6, n7 = -c0, -c1, -c2, -c3, -c4, -c5, -c6, -c7
    for k in range(x.size):
        u = x[k]
        total = c0 if u > y0[k] else (n0 if u < y0[k] else zero)
        total += c1 if u > y1[k] else (n1 if u < y1[k] else zero)
        total += c2 if u > y2[k] else (n2 if u < y2[k] else zero)
        total += c3 if u > y3[k] else (n3 if u < y3[k] else zero)
        total += c4 if u > y4[k] else (n4 if u < y4[k] else zero)
        total += c5 if u > y5[k] else (n5 if u < y5[k] else zero)
        total += c6 if u > y6[k] else (n6 if u < y6[k] else zero)
        total += c7 if u > y7[k] else (n7 if u < y7[k] else zero)
        out[k] += total


@jit
def _add_sign(x, y, c, out):
    zero = x.dtype.type(0)
    for k in range(x.size):
        out[k] += (c if x[k] > y[k] else zero) - (c if x[k] < y[k] else zero)


@jit
def distance_gradient(x, y, c, out, low, high):
    """Set ``out (n, d)`` to Σ_j c_ij·sign(x_ik − y_jk), the sign of 0 being 0."""
    v, total = np.empty((_POINTS, _STRIDE), x.dtype), np.empty((high - low, _STRIDE), x.dtype)
    u = np.empty((high - low, _STRIDE), x.dtype)
    for first in range(0, x.shape[1], _COORDINATES):
        size = min(_COORDINATES, x.shape[1] - first)
        _load(x, low, high, first, u)
        for i in range(low, high):
            clear(total[i - low])
        for start in range(0, len(y), _POINTS):
            stop = min(start + _POINTS, len(y))
            _load(y, start, stop, first, v)
            for i in range(low, high):
                _add_all(u[i - low][:size], v, c[i][start:stop], total[i - low][:size])
        for i in range(low, high):
            copy(total[i - low][:size], out[i][first : first + size])


@jit
def _add_all(x, y, c, out):
    j, size = 0, x.size
    while j + 8 <= c.size:
        y0, y1, y2, y3 = y[j][:size], y[j + 1][:size], y[j + 2][:size], y[j + 3][:size]
        y4, y5, y6, y7 = y[j + 4][:size], y[j + 5][:size], y[j + 6][:size], y[j + 7][:size]
        _add_signs(x, y0, y1, y2, y3, y4, y5, y6, y7, c[j : j + 8], out)
        j += 8
    while j < c.size:
        _add_sign(x, y[j][:size], c[j], out)
        j += 1


@jit
def _distances_across(x, y, out):
    # Four coordinates at a time, so that the sums are read and written a quarter as often.
    wide()
    whole = x.size - x.size % 4
    clear(out)
    for k in range(0, whole, 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        y0, y1, y2, y3 = y[k], y[k + 1], y[k + 2], y[k + 3]
        for j in range(out.size):
            out[j] += (abs(x0 - y0[j]) + abs(x1 - y1[j])) + (abs(x2 - y2[j]) + abs(x3 - y3[j]))
    for k in range(whole, x.size):
        u, v = x[k], y[k]
        for j in range(out.size):
            out[j] += abs(u - v[j])


@jit
def distances_across(x, y, out, low, high):
    """`distances` for few coordinates, with ``y (d, m)``."""
    for i in range(low, high):
        _distances_across(x[i], y, out[i])


@jit
def _signed(x, y, c):
    wide()
    total = zero = c.dtype.type(0)
    for j in range(c.size):
        total += c[j] if x > y[j] else (-c[j] if x < y[j] else zero)
    return total


@jit
def gradient_across(x, y, c, out, low, high):
    """`distance_gradient` for few coordinates, with ``y (d, m)``."""
    for i in range(low, high):
        for k in range(x.shape[1]):
            out[i, k] = _signed(x[i, k], y[k], c[i])
