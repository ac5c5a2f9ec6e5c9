"""Costs of points of few coordinates, whose range is bounded without a pass over all pairs."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array
from otkit.entropic.operations import CostRange
from otkit.geometry.points import PointCloud


def boxes_range(cloud: PointCloud, has_a: Array, has_b: Array) -> CostRange:
    """Bounds of the costs from boxes around both clouds. Offsets are zero, so costs are not reduced.

    Costs must grow with every absolute difference of coordinates.
    """
    x, y = cloud.x, cloud.y
    furthest = np.maximum(x.max(-2) - y.min(-2), y.max(-2) - x.min(-2))[:, None]
    high = cloud.metric(np.zeros_like(furthest), furthest)[:, 0, 0] * (1 + 1e-9)
    return CostRange.within(np.broadcast_to(high, has_a.shape[:1]), has_a, has_b)
