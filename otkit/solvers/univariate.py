"""Exact transport on the line, by sorting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, from_numpy, to_numpy
from otkit.certificates.base import widened
from otkit.certificates.width import precise
from otkit.kernels.numba.staircase import potentials, staircase
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers.base import Solver, State, run
from otkit.solvers.exact.outliers import MOST
from otkit.solvers.exact.solver import Exact


@dataclass(frozen=True)
class Univariate(Solver[State]):
    """Exact solution for points on a line and a convex cost of their distance: the monotone plan is optimal.

    The arcs of this plan form a staircase. The tree of the staircase gives optimal potentials, so the bounds meet up to
    rounding.

    Notes
    -----
    Santambrogio (2015), Theorem 2.9. The potentials come from the north-west corner rule on a Monge cost.

    Examples
    --------
    >>> import otkit
    >>> otkit.solve_sample([[0.0], [1.0]], [[2.0], [1.0]], method=otkit.Univariate()).plan
    array([[0. , 0.5],
           [0.5, 0. ]])
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
        f, g = (from_numpy(np.zeros(w.shape), w) for w in (problem.a, problem.b))
        nothing, running = np.zeros(problem.items), np.full(problem.items, None, dtype=object)
        return State(
            f=f,
            g=g,
            reg=nothing,
            status=running,
            error=nothing,
            n_iter=np.zeros(problem.items, dtype=np.int64),
            stages=(),
        )

    def step(self, problem: LinearProblem, state: State) -> State:
        return state.ended(state.running, Status.CONVERGED)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        host = problem.geometry.to_numpy().cloud
        assert host is not None
        x, y = (np.broadcast_to(v[..., 0], (problem.items, v.shape[1])) for v in (host.x, host.y))
        across, down = np.argsort(x, axis=-1, kind="stable"), np.argsort(y, axis=-1, kind="stable")
        weights = (to_numpy(problem.a), across), (to_numpy(problem.b), down)
        rows, cols, mass, defect = staircase(*(np.take_along_axis(w, order, axis=-1) for w, order in weights))
        row, col = np.take_along_axis(across, rows, axis=-1), np.take_along_axis(down, cols, axis=-1)
        ends = np.take_along_axis(x, row, axis=-1), np.take_along_axis(y, col, axis=-1)
        cost = host.metric(*(v[..., None, None] for v in ends))[..., 0, 0]
        linear = (mass * cost).sum(-1)

        plan = (SparsePlan((problem.items, host.n, host.m), _arcs(row, col, mass), problem.a),)
        f, g = (from_numpy(v, problem.a) for v in _potentials(rows, cols, cost, across, down))
        # The monotone plan is optimal by a theorem, so the lower bound is its cost less the effect of its defect.
        found = widened(problem, linear - 1.01 * defect * problem.span, linear, defect, f, g, plan)
        wide = ~precise(problem, found.lower, found.upper)
        if wide.any() and problem.reduced.n * problem.reduced.m <= MOST:  # far points, beside which masses round
            return run(problem, Exact())
        state = state.ended(np.flatnonzero(wide), Status.IMPRECISE)
        error, tol = marginal_error(problem, plan, f, g), np.zeros(problem.items)
        return Outcome(
            f=f,
            g=g,
            reg=None,
            plan=plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=tol,
            n_iter=state.n_iter,
            errors=errors,
            stages=(),
        )


def _arcs(row: np.ndarray, col: np.ndarray, mass: np.ndarray) -> Arcs:
    """The steps ``(B, K)`` of all items that carry mass."""
    item, step = np.nonzero(mass > 0)
    return Arcs(item, row[item, step], col[item, step], mass[item, step])


def _potentials(
    rows: np.ndarray, cols: np.ndarray, cost: np.ndarray, across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials ``(B, n)``, ``(B, m)`` that equal the costs on the arcs, in the order of the points as given."""
    f, g, sorted_f, sorted_g = (np.empty(order.shape) for order in (across, down, across, down))
    potentials(rows, cols, cost, sorted_f, sorted_g)
    np.put_along_axis(f, across, sorted_f, axis=-1)
    np.put_along_axis(g, down, sorted_g, axis=-1)
    return f, g
