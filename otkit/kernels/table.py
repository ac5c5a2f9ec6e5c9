"""The table of kernels: the implementations of every operation that costs O(n·m)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, NamedTuple

from otkit.arrays import Array
from otkit.entropic import operations, sinkhorn
from otkit.entropic.operations import Arcs, CostRange, Moved
from otkit.entropic.sinkhorn import Swept
from otkit.linalg import cg, sparse
from otkit.linalg.cg import Solution
from otkit.linalg.sparse import Sparse


class Pace(NamedTuple):
    """A model of the costs of solvers in seconds, by which sweeps give way to Newton steps.

    Attributes
    ----------
    looked : int
        Number of entries visited between two checks of the errors: at most a second or two of work.
    sweep, mixed, visited : float
        Cost of a sweep: overhead, per column, and per visited entry.
    compiled : int
        Number of entries of a matrix from which on a sweep has its overhead. Iterations of smaller ones are compiled as
        a whole.
    passes, lists : float
        Cost to start Newton's method: per entry of the matrix, and per visited entry.
    step, products : float
        Cost of a Newton step: overhead, and per visited entry. Successful steps cost less. The model includes steps
        that are cut short, which are more frequent if more entries matter.
    """

    looked: int
    sweep: float
    mixed: float
    visited: float
    compiled: int
    passes: float
    lists: float
    step: float
    products: float


# `benchmarks/compare/switch.py` compares these with measured times.
HOST = Pace(
    looked=2**31,
    sweep=2e-5,
    mixed=5e-8,
    visited=0.25e-9,
    compiled=2**16,
    passes=4.2e-9,
    lists=2e-8,
    step=1e-3,
    products=4e-8,
)


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
    pace : Pace
        The costs of solvers with these operations.
    room : callable
        The bytes that new arrays on the device of an array may take; 0 if unknown.
    """

    name: str
    home: str
    pace: Pace
    room: Callable[[Array], float]
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


def _unknown(like: Array) -> float:
    return 0.0


REFERENCE = Kernels(
    name="reference",
    home="otkit.kernels.table:REFERENCE",
    pace=HOST,
    room=_unknown,
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
