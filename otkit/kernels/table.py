"""The table of kernels: the implementations of every operation that costs O(n·m)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from otkit.arrays import Array
from otkit.entropic import operations, sinkhorn
from otkit.entropic.operations import Arcs, CostRange, Moved
from otkit.entropic.sinkhorn import Swept
from otkit.linalg import cg, sparse
from otkit.linalg.cg import Solution
from otkit.linalg.sparse import Sparse


@dataclass(frozen=True, repr=False)
class Kernels:
    """Operations on a flat geometry, each with the name, the arguments and the meaning of its reference.

    The reference of `sweep` is in `otkit.entropic.sinkhorn`. The references of the last three operations, on sparse
    matrices, are in `otkit.linalg`. All others are in `otkit.entropic.operations`.

    Attributes
    ----------
    name : str
        The name of the implementation, for ``Result.kernel``.
    home : str
        The location of the table, ``"module:NAME"``. A pickle contains only this.
    """

    name: str
    home: str
    softmin: Callable[..., Array]
    sweep: Callable[..., Swept]
    marginals: Callable[..., tuple[Array, Array]]
    transport_cost: Callable[..., Moved]
    plan: Callable[..., Array]
    apply_plan: Callable[..., Array]
    apply_cost_gradient: Callable[..., Array]
    c_transform: Callable[..., Array]
    select: Callable[..., Arcs | None]
    leaving: Callable[..., tuple[Array, Array]]
    are_costs: Callable[..., bool]
    cost_range: Callable[..., CostRange]
    compressed: Callable[..., Sparse]
    sparsified: Callable[..., tuple[Sparse, float]]
    conjugate_gradients: Callable[..., Solution]

    def __repr__(self) -> str:
        return f"<Kernels {self.name}>"

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return resolve_name, (self.home,)


REFERENCE = Kernels(
    name="reference",
    home="otkit.kernels.table:REFERENCE",
    softmin=operations.softmin,
    sweep=sinkhorn.sweep,
    marginals=operations.marginals,
    transport_cost=operations.transport_cost,
    plan=operations.plan,
    apply_plan=operations.apply_plan,
    apply_cost_gradient=operations.apply_cost_gradient,
    c_transform=operations.c_transform,
    select=operations.select,
    leaving=operations.leaving,
    are_costs=operations.are_costs,
    cost_range=operations.cost_range,
    compressed=sparse.compressed,
    sparsified=sparse.sparsified,
    conjugate_gradients=cg.conjugate_gradients,
)
