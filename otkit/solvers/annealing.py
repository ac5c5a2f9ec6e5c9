"""Annealing for the unregularised problem: lower the regularisation until the certified bounds are close enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, from_numpy, put, take, to_numpy
from otkit.certificates.base import Certificate
from otkit.certificates.certify import certify
from otkit.certificates.width import narrow, precise, relative
from otkit.geometry.costs import UNIT
from otkit.geometry.dense import Dense
from otkit.geometry.reduced import Reduced
from otkit.kernels import shared_by
from otkit.kernels.numba.tiles import filled
from otkit.plans import EntropicPlan, Plan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options
from otkit.solvers.descent import Annealed
from otkit.solvers.sns.descend import descend
from otkit.solvers.sns.solver import by_mass

# Failures of Newton steps in a stage after which it continues with sweeps.
_FAILURES = 8
# The default accuracy, and that of problems with penalised marginals.
_RTOL, _PENALISED = 1e-2, 1e-6
# Maximum number of costs that are formed as a matrix.
_FORMED = 2**24


@dataclass(frozen=True)
class Bounded(Annealed):
    """A state with the best bounds so far and their proofs.

    Attributes
    ----------
    lower, upper : numpy array (B,)
        Infinite before the first certificate.
    dual : tuple (f, g)
        Feasible potentials, which prove `lower`.
    primal : tuple (f, g, reg)
        The potentials, and the regularisation, from whose plan `upper` follows.
    by_arcs : numpy array of bool (B,)
        Whether this plan follows from the arcs that carry mass.
    certified_at : numpy array of int (B,)
        The iterations of each item up to its last certificate; −1 before the first.
    """

    lower: np.ndarray
    upper: np.ndarray
    dual: tuple[Array, Array]
    primal: tuple[Array, Array, Array]
    by_arcs: np.ndarray
    certified_at: np.ndarray

    @classmethod
    def of(cls, state: Annealed) -> Bounded:
        """The state without bounds."""
        known = {field.name: getattr(state, field.name) for field in fields(Annealed)}  # some states have more
        unknown, pair = np.full(state.reg.size, np.inf), (state.f, state.g)
        primal = (*pair, from_numpy(state.reg, state.f))
        return cls(
            **known,
            lower=-unknown,
            upper=unknown,
            dual=pair,
            primal=primal,
            by_arcs=np.zeros(unknown.size, dtype=bool),
            certified_at=np.full(unknown.size, -1),
        )

    @property
    def gap(self) -> np.ndarray:
        return relative(self.lower, self.upper)

    def begun(self) -> Bounded:
        """The state in which bounds of items without a certificate follow from their potentials."""
        new = np.flatnonzero(self.certified_at < 0)
        at = self.f, self.g, from_numpy(self.reg, self.f)
        return replace(self, primal=put(self.primal, new, take(at, new))) if new.size else self

    def bounded(self, problem: LinearProblem, items: np.ndarray, by_arcs: np.ndarray) -> tuple[Bounded, Certificate]:
        """The state with better bounds of some items, if their potentials give these; and the bounds that they give."""
        at = take((self.f, self.g, from_numpy(self.reg, self.f)), items)
        found = certify(problem.take(items), *at, by_arcs)
        higher, less = (np.flatnonzero(v) for v in (found.lower > self.lower[items], found.upper < self.upper[items]))
        return replace(
            self,
            lower=put(self.lower, items[higher], found.lower[higher]),
            upper=put(self.upper, items[less], found.upper[less]),
            dual=put(self.dual, items[higher], take((found.f, found.g), higher)),
            primal=put(self.primal, items[less], take(at, less)),
            by_arcs=put(self.by_arcs, items[less], by_arcs[less]),
            certified_at=put(self.certified_at, items, self.n_iter[items]),
        ), found


@dataclass(frozen=True)
class Annealing(Solver[Bounded]):
    """Annealing for the unregularised problem: sweeps at decreasing regularisation until certified bounds are close.

    Attributes
    ----------
    rtol : float, optional
        Stop when ``upper − lower ≤ rtol·|upper|``. By default 1e-2, and 1e-6 where marginals are penalised.
    atol : float
        Also stop when ``upper − lower`` is at most this fraction of the range of the costs without outliers. Rounding
        errors end the solve too; unless the interval counts as exact, the status says so.
    max_iter : int
        Maximum number of iterations over all stages.
    factor : float
        Divisor of the regularisation between stages.
    stage_tol : float
        The marginal error at which a stage ends. Below a hundredth of the range of the costs, it is proportional to
        the square root of the regularisation, since ever smaller masses decide which arcs are kept. So it is
        to that of penalties above ten times that range, inversely.
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

    rtol: float | None = None
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
        reg = _top(problem)
        g, reg = (None, reg) if start is None else (start[1], reg / 1024)
        return Bounded.of(descent.begin(problem, g, reg))

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
        reg = state.reg / self.factor
        # Below this regularisation, rounding prevents a stage from reaching its tolerance.
        last = reg < 8 * UNIT * _top(problem) / self._stage_tol(problem, reg)
        at_end = last | (state.n_iter >= self.max_iter) | (state.gap <= _PENALISED)
        state, found = state.bounded(problem, items, at_end[items])
        part, lower, upper = problem.take(items), state.lower[items], state.upper[items]
        close, rounded = self._done(part, lower, upper, found)
        state = state.ended(items[close], Status.CONVERGED).ended(items[rounded], Status.IMPRECISE)
        close = close | rounded
        hopeless = part.balanced & (found.lower > part.high)
        state = state.ended(items[~close & hopeless], Status.INFEASIBLE)
        left = np.intersect1d(state.running, items)
        moving = left[reached[left] | (state.used[left] >= self.max_iter // 5)]
        spent = moving[last[moving]]
        state = state.ended(spent, Status.STALLED)
        moving = np.setdiff1d(moving, spent)
        return descent.next_stage(state, moving, reg, reached) if moving.size else state

    def _done(
        self, problem: LinearProblem, lower: np.ndarray, upper: np.ndarray, found: Certificate
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which intervals are close enough, and which others are as `found`, which only rounding keeps apart."""
        close = narrow(problem, lower, upper, self._rtol(problem), self.atol)
        rounded = ~close & (found.upper < np.inf) & (found.upper - found.lower <= 1.01 * found.rounding)
        if not rounded.any():
            return close, rounded
        exact = rounded & precise(problem, lower, upper)
        return close | exact, rounded & ~exact

    def _stage_tol(self, problem: LinearProblem, reg: np.ndarray) -> np.ndarray:
        top = _top(problem)
        steep = np.sqrt(top / np.maximum(_steepest(problem) / 10, top))
        return self.stage_tol * np.minimum(1.0, 10 * np.sqrt(reg / top)) * steep

    def _rtol(self, problem: LinearProblem) -> np.ndarray:
        """The accuracy asked for, ``(B,)``."""
        return np.where(problem.balanced, _RTOL, _PENALISED) if self.rtol is None else np.full(problem.items, self.rtol)

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        state = state if isinstance(state, Bounded) else Bounded.of(state)
        state, read = state.begun(), _formed(problem)
        moved = np.flatnonzero((state.certified_at >= 0) & (state.certified_at < state.n_iter))
        if moved.size:
            state, _ = state.bounded(read, moved, np.zeros(moved.size, dtype=bool))
        found = self._proof(read, state)
        error = marginal_error(read, found.plan, found.f, found.g)
        if read is not problem:
            found = replace(found, plan=tuple(_over(problem.reduced, part) for part in found.plan))
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=found.plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=self._rtol(problem),
            n_iter=state.n_iter,
            errors=errors,
            stages=descent.log(state),
        )

    def _proof(self, problem: LinearProblem, state: Bounded) -> Certificate:
        """The certificate of the best bounds."""
        found = certify(problem, *state.primal, state.by_arcs)
        better = np.flatnonzero(state.lower > found.lower)
        f, g = put((found.f, found.g), better, take(state.dual, better))
        lower = np.maximum(state.lower, found.lower)
        linear = np.where(problem.balanced, np.maximum(found.linear, lower), found.linear)
        return replace(found, lower=lower, linear=linear, f=f, g=g)


def _formed(problem: LinearProblem) -> LinearProblem:
    """The problem with its costs as a matrix on the host, where that is not large: the last bounds read them often."""
    costs, of = problem.reduced, problem.geometry
    given = costs.matrix is not None or of.stored is not None or of.grid is not None
    alone = problem.kernels.name == "numba" and shared_by() is None
    if given or not alone or problem.items * costs.n * costs.m > _FORMED:
        return problem
    return replace(problem, reduced=replace(costs, base=Dense(filled(of))))


def _over(costs: Reduced, part: Plan) -> Plan:
    """The part of a plan, which does not keep the matrix of the costs."""
    return replace(part, geometry=costs) if isinstance(part, EntropicPlan) else part


def _steepest(problem: LinearProblem) -> np.ndarray:
    """The largest finite penalty ρ: an error δ of a marginal costs about ρ·δ²."""
    sides = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    return np.maximum(*(np.where(rho < np.inf, rho, 0.0) for rho in sides))


def _top(problem: LinearProblem) -> np.ndarray:
    """The largest regularisation, the range of the costs, or that of the penalties: arcs that cost more stay empty."""
    most = to_numpy(problem.penalties.rho_a) + to_numpy(problem.penalties.rho_b)
    return np.minimum(descent.top(problem), np.where(most > 0, most, np.inf))
