"""The maximum spanning tree of all pairs of points, by Borůvka's method with searches of trees."""

from __future__ import annotations

import numpy as np

from otkit.geometry.reduced import Reduced
from otkit.kernels import threads
from otkit.kernels.numba.search import join
from otkit.kernels.numba.tree import agree
from otkit.kernels.searches import Search
from otkit.linalg.trees import components, heaviest_forest


def spanning_arcs(costs: Reduced, item: int, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the arcs of the spanning tree of largest ``f_i + g_j − C_ij``, in row order.

    Points of potential −inf stay alone. `otkit.kernels.searches.searches` must hold for the costs. Each round joins
    every component to its best neighbour, so that log₂(n + m) rounds suffice.
    """
    n, m = costs.n, costs.m
    sides, some = (Search.of(costs, item), Search.of(costs.T, item)), np.concatenate([f, g]) > -np.inf
    rows, cols = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    while True:
        labels = components(n, m, rows, cols)
        if np.unique(np.concatenate(labels)[some]).size <= 1:
            return rows, cols
        new = _leaving(sides, (f, g), labels)
        if not new[0].size:
            return rows, cols
        code = np.unique(np.concatenate([rows, new[0]]) * m + np.concatenate([cols, new[1]]))
        rows, cols = np.divmod(code, m)
        kept = heaviest_forest(n, m, rows, cols, f[rows] + g[cols] - costs.pairs(item, rows, cols))  # ties make cycles
        rows, cols = rows[kept], cols[kept]


def _leaving(
    sides: tuple[Search, Search], potentials: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the best arc that leaves each component."""
    size = sum(label.size for label in labels)
    best, ends = np.full((2, size), np.inf), np.zeros((2, 2, size), dtype=np.int64)

    def work(k: int) -> None:
        of, (f, own), (g, other) = sides[k], *((potentials[s], labels[s]) for s in (k, 1 - k))
        x, y = of.rows.order, of.cols.order
        # Columns that do not count have the label of one before, so that nodes of one component are known.
        some = np.maximum.accumulate(np.where(g[y] > -np.inf, np.arange(y.size), 0))
        label, common = other[y][some], np.empty(of.cols.start.size, dtype=np.int64)
        agree(label, of.cols.start, of.cols.stop, of.cols.leaves, common)
        target, (tail, head) = of.target(g[y], abs(g[y])), ends[k]
        join(of.rows.points, of.row + f[x], own[x], target, label, common, of.form, (best[k], tail, head))
        ends[k, k], ends[k, 1 - k] = x[tail], y[head]

    threads.each(work, [0, 1], 64 * size)
    found = np.flatnonzero(best.min(0) < np.inf)
    row, col = ends[best[:, found].argmin(0), :, found].T
    return row, col
