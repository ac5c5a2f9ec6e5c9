"""Sliced Wasserstein distances: the mean, or the largest, of the distances of projections to lines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks, options
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.distance import WassersteinResult, distance_cost, measured
from otkit.geometry.points import PointCloud
from otkit.problems.linear import result_dtype

# Steps of ascent to the largest distance of a projection.
_ASCENT = 20


@dataclass(frozen=True, repr=False)
class SlicedResult:
    """A sliced Wasserstein distance, with the distances of its projections.

    Attributes
    ----------
    projected : WassersteinResult
        The distances between the projections to lines, ``(..., k)``, with their plans and intervals.
    projections : array (..., k, d)
        The directions.
    dtype : dtype
        The dtype of the distance.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> answer = otkit.sliced_wasserstein([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]], projections=np.eye(2))
    >>> answer
    SlicedResult(SW2 = 0.866025 ± 0.14, 2 projections of 2 coordinates)
    >>> answer.projected.distance.round(6)
    array([0.707107, 1.      ])
    """

    projected: WassersteinResult
    projections: Array
    dtype: Any

    @property
    def p(self) -> float:
        """The order of the distance."""
        return self.projected.p

    @property
    @arrays.eager
    def distance(self) -> Any:
        """(mean_k W_p^p)^(1/p) over the projections: float, or an array ``(...)``.

        If the input requires gradients, it is a tensor. Its gradient at 0 is defined as 0.
        """
        each = self.projected.distance
        xp, p = namespace(each), self.p
        top = from_numpy(to_numpy(arrays.detached(each)).max(-1), each)
        scale = xp.where(top > 0, top, xp.ones_like(top))  # powers of shares do not overflow
        mean = xp.mean((each / scale[..., None]) ** p, axis=-1)
        some = mean > 0
        root = xp.where(some, xp.where(some, mean, xp.ones_like(mean)) ** (1 / p), 0.0 * mean) * scale
        recorded = arrays.requires_grad(each)
        return float(root) if root.ndim == 0 and not recorded else xp.astype(root, self.dtype, copy=False)

    @cached_property
    def error(self) -> Any:
        """The standard error of `distance`, for random directions: float, or a NumPy array ``(...)``.

        By the delta method from the spread of W_p^p over the projections. It is inf for one projection.
        """
        each = to_numpy(arrays.detached(self.projected.distance))
        top, k = each.max(-1, keepdims=True), each.shape[-1]
        powers = (each / np.where(top > 0, top, 1.0)) ** self.p
        mean = powers.mean(-1)
        spread = powers.std(-1, ddof=1) / k**0.5 if k > 1 else np.full(mean.shape, np.inf)
        steep = np.where(mean > 0, mean, 1.0) ** (1 / self.p - 1) / self.p
        return _plain(spread * steep * top[..., 0])

    @property
    def lower(self) -> Any:
        """A certified lower bound on `distance`, for these projections: float, or a NumPy array ``(...)``."""
        return self._bound(self.projected.lower, -1)

    @property
    def upper(self) -> Any:
        """A certified upper bound on `distance`, for these projections: float, or a NumPy array ``(...)``."""
        return self._bound(self.projected.upper, 1)

    def _bound(self, each: np.ndarray, direction: int) -> Any:
        top = each.max(-1, keepdims=True)
        mean = ((each / np.where(top > 0, top, 1.0)) ** self.p).mean(-1)
        rounding = (each.shape[-1] + 16) * np.finfo(float).eps
        return _plain(top[..., 0] * mean ** (1 / self.p) * (1 + direction * rounding))

    @arrays.eager
    def __float__(self) -> float:
        return float(arrays.detached(self.distance))

    @arrays.eager
    def __repr__(self) -> str:
        k, d = self.projections.shape[-2:]
        batch = self.projected.result.problem.batch[:-1]
        if batch:
            return f"SlicedResult({batch} problems, p = {self.p:g}, {k} projections of {d} coordinates)"
        return f"SlicedResult(SW{self.p:g} = {float(self):.6g} ± {self.error:.2g}, {k} projections of {d} coordinates)"


@arrays.eager
def sliced_wasserstein(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    p: float = 2,
    projections: Any = 100,
    rng: Any = None,
    largest: bool = False,
) -> SlicedResult:
    """The sliced Wasserstein distance of two weighted clouds: that of their projections to lines, averaged.

    SW_p = (mean_θ W_p(θ·x, θ·y)^p)^(1/p). The distance on each line is exact and takes a sort. With random directions
    the mean is an estimate, whose standard error is the result's `error`.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total; uniform by default. They are divided by their total.
    p : float
        The order, from 1 to 1024.
    projections : int or array (..., k, d)
        A number of random directions, the same for all items of a batch, or the directions, used as they are.
    rng : int or numpy.random.Generator, optional
        The seed of random directions, or the generator, which advances.
    largest : bool
        The max-sliced distance: the largest of any direction. Ascent steps from the `projections` find a direction; the
        distance along it is a lower bound on the largest one.

    Returns
    -------
    SlicedResult
        ``float(result)`` is the distance.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid; raised before any computation.

    Notes
    -----
    Rabin, Peyré, Delon & Bernot (2012); the largest, Deshpande et al. (2019).

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> sliced = otkit.sliced_wasserstein(x, x + [3.0, 0.0, 0.0], projections=200, rng=0)
    >>> print(f"{sliced.distance:.2f} ± {sliced.error:.2f}, in the limit {3 / 3**0.5:.2f}")
    1.73 ± 0.06, in the limit 1.73
    >>> round(otkit.sliced_wasserstein(x, x + [3.0, 0.0, 0.0], largest=True, rng=0).distance, 6)
    3.0
    """
    cost = distance_cost(p, "euclidean")
    x, y = checks.as_array(x, "x", y), checks.as_array(y, "y", x)
    a, b = (None if w is None else checks.as_array(w, name, x) for w, name in ((a, "a"), (b, "b")))
    checks.same_library(x=x, y=y, a=a, b=b)
    PointCloud(x, y).check()
    for w, size, name in ((a, x.shape[-2], "a"), (b, y.shape[-2], "b")):
        if w is not None:
            checks.weights(w, size, name)
    dtype, _ = result_dtype([x, y, a, b])
    directions = _directions(projections, x, rng)
    if largest:
        directions = _steepest(x, y, (a, b), p, directions)
    projected = measured(_projected(x, y, directions), _of_lines(a, b), cost)
    return SlicedResult(projected, directions, dtype)


def _plain(v: Any) -> Any:
    return v if np.ndim(v) else float(v)


def _directions(projections: Any, x: Array, rng: Any) -> Array:
    """The directions ``(..., k, d)`` in float64, beside the points."""
    d = x.shape[-1]
    if np.ndim(projections) == 0:
        drawn = options.generator(rng).standard_normal((options.count(projections, "projections"), d))
        return from_numpy(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True), x)
    if rng is not None:
        raise ValueError("rng is the seed of random directions, and projections has given ones; drop one of them")
    given = checks.as_array(projections, "projections", x)
    checks.same_library(projections=given, x=x)
    if given.ndim < 2 or given.shape[-1] != d or 0 in given.shape:
        raise ValueError(
            f"projections must be a number, or directions of shape (..., k, {d}), got shape {tuple(given.shape)}; "
            "each row is one, so that POT's are transposed"
        )
    if not namespace(given).all(namespace(given).isfinite(given)):
        raise ValueError("projections must be finite, got NaN or inf in it; drop those directions")
    return arrays.float64(given)


def _projected(x: Array, y: Array, directions: Array) -> tuple[Array, Array]:
    """The places of the points along all directions, ``(..., k, n, 1)`` and ``(..., k, m, 1)``."""
    xp = namespace(x)
    across = xp.matrix_transpose(directions)
    places = (xp.matrix_transpose(xp.matmul(arrays.float64(v), across))[..., None] for v in (x, y))
    on_x, on_y = places
    return on_x, on_y


def _of_lines(*weights: Array | None) -> tuple[Any, Any]:
    """Weights for all directions, ``(..., 1, n)``."""
    a, b = (None if w is None else w[..., None, :] for w in weights)
    return a, b


def _steepest(x: Array, y: Array, weights: tuple[Array | None, Array | None], p: float, starts: Array) -> Array:
    """The direction of the largest distance that an ascent from each of the `starts` finds: ``(..., 1, d)``.

    A step goes part of the way to the gradient of W_p^p by the direction, at the plan of this direction. Where the
    distance falls it is undone, and the next one is half as long.
    """
    cost, theta = distance_cost(p, "euclidean"), _unit(to_numpy(arrays.detached(starts)))
    points = to_numpy(arrays.detached(x)), to_numpy(arrays.detached(y))
    a, b = (None if w is None else to_numpy(arrays.detached(w)) for w in weights)
    at, slope, distance, step = theta, theta, np.array(-1.0), np.array(1.0)
    for _ in range(_ASCENT):
        places = _projected(*points, theta)
        line = measured(places, _of_lines(a, b), cost)
        each = np.asarray(line.distance)
        rose = each > distance
        distance, step = np.where(rose, each, distance), np.where(rose, np.minimum(1.2 * step, 1.0), step / 2)
        at = np.where(rose[..., None], theta, at)
        slope = np.where(rose[..., None], _unit(_gradient(line, points, places)), slope)
        theta = _unit((1 - step[..., None]) * at + step[..., None] * slope)
        theta = np.where((theta != 0).any(-1, keepdims=True), theta, at)
    best = distance.argmax(-1)[..., None, None]
    return from_numpy(np.take_along_axis(at, best, -2), starts)


def _unit(v: np.ndarray) -> np.ndarray:
    """Vectors of length 1, and 0 for 0."""
    most = abs(v).max(-1, keepdims=True)
    v = v / np.where(most > 0, most, 1.0)  # no overflow of squares
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.asarray(v / np.where(norm > 0, norm, 1.0))


def _gradient(
    line: WassersteinResult, points: tuple[np.ndarray, np.ndarray], places: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Multiples of the gradients of W_p^p by the directions, ``(..., k, d)``: Σ P_ij |t|^(p−1) sign(t) (x_i − y_j)."""
    arcs, batch = line.result.plan_sparse(), line.result.problem.batch
    ends = (arcs.row, arcs.col)
    x, y = (np.broadcast_to(v[..., 0], (*batch, v.shape[-2])).reshape(-1, v.shape[-2]) for v in places)
    t = x[arcs.item, arcs.row] - y[arcs.item, arcs.col]
    most = abs(t).max(initial=0.0)
    pull = arcs.mass * np.sign(t) * (abs(t) / (most or 1.0)) ** (line.p - 1)
    by_side = (
        np.bincount(arcs.item * v.shape[-1] + end, pull, v.size).reshape(*batch, -1) @ of
        for v, end, of in zip((x, y), ends, points, strict=True)
    )
    to_x, to_y = by_side
    return np.asarray(to_x - to_y)
