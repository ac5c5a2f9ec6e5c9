"""The basis of the network simplex: where it starts, and how it becomes optimal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from otkit.arrays import to_numpy
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels import threads
from otkit.kernels.numba import pricing, simplex, starts
from otkit.kernels.numba.tiles import filled
from otkit.linalg.trees import SpanningTree, heaviest_forest
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Status
from otkit.solvers import descent

# Masses are integer multiples of this.
GRAIN = 2.0**-62
# Negative reduced costs above minus this tolerance, relative to the largest cost or price, count as rounding errors.
ROUNDING = 32 * UNIT
# Number of arcs by rank for each row and column: where masses go greedily, and where a forest is chosen.
_GREEDY, _FOREST = 5, 8
# The best arc of so many rows that have one enters. With 2000 points of 14 families, 1, 3 and 4 rows take 0.87 to 1.36,
# 0.91 to 1.11 and 0.91 to 1.31 times as long.
_TOGETHER = 2
# The simplex reads costs as given, if they are at most so many times their range, and else a copy of reduced costs:
# tolerances are relative to the largest price.
_MODERATE = 2.0
# Artificial arcs cost the price of their node and a surcharge: without potentials, the range of the costs; with them, a
# few times the regularisation. While mass is left on these arcs, the surcharge becomes so many times larger.
_STEEPER = 8.0
# Costs have single precision if their range is below this and above its inverse.
_SINGLE = 1e30
# Number of rows or columns that a thread takes at a time.
_PART = 512
# Surcharge, relative to the range, from which mass of the order of rounding errors may stay on artificial arcs; and the
# one, relative to the range and the number of points, from which other mass has no way.
_SURE, _HOPELESS = 50.0, 64.0


class Vertex(NamedTuple):
    """Row, column, mass and reduced cost of the arcs of a plan, and the L1 defect of its marginals."""

    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    cost: np.ndarray
    defect: float


@dataclass(frozen=True)
class Basis:
    """The basis of an item: a spanning tree of the points with mass. Pivots change its arrays in place.

    Attributes
    ----------
    rows, cols : array of int
        Indices of the points with mass.
    natural : array
        Prices of the nodes before the first pivot. An artificial arc costs as much, so that it has no effect on them.
    hot : array of bool
        The nodes whose artificial arcs have a surcharge: those that ever carried mass.
    surcharge : float
    listed : pricing.Arcs
        Arcs that enter first.
    tree : simplex.Tree
    by_rows : int
        The best arc of so many rows enters; 0 if only listed arcs may.
    offsets : array, array
        Offsets of the rows and columns by which the costs of arcs exceed reduced costs.
    limit : float
        Arcs of larger reduced cost may not enter; infinite unless the costs have outliers.
    matrix : Matrix, optional
        The costs between the points with mass. Of a batch, each step forms copies anew to save memory.
    """

    rows: np.ndarray
    cols: np.ndarray
    natural: np.ndarray
    hot: np.ndarray
    surcharge: float
    listed: pricing.Arcs
    tree: simplex.Tree
    by_rows: int
    offsets: tuple[np.ndarray, np.ndarray]
    limit: float
    matrix: Matrix | None

    @property
    def artificial(self) -> np.ndarray:
        """Whether the arc of each node to its parent is artificial."""
        return self.tree.parent[:-1] == self.natural.size

    @property
    def missing(self) -> int:
        """The mass on artificial arcs, in grains."""
        return int(self.tree.flow[:-1][self.artificial].sum())

    @property
    def size(self) -> float:
        """The largest absolute value of the prices."""
        return float(abs(self.tree.pi).max())

    def forest(self) -> SpanningTree:
        """The forest of the arcs that are not artificial, with their reduced costs."""
        nodes, order, thread = self.natural.size, [], self.tree.thread.tolist()
        node = thread[nodes]
        while node != nodes:
            order.append(node)
            node = thread[node]
        parent = np.where(self.artificial, -1, self.tree.parent[:-1])
        forest = SpanningTree(self.rows.size, np.array(order), parent, np.zeros(nodes), np.zeros(nodes))
        row, col = forest.arcs(forest.nodes)
        forest.cost[forest.nodes] = self.tree.cost[forest.nodes] - self.offsets[0][row] - self.offsets[1][col]
        return forest

    def centred(self) -> np.ndarray:
        """The prices of the nodes relative to their mean in each component of the forest."""
        forest, pi = self.forest(), self.tree.pi[:-1]
        top, parent = np.arange(pi.size), forest.parent.tolist()
        for node in forest.order.tolist():
            if parent[node] >= 0:
                top[node] = top[parent[node]]
        _, of, count = np.unique(top, return_inverse=True, return_counts=True)
        return np.asarray(pi - (np.bincount(of, pi) / count)[of])

    def prices(self, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        """The potentials of n rows and m columns of reduced costs, 0 for points without mass."""
        f, g, (row, col) = np.zeros(n), np.zeros(m), self.offsets
        f[self.rows] = -self.tree.pi[: self.rows.size] - row
        g[self.cols] = self.tree.pi[self.rows.size : -1] - col
        return f, g

    def vertex(self, a: np.ndarray, b: np.ndarray) -> Vertex:
        """The plan of the basis, with masses from the unrounded weights, by differences from the leaves up."""
        forest = self.forest()
        flow, _, defect = forest.flows(np.concatenate([a[self.rows], b[self.cols]]))
        at = np.flatnonzero(~self.artificial)
        row, col = forest.arcs(at)
        mass = flow[at]
        defect -= 2 * float(mass[mass < 0].sum())  # negative masses, of about a grain, from rounding
        return Vertex(self.rows[row], self.cols[col], np.maximum(mass, 0.0), forest.cost[at], defect)


class Priced(NamedTuple):
    """The arcs that may enter a basis, as in `Basis`; and the number of those in the list, which may have more room."""

    listed: pricing.Arcs
    filled: int
    by_rows: int
    offsets: tuple[np.ndarray, np.ndarray]
    limit: float
    matrix: Matrix | None


class Matrix(NamedTuple):
    """Costs between points with mass: less these offsets of rows and columns, they are the reduced costs.

    `single` has the costs in single precision, which takes half the time to search. It has no rows if their range
    leaves that of single precision.
    """

    C: np.ndarray
    single: np.ndarray
    offsets: tuple[np.ndarray, np.ndarray]


def points_with_mass(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the rows and columns with mass, and their supplies.

    Supplies are weights of total 1 in integer grains, with columns negative, so that the sum is exactly 0.
    """
    rows, cols = np.flatnonzero(a), np.flatnonzero(b)
    out, into = (np.rint(w / w.sum() / GRAIN).astype(np.int64) for w in (a[rows], b[cols]))
    into[into.argmax()] += out.sum() - into.sum()
    return rows, cols, np.concatenate([out, -into])


