"""The operations that search trees of points by branch and bound, in place of all n·m costs.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`. Its numbers are those
of the compiled operations on tiles, bit for bit. `otkit.kernels.choose` takes them where `searches` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from otkit.geometry.base import Geometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.metrics import Named
from otkit.geometry.points import PointCloud
from otkit.kernels import threads
from otkit.kernels.numba import NUMBA, search
from otkit.kernels.numba.search import Form, Target
from otkit.kernels.numba.tiles import solid
from otkit.kernels.numba.tree import cover
from otkit.kernels.table import Kernels
from otkit.kernels.trees import LEAF, Tree, subtrees, tree_of

# Trees search the costs of more pairs of points than this, of at most so many coordinates.
MANY, DIMENSIONS = 2**24, 3
# Number of queries that a thread takes at a time.
_QUERIES = 4096


def form_of(metric: Cost, x: np.ndarray, y: np.ndarray) -> Form | None:
    """The formula of the costs between points, if a tree can search them: convex, of points of few coordinates."""
    ground, d, code = metric.ground, x.shape[-1], _ground(metric)
    if code is None or d > DIMENSIONS:
        return None
    if isinstance(ground, Named):
        relative, absolute = ground.rounding(x, y, metric.power)
    else:
        smallest = min(float(np.min(np.abs(v), where=v != 0, initial=np.inf)) for v in (x, y))
        relative, absolute = metric.rounding(d, 0.0, smallest)
    # Four times the error of a cost, and some operations on it.
    return Form(code, metric.factor, metric.exponent, 4 * relative + 64 * UNIT, 4 * absolute + 2.0**-1000)


def searches(geometry: Geometry) -> bool:
    """Whether trees are to search these costs: of many pairs of points, of few coordinates, and convex."""
    cloud = geometry.cloud
    if cloud is None or cloud.d > DIMENSIONS or _ground(cloud.metric) is None:
        return False
    return geometry.n * geometry.m > MANY


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


class _Near(NamedTuple):
    """Pairs of a query and a column in the orders of the trees, with their sums S; and the number of each query."""

    rows: np.ndarray
    cols: np.ndarray
    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Search:
    """One item of a geometry of points: queries on its rows, answers on its columns."""

    cloud: PointCloud
    form: Form
    rows: Tree
    cols: Tree
    row: np.ndarray
    col: np.ndarray
    transposed: bool

    @staticmethod
    def of(geometry: Geometry, item: int, form: Form) -> _Search:
        assert geometry.cloud is not None
        cloud, offsets = geometry.cloud, geometry.offsets
        rows, cols = tree_of(cloud.x, item), tree_of(cloud.y, item)
        row, col, transposed = (None, None, False) if offsets is None else offsets
        row, col = (
            np.zeros(side.order.size) if v is None else v[item % v.shape[0]][side.order]
            for v, side in ((row, rows), (col, cols))
        )
        return _Search(cloud, form, rows, cols, row, col, transposed)

    def target(self, potential: np.ndarray) -> Target:
        """The columns with potentials, in the caller's order, and the bounds of their nodes."""
        of, form = self.cols, self.form
        potential = np.ascontiguousarray(potential[of.order])
        value, size = self.col + potential, abs(self.col) + abs(potential)
        bounds = np.empty((of.start.size, self.cloud.d + 2))
        tasks = [task for group in subtrees(of.depth + 1) for task in group]

        def work(task: tuple[int, int]) -> None:
            cover(of.points, value, size, of.start, of.stop, *task, form.rounding, of.low, of.high, bounds)

        threads.each(work, tasks, 64 * size.size)
        return Target(of.points, of.start, of.stop, of.leaves, of.low, of.high, self.col, potential, bounds)

    def each(self, work: Callable[[tuple[int, int]], None]) -> None:
        """Call `work` for ranges of queries, in threads."""
        n = self.row.size
        parts = [(low, min(low + _QUERIES, n)) for low in range(0, n, _QUERIES)]
        threads.each(work, parts, 64 * n)

    def c_transform(self, potential: np.ndarray) -> np.ndarray:
        """The least reduced cost less potential of every row, by the formula of the search: ``(n,)``."""
        target, found = self.target(potential), np.empty(self.row.size)
        queries = self.rows.points, self.row, self.transposed, target, self.form

        def work(part: tuple[int, int]) -> None:
            search.c_transform(*queries, *part, found)
            if self.form.exponent not in _EXACT:
                refine(slice(*part))

        def refine(part: slice) -> None:
            """Evaluate the costs that may be the least with the powers of the operations on tiles."""
            near = self.collect(target, found, part)
            slack = self.reduced(near) - target.potential[near.cols]
            some = np.flatnonzero(near.counts)
            found[part][some] = np.minimum.reduceat(slack, np.cumsum(near.counts)[some] - near.counts[some])

        self.each(work)
        out = np.empty_like(found)
        out[self.rows.order] = found
        return out

    def collect(self, target: Target, limits: np.ndarray, part: slice) -> _Near:
        """The columns of cost less offsets and potential up to a limit for each query, and some above by rounding."""
        low, high = part.start, part.stop
        counts, size, found = np.zeros(high - low, dtype=np.int64), 4 * (high - low) + LEAF, []
        while low < high:
            cols, sums = np.empty(size, dtype=np.int64), np.empty(size)
            queries = self.rows.points, self.row, limits, target, self.form
            done = search.collect(*queries, low, high, (counts[low - part.start :], cols, sums))
            filled = counts[low - part.start : done - part.start].sum()
            found.append((cols[:filled], sums[:filled]))
            low, size = done, 2 * size
        cols, sums = (np.concatenate(v) for v in zip(*found, strict=True))
        return _Near(np.repeat(np.arange(*part.indices(high)), counts), cols, sums, counts)

    def reduced(self, near: _Near) -> np.ndarray:
        """The reduced costs of pairs, bitwise equal to those of the operations on tiles."""
        C, row, col = self.cloud.metric.of_sums(near.sums), self.row[near.rows], self.col[near.cols]
        return (C - col) - row if self.transposed else (C - row) - col


def c_transform(geometry: Geometry, g: np.ndarray) -> np.ndarray:
    cloud, items = geometry.cloud, g.shape[0]
    assert cloud is not None
    form, g = form_of(cloud.metric, cloud.x, cloud.y), solid(g, items)
    assert form is not None
    return np.stack([_Search.of(geometry, k, form).c_transform(g[k]) for k in range(items)])


TREES: Kernels = replace(NUMBA, name="trees", home="otkit.kernels.searches:TREES", c_transform=c_transform)
