"""The maximum spanning tree of all pairs of points, by Borůvka's method.

Each round joins every component to its best neighbour, so that log₂(n + m) rounds suffice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from otkit.arrays import from_numpy, to_numpy
from otkit.entropic.dual import Potentials
from otkit.geometry.base import costs_along
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, threads
from otkit.kernels.numba.search import join
from otkit.kernels.numba.tree import agree
from otkit.kernels.searches import Search
from otkit.linalg.trees import components, heaviest_forest


def spanning_arcs(costs: Reduced, item: int, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the arcs of the spanning tree of largest ``f_i + g_j − C_ij``, in row order.

    Points of potential −inf stay alone. `otkit.kernels.searches.searches` must hold for the costs.
    """
    n, m = costs.n, costs.m

    def weigh(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        return f[rows] + g[cols] - costs.pairs(item, rows, cols)

    sides, some = (Search.of(costs, item), Search.of(costs.T, item)), np.concatenate([f, g]) > -np.inf
    rows, cols = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    while True:
        labels = components(n, m, rows, cols)
        if np.unique(np.concatenate(labels)[some]).size <= 1:
            return rows, cols
        new = _leaving(sides, (f, g), labels)
        if not new[0].size:
            return rows, cols
        rows, cols = _united((n, m), (rows, cols), new, weigh)


def spanning_arcs_of_plan(kernels: Kernels, costs: Reduced, at: Potentials) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the arcs of the spanning tree of largest entries of the plan of each item, in row order.

    Costs stay where they are: only vectors are copied to the host.
    """
    n, m, items = costs.n, costs.m, costs.batch[0]
    f, g, log_a, log_b, reg = (to_numpy(v) for v in (at.f, at.g, at.log_a, at.log_b, at.reg))
    none = np.empty(0, dtype=np.int64)
    arcs, growing = [(none, none)] * items, list(range(items))
    labels = np.zeros((items, n), dtype=np.int64), np.zeros((items, m), dtype=np.int64)
    while growing:
        for k in growing:
            labels[0][k], labels[1][k] = components(n, m, *arcs[k])
        found, going = _best(kernels, costs, at, labels), []
        for k in growing:
            own = np.concatenate([label[k] for label in labels])
            new = _heaviest(own, *(v[k] for v in found))
            if not new[0].size:
                for label in labels:
                    label[k] = 0  # nothing leaves
                continue

            def weigh(rows: np.ndarray, cols: np.ndarray, k: int = k) -> np.ndarray:
                exponent = (f[k, rows] + g[k, cols] - costs_along(costs, k, rows, cols)) / reg[k]
                return exponent + (log_a[k, rows] + log_b[k, cols])

            arcs[k] = _united((n, m), arcs[k], new, weigh)
            going.append(k)
        growing = going
    return arcs


def _best(
    kernels: Kernels, costs: Reduced, at: Potentials, labels: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log P, row and column of the best arc from each node of each item to another component, ``(B, n + m)``."""
    rows, cols = (from_numpy(label, at.f) for label in labels)
    value, col = (to_numpy(v) for v in kernels.leaving(costs, at, rows, cols))
    other, row = (to_numpy(v) for v in kernels.leaving(costs.T, at.T, cols, rows))
    own = (np.broadcast_to(np.arange(size), (len(value), size)) for size in (costs.n, costs.m))
    pairs = ((value, other), (next(own), row), (col, next(own)))
    return tuple(np.concatenate(pair, axis=1) for pair in pairs)  # type: ignore[return-value]


def _heaviest(label: np.ndarray, weight: np.ndarray, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the heaviest of the arcs with each label, without those of weight −inf."""
    order = np.lexsort((-weight, label))
    first = order[np.append(True, np.diff(label[order]) != 0)]
    first = first[weight[first] > -np.inf]
    return row[first], col[first]


def _united(
    shape: tuple[int, int],
    arcs: tuple[np.ndarray, np.ndarray],
    new: tuple[np.ndarray, np.ndarray],
    weigh: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The heaviest forest of these arcs together, in row order; where weights are equal, they have cycles."""
    code = np.unique(np.concatenate([arcs[0], new[0]]) * shape[1] + np.concatenate([arcs[1], new[1]]))
    rows, cols = np.divmod(code, shape[1])
    kept = heaviest_forest(*shape, rows, cols, weigh(rows, cols))
    return rows[kept], cols[kept]


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
