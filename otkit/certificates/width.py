"""How narrow an interval must be to count as the answer: relative to the optimum, or to the ordinary costs."""

from __future__ import annotations

import numpy as np

from otkit.arrays import to_numpy
from otkit.certificates.base import sides
from otkit.problems.linear import LinearProblem

# An exact answer is at most this wide, relative to the distance or cost, or to the scale of the costs.
EXACT = 1e-9
# The largest cost is the scale of the costs, up to so many times the mean of the costs below.
ORDINARY = 2.0**20
# Number of costs in a sample, and least number of its rows, to a factor of 1.5: steps between rows are primes, as the
# order of points often has another period.
_SAMPLE, _ROWS = 2**16, 16
_STEPS = (1, 2, 3, 5, 7, 11, 13, 17, 23, 31, 47, 67, 97, 139, 197, 281, 401, 571, 809, 1151, 1627, 2309, 3259, 4093)
# Costs below this fraction of the offsets are their rounding errors.
_ZERO = 2.0**-40
# Costs below this fraction of what a plan pays for its mass do not matter beside it.
_PAID = 2.0**-10
# Bounds of plans that cost the same differ by so many errors of a cost: one for potentials, three for a corrected plan.
_ALIKE = 4.0


def ordinary(problem: LinearProblem, item: int, lower: float = 0.0) -> float:
    """The size of the costs without outliers: the power mean (Σ R^(−1/2) / k)^(−2) of the reduced costs.

    Of a few costs that are far larger than the others, it is as large as if these were absent. If a fraction φ of the
    costs are far smaller than the others, it is at most φ⁻² times as large as these. A reduced cost of 0 has the size
    of the cost itself: in tight clusters far from each other, no other is small. It has none if it is not known to
    `EXACT`, or far below a lower bound of the optimum, which then is paid for other arcs.
    """
    costs, one = problem.reduced, slice(item, item + 1)
    step = min(costs.n // _ROWS, costs.n * costs.m // _SAMPLE)
    rows = slice(0, costs.n, next((k for k in _STEPS if k >= step), step))
    R = to_numpy(costs.block(one, rows))[0]
    row, col = to_numpy(costs.row)[item, rows, None], to_numpy(costs.col)[item]
    with_mass = (to_numpy(problem.a)[item, rows, None] > 0) & (to_numpy(problem.b)[item] > 0)
    error = _ZERO * (abs(row) + abs(col))
    least = max(problem.geometry.rounding[1] / EXACT, _PAID * lower / problem.size[item])
    own = np.where(abs(row + col) > least, abs(row + col), 0.0)
    sizes = np.where(error < R, R, own)
    sizes = sizes[with_mass & np.isfinite(R) & (error < sizes)]
    return float(np.mean(1 / np.sqrt(sizes)) ** -2) if sizes.size else 0.0


def outliers(problem: LinearProblem, item: int, lower: float = 0.0) -> float:
    """The size of the ordinary costs if some are far larger, else 0; `lower` is a lower bound of the optimum."""
    size = ordinary(problem, item, lower)
    return size if problem.span[item] > ORDINARY * size else 0.0


def narrow(
    problem: LinearProblem, lower: np.ndarray, upper: np.ndarray, rtol: float | np.ndarray, atol: float
) -> np.ndarray:
    """Whether intervals ``(B,)`` are at most `rtol` of their upper end wide, or `atol` of the scale of the costs.

    The scale is their range, or the size of the ordinary costs if some are far larger; and at least the mean offsets.
    These are at most the optimum if no cost is negative. If costs of both signs cancel, their rounding errors do not.
    Where all costs between points with mass are 0, an interval of their rounding errors is narrow. Where marginals
    are penalised, the scale is at most the penalty of a plan that moves nothing, or this where all costs are 0.
    """
    with np.errstate(invalid="ignore"):  # infinite bounds
        width = np.where(upper < np.inf, upper - lower, np.inf)
        fine = (width < np.inf) & (width <= rtol * abs(upper))
    if fine.all():
        return np.asarray(fine)
    nothing = (problem.low == 0) & (problem.high == 0)  # all mass stays where it is, up to the rounding of the costs
    if nothing.any():
        fine |= nothing & (width <= _ALIKE * problem.geometry.rounding[1])
    a, b, row, col = sides(problem)
    unmoved = problem.unmoved
    most = np.where(unmoved.any(0), unmoved.sum(0), np.inf)
    offsets = (a * abs(row)).sum(-1) + (b * abs(col)).sum(-1)
    unscaled = (offsets == 0) & (problem.span == 0) & (most < np.inf)
    fine |= width <= atol * np.where(unscaled, most, np.minimum(offsets, most))
    for k in np.flatnonzero(~fine & (width <= atol * np.minimum(problem.span * problem.size, most))):
        size = outliers(problem, int(k), float(lower[k]))
        fine[k] = not size or width[k] <= atol * size * problem.size[k]
    return np.asarray(fine)


def relative(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The width of intervals ``(B,)`` relative to their upper end; NaN where this is 0 or unknown."""
    known = (upper < np.inf) & (upper != 0)
    return np.where(known, (upper - lower) / np.where(known, abs(upper), 1.0), np.nan)


def precise(problem: LinearProblem, lower: np.ndarray, upper: np.ndarray, rtol: float | None = None) -> np.ndarray:
    """Whether intervals ``(B,)`` are as narrow as `rtol`, or count as exact, which is the default."""
    cloud = problem.geometry.cloud
    of_value, of_span = exactness(1.0 if cloud is None else cloud.metric.power)
    return narrow(problem, lower, upper, rtol or of_value, of_span)


def exactness(power: float) -> tuple[float, float]:
    """The widths of an interval that counts as exact, relative to its upper end and to the scale of the costs.

    The cost of a distance to the power p may be p times as wide as others: the distance is not. Relative to the scale,
    for p > 2 it may be `EXACT` to the power p/2 wide, so that the root of this does not grow with p.
    """
    return min(EXACT * max(power, 1.0), 0.5), float(EXACT ** max(power / 2, 1.0))
