"""The start and the pricing of the simplex for squared distances of many points in high dimension.

Potentials of a sample, extended to all points, are within a few thousandths of the best dual value. Two sweeps later,
few arcs of each point contain an almost optimal plan. All passes over the costs are products of matrices in single
precision. The few best arcs of a row are evaluated again in double precision. So are all arcs of a row whose best ones
are closer together than single precision can tell. Memory is that of the points and of these arcs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import only, renewed
from otkit.entropic.dual import Potentials
from otkit.geometry.dense import Dense
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose
from otkit.kernels.numba import products
from otkit.kernels.numba.tiles import filled
from otkit.problems.linear import LinearProblem
from otkit.problems.squares import multiplies
from otkit.solvers.base import State, begun, run
from otkit.solvers.exact.basis import Basis
from otkit.solvers.exact.listed import added, on_arcs, tolerance, violating
from otkit.solvers.sns.solver import SparseNewton

# Points of the sample on each side, and the error of its solve. The regularisation is this fraction of the mean cost.
_SAMPLE, _ERROR, _REG = 2000, 1e-3, 0.02
# The least mean cost, relative to the squared radius, that single precision tells from 0.
_LEAST = 1e-5
# Sweeps over all points; arcs of each row and of each column from which the simplex starts; those of each row that are
# evaluated again in pricing.
SWEEPS, _OF_ROWS, _OF_COLS, _AGAIN = 2, 24, 12, 8
# Rounding of an operation in single precision, and the largest number that may become 0 in it.
_SINGLE, _TINY = 2.0**-24, 2.0**-126


@dataclass(frozen=True)
class Sampled(State):
    """A state of sweeps over all points, which start from the potentials of a sample."""


@dataclass(frozen=True)
class Products:
    """The points with mass in single precision, less their mean and in units of their radius.

    Attributes
    ----------
    x, y : array (n, d), (m, d)
    unit : float
        A squared distance between these points times this is a cost.
    squares : tuple of array (n,), (m,)
        Squared lengths of the points before rounding.
    """

    x: np.ndarray
    y: np.ndarray
    unit: float
    squares: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(cloud: PointCloud, rows: np.ndarray, cols: np.ndarray) -> Products:
        """The points of a cloud at these indices."""
        x, y = cloud.x[0][rows], cloud.y[0][cols]
        middle = (x.mean(0) + y.mean(0)) / 2
        x, y = x - middle, y - middle
        radius = np.sqrt(max(float((v * v).sum(-1).max()) for v in (x, y))) or 1.0
        x, y = x / radius, y / radius
        squares = (x * x).sum(-1), (y * y).sum(-1)
        return Products(x.astype(np.float32), y.astype(np.float32), cloud.metric.factor * radius**2, squares)

    @property
    def T(self) -> Products:
        """The same with the sides swapped."""
        return Products(self.y, self.x, self.unit, self.squares[::-1])

    def among(self, cols: np.ndarray) -> Products:
        """The products with some of the columns."""
        return replace(self, y=self.y[cols], squares=(self.squares[0], self.squares[1][cols]))

    def mean(self, a: np.ndarray, b: np.ndarray) -> float:
        """The mean cost of the product of these weights."""
        return self.unit * float(a @ self.squares[0] + b @ self.squares[1] - 2 * (a @ self.x) @ (b @ self.y))

    def softmin(self, g: np.ndarray, reg: float) -> np.ndarray:
        """−reg·log Σ_j exp((g_j − C_ij)/reg), for potentials with the weights absorbed: ``(n,)``."""
        scale = self.unit / reg
        h = (g / reg - scale * self.squares[1]).astype(np.float32)
        return self.unit * self.squares[0] - reg * products.log_sums(self.x * np.float32(2 * scale), self.y, h)

    def best(self, g: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the k least C_ij − g_j of each row, and lower bounds on them: ``(n, k)``.

        Ranks are those of the bounds. They are lower bounds also on the entries of all other columns, by their last.
        """
        h, d = self.squares[1] - g / self.unit, self.x.shape[1]
        # Coordinates, their product and its sum with h round. |2⟨x, y⟩| ≤ |x|² + |y|² parts the error by sides.
        of_rows, of_cols = (1.01 * _SINGLE * (d + 4) * v + 8 * d * _TINY for v in self.squares)
        lowered = (h - of_cols - 3 * _SINGLE * abs(h)).astype(np.float32)
        cols, values = products.best(self.x * np.float32(-2.0), self.y, lowered, min(k, len(self.y)))
        return cols, self.unit * ((self.squares[0] - of_rows)[:, None] + values)


def applies(problem: LinearProblem) -> bool:
    """Whether costs are squared distances of many points in high dimension, of a single item."""
    return problem.items == 1 and multiplies(problem.geometry)


def begin(problem: LinearProblem) -> Sampled:
    """The state before the sample is solved."""
    of, _, _, a, b = _with_mass(problem)
    reg = np.array([_REG * max(of.mean(a, b), _LEAST * of.unit)])
    state = begun(problem, 0 * problem.a, 0 * problem.b)
    return Sampled(state.f, state.g, reg, state.status, np.full(1, np.inf), state.n_iter, ())


