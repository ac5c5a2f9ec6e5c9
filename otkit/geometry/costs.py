"""Cost functions on tiles of points, with bounds on their rounding errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otkit.arrays import Array, namespace
from otkit.geometry.metrics import NAMES, Called, Function, Named

UNIT = 2.0**-53  # unit roundoff of float64, in which every cost is evaluated

# Up to this many coordinates, differences are formed one by one: exact to rounding, and no slower than a product.
DIRECT_DIMENSIONS = 16
# Coordinates of pairs of points whose differences are formed at a time.
COORDINATES = 2**19
# The largest exponent of a distance. The rounding error of a power is small for these.
HIGHEST = 2.0**30
# A shift is counted relative to distances above its quotient by this share. For a shift of points it is the rounding
# error of distances, up to this power.
_FEW, _SHARE = 4.0, 2.0**-36
# Numbers below the smallest normal one lose digits. This is somewhat larger.
_TINY = 2.0**-1000

GROUNDS = ("euclidean", "cityblock", "cosine")
METRICS = ("sqeuclidean", "euclidean", "cityblock", "cosine")

# Names of SciPy that need more than a name, each with what to do.
_ELSEWHERE = {
    "minkowski": "pass ('minkowski', p)",
    "seuclidean": "divide the coordinates by their standard deviations and pass 'euclidean'",
    "mahalanobis": "multiply the points by a Cholesky factor L of the inverse covariance L·Lᵀ and pass 'euclidean'",
}


@dataclass(frozen=True)
class Circle:
    """The distance along a circle of circumference `period`, between points given by one coordinate: see `places`."""

    period: float

    def __str__(self) -> str:
        return "a metric on a circle"

    def __call__(self, x: Array, y: Array) -> Array:
        """Distances between tiles ``x (..., r, 1)`` and ``y (..., m, 1)`` of `places`: ``(..., r, m)``."""
        return self.between(x[..., :, None, 0], y[..., None, :, 0])

    def between(self, x: Array, y: Array) -> Array:
        """Distances between places, of small relative error: across the end, the difference is exact (two-sum)."""
        xp = namespace(x)
        straight = x - y
        back = straight - x
        lost = (x - (straight - back)) - (y + back)
        across = (self.period - abs(straight)) - xp.sign(straight) * lost
        return xp.where(abs(straight) > self.period / 2, across, abs(straight))

    def places(self, x: Array) -> Array:
        """Points modulo the period, from minus half of it to half of it. Nothing is rounded."""
        xp = namespace(x)
        rest = xp.remainder(abs(x), self.period)
        return xp.sign(x) * xp.where(rest > self.period / 2, rest - self.period, rest)


@dataclass(frozen=True)
class Cost:
    """A ground distance raised to a power: c(x, y) = d(x, y)^power.

    Attributes
    ----------
    ground : {"euclidean", "cityblock", "cosine"}, Circle or Function
        The distance d: one that kernels compute, one along a circle, or a function.
    power : float
        The exponent, positive.
    forbids : bool
        Whether a cost that overflows forbids its arc. Otherwise it is an error.
    by_products : bool
        Whether Euclidean distances in many coordinates are computed by products of matrices.
    """

    ground: str | Circle | Function
    power: float = 1.0
    forbids: bool = field(default=False, repr=False)
    by_products: bool = field(default=True, repr=False)

    @property
    def convex_on_line(self) -> bool:
        """Whether in one dimension the cost is a convex function of the distance on a line or a circle.

        Sorting then solves the problem.
        """
        return (self.ground in ("euclidean", "cityblock") or self.period is not None) and self.power >= 1

    @property
    def period(self) -> float | None:
        """The circumference of the circle on which the points lie; None where they do not."""
        return self.ground.period if isinstance(self.ground, Circle) else None

    @property
    def non_negative(self) -> bool:
        """Whether the cost is known to be non-negative."""
        return not self.called

    @property
    def called(self) -> bool:
        """Whether the distance is a function of the caller."""
        return isinstance(self.ground, Called)

    @property
    def factor(self) -> float:
        """The factor in the cost ``(factor·S)^exponent``, for the sum S of squared or absolute differences.

        A "cosine" is half the squared distance of points of length 1.
        """
        return 0.5 if self.ground == "cosine" else 1.0

    @property
    def exponent(self) -> float:
        """The exponent in the cost ``(factor·S)^exponent``."""
        return self.power / 2 if self.ground == "euclidean" else self.power

    @property
    def smallest(self) -> float:
        """A distance whose powers are safe from underflow. Powers of smaller distances lose some or all digits."""
        return float(2.0 ** (-960 / max(self.power, 2.0)))

    def direct(self, d: int) -> bool:
        """Whether the differences of `d` coordinates are formed one by one: exact to rounding.

        The rounding error of a product is absolute. A power below 1 of a small distance would multiply it.
        """
        few = d <= DIRECT_DIMENSIONS or self.power < 1 or not self.by_products
        return self.ground == "cityblock" or (self.ground == "euclidean" and few)

    def centres(self, d: int) -> bool:
        """Whether points of dimension `d` are centred before the cost is evaluated."""
        return self.ground == "euclidean" and not self.direct(d)

    def rounding(self, d: int, radius: float, smallest: float) -> tuple[float, float]:
        """Bounds (relative, absolute) on the rounding error of a cost.

        The centred or normalised points have `d` coordinates of absolute value 0 or at least `smallest`, and length at
        most `radius`. The values of a callable are exact by definition.

        A distance of relative error r has a power of relative error at most (1 + r)^p − 1. To this, the function for
        powers adds 4 units in the last place. Where numbers may underflow, the absolute error is at most the power of
        the largest distance for which they do: it does not grow with p.
        """
        if self.called:
            return (0.0 if self.power == 1 else 8 * UNIT), 0.0
        # A distance is computed by a difference, a square and a sum for each coordinate, then a root.
        relative = (d + 6) * UNIT
        if self.by_products and d > DIRECT_DIMENSIONS and not self.direct(d):
            relative = (d + 8) * UNIT / cancelled(d)
        # Centring and normalising move a point by a few unit roundoffs of its length, and so a distance by `shift`.
        shift = 4 * UNIT * radius if self.centres(d) else 0.0
        power, scale = self.power, 1.0
        if self.ground == "cosine":
            shift, power, scale = 2 * (d + 4) * UNIT, 2 * self.exponent, self.factor**self.exponent
        of_power = 0.0 if self.power in (1.0, 2.0) else 8 * UNIT
        lost = self._lost(d, power, smallest)
        relative, absolute = _powered(power, relative, shift, relative if power <= _FEW else _SHARE)
        return relative + of_power, lost + scale * absolute

    def powered(self, relative: float, absolute: float) -> tuple[float, float]:
        """The same for another distance, from bounds (relative, absolute) on its error."""
        if self.power == 1:
            return relative, absolute
        relative, absolute = _powered(self.power, relative, absolute, _SHARE)
        return relative + 8 * UNIT, absolute + _TINY

    def _lost(self, d: int, power: float, smallest: float) -> float:
        """A bound on the absolute error of a cost by underflow."""
        if (self.ground, power) == ("cityblock", 1.0):
            return 0.0  # differences of floats are exact where they are this small, and so are their sums
        # A difference of floats is 0 or at least 2⁻⁵³ of the smaller one.
        least = smallest * 2.0**-53
        of_power = _TINY if _power(least, max(power, 2.0)) <= _TINY else 0.0
        # Squares below the smallest normal number have lost digits. Distances with such a square, and their computed
        # values, have a power of at most this.
        squares = self.ground != "cityblock" and least * least <= _TINY
        return of_power + (_power(d * _TINY, power / 2) if squares else 0.0)

    @np.errstate(over="ignore", under="ignore")  # checked with the range of the costs; `rounding` covers underflow
    def at(self, distance: Array) -> Array:
        """Costs at distances of the ground."""
        return _to_power(distance, self.power)

    @np.errstate(over="ignore", under="ignore")  # as in `at`
    def __call__(self, x: Array, y: Array) -> Array:
        """Costs between tiles ``x (..., r, d)`` and ``y (..., m, d)``: ``(..., r, m)``."""
        if isinstance(self.ground, (Circle, Function)):
            return _to_power(self.ground(x, y), self.power)
        if self.ground == "cityblock":
            return self.of_sums(_sum_over_coordinates(x, y, abs))
        return self.of_sums((_squares if self.direct(x.shape[-1]) else _squares_by_products)(x, y))

    @np.errstate(over="ignore", under="ignore")  # as in `at`
    def of_sums(self, S: Array) -> Array:
        """Costs ``(factor·S)^exponent``."""
        return _to_power(S if self.factor == 1 else self.factor * S, self.exponent)

    @np.errstate(over="ignore", under="ignore")
    def weighted_gradient(self, W: Array, x: Array, y: Array) -> Array:
        """Σ_j W_ij·∇c(x_i, y_j) by the first point, for weights ``(..., r, m)`` on a tile: ``(..., r, d)``.

        Points far from the origin should be centred. Where a cost has a kink, at distance 0 or in a coordinate of a
        city-block distance, its derivative is defined as 0. For a "cosine" the points have length 1, and the gradient
        is of half their squared distance.
        """
        xp = namespace(x)
        if self.ground == "cityblock":
            if self.power != 1:
                W = W * _slope(_sum_over_coordinates(x, y, abs), self.power)
            parts = [xp.sum(W * xp.sign(x[..., :, None, k] - y[..., None, :, k]), axis=-1) for k in range(x.shape[-1])]
            return xp.stack(parts, axis=-1)
        W = W if self.factor == 1 else W * self.factor**self.exponent
        W = 2 * W if self.exponent == 1 else W * _slope(_squares_by_products(x, y), self.exponent) * 2
        return x * xp.sum(W, axis=-1)[..., None] - W @ y


def cancelled(d: int) -> float:
    """The fraction of ‖x‖² + ‖y‖² below which a squared distance suffers from cancellation, in `d` coordinates.

    Such entries are recomputed from differences. The others have errors of at most 2⁻³⁶ up to 8,000 coordinates.
    """
    return min(max(2.0**-17 * (d + 8), 2.0**-10), 2.0**-4)


def _power(x: float, power: float) -> float:
    """x^power, infinite if it overflows."""
    try:
        return float(x) ** power
    except OverflowError:
        return math.inf


def _powered(power: float, relative: float, shift: float, share: float) -> tuple[float, float]:
    """Bounds (relative, absolute) on the error of the power of a distance that is off by `relative` and by `shift`.

    A shift is negligible relative to distances above shift/share. Below, the cost itself is negligible.
    """
    if shift == 0 or power <= 1:
        return _grown(power, relative), _power(shift, power) if shift else 0.0
    share = max(relative, share)
    near = _power(shift + shift / share, power - 1)
    return _grown(power, relative + share), power * near * shift


def _grown(power: float, relative: float) -> float:
    """A bound on the relative error of the power of a number with this relative error.

    For p ≥ 1, (1 + r)^p − 1 ≤ exp(p·r) − 1, and 1 − (1 − r)^p ≤ p·r. For p ≤ 1 both are at most r.
    """
    return relative if power <= 1 else math.expm1(power * relative)


def _slope(s: Array, power: float) -> Array:
    """power·s^(power − 1), and 0 at 0."""
    xp = namespace(s)
    positive = s > 0
    return xp.where(positive, power * xp.where(positive, s, 1.0) ** (power - 1), 0.0)


def parse_cost(metric: Any, power: float = 1.0, period: Any = None) -> Cost:
    """The `Cost` of a user's `metric`, raised to `power`; with a `period`, of the distance along a circle."""
    if period is not None:
        return _on_circle(parse_cost(metric, power), metric, period)
    if isinstance(metric, tuple) and len(metric) == 2 and metric[0] == "power":
        exponent = float(metric[1])
        if not 0 < exponent <= HIGHEST:
            raise ValueError(
                f"metric=('power', p) must have a finite p > 0, at most 2^30, got p={metric[1]!r}; "
                "use p=1 for the distance itself"
            )
        return Cost("euclidean", exponent * power)
    if isinstance(metric, tuple) and len(metric) == 2 and metric[0] == "minkowski":
        return Cost(_minkowski(metric[1]), power)
    if callable(metric):
        return Cost(Called(metric), power)
    if isinstance(metric, str) and metric in (*METRICS, *NAMES):
        if metric == "sqeuclidean":
            return Cost("euclidean", 2.0 * power)
        return Cost(metric if metric in GROUNDS else Named(metric), power)
    instead = _ELSEWHERE.get(metric) if isinstance(metric, str) else None
    raise ValueError(
        f"metric must be one of {', '.join((*METRICS, *NAMES))}, ('minkowski', p), ('power', p) or a callable on "
        f"points or tiles of them, got {metric!r}{'; ' * bool(instead)}{instead or ''}"
    )


