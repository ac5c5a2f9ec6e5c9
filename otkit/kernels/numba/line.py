"""Pairs of small measures on a line, compiled: the monotone plan of sorted points, its value and its bounds."""

from __future__ import annotations

import math

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.items import (
    COSTS,
    ERROR,
    FLAG,
    LOWER,
    MASS,
    PIVOTS,
    RANGE,
    RESCALED,
    ROUNDING,
    SPAN,
    UNEQUAL,
    UNSOLVED,
    UPPER,
    VALUE,
    WEIGHTS,
    WIDE,
)  # fmt: skip
from otkit.kernels.numba.jit import ordered
from otkit.kernels.numba.proof import ABSOLUTE, EXPONENT, GROUND, RELATIVE, SPREAD, total
from otkit.kernels.numba.sorting import in_order
from otkit.kernels.numba.staircase import raised, walk

# A wider interval than this fraction of its upper end goes the general way, which may reduce the costs.
_WIDE = 1e-9


@ordered
def _weigh(w, at, size):
    """The total of the weights, 0 where they are no weights."""
    whole, good = total(w, at, size), True
    for k in range(at, at + size):
        good &= w[k] >= 0.0
    return whole if good and whole < np.inf else 0.0


@ordered
def solve(x, w, at, metric, first, second, unit, begin, end, num, info):
    """Solve the pairs ``begin … end`` of measures on a line; arguments are those of `vertices.solve`.

    The points ``x (N, 1)`` of each measure are sorted. The plan is optimal by a theorem, so the lower bound is its cost
    less the effect of its defect, as in `otkit.solvers.univariate`.
    """
    power = 2.0 * metric[EXPONENT] if metric[GROUND] == 0.0 else metric[EXPONENT]
    for k in range(begin, end):
        p, q = at[first[k]], at[second[k]]
        n, m = at[first[k] + 1] - p, at[second[k] + 1] - q
        whole_a, whole_b = _weigh(w, p, n), _weigh(w, q, m)
        num[k, MASS] = whole_a / 2 + whole_b / 2
        num[k, RESCALED] = abs(whole_a - whole_b) / num[k, MASS]
        low, high = min(x[p, 0], x[q, 0]), max(x[p + n - 1, 0], x[q + m - 1, 0])
        span = max(raised(abs(x[p, 0] - x[q + m - 1, 0]), power), raised(abs(x[p + n - 1, 0] - x[q, 0]), power))
        num[k, SPAN] = span
        if not (whole_a > 0.0 and whole_b > 0.0):
            info[k, FLAG] = WEIGHTS
        elif not num[k, RESCALED] <= np.sqrt(unit):
            info[k, FLAG] = UNEQUAL
        elif not span < np.inf:
            info[k, FLAG] = RANGE
        elif low < high < low + metric[SPREAD]:
            info[k, FLAG] = COSTS
        else:
            linear, defect = walk(x[:, 0], w, p, n, q, m, whole_a, whole_b, power)
            sums, repair = (64 + 3 * math.log2(n + m)) * UNIT, 1.01 * defect * span
            below = (sums + metric[RELATIVE]) * linear + metric[ABSOLUTE]
            above = below + (n + m) * UNIT * linear + repair
            lower = linear - repair
            num[k, VALUE], num[k, LOWER], num[k, UPPER] = linear, max(lower - below, 0.0), linear + above
            num[k, ROUNDING], num[k, ERROR] = below + above, defect
            wide = not num[k, UPPER] - num[k, LOWER] <= _WIDE * num[k, UPPER]
            info[k, FLAG], info[k, PIVOTS] = WIDE if wide else 0, 0


@ordered
def pair(x, y, a, b, metric, unit, smallest, num, info):
    """Solve one pair of measures, with points ``x (n, 1)`` and ``y (m, 1)`` in any order.

    It is left unsolved where buckets do not sort the points, or one is smaller than `smallest` but not 0.
    """
    n, m = x.shape[0], y.shape[0]
    points, w = np.empty((n + m, 1)), np.empty(n + m)
    size = in_order(x[:, 0], a, points[:n, 0], w[:n])
    if size >= smallest:
        size = in_order(y[:, 0], b, points[n:, 0], w[n:])
    if not size >= smallest:
        info[0, FLAG] = UNSOLVED
        return
    at = np.array([0, n, n + m])
    solve(points, w, at, metric, np.array([0]), np.array([1]), unit, 0, 1, num, info)
