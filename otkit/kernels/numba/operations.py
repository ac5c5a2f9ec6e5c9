"""The operations for NumPy arrays, by compiled kernels on tiles, in threads.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`.
"""

from __future__ import annotations

import numpy as np

from otkit.arrays import finite_or_zero
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Arcs, CostRange, Moved
from otkit.geometry.base import Geometry
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import entries, slopes
from otkit.kernels.numba.tiles import Tiles, groups, is_squared, solid


def _at(at: Potentials) -> tuple[np.ndarray, ...]:
    items = at.reg.shape[0]
    return tuple(solid(v, items) for v in (at.f, at.g, at.log_a, at.log_b, at.reg))


def are_costs(geometry: Geometry) -> bool:
    tiles, good = Tiles(geometry), []
    tiles.each(geometry.batch[0], lambda C, *_: good.append(entries.are_costs(C)))
    return all(good)


def softmin(geometry: Geometry, g: np.ndarray, log_b: np.ndarray, reg: np.ndarray) -> np.ndarray:
    items, tiles = g.shape[0], Tiles(geometry)
    h, reg, out = solid(g + reg[:, None] * log_b, items), solid(reg, items), np.empty((items, geometry.n))
    offsets = tiles.reduction(items)
    tiles.each(items, lambda C, low, high, first, _: entries.softmin(C, low, high, first, *offsets, h, reg, out))
    return out


