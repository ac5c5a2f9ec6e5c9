"""Annealing in stages: solve at a large regularisation first, then lower it to a target or until bounds are certified.

The potentials of an entropic problem are nearly affine in the regularisation. A stage therefore starts from a linear
extrapolation of the final potentials of the last two stages. The extrapolation also advances potential differences
between weakly coupled parts of the problem, which sweeps hardly change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from otkit.arrays import Array, from_numpy, later, namespace, put, take, to_numpy, zeros
from otkit.certificates.base import dual_value
from otkit.entropic.anderson import WINDOW, Mixing
from otkit.geometry.costs import UNIT
from otkit.plans import EntropicPlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers.base import State

# Safety factor on the tolerance: rounding may make the recomputed error differ from that of the last iteration.
SLACK = 0.999
# From this tolerance on, rounding in the error of a sweep does not matter, and no other pass computes it again.
_LOOSE = 1e-3
# A tolerance that rounding raised above this is too large to count as reached.
_NOISE = 1e-3
# Down to the range of the costs divided by this, zero is as good a start as the solution at a larger regularisation.
_EASY = 256.0
# In the last stage an item has stalled unless its error falls to the fraction _FALL within _PATIENCE iterations.
_PATIENCE, _FALL = 1000, 0.99
# A stalled item restarts its descent from the top. If the regularisation falls fast, weakly coupled parts of a problem
# decouple, and neither sweeps nor Newton steps then see the mass that is missing between them. For each restart the
# factor is replaced by its square root, and the tolerance of the stages is divided by this number.
_CAREFUL = 1000.0


class Descending(Protocol):
    """A solver that lowers the regularisation by a factor from stage to stage."""

    @property
    def factor(self) -> float: ...
    @property
    def max_iter(self) -> int: ...


@dataclass(frozen=True)
class Tally:
    """Statistics of the Newton steps of each item in its current stage, ``(B,)`` each.

    Attributes
    ----------
    steps, cg : numpy array of int
        Numbers of Newton steps, and of iterations of conjugate gradients in them.
    kept : numpy array of int
        Number of entries of the last sparsified plan.
    dropped : numpy array
        The mass that was left out of this plan.
    failed : numpy array of int
        Number of failures: steps that the line search cut short, or series of steps without progress.
    dense : numpy array of bool
        Whether the plan is dense, so that Newton steps do not pay.
    """

    steps: np.ndarray
    cg: np.ndarray
    kept: np.ndarray
    dropped: np.ndarray
    failed: np.ndarray
    dense: np.ndarray

    @staticmethod
    def begin(items: int) -> Tally:
        """Statistics before the first step."""
        steps, cg, kept, failed = (np.zeros(items, dtype=np.int64) for _ in range(4))
        return Tally(
            steps=steps, cg=cg, kept=kept, dropped=np.zeros(items), failed=failed, dense=np.zeros(items, dtype=bool)
        )


@dataclass(frozen=True)
class Annealed(State):
    """The state of an annealing solver.

    Attributes
    ----------
    point : array (B, m)
        The potential of the columns to continue from.
    effort : numpy array (B,)
        Number of entries that the last iteration visited; NaN if unknown.
    halfway : numpy array (B,)
        The error after half of the last sweep's iterations; NaN if unknown.
    restless : numpy array of bool (B,)
        Whether the potentials still moved far in the last of these iterations.
    listed : numpy array of Listed (B,)
        The entries of the plan that the last iterations visited; None if unknown.
    used : numpy array of int (B,)
        Iterations in the current stage.
    past : array (B, m)
        The point at the end of the previous stage.
    past_reg : numpy array (B,)
        The regularisation of the previous stage; NaN if the stage did not reach its tolerance, which excludes
        extrapolation from it.
    mark : numpy array (B,)
        The error at the last check for stalling.
    mixing : Mixing
        History of the acceleration in the current stage.
    attempt : numpy array of int (B,)
        Number of restarts from the top with smaller steps.
    tally : Tally
        Statistics of the Newton steps in the current stage.
    """

    point: Array
    effort: np.ndarray
    halfway: np.ndarray
    restless: np.ndarray
    listed: np.ndarray
    used: np.ndarray
    past: Array
    past_reg: np.ndarray
    mark: np.ndarray
    mixing: Mixing
    attempt: np.ndarray
    tally: Tally


A = TypeVar("A", bound=Annealed)


def begin(problem: LinearProblem, g: Array | None, reg: np.ndarray, window: int = WINDOW) -> Annealed:
    """The state before the first iteration, at regularisation ``reg (B,)``."""
    items = problem.items
    if g is None:
        g = zeros((items, problem.reduced.m), problem.a)
    free = problem.penalties.rho_b == 0  # the potentials of a free marginal are 0 in the costs as given
    g = namespace(g).where(free[:, None], -problem.reduced.col, g)
    return Annealed(
        f=zeros((items, problem.reduced.n), g),  # the first iteration begins with the rows
        g=g,
        reg=reg,
        status=np.full(items, None, dtype=object),
        error=np.full(items, np.inf),
        n_iter=np.zeros(items, dtype=np.int64),
        stages=(),
        point=g,
        effort=np.full(items, np.nan),
        halfway=np.full(items, np.nan),
        restless=np.zeros(items, dtype=bool),
        listed=np.full(items, None),
        used=np.zeros(items, dtype=np.int64),
        past=g,
        past_reg=np.full(items, np.nan),
        mark=np.full(items, np.inf),
        mixing=Mixing.begin(g, from_numpy(problem.span, g), window),
        attempt=np.zeros(items, dtype=np.int64),
        tally=Tally.begin(items),
    )


def begin_cold(problem: LinearProblem, factor: float) -> Annealed:
    """The state before the first iteration of a descent from zero potentials to ``problem.reg``.

    The first regularisation is ``problem.reg`` times a power of `factor`, at which iterations from zero converge fast.
    """
    target = to_numpy(problem.reg)
    easy = top(problem) / _EASY
    factors = np.ceil(np.log(np.maximum(target, easy) / target) / np.log(factor))
    return begin(problem, None, target if factor == np.inf else target * factor**factors)


def top(problem: LinearProblem) -> np.ndarray:
    """The largest regularisation of annealing: a few sweeps suffice there.

    It is the range of the reduced costs; where these are 0, the size of the costs, beside which potentials then round.
    """
    size = np.maximum(abs(problem.low), abs(problem.high))
    return np.where(problem.span > 0, problem.span, np.where(size > 0, size, 1.0))


# Maximum number of iterations between two checks of the errors.
_LONGEST = 100


def patience(problem: LinearProblem, state: Annealed) -> np.ndarray:
    """Iterations of each item between two checks of the errors, ``(B,)``: at most a second or two of work."""
    return np.clip(problem.kernels.pace.looked // np.maximum(visited(problem, state), 1.0), 1, _LONGEST).astype(int)


def visited(problem: LinearProblem, state: Annealed, share: float = 1.0) -> np.ndarray:
    """Number of entries that an iteration of each item visits, ``(B,)``; if unknown, the fraction `share` of all."""
    return np.where(np.isnan(state.effort), share * problem.reduced.n * problem.reduced.m, state.effort)


def advance(problem: LinearProblem, state: A, tol: np.ndarray, sweeps: np.ndarray | int, max_iter: int) -> A:
    """At most `sweeps` iterations of every running item; an item stops when its error is at most ``tol (B,)``."""
    items = state.running
    part = problem.take(items)
    f, point, mixing = take((state.f, state.point, state.mixing), items)
    reg, goal = (from_numpy(v[items], state.f) for v in (state.reg, tol))
    left = np.minimum(max_iter - state.n_iter, sweeps)[items]
    limit = from_numpy(left.astype(float), state.f)
    start = part.at(f, point, reg)
    visited = state.listed[items] if any(state.listed[items]) else None
    swept = part.kernels.sweep(part.reduced, start, part.penalties, mixing, goal, limit, int(left.max()), visited)
    done = to_numpy(swept.count).astype(np.int64)
    new_error, n_iter, used = state.error.copy(), state.n_iter.copy(), state.used.copy()
    new_error[items] = to_numpy(swept.error)
    n_iter[items] += done
    used[items] += done
    unknown = np.full(items.size, np.nan)
    effort, halfway = (unknown if known is None else known for known in (swept.effort, swept.halfway))
    listed, restless = state.listed.copy(), state.restless.copy()
    listed[items], restless[items] = swept.listed, False if swept.restless is None else swept.restless
    return replace(
        state,
        f=put(state.f, items, swept.f),
        g=put(state.g, items, swept.g),
        point=put(state.point, items, swept.point),
        error=new_error,
        n_iter=n_iter,
        effort=put(state.effort, items, effort),
        halfway=put(state.halfway, items, halfway),
        restless=restless,
        listed=listed,
        used=used,
        mixing=put(state.mixing, items, swept.mixing),
    )


def next_stage(state: A, items: np.ndarray, reg: np.ndarray, reached: np.ndarray) -> A:
    """Lower the regularisation of some items to ``reg (B,)``; ``reached (B,)``: whether a stage met its tolerance."""
    moving = np.zeros(reg.size, dtype=bool)
    moving[items] = True
    known = moving & reached & np.isfinite(state.past_reg)
    step = np.where(known, state.reg - state.past_reg, 1.0)
    ratio = np.where(known, (reg - state.reg) / step, 0.0)
    xp, here = namespace(state.point), from_numpy(moving[:, None], state.point)
    point = state.point + from_numpy(ratio[:, None], state.point) * (state.point - state.past)
    fresh = Mixing.begin(*take((point, state.mixing.reach), items), state.mixing.window)
    return replace(
        state,
        point=point,
        reg=np.where(moving, reg, state.reg),
        effort=np.where(moving, state.effort * np.sqrt(reg / state.reg), state.effort),  # the usual decrease
        listed=put(state.listed, items, np.full(items.size, None)),
        stages=_stages(_columns(state, items), state.stages),
        used=np.where(moving, 0, state.used),
        past=xp.where(here, state.point, state.past),
        past_reg=np.where(moving, np.where(reached, state.reg, np.nan), state.past_reg),
        mark=np.where(moving, np.inf, state.mark),
        mixing=put(state.mixing, items, fresh),
        tally=put(state.tally, items, Tally.begin(items.size)),
    )


def tolerance(problem: LinearProblem, tol: float | None) -> np.ndarray:
    """The effective tolerance, ``(B,)``: at least the limit that rounding sets."""
    return np.maximum(asked(tol, problem.unit), problem.rounding)


def asked(tol: float | None, unit: float) -> float:
    """The tolerance asked for, with its default for data of this unit roundoff."""
    return tol if tol is not None else 1e-6 if unit == UNIT else 1e-4


def goals(problem: LinearProblem, state: Annealed, tol: float | None, stage_tol: float | np.ndarray) -> np.ndarray:
    """The error at which the current stage of each item ends, ``(B,)``."""
    last = state.reg <= to_numpy(problem.reg)
    return np.where(last, tolerance(problem, tol) * SLACK, stage_tol / _CAREFUL**state.attempt)


def checked(problem: LinearProblem, state: Annealed, used: np.ndarray) -> tuple[Annealed, np.ndarray]:
    """The state, and which items have stalled: their error fell by less than 1 % over the last 1000 iterations.

    Only items in the final stage can stall. `used` has the iterations in the stage before the current step.
    """
    due = (state.reg <= to_numpy(problem.reg)) & (state.used // _PATIENCE > used // _PATIENCE)
    stalled = due & (state.error > _FALL * state.mark)
    return replace(state, mark=np.where(due, state.error, state.mark)), stalled


def settled(
    problem: LinearProblem,
    state: Annealed,
    goal: np.ndarray,
    hard: np.ndarray,
    hasten: np.ndarray,
    solver: Descending,
    attempts: int,
) -> Annealed:
    """The state after a check of the errors: each item ends, moves to its next stage, or continues.

    Items that are `hard` restart their descent, at most `attempts` times. Items to `hasten` move to their next stage
    after a limited number of iterations.
    """
    target = to_numpy(problem.reg)
    last, reached = state.reg <= target, state.error <= goal
    state = _end(state, last & reached, Status.CONVERGED)
    if problem.forbidden.any():
        # A feasible dual value above every cost of an allowed arc proves that there is no feasible plan.
        hopeless = problem.forbidden & problem.balanced & (dual_value(problem, state.f) > problem.high)
        state = _end(state, hopeless, Status.INFEASIBLE)
    hard = hard & ~reached
    hasty = hard & (state.attempt < attempts) & (target < top(problem)) & (solver.factor < np.inf)
    state = _end(state, hard & last & ~hasty, Status.STALLED)
    running = state.running
    limit = max(100, solver.max_iter // 20)
    moving = running[(~last & ~hasty & (reached | hard | (hasten & (state.used >= limit))))[running]]
    if moving.size:
        reg = np.maximum(state.reg / solver.factor ** (0.5**state.attempt), target)
        state = next_stage(state, moving, reg, reached)
    retried = running[hasty[running]]
    return _again(problem, state, retried) if retried.size else state


def _end(state: Annealed, where: np.ndarray, status: Status) -> Annealed:
    running = state.running
    return state.ended(running[where[running]], status)


def _again(problem: LinearProblem, state: Annealed, items: np.ndarray) -> Annealed:
    """Restart the descent of some items from the top, in smaller steps."""
    state = next_stage(state, items, top(problem), np.zeros(problem.items, dtype=bool))
    going = np.zeros(problem.items, dtype=bool)
    going[items] = True
    xp = namespace(state.point)
    point = xp.where(from_numpy(going[:, None], state.point), xp.zeros_like(state.point), state.point)
    return replace(state, point=point, attempt=state.attempt + going)


def _columns(state: Annealed, items: np.ndarray) -> tuple[np.ndarray, ...]:
    """The log entries of the current stages of some items, by the fields of `Stage`."""
    done = state.tally
    vectors = state.reg, state.used, state.error, done.steps, done.cg, done.kept, done.dropped
    return items, *(v[items] for v in vectors)


def _stages(columns: tuple[np.ndarray, ...], before: tuple[Stage, ...] = ()) -> tuple[Stage, ...]:
    """The log with these entries at its end."""
    return before + tuple(map(Stage, *(v.tolist() for v in columns)))


def log(state: Annealed) -> tuple[Stage, ...]:
    """The log of all stages, including the current ones."""
    return _stages(_columns(state, np.flatnonzero(state.used)), state.stages)


def finish(problem: LinearProblem, state: Annealed, tol: np.ndarray, errors: np.ndarray) -> Outcome:
    """The outcome at the end of a descent, with the error recomputed; `tol (B,)` is NaN if there is no tolerance."""
    f, g, reg = state.f, state.g, problem.reg
    early = (state.reg > to_numpy(reg)) | (state.used == 0)
    if early.any():  # stopped before the first iteration at the target regularisation: do this iteration now
        f, g = _updated(problem, f, g, early, problem.update_columns(f, reg))
    # The last point of mixing may be worse than its best one.
    best = to_numpy(state.mixing.best_error)
    left = ~early & (state.status != Status.CONVERGED) & (best < state.error)
    if left.any():
        f, g = _updated(problem, f, g, left, state.mixing.best_point)
    # Points without mass were excluded from the iterations. Compute their potentials now.
    xp = namespace(f)
    if xp.any(problem.a == 0):
        f = xp.where(problem.a > 0, f, problem.update_rows(g, reg))
    if xp.any(problem.b == 0):
        g = xp.where(problem.b > 0, g, problem.update_columns(f, reg))
    # The last sweep leaves the weights of the rows, and its error is that of its potentials.
    known = problem.balanced & (state.status == Status.CONVERGED) & (state.tally.steps == 0) & (tol >= _LOOSE)
    mass = problem.totals[0] if (known & ~early & ~left).all() else None
    plan = (EntropicPlan(problem.reduced, problem.at(f, g, reg), problem.kernels, mass),)
    error = marginal_error(problem, plan, f, g) if mass is None else state.error
    # The status is that of the recomputed error, which may exceed the tolerance by rounding.
    noisy = tol <= np.where(problem.rounding > _NOISE, problem.rounding, 0.0)
    worse = (state.status == Status.CONVERGED) & ((error > tol) | noisy)
    state = state.ended(np.flatnonzero(worse), Status.STALLED)
    state = state.ended(np.flatnonzero((error <= tol) & ~noisy), Status.CONVERGED)
    return Outcome(
        f=f,
        g=g,
        reg=reg,
        plan=plan,
        certificate=None,
        status=state.status,
        error=error,
        tol=tol,
        n_iter=state.n_iter,
        errors=errors,
        stages=later(_stages, _columns(state, np.flatnonzero(state.used)), state.stages),
    )


def _updated(problem: LinearProblem, f: Array, g: Array, items: np.ndarray, g_new: Array) -> tuple[Array, Array]:
    """The potentials, with ``g_new`` for the columns of the items in the mask, and the rows updated from it."""
    here = from_numpy(items[:, None], f)
    g = namespace(f).where(here, g_new, g)
    return namespace(f).where(here, problem.update_rows(g, problem.reg), f), g
