"""What a vertex between cells proves about their points: potentials, a plan, and where the gap between both arises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import only, to_numpy
from otkit.certificates.base import Certificate, dual_bound, widened
from otkit.geometry.costs import UNIT, Cost
from otkit.kernels.numba.staircase import divided
from otkit.kernels.numba.support import spread
from otkit.kernels.trees import tree_of
from otkit.plans import Arcs, CellPlan, Plan, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.solvers import descent
from otkit.solvers.exact.basis import Vertex
from otkit.solvers.multiscale.cells import Grid, Measure
from otkit.solvers.multiscale.entropic import Plan as Entropic
from otkit.solvers.multiscale.pairs import Pairs
from otkit.solvers.multiscale.scale import Scale, coarsest

_ARRAYS = ("lower", "upper", "f", "g", "linear", "rounding")


@dataclass(frozen=True)
class Found:
    """The certificate of an item, and the gap that each cell of the rows and of the columns adds to it."""

    certificate: Certificate
    f: np.ndarray
    shares: tuple[np.ndarray, np.ndarray]


def proved(problem: LinearProblem, item: int, scale: Scale) -> Found:
    """The certificate of the basis of a scale: of its potentials at all points, and of its plan spread over points."""
    basis = scale.basis
    assert basis is not None
    potentials = basis.prices(scale.rows.mass.size, scale.cols.mass.size)
    return _found(problem, item, scale, potentials, basis.vertex(scale.rows.mass, scale.cols.mass))


def trivial(problem: LinearProblem, item: int) -> Found:
    """The certificate of one cell on each side, whose plan is the product of the weights."""
    scale = coarsest(problem, item)
    limits = np.full_like(scale.limits[0], np.inf), np.full_like(scale.limits[1], np.inf)
    rows, cols = (side.grid(limit) for side, limit in zip(scale.sides, limits, strict=True))
    scale, nothing = replace(scale, rows=rows, cols=cols), np.zeros(1)
    at = np.zeros(1, dtype=np.int64)
    return _found(problem, item, scale, (nothing, nothing), Vertex(at, at, rows.mass, nothing, 0.0))


def _found(
    problem: LinearProblem, item: int, scale: Scale, potentials: tuple[np.ndarray, np.ndarray], vertex: Vertex
) -> Found:
    one, f = problem.take(np.array([item])), potentials[0]
    cloud = one.geometry.cloud
    assert cloud is not None
    at_cols = _extended(cloud.y, item, scale, f)
    g_points = at_cols - one.reduced.col
    if _is_distance(scale.metric) and not scale.finest:
        # By the triangle inequality, potentials −g meet the constraints, up to rounding.
        values = _extended(cloud.x, item, scale, f)
        slack = scale.form.rounding * (abs(values) + float(descent.top(one)[0]) + abs(at_cols).max())
        f_points = -values - slack - one.reduced.row
    else:
        f_points = one.kernels.c_transform(one.reduced, only(g_points, one.b > 0))
    cost, excess = _cost(scale, vertex)
    offset = dual_bound(one, one.reduced.row, one.reduced.col)
    plan = _plan(one, scale, vertex)
    rounded = 0.0 if _of_points(scale) else 4 * (one.reduced.n + one.reduced.m + 128) * UNIT
    lower, defect = dual_bound(one, f_points, g_points), np.array([vertex.defect + rounded])
    certificate = widened(one, lower, cost - offset, defect, f_points, g_points, (plan,))
    earned = (f_points + one.reduced.row)[0], at_cols
    by_side = zip(scale.sides, (scale.rows, scale.cols), potentials, earned, excess, strict=True)
    rows, cols = (_lost(*side) for side in by_side)
    return Found(certificate, f, (rows, cols))


def at_points(problem: LinearProblem, item: int, scale: Scale, plan: Entropic) -> np.ndarray:
    """The potentials of the columns that those of a plan between cells allow at all points, ``(1, m)``."""
    cloud = problem.geometry.cloud
    assert cloud is not None
    f = scale.pairs.least(plan.G - plan.reg / 2 * np.log(scale.cols.mass))
    return np.asarray(_extended(cloud.y, item, scale, f) - to_numpy(problem.reduced.col)[item : item + 1])


def joined(problem: LinearProblem, found: list[Certificate]) -> Certificate:
    """The certificate of all items."""
    shape = (problem.items, problem.reduced.n, problem.reduced.m)
    plans = [one.plan[0] for one in found]
    arrays = {name: np.concatenate([getattr(one, name) for one in found]) for name in _ARRAYS}
    cells = [replace(p, shape=shape, item=k) for k, p in enumerate(plans) if isinstance(p, CellPlan)]
    lists = [(k, p.entries) for k, p in enumerate(plans) if isinstance(p, SparsePlan)]
    items = np.repeat([k for k, _ in lists], [e.mass.size for _, e in lists])
    if not lists:
        return Certificate(plan=tuple(cells), **arrays)
    arcs = Arcs(items, *(np.concatenate([getattr(e, v) for _, e in lists]) for v in ("row", "col", "mass")))
    return Certificate(plan=(*cells, SparsePlan(shape, arcs, problem.a)), **arrays)


def _extended(points: np.ndarray, item: int, scale: Scale, f: np.ndarray) -> np.ndarray:
    """The potentials that those of the rows' cells allow at the points of an item as columns."""
    tree = tree_of(points, item)
    out = np.empty(tree.order.size)
    out[tree.order] = Pairs(scale.metric, scale.form, tree, scale.rows.tree).least(f)
    return out


