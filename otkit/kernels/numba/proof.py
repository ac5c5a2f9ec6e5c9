"""The plan of a basis and its certificate, compiled, for small problems: `otkit.certificates.base` says what they mean.

Sums are compensated, so that their rounding errors are below those that the bounds allow for.
"""

from __future__ import annotations

import math

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.jit import add, least, ordered
from otkit.kernels.numba.pricing import lowest

# Entries of the description of a cost (factor·S)^exponent: the sum S is of squared or absolute differences. A bound on
# the rounding error of a cost is relative·cost + absolute. Spread is the least one of distinct points. An interval is
# narrow if it is at most a fraction of its upper end wide, or one of the largest reduced cost.
GROUND, FACTOR, EXPONENT, RELATIVE, ABSOLUTE, SPREAD, NON_NEGATIVE, OF_VALUE, OF_SPAN = range(9)


@ordered
def total(w, at, size):
    """The sum of so many weights from a place on."""
    s = rest = 0.0
    for k in range(at, at + size):
        s, rest = add(s, rest, w[k])
    return s + rest


@ordered
def _inner(w, v):
    """⟨w, v⟩ and ⟨w, |v|⟩."""
    s = rest = size = 0.0
    for k in range(w.size):
        term = w[k] * v[k]
        s, rest = add(s, rest, term)
        size += abs(term)
    return s + rest, size


@ordered
def masses(n, weight, rows, cols, parent, reverse, cost, ends, mass):
    """Write the arcs of a basis and their masses, by differences of the weights from the leaves of the tree up.

    Returns the number of arcs, the cost in reduced costs, the L1 distance of the marginals from the weights in exact
    arithmetic, and the computed one.
    """
    root = weight.size
    left, net = np.empty(root), np.empty(root)
    for k in range(root):
        left[k], net[k] = weight[k], -weight[k]
    defect = linear = rest = 0.0
    count, v = 0, np.int64(reverse[root])
    while v != root:
        above, moved = np.int64(parent[v]), left[v]
        if above == root:
            defect += abs(moved)
        else:
            left[above], lost = add(left[above], 0.0, -moved)
            defect += abs(lost)
            if moved < 0.0:  # of about a grain, from rounding
                defect -= 2.0 * moved
                moved = 0.0
            i, j = min(v, above), max(v, above)
            ends[count, 0], ends[count, 1], mass[count] = rows[i], cols[j - n], moved
            net[i] += moved
            net[j] += moved
            linear, rest = add(linear, rest, moved * cost[v])
            count += 1
        v = np.int64(reverse[v])
    error = whole = 0.0
    for k in range(root):
        error += abs(net[k])
        whole += weight[k]
    return count, linear + rest, defect, 2.0 * error / whole


@ordered
def potentials(R, n, m, weight, pi, f, g):
    """Write feasible potentials of all points, by two c-transforms from the prices of the first m columns."""
    shift, start = 0.0, np.empty(m)
    for v in range(n + m):  # prices contain the cost of artificial arcs as a constant: remove it
        shift += weight[v] * pi[v]
    for j in range(m):
        start[j] = pi[n + j] - shift / 2
    for j in range(g.size):
        g[j] = np.inf
    for i in range(f.size):
        value = lowest(R[i], start)
        f[i] = value if abs(value) < np.inf else 0.0
        if i < n:
            for j in range(g.size):
                g[j] = least(g[j], R[i, j] - value)
    for j in range(g.size):
        g[j] = g[j] if abs(g[j]) < np.inf else 0.0


@ordered
def _both(n, m, row, col):
    """The first n and m components of vectors of the rows and of the columns, in one vector."""
    out = np.empty(n + m)
    for i in range(n):
        out[i] = row[i]
    for j in range(m):
        out[n + j] = col[j]
    return out


@ordered
def prove(n, m, weight, row, col, f, g, linear, defect, span, low, forbidden, cost):
    """The value, its bounds, and what they are widened by, as `widened`; the first n rows and m columns have mass."""
    points, offsets = row.size + col.size, _both(n, m, row, col)
    (dual, size), (offset, offset_size) = _inner(weight, _both(n, m, f, g)), _inner(weight, offsets)
    plain, level, of_columns = True, 0.0, 0.0
    for v in range(n + m):
        plain &= offsets[v] == 0.0
        if v >= n:
            level = max(level, abs(offsets[v]))
            of_columns += weight[v] * abs(offsets[v])
    sums, unit = (64 + 3 * math.log2(points)) * UNIT, 0.0 if plain else 2 * UNIT
    offset_error = sums * offset_size + unit * of_columns
    below = (sums + 2 * unit) * size + offset_error
    above = (points * UNIT + sums + 2 * unit) * linear + offset_error + unit * defect * level
    above += 1.01 * defect * (points if forbidden else 1) * span
    lower, upper = dual + offset, linear + offset
    below += cost[RELATIVE] * abs(lower) + cost[ABSOLUTE]
    above += cost[RELATIVE] * abs(upper) + cost[ABSOLUTE]
    bottom = lower - below
    if cost[NON_NEGATIVE] or low >= 0.0:
        bottom = max(bottom, 0.0)
    return max(upper, bottom), bottom, upper + above, below + above
