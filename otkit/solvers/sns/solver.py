"""Sinkhorn-Newton-Sparse as a solver: annealed sweeps, and Newton steps where sweeps are slow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, namespace, put, to_numpy
from otkit.entropic.anderson import Mixing
from otkit.linalg.cg import Memory
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.solvers import descent
from otkit.solvers.base import Solver, State
from otkit.solvers.descent import Annealed, Tally
from otkit.solvers.sns.dual import Entries, evaluate
from otkit.solvers.sns.newton import _DROP, _DROP_LEAST, _DROP_MOST, _SHIFT, direction, search
from otkit.solvers.sns.switch import CHECK, COMPILED, USUAL, is_slow, predicted

# Ways down after the first, each in smaller steps.
_ATTEMPTS = 2
# The error that stages are left at, at most, unless a larger one is asked for.
_LOOSEST = 1e-2
# Sweeps before the first look at how fast they are, at least; and all of them where an item comes down carefully.
_SWEEPS = 20
# Sweeps that potentials are given to settle in a stage, so that the same entries matter from one look to the next.
_SETTLING = 300
# Newton steps in a row before the callback is asked; those of a stage that may be cut short before it counts as hard.
_BURST, _FAILURES, _LAST_FAILURES = 8, 8, 40
# What that many steps should bring the error down to, relative to where they began.
_FALL = 0.5


@dataclass(frozen=True)
class SparseNewton(Solver):
    """Sinkhorn-Newton-Sparse: annealed sweeps, and Newton steps with a sparsified Hessian where sweeps are slow.

    Attributes
    ----------
    tol : float, optional
        The error to reach, as in `Sinkhorn`.
    max_iter : int
        Sweeps and Newton steps over all stages.
    factor : float
        What the regularisation is divided by between stages; ``inf`` starts at the one asked for.
    stage_tol : float
        The error at which a stage before the last is done, times the root of its `reg` over that of the last, and 1e-2
        at most. What mass is missing between parts of the problem that are weakly coupled has to be seen before their
        coupling vanishes, so it is smaller than that of `Sinkhorn`.
    sweeps : int, optional
        Sweeps before Newton's method is thought of, in each stage. By default they take about half as long as a step of
        it.
    keep : float, optional
        The method as it was published: `sweeps` plain sweeps from zero (20 by default) at the `reg` asked for, and then
        Newton steps that keep this fraction of the entries of the plan, the largest ones. It goes with ``factor=inf``.
        By default, what is left out is bounded by the mass that it carries.

    Notes
    -----
    Tang et al. (ICLR 2024); the exact diagonal after Tang & Qiu (NeurIPS 2024), annealing after Schmitzer (2019). Steps
    that do not raise the dual enough are halved (Armijo), and sweeps never lower it, so that it rises all the way; near
    the solution full steps are taken, and the error is about squared by each. A stage that Newton steps do not end is
    left to sweeps: that is `Sinkhorn`, which always converges. Before that, the way down is taken again from the top,
    in smaller steps.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> C = np.random.default_rng(0).random((200, 200))
    >>> result = otkit.solve(C, reg=1e-4, method=otkit.SparseNewton(tol=1e-9))
    >>> result.converged, sum(stage.newton_steps for stage in result.stages) > 0
    (True, True)
    """

    tol: float | None = None
    max_iter: int = 10_000
    factor: float = 4.0
    stage_tol: float = 1e-4
    sweeps: int | None = None
    keep: float | None = None
    name = "sns"

    def __post_init__(self) -> None:
        checks.solver_options(self)
        checks.kept_fraction(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        if start is not None:
            return descent.begin(problem, start[1], to_numpy(problem.reg))
        if self.keep is not None:
            return descent.begin(problem, None, to_numpy(problem.reg), window=0)
        return descent.begin_cold(problem, self.factor)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        if self.keep is not None:
            return self._step_as_published(problem, state)
        goal, used = descent.goals(problem, state, self.tol, self._stage_tol(problem, state)), state.used
        sweeps = self._sweeps(problem, state)
        before = np.where(used == 0, 1.0, state.error)  # an error that is not known yet is taken for 1
        state = descent.advance(problem, state, goal, sweeps, self.max_iter)
        known = np.isfinite(state.halfway)  # the first sweeps are no measure of those that follow
        before, sweeps = np.where(known, state.halfway, before), np.where(known, sweeps / 2, sweeps)
        apt = ~self._is_lost(state) & (state.n_iter < self.max_iter)
        apt &= ~state.restless | (state.used > _SETTLING)
        apt &= is_slow(before, state.error, goal, sweeps, predicted(problem, state, USUAL))
        for item in state.running[apt[state.running]]:
            state = _descend(problem, state, int(item), float(goal[item]), self)
        state, stalled = descent.looked(problem, state, used)
        gone = self._is_lost(state)
        hard = stalled | (gone & ~state.tally.dense & (state.attempt < _ATTEMPTS))
        return descent.settled(problem, state, goal, hard, gone, self, _ATTEMPTS)

    def _stage_tol(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        far = np.maximum(1.0, state.reg / to_numpy(problem.reg))
        return np.minimum(max(_LOOSEST, self.stage_tol), self.stage_tol * far**0.5)

    @staticmethod
    def _is_lost(state: Annealed) -> np.ndarray:
        """Whether sweeps are all that is left to a stage; on the last way down, that takes more to say."""
        most = np.where(state.attempt < _ATTEMPTS, _FAILURES, _LAST_FAILURES)
        return (state.tally.failed >= most) | state.tally.dense

    def _step_as_published(self, problem: LinearProblem, state: Annealed) -> Annealed:
        goal, used = descent.goals(problem, state, self.tol, self.stage_tol), state.used
        if not used.any():
            state = descent.advance(problem, state, goal, self.sweeps or _SWEEPS, self.max_iter)
        short = (state.error > goal) & (state.n_iter < self.max_iter)
        for item in state.running[short[state.running]]:
            state = _descend(problem, state, int(item), float(goal[item]), self)
        state, stalled = descent.looked(problem, state, used)
        return descent.settled(problem, state, goal, stalled, stalled, self, 0)

    def _sweeps(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        """How many sweeps each item takes before it is looked at how fast they are, ``(B,)``."""
        if self.sweeps is not None:
            return np.full(problem.items, self.sweeps)
        sweep, _, step = predicted(problem, state, 1.0)
        longest, entries = descent.patience(problem, state), problem.reduced.n * problem.reduced.m
        usual = np.minimum(longest, np.maximum(_SWEEPS, 2 * (CHECK * step / sweep / 2).astype(int)))
        # Where most entries matter Newton steps are dear, and so is a look: the entries have to be formed again.
        usual = np.where((entries >= COMPILED) & ~(state.effort < entries / 2), longest, usual)
        quick = (state.used > 0) & (state.tally.steps == 0)  # as it turned out: they are left alone for longer
        return np.where(state.attempt > 0, np.minimum(_SWEEPS, usual), np.where(quick, 2 * usual, usual))

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        return descent.finish(problem, state, descent.tolerance(problem, self.tol), errors)


def _descend(problem: LinearProblem, state: Annealed, item: int, goal: float, solver: SparseNewton) -> Annealed:
    """Newton steps of one item, until its error is at the goal, one is cut short or they are many."""
    items = np.array([item])
    index = from_numpy(items, state.f)
    part = problem.take(items)
    f, g, reg, reach = (
        namespace(state.f).take(v, index, axis=0)
        for v in (state.f, state.point, from_numpy(state.reg, state.f), state.mixing.reach)
    )
    visited = state.listed[item]
    at = evaluate(part, f, g, reg, goal, visited and Entries.handed(part, visited, reg))
    first, memory = at.error, Memory()
    steps = cg = kept = 0
    dropped, whole, dense = 0.0, True, False
    while at.error > goal and whole and steps < min(_BURST, solver.max_iter - state.n_iter[item]):
        if solver.keep is not None:
            nearby, drop, shift = Entries.largest(part, at, reg, solver.keep), 0.0, 0.0
        else:
            at = at._replace(listed=at.listed or Entries.of(part, at, reg, goal))
            if at.listed is None:
                dense = True
                break
            nearby, drop = at.listed, min(_DROP_MOST, max(_DROP * at.error, _DROP_LEAST))
            shift = min(1.0, _SHIFT * at.error)
        move, solution, sparse = direction(part, at, reg, nearby, drop, shift, memory)
        at, whole = search(part, at, reg, move, goal)
        steps, cg, kept, dropped = steps + 1, cg + solution.steps, sparse.kept, sparse.dropped
    # Parts that have come apart show in steps that are accepted, and change nothing.
    lost = not whole or (steps == _BURST and at.error > _FALL * first)
    before = state.tally
    tally = Tally(
        steps=before.steps[items] + steps,
        cg=before.cg[items] + cg,
        kept=np.array([kept]),
        dropped=np.array([dropped]),
        failed=before.failed[items] + lost,
        dense=np.array([dense]),
    )
    fresh = Mixing.begin(at.following, reach, state.mixing.window)
    return replace(
        state,
        f=put(state.f, items, at.f),
        g=put(state.g, items, at.g),
        point=put(state.point, items, at.following),
        error=put(state.error, items, np.array([at.error])),
        n_iter=put(state.n_iter, items, state.n_iter[items] + steps),
        used=put(state.used, items, state.used[items] + steps),
        mixing=state.mixing.put(items, fresh),
        tally=before.put(items, tally),
    )
