"""Squared distances of many points in high dimension, whose range is bounded without a pass over all pairs."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array
from otkit.entropic.operations import CostRange
from otkit.geometry.base import Geometry
from otkit.geometry.points import PointCloud
from otkit.kernels.searches import DIMENSIONS, MANY


def multiplies(geometry: Geometry) -> bool:
    """Whether products of matrices are to evaluate these costs: squared distances of many points, too high for trees.

    Both clouds lie in host memory, and all items share them.
    """
    cloud = geometry.cloud
    if cloud is None or cloud.d <= DIMENSIONS or geometry.n * geometry.m <= MANY:
        return False
    if not all(isinstance(v, np.ndarray) and len(v) == 1 for v in (cloud.x, cloud.y)):
        return False
    return cloud.metric.ground in ("euclidean", "cosine") and cloud.metric.exponent == 1 and not cloud.metric.forbids


def squares_range(cloud: PointCloud, has_a: Array, has_b: Array) -> CostRange:
    """Bounds of the costs from balls around both clouds. Offsets are zero, so costs are not reduced."""
    x, y = cloud.x[0], cloud.y[0]
    middle = (x.mean(0) + y.mean(0)) / 2
    radii = (np.sqrt(((v - middle) ** 2).sum(-1).max()) for v in (x, y))
    high = cloud.metric.factor * (1 + 1e-9) * sum(radii) ** 2
    return CostRange.within(np.full(has_a.shape[0], high), has_a, has_b)
