"""What a basis of the network simplex starts from, compiled: reduced costs, arcs by rank, and masses moved greedily."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.entries import _reduced
from otkit.kernels.numba.jit import exp, jit
from otkit.kernels.numba.pricing import lowest

# Rows and columns are visited in strides. Their costs may be sorted, which is the worst case of an insertion.
_ROWS, _COLUMNS = 16, 8
# Exponent of terms that have no effect on the entropy of a row.
_NEGLIGIBLE = -700.0


@jit
def reduce_costs(C, row, col, transposed, out):
    """The matrix of reduced costs."""
    for i in range(row.size):
        for j in range(col.size):
            out[i, j] = _reduced(C[i, j], row[i], col[j], transposed)


@jit
def round_costs(C, out):
    """The costs in single precision; none if `out` has no rows."""
    for i in range(out.shape[0]):
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
def ranked(C, f, g, k):
    """The k columns of least ``C_ij − g_j`` of each row ``(n, k)``, and rows of least ``C_ij − f_i`` of each column.

    Where fewer costs are finite, the other places are −1.
    """
    n, m = C.shape
    by_row, by_col = np.full((n, k), -1, dtype=np.int32), np.full((m, k), -1, dtype=np.int32)
    of_row, of_col, worst = np.empty(k), np.full((m, k), np.inf), np.full(m, np.inf)
    for begin in range(_ROWS):
        for i in range(begin, n, _ROWS):
            of_row[:] = np.inf
            for first in range(_COLUMNS):
                for j in range(first, m, _COLUMNS):
                    if C[i, j] - g[j] < of_row[k - 1]:
                        _insert(C[i, j] - g[j], j, of_row, by_row[i])
            for j in range(m):
                if C[i, j] - f[i] < worst[j]:
                    _insert(C[i, j] - f[i], i, of_col[j], by_col[j])
                    worst[j] = of_col[j, k - 1]
    return by_row, by_col


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
