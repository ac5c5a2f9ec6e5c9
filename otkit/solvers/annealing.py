"""Annealing for the unregularised problem: lower the regularisation until the certified bounds are close enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, from_numpy, put, take, to_numpy
from otkit.certificates.base import Certificate
from otkit.certificates.certify import certify
from otkit.certificates.width import narrow, precise, relative
from otkit.geometry.costs import UNIT
from otkit.kernels import shared_by
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options
from otkit.solvers.descent import Annealed
from otkit.solvers.sns.descend import descend
from otkit.solvers.sns.solver import by_mass

# Failures of Newton steps in a stage after which it continues with sweeps.
_FAILURES = 8


@dataclass(frozen=True)
class Bounded(Annealed):
    """A state with the last certified intervals ``lower, upper (B,)``, infinite before the first."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        return relative(self.lower, self.upper)


@dataclass(frozen=True)
class Annealing(Solver[Bounded]):
    """Annealing for the unregularised problem: sweeps at decreasing regularisation until certified bounds are close.

    Attributes
    ----------
    rtol : float
        Stop when ``upper − lower ≤ rtol·|upper|``.
    atol : float
        Also stop when ``upper − lower`` is at most this fraction of the range of the costs without outliers. Rounding
        errors end the solve too; unless the interval counts as exact, the status says so.
    max_iter : int
        Maximum number of iterations over all stages.
    factor : float
        Divisor of the regularisation between stages.
    stage_tol : float
        The marginal error at which a stage ends. Below a hundredth of the range of the costs, it is proportional to
        the square root of the regularisation, since ever smaller masses decide which arcs are kept. So it
        is to that of penalties above ten times that range, inversely.
    sweeps : int
        Iterations between two certificates.

    Notes
    -----
    The plan is feasible and its cost is the upper bound. It is a vertex where one was found. The potentials are
    feasible and their value is the lower bound. Where marginals are penalised, the plan is that of the last
    regularisation, and its cost with the penalties is the upper bound. Such problems take the Newton steps of
    `SparseNewton` where sweeps do not end a stage, except on grids and where processes share them.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], method=otkit.Annealing(rtol=1e-6))
    >>> float(result.value)
    0.0
    """

    rtol: float = 1e-2
    atol: float = 1e-9
    max_iter: int = 10_000
    factor: float = 4.0
    stage_tol: float = 1e-3
    sweeps: int = 50
    name = "annealing"
    shares = True
    refuses: ClassVar[Mapping[str, str]] = {"tol": "rtol= bounds the unregularised answer"}

    def __post_init__(self) -> None:
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Bounded:
        reg, unknown = _top(problem), np.full(problem.items, np.inf)
        g, reg = (None, reg) if start is None else (start[1], reg / 1024)
        return Bounded(**vars(descent.begin(problem, g, reg)), lower=-unknown, upper=unknown)

    def step(self, problem: LinearProblem, state: Bounded) -> Bounded:
        stage_tol, used = self._stage_tol(problem, state.reg), state.used
        sweeps = np.minimum(self.sweeps - used % self.sweeps, descent.patience(problem, state))
        state = descent.advance(problem, state, stage_tol, sweeps, self.max_iter)
        slow = self._is_slow(problem, state, stage_tol)
        for item in state.running[slow[state.running]]:
            state = descend(problem, state, int(item), float(stage_tol[item]), self.max_iter, by_mass)
        reached = state.error <= stage_tol
        due = reached | slow | (state.used % self.sweeps == 0) | (state.n_iter >= self.max_iter)
        items = state.running[due[state.running]]
        return self._certified(problem, state, items, reached) if items.size else state

    def _is_slow(self, problem: LinearProblem, state: Bounded, stage_tol: np.ndarray) -> np.ndarray:
        """Which items take Newton steps after the sweeps of a step ``(B,)``: penalised ones that are short of the goal.

        Masses of weakly coupled parts are free there, and sweeps move them ever more slowly.
        """
        if problem.geometry.grid is not None or shared_by() is not None:
            return np.zeros(problem.items, dtype=bool)
        apt = ~problem.balanced & ~state.tally.dense & (state.tally.failed < _FAILURES)
        return apt & (state.error > stage_tol) & (state.n_iter < self.max_iter)

    def _certified(self, problem: LinearProblem, state: Bounded, items: np.ndarray, reached: np.ndarray) -> Bounded:
        """The state with intervals of some items, which end, go to the next stage, or on."""
        found = self._certificate(problem.take(items), state, items)
        state = replace(state, lower=put(state.lower, items, found.lower), upper=put(state.upper, items, found.upper))
        part = problem.take(items)
        close = narrow(part, found.lower, found.upper, self.rtol, self.atol)
        rounded = ~close & (found.upper < np.inf) & (found.upper - found.lower <= 1.01 * found.rounding)
        if rounded.any():
            exact = rounded & precise(part, found.lower, found.upper)
            close, rounded = close | exact, rounded & ~exact
        state = state.ended(items[close], Status.CONVERGED).ended(items[rounded], Status.IMPRECISE)
        close = close | rounded
        hopeless = part.balanced & (found.lower > part.high)
        state = state.ended(items[~close & hopeless], Status.INFEASIBLE)
        left = np.intersect1d(state.running, items)
        moving = left[reached[left] | (state.used[left] >= self.max_iter // 5)]
        reg = state.reg / self.factor
        # Below this regularisation, rounding prevents a stage from reaching its tolerance.
        floor = 8 * UNIT * _top(problem) / self._stage_tol(problem, reg)
        spent = moving[(reg < floor)[moving]]
        state = state.ended(spent, Status.STALLED)
        moving = np.setdiff1d(moving, spent)
        return descent.next_stage(state, moving, reg, reached) if moving.size else state

    def _stage_tol(self, problem: LinearProblem, reg: np.ndarray) -> np.ndarray:
        top = _top(problem)
        steep = np.sqrt(top / np.maximum(_steepest(problem) / 10, top))
        return self.stage_tol * np.minimum(1.0, 10 * np.sqrt(reg / top)) * steep

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        found = self._certificate(problem, state, np.arange(problem.items))
        error, tol = marginal_error(problem, found.plan, found.f, found.g), np.full(problem.items, self.rtol)
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=found.plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=tol,
            n_iter=state.n_iter,
            errors=errors,
            stages=descent.log(state),
        )

    @staticmethod
    def _certificate(part: LinearProblem, state: Annealed, items: np.ndarray) -> Certificate:
        f, g = take((state.f, state.g), items)
        return certify(part, f, g, from_numpy(state.reg[items], f))


def _steepest(problem: LinearProblem) -> np.ndarray:
    """The largest finite penalty ρ: an error δ of a marginal costs about ρ·δ²."""
    sides = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    return np.maximum(*(np.where(rho < np.inf, rho, 0.0) for rho in sides))


def _top(problem: LinearProblem) -> np.ndarray:
    """The largest regularisation, the range of the costs, or that of the penalties: arcs that cost more stay empty."""
    most = to_numpy(problem.penalties.rho_a) + to_numpy(problem.penalties.rho_b)
    return np.minimum(descent.top(problem), np.where(most > 0, most, np.inf))
