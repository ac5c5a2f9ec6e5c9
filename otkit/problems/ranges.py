"""The range of the costs of a problem, and the checks that they have one."""

from __future__ import annotations

import math

import numpy as np

from otkit import arrays
from otkit.arrays import Array, namespace
from otkit.entropic.operations import CostRange
from otkit.geometry.base import GivenGeometry
from otkit.geometry.dense import Dense
from otkit.kernels import Kernels
from otkit.kernels.searches import searches
from otkit.problems.boxes import boxes_range
from otkit.problems.line import line_range
from otkit.problems.squares import multiplies, squares_range


def cost_range(
    kernels: Kernels,
    geometry: GivenGeometry,
    matrix: Array | None,
    has_a: Array,
    has_b: Array,
    *,
    bounded: bool,
    reduces: bool,
) -> CostRange:
    """Offsets and bounds of the costs, after a check that costs are numbers.

    With `bounded`, costs are not evaluated where bounds are known without. Otherwise `matrix` has them, if not None.
    Unless it `reduces` them, costs that trees search are not evaluated either.
    """
    if bounded and geometry.cloud is not None and geometry.convex_on_line:
        return _within_range(geometry, line_range(geometry.cloud, has_a, has_b))
    if bounded and geometry.cloud is not None and multiplies(geometry):
        return _within_range(geometry, squares_range(geometry.cloud, has_a, has_b))
    if not reduces and isinstance(has_a, np.ndarray) and geometry.cloud is not None and searches(geometry):
        costs = boxes_range(geometry.cloud, has_a, has_b)
        if np.isfinite(costs.high).all():
            return costs
    whole = geometry if matrix is None else Dense(matrix)
    costs = kernels.cost_range(whole, has_a, has_b)
    # If every point has mass, the pass for `costs` has read all costs, and its results show whether all are finite.
    if not (_all(has_a, has_b, ~costs.forbidden, costs.low > -math.inf) or kernels.are_costs(whole)):
        raise ValueError(geometry.undefined)
    return _within_range(geometry, costs)


def _within_range(geometry: GivenGeometry, costs: CostRange) -> CostRange:
    """The same range, after a check that some costs are finite and that none overflows."""
    xp = namespace(costs.high)
    overflow = not geometry.may_forbid and xp.any(costs.forbidden)
    if not overflow and xp.any(costs.high == -xp.inf):
        raise ValueError(
            "some costs between points with mass must be finite, got only infinite (forbidden) ones; allow an arc"
        )
    if overflow or not xp.all(xp.isfinite(costs.high - costs.low)):
        raise ValueError("costs must be finite in float64, but their range overflows; divide the data by a constant")
    return costs


def _all(*conditions: Array) -> bool:
    return all(map(arrays.every, conditions))
