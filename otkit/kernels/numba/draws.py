"""Columns of rows of masses, drawn in proportion to them, compiled."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import ordered


@ordered
def passed(ends, row, at, out):
    """Write the first place of a row of `ends (r, m)`, its cumulative sums, that exceeds this part of the last."""
    for k in range(row.size):
        line = ends[row[k]]
        low, high, last = 0, line.size - 1, line[line.size - 1]
        sought = min(at[k] * last, np.nextafter(last, line.dtype.type(0)))
        while low < high:
            middle = (low + high) // 2
            if line[middle] > sought:
                high = middle
            else:
                low = middle + 1
        out[k] = low
