"""The cells of both sides at one scale, and how those of the next one follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from otkit.arrays import to_numpy
from otkit.geometry.costs import Cost
from otkit.kernels.numba.search import Form
from otkit.kernels.searches import form_of
from otkit.problems.linear import LinearProblem
from otkit.solvers.exact.basis import ROUNDING, Basis
from otkit.solvers.multiscale.cells import Grid, Measure
from otkit.solvers.multiscale.entropic import Plan
from otkit.solvers.multiscale.pairs import Pairs

# The regularisation begins at the range of the costs divided by this, of samples of so many points.
_EASY, _SAMPLE = 16.0, 256
# The variance of cells changes a squared distance by this fraction of the regularisation, and a cost by about as much.
_FINE = 0.5
# The lowest regularisation of cells, relative to the first one.
_LOWEST = 2.0**-36


@dataclass(frozen=True)
class Scale:
    """The cells of an item at one scale.

    Attributes
    ----------
    sides : tuple of Measure
        The points of the rows and of the columns.
    metric, form : Cost, Form
        The cost, and its formula with bounds on rounding errors.
    limits : tuple of array (nodes,)
        The largest variance of a cell, for each node of the trees of the sides.
    rows, cols : Grid
        The cells.
    reg : float
    lowest : float
        The regularisation below which the finest cells follow.
    g : array (k,)
        Initial potentials of the columns' cells, which contain the weights by half.
    last : bool
        Whether the simplex follows at this scale.
    arcs : float
        The number of arcs of the plan between the same cells at the regularisation before; infinite without one.
    basis : Basis or None
        The basis of the simplex, once it has begun.
    """

    sides: tuple[Measure, Measure]
    metric: Cost
    form: Form
    limits: tuple[np.ndarray, np.ndarray]
    rows: Grid
    cols: Grid
    reg: float
    lowest: float
    g: np.ndarray
    last: bool = False
    arcs: float = np.inf
    basis: Basis | None = field(default=None, repr=False)

    @property
    def finest(self) -> bool:
        """Whether no side has finer cells."""
        return self.rows is self.sides[0].places and self.cols is self.sides[1].places

    @property
    def pairs(self) -> Pairs:
        """The costs between the cells."""
        return Pairs(self.metric, self.form, self.rows.tree, self.cols.tree)

    def finer(self, plan: Plan, reg: float, arcs: int, *, last: bool = False) -> Scale:
        """The next scale, of this regularisation, from the plan of this one."""
        g = plan.G - plan.reg / 2 * np.log(self.cols.mass)
        if self.finest:
            return replace(self, reg=reg, g=g, arcs=arcs)
        # Where weights differ by many orders, cells of any size may have no variance.
        limit = _variance(self.metric, reg, plan.cost) if reg > self.lowest else -1.0
        limits = np.full_like(self.limits[0], limit), np.full_like(self.limits[1], limit)
        return self._cut(self.pairs.least(g), limits, reg, last=last)

    def split(self, f: np.ndarray, rows: np.ndarray, cols: np.ndarray, factor: float) -> Scale:
        """The scale with some cells of the rows and of the columns split, from potentials of the rows."""
        chosen = zip(self.sides, (self.rows, self.cols), (rows, cols), self.limits, strict=True)
        limits = tuple(side.split(grid, some, limit, factor) for side, grid, some, limit in chosen)
        assert len(limits) == 2
        return self._cut(f, limits, self.reg / factor, last=True)

    def _cut(self, f: np.ndarray, limits: tuple[np.ndarray, np.ndarray], reg: float, *, last: bool) -> Scale:
        rows, cols = (side.grid(limit) for side, limit in zip(self.sides, limits, strict=True))
        g = Pairs(self.metric, self.form, cols.tree, self.rows.tree).least(f)
        return replace(self, limits=limits, rows=rows, cols=cols, reg=reg, g=g, last=last, arcs=np.inf, basis=None)


def coarsest(problem: LinearProblem, item: int) -> Scale:
    """The first scale of an item."""
    cloud = problem.geometry.cloud
    assert cloud is not None
    a, b = (to_numpy(w)[item] for w in (problem.a, problem.b))
    sides = Measure.over(cloud.x, item, a), Measure.over(cloud.y, item, b)
    reg = _spread(cloud.metric, sides) / _EASY
    limit = _variance(cloud.metric, reg, 0.0)
    limits = np.full(sides[0].of.mass.size, limit), np.full(sides[1].of.mass.size, limit)
    rows, cols = (side.grid(v) for side, v in zip(sides, limits, strict=True))
    form = form_of(cloud.metric, cloud.x, cloud.y)
    return Scale(sides, cloud.metric, form, limits, rows, cols, reg, _LOWEST * reg, np.zeros(cols.mass.size))


def _spread(metric: Cost, sides: tuple[Measure, Measure]) -> float:
    """About the range of the reduced costs: that of a sample of points and of the outermost ones.

    Where all plans cost the same, up to rounding, it is that of the costs.
    """
    x, y = (_sample(side.tree.points) for side in sides)
    costs = metric(x[None], y[None])[0]
    largest = float(costs.max())
    costs = costs - costs.min(-1, keepdims=True)
    spread = float((costs - costs.min(0)).max())
    return spread if spread > ROUNDING * largest else largest or 1.0


def _sample(points: np.ndarray) -> np.ndarray:
    """Some points, with the first and the last one along each axis."""
    ends = points.argmin(0), points.argmax(0)
    return points[np.concatenate([*ends, np.arange(0, len(points), -(-len(points) // _SAMPLE))])]


def _variance(metric: Cost, reg: float, cost: float) -> float:
    """The variance of cells that changes costs like the mean one by a fraction of the regularisation.

    A cost d^p has the second derivative p·(p − 1)·d^(p − 2) along the direction of transport, and p·d^(p − 2) across.
    The distances are at least those that cost as little as the fraction.
    """
    power = 2 * metric.exponent if metric.ground in ("euclidean", "cosine") else metric.exponent
    unit, small = metric.factor**metric.exponent, _FINE * reg
    distance = (max(cost, small) / unit) ** (1 / power)
    return float(2 * small / (unit * power * max(power - 1, 1.0) * distance ** (power - 2)))
