"""The operations that search trees of points by branch and bound, in place of all n·m costs.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`. Its numbers are those
of the compiled operations on tiles, bit for bit. `otkit.kernels.choose` takes them where `searches` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Arcs, CostRange
from otkit.geometry.base import Geometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.metrics import Named
from otkit.geometry.reduced import Reduced
from otkit.kernels import threads
from otkit.kernels.numba import NUMBA, search, transforms
from otkit.kernels.numba.search import Form, Target
from otkit.kernels.numba.tree import cover, lowest
from otkit.kernels.table import Kernels
from otkit.kernels.trees import Tree, subtrees, tree_of

# Trees search the costs of more pairs of points than this, of at most so many coordinates.
MANY, DIMENSIONS = 2**24, 3
# Number of queries that a thread takes at a time, and of pairs that it evaluates at a time.
_QUERIES, _PAIRS = 4096, 2**17
# Share of all entries above which the operation on tiles selects them sooner.
_SHARE = 1 / 32


def form_of(metric: Cost, x: np.ndarray, y: np.ndarray) -> Form:
    """The formula of convex costs between points."""
    ground, d, code = metric.ground, x.shape[-1], _ground(metric)
    assert code is not None
    if isinstance(ground, Named):
        relative, absolute = metric.powered(*ground.rounding(x, y))
    else:
        smallest = min(float(np.min(np.abs(v), where=v != 0, initial=np.inf)) for v in (x, y))
        relative, absolute = metric.rounding(d, 0.0, smallest)
    # Four times the error of a cost, and some operations on it.
    return Form(code, metric.factor, metric.exponent, 4 * relative + 64 * UNIT, 4 * absolute + 2.0**-1000)


def searchable(geometry: Geometry) -> bool:
    """Whether trees can search these costs: of points of few coordinates, and convex."""
    cloud = geometry.cloud
    return cloud is not None and cloud.d <= DIMENSIONS and _ground(cloud.metric) is not None


def searches(geometry: Geometry) -> bool:
    """Whether trees are to search these costs: those that they can search, of many pairs."""
    return searchable(geometry) and geometry.n * geometry.m > MANY


def _ground(metric: Cost) -> int | None:
    """The code of the distance, if the cost is a convex function of the difference of points."""
    ground = metric.ground
    return _GROUNDS.get(ground.name if isinstance(ground, Named) else ground) if metric.power >= 1 else None


_GROUNDS: dict[Any, int] = {
    "euclidean": search.EUCLIDEAN,
    "cosine": search.EUCLIDEAN,
    "cityblock": search.CITYBLOCK,
    "chebyshev": search.CHEBYSHEV,
}
# Exponents of sums of which the compiled operations on tiles, SciPy and NumPy have the same powers, to the last bit.
_EXACT = (0.5, 1.0, 2.0)


class Near(NamedTuple):
    """Pairs of a query and a column, in the orders of the trees, with their sums S."""

    rows: np.ndarray
    cols: np.ndarray
    sums: np.ndarray

    def some(self, which: np.ndarray) -> Near:
        """Some of the pairs."""
        return Near(self.rows[which], self.cols[which], self.sums[which])


@dataclass(frozen=True)
class Search:
    """One item of a geometry of points: queries are its rows, answers its columns. Arrays are in the order of trees."""

    metric: Cost
    form: Form
    rows: Tree
    cols: Tree
    row: np.ndarray
    col: np.ndarray
    transposed: bool

    @staticmethod
    def of(geometry: Geometry, item: int) -> Search:
        """The search of the costs of an item, which `searches` allows but for their number."""
        cloud, offsets = geometry.cloud, geometry.offsets
        assert cloud is not None
        rows, cols = tree_of(cloud.x, item), tree_of(cloud.y, item)
        row, col, transposed = offsets or (np.zeros((1, cloud.n)), np.zeros((1, cloud.m)), False)
        row, col = (v[item % v.shape[0]][side.order] for v, side in ((row, rows), (col, cols)))
        form = form_of(cloud.metric, cloud.x, cloud.y)
        return Search(cloud.metric, form, rows, cols, row, col, transposed)

    def target(self, potential: np.ndarray, size: np.ndarray) -> Target:
        """The columns with potentials; `size` has the sums of the absolute terms of these."""
        of, d = self.cols, self.cols.points.shape[1]
        value, size = self.col + potential, abs(self.col) + size
        bounds = np.empty((of.start.size, 3 * d + 2))
        bounds[:, :d], bounds[:, d : 2 * d] = of.low, of.high
        tasks = [task for group in subtrees(of.depth + 1) for task in group]

        def work(task: tuple[int, int]) -> None:
            cover(of.points, value, size, of.start, of.stop, *task, self.form.rounding, bounds)

        threads.each(work, tasks, 64 * size.size)
        return Target(of.points, of.start, of.stop, of.leaves, self.col, potential, size, bounds)

    def each(self, work: Callable[[int, int], None]) -> None:
        """Call `work` for ranges of queries, in threads."""
        n = self.row.size
        parts = [(low, min(low + _QUERIES, n)) for low in range(0, n, _QUERIES)]
        threads.each(lambda part: work(*part), parts, 64 * n)

    def limits(self, least: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Limits of costs less the offsets and potentials of columns, from those less all; `size` is that of terms."""
        with np.errstate(invalid="ignore"):
            return least + self.row + self.form.rounding * (size + abs(self.row)) + self.form.least

    def c_transform(self, potential: np.ndarray) -> np.ndarray:
        """The least reduced cost less potential of every row: ``(n,)``."""
        target, found = self.target(potential, abs(potential)), np.empty(self.row.size)

        def work(low: int, high: int) -> None:
            queries = self.rows.points, self.row, self.transposed, target, self.form
            transforms.c_transform(*queries, low, high, found)
            if self.form.exponent not in _EXACT:
                self._refine(target, found, low, high)

        self.each(work)
        return found

    def _refine(self, target: Target, found: np.ndarray, low: int, high: int) -> None:
        """Evaluate the costs that may be the least with the powers of the operations on tiles, in place."""
        limits = np.stack([self.limits(found, abs(found)), np.full(found.size, -np.inf)])
        for near in self.pairs(target, target, limits, low, high):
            slack = self.reduced(near) - target.potential[near.cols]
            first = np.flatnonzero(np.diff(near.rows, prepend=-1))
            found[near.rows[first]] = np.minimum.reduceat(slack, first)

    def pairs(self, target: Target, other: Target, limits: np.ndarray, low: int, high: int) -> Iterator[Near]:
        """The pairs within ``limits (2, n)`` as in `target` or in `other`, and some by rounding, a part at a time."""
        counts, size = np.empty(high - low, dtype=np.int64), _PAIRS
        while low < high:
            cols, sums = np.empty(size, dtype=np.int64), np.empty(size)
            queries = self.rows.points, limits, target, other, self.form
            done = search.collect(*queries, low, high, (counts, cols, sums))
            if done == low:
                size *= 2
                continue
            rows = np.repeat(np.arange(low, done), counts[: done - low])
            low = done
            if rows.size:
                yield Near(rows, cols[: rows.size], sums[: rows.size])

    def reduced(self, near: Near) -> np.ndarray:
        """The reduced costs of pairs."""
        C, row, col = self.metric.of_sums(near.sums), self.row[near.rows], self.col[near.cols]
        return (C - col) - row if self.transposed else (C - row) - col

    def nearest(self, potential: np.ndarray, k: int) -> np.ndarray:
        """Up to k columns of least cost less offset and potential for every row, −1 for none: ``(n, k)``."""
        target, found = self.target(potential, abs(potential)), np.empty((self.row.size, k), dtype=np.int64)
        self.each(lambda low, high: search.nearest(self.rows.points, target, self.form, low, high, found))
        return found

    def farthest(self, has_a: np.ndarray, has_b: np.ndarray) -> float:
        """The largest reduced cost between rows and columns with mass."""
        row, col = np.where(has_a, self.row, np.inf), np.where(has_b, self.col, np.inf)
        none = np.zeros(col.size)
        target = self.target(none, none)._replace(offset=col)
        least, best = np.empty(self.cols.start.size), [-np.inf]
        lowest(col, self.cols.start, self.cols.stop, self.cols.leaves, least)

        def work(low: int, high: int) -> None:
            best.append(search.farthest(self.rows.points, row, target, least, self.form, low, high, max(best)))

        self.each(work)
        return max(best)


