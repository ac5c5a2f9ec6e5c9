"""How fast: the operations that solvers call, and who runs them.

Every operation has its reference in `otkit.geometry.base`; a faster version replaces an operation here, never an
algorithm elsewhere. `runs_on` names what ran, for ``Result.kernel``.
"""

from otkit.arrays import Array, library_name
from otkit.geometry.base import (
    Arcs,
    CostRange,
    Geometry,
    Moved,
    Potentials,
    Reduced,
    Swept,
    apply_plan,
    are_costs,
    c_transform,
    cost_range,
    marginals,
    select,
    softmin,
    sweep,
    transport_cost,
)

__all__ = [
    "Arcs",
    "CostRange",
    "Geometry",
    "Moved",
    "Potentials",
    "Reduced",
    "Swept",
    "apply_plan",
    "are_costs",
    "c_transform",
    "cost_range",
    "marginals",
    "runs_on",
    "select",
    "softmin",
    "sweep",
    "transport_cost",
]


def runs_on(array: Array) -> str:
    """The name of what runs the operations on arrays like this one."""
    return f"reference ({library_name(array)})"
