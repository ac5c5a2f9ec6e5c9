"""Kernels for NumPy arrays, compiled by Numba on first use."""

from __future__ import annotations

from dataclasses import replace

from otkit.kernels.numba import cg, operations, sweep
from otkit.kernels.table import REFERENCE, Kernels

NUMBA = replace(
    REFERENCE,
    name="numba",
    home="otkit.kernels.numba:NUMBA",
    softmin=operations.softmin,
    sweep=sweep.sweep,
    marginals=operations.marginals,
    transport_cost=operations.transport_cost,
    plan=operations.plan,
    apply_plan=operations.apply_plan,
    apply_cost_gradient=operations.apply_cost_gradient,
    c_transform=operations.c_transform,
    select=operations.select,
    are_costs=operations.are_costs,
    cost_range=operations.cost_range,
    sparsified=cg.sparsified,
    conjugate_gradients=cg.conjugate_gradients,
)

# For arrays of any other library: the reference, with compiled kernels for sparse matrices, which are SciPy's.
HOSTED: Kernels = replace(
    REFERENCE,
    home="otkit.kernels.numba:HOSTED",
    sparsified=NUMBA.sparsified,
    conjugate_gradients=NUMBA.conjugate_gradients,
)
