"""Sinkhorn-Newton-Sparse: annealed sweeps, and Newton steps where sweeps are slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options, given_options, with_signature
from otkit.solvers.descent import Annealed
from otkit.solvers.sns.descend import Sparsification, descend
from otkit.solvers.sns.dual import Entries, Point
from otkit.solvers.sns.published import Published
from otkit.solvers.sns.switch import FIRST_CHECK, USUAL, is_slow, predicted

# Number of restarts of the descent, each with smaller steps.
_ATTEMPTS = 2
# Largest error at which a stage ends, unless `stage_tol` is larger.
_LOOSEST = 1e-2
# Minimum number of sweeps before their speed is checked; maximum number after a restart of the descent.
_SWEEPS = 20
# Sweeps of a stage after which Newton steps start even if the entries that matter still change between checks.
_SETTLING = 300
# Failures of Newton steps in a stage before it counts as hard; the same for the last descent.
_FAILURES, _LAST_FAILURES = 8, 40
# Dropped mass of a row or column, and shift of the matrix, relative to the error. Both vanish with the error, so
# convergence stays quadratic. The shift bounds a step where parts of the problem hardly exchange mass, which could
# otherwise move against each other by much more than reg.
_DROP, _SHIFT = 0.1, 0.05
_DROP_MOST, _DROP_LEAST = 0.1, 1e-14


@with_signature
@dataclass(frozen=True)
class SparseNewton(Solver[Annealed]):
    """Sinkhorn-Newton-Sparse: annealed sweeps, and Newton steps with a sparsified Hessian where sweeps are slow.

    Attributes
    ----------
    tol : float, optional
        The error to reach, as in `Sinkhorn`.
    max_iter : int
        Maximum number of sweeps and Newton steps over all stages.
    factor : float
        Divisor of the regularisation between stages; ``inf`` starts at the `reg` of the problem.
    stage_tol : float
        A stage before the last ends at the error ``stage_tol·√(reg of the stage / final reg)``, and at most 1e-2. Mass
        that is missing between weakly coupled parts of the problem must show before their coupling vanishes, so the
        default is smaller than that of `Sinkhorn`.
    sweeps : int, optional
        Sweeps in each stage before Newton's method is considered. By default they cost about half the time of a Newton
        step.
    keep : float, optional
        The method as published: `sweeps` plain sweeps (20 by default) at the `reg` of the problem, then Newton steps
        that keep the largest entries of the plan, this fraction of all. It requires ``factor=inf``. By default,
        the mass of the dropped entries is bounded instead.

    Notes
    -----
    Tang et al. (ICLR 2024); the exact diagonal after Tang & Qiu (NeurIPS 2024), annealing after Schmitzer (2019). Steps
    that do not raise the dual enough are halved (Armijo). Sweeps never lower the dual, so it rises throughout. Near the
    solution full steps are taken, and each one about squares the error. If Newton steps fail to finish a stage, the
    descent is repeated from the top in smaller steps. As a last resort the stage continues with sweeps only: the method
    is then `Sinkhorn`, which always converges.

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
    entropic = True
    refuses: ClassVar[Mapping[str, str]] = {"rtol": "tol= bounds the error with a reg"}

    def __new__(cls, *args: Any, keep: float | None = None, **options: Any) -> Self:
        """The solver; with `keep`, the method as published."""
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
        before = np.where(used == 0, 1.0, state.error)  # an unknown error counts as 1
        state = descent.advance(problem, state, goal, sweeps, self.max_iter)
        known = np.isfinite(state.halfway)  # the speed of the first sweeps does not predict later ones
        before, sweeps = np.where(known, state.halfway, before), np.where(known, sweeps / 2, sweeps)
        apt = ~self._is_lost(state) & (state.n_iter < self.max_iter)
        apt &= ~state.restless | (state.used > _SETTLING)
        apt &= is_slow(before, state.error, goal, sweeps, predicted(problem, state, USUAL))
        for item in state.running[apt[state.running]]:
            state = descend(problem, state, int(item), float(goal[item]), self.max_iter, by_mass)
        state, stalled = descent.checked(problem, state, used)
        gone = self._is_lost(state)
        hard = stalled | (gone & ~state.tally.dense & (state.attempt < _ATTEMPTS))
        return descent.settled(problem, state, goal, hard, gone, self, _ATTEMPTS)

    def _stage_tol(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        far = np.maximum(1.0, state.reg / to_numpy(problem.reg))
        return np.minimum(max(_LOOSEST, self.stage_tol), self.stage_tol * far**0.5)

    @staticmethod
    def _is_lost(state: Annealed) -> np.ndarray:
        """Whether Newton's method is given up in a stage; the last descent allows more failures."""
        most = np.where(state.attempt < _ATTEMPTS, _FAILURES, _LAST_FAILURES)
        return (state.tally.failed >= most) | state.tally.dense

    def _sweeps(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        """Number of sweeps of each item before the next check of their speed, ``(B,)``."""
        if self.sweeps is not None:
            return np.full(problem.items, self.sweeps)
        sweep, _, step = predicted(problem, state, 1.0)
        longest, entries = descent.patience(problem, state), problem.reduced.n * problem.reduced.m
        usual = np.minimum(longest, np.maximum(_SWEEPS, 2 * (FIRST_CHECK * step / sweep / 2).astype(int)))
        # If most entries matter, Newton steps are expensive, and so is a check: entries have to be recomputed.
        usual = np.where((entries >= problem.kernels.pace.compiled) & ~(state.effort < entries / 2), longest, usual)
        quick = (state.used > 0) & (state.tally.steps == 0)  # sweeps that needed no Newton steps are checked less often
        return np.where(state.attempt > 0, np.minimum(_SWEEPS, usual), np.where(quick, 2 * usual, usual))

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        return descent.finish(problem, state, descent.tolerance(problem, self.tol), errors)


def by_mass(part: LinearProblem, at: Point, reg: Array, goal: float) -> tuple[Point, Sparsification] | None:
    """All entries except a fraction of the mass proportional to the error; None if there are too many entries."""
    listed = at.listed or Entries.of(part, at, reg, goal)
    if listed is None:
        return None
    drop = min(_DROP_MOST, max(_DROP * at.error, _DROP_LEAST))
    return at._replace(listed=listed), Sparsification(listed, drop, shift=min(1.0, _SHIFT * at.error))
