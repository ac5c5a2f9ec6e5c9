"""Exact transport on the line and on the circle, by sorting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, later, made, to_numpy
from otkit.certificates.base import Certificate, sum_rounding, widened
from otkit.certificates.width import exactness, precise
from otkit.geometry.costs import UNIT, Circle, Cost
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba.circle import wind
from otkit.kernels.numba.staircase import paid, potentials, staircase
from otkit.plans import Arcs, Plan, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers.base import Solver, State, begun, run
from otkit.solvers.exact.outliers import MOST
from otkit.solvers.exact.solver import Exact


@dataclass(frozen=True)
class Univariate(Solver[State]):
    """Exact solution for points on a line or a circle and a convex cost of their distance.

    On a line the monotone plan is optimal. Its arcs form a staircase, whose tree gives optimal potentials. On a circle
    the same holds after it is cut at the best place, which is found by bisection. The bounds meet up to rounding.

    The value takes two sorts. The plan, the potentials and the bounds are computed when asked for.

    Parameters
    ----------
    rtol : float, optional
        Width of the interval, relative to its upper end, up to which an item counts as converged, as for `Exact`. It
        does not change the answer.

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

    rtol: float | None = None
    name = "univariate"
    max_iter = 1
    refuses: ClassVar[Mapping[str, str]] = {
        "init": "the solution is one sort, which potentials cannot speed up; drop init=",
        "tol": "rtol= bounds the unregularised answer; this one is exact, drop tol=",
        "max_iter": "it takes no iterations; drop max_iter=",
    }

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        return begun(problem, problem.reduced.row, problem.reduced.col)

    def step(self, problem: LinearProblem, state: State) -> State:
        return state.ended(state.running, Status.CONVERGED)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        solution = Solution(problem)
        if not solution.is_narrow(self.rtol):
            bounds = solution.bounds.lower, solution.bounds.upper
            wide = ~precise(problem, *bounds, self.rtol)
            if problem.reduced.n * problem.reduced.m <= MOST:
                reduced = _reduced(problem)
                if wide.any() or not precise(reduced, *bounds, self.rtol).all():  # far points: masses round beside them
                    return _restored(run(reduced, Exact(rtol=self.rtol)), reduced.reduced)
            state = state.ended(np.flatnonzero(wide), Status.IMPRECISE)
        return outcome_of(solution, state.status, errors, self.rtol)


def outcome_of(solution: Solution, status: np.ndarray, errors: np.ndarray, rtol: float | None = None) -> Outcome:
    """The outcome of a solution: only what is read is computed."""
    items = solution.problem.items
    return made(
        Outcome,
        f=later(_potential, solution, 0),
        g=later(_potential, solution, 1),
        reg=None,
        plan=later(_plan, solution),
        certificate=later(_certificate, solution),
        status=status,
        error=later(_error, solution),
        tol=np.full(items, rtol or 0.0),
        n_iter=np.zeros(items, dtype=np.int64),
        errors=errors,
        stages=(),
        linear=solution.linear,
        counted=None,
    )


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
class Solution:
    """The solution of a problem, computed as far as it is asked for.

    `proved` has the lower and upper bounds and what they are widened by, where a compiled pass has computed them.
    """

    problem: LinearProblem
    proved: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

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
        both, w = (np.concatenate(v, axis=-1) for v in zip(*sides, strict=True))
        linear, defect = np.empty(len(both)), np.empty(len(both))
        paid(both, w, sides[0][0].shape[1], self.metric.power, linear, defect)
        return linear, defect

    def is_narrow(self, rtol: float | None) -> bool:
        """Whether `bounds` are known to be precise, to `rtol`, before they are computed, on a line.

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
        return bool((width <= (rtol or exactness(self.metric.power)[0]) * linear).all())

    @cached_property
    def bounds(self) -> Certificate:
        """The bounds. The staircase is optimal by a theorem, so the lower is its cost less the effect of its defect."""
        problem, (linear, defect) = self.problem, self._paid
        f, g = (later(_potential, self, side) for side in (0, 1))
        if self.proved is not None:
            lower, upper, rounding = self.proved
            proof = {"lower": lower, "upper": upper, "linear": linear, "rounding": rounding}
            return made(Certificate, f=f, g=g, plan=later(_plan, self), **proof)
        lower = linear - 1.01 * defect * problem.span
        if self.metric.period is not None:
            lower = lower - self.steps.over
        # The potentials have no part in it, nor the rounding of their sums.
        found = widened(problem, lower, linear, defect, 0.0 * problem.a, 0.0 * problem.b, ())
        return replace(found, f=f, g=g, plan=later(_plan, self))

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


def _potential(solution: Solution, side: int) -> Array:
    steps = solution.steps
    return from_numpy((steps.f, steps.g)[side], solution.problem.a)


def _plan(solution: Solution) -> tuple[Plan, ...]:
    """The steps of all items that carry mass."""
    problem, steps = solution.problem, solution.steps
    item, step = np.nonzero(steps.mass > 0)
    arcs = Arcs(item, steps.row[item, step], steps.col[item, step], steps.mass[item, step])
    return (SparsePlan((problem.items, problem.reduced.n, problem.reduced.m), arcs, problem.a),)


def _certificate(solution: Solution) -> Certificate:
    return solution.bounds


def _error(solution: Solution) -> np.ndarray:
    f, g = (_potential(solution, side) for side in (0, 1))
    return marginal_error(solution.problem, _plan(solution), f, g)
