"""Triton kernels for tensors and CuPy arrays on a GPU. Triton's interpreter runs them on tensors of the host."""

from __future__ import annotations

from dataclasses import replace

from otkit.kernels.table import REFERENCE, Kernels, Pace
from otkit.kernels.triton import cg, launch, operations, sweep
from otkit.kernels.triton.cupy import bridged, streamed

# Predicted for an H200, from bytes and launches; not measured. Faster and slower GPUs differ in all of these alike. An
# entry of a sweep is read once. One that matters is counted, listed, sorted and read by conjugate gradients, twice in
# each of some fifty iterations. The overhead is that of the host.
PACE = Pace(
    looked=2**35,
    sweep=3e-5,
    mixed=5e-10,
    visited=1e-12,
    compiled=1,
    passes=1e-11,
    lists=2e-10,
    step=5e-3,
    products=5e-10,
)

TRITON = replace(
    REFERENCE,
    name="triton",
    home="otkit.kernels.triton:TRITON",
    pace=PACE,
    room=launch.room,
    softmin=operations.softmin,
    sweep=sweep.sweep,
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
    compressed=cg.compressed,
    sparsified=cg.sparsified,
    conjugate_gradients=cg.conjugate_gradients,
)

# For CuPy arrays: the same kernels on tensor views.
CUPY: Kernels = replace(
    TRITON,
    home="otkit.kernels.triton:CUPY",
    room=REFERENCE.room,  # what CuPy has freed and keeps, torch does not see
    softmin=bridged(TRITON.softmin),
    sweep=bridged(TRITON.sweep),
    marginals=bridged(TRITON.marginals),
    transport_cost=bridged(TRITON.transport_cost),
    plan=bridged(TRITON.plan),
    apply_plan=bridged(TRITON.apply_plan),
    apply_cost_gradient=bridged(TRITON.apply_cost_gradient),
    c_transform=bridged(TRITON.c_transform),
    select=bridged(TRITON.select),
    leaving=bridged(TRITON.leaving),
    are_costs=bridged(TRITON.are_costs),
    cost_range=bridged(TRITON.cost_range),
    compressed=streamed(TRITON.compressed),
    sparsified=streamed(TRITON.sparsified),
    conjugate_gradients=streamed(TRITON.conjugate_gradients),
)

# For costs returned by a function of the caller: the reference, with Triton kernels for sparse matrices.
CALLED: Kernels = replace(
    REFERENCE,
    home="otkit.kernels.triton:CALLED",
    compressed=TRITON.compressed,
    sparsified=TRITON.sparsified,
    conjugate_gradients=TRITON.conjugate_gradients,
)
