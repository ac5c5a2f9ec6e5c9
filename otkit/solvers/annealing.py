"""Annealing: solve at a large regularisation first and lower it stage by stage, down to a target or to a proof.

The potentials of an entropic problem are nearly affine in the regularisation, so a stage starts on the line through
the ends of the last two. This also carries the potential differences between weakly coupled parts, which sweeps
hardly move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, namespace, put, to_numpy
from otkit.certify import Certificate, certify
from otkit.geometry.costs import UNIT
from otkit.kernels import WINDOW, Mixing, sweep
from otkit.problems import LinearProblem
from otkit.results import Outcome, Stage, Status, marginal_error
from otkit.solvers.base import Solver, State


@dataclass(frozen=True)
class Annealed(State):
    """A state with what annealing has to remember.

    Attributes
    ----------
    point : array (B, m)
        The potential of the columns to go on from.
    used : numpy array of int (B,)
        Iterations in the present stage.
    past : array (B, m)
        The point at the end of the stage before.
    past_reg : numpy array (B,)
        Its regularisation; NaN where it did not reach its tolerance, and is no point to extrapolate from.
    mark : numpy array (B,)
        The error when stalling was last looked for.
    mixing : Mixing
        What the acceleration remembers of the present stage.
    careful : numpy array of bool (B,)
        Whether the item stalled once, and is on its way down again in smaller steps.
    """

    point: Array
    used: np.ndarray
    past: Array
    past_reg: np.ndarray
    mark: np.ndarray
    mixing: Mixing
    careful: np.ndarray


def begin(problem: LinearProblem, g: Array | None, reg: np.ndarray, window: int = WINDOW) -> Annealed:
    """The state before the first iteration, at regularisation ``reg (B,)``."""
    items = problem.items
    if g is None:
        g = from_numpy(np.zeros((items, problem.reduced.m)), problem.a)
    free = problem.penalties.rho_b == 0  # nothing pulls at these potentials: they are 0 in the costs as given
    g = namespace(g).where(free[:, None], -problem.reduced.col, g)
    return Annealed(
        f=from_numpy(np.zeros((items, problem.reduced.n)), g),  # the first iteration begins with the rows
        g=g,
        reg=reg,
        status=np.full(items, None, dtype=object),
        error=np.full(items, np.inf),
        n_iter=np.zeros(items, dtype=np.int64),
        stages=(),
        point=g,
        used=np.zeros(items, dtype=np.int64),
        past=g,
        past_reg=np.full(items, np.nan),
        mark=np.full(items, np.inf),
        mixing=Mixing.begin(g, from_numpy(problem.span, g), window),
        careful=np.zeros(items, dtype=bool),
    )


def top(problem: LinearProblem) -> np.ndarray:
    """Where annealing starts: at the range of the reduced costs a few sweeps suffice."""
    return np.where(problem.span > 0, problem.span, 1.0)


# Entries that are visited between two looks at the errors, and the iterations that this is at most.
_VISITS, _LONGEST = 2**31, 100


def patience(problem: LinearProblem) -> int:
    """Iterations between two looks at the errors: less than a second or two of work, and the same for all batches."""
    return max(1, min(_LONGEST, _VISITS // (problem.reduced.n * problem.reduced.m)))


def advance(problem: LinearProblem, state: Annealed, tol: np.ndarray, sweeps: int, max_iter: int) -> Annealed:
    """Up to `sweeps` iterations of every running item, fewer where its error comes to ``tol (B,)``."""
    items = state.running
    part, index = problem.take(items), from_numpy(items, state.point)
    xp = namespace(state.point)
    f, point = (xp.take(v, index, axis=0) for v in (state.f, state.point))
    reg, goal = (from_numpy(v[items], state.f) for v in (state.reg, tol))
    limit = from_numpy((max_iter - state.n_iter[items]).astype(float), state.f)
    start, mixing = part.at(f, point, reg), state.mixing.take(index)
    swept = sweep(part.reduced, start, part.penalties, mixing, goal, limit, sweeps)
    done = to_numpy(swept.count).astype(np.int64)
    new_error, n_iter, used = state.error.copy(), state.n_iter.copy(), state.used.copy()
    new_error[items] = to_numpy(swept.error)
    n_iter[items] += done
    used[items] += done
    return replace(
        state,
        f=put(state.f, items, swept.f),
        g=put(state.g, items, swept.g),
        point=put(state.point, items, swept.point),
        error=new_error,
        n_iter=n_iter,
        used=used,
        mixing=state.mixing.put(items, swept.mixing),
    )


def next_stage(state: Annealed, items: np.ndarray, reg: np.ndarray, reached: np.ndarray) -> Annealed:
    """Lower the regularisation of some items to ``reg (B,)``; ``reached (B,)`` tells whose stage met its tolerance."""
    moving = np.zeros(reg.size, dtype=bool)
    moving[items] = True
    known = moving & reached & np.isfinite(state.past_reg)
    step = np.where(known, state.reg - state.past_reg, 1.0)
    ratio = np.where(known, (reg - state.reg) / step, 0.0)
    xp, here = namespace(state.point), from_numpy(moving[:, None], state.point)
    point = state.point + from_numpy(ratio[:, None], state.point) * (state.point - state.past)
    index = from_numpy(items, point)
    reach = xp.take(state.mixing.reach, index, axis=0)
    fresh = Mixing.begin(xp.take(point, index, axis=0), reach, state.mixing.window)
    return replace(
        state,
        point=point,
        reg=np.where(moving, reg, state.reg),
        stages=state.stages + tuple(stage(state, int(k)) for k in items),
        used=np.where(moving, 0, state.used),
        past=xp.where(here, state.point, state.past),
        past_reg=np.where(moving, np.where(reached, state.reg, np.nan), state.past_reg),
        mark=np.where(moving, np.inf, state.mark),
        mixing=state.mixing.put(items, fresh),
    )


def again(problem: LinearProblem, state: Annealed, items: np.ndarray) -> Annealed:
    """Send some items back to the top, to come down carefully."""
    state = next_stage(state, items, top(problem), np.zeros(problem.items, dtype=bool))
    going = np.zeros(problem.items, dtype=bool)
    going[items] = True
    xp = namespace(state.point)
    point = xp.where(from_numpy(going[:, None], state.point), xp.zeros_like(state.point), state.point)
    return replace(state, point=point, careful=state.careful | going)


def marked(state: Annealed, look: np.ndarray) -> Annealed:
    """Remember the error of the items of the mask, for the next look at whether it falls."""
    return replace(state, mark=np.where(look, state.error, state.mark))


def stage(state: Annealed, item: int) -> Stage:
    """The log entry of the present stage of an item."""
    return Stage(item, float(state.reg[item]), int(state.used[item]), float(state.error[item]))


def log(state: Annealed) -> tuple[Stage, ...]:
    """The log of all stages, the present ones included."""
    return state.stages + tuple(stage(state, k) for k in range(state.reg.size))


@dataclass(frozen=True)
class Annealing(Solver):
    """The unregularised problem: sweeps at ever smaller regularisation, until certified bounds are close enough.

    Attributes
    ----------
    rtol : float
        Stop when ``upper − lower ≤ rtol·|upper|``.
    atol : float
        Or when it is at most this fraction of the range of the costs, or no more than the rounding that it covers.
    max_iter : int
        Iterations over all stages.
    factor : float
        What the regularisation is divided by between stages.
    stage_tol : float
        The marginal error at which a stage is done. From a hundredth of the range of the costs down it falls with the
        root of the regularisation, since ever smaller masses decide which arcs are kept.
    sweeps : int
        Iterations between two certificates.

    Notes
    -----
    The plan is the one whose cost is the upper bound: feasible, and a vertex where one was found. The potentials are
    the feasible ones whose value is the lower bound.

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

    def __post_init__(self) -> None:
        checks.solver_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        reg = top(problem)
        if start is None:
            return begin(problem, None, reg)
        return begin(problem, start[1], reg / 1024)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        stage_tol = self._stage_tol(problem, state.reg)
        state = advance(problem, state, stage_tol, self.sweeps, self.max_iter)
        items = state.running
        found = self._certificate(problem.take(items), state, items)
        finite = found.upper < np.inf
        size = np.where(finite, abs(found.upper), 0.0)
        wanted = np.maximum(self.rtol * size, self.atol * problem.span[items])
        close = finite & (found.upper - found.lower <= np.maximum(wanted, 1.01 * found.rounding))
        state = state.ended(items[close], Status.CONVERGED)
        state = state.ended(items[~close & (found.lower > problem.high[items])], Status.INFEASIBLE)

        reached = state.error <= stage_tol
        left = state.running
        moving = left[reached[left] | (state.used[left] >= self.max_iter // 5)]
        reg = state.reg / self.factor
        # Below this a stage cannot come to its tolerance for rounding.
        floor = 8 * UNIT * top(problem) / self._stage_tol(problem, reg)
        spent = moving[(reg < floor)[moving]]
        state = state.ended(spent, Status.STALLED)
        moving = np.setdiff1d(moving, spent)
        return next_stage(state, moving, reg, reached) if moving.size else state

    def _stage_tol(self, problem: LinearProblem, reg: np.ndarray) -> np.ndarray:
        return self.stage_tol * np.minimum(1.0, 10 * np.sqrt(reg / top(problem)))

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        found = self._certificate(problem, state, np.arange(problem.items))
        error, tol = marginal_error(problem, found.plan, found.f, found.g), np.full(problem.items, self.rtol)
        return Outcome(
            found.f, found.g, None, found.plan, found, state.status, error, tol, state.n_iter, errors, log(state)
        )

    @staticmethod
    def _certificate(part: LinearProblem, state: Annealed, items: np.ndarray) -> Certificate:
        xp, index = namespace(state.f), from_numpy(items, state.f)
        f, g = (xp.take(v, index, axis=0) for v in (state.f, state.g))
        return certify(part, f, g, from_numpy(state.reg[items], f))
