"""Sinkhorn iterations on a GPU: choice of their form and precision, and launches without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.sinkhorn import Swept
from otkit.geometry.reduced import Reduced
from otkit.kernels.triton.graphs import Repeated
from otkit.kernels.triton.iterations import columns, rows, small, update_columns, update_rows
from otkit.kernels.triton.launch import (
    DOUBLE,
    MIXED,
    SINGLE,
    Precision,
    Tensor,
    follow,
    kernel_costs,
    launch,
    multiplies,
    processors,
    programs,
    shape,
    solid,
)
from otkit.kernels.triton.math import Costs
from otkit.kernels.triton.settle import advance, combine, decide, differences
from otkit.kernels.triton.state import PARTS, State

_TYPES = {tl.float32: torch.float32, tl.float64: torch.float64}
# Maximum sides of a problem that a single program computes.
_SMALL = 64
# Maximum number of columns of rows kept on chip; half of it for computed costs. Twice as many exceed the registers.
_WHOLE = {SINGLE: 16384, MIXED: 8192, DOUBLE: 4096}
# Entries of the rows that a program keeps on chip at a time.
_HELD = 4096
# Warps of the programs of rows that are kept on chip, and of small problems that are mixed.
_WARPS = 8
# Rows that are loaded while others are worked on need 16 bytes at a time; in smaller pieces, registers do not suffice.
_PIECE = 16
# Columns of a block at the end of an iteration, and warps of its programs.
_BLOCK, _FEW_WARPS = 64, 4
# Registers of a thread. By default the compiler may limit it to fewer than available, and keep the others in memory.
_MOST = 255
# Partial sums of a column, or of a product, that are added at a time.
_AT_ONCE = 16
# Iterations between two checks for running items. Each check reads the flags as of the check before.
_CHUNK = 8


def sweep(
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: Tensor,
    limit: Tensor,
    k: int,
    listed: None = None,
) -> Swept:
    """As `otkit.entropic.sinkhorn.sweep`; entries are never listed."""
    items, n, m = start.reg.shape[0], costs.n, costs.m
    state = begin(costs, start, penalties, mixing, tol, limit.clamp(max=float(k)))
    precision = _precision(costs, start, mixing, tol)
    if max(n, m) <= _SMALL and not _in_products(costs, precision):
        _small(state, costs, items, precision, mixed=mixing.window > 0)
    else:
        running = state.running
        with Repeated(iteration(state, costs, items, precision), state.f) as once:
            if not follow(lambda _: once(), lambda: running.max() == 0, k, _CHUNK):
                _again(once, running, k)
    past = (state.moves, state.bends, state.old, state.residual, state.best, state.best_error, state.wait, state.age)
    return Swept(
        f=state.f, g=state.g, point=state.x, error=state.error, count=state.count, mixing=Mixing(*past, state.reach)
    )


def iteration(state: State, costs: Reduced, items: int, precision: Precision) -> Callable[[], None]:
    """A function that enqueues an iteration of all items."""
    held = not _in_products(costs, precision) and _is_held(costs, precision)
    return (_whole if held else _tiled)(state, costs, items, precision)


def _in_products(costs: Reduced, precision: Precision) -> bool:
    """Whether costs are computed by products of matrices, in tiles only."""
    return precision is SINGLE and multiplies(costs)


def _is_held(costs: Reduced, precision: Precision) -> bool:
    """Whether rows are short enough to be kept on chip, and contiguous."""
    if costs.transposed:
        return False
    if costs.matrix is None:
        return costs.m <= _WHOLE[precision] // 2
    return costs.m <= _WHOLE[precision] and costs.matrix.stride(-1) == 1


def begin(costs: Reduced, start: Potentials, penalties: Penalties, mixing: Mixing, tol: Tensor, limit: Tensor) -> State:
    """The initial state, with copies of all arrays that kernels write."""
    items, window = start.reg.shape[0], mixing.window
    read = dict(log_a=start.log_a, log_b=start.log_b, reg=start.reg, tol=tol, limit=limit, reach=mixing.reach)
    read |= dict(zip(("keep_a", "keep_b"), penalties.keep(start.reg), strict=True))
    read |= dict(rho_a=penalties.rho_a, rho_b=penalties.rho_b, coupling=penalties.coupling())
    written = dict(f=start.f, g=start.g, x=start.g, sigma=start.f, tau=start.g)
    written |= dict(moves=mixing.moves, bends=mixing.bends, old=mixing.point, residual=mixing.residual)
    written |= dict(best=mixing.best_point, best_error=mixing.best_error, wait=mixing.wait, age=mixing.age)
    vectors = {name: solid(v, items) for name, v in read.items()}
    vectors |= {name: solid(v, items).clone() for name, v in written.items()}
    a, b, reg, bends = vectors["log_a"].exp(), vectors["log_b"].exp(), vectors["reg"], vectors["bends"]
    wide = max(16, triton.next_power_of_2(window))
    gram, centres = (
        torch.zeros(size, dtype=torch.float64, device=a.device) for size in ((items, wide, wide), (items, wide))
    )
    if window:
        gram[:, :window, :window] = (bends * b[:, None, :]) @ bends.mT
        centres[:, :window] = (vectors["moves"] @ b[:, :, None])[:, :, 0] / b.sum(-1, keepdim=True)
    running = (vectors["limit"] > 0).int()
    return State(
        running=running,
        robust=torch.ones_like(running),
        missed=torch.zeros_like(running),
        count=torch.zeros_like(reg),
        error=torch.full_like(reg, float("inf")),
        a=a,
        b=b,
        scale=(a.sum(-1) + b.sum(-1)) / 2,
        total=b.sum(-1),
        gram=gram,
        centres=centres,
        change=torch.empty_like(b),
        shift=torch.empty_like(reg),
        shares=torch.empty_like(centres),
        older=torch.empty_like(centres),
        **{name: torch.zeros_like(running) for name in ("action", "better", "known", "slot")},
        **dict.fromkeys(("misses", "products", "furthest")),
        window=tl.constexpr(window),
        W=tl.constexpr(wide),
        **vectors,
    )


# Maximum rounding error relative to the tolerance, and smallest tolerance for single precision.
_SHARE, _SINGLE_TOL = 1 / 8, 1e-5
_SINGLE_DEFAULT = 1e-4  # default tolerance of problems in single precision


def _precision(costs: Reduced, start: Potentials, mixing: Mixing, tol: Tensor) -> Precision:
    """The lowest precision that reaches the tolerance. Reads a few numbers from the device.

    Exponentials in single precision cause a relative error of 1e-7 in every sum. Differences in single precision cause
    the rounding error of the costs divided by reg. A fixed number of iterations has no tolerance. Its precision is the
    usual one for the dtype of the costs.
    """
    smallest = float(tol.min())
    if smallest == -torch.inf and next(iter(costs.arrays.values())).dtype == torch.float32:
        smallest = _SINGLE_DEFAULT
    if not smallest >= _SINGLE_TOL:
        return DOUBLE
    rounding = float((_lost(costs, mixing.reach) / start.reg).max())
    return SINGLE if rounding <= _SHARE * smallest else MIXED


def _lost(costs: Reduced, span: Tensor) -> Tensor:
    """A bound on the rounding error of costs in single precision; `span` is the range of the reduced costs."""
    if costs.matrix is not None:
        return span * (2.0**-24 if costs.matrix.dtype == torch.float32 else torch.inf)
    assert costs.cloud is not None
    cloud, metric = costs.cloud.centred(), costs.cloud.metric
    # Costs are scale·distance^power.
    order = 1 if metric.ground == "cityblock" else 2
    power, scale = order * metric.exponent, metric.factor**metric.exponent
    widest = 2 * max(torch.linalg.vector_norm(v, order, -1).max() for v in (cloud.x, cloud.y))
    # The error of a distance is a unit of the widest one. From products, this is the error of the squared distance.
    steps, unit = (power / 2, 2.0**-20 * (1 + cloud.d / 256)) if multiplies(costs) else (power, 2.0**-23)
    most = scale * widest**power
    lost = 2.0**-24 * span + most * max(steps, 1.0) * unit ** min(steps, 1.0)
    if metric.exponent not in (0.5, 1.0, 2.0):  # of s^p = 2^(p·log2 s), the exponent is rounded
        lost = lost + 2.0**-23 * most * (2.0 + torch.log2(most.clamp(min=1e-300)).abs())
    return lost


def _small(state: State, costs: Reduced, items: int, precision: Precision, *, mixed: bool) -> None:
    rows, cols = (max(16, triton.next_power_of_2(v)) for v in (costs.n, costs.m))
    held = 256 if precision is DOUBLE else 512
    warps = _WARPS if mixed else min(_WARPS, max(1, rows * cols // held))
    args = state, kernel_costs(costs, precision), *precision, rows, cols
    launch(small, (items,), *args, like=state.f, warps=warps, registers=_MOST)


def _whole(state: State, costs: Reduced, items: int, precision: Precision) -> Callable[[], None]:
    """A function that enqueues an iteration with one read of the costs."""
    n, m, like = costs.n, costs.m, state.f
    upright, transposed = kernel_costs(costs, precision), kernel_costs(costs.T, precision)
    wide, blocks = triton.next_power_of_2(m), triton.cdiv(m, _BLOCK)
    high = max(1, _HELD // wide)
    # With few entries and in single precision, the registers of a multiprocessor suffice for two programs.
    resident = 2 if high * wide <= _HELD and precision is not DOUBLE else 1
    parts = min(triton.cdiv(n, high), max(1, resident * processors(like) // items))
    stages = 2 if costs.matrix is not None and upright.unit.value * costs.matrix.itemsize >= _PIECE else 1
    sums = torch.empty((items, parts, m), dtype=_TYPES[precision.exponential], device=like.device)
    pulled = state.x + state.reg[:, None] * state.log_b
    pulled = (pulled if upright.col is None else pulled + upright.col).to(_TYPES[precision.difference])
    state, end = _end(state, upright, items, blocks, pulled)

    def once() -> None:
        args = state, upright, pulled, sums, *precision, high, wide, stages
        launch(rows, (items, parts), *args, like=like, warps=_WARPS)
        added = state, upright, transposed, sums, parts, *precision, _BLOCK, _AT_ONCE
        launch(columns, (items, blocks), *added, like=like, warps=_FEW_WARPS, registers=_MOST)
        end()

    return once


def _tiled(state: State, costs: Reduced, items: int, precision: Precision) -> Callable[[], None]:
    """A function that enqueues an iteration in two passes over tiles."""
    n, m, like = costs.n, costs.m, state.f
    upright, transposed = kernel_costs(costs, precision), kernel_costs(costs.T, precision)
    high, wide = (shape(size, items, precision) for size in (n, m))
    state, end = _end(state, upright, items, triton.cdiv(m, wide.rows), None)

    def once() -> None:
        updated = state, upright, *precision, high.rows, high.cols
        launch(update_rows, programs(n, items, high), *updated, like=like, warps=high.warps)
        added = state, upright, transposed, *precision, wide.rows, wide.cols
        launch(update_columns, programs(m, items, wide), *added, like=like, warps=wide.warps)
        end()

    return once


def _end(
    state: State, upright: Costs, items: int, blocks: int, pulled: Tensor | None
) -> tuple[State, Callable[[], None]]:
    """The state with buffers for sums, and a function that enqueues the end of an iteration.

    ``blocks`` is the number of blocks of columns that the last kernel measures.
    """
    m, like, mixed = upright.m, state.f, state.window.value > 0
    width = _BLOCK * triton.cdiv(triton.cdiv(m, _BLOCK), PARTS.value)
    parts = triton.cdiv(m, width)
    sizes = dict(misses=(3, blocks), products=(2 * state.W.value + 1, parts), furthest=(parts,))
    buffers = {name: like.new_empty((items, *size)) for name, size in sizes.items()}
    state = state._replace(**buffers)

    def run(kernel: Any, grid: tuple[int, ...], *args: Any) -> None:
        launch(kernel, grid, state, *args, like=like, warps=_FEW_WARPS, registers=_MOST)

    def end() -> None:
        if mixed:
            run(differences, (items, parts), upright, blocks, width, _BLOCK)
        run(decide, (items,), blocks, parts, _AT_ONCE)
        if mixed:
            run(combine, (items, parts), upright, width, _BLOCK)
        run(advance, (items, parts), upright, pulled, width, _BLOCK)

    return state, end


def _again(once: Callable[[], None], running: Tensor, k: int) -> None:
    """The remaining iterations, where some had to be repeated; each is repeated at most once."""
    for _ in range(k):
        if not bool(running.any()):
            break
        once()
