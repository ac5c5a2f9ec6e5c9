"""How fast: the operations that solvers call, and who runs them.

Every operation has its reference in `otkit.geometry.base`, and `sweep` in `otkit.kernels.mixing`. Arrays of NumPy go to
the version of the same name that Numba compiles, in `otkit.kernels.numba_ops` and `numba_sweep`; tensors on a GPU to
that of Triton, in `triton_ops` and `triton_sweep`; anything else to the reference. A faster version replaces an
operation, never an algorithm. `runs_on` names what ran, for ``Result.kernel``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from otkit import arrays, linalg
from otkit.geometry import PointCloud, base
from otkit.geometry.base import (
    Arcs,
    CostRange,
    Geometry,
    Moved,
    Penalties,
    Potentials,
    Reduced,
)
from otkit.kernels import mixing
from otkit.kernels.mixing import WINDOW, Listed, Mixing, Swept

__all__ = [
    "WINDOW",
    "Arcs",
    "CostRange",
    "Geometry",
    "Listed",
    "Mixing",
    "Moved",
    "Penalties",
    "Potentials",
    "Reduced",
    "Swept",
    "apply_cost_gradient",
    "apply_plan",
    "are_costs",
    "c_transform",
    "compressed",
    "conjugate_gradients",
    "cost_range",
    "lacking",
    "marginals",
    "plan",
    "runs_on",
    "select",
    "softmin",
    "sparsified",
    "sweep",
    "transport_cost",
]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Costs = TypeVar("_Costs", bound=Geometry)
_Operation = Callable[Concatenate[_Costs, _Arguments], _Result]


def runs_on(geometry: Geometry) -> str:
    """What runs the operations on this geometry: "numba", "triton" or "reference"."""
    chosen = _chosen()
    if chosen == "reference":
        return chosen
    given = list(geometry.arrays.values())
    if all(isinstance(x, np.ndarray) for x in given):
        return "numba"
    return "triton" if all(map(_is_for_triton, given)) and not _is_called(geometry) else "reference"


def _is_for_triton(x: Any) -> bool:
    """Whether Triton works on an array: one on a GPU, or a tensor of the host where its interpreter is asked for."""
    chosen, on_gpu = _chosen(), arrays.on_gpu(x)
    interpreted = chosen == "triton" and arrays.is_tensor(x) and not on_gpu
    if interpreted and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "OTKIT_KERNELS=triton runs tensors of the host in Triton's interpreter, "
            "which TRITON_INTERPRET=1 must ask for; unset OTKIT_KERNELS for Numba's kernels"
        )
    return (interpreted or (on_gpu and chosen != "numba")) and not lacking("torch", "triton")


def _is_called(geometry: Geometry) -> bool:
    """Whether the costs are those of a function of the caller's."""
    base = geometry.base if isinstance(geometry, Reduced) else geometry
    return isinstance(base, PointCloud) and callable(base.metric.ground)


@cache
def lacking(*packages: str) -> str:
    """The first of the packages that is not installed; empty where none is missing."""
    return next((name for name in packages if find_spec(name) is None), "")


_CHOICES = ("auto", "numba", "triton", "reference")


def _chosen() -> str:
    chosen = os.environ.get("OTKIT_KERNELS", "auto")
    if chosen not in _CHOICES:
        raise ValueError(
            f"the environment variable OTKIT_KERNELS must be 'auto', 'numba', 'triton' or 'reference', got {chosen!r}"
        )
    return chosen


def _operation(reference: _Operation[_Costs, _Arguments, _Result]) -> _Operation[_Costs, _Arguments, _Result]:
    """The operation, done by its compiled version where the geometry allows it."""
    name: str = reference.__name__
    module = "sweep" if name == "sweep" else "ops"

    @wraps(reference)
    def operation(geometry: _Costs, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        chosen: Any = reference
        found = runs_on(geometry)
        if found != "reference":
            # Compiled code is loaded when it is first needed.
            chosen = getattr(import_module(f"otkit.kernels.{found}_{module}"), name)
        if found == "triton" and any(arrays.is_cupy(x) for x in geometry.arrays.values()):
            chosen = import_module("otkit.kernels.triton_bridge").bridged(chosen)
        return chosen(geometry, *args, **kwargs)

    return operation


def compressed(arcs: linalg.Coupling, shape: tuple[int, int]) -> linalg.Sparse:
    """As `otkit.linalg.compressed`; entries in row order that are on a GPU stay there."""
    chosen: Any = linalg
    if _is_for_triton(arcs[2]):
        chosen = import_module("otkit.kernels.triton_linalg")
    return chosen.compressed(arcs, shape)


def conjugate_gradients(
    matrix: linalg.Schur,
    rhs: np.ndarray,
    start: np.ndarray,
    rtol: float,
    limit: int,
    memory: linalg.Memory | None = None,
) -> linalg.Solution:
    """As `otkit.linalg.conjugate_gradients`, where the entries are."""
    chosen: Any = linalg
    if not isinstance(matrix.T.data, np.ndarray):
        chosen = import_module("otkit.kernels.triton_linalg")
    elif _chosen() != "reference":
        chosen = import_module("otkit.kernels.numba_linalg")
    return chosen.conjugate_gradients(matrix, rhs, start, rtol, limit, memory)


def sparsified(rows: linalg.Sparse, by: linalg.Scaling) -> tuple[linalg.Sparse, float]:
    """As `otkit.linalg.sparsified`, compressed, where the entries are."""
    if isinstance(rows.T.data, np.ndarray) and _chosen() != "reference":
        chosen: Any = import_module("otkit.kernels.numba_linalg")
        return chosen.sparsified(rows, by)
    arcs, mass = linalg.sparsified(rows, by)
    return compressed(arcs, rows.T.shape), mass


apply_cost_gradient = _operation(base.apply_cost_gradient)
apply_plan = _operation(base.apply_plan)
are_costs = _operation(base.are_costs)
c_transform = _operation(base.c_transform)
cost_range = _operation(base.cost_range)
marginals = _operation(base.marginals)
plan = _operation(base.plan)
select = _operation(base.select)
softmin = _operation(base.softmin)
sweep = _operation(mixing.sweep)
transport_cost = _operation(base.transport_cost)
