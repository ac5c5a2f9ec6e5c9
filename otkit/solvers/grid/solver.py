"""Certified costs between images: entropic sweeps from coarse to fine, until the bounds are close."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, later
from otkit.certificates.base import Certificate
from otkit.certificates.glued import certify_glued
from otkit.geometry.grid import Grid
from otkit.plans import EntropicPlan, Glued
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.grid.levels import SWEEPS, Level, Solved, Swept, correct, levels_of, sweeps

# The default widths of an interval: relative, and in costs between neighbours.
_RTOL, _CELL = 1e-4, 0.5
# Regularisations of the levels in units of the cost between neighbours, the last ones on the finest grid.
_COARSE, _FINE = (2.0, 1.0), (2.0, 1.0, 0.5, 0.25)
# Error at which a stage ends: of levels before the finest, and on it. Most cycles of a stage.
_COARSE_ERROR, _FINE_ERROR, _COARSE_CYCLES, _FINE_CYCLES = 5e-5, 1e-3, 8, 2
# Divisor of the regularisation between stages of the coarsest level, and most sweeps in each.
_FACTOR, _COARSEST_SWEEPS = 4.0, 300
# Marginal error from which bounds are computed.
_CLOSE = 0.1


@dataclass(frozen=True)
class Descent:
    """The descent of an item.

    Attributes
    ----------
    levels : tuple of Level
        The grids, the finest first.
    level, stage, cycles : int
        The current level, the place of its regularisation in `_regs`, and the number of cycles done at it.
    g : array
        The potential of the columns, on the current level.
    solved : mapping
        The solutions of the coarser levels.
    lower, upper : Certificate or None
        The certificates of the best bounds.
    """

    levels: tuple[Level, ...]
    level: int
    stage: int
    cycles: int
    g: np.ndarray
    solved: Mapping[int, Solved]
    lower: Certificate | None = None
    upper: Certificate | None = None

    @property
    def reg(self) -> float:
        """The regularisation of the current stage."""
        return self._regs[self.stage]

    @property
    def _regs(self) -> list[float]:
        """The regularisations of the stages of the current level."""
        level = self.levels[self.level]
        regs = [factor * level.neighbours for factor in (_COARSE if self.level else _FINE)]
        if self.level < len(self.levels) - 1:
            return regs
        top = sum((h * n) ** level.power for h, n in zip(level.spacing, level.b.shape, strict=True))
        above = max(0, math.ceil(math.log(top / regs[0]) / math.log(_FACTOR)))
        return [regs[0] * _FACTOR**k for k in range(above, 0, -1)] + regs

    @staticmethod
    def begin(grid: Grid, a: np.ndarray, b: np.ndarray) -> Descent:
        """The descent before the first sweep, for masses ``a, b (n,)``."""
        levels = levels_of(grid, a, b)
        return Descent(levels, len(levels) - 1, 0, 0, np.zeros(levels[-1].b.shape), {})

    @property
    def interval(self) -> tuple[float, float]:
        """The best bounds; infinite before the first ones."""
        if self.lower is None or self.upper is None:
            return -math.inf, math.inf
        return float(self.lower.lower[0]), float(self.upper.upper[0])

    def cycle(self) -> tuple[Descent, Swept]:
        """The descent after a few sweeps, and a correction by the coarser levels or the next stage."""
        level, last = self.levels[self.level], self.level == len(self.levels) - 1
        tol = _COARSE_ERROR if self.level else _FINE_ERROR
        swept = sweeps(level, self.g, level.b, self.reg, _COARSEST_SWEEPS if last else SWEEPS + 1, tol)
        most = _COARSE_CYCLES if self.level else _FINE_CYCLES
        if swept.error <= tol or last or self.cycles == most - 1:
            return self._next(swept), swept
        change = correct(self.levels, self.solved, self.level, level.b - swept.sums)
        return replace(self, g=swept.g + change, cycles=self.cycles + 1), swept

    def _next(self, swept: Swept) -> Descent:
        """The next stage or level; after the last stage of all, its number is that of the stages."""
        reg, level, stages = self.reg, self.levels[self.level], len(self._regs)
        at = replace(self, stage=self.stage + 1, cycles=0)
        if at.stage < stages:
            return replace(at, g=_lowered(swept.g, level, reg, at.reg))
        if self.level == 0:
            return at
        solved = {**self.solved, self.level: Solved(swept.g, reg, swept.sums)}
        finer = self.levels[self.level - 1]
        at = replace(at, level=self.level - 1, stage=0, solved=solved)
        return replace(at, g=_lowered(level.on_finer(swept.f, reg, finer.b.shape), finer, reg, at.reg))

    @property
    def is_done(self) -> bool:
        """Whether the last stage of the finest level is over."""
        return self.level == 0 and self.stage == len(self._regs)

    def on_finest(self) -> tuple[np.ndarray, float]:
        """The potential of the columns, continued to the finest level; and a regularisation for it."""
        at, reg = self, self._regs[min(self.stage, len(self._regs) - 1)]
        g = self.g
        for k in range(at.level, 0, -1):
            level, finer = self.levels[k], self.levels[k - 1]
            g = level.on_finer(level.rows(g, reg), reg, finer.b.shape)
        return g, min(reg, _FINE[0] * self.levels[0].neighbours)


def _lowered(g: np.ndarray, level: Level, reg: float, to: float) -> np.ndarray:
    """The potential at another regularisation: to first order it differs by half of the logarithm of the weights."""
    return g + 0.5 * (reg - to) * np.where(level.b > 0, level.log_b, 0.0)


@dataclass(frozen=True)
class Descending(State):
    """A state with the descent of each item."""

    descents: tuple[Descent, ...]

    @property
    def gap(self) -> np.ndarray:
        lower, upper = np.array([at.interval for at in self.descents]).T
        known = (upper < np.inf) & (upper > 0)
        return np.where(known, (upper - lower) / np.where(known, upper, 1.0), np.nan)


@dataclass(frozen=True)
class CoarseToFine(Solver[Descending]):
    """Bounds on the unregularised optimum between images, by entropic sweeps from coarse to fine grids.

    Attributes
    ----------
    rtol : float, optional
        Stop when ``upper − lower ≤ rtol·upper``. By default 1e-4, or half of the cost between neighbours, whichever
        is wider.
    max_iter : int
        Maximum number of sweeps over all levels.

    Notes
    -----
    For squared distances, and powers from 1 to 2. Every level is solved at regularisations of about the cost between
    neighbours. Below this the plan is a matter of single cells. The plan is feasible and its cost is the upper bound.
    The potentials are feasible and their value is the lower bound. The interval has a floor of about a quarter of the
    cost between neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> a, b = np.random.default_rng(0).random((2, 50, 50))
    >>> result = otkit.solve_grid(a / a.sum(), b / b.sum(), method=otkit.CoarseToFine())
    >>> result.upper - result.lower <= 0.5
    True
    """

    rtol: float | None = None
    max_iter: int = 10_000
    name = "coarse-to-fine"
    refuses: ClassVar[Mapping[str, str]] = {
        "tol": "rtol= bounds the unregularised answer",
        "init": "the descent begins on coarse grids; drop init=",
    }

    def __post_init__(self) -> None:
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Descending:
        grid, items = problem.geometry.grid, problem.items
        assert grid is not None
        descents = tuple(Descent.begin(grid, problem.a[k], problem.b[k]) for k in range(items))
        return Descending(
            f=problem.a,
            g=problem.b,
            reg=np.array([descent.reg for descent in descents]),
            status=np.full(items, None, dtype=object),
            error=np.full(items, np.inf),
            n_iter=np.zeros(items, dtype=np.int64),
            stages=(),
            descents=descents,
        )

    def step(self, problem: LinearProblem, state: Descending) -> Descending:
        descents, reg, error, n_iter = list(state.descents), state.reg.copy(), state.error.copy(), state.n_iter.copy()
        stages = list(state.stages)
        for k in state.running:
            at = descents[k]
            reg[k] = at.reg
            new, swept = at.cycle()
            error[k], n_iter[k] = swept.error, n_iter[k] + swept.done
            if at.level == 0 and swept.error < _CLOSE:
                new = _bounded(new, _certificate(problem, int(k), swept.g, at.reg))
            if (new.level, new.stage) != (at.level, at.stage):
                stages.append(Stage(int(k), at.reg, swept.done, swept.error, 0, 0, 0, 0.0))
            descents[k] = new
            done = Status.CONVERGED if self._is_narrow(new) else Status.STALLED if new.is_done else None
            if done is not None:
                state = state.ended(np.array([k]), done)
        return replace(state, descents=tuple(descents), reg=reg, error=error, n_iter=n_iter, stages=tuple(stages))

    def _is_narrow(self, at: Descent) -> bool:
        lower, upper = at.interval
        wide = self.rtol * upper if self.rtol is not None else max(_RTOL * upper, _CELL * at.levels[0].neighbours)
        return upper < math.inf and upper - lower <= wide

    def finish(self, problem: LinearProblem, state: Descending, errors: np.ndarray) -> Outcome:
        descents = []
        for k, at in enumerate(state.descents):
            if at.upper is None:  # stopped on the way
                at = _bounded(at, _certificate(problem, k, *at.on_finest()))
            descents.append(at)
        found = _joined(problem, descents)
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=found.plan,
            certificate=found,
            status=state.status,
            error=later(marginal_error, problem, found.plan, found.f, found.g),
            tol=np.full(problem.items, self.rtol or _RTOL),
            n_iter=state.n_iter,
            errors=errors,
            stages=state.stages,
        )


def _certificate(problem: LinearProblem, item: int, g: np.ndarray, reg: float) -> Certificate:
    """Bounds on an item from a potential of its columns."""
    return certify_glued(problem.take(np.array([item])), g.reshape(1, -1), np.array([reg]))


def _bounded(at: Descent, found: Certificate) -> Descent:
    """The descent with the better of the known bounds and new ones."""
    raises = at.lower is None or found.lower[0] > at.lower.lower[0]
    lowers = at.upper is None or found.upper[0] < at.upper.upper[0]
    return replace(at, lower=found if raises else at.lower, upper=found if lowers else at.upper)


def _joined(problem: LinearProblem, descents: list[Descent]) -> Certificate:
    """The certificate of all items."""
    lowers, uppers = zip(*((at.lower, at.upper) for at in descents), strict=True)
    lower, f, g = (np.concatenate([getattr(c, name) for c in lowers]) for name in ("lower", "f", "g"))
    upper, linear, rounding = (np.concatenate([getattr(c, k) for c in uppers]) for k in ("upper", "linear", "rounding"))
    plans = [c.plan[0] for c in uppers]
    at = (np.concatenate([getattr(plan.middle.at, name) for plan in plans]) for name in ("f", "g", "reg"))
    middle = EntropicPlan(problem.reduced, problem.at(*at), problem.kernels)
    rows, cols = (sum((getattr(plan, side) for plan in plans), ()) for side in ("rows", "cols"))
    return Certificate(lower, upper, f, g, (Glued(middle, rows, cols),), linear, rounding)
