"""Sinkhorn's algorithm, annealed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import checks
from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status
from otkit.solvers import descent
from otkit.solvers.base import Solver, State
from otkit.solvers.descent import Annealed

# Ways down after the first, each in smaller steps.
_ATTEMPTS = 1


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
        if self.n_iters is not None:
            checks.no_start(start)
            return self._from_zero(problem)
        if start is not None:
            return descent.begin(problem, start[1], to_numpy(problem.reg))
        return descent.begin_cold(problem, self.factor)

    def _from_zero(self, problem: LinearProblem) -> Annealed:
        """Zero potentials of the costs as given; where the rows come last, what the columns make of theirs."""
        costs = problem.reduced
        g = -costs.col if self.last == "cols" else problem.update_columns(-costs.row, problem.reg)
        return descent.begin(problem, g, to_numpy(problem.reg), window=0)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        sweeps = self.sweeps or descent.patience(problem, state)
        if self.n_iters is not None:
            return self._step_of_count(problem, state, sweeps)
        goal, used = descent.goals(problem, state, self.tol, self.stage_tol), state.used
        state = descent.advance(problem, state, goal, sweeps, self.max_iter)
        state, stalled = descent.looked(problem, state, used)
        return descent.settled(problem, state, goal, stalled, np.full(problem.items, True), self, _ATTEMPTS)

    def _step_of_count(self, problem: LinearProblem, state: Annealed, sweeps: np.ndarray | int) -> Annealed:
        assert self.n_iters is not None
        textbook = replace(problem, penalties=replace(problem.penalties, shifts=False))
        state = descent.advance(textbook, state, np.full(problem.items, -np.inf), sweeps, self.n_iters)
        state = state.ended(np.flatnonzero(state.n_iter >= self.n_iters), Status.COMPLETED)
        return replace(state, g=state.point) if self.last == "cols" else state

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        counted = np.full(problem.items, np.nan)
        tol = counted if self.n_iters is not None else descent.tolerance(problem, self.tol)
        found = descent.finish(problem, state, tol, errors)
        return found if self.n_iters is None else replace(found, counted=(int(state.n_iter.max()), self.last))
