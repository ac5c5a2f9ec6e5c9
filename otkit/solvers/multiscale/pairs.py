"""The costs between two sets of cells: least ones, and the arcs of small cost, in the orders of trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from otkit.geometry.costs import Cost
from otkit.kernels.numba.search import Form, Target
from otkit.kernels.numba.support import Support, sums
from otkit.kernels.searches import Near, Search
from otkit.kernels.trees import Tree

# More than _CROWD arcs for each point are thinned out, to about _LEFT of each row and column.
_CROWD, _LEFT = 128, 16


@dataclass(frozen=True)
class Pairs:
    """The costs between the points of two trees.

    Attributes
    ----------
    metric : Cost
    form : Form
        Its formula, with bounds on rounding errors for all points.
    rows, cols : Tree
    """

    metric: Cost
    form: Form
    rows: Tree
    cols: Tree

    @property
    def T(self) -> Pairs:
        return Pairs(self.metric, self.form, self.cols, self.rows)

    @property
    def search(self) -> Search:
        """The search of the columns of small cost for each row."""
        row, col = (np.zeros(side.order.size) for side in (self.rows, self.cols))
        return Search(self.metric, self.form, self.rows, self.cols, row, col, False)

    def least(self, g: np.ndarray) -> np.ndarray:
        """The c-transform min_j C_ij − g_j: ``(n,)``."""
        return self.search.c_transform(g)

    def costs(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """The costs of arcs."""
        out = np.empty(rows.size)
        sums(self.rows.points, self.cols.points, rows, cols, self.form.ground, out)
        return np.asarray(self.metric.of_sums(out))

    def near(self, g: np.ndarray, reach: float) -> Support:
        """The arcs that exceed the least C_ij − f_i − g_j of their row or column by at most `reach`.

        The potentials f are the c-transform of g.
        """
        f = self.least(g)
        ceiling = self.T.least(f) + reach
        search = self.search
        limits = np.stack([f + reach, f])
        return _collected(search, search.target(g, abs(g)), search.target(ceiling, abs(ceiling)), limits)

    def below(self, g: np.ndarray, limits: np.ndarray) -> Support:
        """The arcs with C_ij − g_j at most the limit of their row."""
        search = self.search
        target = search.target(g, abs(g))
        return _collected(search, target, target, np.stack([limits, np.full(limits.size, -np.inf)]))


def _collected(search: Search, target: Target, other: Target, limits: np.ndarray) -> Support:
    """The arcs of both targets, in row order; a part of them if there are very many, as where nearly all costs tie."""
    queries, n, m = (target, other, limits), search.row.size, search.cols.order.size
    found = _listed(search, queries, lambda near: near, _CROWD * (n + m))
    if found is not None:
        return found
    by_row, by_col, adding = np.zeros(n, dtype=np.int64), np.zeros(m, dtype=np.int64), Lock()

    def count(low: int, high: int) -> None:
        for near in search.pairs(*queries, low, high):
            with adding:
                by_row[:] += np.bincount(near.rows, minlength=n)
                by_col[:] += np.bincount(near.cols, minlength=m)

    search.each(count)
    row, col = (_LEFT / np.maximum(v, 1) for v in (by_row, by_col))
    drawn = _listed(search, queries, lambda near: near.some(_lot(near) < np.maximum(row[near.rows], col[near.cols])))
    assert drawn is not None
    return drawn


def _lot(near: Near) -> np.ndarray:
    """A number from 0 to 1 for each pair, the same every time and as good as random."""
    mixed = near.rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + near.cols.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(((mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) >> np.uint64(11)) * 2.0**-53


def _listed(
    search: Search,
    queries: tuple[Target, Target, np.ndarray],
    chosen: Callable[[Near], Near],
    most: float = np.inf,
) -> Support | None:
    """The chosen arcs, which a thread lists for a part of the rows at a time; None if they are more than `most`."""
    counts, found, total = np.zeros(search.row.size, dtype=np.int64), {}, [0]

    def work(low: int, high: int) -> None:
        for every in search.pairs(*queries, low, high):
            near = chosen(every)
            total[0] += near.rows.size
            if total[0] > most:
                return
            counts[low:high] += np.bincount(near.rows - low, minlength=high - low)
            found[low, every.rows[0]] = near.cols.astype(np.uint32), search.metric.of_sums(near.sums)

    search.each(work)
    if total[0] > most:
        return None
    nothing = np.empty(0, dtype=np.uint32), np.empty(0)
    cols, costs = (np.concatenate(v) for v in zip(nothing, *(found[k] for k in sorted(found)), strict=True))
    return Support(np.concatenate([[0], np.cumsum(counts)]), cols, costs)
