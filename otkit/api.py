"""The functions to call: arguments → problem → run → result → a word about convergence."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array
from otkit.autograd import attached, check_differentiable
from otkit.errors import NotConverged, warn
from otkit.geometry import Dense, PointCloud
from otkit.geometry.costs import UNIT, Cost, parse_cost
from otkit.kernels import runs_on
from otkit.problems import LinearProblem
from otkit.results import Result, Status
from otkit.solvers import Annealing, Solver, Univariate, choose_solver, run
from otkit.solvers.base import Callback

_Answer = TypeVar("_Answer", "Result", "WassersteinResult")


@arrays.eager
def solve(
    C: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: Any = None,
    unbalanced: Any = None,
    method: str | Solver = "auto",
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    callback: Callback | None = None,
    strict: bool = False,
) -> Result:
    """Optimal transport for a cost matrix.

    Minimises ⟨C, P⟩ + reg·KL(P | a⊗b) over the plans P with marginals a and b; without `reg` the cost alone. With
    `unbalanced` the marginals may deviate, for ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b).

    Parameters
    ----------
    C : array (..., n, m) or Dense or PointCloud
        The costs, or a geometry; ``inf`` forbids an arc. Leading axes are a batch, here and below, and broadcast.
    a : array (..., n), optional
        Weights of the rows, non-negative; uniform by default. A weight of 0 takes a point out: that is how to pad.
    b : array (..., m), optional
        Weights of the columns, of the same total unless `unbalanced`.
    reg : float or array (...), optional
        The regularisation ε, positive, in units of the cost. None asks for the optimum itself.
    unbalanced : float, array (...) or tuple (rho_a, rho_b) of them, optional
        The price ρ of a unit of KL divergence of a marginal from its weights, in units of the cost, for both sides or
        for each: ``inf`` makes a marginal exact, 0 leaves it free. Such a problem needs a `reg`. None asks for exact
        marginals.
    method : str or solver
        "auto", "sns", "sinkhorn", "exact", "annealing", "univariate", or a solver with its options, such as
        ``otkit.Sinkhorn(factor=4)``.
    tol : float, optional
        With a `reg`: the `Result.error` to reach; 1e-6 in float64 and 1e-4 in float32 by default. For exact marginals
        this is ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ relative to the mass.
    rtol : float, optional
        Without a `reg`: stop when ``upper − lower ≤ rtol·|upper|``; by default the answer is exact.
    max_iter : int, optional
        Iterations over all stages, 10,000 by default; for the exact method those and pivots, 10 million by default.
    init : tuple (f, g) or Result, optional
        Potentials to start from, in units of the cost. The first update sets f anew from g.
    callback : callable, optional
        Called after every step with a `Progress`; stops the solve by returning True.
    strict : bool
        Raise `NotConverged` where a warning would be given.

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError
        If the data cannot be solved for, before any work.
    NotConverged
        If `strict` and the tolerance was not reached.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> C = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> result = otkit.solve(C, reg=0.5)
    >>> result.plan.round(4)
    array([[0.4404, 0.0596],
           [0.0596, 0.4404]])
    >>> otkit.solve(C, [0.5, 0.5], [0.25, 0.75]).plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    >>> otkit.solve(C, [1.0, 1.0], [1.0, 3.0], reg=0.5, unbalanced=1.0).plan.sum(0).round(4)
    array([0.8688, 2.1999])
    """
    geometry = C if isinstance(C, (Dense, PointCloud)) else Dense(C)
    options = dict(tol=tol, rtol=rtol, max_iter=max_iter)
    return reported(solved(geometry, (a, b, reg, unbalanced), method, options, init, callback), strict)


@arrays.eager
def solve_sample(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    metric: Any = "sqeuclidean",
    reg: Any = None,
    unbalanced: Any = None,
    method: str | Solver = "auto",
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    callback: Callback | None = None,
    strict: bool = False,
) -> Result:
    """Optimal transport between two clouds of points, whose costs are evaluated tile by tile and never held.

    Clouds of up to 256 MiB of pairs keep the entries of the plan between iterations; larger ones hold no n × m array.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total unless `unbalanced`; uniform by default.
    metric : str, tuple or callable
        "sqeuclidean" (‖x−y‖², no ½), "euclidean", "cityblock", "cosine", ``("power", p)`` (‖x−y‖^p), or a callable on
        tiles, as in `PointCloud`.
    reg, unbalanced, method, tol, rtol, max_iter, init, callback, strict
        As in `solve`. On a line, with a cost that is convex along it and no `reg`, the answer is exact and takes one
        sort.

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Examples
    --------
    >>> import otkit
    >>> otkit.solve_sample([[0.0], [2.0]], [[1.0], [5.0]], metric="sqeuclidean").value
    array(5.)
    """
    options = dict(tol=tol, rtol=rtol, max_iter=max_iter)
    asked = PointCloud(x, y, metric), (a, b, reg, unbalanced)
    return reported(solved(*asked, method, options, init, callback), strict)


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
        """The cost of the plan that was found, to the power 1/p: float, or an array ``(...)`` of the input's dtype.

        Where a tensor requires gradients it is a tensor, also of one problem. Its gradient at 0 is taken for 0.
        """
        result = self.result
        if result.link is None or not arrays.records():
            return self._distance
        given, xp = result.problem.given, arrays.namespace(result.like)
        mean = xp.astype(result.value_linear / sum(m / 2 for m in given.masses), result.problem.dtype, copy=False)
        positive = mean > 0
        return xp.where(positive, xp.where(positive, mean, 1.0) ** (1 / self.p), 0.0 * mean)

    @cached_property
    def _distance(self) -> Any:
        result = self.result
        mean = arrays.to_numpy(result.inner_values.linear).reshape(result.problem.batch) / self._mass
        root = np.clip(np.maximum(mean, 0.0) ** (1 / self.p), self.lower, self.upper)
        if not result.problem.batch:
            return float(root)
        return result.as_given(root.reshape(-1))

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
        """How it ended: `Status`, or an object array ``(...)``."""
        return self.result.status

    @property
    def converged(self) -> Any:
        """Whether the interval is as narrow as `rtol` asks for: bool, or an array ``(...)``."""
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
        steep = abs(np.log(np.where((mean > 0) & (mean < np.inf), mean, 1.0))) / self.p  # how 1/p rounds
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
    rtol: float | None = None,
    max_iter: int | None = None,
    callback: Callback | None = None,
    strict: bool = False,
) -> WassersteinResult:
    """The p-Wasserstein distance between two weighted clouds of points, with a certified interval.

    W_p = (min Σ P_ij d(x_i, y_j)^p)^(1/p). It is exact up to rounding, or with an `rtol` computed to that.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total, by which they are divided; uniform by default.
    p : float
        The order, at least 1.
    metric : str or callable
        The distance d: "euclidean", "cityblock", "cosine" or a callable on tiles of points.
    rtol : float, optional
        Stop when the interval of the distance is narrower than this fraction of it; by default it is exact.
    max_iter, callback, strict
        As in `solve`.

    Returns
    -------
    WassersteinResult
        ``float()`` of it is the distance.

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Examples
    --------
    >>> import otkit
    >>> otkit.wasserstein([[0.0], [2.0]], [[1.0], [3.0]], p=1).distance
    1.0
    """
    cost = distance_cost(p, metric, rtol)
    return reported(measured((x, y), (a, b), cost, rtol, max_iter, callback), strict)


def distance_cost(p: float, metric: Any, rtol: float | None = None) -> Cost:
    """The cost d(x, y)^p of a distance, once it and the `rtol` on it are known to make sense."""
    if not (isinstance(p, (int, float, np.number)) and 1 <= p < np.inf):
        raise ValueError(f"p must be a finite number of at least 1, got {p!r}")
    checks.positive(rtol, "rtol", below=1.0)
    if metric == "sqeuclidean" or isinstance(metric, tuple):
        raise ValueError(
            f"metric must be a distance, which p then raises, got {metric!r}; use metric='euclidean' and p="
        )
    return parse_cost(metric, float(p))


def measured(
    points: tuple[Any, Any],
    weights: tuple[Any, Any],
    cost: Cost,
    rtol: float | None = None,
    max_iter: int | None = None,
    callback: Callback | None = None,
) -> WassersteinResult:
    """A Wasserstein distance, before a word about convergence."""
    problem = LinearProblem.build(PointCloud(*points, cost), *weights)
    solver = choose_solver(problem, "auto", bounded=rtol is not None)
    if isinstance(solver, Annealing) and rtol is not None:
        # On the printed number: upper^(1/p) − lower^(1/p) ≤ rtol·upper^(1/p), or at the rounding of the costs.
        solver = replace(solver, rtol=1 - (1 - rtol) ** cost.power, atol=max(1e-9**cost.power, 1e-14))
    if not isinstance(solver, Univariate):
        solver = with_options(solver, max_iter=max_iter)
    return WassersteinResult(_run(problem, solver, None, callback), cost.power)


def solved(
    geometry: Dense | PointCloud,
    asked: tuple[Any, Any, Any, Any],
    method: str | Solver,
    options: dict[str, Any],
    init: Any,
    callback: Callback | None,
) -> Result:
    """The solution of a problem, before a word about convergence; `asked` is a, b, reg and unbalanced."""
    problem = LinearProblem.build(geometry, *asked)
    chosen = choose_solver(problem, method, bounded=options["rtol"] is not None)
    return _run(problem, with_options(chosen, **options), _start(problem, init), callback)


def with_options(solver: Solver, **options: Any) -> Solver:
    """The solver with the options that are not None, each of which it must have."""
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(solver)}  # type: ignore[arg-type]
    for name, value in given.items():
        checks.positive(value, name, below=1.0 if name == "rtol" else np.inf)
        if name not in known:
            advice = {"tol": "rtol= bounds the unregularised answer", "rtol": "tol= bounds the error with a reg"}
            if solver.name == "exact":
                advice["rtol"] = "it is exact; method='annealing' or 'auto' stops at an interval"
            raise ValueError(
                f"{name} does not apply to method {solver.name!r}; {advice.get(name, 'it takes no iterations')}"
            )
    return replace(solver, **given)  # type: ignore[type-var]


def _start(problem: LinearProblem, init: Any) -> tuple[Array, Array] | None:
    """The potentials that the caller starts from, in reduced costs."""
    if init is None:
        return None
    pair = init.potentials if isinstance(init, Result) else init
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"init must be a pair (f, g) or a Result, got {type(init).__name__}")
    reduced = problem.reduced
    start = []
    for v, name, size, offset in ((pair[0], "f", reduced.n, reduced.row), (pair[1], "g", reduced.m, reduced.col)):
        v = arrays.detached(checks.as_array(v, f"init {name}"))
        checks.same_library(**{f"init {name}": v, **problem.asked.arrays})
        v = problem.inside(v)
        xp = arrays.namespace(v)
        if v.ndim < 1 or v.shape[-1] != size or not xp.all(xp.isfinite(v)):
            raise ValueError(f"init {name} must be finite and of shape (..., {size}), got shape {tuple(v.shape)}")
        v = xp.broadcast_to(arrays.float64(v), (*problem.batch, size))
        start.append(xp.reshape(v, (problem.items, size)) - offset)
    return start[0], start[1]


def _run(
    problem: LinearProblem, solver: Solver, start: tuple[Array, Array] | None, callback: Callback | None
) -> Result:
    check_differentiable(problem)
    library = arrays.library_name(next(iter(problem.asked.arrays.values())))
    kernel = f"{runs_on(problem.geometry)} ({library})"
    return attached(Result(problem, run(problem, solver, start, callback), solver.name, kernel))


def reported(answer: _Answer, strict: bool) -> _Answer:
    """The answer, with a warning or an exception in the name of the caller's caller if it did not converge."""
    result = answer if isinstance(answer, Result) else answer.result
    outcome, batch = result.outcome, result.problem.batch
    bad = outcome.short
    if not bad.any():
        return answer
    k = int(bad.argmax())
    message = str(outcome.status[k].value)
    if batch:
        message = f"{int(bad.sum())} of {bad.size} problems did not converge; item {k}: {message}"
    if outcome.reg is not None:
        message += f" Error {outcome.error[k]:.2g}, tolerance {outcome.tol[k]:.2g}."
    elif outcome.status[k] is not Status.INFEASIBLE:
        quantity = "optimum" if answer is result else "distance"
        low, high = (np.reshape(bound, -1)[k] for bound in (answer.lower, answer.upper))
        message += f" The {quantity} lies in [{low:.6g}, {high:.6g}]."
    if strict:
        raise NotConverged(message, answer)
    warn(message)
    return answer
