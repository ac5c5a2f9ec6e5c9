"""Sinkhorn-Newton-Sparse as a solver: annealed sweeps, and Newton steps where sweeps are slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options, given_options
from otkit.solvers.descent import Annealed
from otkit.solvers.sns.descend import Sparsification, descend
from otkit.solvers.sns.dual import Entries, Point
from otkit.solvers.sns.published import Published
from otkit.solvers.sns.switch import COMPILED, FIRST_CHECK, USUAL, is_slow, predicted

# Descents after the first, each in smaller steps.
_ATTEMPTS = 2
# Largest error that stages are left at, unless a larger one is asked for.
_LOOSEST = 1e-2
# Sweeps before the first check of how fast they are, at least; and all of them where an item descends carefully.
_SWEEPS = 20
# Sweeps that potentials are given to settle in a stage, so that the same entries matter from one check to the next.
_SETTLING = 300
# Newton steps of a stage that may be cut short before it counts as hard; those of the last descent.
_FAILURES, _LAST_FAILURES = 8, 40
# The mass that is left out of a row or column, and the shift of the matrix, relative to the error. Both vanish with it,
# and leave the convergence quadratic. The shift keeps a step from moving parts of the problem by much more than reg
# that hardly exchange mass.
_DROP, _SHIFT = 0.1, 0.05
_DROP_MOST, _DROP_LEAST = 0.1, 1e-14


@dataclass(frozen=True)
class SparseNewton(Solver[Annealed]):
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
        The error at which a stage before the last is done, times the root of its `reg` over that of the last, and at
        most 1e-2. Mass that is missing between weakly coupled parts of the problem must show before their coupling
        vanishes, so it is smaller than that of `Sinkhorn`.
    sweeps : int, optional
        Sweeps before Newton's method is considered, in each stage. By default they take about half the time of one of
        its steps.
    keep : float, optional
        The method as it was published: `sweeps` plain sweeps (20 by default) at the `reg` asked for, and then Newton
        steps that keep this fraction of the entries of the plan, the largest ones. It goes with ``factor=inf``. By
        default, what is left out is bounded by the mass that it carries.

    Notes
    -----
    Tang et al. (ICLR 2024); the exact diagonal after Tang & Qiu (NeurIPS 2024), annealing after Schmitzer (2019). Steps
    that do not raise the dual enough are halved (Armijo). Sweeps never lower the dual, so that it rises throughout.
    Near the solution full steps are taken, and each about squares the error. A stage that Newton steps do not end is
    left to sweeps: that is `Sinkhorn`, which always converges. Before that, the descent is repeated from the top, in
    smaller steps.

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
    _: KW_ONLY
    keep: InitVar[float | None] = None
    name = "sns"
    refuses: ClassVar[Mapping[str, str]] = {"rtol": "tol= bounds the error with a reg"}

    def __new__(cls, *args: Any, keep: float | None = None, **options: Any) -> Self:
        """The solver; with `keep`, the method as it was published."""
        if keep is None:
            return super().__new__(cls)
        options = given_options(cls, args, options)
        if options.pop("factor", cls.factor) < np.inf:
            raise ValueError("keep= is the method without annealing; pass factor=inf too")
        if "stage_tol" in options:
            raise ValueError("keep= is the method without annealing, and stage_tol= does not apply; drop one of them")
        return Published(keep, **options)  # type: ignore[return-value]

    def __post_init__(self, keep: float | None) -> None:
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed:
        if start is not None:
            return descent.begin(problem, start[1], to_numpy(problem.reg))
        return descent.begin_cold(problem, self.factor)

    def step(self, problem: LinearProblem, state: Annealed) -> Annealed:
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
            state = descend(problem, state, int(item), float(goal[item]), self.max_iter, _by_mass)
        state, stalled = descent.checked(problem, state, used)
        gone = self._is_lost(state)
        hard = stalled | (gone & ~state.tally.dense & (state.attempt < _ATTEMPTS))
        return descent.settled(problem, state, goal, hard, gone, self, _ATTEMPTS)

    def _stage_tol(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        far = np.maximum(1.0, state.reg / to_numpy(problem.reg))
        return np.minimum(max(_LOOSEST, self.stage_tol), self.stage_tol * far**0.5)

    @staticmethod
    def _is_lost(state: Annealed) -> np.ndarray:
        """Whether sweeps are all that is left to a stage; on the last descent, that takes more failures."""
        most = np.where(state.attempt < _ATTEMPTS, _FAILURES, _LAST_FAILURES)
        return (state.tally.failed >= most) | state.tally.dense

    def _sweeps(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        """How many sweeps each item takes before the next check of how fast they are, ``(B,)``."""
        if self.sweeps is not None:
            return np.full(problem.items, self.sweeps)
        sweep, _, step = predicted(problem, state, 1.0)
        longest, entries = descent.patience(problem, state), problem.reduced.n * problem.reduced.m
        usual = np.minimum(longest, np.maximum(_SWEEPS, 2 * (FIRST_CHECK * step / sweep / 2).astype(int)))
        # Where most entries matter Newton steps are dear, and so is a check: the entries have to be formed again.
        usual = np.where((entries >= COMPILED) & ~(state.effort < entries / 2), longest, usual)
        quick = (state.used > 0) & (state.tally.steps == 0)  # sweeps that needed no Newton steps run longer unchecked
        return np.where(state.attempt > 0, np.minimum(_SWEEPS, usual), np.where(quick, 2 * usual, usual))

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        return descent.finish(problem, state, descent.tolerance(problem, self.tol), errors)


def _by_mass(part: LinearProblem, at: Point, reg: Array, goal: float) -> tuple[Point, Sparsification] | None:
    """All entries but a fraction of the mass, in proportion to the error; None where these are many."""
    listed = at.listed or Entries.of(part, at, reg, goal)
    if listed is None:
        return None
    drop = min(_DROP_MOST, max(_DROP * at.error, _DROP_LEAST))
    return at._replace(listed=listed), Sparsification(listed, drop, shift=min(1.0, _SHIFT * at.error))
