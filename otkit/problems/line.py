"""Points on a line, where sorting solves the problem."""

from __future__ import annotations

from otkit.arrays import Array, namespace
from otkit.entropic.operations import CostRange
from otkit.geometry.points import PointCloud


def line_range(geometry: PointCloud, has_a: Array, has_b: Array) -> CostRange:
    """Bounds of the costs on a line, without evaluating all of them; offsets are zero, so costs are not reduced."""
    xp = namespace(has_a)
    (low_x, high_x), (low_y, high_y) = (
        (xp.min(v, axis=-2, keepdims=True), xp.max(v, axis=-2, keepdims=True)) for v in (geometry.x, geometry.y)
    )
    reach = xp.maximum(geometry.metric(low_x, high_y), geometry.metric(high_x, low_y))[:, 0, 0]
    span = xp.broadcast_to(reach, (has_a.shape[0],))
    nothing = xp.zeros_like(span)
    row, col = (xp.astype(v, xp.float64) * 0 for v in (has_a, has_b))
    return CostRange(
        row=row, col=col, span=span, low=nothing, high=span, forbidden=nothing > 0, reach_a=has_a, reach_b=has_b
    )
