"""Wasserstein distances with a certified interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.api import result_of, with_options
from otkit.geometry.costs import UNIT, Cost, parse_cost
from otkit.geometry.points import PointCloud
from otkit.problems.linear import LinearProblem
from otkit.report import reported, shortfall
from otkit.results.result import Result
from otkit.results.values import objective
from otkit.solvers import choose_solver
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Callback
from otkit.solvers.univariate import Univariate


@dataclass(frozen=True, repr=False)
class WassersteinResult:
    """A Wasserstein distance and the interval that contains it.

    Attributes
    ----------
    result : Result
        The solution for the cost d(x, y)^p: plan, potentials, status.
    p : float
        The order of the distance.
    """

    result: Result
    p: float

    @property
    @arrays.eager
    def distance(self) -> Any:
        """The cost of the computed plan, to the power 1/p: float, or an array ``(...)`` of the input's dtype.

        If the input requires gradients, the distance is a tensor, even for a single problem. Its gradient at 0 is
        defined as 0.
        """
        result = self.result
        if result.link is None or not arrays.records():
            return self._distance
        given, xp = result.problem.given, arrays.namespace(result.problem.like)
        mean = xp.astype(result.value_linear / sum(m / 2 for m in given.masses), result.problem.dtype, copy=False)
        positive = mean > 0
        return xp.where(positive, xp.where(positive, mean, 1.0) ** (1 / self.p), 0.0 * mean)

    @cached_property
    def _distance(self) -> Any:
        result = self.result
        mean = arrays.to_numpy(objective(result).linear).reshape(result.problem.batch) / self._mass
        root = np.maximum(mean, 0.0) ** (1 / self.p)
        if result.outcome.linear is None:
            root = np.clip(root, self.lower, self.upper)
        if not result.problem.batch:
            return float(root)
        return result.problem.as_given(root.reshape(-1))

    @property
    def lower(self) -> Any:
        """A certified lower bound on the distance: float, or a NumPy array ``(...)``."""
        return self._root(self.result.lower, -1)

    @property
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

    def __float__(self) -> float:
        return float(self._distance)

    def __repr__(self) -> str:
        if self.result.problem.batch:
            return f"WassersteinResult(p = {self.p:g}, {self.result!r})"
        return (
            f"WassersteinResult(W{self.p:g} = {self._distance:.8g} in [{self.lower:.8g}, {self.upper:.8g}], "
            f"{self.result.method}; {self.status.value})"
        )

    @property
    def _mass(self) -> np.ndarray:
        return self.result.problem.mass.reshape(self.result.problem.batch)

    def _root(self, bound: Any, direction: int) -> Any:
        mean = np.maximum(bound / self._mass, 0.0)
        steep = abs(np.log(np.where((mean > 0) & (mean < np.inf), mean, 1.0))) / self.p  # rounding of the power 1/p
        root = mean ** (1 / self.p) * (1 + direction * (16 + steep) * UNIT)
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
    rtol: float | None = None,
    max_iter: int | None = None,
    callback: Callback | None = None,
    strict: bool = False,
) -> WassersteinResult:
    """The p-Wasserstein distance between two weighted clouds of points, with a certified interval.

    W_p = (min Σ P_ij d(x_i, y_j)^p)^(1/p). The distance is exact up to rounding, or accurate to `rtol` if given.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total; uniform by default. They are divided by their total.
    p : float
        The order, at least 1.
    metric : str or callable
        The distance d: "euclidean", "cityblock", "cosine" or a callable on tiles of points.
    period : float, optional
        The points lie on a circle of this circumference, and the distance is that along it. They have one coordinate,
        any number, which is taken modulo the period.
    rtol : float, optional
        Stop when the interval is narrower than this fraction of the distance. By default the distance is exact.
    max_iter, callback, strict
        As in `solve`.

    Returns
    -------
    WassersteinResult
        ``float(result)`` is the distance.

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Examples
    --------
    >>> import otkit
    >>> otkit.wasserstein([[0.0], [2.0]], [[1.0], [3.0]], p=1).distance
    1.0
    >>> otkit.wasserstein([[350.0], [5.0]], [[10.0], [20.0]], p=1, period=360).distance
    17.5
    """
    cost = distance_cost(p, metric, rtol, period)
    answer = measured((x, y), (a, b), cost, rtol, max_iter, callback)
    return reported(answer, shortfall(answer.result, answer), strict)


def distance_cost(p: float, metric: Any, rtol: float | None = None, period: Any = None) -> Cost:
    """The cost d(x, y)^p of a distance, after validation of its arguments and `rtol`."""
    if not (isinstance(p, (int, float, np.number)) and 1 <= p < np.inf):
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}")
    checks.positive(rtol, "rtol", below=1.0)
    if metric == "sqeuclidean" or isinstance(metric, tuple):
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
    callback: Callback | None = None,
) -> WassersteinResult:
    """A Wasserstein distance, without a report on convergence."""
    problem = LinearProblem.build(PointCloud(*points, cost), *weights)
    solver = choose_solver(problem, "auto", bounded=rtol is not None)
    if isinstance(solver, Annealing) and rtol is not None:
        # Stop on the distance: upper^(1/p) − lower^(1/p) ≤ rtol·upper^(1/p), or at the rounding of the costs.
        solver = replace(solver, rtol=1 - (1 - rtol) ** cost.power, atol=max(1e-9**cost.power, 1e-14))
    if not isinstance(solver, Univariate):
        solver = with_options(solver, max_iter=max_iter)
    return WassersteinResult(result_of(problem, solver, None, callback), cost.power)