def _moved(geometry: Geometry, at: Potentials) -> Moved:
    items, tiles, count = at.reg.shape[0], Tiles(geometry), groups(geometry.n, geometry.m)
    vectors, offsets = _at(at), tiles.reduction(items)
    rows, cols, cost = np.empty((items, tiles.n)), np.zeros((count, items, tiles.m)), np.zeros((count, items))

    def work(C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        entries.moved(C, low, high, first, *offsets, *vectors, rows, cols[group], cost[group])

    tiles.each(items, work)
    return Moved(cost.sum(0), rows, cols.sum(0))


transport_cost = _moved


def marginals(geometry: Geometry, at: Potentials) -> tuple[np.ndarray, np.ndarray]:
    moved = _moved(geometry, at)
    return moved.row, moved.col


def plan(geometry: Geometry, at: Potentials, *, single: bool = False) -> np.ndarray:
    items, tiles = at.reg.shape[0], Tiles(geometry)
    vectors, offsets = _at(at), tiles.reduction(items)
    out = np.empty((items, tiles.n, tiles.m), dtype=np.float32 if single else np.float64)

    def work(C: np.ndarray, low: int, high: int, first: int, _: int) -> None:
        into = out[low:high, first : first + C.shape[1]]
        entries.plan(C, low, high, first, *offsets, *vectors, into)

    tiles.each(items, work)
    return out


def _costs_of(C: np.ndarray, offsets: tuple[np.ndarray, np.ndarray, bool], items: slice, first: int) -> np.ndarray:
    """The reduced costs of a tile, in the order of `Reduced`."""
    row, col = offsets[0][items, first : first + C.shape[1], None], offsets[1][items, None, :]
    return (C - col) - row if offsets[2] else (C - row) - col


def apply_plan(geometry: Geometry, at: Potentials, v: np.ndarray, power: int = 0) -> np.ndarray:
    items, tiles = at.reg.shape[0], Tiles(geometry)
    vectors, offsets = _at(at), tiles.reduction(items)
    out = np.empty((items, tiles.n, v.shape[-1]))

    def work(C: np.ndarray, low: int, high: int, first: int, _: int) -> None:
        P = np.empty((high - low, *C.shape[1:]))
        entries.plan(C, low, high, first, *offsets, *vectors, P)
        if power:
            P *= np.where(P > 0, _costs_of(C, offsets, slice(low, high), first), 0.0) ** power
        out[low:high, first : first + C.shape[1]] = P @ v[low:high]

    tiles.each(items, work)
    return out


def apply_cost_gradient(
    geometry: Reduced,
    at: Potentials,
    U: np.ndarray,
    V: np.ndarray,
    slope: np.ndarray | None,
    *,
    single: bool = False,
) -> np.ndarray:
    items, tiles = at.reg.shape[0], Tiles(geometry)
    assert geometry.cloud is not None
    cloud = geometry.cloud.centred()
    vectors, offsets = _at(at), tiles.reduction(items)
    by_cost = np.zeros(items) if slope is None else solid(slope, items)
    U, V = solid(U, items), solid(V.transpose(0, 2, 1), items)
    squared = is_squared(cloud.metric)
    dtype = np.float32 if single and squared and slope is None else np.float64
    x, y, length = np.ascontiguousarray(cloud.x), np.ascontiguousarray(cloud.y), np.ones(1)
    if dtype == np.float32:
        length = np.maximum(abs(y).max((1, 2)), np.finfo(np.float64).tiny)
        y = (y / length[:, None, None]).astype(dtype)
    out = np.empty((items, tiles.n, cloud.d))

    def work(C: np.ndarray, low: int, high: int, first: int, _: int) -> None:
        W, scale = np.empty((high - low, *C.shape[1:]), dtype), np.empty((high - low, C.shape[1]))
        slopes.weighted(C, low, high, first, *offsets, *vectors, U, V, by_cost, W, scale)
        if squared:
            slopes.pulled(W, scale, low, first, x, y, length, out)
        else:
            some, rows = slice(low, high), slice(first, first + C.shape[1])
            out[some, rows] = cloud.pulled(W, some, rows) * scale[:, :, None]

    tiles.each(items, work)
    return out


def c_transform(geometry: Geometry, g: np.ndarray) -> np.ndarray:
    items, tiles = g.shape[0], Tiles(geometry)
    g = solid(g, items)
    upright = _upright(geometry)
    if upright is not None:
        return _c_transform_columns(upright, g)
    out, offsets = np.empty((items, geometry.n)), tiles.reduction(items)
    tiles.each(items, lambda C, low, high, first, _: entries.c_transform(C, low, high, first, *offsets, g, out))
    return out


def _upright(geometry: Geometry) -> Geometry | None:
    """The transposed geometry, if this one is a matrix in column-major order; else None."""
    C = geometry.matrix
    if C is None or C.flags.c_contiguous or not C.transpose(0, 2, 1).flags.c_contiguous:
        return None
    return geometry.T


def _c_transform_columns(geometry: Geometry, f: np.ndarray) -> np.ndarray:
    items, tiles = f.shape[0], Tiles(geometry)
    out = np.full((groups(tiles.n, tiles.m), items, tiles.m), np.inf)
    offsets = tiles.reduction(items)

    def work(C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        entries.c_transform_columns(C, low, high, first, *offsets, f, out[group])

    tiles.each(items, work)
    return out.min(0)


def select(geometry: Geometry, at: Potentials, rows: np.ndarray, cols: np.ndarray, limit: float) -> Arcs | None:
    items, tiles = at.reg.shape[0], Tiles(geometry)
    arguments = (*tiles.reduction(items), *_at(at), solid(rows, items), solid(cols, items))
    found: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
    counts: list[int] = []

    def work(C: np.ndarray, low: int, high: int, first: int, _: int) -> None:
        if sum(counts) > limit:
            return
        count = entries.select(C, low, high, first, *arguments, _room(0))
        counts.append(count)
        found[low, first] = room = _room(count if sum(counts) <= limit else 0)
        entries.select(C, low, high, first, *arguments, room)

    tiles.each(items, work)
    if sum(counts) > limit:
        return None
    return Arcs(*(np.concatenate(column) for column in zip(*(found[k] for k in sorted(found)), strict=True)))


def _room(count: int) -> tuple[np.ndarray, ...]:
    return (*(np.empty(count, dtype=np.int64) for _ in range(3)), np.empty(count))


def cost_range(geometry: Geometry, has_a: np.ndarray, has_b: np.ndarray) -> CostRange:
    items, tiles, count = has_a.shape[0], Tiles(geometry), groups(geometry.n, geometry.m)
    has_a, has_b = np.ascontiguousarray(has_a), np.ascontiguousarray(has_b)
    small = count == 1  # one tile has all rows
    if small:
        row, col = np.empty(has_a.shape), np.empty(has_b.shape)
        reach_a, reach_b = np.empty_like(has_a), np.empty_like(has_b)
    else:
        row = c_transform(geometry, np.where(has_b, 0.0, -np.inf))
        reach_a, row = row < np.inf, finite_or_zero(row)
        col = c_transform(geometry.T, np.where(has_a, row, -np.inf))
        reach_b, col = col < np.inf, finite_or_zero(col)
    low, high, span = (np.full((count, items), start) for start in (np.inf, -np.inf, -np.inf))
    forbidden = np.zeros((count, items), dtype=np.int64)
    given = solid(row, items), solid(col, items), has_a, has_b

    def work(C: np.ndarray, start: int, stop: int, first: int, group: int) -> None:
        out = low[group], high[group], span[group], forbidden[group]
        if small:
            entries.offsets(C, start, stop, has_a, has_b, row, col, reach_a, reach_b)
        entries.cost_range(C, start, stop, first, *given, *out)

    tiles.each(items, work)
    return CostRange(
        row=row,
        col=col,
        span=span.max(0),
        low=low.min(0),
        high=high.max(0),
        forbidden=forbidden.any(0),
        reach_a=reach_a,
        reach_b=reach_b,
    )