def c_transform(geometry: Geometry, g: np.ndarray) -> np.ndarray:
    items, out = g.shape[0], np.empty((g.shape[0], geometry.n))
    for k in range(items):
        of = Search.of(geometry, k)
        out[k, of.rows.order] = of.c_transform(g[k, of.cols.order])
    return out


def select(geometry: Geometry, at: Potentials, rows: np.ndarray, cols: np.ndarray, limit: float) -> Arcs | None:
    items, found = at.reg.shape[0], list[Arcs]()
    left = min(limit, _SHARE * items * geometry.n * geometry.m)
    for k in range(items):
        one = slice(k, k + 1)
        here = Potentials(at.f[one], at.g[one], at.log_a[one], at.log_b[one], at.reg[one])
        part = _select(Search.of(geometry, k), here, rows[k], cols[k], left - sum(arcs.row.size for arcs in found))
        if part is None:
            return NUMBA.select(geometry, at, rows, cols, limit) if left < limit else None
        found.append(part._replace(item=np.full(part.row.size, k)))
    return Arcs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _select(of: Search, at: Potentials, rows: np.ndarray, cols: np.ndarray, limit: float) -> Arcs | None:
    """The selected entries of the one item of `at`."""
    (x, y), reg = (of.rows.order, of.cols.order), at.reg[0]
    f, log_a, rows = at.f[0, x], at.log_a[0, x], rows[x]
    g, log_b, cols = at.g[0, y], at.log_b[0, y], cols[y]
    empty_a, empty_b = log_a == -np.inf, log_b == -np.inf
    log_size = np.where(empty_b, 0.0, abs(g) + reg * abs(log_b))
    with np.errstate(invalid="ignore"):
        target = of.target(g + reg * log_b, log_size)
        by_cols = np.where(empty_b | (cols == np.inf), -np.inf, g + reg * (log_b - cols))
        never = (by_cols == -np.inf).all()
        other = target if never else of.target(by_cols, np.where(by_cols > -np.inf, log_size + reg * abs(cols), 0.0))
        bulk = abs(f) + reg * (abs(log_a) + abs(rows))
        limits = np.stack([of.limits(f + reg * (log_a - rows), bulk), of.limits(f + reg * log_a, bulk)])
    limits[:, empty_a] = -np.inf
    limits[1, never | empty_a] = -np.inf
    found: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
    counts: list[int] = []

    def work(low: int, high: int) -> None:
        for near in of.pairs(target, other, limits, low, high):
            if sum(counts) > limit:
                return
            i, j = near.rows, near.cols
            entries = (f[i] + g[j] - of.reduced(near)) * (1.0 / reg) + (log_a[i] + log_b[j])
            kept = np.flatnonzero((entries >= np.minimum(rows[i], cols[j])) & (entries > -np.inf))
            kept = kept[np.lexsort((y[j[kept]], i[kept]))]
            counts.append(kept.size)
            found[low, int(i[0])] = i[kept], y[j[kept]], entries[kept]

    of.each(work)
    if sum(counts) > limit:
        return None
    nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    return _in_row_order(x, *(np.concatenate(v) for v in zip(nothing, *(found[k] for k in sorted(found)), strict=True)))