def points_of(problem: LinearProblem, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`points_with_mass` of an item."""
    return points_with_mass(to_numpy(problem.a)[item], to_numpy(problem.b)[item])


def entries_with_mass(problem: LinearProblem) -> int:
    """Number of costs between points with mass, of the item with most."""
    of_rows, of_cols = (np.count_nonzero(to_numpy(w), axis=-1) for w in (problem.a, problem.b))
    return int((of_rows * of_cols).max())


def matrix_of(
    problem: LinearProblem, costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray, limit: float = np.inf
) -> Matrix:
    """The costs between these points, in row order: those of the problem, or a copy if there must be one.

    Arcs of a reduced cost above `limit` are forbidden.
    """
    base = _unreduced(costs, item, rows, cols)
    span, every = problem.span[item], rows.size == costs.n and cols.size == costs.m
    as_given = every and limit == np.inf and base.flags.c_contiguous
    if as_given and _largest(problem, item) <= _MODERATE * span:
        return Matrix(base, _single(base, span), (to_numpy(costs.row)[item], to_numpy(costs.col)[item]))
    out = _reduced(base, costs, item, rows, cols)
    if limit < np.inf:
        out[out > limit] = np.inf
    return Matrix(out, _single(out, min(span, limit)), (np.zeros(rows.size), np.zeros(cols.size)))


def between(costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """A copy of the reduced costs between these points, in row order."""
    return _reduced(_unreduced(costs, item, rows, cols), costs, item, rows, cols)


def _reduced(base: np.ndarray, costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The reduced costs between these points, from those as given of all points or of these."""
    row, col = to_numpy(costs.row)[item], to_numpy(costs.col)[item]
    out = np.empty((rows.size, cols.size))  # unlike Numba's, in huge pages, so that pivots are faster
    whole = base.shape == out.shape
    if whole:
        row, col = row[rows], col[cols]

    def reduce(part: tuple[int, int]) -> None:
        low, high = part
        if whole:
            starts.reduce_costs(base[low:high], row[low:high], col, costs.transposed, out[low:high])
        else:
            starts.reduce_some(base, rows[low:high], cols, row, col, costs.transposed, out[low:high])

    threads.each(reduce, _parts(rows.size), out.size)
    return out


def _unreduced(costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The costs of an item as given; where they have to be formed, those between these points alone if they can be."""
    if costs.matrix is not None:
        return to_numpy(costs.base.block(slice(item, item + 1), slice(0, costs.n)))[0]
    if (rows.size, cols.size) == (costs.n, costs.m) or costs.bordered is not None:
        return filled(costs.base.take(np.array([item])).to_numpy())[0]
    return filled(costs.base.among(item, rows).T.among(0, cols).T.to_numpy())[0]


def _single(C: np.ndarray, span: float) -> np.ndarray:
    """The costs in single precision; no rows if single precision does not have their range."""
    n, m = C.shape
    out = np.empty((n if 1 / _SINGLE < span < _SINGLE else 0, m), dtype=np.float32)
    threads.each(lambda part: starts.round_costs(C, out, *part), _parts(out.shape[0]), C.size)
    return out


def _largest(problem: LinearProblem, item: int) -> float:
    return max(abs(float(problem.low[item])), abs(float(problem.high[item])))


def kept(costs: Reduced, matrix: Matrix) -> Matrix | None:
    """The matrix, where it takes no more memory than one copy."""
    return matrix if costs.batch == (1,) else None


def cold(problem: LinearProblem, costs: Reduced, item: int, limit: float = np.inf) -> Basis:
    """The basis of masses that go greedily along the arcs of least reduced cost, none of it above `limit`."""
    rows, cols, supply = points_of(problem, item)
    matrix = matrix_of(problem, costs, item, rows, cols, limit)
    C, (f, g) = matrix.C, matrix.offsets
    i, j = by_rank(matrix, f, g, _GREEDY)  # reduced costs have zero potentials
    cost = C[i, j]
    members = starts.greedy(np.argsort(cost - f[i] - g[j], kind="stable"), i, j, supply, rows.size)
    forest = pricing.Arcs(i[members], j[members], cost[members])
    nothing = np.empty(0, dtype=np.int32)
    listed = pricing.Arcs(nothing, nothing, np.empty(0))
    priced = Priced(listed, 0, _TOGETHER, (f, g), limit, kept(costs, matrix))
    surcharge = min(float(descent.top(problem)[item]), limit)
    return planted((rows, cols, supply), forest, np.concatenate([-f, g]), surcharge, priced)


def warm(
    problem: LinearProblem,
    costs: Reduced,
    item: int,
    g: np.ndarray,
    surcharge: float,
    absorbed: tuple[np.ndarray, np.ndarray] | None = None,
) -> Basis:
    """The basis of arcs on which potentials nearly meet the costs: the heaviest forest of them.

    Potentials of the rows follow from those of the columns. The arcs are of least reduced cost, with the weights
    `absorbed` in the potentials if these are of an entropic plan: they are then the largest of its entries.
    """
    rows, cols, supply = points_of(problem, item)
    matrix = matrix_of(problem, costs, item, rows, cols)
    C, (row, col) = matrix.C, matrix.offsets
    g = g[cols] + col
    f = starts.c_transform(C, g)  # feasible, so that no cycle through artificial arcs has a negative cost
    of_rows, of_cols = (f, g) if absorbed is None else (absorbed[0][rows] + row, absorbed[1][cols] + col)
    i, j = by_rank(matrix, of_rows, of_cols, _FOREST)
    cost = C[i, j]
    members = heaviest_forest(rows.size, cols.size, i, j, (of_rows[i] + of_cols[j] - cost) / surcharge)
    forest = pricing.Arcs(i[members], j[members], cost[members])
    priced = Priced(_with_room(C, i, j), i.size, 1, (row, col), np.inf, kept(costs, matrix))
    return planted((rows, cols, supply), forest, np.concatenate([-f, g]), surcharge, priced)


def by_rank(matrix: Matrix, f: np.ndarray, g: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the k best arcs of each row and of each column, in row order."""
    C = matrix.single if matrix.single.size else matrix.C
    (n, m), k = C.shape, min(k, *C.shape)
    by_row, by_col = np.full((n, k), -1), np.full((m, k), -1)
    f, g = f.astype(C.dtype), g.astype(C.dtype)
    threads.each(lambda part: starts.best_columns(C, g, *part, by_row), _parts(n), 2 * C.size)
    threads.each(lambda part: starts.best_rows(C, f, *part, by_col), _parts(m), 2 * C.size)
    of_rows = np.where(by_row < 0, -1, np.arange(n)[:, None] * m + by_row)
    of_cols = np.where(by_col < 0, -1, by_col * m + np.arange(m)[:, None])
    code = np.sort(np.concatenate([of_rows.ravel(), of_cols.ravel()]))
    code = code[(code >= 0) & np.append(True, code[1:] > code[:-1])]
    return code // m, code % m


def _parts(size: int) -> list[tuple[int, int]]:
    """Ranges of rows or columns, for threads."""
    return [(low, min(low + _PART, size)) for low in range(0, size, _PART)]


def _with_room(C: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> pricing.Arcs:
    """A list that begins with these arcs, with room for those that pricing adds."""
    size = 4 * rows.size + 64 * sum(C.shape)
    listed = pricing.Arcs(np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32), np.empty(size))
    for place, arcs in zip(listed, (rows, cols, C[rows, cols]), strict=True):
        place[: rows.size] = arcs
    return listed


def planted(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    forest: pricing.Arcs,
    prices: np.ndarray,
    surcharge: float,
    priced: Priced,
) -> Basis:
    """The basis of a forest of arcs between the points with mass, which have these indices and supplies."""
    rows, cols, supply = points
    tree = simplex.Tree.empty(supply.size, priced.filled)
    simplex.start(supply, rows.size, forest.rows, forest.cols, forest.costs, tree)
    cool = np.zeros(supply.size, dtype=bool)
    basis = Basis(rows, cols, prices, cool, surcharge, priced.listed, tree, *priced[2:])
    return charged(basis, float(surcharge), every=False)


def charged(basis: Basis, surcharge: float, *, every: bool) -> Basis:
    """The basis with this surcharge on the artificial arcs that carry mass or ever did, or on every one."""
    tree, artificial = basis.tree, basis.artificial
    hot = basis.hot | (artificial & (tree.flow[:-1] > 0)) | every
    tree.cursor[4] = 0  # prices change as a whole, and with them what single precision finds
    price = np.where(tree.up[:-1], -basis.natural, basis.natural) + np.where(hot, surcharge, 0.0)
    tree.cost[:-1][artificial] = price[artificial]
    return replace(basis, hot=hot, surcharge=surcharge)


def judged(basis: Basis, scale: float, points: int) -> tuple[Basis, Status | None]:
    """What follows from optimality among the arcs and the artificial arcs: the final status, or a changed basis.

    `scale` is the range of the costs, and `points` the number of rows and columns.
    """
    missing, rounding = basis.missing, 16 * points * UNIT
    if not missing:
        if not basis.surcharge or (basis.limit == np.inf and basis.size <= 2 * (_MODERATE + 1) * scale):
            return basis, Status.CONVERGED
        # Pivots move no mass to artificial arcs from now on. Their surcharge shifts prices, which then round more.
        centred = replace(basis, natural=basis.centred(), hot=basis.hot & False)
        return charged(centred, 0.0, every=False), None
    # Weights differ by rounding errors where they must be equal, within a component of allowed arcs.
    if basis.surcharge > _SURE * scale and missing * GRAIN <= rounding:
        return basis, Status.CONVERGED
    surcharge = basis.surcharge * _STEEPER
    if basis.surcharge > _HOPELESS * points * scale or surcharge == np.inf:
        return basis, Status.INFEASIBLE
    return charged(basis, surcharge, every=surcharge > scale), None