def _on_circle(cost: Cost, metric: Any, period: Any) -> Cost:
    """The cost with the distance along a circle in place of that along the line."""
    if isinstance(period, bool) or not (isinstance(period, (int, float, np.number)) and 0 < period < math.inf):
        raise ValueError(f"period must be a positive number, the circumference, got {period!r}; 360 is that of degrees")
    if cost.ground not in ("euclidean", "cityblock"):
        raise ValueError(
            f"period= takes metric 'euclidean', 'cityblock', 'sqeuclidean' or ('power', p), got {metric!r}; "
            "drop one of them"
        )
    return Cost(Circle(float(period)), cost.power)


def _minkowski(p: Any) -> str | Function:
    """The distance (Σ |x_k − y_k|^p)^(1/p)."""
    if not (isinstance(p, (int, float, np.number)) and p >= 1):
        raise ValueError(f"metric=('minkowski', p) must have a p of at least 1, got p={p!r}; pass a callable for less")
    known: dict[float, str | Function] = {1.0: "cityblock", 2.0: "euclidean", np.inf: Named("chebyshev")}
    return known.get(float(p), Named("minkowski", float(p)))


def _to_power(x: Array, power: float) -> Array:
    xp = namespace(x)
    if power == 1:
        return x
    if power == 2:
        return x * x
    if power == 0.5:
        return xp.sqrt(x)
    return x**power


