"""The reference version of every operation that costs O(n·m), except the sweep.

An operation is a function of a *flat* geometry (one batch axis) and of float64 vectors with the same leading axis:
potentials ``f (B, n)`` and ``g (B, m)``, log-weights ``log_a (B, n)`` and ``log_b (B, m)``, and ``reg (B,)``. It is
defined for rows. For columns, it is called with ``geometry.T``. The plan is
``P_ij = exp((f_i + g_j − C_ij)/reg + log a_i + log b_j)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from otkit.arrays import Array, device, finite_or_zero, logsumexp, namespace, only, zeros
from otkit.entropic.dual import Potentials
from otkit.geometry.base import Geometry, tiles
from otkit.geometry.reduced import Reduced


def map_rows(geometry: Geometry, items: int, rows_of: Callable[[slice, slice], Array]) -> Array:
    """Concatenate the results ``(k, rows, …)`` of all tiles to ``(items, n, …)``."""
    xp = None
    parts: list[list[Array]] = []
    for s, r in tiles(geometry, items):
        part = rows_of(s, r)
        xp = xp or namespace(part)
        if r.start == 0:
            parts.append([])
        parts[-1].append(part)
    assert xp is not None
    return xp.concat([xp.concat(row, axis=1) for row in parts], axis=0)


def softmin(geometry: Geometry, g: Array, log_b: Array, reg: Array) -> Array:
    """−reg·log Σ_j b_j exp((g_j − C_ij)/reg): ``(B, n)``; 0 for a row that reaches no mass."""
    h = g + reg[:, None] * log_b

    def rows_of(s: slice, r: slice) -> Array:
        scaled = (h[s, None, :] - geometry.block(s, r)) / reg[s, None, None]
        return finite_or_zero(-reg[s, None] * logsumexp(scaled))

    return map_rows(geometry, g.shape[0], rows_of)


def marginals(geometry: Geometry, at: Potentials) -> tuple[Array, Array]:
    """Row sums ``(B, n)`` and column sums ``(B, m)`` of the plan."""
    moved = _moved(geometry, at, with_cost=False)
    return moved.row, moved.col


class Moved(NamedTuple):
    """⟨C, P⟩ ``(B,)``, and the row sums ``(B, n)`` and column sums ``(B, m)`` from the same pass."""

    cost: Array
    row: Array
    col: Array


def transport_cost(geometry: Geometry, at: Potentials) -> Moved:
    """⟨C, P⟩, with 0 for forbidden arcs, and the marginals."""
    return _moved(geometry, at, with_cost=True)


def _moved(geometry: Geometry, at: Potentials, *, with_cost: bool) -> Moved:
    xp = namespace(at.f)
    col, cost = xp.zeros_like(at.g), xp.zeros_like(at.reg)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        P = at.plan(C, s, r)
        col[s, :] = col[s, :] + xp.sum(P, axis=-2)
        if with_cost:
            paid = P * xp.where(P > 0, C, xp.zeros_like(C))
            cost[s] = cost[s] + xp.sum(xp.sum(paid, axis=-1), axis=-1)
        return xp.sum(P, axis=-1)

    row = map_rows(geometry, at.f.shape[0], rows_of)
    return Moved(cost, row, col)


def plan(geometry: Geometry, at: Potentials, *, single: bool = False) -> Array:
    """The plan ``(B, n, m)``, in float32 where `single`."""
    xp = namespace(at.f)
    dtype = xp.float32 if single else xp.float64

    def rows_of(s: slice, r: slice) -> Array:
        return xp.astype(at.plan(geometry.block(s, r), s, r), dtype, copy=False)

    return map_rows(geometry, at.f.shape[0], rows_of)


def apply_plan(geometry: Geometry, at: Potentials, v: Array, power: int = 0) -> Array:
    """Σ_j P_ij·C_ij^power·v_j for ``v (B, m, k)``, with 0 for forbidden arcs: ``(B, n, k)``."""
    xp = namespace(v)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        P = at.plan(C, s, r)
        if power:
            P = P * xp.where(P > 0, C, 0.0) ** power
        return xp.matmul(P, v[s, ...])

    return map_rows(geometry, v.shape[0], rows_of)


def apply_cost_gradient(
    geometry: Reduced, at: Potentials, U: Array, V: Array, slope: Array | None, *, single: bool = False
) -> Array:
    """Σ_j P_ij·(Σ_r U_ir·V_jr + slope·C_ij)·∇₁c(x_i, y_j), in the reduced costs C: ``(B, n, d)``.

    ``U (B, n, R)``, ``V (B, m, R)`` and ``slope (B,)`` are weights of the pairs of a `PointCloud`. Where `single`, the
    plan and its product with the points need the accuracy of float32 only.
    """
    assert geometry.cloud is not None
    cloud = geometry.cloud.centred()
    xp = namespace(U)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        weights = xp.matmul(U[s, r, :], xp.matrix_transpose(V[s, :, :]))
        if slope is not None:
            weights = weights + slope[s, None, None] * C
        return cloud.pulled(at.plan(C, s, r) * weights, s, r)

    return map_rows(geometry, U.shape[0], rows_of)


def c_transform(geometry: Geometry, g: Array) -> Array:
    """min_j C_ij − g_j: ``(B, n)``, ``inf`` for a row without arcs. Columns of potential −inf are excluded."""
    xp = namespace(g)

    def rows_of(s: slice, r: slice) -> Array:
        return xp.min(geometry.block(s, r) - g[s, None, :], axis=-1)

    return map_rows(geometry, g.shape[0], rows_of)


class Arcs(NamedTuple):
    """Selected entries in row order: item, row, column and log P, each ``(K,)``."""

    item: Array
    row: Array
    col: Array
    log_plan: Array


def select(geometry: Geometry, at: Potentials, rows: Array, cols: Array, limit: float) -> Arcs | None:
    """The entries with ``log P_ij ≥ min(rows_i, cols_j)``: ``rows (B, n)``, ``cols (B, m)``; None if over `limit`."""
    xp = namespace(at.f)
    found, count = [], 0
    for s, r in tiles(geometry, at.f.shape[0]):
        entries = at.log_plan(geometry.block(s, r), s, r)
        threshold = xp.minimum(rows[s, r, None], cols[s, None, :])
        item, row, col = xp.nonzero((entries >= threshold) & (entries > -xp.inf))
        count += item.shape[0]
        if count > limit:
            return None
        flat = (item * entries.shape[1] + row) * entries.shape[2] + col
        values = xp.take(xp.reshape(entries, (-1,)), flat, axis=0)
        found.append((item + s.start, row + r.start, col, values))
    return Arcs(*(xp.concat(part) for part in zip(*found, strict=True)))


def leaving(geometry: Geometry, at: Potentials, rows: Array, cols: Array) -> tuple[Array, Array]:
    """The largest log P of each row among the columns of another label, and the first such column: ``(B, n)``, twice.

    Labels ``rows (B, n)`` and ``cols (B, m)`` are whole numbers. A row without such an arc has −inf.
    """
    xp = namespace(at.f)

    def rows_of(s: slice, r: slice) -> Array:
        entries = at.log_plan(geometry.block(s, r), s, r)
        entries = xp.where(rows[s, r, None] == cols[s, None, :], -xp.inf, entries)
        best = xp.astype(xp.argmax(entries, axis=-1), xp.float64)
        return xp.stack((xp.max(entries, axis=-1), best), axis=-1)

    found = map_rows(geometry, at.f.shape[0], rows_of)
    return found[..., 0], xp.astype(found[..., 1], xp.int64)


def are_costs(geometry: Geometry) -> bool:
    """Whether every cost is a number or +inf."""
    items = geometry.batch[0]
    blocks = (geometry.block(s, r) for s, r in tiles(geometry, items))
    return all(not namespace(C).any(namespace(C).isnan(C) | (-namespace(C).inf == C)) for C in blocks)


class CostRange(NamedTuple):
    """Offsets and bounds of the costs of arcs between points with mass.

    The offsets ``row (B, n)`` and ``col (B, m)`` reduce the costs: ``C − row − col`` is at least 0, with a 0 in every
    row and column. ``span (B,)`` is the largest finite reduced cost. ``low`` and ``high (B,)`` are the smallest and
    the largest finite cost. ``forbidden (B,)``: whether some costs are infinite. ``reach_a (B, n)`` and ``reach_b (B,
    m)``: which rows and columns have a finite arc to a point with mass.
    """

    row: Array
    col: Array
    span: Array
    low: Array
    high: Array
    forbidden: Array
    reach_a: Array
    reach_b: Array

    @staticmethod
    def within(high: Array, has_a: Array, has_b: Array) -> CostRange:
        """The range of costs from 0 to ``high (B,)`` that are not reduced: offsets are zero."""
        nothing = zeros(high.shape, has_a)
        return CostRange(
            row=zeros(has_a.shape, has_a),
            col=zeros(has_b.shape, has_b),
            span=high,
            low=nothing,
            high=high,
            forbidden=nothing > 0,
            reach_a=has_a,
            reach_b=has_b,
        )


def cost_range(geometry: Geometry, has_a: Array, has_b: Array) -> CostRange:
    """Reduce the costs by one c-transform each way, over rows and columns that carry mass."""
    xp = namespace(has_a)
    size = has_a.shape[0]

    zeros_b = xp.zeros(has_b.shape, dtype=xp.float64, device=device(has_b))
    row = c_transform(geometry, only(zeros_b, has_b))
    reach_a, row = row < xp.inf, finite_or_zero(row)
    col = c_transform(geometry.T, only(row, has_a))
    reach_b = col < xp.inf
    reduced = Reduced(geometry, row, finite_or_zero(col))

    def rows_of(s: slice, r: slice) -> Array:
        carries = has_a[s, r, None] & has_b[s, None, :]
        C, carries = xp.broadcast_arrays(geometry.block(s, r), carries)
        allowed = carries & xp.isfinite(C)
        infinite = xp.full_like(C, xp.inf)
        columns = (
            xp.max(xp.where(allowed, reduced.block(s, r), -infinite), axis=-1),
            -xp.min(xp.where(allowed, C, infinite), axis=-1),
            xp.max(xp.where(allowed, C, -infinite), axis=-1),
            xp.astype(xp.any(carries & ~xp.isfinite(C), axis=-1), xp.float64),
        )
        return xp.stack(columns, axis=-1)

    top = xp.max(map_rows(geometry, size, rows_of), axis=1)
    return CostRange(
        row=row,
        col=reduced.col,
        span=top[:, 0],
        low=-top[:, 1],
        high=top[:, 2],
        forbidden=top[:, 3] > 0,
        reach_a=reach_a,
        reach_b=reach_b,
    )
