"""The costs between two sets of cells: least ones, and the arcs of small cost, in the orders of trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit.geometry.costs import Cost
from otkit.kernels.numba.search import Form, Target
from otkit.kernels.numba.support import Support, sums
from otkit.kernels.searches import Search
from otkit.kernels.trees import Tree


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
    """The arcs of both targets, which a thread lists for a part of the rows at a time."""
    counts, found = np.zeros(search.row.size, dtype=np.int64), {}

    def work(low: int, high: int) -> None:
        for near in search.pairs(target, other, limits, low, high):
            counts[low:high] += np.bincount(near.rows - low, minlength=high - low)
            found[low, near.rows[0]] = near.cols.astype(np.uint32), search.metric.of_sums(near.sums)

    search.each(work)
    nothing = np.empty(0, dtype=np.uint32), np.empty(0)
    cols, costs = (np.concatenate(v) for v in zip(nothing, *(found[k] for k in sorted(found)), strict=True))
    return Support(np.concatenate([[0], np.cumsum(counts)]), cols, costs)
