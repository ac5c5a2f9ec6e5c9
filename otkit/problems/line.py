"""Points on a line or a circle, where sorting solves the problem."""

from __future__ import annotations

from otkit.arrays import Array, extremes, from_numpy, namespace
from otkit.entropic.operations import CostRange
from otkit.geometry.points import PointCloud


def line_range(geometry: PointCloud, has_a: Array, has_b: Array) -> CostRange:
    """Bounds of the costs on a line or a circle, without evaluating all of them.

    Offsets are zero, so costs are not reduced.
    """
    xp, items = namespace(has_a), has_a.shape[0]
    span = geometry.metric.at(_furthest(geometry))
    span = span if span.shape == (items,) else xp.broadcast_to(span, (items,))
    return CostRange.within(span, has_a, has_b)


def _furthest(geometry: PointCloud) -> Array:
    """The largest distance between points of both sides, or an upper bound: ``(B,)`` or ``(1,)``."""
    x, y, period = geometry.x, geometry.y, geometry.metric.period
    if period is not None:
        return from_numpy([period / 2], x)
    if x.shape[0] == y.shape[0] == 1:
        (low_x, high_x), (low_y, high_y) = extremes(x), extremes(y)
        return from_numpy([max(high_y - low_x, high_x - low_y)], x)
    xp = namespace(x)
    (low_x, high_x), (low_y, high_y) = ((xp.min(v, axis=(-2, -1)), xp.max(v, axis=(-2, -1))) for v in (x, y))
    return xp.maximum(high_y - low_x, high_x - low_y)
