"""The operations for NumPy arrays, on compiled kernels: tiles, threads, and what of it all is kept in memory.

Each has the name, the arguments and the meaning of its reference in `otkit.geometry.base`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import finite_or_zero
from otkit.geometry import Dense, PointCloud
from otkit.geometry.base import Arcs, CostRange, Geometry, Moved, Potentials, Reduced, shared
from otkit.geometry.costs import CANCELLED
from otkit.kernels import numba_entries as entries
from otkit.kernels import threads

SMALL = 2**19  # entries of a problem that one thread does alone
_CHUNK = 2**17  # entries of the small problems that are done in one go
_TILE = 2**16  # entries of a tile of distances: half of a cache of the second level
_GROUP, _GROUPS = 2**18, 16  # entries of a part of a large problem, and its parts at most

Work = Callable[[np.ndarray, int, int, int, int], None]  # tile, low, high, first row, group


class Part(NamedTuple):
    """Rows of some items that one thread does in turn; sums over rows are formed for each `group` first."""

    items: slice
    rows: slice
    group: int


def parts(n: int, m: int, items: int) -> list[Part]:
    """How the work is cut: by the size of a problem alone, so that neither threads nor neighbours change a sum."""
    if n * m <= SMALL:
        width = max(1, _CHUNK // (n * m))
        return [Part(slice(k, min(k + width, items)), slice(0, n), 0) for k in range(0, items, width)]
    rows = _cut(n, groups(n, m))
    return [Part(slice(k, k + 1), r, group) for k in range(items) for group, r in enumerate(rows)]


@lru_cache
def _cut(n: int, count: int) -> list[slice]:
    """Rows in so many groups of nearly the same size."""
    return [slice(*ends) for ends in pairwise(np.linspace(0, n, count + 1).astype(int).tolist())]


def groups(n: int, m: int) -> int:
    """Into how many groups of rows a problem is cut."""
    if n * m <= SMALL:
        return 1
    return min(_GROUPS, n, 2 ** max(0, math.ceil(math.log2(n * m / _GROUP))))


class Tiles:
    """Tiles of a flat geometry for kernels: C-contiguous, in float64 or float32."""

    def __init__(self, geometry: Geometry) -> None:
        self.base, self.turned, self.offsets = geometry, False, None
        if isinstance(geometry, Reduced):
            self.base, self.turned, self.offsets = geometry.base, geometry.turned, (geometry.row, geometry.col)
        self.n, self.m = geometry.n, geometry.m
        self.form: tuple[int, float] | None = None
        if isinstance(self.base, PointCloud):
            self.form = _FORMS.get((self.base.metric.ground, self.base.metric.power))
            if self.form is not None:
                self.y = np.ascontiguousarray(self.base.y.transpose(0, 2, 1))
            if self.form is not None and not self.base.metric.direct(self.base.d):
                self.squares = [(v * v).sum(-1) for v in (self.base.x, self.base.y)]

    def reduction(self, items: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The offsets ``row (B, n)`` and ``col (B, m)``, and whether the columns come first."""
        if self.offsets is None:
            return np.zeros((items, self.n)), np.zeros((items, self.m)), False
        return solid(self.offsets[0], items), solid(self.offsets[1], items), self.turned

    def tile(self, items: slice, rows: slice) -> np.ndarray:
        """The costs ``(items or 1, rows, m)``."""
        base = self.base
        if isinstance(base, Dense):
            C = base.C[shared(items, base.C.shape[0]), rows]
            return np.ascontiguousarray(C, dtype=C.dtype if C.dtype in (np.float32, np.float64) else np.float64)
        if self.form is None or not isinstance(base, PointCloud):
            return np.ascontiguousarray(base.block(items, rows))
        x = base.x[shared(items, base.x.shape[0]), rows]
        y = self.y[shared(items, self.y.shape[0])]
        if not base.metric.direct(base.d):
            out = x @ y
            lengths = [v[shared(items, v.shape[0])] for v in self.squares]
            entries.from_products(out, x, y, lengths[0][:, rows], lengths[1], self.form[1], CANCELLED)
            return out
        out = np.empty((max(x.shape[0], y.shape[0]), x.shape[1], self.m))
        entries.distances(np.ascontiguousarray(x), y, *self.form, out)
        return out

    def walk(self, part: Part, work: Work) -> None:
        """Call the work for every tile of a part."""
        rows, height = part.rows, part.rows.stop - part.rows.start
        if not isinstance(self.base, Dense) and self.n * self.m > SMALL:
            height = max(1, _TILE // self.m)
        for first in range(rows.start, rows.stop, height):
            tile = self.tile(part.items, slice(first, min(first + height, rows.stop)))
            work(tile, part.items.start, part.items.stop, first, part.group)

    def each(self, items: int, work: Work) -> None:
        """Call the work for every tile, on all threads."""
        cut = parts(self.n, self.m, items)
        threads.each(lambda part: self.walk(part, work), cut, items * self.n * self.m)


_FORMS: dict[Any, tuple[int, float]] = {
    ("euclidean", 2.0): (entries.EUCLIDEAN, 1.0),
    ("euclidean", 1.0): (entries.EUCLIDEAN, 0.5),
    ("cityblock", 1.0): (entries.CITYBLOCK, 1.0),
    ("cityblock", 2.0): (entries.CITYBLOCK, 2.0),
}


def solid(x: Any, items: int) -> np.ndarray:
    """A vector of each item, contiguous and in float64."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    return x if x.shape[0] == items else np.repeat(x, items, axis=0)


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
    geometry: Reduced, at: Potentials, U: np.ndarray, V: np.ndarray, slope: np.ndarray | None
) -> np.ndarray:
    items, tiles = at.reg.shape[0], Tiles(geometry)
    base: Any = geometry.base
    cloud = base.centred()
    vectors, offsets = _at(at), tiles.reduction(items)
    turned = V.transpose(0, 2, 1)
    out = np.empty((items, tiles.n, cloud.d))

    def work(C: np.ndarray, low: int, high: int, first: int, _: int) -> None:
        some, rows = slice(low, high), slice(first, first + C.shape[1])
        P = np.empty((high - low, *C.shape[1:]))
        entries.plan(C, low, high, first, *offsets, *vectors, P)
        weights = U[some, rows] @ turned[some]
        if slope is not None:
            weights += slope[some, None, None] * _costs_of(C, offsets, some, first)
        P *= weights
        out[some, rows] = cloud.pulled(P, some, rows)

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
    """The transposed geometry, where this one is a matrix lying across memory."""
    base = geometry.base if isinstance(geometry, Reduced) else geometry
    if isinstance(base, Dense) and not base.C.flags.c_contiguous and base.T.C.flags.c_contiguous:
        return geometry.T
    return None


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
    items = has_a.shape[0]
    row = c_transform(geometry, np.where(has_b, 0.0, -np.inf))
    reach_a, row = row < np.inf, finite_or_zero(row)
    col = c_transform(geometry.T, np.where(has_a, row, -np.inf))
    reach_b, col = col < np.inf, finite_or_zero(col)
    tiles, count = Tiles(geometry), groups(geometry.n, geometry.m)
    low, high, span = (np.full((count, items), start) for start in (np.inf, -np.inf, -np.inf))
    forbidden = np.zeros((count, items), dtype=np.int64)
    given = solid(row, items), solid(col, items), np.ascontiguousarray(has_a), np.ascontiguousarray(has_b)

    def work(C: np.ndarray, start: int, stop: int, first: int, group: int) -> None:
        out = low[group], high[group], span[group], forbidden[group]
        entries.cost_range(C, start, stop, first, *given, *out)

    tiles.each(items, work)
    return CostRange(row, col, span.max(0), low.min(0), high.max(0), forbidden.any(0), reach_a, reach_b)
