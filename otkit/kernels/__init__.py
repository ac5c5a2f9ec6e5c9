"""How fast: the operations that solvers call, and who runs them.

Every operation has its reference in `otkit.geometry.base`, and `sweep` in `otkit.kernels.mixing`. Arrays of NumPy go to
the compiled version of the same name in `otkit.kernels.numba_ops`; a faster version replaces an operation, never an
algorithm. `runs_on` names what ran, for ``Result.kernel``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from otkit import linalg
from otkit.geometry import base
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
from otkit.kernels.mixing import WINDOW, Mixing, Swept

__all__ = [
    "WINDOW",
    "Arcs",
    "CostRange",
    "Geometry",
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
    "conjugate_gradients",
    "cost_range",
    "marginals",
    "plan",
    "runs_on",
    "select",
    "softmin",
    "sweep",
    "transport_cost",
]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Costs = TypeVar("_Costs", bound=Geometry)
_Operation = Callable[Concatenate[_Costs, _Arguments], _Result]


def runs_on(geometry: Geometry) -> str:
    """What runs the operations on this geometry: "numba" or "reference"."""
    native = all(isinstance(x, np.ndarray) for x in geometry.arrays.values())
    return "numba" if native and _chosen() == "numba" else "reference"


def _chosen() -> str:
    chosen = os.environ.get("OTKIT_KERNELS", "numba")
    if chosen not in ("numba", "reference"):
        raise ValueError(f"the environment variable OTKIT_KERNELS must be 'numba' or 'reference', got {chosen!r}")
    return chosen


def _operation(reference: _Operation[_Costs, _Arguments, _Result]) -> _Operation[_Costs, _Arguments, _Result]:
    """The operation, done by its compiled version where the geometry allows it."""
    name: str = reference.__name__
    module = "otkit.kernels.numba_sweep" if name == "sweep" else "otkit.kernels.numba_ops"

    @wraps(reference)
    def operation(geometry: _Costs, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        chosen: Any = reference
        if runs_on(geometry) == "numba":
            chosen = getattr(import_module(module), name)  # compiled code is loaded when it is first needed
        return chosen(geometry, *args, **kwargs)

    return operation


def conjugate_gradients(
    matrix: linalg.Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int
) -> linalg.Solution:
    """As `otkit.linalg.conjugate_gradients`; the arrays are always those of NumPy."""
    chosen: Any = linalg
    if _chosen() == "numba":
        chosen = import_module("otkit.kernels.numba_linalg")
    return chosen.conjugate_gradients(matrix, rhs, start, rtol, limit)


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
