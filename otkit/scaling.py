"""The unit in which powers of distances are evaluated, so that those that matter neither overflow nor underflow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace, to_numpy
from otkit.geometry.base import flatten_batch
from otkit.geometry.costs import Circle
from otkit.geometry.metrics import Function, Named
from otkit.geometry.points import PointCloud
from otkit.solvers.bottleneck import MOST, bottleneck

# Powers of the diameter between 2^−500 and 2^500 are safe, unless the order is larger than this.
_SAFE, _LOW = 500.0, 16.0
# A bottleneck may be larger than the least one by such a factor that its power grows by this one.
_FACTOR = 2.0**256
# Binary orders of magnitude between costs of the least distances of points: more than those of masses.
_FAR = 700.0
# The largest power of two.
_MOST = 1023
# The unit of a bottleneck of 0, relative to the diameter.
_NEAR = 2.0**-60


def rescaled(cloud: PointCloud, a: Any, b: Any) -> tuple[PointCloud, np.ndarray]:
    """The cloud divided by a power of two for each item, and these numbers ``(...)``; 1 where none is needed.

    With the bottleneck as unit, a plan costs about 1. Costs that overflow then belong to arcs that no optimal plan
    uses, and these are forbidden.
    """
    unit = np.ones(())
    ground = cloud.metric.ground
    if not isinstance(ground, Circle) and _order(ground) is None:
        return cloud, unit
    checks.same_library(**cloud.arrays)
    checks.points(cloud.x, cloud.y)
    batch = checks.batch_shape(x=tuple(cloud.x.shape[:-2]), y=tuple(cloud.y.shape[:-2]))
    hosts = [to_numpy(arrays.detached(v)).astype(np.float64) for v in (cloud.x, cloud.y)]
    if isinstance(ground, Circle):
        hosts = [ground.places(v) for v in hosts]
    power, reach = max(cloud.metric.power, 2.0), _reach(*hosts)
    extreme = bool((power * abs(np.log2(np.where(reach > 0, reach, 1.0))) > _SAFE).any())
    if not extreme and cloud.metric.power <= _LOW:
        return cloud, unit
    if cloud.n * cloud.m <= MOST:
        batch = np.broadcast_shapes(batch, *(tuple(w.shape[:-1]) for w in (a, b) if w is not None))
        reach = np.broadcast_to(reach, batch).copy()
        for k, least in enumerate(_bottlenecks(cloud, hosts, (a, b), batch)):
            reach.reshape(-1)[k] = least or reach.reshape(-1)[k] * _NEAR
        cloud = replace(cloud, metric=replace(cloud.metric, forbids=True))
    elif not extreme:
        return cloud, unit
    exponent = np.minimum(np.rint(np.log2(np.where(reach > 0, reach, 1.0))), _MOST).astype(int)
    if isinstance(ground, Circle):  # which all items share
        exponent = np.full_like(exponent, exponent.max())
        with np.errstate(over="ignore"):
            circle = Circle(float(np.ldexp(ground.period, -exponent.max())))
        cloud = replace(cloud, metric=replace(cloud.metric, ground=circle))
    x, y = (_divided(v, exponent) for v in _real(cloud, ground))
    whole = cloud.metric.period is None or cloud.metric.period < np.inf
    for v in (x, y):
        if not (whole and namespace(v).all(namespace(v).isfinite(v))):
            raise ValueError(
                f"points must span fewer orders of magnitude, got some that overflow in units of {reach.max():.3g}, "
                "the distance that mass moves; drop points that are far from all others"
            )
    return replace(cloud, x=x, y=y), np.ldexp(1.0, exponent)


def _reach(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The diagonals ``(...)`` of boxes around both clouds."""
    low = np.minimum(x.min(-2), y.min(-2))
    high = np.maximum(x.max(-2), y.max(-2))
    sides = high / 4 - low / 4  # no overflow
    longest = sides.max(-1)
    parts = sides / np.where(longest > 0, longest, 1.0)[..., None]
    return np.minimum(longest * np.sqrt((parts**2).sum(-1)), np.finfo(float).max / 4) * 4


def _bottlenecks(
    cloud: PointCloud, hosts: list[np.ndarray], weights: tuple[Any, Any], batch: tuple[int, ...]
) -> list[float]:
    """The bottlenecks of the distances of all items, roughly."""
    x, y = (np.broadcast_to(flatten_batch(v, batch, 2), (math.prod(batch), *v.shape[-2:])) for v in hosts)
    sides = []
    for w, size, name in zip(weights, (cloud.n, cloud.m), ("a", "b"), strict=True):
        if w is None:
            w = np.ones(size)
        checks.weights(w, size, name)
        w = to_numpy(arrays.detached(w)).astype(np.float64)
        sides.append(np.broadcast_to(w / w.sum(-1, keepdims=True), (*batch, size)).reshape(-1, size))
    items = zip(x, y, *sides, strict=True)
    return [_unit(_distances(s, t, cloud.metric.ground), v, w, cloud.metric.power) for s, t, v, w in items]


def _unit(D: np.ndarray, a: np.ndarray, b: np.ndarray, power: float) -> float:
    """The bottleneck of distances, roughly, or a larger distance of points of tiny mass that decides on the cost."""
    least = bottleneck(D, a, b, _FACTOR ** (1 / power)).value
    D = D[np.ix_(a > 0, b > 0)]
    far = float(max(D.min(1).max(), D.min(0).max()))
    if least == 0 or far <= least:
        return least
    return far if power * (math.log2(far) - math.log2(least)) > _FAR else least


def _order(ground: str | Function) -> float | None:
    """The p of a distance (Σ |x_k − y_k|^p)^(1/p), which is proportional to the points; None of another distance."""
    if isinstance(ground, Function):
        return ground.order if isinstance(ground, Named) else None
    return {"cityblock": 1.0, "euclidean": 2.0}.get(ground)


def _distances(x: np.ndarray, y: np.ndarray, ground: str | Circle | Function) -> np.ndarray:
    """Distances between points of any size, divided and multiplied by their largest difference."""
    if isinstance(ground, Circle):
        return np.asarray(ground(x, y))
    differences, order = [abs(x[:, None, k] / 4 - y[None, :, k] / 4) for k in range(x.shape[1])], _order(ground)
    assert order is not None
    largest = np.maximum.reduce(differences)
    if order < np.inf:
        shares = [difference / np.where(largest > 0, largest, 1.0) for difference in differences]
        largest = largest * sum(share**order for share in shares) ** (1 / order)
    return np.asarray(np.minimum(largest, np.finfo(float).max / 4) * 4)


def _real(cloud: PointCloud, ground: str | Circle | Function) -> tuple[Array, Array]:
    """The points of both sides in floating point; in float64, those of a circle are within one turn."""
    points = []
    for v in (cloud.x, cloud.y):
        xp = namespace(v)
        v = v if xp.isdtype(v.dtype, "real floating") else arrays.float64(v)
        points.append(ground.places(v) if isinstance(ground, Circle) and v.dtype == xp.float64 else v)
    return points[0], points[1]


def _divided(v: Array, exponent: np.ndarray) -> Array:
    """Points ``(..., n, d)`` divided by powers of two, one for each item."""
    return _times(_times(v, exponent // 2), exponent - exponent // 2)  # a power may overflow, its root does not


def _times(v: Array, exponent: np.ndarray) -> Array:
    xp = namespace(v)
    factor = xp.astype(arrays.from_numpy(np.ldexp(1.0, -exponent), v), v.dtype)
    return v * (factor if factor.ndim == 0 else factor[..., None, None])
