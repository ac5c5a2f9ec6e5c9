"""Passes along one axis of a grid, compiled: minima, soft minima and means under the plan.

A pass reads potentials on lines, ``h (lines, columns)``, and adds the costs of the axis. With them,
``v_i(j) = c(i, j) + h_j`` is a Monge array: c is a convex function of a difference of places. The places of row minima
are monotone in i, and so are both ends of the window of the columns that matter, ``v_i(j) ≤ min_j v_i(j) + FAR·reg``.
The minima are found by bisection of the rows, and the windows by one walk. The exponentials outside of the windows are
below rounding, so that no bandwidth is chosen.

The costs of an axis are a table ``(phases, …)``: row i has phase ``i mod phases``, and stands at the place
``i div phases`` of the columns and a fraction. On one grid there is one phase; with two, the rows are those of a grid
of half the spacing. Results are written with the axis in front, ``(rows, lines)``, so that the next pass finds the next
axis last.
"""

from __future__ import annotations

import math

import numpy as np

from otkit.kernels.numba.jit import exp, jit, wide

# The exponent of terms that are left out, relative to the largest one: e^−36 is 2e-16.
FAR = 36.0
# Windows end at whole blocks, since remainders of vectors are computed one by one. Tables and lines are padded for it.
BLOCK = 8


@jit
def _places(h, table, rows, where):
    """The column of the least ``c(i, j) + h_j`` of every row, by bisection."""
    phases, n = table.shape[0], h.size
    step = 1
    while 2 * step <= rows:
        step *= 2
    while step > 0:
        for i in range(step - 1, rows, 2 * step):
            low = where[i - step] if i >= step else 0
            high = where[i + step] if i + step < rows else n - 1
            costs = table[i % phases, BLOCK + n - 1 - i // phases :]
            best, place = np.inf, low
            for j in range(low, high + 1):
                value = costs[j] + h[j]
                if value < best:
                    best, place = value, j
            where[i] = place
        step //= 2


@jit
def minima(h, first, table, out):
    """The least ``c(i, j) + h_j`` of every row of some lines, from `first` on in ``out (rows, lines)``."""
    rows, n = out.shape[0], h.shape[1]
    where, least = np.empty(rows, dtype=np.int64), np.empty((h.shape[0], rows))
    for line in range(h.shape[0]):
        _places(h[line], table, rows, where)
        for i in range(rows):
            j = where[i]
            least[line, i] = table[i % table.shape[0], BLOCK + n - 1 - i // table.shape[0] + j] + h[line, j]
    _turn(least, first, out)


@jit
def _turn(values, first, out):
    """Write lines as columns."""
    for i in range(out.shape[0]):
        for line in range(values.shape[0]):
            out[i, first + line] = values[line, i]


@jit
def _windows(h, table, far, least, low, high):
    """The least value of every row, and the first and the last column of its window; h is not infinite everywhere."""
    rows, phases, n = least.size, table.shape[0], h.size
    _places(h, table, rows, low)
    for i in range(rows):
        least[i] = table[i % phases, BLOCK + n - 1 - i // phases + low[i]] + h[low[i]]
    j = n - 1
    for i in range(rows - 1, -1, -1):
        costs = table[i % phases, BLOCK + n - 1 - i // phases :]
        while costs[j] + h[j] > least[i] + far:
            j -= 1
        high[i] = j
    j = 0
    for i in range(rows):
        costs = table[i % phases, BLOCK + n - 1 - i // phases :]
        while costs[j] + h[j] > least[i] + far:
            j += 1
        low[i] = j


@jit
def _mass(costs, h, least, inverse):
    """Σ exp((least − c − h)/reg) of a window."""
    wide()
    total = 0.0
    for j in range(8 * (h.size // 8)):
        total += exp((least - (costs[j] + h[j])) * inverse)
    return total


@jit
def _padded(h, line):
    for j in range(h.size):
        line[BLOCK + j] = h[j]


@jit
def softmin(h, first, table, reg, out):
    """−reg·log Σ_j exp(−(c(i, j) + h_j)/reg) of every row of some lines; infinite where h is."""
    rows, n, phases = out.shape[0], h.shape[1], table.shape[0]
    least, low, high = np.empty(rows), np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    line, soft = np.full(n + 2 * BLOCK, np.inf), np.empty((h.shape[0], rows))
    for k in range(h.shape[0]):
        if not h[k].min() < np.inf:
            soft[k] = np.inf
            continue
        _padded(h[k], line)
        _windows(h[k], table, FAR * reg, least, low, high)
        for i in range(rows):
            size = BLOCK * ((high[i] - low[i] + BLOCK) // BLOCK)
            at = BLOCK + low[i]
            shift = at + n - 1 - i // phases
            costs = table[i % phases, shift : shift + size]
            soft[k, i] = least[i] - reg * math.log(_mass(costs, line[at : at + size], least[i], 1.0 / reg))
    _turn(soft, first, out)


@jit
def _weigh(costs, h, least, inverse, w):
    """The terms exp((least − c − h)/reg) of a window."""
    wide()
    for j in range(h.size):
        w[j] = exp((least - (costs[j] + h[j])) * inverse)


@jit
def _sum(w):
    wide()
    total = 0.0
    for j in range(8 * (w.size // 8)):
        total += w[j]
    return total


@jit
def _dot(w, x):
    wide()
    total = 0.0
    for j in range(8 * (w.size // 8)):
        total += w[j] * x[j]
    return total


@jit
def _times(w, costs):
    for j in range(w.size):
        w[j] *= costs[j]


@jit
def means(h, x, first, table, reg, out, mean):
    """`softmin` of some lines, and the means of quantities under its weights.

    ``x (channels, orders, lines, columns)`` has the means of ``C^q·v`` of several v for the axes passed so far, q from
    0 on. ``mean (channels, orders, rows, lines)`` has them with the cost of this axis: by the binomial theorem,
    ``(C + c)^q·v`` is the sum of ``binom(q, r)·c^(q − r)·C^r·v``.
    """
    rows, n, phases = out.shape[0], h.shape[1], table.shape[0]
    channels, orders = x.shape[0], x.shape[1]
    least, low, high = np.empty(rows), np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    line, w, one = np.full(n + 2 * BLOCK, np.inf), np.empty(n + 2 * BLOCK), np.zeros((channels, orders, n + 2 * BLOCK))
    for k in range(h.shape[0]):
        if not h[k].min() < np.inf:
            out[:, first + k] = np.inf
            mean[:, :, :, first + k] = 0.0
            continue
        _padded(h[k], line)
        for c in range(channels):
            for q in range(orders):
                _padded(x[c, q, k], one[c, q])
        _windows(h[k], table, FAR * reg, least, low, high)
        for i in range(rows):
            at, size = BLOCK + low[i], BLOCK * ((high[i] - low[i] + BLOCK) // BLOCK)
            shift = at + n - 1 - i // phases
            costs = table[i % phases, shift : shift + size]
            _weigh(costs, line[at : at + size], least[i], 1.0 / reg, w[:size])
            total = _sum(w[:size])
            out[i, first + k] = least[i] - reg * math.log(total)
            mean[:, :, i, first + k] = 0.0
            for power in range(orders):
                binomial = 1.0
                for r in range(orders - power):
                    for c in range(channels):
                        mean[c, power + r, i, first + k] += binomial * _dot(w[:size], one[c, r, at : at + size]) / total
                    binomial = binomial * (power + r + 1) / (r + 1)
                if power + 1 < orders:
                    _times(w[:size], costs)