def _in_row_order(order: np.ndarray, i: np.ndarray, col: np.ndarray, entries: np.ndarray) -> Arcs:
    """Entries in the caller's order of rows, from that of the tree, in which row i is ``order[i]``."""
    counts = np.bincount(i, minlength=order.size)
    of_row = np.empty_like(counts)
    of_row[order] = counts
    place = (np.cumsum(of_row) - of_row)[order] - (np.cumsum(counts) - counts)
    place = place[i] + np.arange(i.size)
    out = Arcs(i, np.repeat(np.arange(order.size), of_row), np.empty_like(col), np.empty_like(entries))
    out.col[place], out.log_plan[place] = col, entries
    return out


def ranked(geometry: Geometry, item: int, f: np.ndarray, g: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the k arcs of least ``C − f − g`` of each row and of each column, in row order.

    Points of potential −inf have none. Potentials are ``f (n,)`` and ``g (m,)``.
    """
    codes = []
    for costs, potential, row, col in ((geometry, g, geometry.m, 1), (geometry.T, f, 1, geometry.m)):
        of = Search.of(costs, item)
        found = of.nearest(potential[of.cols.order], min(k, potential.size))
        codes.append((of.rows.order[:, None] * row + of.cols.order[found] * col)[found >= 0])
    rows, cols = np.divmod(np.unique(np.concatenate(codes)), geometry.m)
    some = (f[rows] > -np.inf) & (g[cols] > -np.inf)
    return rows[some], cols[some]


def are_costs(geometry: Geometry) -> bool:
    return True  # distances of finite points are


def cost_range(geometry: Geometry, has_a: np.ndarray, has_b: np.ndarray) -> CostRange:
    row = c_transform(geometry, np.where(has_b, 0.0, -np.inf))
    col = c_transform(geometry.T, np.where(has_a, row, -np.inf))
    high, span = (_farthest(costs, has_a, has_b) for costs in (geometry, Reduced(geometry, row, col)))
    if not np.isfinite(high).all():  # costs that overflow are a matter of single entries
        return NUMBA.cost_range(geometry, has_a, has_b)
    every = np.ones(has_a.shape, dtype=bool), np.ones(has_b.shape, dtype=bool)
    low = np.where(has_a, row, np.inf).min(-1)
    return CostRange(row, col, span, low, high, np.zeros(low.size, dtype=bool), *every)


def _farthest(geometry: Geometry, has_a: np.ndarray, has_b: np.ndarray) -> np.ndarray:
    """The largest cost of each item between rows and columns with mass."""
    of = (Search.of(geometry, k) for k in range(has_a.shape[0]))
    return np.array([s.farthest(a[s.rows.order], b[s.cols.order]) for s, a, b in zip(of, has_a, has_b, strict=True)])


TREES: Kernels = replace(
    NUMBA,
    name="trees",
    home="otkit.kernels.searches:TREES",
    c_transform=c_transform,
    select=select,
    are_costs=are_costs,
    cost_range=cost_range,
)
