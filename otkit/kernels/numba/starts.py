"""What a basis of the network simplex starts from, compiled: reduced costs, arcs by rank, and masses moved greedily."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.entries import _reduced
from otkit.kernels.numba.jit import exp, jit, least, wide
from otkit.kernels.numba.pricing import _place, lowest

# Entries of a row, and rows of a column, of which only the least is compared with those found so far. These blocks are
# visited in strides: costs may be sorted, which is the worst case of an insertion.
_ENTRIES, _ROWS, _STRIDE = 64, 16, 8
# Exponent of terms that have no effect on the entropy of a row.
_NEGLIGIBLE = -700.0


@jit
def reduce_costs(C, row, col, transposed, out):
    """The matrix of reduced costs."""
    for i in range(row.size):
        for j in range(col.size):
            out[i, j] = _reduced(C[i, j], row[i], col[j], transposed)


@jit
def reduce_some(C, rows, cols, row, col, transposed, out):
    """The matrix of reduced costs between some points."""
    for i in range(rows.size):
        for j in range(cols.size):
            out[i, j] = _reduced(C[rows[i], cols[j]], row[rows[i]], col[cols[j]], transposed)


@jit
def round_costs(C, out, low, high):
    """The costs of some rows in single precision."""
    for i in range(low, high):
        for j in range(out.shape[1]):
            out[i, j] = C[i, j]


@jit
def c_transform(C, g):
    """min_j C_ij − g_j of every row."""
    out = np.empty(C.shape[0])
    for i in range(out.size):
        out[i] = lowest(C[i], g)
    return out


@jit
def _insert(x, index, best, where):
    """Insert a number below the last of the sorted `best`; the last one leaves."""
    k = best.size - 1
    while k > 0 and best[k - 1] > x:
        best[k], where[k] = best[k - 1], where[k - 1]
        k -= 1
    best[k], where[k] = x, index


@jit
def best_columns(C, g, low, high, out):
    """The columns of least ``C_ij − g_j`` of some rows, ``out (n, k)``. Entries stay where fewer costs are finite."""
    m, best = g.size, np.empty(out.shape[1], dtype=C.dtype)
    for i in range(low, high):
        best[:] = np.inf
        for begin in range(0, _STRIDE * _ENTRIES, _ENTRIES):
            for first in range(begin, m, _STRIDE * _ENTRIES):
                last = min(first + _ENTRIES, m)
                if lowest(C[i, first:last], g[first:last]) < best[-1]:
                    for j in range(first, last):
                        if C[i, j] - g[j] < best[-1]:
                            _insert(C[i, j] - g[j], j, best, out[i])


@jit
def _lower(costs, f, out):
    """Replace entries by ``costs_j − f`` where these are less."""
    wide()
    for j in range(out.size):
        out[j] = least(out[j], costs[j] - f)


@jit
def best_rows(C, f, low, high, out):
    """The rows of least ``C_ij − f_i`` of some columns, ``out (m, k)``. Entries stay where fewer costs are finite."""
    n, k = f.size, out.shape[1]
    best, worst = np.full((high - low, k), np.inf, dtype=C.dtype), np.full(high - low, np.inf, dtype=C.dtype)
    found = np.empty(high - low, dtype=C.dtype)
    for begin in range(0, _STRIDE * _ROWS, _ROWS):
        for first in range(begin, n, _STRIDE * _ROWS):
            last = min(first + _ROWS, n)
            found[:] = np.inf
            for i in range(first, last):
                _lower(C[i, low:high], f[i], found)
            for j in range(found.size):
                if found[j] < worst[j]:
                    for i in range(first, last):
                        if C[i, low + j] - f[i] < worst[j]:
                            _insert(C[i, low + j] - f[i], i, best[j], out[low + j])
                            worst[j] = best[j, k - 1]


@jit
def greedy(order, rows, cols, supply, n):
    """The arcs that carry mass if each in turn, in this order, takes all that is left at both of its ends: a forest."""
    left, found, count = np.abs(supply), np.empty(order.size, dtype=np.int64), 0
    for k in order:
        i, j = rows[k], n + cols[k]
        moved = min(left[i], left[j])
        if moved > 0:
            left[i] -= moved
            left[j] -= moved
            found[count] = k
            count += 1
    return found[:count]


@jit
def settle(C, g, a, room):
    """Move the mass ``a`` of rows in turn to their columns of least ``C_ij − g_j``; returns what has no room there."""
    left = 0.0
    for i in range(a.size):
        j = _place(C[i], g, lowest(C[i], g))
        moved = min(a[i], room[j])
        room[j] -= moved
        left += a[i] - moved
    return left


@jit
def widths(C, h, reg):
    """The exponential of the entropy of every row of exp((h_j − C_ij)/reg)."""
    out = np.empty(C.shape[0])
    for i in range(out.size):
        value = lowest(C[i], h)
        total, weighted = 0.0, 0.0
        for j in range(h.size):
            exponent = (h[j] - C[i, j] + value) / reg
            e = exp(exponent)
            total += e
            weighted += e * max(exponent, _NEGLIGIBLE)
        out[i] = total * exp(-weighted / total)
    return out