def sweep(problem: LinearProblem, state: Sampled) -> Sampled:
    """The state after the solve of the sample, or after a sweep over all points."""
    (of, _, cols, a, b), reg = _with_mass(problem), float(state.reg[0])
    if state.n_iter[0] == 0:
        sample, f = _sampled(problem, reg)
        g = of.T.among(sample).softmin(f - reg * np.log(sample.size), reg)
    else:
        f = of.softmin(state.g[0, cols] + reg * np.log(b), reg)
        g = of.T.softmin(f + reg * np.log(a), reg)
    full = np.zeros_like(problem.b)
    full[0, cols] = g
    return replace(state, g=full, n_iter=state.n_iter + 1)


def _with_mass(problem: LinearProblem) -> tuple[Products, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The products of the points with mass, their indices and their weights."""
    cloud, a, b = problem.geometry.cloud, problem.a[0], problem.b[0]
    assert cloud is not None
    rows, cols = np.flatnonzero(a), np.flatnonzero(b)
    return Products.of(cloud, rows, cols), rows, cols, a[rows], b[cols]


def _sampled(problem: LinearProblem, reg: float) -> tuple[np.ndarray, np.ndarray]:
    """A sample of the rows with mass, drawn by their weights, and its potentials."""
    _, rows, cols, a, b = _with_mass(problem)
    rng, cloud = np.random.default_rng(0), problem.geometry.cloud
    assert cloud is not None
    i, j = (rng.choice(w.size, min(_SAMPLE, w.size), replace=False, p=w / w.sum()) for w in (a, b))
    C = filled(PointCloud(cloud.x[:, rows[i]], cloud.y[:, cols[j]], cloud.metric))[0]
    part = LinearProblem.build(Dense(C), reg=reg)
    return i, run(part, SparseNewton(tol=_ERROR)).f[0] + part.reduced.row[0]


def basis(problem: LinearProblem, g: np.ndarray) -> Basis:
    """The initial basis from potentials of the columns: on the best arcs of each row and column."""
    of, rows, cols, _, _ = _with_mass(problem)
    by_row, least = of.best(g[cols], _OF_ROWS)
    f = np.zeros(problem.reduced.n)
    f[rows] = least[:, 0]
    by_col, _ = of.T.best(least[:, 0], _OF_COLS)
    ahead, back = np.arange(rows.size)[:, None] * np.int64(cols.size) + by_row, by_col * np.int64(cols.size)
    code = np.unique(np.concatenate([ahead.ravel(), (back + np.arange(cols.size)[:, None]).ravel()]))
    i, j = np.divmod(code, cols.size)
    return on_arcs(problem, problem.reduced, 0, (f, g), (rows[i], cols[j]))


def cheaper(problem: LinearProblem, costs: Reduced, held: Basis, item: int) -> Basis | None:
    """The basis with added arcs of negative reduced cost, as `listed.cheaper`."""
    f, g = held.prices(costs.n, costs.m)
    limit, rows = tolerance(problem, held, item), held.rows
    cols, slack, unsure = _least(problem, g)
    i, place = np.nonzero(slack - f[rows][:, None] < -limit)
    tails, heads = rows[i], cols[i, place]
    if not tails.size and unsure.any():
        some, none_b = rows[unsure], np.where(problem.b > 0, 0.0, -np.inf)
        at = Potentials(f[None, some], g[None], np.zeros((1, some.size)), none_b, np.ones(1))
        tails, heads = violating(_rows(costs, some), at, limit)
        tails = some[tails]
    return added(held, costs, item, tails, heads) if tails.size else None


def feasible(problem: LinearProblem, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest potentials of the rows that are feasible with these of the columns, and those: ``(1, n), (1, m)``.

    Potentials of columns without mass follow from those of the rows.
    """
    costs, has_a, has_b = problem.reduced, problem.a > 0, problem.b > 0
    f, g, plain = np.zeros_like(problem.a), g.copy(), ~has_a[0]
    _, slack, unsure = _least(problem, g[0])
    f[has_a], plain[has_a[0]] = slack.min(1), unsure
    for side, at, some, other in ((costs, f, plain, only(g, has_b)), (costs.T, g, ~has_b[0], only(f, has_a))):
        if some.any():
            part = _rows(side, some)
            at[0, some] = choose(part).c_transform(part, other)[0]
    return f, g


def _least(problem: LinearProblem, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For rows with mass, the columns of a few small C_ij − g_j and their values; and whether others may be smaller.

    Others may be smaller than some of these in any case, but not than the least one unless it is said.
    """
    of, rows, cols, _, _ = _with_mass(problem)
    found, bounds = of.best(g[cols], _AGAIN)
    heads = cols[found]
    tails = np.repeat(rows, heads.shape[1])
    slack = problem.reduced.pairs(0, tails, heads.ravel()).reshape(heads.shape) - g[heads]
    others = bounds[:, -1] if heads.shape[1] < cols.size else np.inf
    return heads, slack, others < slack.min(1)


def _rows(costs: Reduced, some: np.ndarray) -> Reduced:
    """The costs of some rows."""
    cloud = costs.base.cloud
    assert cloud is not None
    return replace(costs, base=renewed(cloud, x=cloud.x[:, some]), row=costs.row[:, some])
