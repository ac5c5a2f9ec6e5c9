"""The operations for tensors on a GPU, by Triton kernels.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton

from otkit.arrays import finite_or_zero, only
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Arcs, CostRange, Moved
from otkit.geometry.base import Geometry, shared, tiles
from otkit.geometry.costs import Cost
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels.triton import entries, math
from otkit.kernels.triton.entries import Point
from otkit.kernels.triton.launch import (
    DOUBLE,
    MIXED,
    Precision,
    Tensor,
    kernel_costs,
    launch,
    programs,
    room,
    shape,
    solid,
)

_SLAB = 2**22  # entries of an intermediate slab of the plan: large enough to hide the launch overhead
# Bytes of the device for each selected arc: itself, its place in two sparse matrices, and what sorts it there.
_PER_ARC = 128
_FEW = 4  # maximum number of columns multiplied by entries of the plan on the fly; for more, slabs are stored first


def _launch(
    kernel: Any,
    geometry: Geometry,
    items: int,
    *args: Any,
    rows: int | None = None,
    more: tuple[int, ...] = (),
    precision: Precision = DOUBLE,
    fused: bool = True,
) -> None:
    """Run a kernel over `rows` rows of a geometry, by default all, and over `more` axes of the grid."""
    rows = geometry.n if rows is None else rows
    form = shape(rows, items, precision)
    grid = (*programs(rows, items, form), *more)
    like = next(iter(geometry.arrays.values()))
    launch(
        kernel,
        grid,
        kernel_costs(geometry, precision),
        *args,
        form.rows,
        form.cols,
        like=like,
        warps=form.warps,
        fused=fused,
    )


def _point(at: Potentials) -> Point:
    items = at.reg.shape[0]
    return Point(*(solid(v, items) for v in (at.f, at.g, at.log_a, at.log_b, at.reg)))


def _empty(like: Tensor, *size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(size, dtype=dtype, device=like.device)


def softmin(
    geometry: Geometry,
    g: Tensor,
    log_b: Tensor,
    reg: Tensor,
    *,
    guess: Tensor | None = None,
    precision: Precision = DOUBLE,
) -> Tensor:
    items = g.shape[0]
    out = _empty(g, items, geometry.n)
    vectors = (solid(v, items) for v in (g, log_b, reg))
    _launch(math.softmin, geometry, items, *vectors, guess, out, *precision, precision=precision)
    return out


def marginals(geometry: Geometry, at: Potentials) -> tuple[Tensor, Tensor]:
    return _row_sums(geometry, at), _row_sums(geometry.T, at.T)


def transport_cost(geometry: Geometry, at: Potentials) -> Moved:
    paid = _empty(at.f, at.reg.shape[0], geometry.n)
    row = _row_sums(geometry, at, paid)
    return Moved(paid.sum(-1), row, _row_sums(geometry.T, at.T))


def _row_sums(geometry: Geometry, at: Potentials, paid: Tensor | None = None) -> Tensor:
    """The row sums of the plan. The row sums of P·C are written to `paid` if given."""
    items = at.reg.shape[0]
    out = _empty(at.f, items, geometry.n)
    _launch(entries.row_sums, geometry, items, _point(at), out, paid, *DOUBLE)
    return out


def plan(geometry: Geometry, at: Potentials, *, single: bool = False) -> Tensor:
    whole = slice(0, at.reg.shape[0]), slice(0, geometry.n)
    return _plan_slab(geometry, _point(at), *whole, single=single)


def _plan_slab(geometry: Geometry, at: Point, s: slice, r: slice, power: int = 0, *, single: bool = False) -> Tensor:
    """P·C^power for a slice of the items and a slice of the rows."""
    items, rows = s.stop - s.start, r.stop - r.start
    out = _empty(at.f, items, rows, geometry.m, dtype=torch.float32 if single else torch.float64)
    precision = MIXED if single else DOUBLE
    _launch(entries.plan, geometry, items, at, s.start, r.start, rows, out, power, *precision, rows=rows)
    return out


def _cost_slab(geometry: Geometry, like: Tensor, s: slice, r: slice) -> Tensor:
    """The costs for a slice of the items and a slice of the rows."""
    items, rows = s.stop - s.start, r.stop - r.start
    out = _empty(like, items, rows, geometry.m)
    _launch(entries.cost_slab, geometry, items, s.start, r.start, rows, out, rows=rows)
    return out


def apply_plan(geometry: Geometry, at: Potentials, v: Tensor, power: int = 0) -> Tensor:
    items, _, k = v.shape
    v, point = solid(v, items), _point(at)
    out = _empty(v, items, geometry.n, k)
    if k <= _FEW:
        columns = triton.next_power_of_2(max(k, 1))
        _launch(entries.products, geometry, items, point, v, k, out, power, columns, *DOUBLE)
        return out
    for s, r in tiles(geometry, items, _SLAB):
        out[s, r] = _plan_slab(geometry, point, s, r, power) @ v[s]
    return out


def apply_cost_gradient(
    geometry: Reduced, at: Potentials, U: Tensor, V: Tensor, slope: Tensor | None, *, single: bool = False
) -> Tensor:
    assert geometry.cloud is not None
    items, cloud, point = U.shape[0], geometry.cloud.centred(), _point(at)
    out = _empty(U, items, geometry.n, cloud.d)
    for s, r in tiles(geometry, items, _SLAB):
        weights = U[s, r] @ V[s].mT
        if slope is not None:
            weights += slope[s, None, None] * _cost_slab(geometry, U, s, r)
        weights *= _plan_slab(geometry, point, s, r)
        out[s, r] = _pulled(cloud, weights, s, r)
    return out


def _pulled(cloud: PointCloud, W: Tensor, s: slice, r: slice) -> Tensor:
    """Σ_j W_ij·∇₁c(x_i, y_j) for a slice of the items and of the rows, as `PointCloud.pulled`."""
    ground, exponent = cloud.metric.ground, cloud.metric.exponent
    if exponent != 1:
        sums = Cost("cityblock", 1.0) if ground == "cityblock" else Cost("euclidean", 2.0)
        total = _cost_slab(replace(cloud, metric=sums), W, s, r)
        W = W * torch.where(total > 0, exponent * total ** (exponent - 1), 0.0)
    if ground == "cityblock":
        items, rows = W.shape[:2]
        out = _empty(W, items, rows, cloud.d)
        _launch(entries.signed_sums, cloud, items, W, s.start, r.start, rows, out, rows=rows, more=(cloud.d,))
        return out
    scale = 2 * cloud.metric.factor**exponent
    x, y = cloud.x[shared(s, cloud.x.shape[0]), r], cloud.y[shared(s, cloud.y.shape[0])]
    return scale * (x * W.sum(-1, keepdim=True) - W @ y)


def c_transform(geometry: Geometry, g: Tensor) -> Tensor:
    items = g.shape[0]
    out = _empty(g, items, geometry.n)
    _launch(entries.c_transform, geometry, items, solid(g, items), out)
    return out


def select(geometry: Geometry, at: Potentials, rows: Tensor, cols: Tensor, limit: float) -> Arcs | None:
    items = at.reg.shape[0]
    chosen = _point(at), solid(rows, items), solid(cols, items)
    # Without fused multiply-add, so that both kernels compute bitwise equal entries.
    counts = _empty(at.f, items, geometry.n, dtype=torch.int64)
    _launch(entries.count, geometry, items, *chosen, counts, fused=False)
    ends = counts.flatten().cumsum(0)
    total = int(ends[-1])
    if total > limit or (limit < torch.inf and _PER_ARC * total > room(counts)):
        return None
    item, row, col = (_empty(at.f, total, dtype=torch.int64) for _ in range(3))
    found = Arcs(item, row, col, _empty(at.f, total))
    _launch(entries.select, geometry, items, *chosen, ends - counts.flatten(), *found, fused=False)
    return found


def leaving(geometry: Geometry, at: Potentials, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    items = at.reg.shape[0]
    value, col = _empty(at.f, items, geometry.n), _empty(at.f, items, geometry.n, dtype=torch.int64)
    _launch(entries.leaving, geometry, items, _point(at), rows.contiguous(), cols.contiguous(), value, col)
    return value, col


def cost_range(geometry: Geometry, has_a: Tensor, has_b: Tensor) -> CostRange:
    items = has_a.shape[0]
    row = c_transform(geometry, only(torch.zeros_like(has_b, dtype=torch.float64), has_b))
    reach_a, row = row < torch.inf, finite_or_zero(row)
    col = c_transform(geometry.T, only(row, has_a))
    reach_b, col = col < torch.inf, finite_or_zero(col)
    low, high, span = (_empty(row, items, geometry.n) for _ in range(3))
    forbidden = _empty(row, items, geometry.n, dtype=torch.int32)
    reduced = Reduced(geometry, row, col)
    _launch(entries.cost_range, reduced, items, has_a.contiguous(), has_b.contiguous(), low, high, span, forbidden)
    return CostRange(
        row=row,
        col=col,
        span=span.amax(-1),
        low=low.amin(-1),
        high=high.amax(-1),
        forbidden=forbidden.any(-1),
        reach_a=reach_a,
        reach_b=reach_b,
    )


def are_costs(geometry: Geometry) -> bool:
    items = geometry.batch[0]
    bad = _empty(next(iter(geometry.arrays.values())), items, geometry.n, dtype=torch.int32)
    _launch(entries.bad_costs, geometry, items, bad)
    return not bool(bad.any())
