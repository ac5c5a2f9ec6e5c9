"""Exact transport on the line and on the circle, by sorting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, to_numpy
from otkit.certificates.base import Certificate, sum_rounding, widened
from otkit.certificates.width import EXACT, precise
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT, Circle, Cost
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, threads
from otkit.kernels.numba import line
from otkit.kernels.numba import vertices as v
from otkit.kernels.numba.circle import wind
from otkit.kernels.numba.sorting import in_order
from otkit.kernels.numba.staircase import paid, potentials, staircase
from otkit.kernels.numba.written import as_written
from otkit.plans import Arcs, Plan, SparsePlan
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, later, marginal_error
from otkit.results.result import Result
from otkit.solvers.base import Solver, State, begun, run
from otkit.solvers.exact.outliers import MOST
from otkit.solvers.exact.packed import described
from otkit.solvers.exact.small import (
    _CONVERGED,
    _F64,
    _FEW,
    _INFINITE,
    _NO_WEIGHTS,
    _TRUE,
    _made,
    _ordinary,
    _uncompiled,
)
from otkit.solvers.exact.solver import Exact

# Time to sort a number, in exponentials.
_KEY = 20
_SECOND = np.ones(1, dtype=np.int64)


@dataclass(frozen=True)
class Univariate(Solver[State]):
    """Exact solution for points on a line or a circle and a convex cost of their distance.

    On a line the monotone plan is optimal. Its arcs form a staircase, whose tree gives optimal potentials. On a circle
    the same holds after it is cut at the best place, which is found by bisection. The bounds meet up to rounding.

    The value takes two sorts. The plan, the potentials and the bounds are computed when asked for.

    Notes
    -----
    Santambrogio (2015), Theorem 2.9; on the circle Delon, Salomon & Sobolevski (2010). The potentials come from the
    north-west corner rule on a Monge cost.

    Examples
    --------
    >>> import otkit
    >>> otkit.solve_sample([[0.0], [1.0]], [[2.0], [1.0]], method=otkit.Univariate()).plan
    array([[0. , 0.5],
           [0.5, 0. ]])
    >>> otkit.solve_sample([[350.0]], [[10.0]], metric="euclidean", period=360).value
    array(20.)
    """

    name = "univariate"
    max_iter = 1
    refuses: ClassVar[Mapping[str, str]] = {
        "init": "the solution is one sort, which potentials cannot speed up; drop init=",
        "tol": "rtol= bounds the unregularised answer; this one is exact, drop tol=",
        "rtol": "it is exact; drop rtol=",
        "max_iter": "it takes no iterations; drop max_iter=",
    }

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        return begun(problem, problem.reduced.row, problem.reduced.col)

    def step(self, problem: LinearProblem, state: State) -> State:
        return state.ended(state.running, Status.CONVERGED)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        solution = _Solution(problem)
        if not solution.is_narrow:
            bounds = solution.bounds.lower, solution.bounds.upper
            wide = ~precise(problem, *bounds)
            if problem.reduced.n * problem.reduced.m <= MOST:
                reduced = _reduced(problem)
                if wide.any() or not precise(reduced, *bounds).all():  # far points, beside which masses round
                    return _restored(run(reduced, Exact()), reduced.reduced)
            state = state.ended(np.flatnonzero(wide), Status.IMPRECISE)
        return _outcome(solution, state.status, errors)


def _outcome(solution: _Solution, status: np.ndarray, errors: np.ndarray) -> Outcome:
    items = solution.problem.items
    return _made(
        Outcome,
        f=later(_potential, solution, 0),
        g=later(_potential, solution, 1),
        reg=None,
        plan=later(_plan, solution),
        certificate=later(_certificate, solution),
        status=status,
        error=later(_error, solution),
        tol=np.zeros(items),
        n_iter=np.zeros(items, dtype=np.int64),
        errors=errors,
        stages=(),
        linear=solution.linear,
        counted=None,
    )


def solved(cloud: GivenGeometry, a: Any, b: Any) -> Result | None:
    """The solution of one problem on a line, of float64 arrays of NumPy; None where the general way must look.

    Data are not checked: the compiled pass flags whatever is unusual.
    """
    if type(cloud) is not PointCloud or cloud.metric.period is not None:
        return None
    x, y, weights = cloud.x, cloud.y, [w for w in (a, b) if w is not None]
    n, m = x.size, y.size
    if not (all(map(_ordinary, (x, y, *weights))) and n and m and x.shape == (n, 1) and y.shape == (m, 1)):
        return None
    if any(w is not None and w.shape != (size,) for w, size in ((a, n), (b, m))):
        return None
    own_x = x.copy()
    own_y = own_x if y is x else y.copy()
    flat = _made(PointCloud, x=own_x[None], y=own_y[None], metric=cloud.metric, swapped=False)
    kernels = choose(flat)
    found = None if kernels.name == "reference" else _numbers((own_x[:, 0], own_y[:, 0]), (a, b), cloud.metric)
    if found is None:
        return None
    own_a, own_b = (None if w is None else w.copy() for w in (a, b))
    owned = _made(PointCloud, x=own_x, y=own_y, metric=cloud.metric, swapped=False)
    given = _made(
        Given, geometry=owned, a=own_a, b=own_a if b is a else own_b, reg=None, unbalanced=None, totals=(None, None)
    )
    problem = _problem(given, flat, kernels, found)
    solution = _made(_Solution, problem=problem, _paid=(found[:, v.VALUE], found[:, v.ERROR]))
    outcome = _outcome(solution, _CONVERGED, np.zeros((1, 1)))
    kernel = f"{kernels.name} (numpy)"
    return _made(Result, problem=problem, outcome=outcome, method=Univariate.name, kernel=kernel, link=None)


def _problem(given: Given, flat: PointCloud, kernels: Kernels, found: np.ndarray) -> LinearProblem:
    """The problem that `LinearProblem.build` makes."""
    sides = zip((given.a, given.b), (flat.n, flat.m), strict=True)
    a, b = ((np.full(size, 1 / size) if w is None else w / w.sum())[None] for w, size in sides)
    span, nothing = found[:, v.SPAN], np.zeros(1)
    return _made(
        LinearProblem,
        given=given,
        fingerprint=None,
        asked=given.geometry,
        geometry=flat,
        reduced=_made(Reduced, base=flat, row=np.zeros(a.shape), col=np.zeros(b.shape)),
        kernels=kernels,
        a=a,
        b=b,
        reg=None,
        penalties=_made(Penalties, rho_a=_INFINITE, rho_b=_INFINITE),
        balanced=_TRUE,
        idle=None,
        mass=found[:, v.MASS],
        rescaled=found[:, v.RESCALED],
        span=span,
        low=nothing,
        high=span,
        forbidden=~_TRUE,
        batch=(),
        dtype=_F64,
        unit=UNIT,
    )


@np.errstate(all="ignore")  # for kernels as they are written
def _numbers(points: tuple[np.ndarray, np.ndarray], weights: tuple[Any, Any], metric: Cost) -> np.ndarray | None:
    """What `line.solve` writes about two measures, ``(1, 10)``; None if it does not solve them."""
    n, m = points[0].size, points[1].size
    both, w = np.empty(n + m), np.empty(n + m)
    sort, match = in_order, line.solve
    if _uncompiled.get() and n + m <= _FEW:
        sort, match = as_written(in_order), as_written(line.solve)
    sides = tuple(zip(points, weights, ((both[:n], w[:n]), (both[n:], w[n:])), strict=True))
    threads.each(lambda side: _write(sort, *side), sides, _KEY * (n + m))
    x, y = both[:n], both[n:]
    if not (-np.inf < x[0] and x[-1] < np.inf and -np.inf < y[0] and y[-1] < np.inf):
        return None
    rounding = metric.rounding(1, float(max(-x[0], x[-1], -y[0], y[-1])), float(min(_least(x), _least(y))))
    num, info = np.empty((1, 10)), np.empty((1, 4), dtype=np.int64)
    start = np.array([0, n, n + m])
    match(both[:, None], w, start, described(metric, rounding), start[:1], _SECOND, UNIT, 0, 1, num, info)
    if weights[0] is None and weights[1] is None:
        num[0, v.MASS] = 1.0
    return num if info[0, v.FLAG] == 0 else None


def _write(sort: Callable[..., bool], x: np.ndarray, w: Any, out: tuple[np.ndarray, np.ndarray]) -> None:
    """Write the points of a side in order, and their weights, by `in_order` where it applies."""
    out_x, out_w = out
    if sort(x, _NO_WEIGHTS if w is None else w, out_x, out_w):
        return
    if w is None:
        out_x[:], out_w[:] = np.sort(x), 1 / x.size
    else:
        order = np.argsort(x)
        out_x[:], out_w[:] = x[order], w[order]


def _least(x: np.ndarray) -> float:
    """The least size of the sorted numbers that are not 0."""
    below, above = x.searchsorted(0.0), x.searchsorted(0.0, "right")
    return min(-x[below - 1] if below else np.inf, x[above] if above < x.size else np.inf)


def _reduced(problem: LinearProblem) -> LinearProblem:
    """The same problem in reduced costs, which a line does without: far points with near partners have small ones."""
    costs = problem.kernels.cost_range(problem.geometry, problem.a > 0, problem.b > 0)
    return replace(problem, reduced=Reduced(problem.geometry, costs.row, costs.col), span=to_numpy(costs.span))


def _restored(found: Outcome, reduced: Reduced) -> Outcome:
    """An outcome in reduced costs as one in the costs themselves."""
    proof = found.certificate
    assert proof is not None
    proof = replace(proof, f=proof.f + reduced.row, g=proof.g + reduced.col)
    return replace(found, f=found.f + reduced.row, g=found.g + reduced.col, certificate=proof)


class _Steps(NamedTuple):
    """The steps of the optimal staircases, ``(B, n + m − 1)`` each, and what follows from them.

    The potentials ``f (B, n)`` and ``g (B, m)`` equal the costs on every step. ``defect (B,)`` is the L1 distance
    between the marginals and the weights. The cost of the steps may exceed the optimum by ``over (B,)`` by rounding.
    """

    row: np.ndarray
    col: np.ndarray
    mass: np.ndarray
    cost: np.ndarray
    f: np.ndarray
    g: np.ndarray
    defect: np.ndarray
    over: np.ndarray | float


@dataclass(frozen=True)
class _Solution:
    """The solution of a problem, computed as far as it is asked for."""

    problem: LinearProblem

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The points of both sides on the host, ``(B, n)`` and ``(B, m)``."""
        cloud = self.problem.geometry.to_numpy().cloud
        assert cloud is not None
        items = self.problem.items
        x, y = (v[..., 0] if len(v) == items else np.repeat(v[..., 0], items, axis=0) for v in (cloud.x, cloud.y))
        return x, y

    @property
    def metric(self) -> Cost:
        """The cost of a distance."""
        cloud = self.problem.geometry.cloud
        assert cloud is not None
        metric: Cost = cloud.metric
        return metric

    @property
    def linear(self) -> np.ndarray:
        """The optimal cost, ``(B,)``."""
        return self._paid[0]

    @cached_property
    def _paid(self) -> tuple[np.ndarray, np.ndarray]:
        """The optimal cost and the defect as in `_Steps`, ``(B,)``; on a line without the steps."""
        if self.metric.period is not None:
            return (self.steps.mass * self.steps.cost).sum(-1), self.steps.defect
        sides = []
        for u, w, given in zip(self.points, self._weights, (self.problem.given.a, self.problem.given.b), strict=True):
            if given is None:  # no order is needed
                sides.append((np.sort(u, axis=-1), w))
            else:
                order = np.argsort(u, axis=-1)
                sides.append((np.take_along_axis(u, order, axis=-1), np.take_along_axis(w, order, axis=-1)))
        (x, a), (y, b) = sides
        linear, defect = np.empty(len(x)), np.empty(len(x))
        paid(a, b, x, y, self.metric.power, linear, defect)
        return linear, defect

    @property
    def is_narrow(self) -> bool:
        """Whether `bounds` are known to be precise before they are computed, on a line.

        Twice what `widened` adds covers the rounding of this bound.
        """
        if self.metric.period is not None:
            return False
        linear, defect = self._paid
        points, span = self.problem.reduced.n + self.problem.reduced.m, self.problem.span
        relative, absolute = self.problem.geometry.rounding
        sums = sum_rounding(points)
        of_cost = (points * UNIT + sums + 2 * relative) * linear
        width = 2 * (of_cost + 3 * defect * span + 2 * absolute)
        return bool((width <= min(EXACT * max(self.metric.power, 1.0), 0.5) * linear).all())

    @cached_property
    def bounds(self) -> Certificate:
        """The bounds. The staircase is optimal by a theorem, so the lower is its cost less the effect of its defect."""
        problem, steps, linear = self.problem, self.steps, self.linear
        lower = linear - 1.01 * steps.defect * problem.span - steps.over
        f, g = (_potential(self, side) for side in (0, 1))
        # The potentials have no part in it, nor the rounding of their sums.
        found = widened(problem, lower, linear, steps.defect, 0.0 * f, 0.0 * g, _plan(self))
        return replace(found, f=f, g=g)

    @property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        return to_numpy(self.problem.a), to_numpy(self.problem.b)

    @cached_property
    def steps(self) -> _Steps:
        """The optimal staircases. Equal points keep their order, so plans do not depend on the processor."""
        orders = [np.argsort(v, axis=-1, kind="stable") for v in self.points]
        x, y = (np.take_along_axis(v, order, axis=-1) for v, order in zip(self.points, orders, strict=True))
        a, b = (np.take_along_axis(w, order, axis=-1) for w, order in zip(self._weights, orders, strict=True))
        over: np.ndarray | float = 0.0
        ground = self.metric.ground
        if isinstance(ground, Circle):
            relative, absolute = self.problem.geometry.rounding
            rounding = relative + 8 * UNIT, absolute
            rows, cols, mass, defect, over = wind(a, b, x, y, ground.period, self.metric.power, rounding)
        else:
            rows, cols, mass, defect = staircase(a, b)
        ends = np.take_along_axis(x, rows, axis=-1), np.take_along_axis(y, cols, axis=-1)
        cost = self.metric.at(ground.between(*ends) if isinstance(ground, Circle) else abs(ends[0] - ends[1]))
        f, g, sorted_f, sorted_g = (np.empty(v.shape) for v in (x, y, x, y))
        potentials(rows, cols, cost, sorted_f, sorted_g)
        np.put_along_axis(f, orders[0], sorted_f, axis=-1)
        np.put_along_axis(g, orders[1], sorted_g, axis=-1)
        row, col = np.take_along_axis(orders[0], rows, axis=-1), np.take_along_axis(orders[1], cols, axis=-1)
        return _Steps(row=row, col=col, mass=mass, cost=cost, f=f, g=g, defect=defect, over=over)


def _potential(solution: _Solution, side: int) -> Array:
    steps = solution.steps
    return from_numpy((steps.f, steps.g)[side], solution.problem.a)


def _plan(solution: _Solution) -> tuple[Plan, ...]:
    """The steps of all items that carry mass."""
    problem, steps = solution.problem, solution.steps
    item, step = np.nonzero(steps.mass > 0)
    arcs = Arcs(item, steps.row[item, step], steps.col[item, step], steps.mass[item, step])
    return (SparsePlan((problem.items, problem.reduced.n, problem.reduced.m), arcs, problem.a),)


def _certificate(solution: _Solution) -> Certificate:
    return solution.bounds


def _error(solution: _Solution) -> np.ndarray:
    f, g = (_potential(solution, side) for side in (0, 1))
    return marginal_error(solution.problem, _plan(solution), f, g)