def _sum_over_coordinates(x: Array, y: Array, term: Callable[[Array], Array]) -> Array:
    total = term(x[..., :, None, 0] - y[..., None, :, 0])
    for k in range(1, x.shape[-1]):
        total = total + term(x[..., :, None, k] - y[..., None, :, k])
    return total


def _squares(x: Array, y: Array) -> Array:
    return _sum_over_coordinates(x, y, lambda t: t * t)


def _squares_by_products(x: Array, y: Array) -> Array:
    if x.shape[-1] <= DIRECT_DIMENSIONS:
        return _squares(x, y)
    xp = namespace(x)
    size = xp.sum(x * x, axis=-1)[..., :, None] + xp.sum(y * y, axis=-1)[..., None, :]
    square = size - 2 * xp.matmul(x, xp.matrix_transpose(y))
    wrong = square < cancelled(x.shape[-1]) * size
    return xp.where(wrong, _mended(x, y, wrong), square) if xp.any(wrong) else square


def _mended(x: Array, y: Array, wrong: Array) -> Array:
    """Squared distances from differences where the others are `wrong`, and any numbers elsewhere."""
    xp, d = namespace(x), x.shape[-1]
    rows, cols = wrong.shape[-2:]
    x, y = (xp.reshape(xp.broadcast_to(v, (*wrong.shape[:-2], *v.shape[-2:])), (-1, d)) for v in (x, y))
    flat = xp.reshape(wrong, (-1,))
    (at,) = xp.nonzero(flat)
    count, step, found = at.shape[0], max(1, COORDINATES // d), []
    for low in range(0, count, step):
        part = at[low : min(low + step, count)]
        difference = xp.take(x, part // cols, axis=0) - xp.take(y, part // (rows * cols) * cols + part % cols, axis=0)
        found.append(xp.sum(difference * difference, axis=-1))
    place = xp.cumulative_sum(xp.astype(flat, at.dtype)) - 1
    return xp.reshape(xp.take(xp.concat(found), xp.where(flat, place, 0), axis=0), wrong.shape)
