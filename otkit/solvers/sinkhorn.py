"""Sinkhorn's algorithm, annealed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.certify import dual_value
from otkit.geometry.costs import UNIT
from otkit.kernels import softmin
from otkit.plans import EntropicPlan
from otkit.problems import LinearProblem
from otkit.results import Outcome, Status, marginal_error
from otkit.solvers import annealing
from otkit.solvers.annealing import Annealed
from otkit.solvers.base import Solver, State, put

# The error recomputed at the end may differ from the one in the sweep by rounding.
_SLACK = 0.999
# In the last stage the error must fall by this factor in so many iterations, or the item has stalled.
_PATIENCE, _FALL = 1000, 0.99


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """Alternating updates of columns and rows in the log domain, from a large regularisation down to the one asked for.

    Attributes
    ----------
    tol : float, optional
        The marginal error to reach; 1e-6 in float64, 1e-4 in narrower types by default. It is raised to what rounding
        allows, ``8u·range(C)/reg``; the result tells which was used.
    max_iter : int
        Iterations over all stages.
    factor : float
        What the regularisation is divided by between stages; ``inf`` starts at the one asked for.
    stage_tol : float
        The marginal error at which a stage before the last is done.
    sweeps : int
        Iterations between two looks at the errors.

    Notes
    -----
    Sinkhorn & Knopp (1967), Cuturi (2013); annealing after Schmitzer (2019). The iterations are accelerated by Anderson
    mixing (Anderson 1965), which is undone where the error rises.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.5, method=otkit.Sinkhorn(factor=4.0))
    >>> result.converged
    True
    """

    tol: float | None = None
    max_iter: int = 10_000
    factor: float = 2.0
    stage_tol: float = 1e-4
    sweeps: int = 20
    name = "sinkhorn"

    def __post_init__(self) -> None:
        checks.solver_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        target = to_numpy(problem.reg)
        if start is not None:
            return annealing.begin(problem, start[0], target)
        reg = target if self.factor == np.inf else np.maximum(target, annealing.top(problem))
        return annealing.begin(problem, None, reg)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        target = to_numpy(problem.reg)
        last = state.reg <= target
        tol = np.where(last, self.tolerance(problem) * _SLACK, self.stage_tol)
        looked = state.used // _PATIENCE
        state = annealing.advance(problem, state, tol, self.sweeps, self.max_iter)

        reached = state.error <= tol
        state = _end(state, last & reached, Status.CONVERGED)
        if problem.forbidden.any():
            # A feasible value above every cost of an allowed arc proves that there is no plan.
            state = _end(state, problem.forbidden & (dual_value(problem, state.f) > problem.high), Status.INFEASIBLE)
        look = last & (state.used // _PATIENCE > looked)
        state = _end(state, look & (state.error > _FALL * state.mark), Status.STALLED)
        state = annealing.marked(state, look)

        limit = max(100, self.max_iter // 20)
        running = state.running
        moving = running[(~last & (reached | (state.used >= limit)))[running]]
        reg = np.maximum(state.reg / self.factor, target)
        return annealing.next_stage(state, moving, reg, reached) if moving.size else state

    def tolerance(self, problem: LinearProblem) -> np.ndarray:
        """The tolerance in force, ``(B,)``."""
        tol = self.tol if self.tol is not None else (1e-6 if problem.unit == UNIT else 1e-4)
        return np.maximum(tol, 8 * problem.unit * problem.span / to_numpy(problem.reg))

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        f, g, reg = state.f, state.g, problem.reg
        early = np.flatnonzero((state.reg > to_numpy(reg)) | (state.used == 0))
        if early.size:  # stopped before the first sweep at the regularisation that was asked for: here it is
            part, index = problem.take(early), from_numpy(early, f)
            g_new = softmin(part.reduced.T, namespace(f).take(f, index, axis=0), part.log_a, part.reg)
            f_new = softmin(part.reduced, g_new, part.log_b, part.reg)
            f, g = put(f, early, f_new), put(g, early, g_new)
        if namespace(f).any(problem.a == 0):  # such rows took part in nothing, and get their potential now
            f = namespace(f).where(problem.a > 0, f, softmin(problem.reduced, g, problem.log_b, reg))
        plan = (EntropicPlan(problem.reduced, problem.at(f, g, reg)),)
        error, tol = marginal_error(problem, plan), self.tolerance(problem)
        # Rounding beyond what the tolerance allows for is said, not hidden.
        worse = (state.status == Status.CONVERGED) & (error > tol)
        state = state.ended(np.flatnonzero(worse), Status.STALLED)
        return Outcome(f, g, reg, plan, None, state.status, error, tol, state.n_iter, errors, annealing.log(state))


def _end(state: Annealed, where: np.ndarray, status: Status) -> Annealed:
    running = state.running
    return state.ended(running[where[running]], status)
