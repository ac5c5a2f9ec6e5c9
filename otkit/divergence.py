"""The Sinkhorn divergence: the entropic cost without its bias."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from otkit import arrays, checks, lists
from otkit.arrays import Array, convert, namespace, to_numpy
from otkit.geometry.points import PointCloud
from otkit.kernels import hosted, shared_by, threads
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import one_penalty
from otkit.results.gauge import gauged
from otkit.results.result import Result
from otkit.solvers.base import Solver
from otkit.solvers.watch import Watch
from otkit.solving import Asked, solved

# Default tolerance: tight, since a divergence is a difference of numbers that may be nearly equal.
_TOL = 1e-8
# Number of pairs of points from which the three problems follow each other: each of them keeps all threads busy.
_MANY = 2**24
# Maximum number of pairs of points of problems that are solved as one batch: each is the work of one thread.
_SMALL = 2**19


@dataclass(frozen=True, repr=False)
class DivergenceResult:
    """A Sinkhorn divergence, and its three problems.

    Attributes
    ----------
    cross, self_x, self_y : Result
        The problems between x and y, x and x, y and y.

    Examples
    --------
    >>> import otkit
    >>> answer = otkit.sinkhorn_divergence([[0.0], [1.0]], [[0.5], [2.0]], reg=0.5)
    >>> own = (answer.self_x.value + answer.self_y.value) / 2
    >>> bool(abs(answer.value - (answer.cross.value - own)) < 1e-12)
    True
    """

    cross: Result
    self_x: Result
    self_y: Result

    @property
    @arrays.eager
    def value(self) -> Array:
        """The divergence, ``(...)``, from the dual values of the problems: its error is quadratic in theirs."""
        cross, one, other = (cast(Any, r.value_dual) for r in (self.cross, self.self_x, self.self_y))
        return cross - (one + other) / 2 + self._mass_term

    @property
    @arrays.eager
    def f(self) -> Array:
        """Derivative of the divergence by the weights of x, up to a constant if balanced: ``(..., n)``."""
        return self._slope("rows", self.cross, self.self_x)

    @property
    @arrays.eager
    def g(self) -> Array:
        """Derivative of the divergence by the weights of y, up to a constant if balanced: ``(..., m)``."""
        return self._slope("columns", self.cross, self.self_y)

    def _slope(self, side: str, cross: Result, alone: Result) -> Array:
        """Derivative by the weights of one side of `cross`; `alone` is the problem between that side and itself."""
        one, other = (cross.f if side == "rows" else cross.g), _own_potential(alone)
        problem = cross.problem
        if problem.balanced.all():
            return one - other
        xp = namespace(one)
        rho, reg = _penalty_and_reg(problem)
        rho, reg = rho[..., None], reg[..., None]
        penalised = (rho > 0) & (rho < xp.inf)
        scale = xp.where(penalised, rho, 1.0)
        slope = xp.where(penalised, (rho + reg) * (xp.expm1(-other / scale) - xp.expm1(-one / scale)), one - other)
        if xp.any(rho == 0):
            gained = [cross.problem.as_given(convert(_row_sums(result, side), problem.a)) for result in (alone, cross)]
            slope = xp.where(rho == 0, reg * (gained[0] - gained[1]), slope)
        return slope

    @property
    def converged(self) -> Any:
        """Whether all three problems converged: bool, or an array ``(...)``."""
        everywhere = self.cross.converged & self.self_x.converged & self.self_y.converged
        return everywhere if self.cross.problem.batch else bool(everywhere)

    @property
    def error(self) -> Any:
        """The largest of the three errors: float, or an array ``(...)``."""
        worst = np.maximum(self.cross.error, np.maximum(self.self_x.error, self.self_y.error))
        return worst if self.cross.problem.batch else float(worst)

    @property
    def _mass_term(self) -> Any:
        """½·reg·(Σa − Σb)², ``(...)``: without it, measures of different mass could have a negative divergence."""
        problem = self.cross.problem
        penalised = problem.as_given(convert(~problem.balanced, problem.a))
        _, reg = _penalty_and_reg(problem)
        one, other = problem.given.masses
        term = penalised * reg * (one - other) ** 2 / 2
        return namespace(term).astype(term, problem.dtype, copy=False)

    def __float__(self) -> float:
        return float(arrays.detached(self.value))

    @arrays.eager
    def __repr__(self) -> str:
        if self.cross.problem.batch:
            return f"DivergenceResult({self.cross.problem.batch} problems, {self.cross!r})"
        ended = ", ".join(dict.fromkeys(r.status.name for r in (self.cross, self.self_x, self.self_y)))
        return f"DivergenceResult({float(self):.8g}, error = {self.error:.2g}; {ended})"


def _penalty_and_reg(problem: LinearProblem) -> tuple[Array, Array]:
    """The penalty of both sides and the regularisation, ``(...)``, in the caller's graph where there is one."""
    asked = ((problem.given.unbalanced, problem.penalties.rho_a), (problem.given.reg, problem.reg))
    rho, reg = (v if arrays.requires_grad(v) else problem.as_given(convert(own, problem.a)) for v, own in asked)
    return rho, reg


