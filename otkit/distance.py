"""Wasserstein distances with a certified interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks, lists
from otkit.autograd import attached
from otkit.geometry.costs import UNIT, Cost, parse_cost
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.problems.linear import LinearProblem
from otkit.problems.partial import moved_mass
from otkit.report import shortfall
from otkit.results.result import Result
from otkit.results.values import objective
from otkit.scaling import rescaled
from otkit.solvers import cells_or_points, choose_solver, in_scales, on_line
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver
from otkit.solvers.bottleneck import MOST, Bottleneck, longest_arcs
from otkit.solvers.exact import small
from otkit.solvers.exact.solver import Exact
from otkit.solvers.grid.flow import GridFlow
from otkit.solvers.grid.solver import CoarseToFine
from otkit.solvers.multiscale.solver import Multiscale
from otkit.solvers.univariate import Univariate
from otkit.solvers.watch import Callback, Watch
from otkit.solving import Asked, masses, result_of, solved, with_options

# The highest finite order: higher powers of distances around the bottleneck overflow.
HIGHEST = 1024


@dataclass(frozen=True, repr=False)
class WassersteinResult:
    """A Wasserstein distance and the interval that contains it.

    Attributes
    ----------
    result : Result
        The solution for the cost d(x, y)^p: plan, potentials, status. For p = inf, its value and bounds are those of
        the largest distance over the plan, and its potentials are 0.
    p : float
        The order of the distance.
    unit : float or numpy array (...)
        The power of two by which the points of `result` were divided: 1 unless powers of distances might overflow or
        underflow.

    Examples
    --------
    >>> import otkit
    >>> answer = otkit.wasserstein([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]])
    >>> answer
    WassersteinResult(W2 = 1.2247449 in [1.2247449, 1.2247449], exact; Converged to the tolerance.)
    >>> answer.lower <= 1.5**0.5 <= answer.upper
    True
    """

    result: Result
    p: float
    unit: Any = 1.0

    @property
    @arrays.eager
    def distance(self) -> Any:
        """The cost of the computed plan, to the power 1/p: float, or an array ``(...)`` of the input's dtype.

        If the input requires gradients, the distance is a tensor, even for a single problem. Its gradient at 0 is
        defined as 0. For p = inf it is the gradient of the longest arc of the plan.
        """
        result = self.result
        if self.p == np.inf and any(map(arrays.requires_grad, result.problem.given.geometry.arrays.values())):
            longest = longest_arcs(result)
            return longest * self._unit(longest)
        if result.link is None or not arrays.records():
            return self._distance
        given, xp = result.problem.given, arrays.namespace(result.problem.like)
        mean = result.value_linear / (sum(m / 2 for m in given.masses) if result.whole is None else moved_mass(given))
        mean = xp.astype(mean, result.problem.dtype, copy=False)
        positive = mean > 0
        return xp.where(positive, xp.where(positive, mean, 1.0) ** self._exponent, 0.0 * mean) * self._unit(mean)

    @cached_property
    def _distance(self) -> Any:
        result = self.result
        mean = arrays.to_numpy(objective(result).linear).reshape(result.problem.batch) / self._mass
        with np.errstate(over="ignore"):  # as in `_root`
            root = np.maximum(mean, 0.0) ** self._exponent * self.unit
        # The plan of a `reg` misses its marginals by up to the tolerance, and may cost less than the optimum.
        if result.outcome.linear is None or result.outcome.reg is not None:
            root = np.clip(root, self.lower, self.upper)
        if not result.problem.batch:
            return float(root)
        return result.problem.as_given(root.reshape(-1))

    @property
    def _exponent(self) -> float:
        """The exponent of the root; for p = inf the cost is a distance."""
        return 1 / self.p if self.p < np.inf else 1.0

    def _unit(self, like: Any) -> Any:
        """`unit` as a number or an array in the library and dtype of `like`."""
        if np.ndim(self.unit) == 0:
            return float(self.unit)
        return arrays.namespace(like).astype(arrays.from_numpy(self.unit, like), like.dtype)

    @property
    @arrays.eager
    def lower(self) -> Any:
        """A certified lower bound on the distance: float, or a NumPy array ``(...)``."""
        return self._root(self.result.lower, -1)

    @property
    @arrays.eager
    def upper(self) -> Any:
        """A certified upper bound on the distance: float, or a NumPy array ``(...)``."""
        return self._root(self.result.upper, 1)

    @property
    def status(self) -> Any:
        """Termination status: `Status`, or an object array ``(...)``."""
        return self.result.status

    @property
    def converged(self) -> Any:
        """Whether the interval meets `rtol`: bool, or an array ``(...)``."""
        return self.result.converged

    @arrays.eager
    def __float__(self) -> float:
        return float(self._distance)

    @arrays.eager
    def __repr__(self) -> str:
        if self.result.problem.batch:
            return f"WassersteinResult(p = {self.p:g}, {self.result!r})"
        return (
            f"WassersteinResult(W{self.p:g} = {self._distance:.8g} in [{self.lower:.8g}, {self.upper:.8g}], "
            f"{self.result.method}; {self.status.value})"
        )

    @property
    def _mass(self) -> np.ndarray:
        problem = self.result.problem
        if self.result.whole is None:
            return problem.mass.reshape(problem.batch)
        return np.broadcast_to(arrays.to_numpy(arrays.detached(moved_mass(problem.given))), problem.batch)

    def _root(self, bound: Any, direction: int) -> Any:
        with np.errstate(over="ignore"):  # a distance of finite points may overflow
            root = rooted(bound / self._mass, self._exponent, direction) * self.unit
        if direction < 0:
            root = np.minimum(root, np.finfo(np.float64).max)
        return root if self.result.problem.batch else float(root)


@arrays.eager
def wasserstein(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    p: float = 2,
    metric: Any = "euclidean",
    period: float | None = None,
    mass: Any = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    strict: bool = False,
) -> WassersteinResult:
    """The p-Wasserstein distance between two weighted clouds of points, with a certified interval.

    W_p = (min Σ P_ij d(x_i, y_j)^p)^(1/p). The distance is exact up to rounding, or accurate to `rtol` if given. W_∞ is
    the bottleneck distance, the least r such that some plan moves no mass further than r.

    Parameters
    ----------
    x : array (..., n, d) or Grid
    y : array (..., m, d) or Grid
        The points; lists of clouds of any sizes, as in `solve_sample`, give a list. Or one grid twice, for images ``a``
        and ``b`` of shape ``(..., *grid.shape)``. The cost of the grid must be d^p: "sqeuclidean" for the Euclidean
        distance and p = 2, "cityblock" for this distance and p = 1.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total; uniform by default. They are divided by their total.
    p : float
        The order, from 1 to 1024, or ``inf``.
    metric : str, tuple or callable
        The distance d: "euclidean", "cityblock", "cosine", ``("minkowski", p)``, a name of `scipy.spatial.distance`,
        "haversine", or a callable, as in `PointCloud`.
    period : float, optional
        The points lie on a circle of this circumference, and the distance is that along it. They have one coordinate,
        any number, which is taken modulo the period.
    mass : float or array (...), optional
        Partial transport, as in `solve`: only this much of the weights moves, which may then differ in total and are
        not divided by it. The mean is over the mass that moves.
    rtol : float, optional
        Stop when the interval is narrower than this fraction of the distance. By default the distance is exact. If the
        interval is then wider than 1e-9 of the distance, or of the p-th powers of distances without outliers, the
        status is IMPRECISE.
    max_iter, time_limit, callback, progress, strict
        As in `solve`. There is no `time_limit` for p = inf.

    Returns
    -------
    WassersteinResult
        ``float(result)`` is the distance.

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Notes
    -----
    Points are divided by a power of two, an exact operation, where powers of their distances might over- or underflow.
    For p = inf, mass of the order of rounding errors of the weights, 2⁻⁴⁹ times the number of points, may move further
    than the distance.

    Examples
    --------
    >>> import otkit
    >>> otkit.wasserstein([[0.0], [2.0]], [[1.0], [3.0]], p=1).distance
    1.0
    >>> otkit.wasserstein([[0.0], [2.0]], [[1.0], [6.0]], p=float("inf")).distance
    4.0
    >>> otkit.wasserstein([[350.0], [5.0]], [[10.0], [20.0]], p=1, period=360).distance
    17.5
    """
    cost = distance_cost(p, metric, rtol, period, largest=True)
    watch = Watch.of(callback, time_limit, progress)

    def distance(x: Any, y: Any, a: Any, b: Any, mass: Any) -> WassersteinResult:
        return measured((x, y), (a, b), cost, rtol, max_iter, watch, mass)

    def part(batch: WassersteinResult, item: int, pair: tuple[Any, ...]) -> WassersteinResult:
        if np.ndim(batch.unit) and batch.unit[item] != 1:  # these points are not those that were solved
            return distance(*pair)
        return WassersteinResult(lists.of_pair(batch.result, item, (*pair[:4], None, None)), cost.power)

    exact = p < np.inf and rtol is None and max_iter is None
    clouds = lists.Clouds(
        distance,
        part if mass is None else None,
        lambda found: shortfall(found.result, found),
        lambda d: small.largest(cost, d) if exact else 0,
    )
    return lists.answered(clouds, (x, y, a, b), (mass,), strict, watch)


def rooted(mean: Any, exponent: float, direction: int) -> Any:
    """The power of a bound, of 0 for a negative one, moved by what rounding may have changed: −1 down, 1 up."""
    mean = np.maximum(mean, 0.0)
    steep = abs(np.log(np.where((mean > 0) & (mean < np.inf), mean, 1.0))) * exponent  # rounding of powers
    return mean**exponent * (1 + direction * (16 + steep) * UNIT)


def distance_cost(
    p: float, metric: Any, rtol: float | None = None, period: Any = None, *, largest: bool = False
) -> Cost:
    """The cost d(x, y)^p, after validation of its arguments and `rtol`; only with `largest` may p be inf."""
    number = isinstance(p, (int, float, np.number))
    if not (number and (1 <= p <= HIGHEST or (largest and p == np.inf))):
        raise ValueError(
            f"p must be from 1 to {HIGHEST}{', or inf' if largest else ''}, got {p!r}"
            + ("" if largest else "; for p=inf call otkit.wasserstein for each pair")
        )
    checks.positive(rtol, "rtol", below=1.0)
    if isinstance(metric, (str, tuple)) and (metric == "sqeuclidean" or metric[:1] == ("power",)):
        raise ValueError(
            f"metric must be a distance, which p then raises, got {metric!r}; use metric='euclidean' and p="
        )
    return parse_cost(metric, float(p), period)


def measured(
    points: tuple[Any, Any],
    weights: tuple[Any, Any],
    cost: Cost,
    rtol: float | None = None,
    max_iter: int | None = None,
    watch: Watch | None = None,
    mass: Any = None,
) -> WassersteinResult:
    """A Wasserstein distance, without a report on convergence."""
    p, watch = cost.power, watch or Watch.of()
    if mass is not None:
        return _partial(points, weights, cost, mass, rtol, max_iter, watch)
    if any(isinstance(v, Grid) for v in points):
        return _between_images(points, weights, cost, rtol, max_iter, watch)
    cloud = PointCloud(*points, replace(cost, power=1.0) if p == np.inf else cost)
    a, b = (None if w is None else checks.as_array(w, name, cloud.x) for w, name in zip(weights, "ab", strict=True))
    if p < np.inf and rtol is None and max_iter is None and watch.idle:
        quick = (on_line if cloud.convex_on_line else small).solved(cloud, a, b)
        if quick is not None:
            return WassersteinResult(attached(quick), p)
    cloud, unit = rescaled(cloud, a, b)
    reduces = p == np.inf or not in_scales(cloud, "auto")
    problem = LinearProblem.build(cloud, a, b, instead="", reduces=reduces)
    solver = Bottleneck() if p == np.inf else choose_solver(problem, "auto", bounded=rtol is not None)
    if isinstance(solver, Bottleneck):
        _check_size(problem)
        if watch.deadline < np.inf:
            raise ValueError("time_limit= does not apply to p=inf, which has no interval before its end; drop it")
    solver = _to_rtol(solver, rtol, p)
    if isinstance(solver, Annealing):
        solver = replace(solver, atol=max(1e-9**p, 1e-14))
    if not isinstance(solver, Univariate):
        solver = with_options(solver, max_iter=max_iter)
    result = result_of(problem, solver, None, watch)
    if p == np.inf:
        result = replace(result, link=None)  # the largest distance is no mean of costs
    return WassersteinResult(result, p, unit if result.problem.batch else float(unit))


def _partial(
    points: tuple[Any, Any],
    weights: tuple[Any, Any],
    cost: Cost,
    mass: Any,
    rtol: float | None,
    max_iter: int | None,
    watch: Watch,
) -> WassersteinResult:
    """A partial Wasserstein distance."""
    if any(isinstance(v, Grid) for v in points):
        raise ValueError("mass= is for clouds of points, got a Grid; pass grid.points.x and the masses of its cells")
    if cost.power == np.inf:
        raise ValueError("mass= needs a finite order, got p=inf; pass a large p")
    x, y = (checks.as_array(v, name) for v, name in zip(points, "xy", strict=True))
    options = dict(tol=None, max_iter=max_iter, rtol=rtol and _rtol_of_power(rtol, cost.power))
    asked = Asked(*weights, mass=mass)
    return WassersteinResult(solved(PointCloud(x, y, cost), asked, "auto", options, None, watch), cost.power)


def _rtol_of_power(rtol: float, p: float) -> float:
    """The relative width of an interval of p-th powers whose roots differ by `rtol`."""
    return min(1 - (1 - rtol) ** p, 1 - UNIT)


def _to_rtol(solver: Solver[Any], rtol: float | None, p: float) -> Solver[Any]:
    """The solver that stops on the distance: upper^(1/p) − lower^(1/p) ≤ rtol·upper^(1/p), or at rounding errors."""
    if rtol is None or not isinstance(solver, (Annealing, CoarseToFine, Exact, Multiscale, Univariate)):
        return solver
    return replace(solver, rtol=_rtol_of_power(rtol, p))


def _between_images(
    grids: tuple[Any, Any],
    images: tuple[Any, Any],
    cost: Cost,
    rtol: float | None,
    max_iter: int | None,
    watch: Watch,
) -> WassersteinResult:
    """The distance of images on a grid."""
    grid, p = grids[0], cost.power
    if not (isinstance(grids[1], Grid) and grids[0] == grids[1]):
        came = " and ".join(repr(v) if isinstance(v, Grid) else type(v).__name__ for v in grids)
        raise ValueError(f"x and y must be one grid where one of them is, got {came}; pass the grid twice")
    grounds: dict[Any, float] = {"euclidean": 2.0, "cityblock": 1.0}
    if grid.power != p or (len(grid.shape) > 1 and grounds.get(cost.ground) != p):
        raise ValueError(
            f"on a grid p=2 takes metric='euclidean' and p=1 metric='cityblock', with the same cost in the Grid, got "
            f"p={p:g}, metric {cost.ground!r} and {grid!r}; for others pass the cells with mass as points"
        )
    a, b = (None if w is None else masses(grid, w, name) for w, name in zip(images, "ab", strict=True))
    geometry = cells_or_points(grid.fitted(a, b), "auto", a, b)
    problem = LinearProblem.build(geometry, a, b, instead="", reduces=not in_scales(geometry, "auto"))
    solver = _to_rtol(choose_solver(problem, "auto", bounded=rtol is not None), rtol, p)
    if not isinstance(solver, (GridFlow, Univariate)):
        solver = with_options(solver, max_iter=max_iter)
    return WassersteinResult(result_of(problem, solver, None, watch), p)


def _check_size(problem: LinearProblem) -> None:
    n, m = problem.reduced.n, problem.reduced.m
    if n * m > MOST:
        raise ValueError(
            f"p=inf needs all distances in memory, at most 2^24, got {n} × {m} points; take a sample of the points"
        )
