"""Sinkhorn's algorithm, annealed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.certify import dual_value
from otkit.geometry.costs import UNIT
from otkit.plans import EntropicPlan
from otkit.problems import LinearProblem
from otkit.results import Outcome, Status, marginal_error
from otkit.solvers import annealing
from otkit.solvers.annealing import Annealed
from otkit.solvers.base import Solver, State

# The error recomputed at the end may differ from the one in the sweep by rounding.
_SLACK = 0.999
# Down to the range of the costs over this, zero is as good a start as the answer at a larger regularisation.
_EASY = 128.0
# In the last stage the error must fall by this factor in so many iterations, or the item has stalled.
_PATIENCE, _FALL = 1000, 0.99
# Parts of a problem that are weakly coupled come apart where reg falls fast, and a sweep hardly moves mass between
# them. An item that stalls so comes down again with this factor and this stage_tol, before it is called stalled.
_CAREFUL_FACTOR, _CAREFUL_TOL = 2.0, 1e-4


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """Alternating updates of rows and columns, from a large regularisation down to the one asked for.

    Attributes
    ----------
    tol : float, optional
        The error to reach; 1e-6 in float64, 1e-4 in narrower types by default. It is raised to what rounding
        allows, ``8u·range(C)/reg`` with the unit roundoff u of float64; the result tells which was used.
    max_iter : int
        Iterations over all stages.
    factor : float
        What the regularisation is divided by between stages; ``inf`` starts at the one asked for.
    stage_tol : float
        The error at which a stage before the last is done.
    sweeps : int, optional
        Iterations between two looks at the errors; by the size of the problem by default, and at most 100.
    n_iters : int, optional
        Do exactly this many textbook iterations from zero potentials, at the `reg` asked for and without acceleration.
        There is no tolerance then, and nothing else above applies.
    last : {"cols", "rows"}
        With `n_iters`, the side that is updated last, whose marginal is exact; an iteration begins with the other one.

    Notes
    -----
    Sinkhorn & Knopp (1967), Cuturi (2013); annealing after Schmitzer (2019). The iterations are accelerated by Anderson
    mixing (Anderson 1965), which is undone where the error rises. Where a marginal is penalised, each iteration ends
    with the best constant to move between the two potentials (Séjourné, Vialard & Peyré 2022).

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.5, method=otkit.Sinkhorn(factor=4.0))
    >>> result.converged
    True
    >>> otkit.solve([[0.0, 1.0], [1.0, 0.5]], reg=0.5, method=otkit.Sinkhorn(n_iters=3)).n_iter
    3
    """

    tol: float | None = None
    max_iter: int = 10_000
    factor: float = 4.0
    stage_tol: float = 1e-2
    sweeps: int | None = None
    n_iters: int | None = None
    last: str = "cols"
    name = "sinkhorn"

    def __post_init__(self) -> None:
        checks.solver_options(self)
        checks.fixed_count(self)
        if self.n_iters is not None:
            object.__setattr__(self, "max_iter", self.n_iters)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        target = to_numpy(problem.reg)
        if self.n_iters is not None:
            checks.no_start(start)
            return self._from_zero(problem, target)
        if start is not None:
            return annealing.begin(problem, start[1], target)
        return annealing.begin(problem, None, self._first(problem, target))

    def _first(self, problem: LinearProblem, target: np.ndarray) -> np.ndarray:
        """The first stage: whole factors above the last one, where iterations from zero still converge fast."""
        easy = annealing.top(problem) / _EASY
        factors = np.ceil(np.log(np.maximum(target, easy) / target) / np.log(self.factor))
        return target if self.factor == np.inf else target * self.factor**factors

    def _from_zero(self, problem: LinearProblem, target: np.ndarray) -> Annealed:
        """Zero potentials of the costs as given; where the rows come last, what the columns make of theirs."""
        costs = problem.reduced
        g = -costs.col if self.last == "cols" else problem.update_columns(-costs.row, problem.reg)
        return annealing.begin(problem, g, target, window=0)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        sweeps = self.sweeps or annealing.patience(problem)
        if self.n_iters is not None:
            return self._step_of_count(problem, state, sweeps)
        target = to_numpy(problem.reg)
        last = state.reg <= target
        stage_tol = np.where(state.careful, np.minimum(self.stage_tol, _CAREFUL_TOL), self.stage_tol)
        tol = np.where(last, self.tolerance(problem) * _SLACK, stage_tol)
        looked = state.used // _PATIENCE
        state = annealing.advance(problem, state, tol, sweeps, self.max_iter)

        reached = state.error <= tol
        state = _end(state, last & reached, Status.CONVERGED)
        if problem.forbidden.any():
            # A feasible value above every cost of an allowed arc proves that there is no plan.
            hopeless = problem.forbidden & problem.balanced & (dual_value(problem, state.f) > problem.high)
            state = _end(state, hopeless, Status.INFEASIBLE)
        look = last & (state.used // _PATIENCE > looked)
        stalled = look & (state.error > _FALL * state.mark)
        hasty = stalled & ~state.careful & (target < annealing.top(problem)) & (self.factor < np.inf)
        state = _end(state, stalled & ~hasty, Status.STALLED)
        state = annealing.marked(state, look)

        limit = max(100, self.max_iter // 20)
        running = state.running
        moving = running[(~last & (reached | (state.used >= limit)))[running]]
        factor = np.where(state.careful, min(self.factor, _CAREFUL_FACTOR), self.factor)
        reg = np.maximum(state.reg / factor, target)
        state = annealing.next_stage(state, moving, reg, reached) if moving.size else state
        retried = running[hasty[running]]
        return annealing.again(problem, state, retried) if retried.size else state

    def _step_of_count(self, problem: LinearProblem, state: Annealed, sweeps: int) -> Annealed:
        assert self.n_iters is not None
        textbook = replace(problem, penalties=replace(problem.penalties, shifts=False))
        state = annealing.advance(textbook, state, np.full(problem.items, -np.inf), sweeps, self.n_iters)
        state = _end(state, state.n_iter >= self.n_iters, Status.COMPLETED)
        return replace(state, g=state.point) if self.last == "cols" else state

    def tolerance(self, problem: LinearProblem) -> np.ndarray:
        """The tolerance in force, ``(B,)``."""
        tol = self.tol if self.tol is not None else (1e-6 if problem.unit == UNIT else 1e-4)
        return np.maximum(tol, 8 * UNIT * problem.span / to_numpy(problem.reg))

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        f, g, reg = state.f, state.g, problem.reg
        early = (state.reg > to_numpy(reg)) | (state.used == 0)
        if early.any():  # stopped before the first iteration at the regularisation that was asked for: here it is
            f, g = _updated(problem, f, g, early, problem.update_columns(f, reg))
        # Mixing may have been away from its best point when the iterations ended.
        left = ~early & (state.status != Status.CONVERGED) & (to_numpy(state.mixing.best_error) != state.error)
        if self.n_iters is None and left.any():
            f, g = _updated(problem, f, g, left, state.mixing.best_point)
        # Points without mass took part in nothing, and get their potential now.
        xp = namespace(f)
        if xp.any(problem.a == 0):
            f = xp.where(problem.a > 0, f, problem.update_rows(g, reg))
        if xp.any(problem.b == 0):
            g = xp.where(problem.b > 0, g, problem.update_columns(f, reg))
        plan = (EntropicPlan(problem.reduced, problem.at(f, g, reg)),)
        error, tol = marginal_error(problem, plan, f, g), self.tolerance(problem)
        if self.n_iters is not None:
            tol = np.full(problem.items, np.nan)
        # The status is that of the answer: rounding beyond what the tolerance allows for is said, not hidden.
        worse = (state.status == Status.CONVERGED) & (error > tol)
        state = state.ended(np.flatnonzero(worse), Status.STALLED)
        state = state.ended(np.flatnonzero(error <= tol), Status.CONVERGED)
        return Outcome(f, g, reg, plan, None, state.status, error, tol, state.n_iter, errors, annealing.log(state))


def _updated(problem: LinearProblem, f: Array, g: Array, items: np.ndarray, g_new: Array) -> tuple[Array, Array]:
    """The potentials, with other ones of the columns for the items of the mask, and those of the rows that follow."""
    here = from_numpy(items[:, None], f)
    g = namespace(f).where(here, g_new, g)
    return namespace(f).where(here, problem.update_rows(g, problem.reg), f), g


def _end(state: Annealed, where: np.ndarray, status: Status) -> Annealed:
    running = state.running
    return state.ended(running[where[running]], status)