def _own_potential(alone: Result) -> Array:
    """The potential of a measure with itself, ``(..., n)``: the derivative of half the value by the weights.

    By symmetry the two potentials are equal at the optimum. Before it they differ by far more than their mean is off:
    the modes that converge slowly move them apart.
    """
    f, g = gauged(alone)
    h = alone.problem.as_given((f + g) / 2)
    return h if alone.link is None else alone.link(alone, "own", h, ())


def _row_sums(result: Result, side: str) -> np.ndarray:
    """Σ_j b_j·exp(−C_ij/reg), or the sum over the rows: mass per weight of a plan whose marginals are free."""
    problem = result.problem
    costs, log_w = problem.geometry, problem.log_b
    if side == "columns":
        costs, log_w = costs.T, problem.log_a
    below = problem.kernels.softmin(costs, namespace(log_w).zeros_like(log_w), log_w, problem.reg)
    return np.exp(-to_numpy(below) / to_numpy(problem.reg)[:, None])


@arrays.eager
def sinkhorn_divergence(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: Any,
    metric: Any = "sqeuclidean",
    unbalanced: Any = None,
    method: str | Solver[Any] = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    strict: bool = False,
) -> DivergenceResult:
    """The Sinkhorn divergence between two weighted clouds of points.

    V(a, b) − ½V(a, a) − ½V(b, b) for the value V of the entropic problem. With `unbalanced` the term ½·reg·(Σa − Σb)²
    is added. The divergence of equal measures is 0. Of different measures it is positive if exp(−c/reg) is a positive
    definite kernel, as for the squared Euclidean, the Euclidean and the city-block distance.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points; lists of clouds of any sizes, as in `solve_sample`, give a list. `reg` and `unbalanced` may then
        have one number for each pair.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total unless `unbalanced`; uniform by default.
    reg : float or array (...)
        The regularisation, positive, in units of the cost.
    metric : str, tuple or callable
        As in `solve_sample`. A callable must be symmetric.
    unbalanced : float or array (...), optional
        The penalty ρ on the KL divergence of either marginal from its weights, in units of the cost.
    tol : float, optional
        The error of the three problems, as in `solve`; 1e-8 by default. The error of the divergence is of the order of
        its square.
    method, max_iter, strict
        As in `solve`.

    Returns
    -------
    DivergenceResult
        ``float(result)`` is the divergence.

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Notes
    -----
    Feydy et al. (2019); Séjourné et al. (2019) for unbalanced measures.

    Examples
    --------
    >>> import otkit
    >>> x = [[0.0, 0.0], [1.0, 0.0]]
    >>> round(float(otkit.sinkhorn_divergence(x, [[0.0, 1.0], [1.0, 1.0]], reg=0.5)), 6)
    1.0
    >>> float(otkit.sinkhorn_divergence(x, x, reg=0.5))
    0.0
    """
    checks.regularisation(reg)
    one_penalty(unbalanced)
    if tol is None and getattr(method, "tol", None) is None and getattr(method, "n_iters", None) is None:
        tol = _TOL
    options = dict(tol=tol, rtol=None, max_iter=max_iter)

    def divergence(x: Any, y: Any, a: Any, b: Any, reg: Any, unbalanced: Any) -> DivergenceResult:
        x, y = checks.as_array(x, "x", y), checks.as_array(y, "y", x)
        pairs = [((x, y), (a, b)), ((x, x), (a, a)), ((y, y), (b, b))]
        clouds = [PointCloud(*points, metric) for points, _ in pairs]
        entries = _shared(clouds)

        def solve(cloud: PointCloud, weights: tuple[Any, Any]) -> Result:
            return solved(cloud, Asked(*weights, reg, unbalanced), method, options, None, Watch.of(), strict)

        if entries and _fit_together(clouds[0], (a, b), (reg, unbalanced)):
            with suppress(ValueError, TypeError):  # the problem that is wrong tells, below
                three = solve(*_together(pairs, clouds[0]))
                given = [(*points, *weights, reg, unbalanced) for points, weights in pairs]
                own = [lists.of_pair(three, k, v, clouds[0].batch, strict=strict) for k, v in enumerate(given)]
                return DivergenceResult(*own)
        alone = arrays.for_threads(lambda k: solve(clouds[k], pairs[k][1]))
        return DivergenceResult(*threads.answers(alone, range(3), entries))

    def part(batch: DivergenceResult, item: int, pair: tuple[Any, ...]) -> DivergenceResult:
        x, y, a, b, *numbers = pair
        three = ((batch.cross, (x, y, a, b)), (batch.self_x, (x, x, a, a)), (batch.self_y, (y, y, b, b)))
        return DivergenceResult(*(lists.of_pair(r, item, (*own, *numbers), strict=strict) for r, own in three))

    return lists.answered(lists.Clouds(divergence, part, _shortfall), (x, y, a, b), (reg, unbalanced), strict)