def _is_distance(metric: Cost) -> bool:
    """Whether the cost is a distance, with the triangle inequality."""
    return metric.power == 1 and metric.ground != "cosine"


def _lost(side: Measure, grid: Grid, value: np.ndarray, points: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """What each cell adds to the gap: its potential less those of its points, and the excess of the plan."""
    earned = np.bincount(grid.label, side.weights * points[side.index], grid.mass.size)
    return np.asarray(grid.mass * value - earned + excess)


def _cost(scale: Scale, vertex: Vertex) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """An upper bound on the cost of the plan spread over the points, and what the spread adds, by cells of both sides.

    The squared distance between points of two cells has the mean |X − Y|² + v_X + v_Y. By Jensen's inequality, that of
    a concave function of it is at most the function of this. Other costs are summed over all pairs of points.
    """
    rows, cols, metric, (i, j, mass) = scale.rows, scale.cols, scale.metric, vertex[:3]
    x, y, v, w = rows.tree.points[i], cols.tree.points[j], rows.variance[i], cols.variance[j]
    between = scale.pairs.costs(i, j)
    if scale.finest:
        nothing = np.zeros(rows.mass.size), np.zeros(cols.mass.size)
        return float(mass @ between), nothing
    if metric.ground in ("euclidean", "cosine") and metric.exponent <= 1:
        costs = metric.of_sums(((x - y) ** 2).sum(-1) + v + w)
    else:
        sides = [_by_cell(*side) for side in zip(scale.sides, (rows, cols), strict=True)]
        costs = np.empty(mass.size)
        spread(*sides[0], *sides[1], i, j, scale.form, costs)
    total = float(mass @ costs)
    added, whole = mass * (costs - between), np.where(v + w > 0, v + w, 1.0)
    by_row = np.bincount(i, added * v / whole, rows.mass.size)
    return _widened_mean(scale, total), (by_row, np.bincount(j, added * w / whole, cols.mass.size))


def _by_cell(side: Measure, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points and weights of a side, cell by cell, and where each cell begins."""
    order, ends = _members(grid)
    return side.tree.points[order], side.weights[order], ends


def _members(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The points, cell by cell, and where each cell begins."""
    order = np.argsort(grid.label, kind="stable")
    return order, np.searchsorted(grid.label[order], np.arange(grid.mass.size + 1))


def _of_points(scale: Scale) -> bool:
    """Whether each cell is one point."""
    return all(grid.mass.size == grid.label.size for grid in (scale.rows, scale.cols))


def _widened_mean(scale: Scale, total: float) -> float:
    """The cost, for means of cells that are rounded: by Minkowski's inequality, if distances change by a length."""
    metric = scale.metric
    power = 2 * metric.exponent if metric.ground in ("euclidean", "cosine") else metric.exponent
    unit, length = metric.factor**metric.exponent, 0.0
    for side, grid in zip(scale.sides, (scale.rows, scale.cols), strict=True):
        size = float(abs(side.tree.points).max()), float((side.tree.high[0] - side.tree.low[0]).max())
        length += 4 * UNIT * np.sqrt(3.0) * (size[0] + np.bincount(grid.label).max() * size[1])
    return float(unit * ((total / unit) ** (1 / power) + length) ** power)


def _plan(one: LinearProblem, scale: Scale, vertex: Vertex) -> Plan:
    """The plan spread over the points of one item."""
    sides, grids = scale.sides, (scale.rows, scale.cols)
    shape, arcs = (1, one.reduced.n, one.reduced.m), vertex[:3]
    if scale.finest:
        if not _of_points(scale):  # several points at one place share its arcs
            (p, x_ends), (q, y_ends) = (_members(grid) for grid in grids)
            i, j, mass = divided(arcs, (sides[0].weights[p], x_ends), (sides[1].weights[q], y_ends))
            arcs = p[i], q[j], mass
        rows, cols = (side.index[at] for side, at in zip(sides, arcs[:2], strict=True))
        return SparsePlan(shape, Arcs(np.zeros_like(rows), rows, cols, arcs[2]), one.a)
    labels = np.zeros(shape[1], dtype=np.int64), np.zeros(shape[2], dtype=np.int64)
    shares = np.zeros(shape[1]), np.zeros(shape[2])
    for side, grid, label, share in zip(sides, grids, labels, shares, strict=True):
        label[side.index], share[side.index] = grid.label, side.weights / grid.mass[grid.label]
    sizes = grids[0].mass.size, grids[1].mass.size
    return CellPlan(shape, 0, sizes, labels, shares, *arcs, one.a)