def _shared(clouds: list[PointCloud]) -> int:
    """The exponentials of an iteration of all problems, if they are solved at the same time; else 0."""
    entries = sum(math.prod(cloud.batch) * cloud.n * cloud.m for cloud in clouds)
    on_host = all(isinstance(v, np.ndarray) for v in hosted(clouds[0]).arrays.values())
    # Functions of the caller and processes that share a call expect one thread.
    return entries if on_host and entries <= _MANY and not clouds[0].called and shared_by() is None else 0


def _fit_together(cloud: PointCloud, weights: tuple[Any, Any], numbers: tuple[Any, Any]) -> bool:
    """Whether the three problems make a batch, which takes a third of the calls and divides evenly among threads.

    The clouds have one shape then, and no costs are formed that are quicker to form for a cloud with itself.
    """
    x, y, (a, b) = cloud.x, cloud.y, weights
    alike = (x.shape, x.dtype) == (y.shape, y.dtype) and cloud.n * cloud.m <= _SMALL and cloud.metric.direct(cloud.d)
    shapes = tuple(x.shape[:-1]), tuple(x.shape[-2:-1])
    weighted = arrays.is_array(a) and arrays.is_array(b) and a.dtype == b.dtype
    weighted = weighted and all(tuple(w.shape) in shapes for w in (a, b))
    plain = all(np.ndim(v) == 0 or tuple(np.shape(v)) == cloud.batch for v in numbers)
    return alike and plain and ((a is None and b is None) or weighted)


def _together(pairs: list[Any], cloud: PointCloud) -> tuple[PointCloud, tuple[Any, Any]]:
    """The costs and weights of problems of one shape as those of a batch, along a new first axis."""
    xp = namespace(cloud.x)

    def stacked(part: int, side: int, *shape: int) -> Any:
        return xp.stack([xp.broadcast_to(arrays.detached(pair[part][side]), shape) for pair in pairs])

    x, y = (stacked(0, side, *cloud.x.shape) for side in range(2))
    given = pairs[0][1][0] is not None
    weights = tuple(stacked(1, side, *cloud.x.shape[:-1]) if given else None for side in range(2))
    return PointCloud(x, y, cloud.metric), (weights[0], weights[1])


def _shortfall(answer: DivergenceResult) -> str:
    """Message about a divergence of which some problem did not converge; empty if all did."""
    three = (answer.cross, answer.self_x, answer.self_y)
    short = [r.outcome.status[r.outcome.short] for r in three if r.outcome.short.any()]
    return f"{len(short)} of the 3 problems of the divergence did not converge: {short[0][0].value}" if short else ""
