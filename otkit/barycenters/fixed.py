"""Barycenters on a fixed support: the iterations of all measures at decreasing regularisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, put, take, to_numpy
from otkit.barycenters.newton import Task, newton
from otkit.barycenters.proofs import Iterates, Proofs, certified, towards
from otkit.certificates.width import relative
from otkit.entropic import barycenter
from otkit.entropic.anderson import Mixing
from otkit.geometry.base import Geometry, shared
from otkit.geometry.costs import UNIT
from otkit.plans import EntropicPlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.base import Solver, State, check_options

# The history of the acceleration has so many residuals, or fewer, at least _SHORTEST, with at most _HISTORY numbers.
# Longer ones save few iterations and cost more than these (measured on `benchmarks/suite/barycenters.py`).
_WINDOW, _SHORTEST, _HISTORY = 15, 4, 2**26
# A stage ends at this error, at less where the regularisation is small: ever smaller masses then decide.
_STAGE_TOL = 1e-3
# Iterations between two calls of the callback.
_SWEEPS = 50
# In a stage that takes long, bounds are computed after so many iterations.
_PATIENCE = 200
# Debiased barycenters of at most _FEW points, or of one measure, end with Newton steps from the error of a stage on; of
# at most _DENSE points, and costs of at most _ENTRIES numbers, after _SLOW iterations.
_FEW, _DENSE, _ENTRIES, _SLOW = 64, 256, 2**22, 200
# The constants in potentials take steps of their own where penalties are so many times the range of the costs. Without
# these steps, ten problems at two tolerances took 0.26 to 0.71 of the iterations at 0.05 to 20 times the range, and all
# converged; at 200 and 20,000 times they took 1.8 and 12 times as many.
_FAR = 64.0
# The least mass in the potentials of a barycenter, relative to the mean.
_LEAST = 1e-250
# Without a regularisation, they are also computed at the ends of stages, from the range of the costs divided by this.
_BOUNDED = 256.0


@dataclass(frozen=True)
class Averaged(State):
    """The state of G barycenters of K measures each: items are measures, and those of a barycenter end together.

    Attributes
    ----------
    point : array (G·K, m)
        The potentials of the columns to continue from, relative to uniform weights.
    own : array (G, m)
        The potentials of the barycenters with themselves; 0 unless debiased.
    raised : array (G·K, m)
        The last potentials of the columns, relative to the barycenter.
    b : array (G, m)
        The weights of the barycenters.
    used : numpy array of int (G·K,)
        Iterations in the current stage.
    past, past_own, past_reg
        The iterates at the end of the previous stage, and its regularisation ``(G·K,)``; NaN before.
    mixing : Mixing
        The history of the acceleration in the current stage, with one row for each barycenter.
    proofs : Proofs
        The best bounds so far, without a `reg`.
    """

    point: Array
    own: Array
    raised: Array
    b: Array
    used: np.ndarray
    past: Iterates
    past_own: Array
    past_reg: np.ndarray
    mixing: Mixing
    proofs: Proofs

    @property
    def gap(self) -> np.ndarray:
        return relative(self.proofs.lower, self.proofs.upper)

    @property
    def iterates(self) -> Iterates:
        """What bounds follow from now."""
        return Iterates(self.point, (self.f, self.raised, from_numpy(self.reg, self.f)), self.b)


@dataclass(frozen=True, kw_only=True)
class Averages(Outcome):
    """The outcome of the problems between the measures and their barycenter.

    Attributes
    ----------
    b : array (G, m)
        The weights of the barycenters.
    point : array (G·K, m)
        Potentials of the reduced costs whose weighted sum is 0 in the costs as given, or `own` if debiased. Without a
        `reg`, those of the best lower bound.
    """

    b: Array
    point: Array


@dataclass(frozen=True)
class Averaging(Solver[Averaged]):
    """Barycenters on a fixed support, annealed to a regularisation, or until bounds are certified.

    Attributes
    ----------
    weights : array (G, K)
        The weights of the measures, which sum to 1.
    support : Geometry or None
        The costs between the points of the support, if the barycenters are debiased.
    tol : float, optional
        With a `reg`: the largest L1 distance of a plan's column sums from the weights of the barycenter, also of the
        plan between a debiased one and itself. Where there are Newton steps, also their decrement.
    shared : bool
        Whether the measures are on the points of the support.
    rtol : float
        Without a `reg`: stop when ``upper − lower ≤ rtol·upper``.
    max_iter : int
        Maximum number of iterations over all stages.
    factor : float
        Divisor of the regularisation between stages.
    """

    weights: Array
    support: Geometry | None = None
    shared: bool = False
    tol: float | None = None
    rtol: float = 1e-2
    max_iter: int = 10_000
    factor: float = 2.0
    name = "barycenter"
    entropic = True

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def groups(self) -> int:
        """Number of barycenters."""
        return int(self.weights.shape[0])

    @property
    def count(self) -> int:
        """Number of measures of each barycenter."""
        return int(self.weights.shape[1])

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Averaged:
        items, g = problem.items, -problem.reduced.col
        own = namespace(g).zeros_like(g[: self.groups])
        top = self._shared(descent.top(problem)) / self.factor
        unknown = np.full(items, np.inf)
        if problem.reg is not None:
            target = to_numpy(problem.reg)
            # Where all costs are alike, no regularisation is easier than another.
            top = np.where(self._shared(problem.span) > 0, np.maximum(top, target), target)
        f, b = namespace(g).zeros_like(problem.a), problem.b[: self.groups]
        zero = Iterates(g, (f, g, from_numpy(top, g)), b)
        return Averaged(
            f=f,
            g=g,
            reg=top,
            status=np.full(items, None, dtype=object),
            error=unknown,
            n_iter=np.zeros(items, dtype=np.int64),
            stages=(),
            point=g,
            own=own,
            raised=g,
            b=b,
            used=np.zeros(items, dtype=np.int64),
            past=zero,
            past_own=own,
            past_reg=np.full(items, np.nan),
            mixing=self._fresh(problem, g, own),
            proofs=Proofs.of(zero),
        )

    def _fresh(self, problem: LinearProblem, point: Array, own: Array) -> Mixing:
        size = (self.count + 1) * problem.reduced.m * self.groups
        window = int(np.clip(_HISTORY // size, _SHORTEST, _WINDOW))
        reach = from_numpy(self._shared(problem.span)[:: self.count], point)
        return barycenter.begin_mixing(point, own, self.groups, reach, window)

    def _shared(self, v: np.ndarray) -> np.ndarray:
        """The largest of the values of the measures of a barycenter, for each of them."""
        return np.repeat(v.reshape(-1, self.count).max(-1), self.count)

    def step(self, problem: LinearProblem, state: Averaged) -> Averaged:
        target = np.zeros(problem.items) if problem.reg is None else to_numpy(problem.reg)
        last = state.reg <= target
        stage_tol = _STAGE_TOL * np.minimum(1.0, 10 * np.sqrt(state.reg / descent.top(problem)))
        dense, few = self._dense(problem), self._few(problem)
        last_tol = np.maximum(self._tol(problem) * descent.SLACK, _STAGE_TOL if few else 0.0)
        goal = self._shared(np.where(last, last_tol, stage_tol))
        state = self._swept(problem, state, goal, last)
        running = state.running
        reached = (state.error <= goal)[running]
        ready = last[running] & ((reached & few) | (dense & (state.used[running] >= _SLOW)))
        state = self._sharpened(problem, state, running[ready])
        state = state.ended(running[reached & last[running] & ~ready], Status.CONVERGED)
        if problem.reg is None:
            state = self._bounded(problem, state, running, running[reached])
            moving = running[reached]
            spent = moving[state.reg[moving] < 64 * UNIT * descent.top(problem)[moving]]
            state = state.ended(np.intersect1d(spent, state.running), Status.STALLED)
            moving = np.intersect1d(moving, state.running)
        else:
            moving = running[reached & ~last[running]]
        return self._next(problem, state, moving, target) if moving.size else state

    def _tol(self, problem: LinearProblem) -> np.ndarray:
        return np.full(problem.items, np.nan) if problem.reg is None else descent.tolerance(problem, self.tol)

    def _dense(self, problem: LinearProblem) -> bool:
        """Whether Newton steps take less time than many iterations."""
        costs = problem.reduced
        return self.support is not None and costs.m <= _DENSE and self.count * costs.n * costs.m <= _ENTRIES

    def _few(self, problem: LinearProblem) -> bool:
        """Whether they take hardly more time than any."""
        return self._dense(problem) and (problem.reduced.m <= _FEW or self.count == 1)

    def _sharpened(self, problem: LinearProblem, state: Averaged, items: np.ndarray) -> Averaged:
        """The state with some debiased barycenters at their end, after Newton steps for their masses."""
        tol, like = self._tol(problem), state.point
        for k in items[:: self.count] // self.count:
            here = np.arange(k * self.count, (k + 1) * self.count)
            one, group = here[0], np.array([k])
            reg, log_r = float(state.reg[one]), -np.log(like.shape[-1])
            task, row, col = self._task(problem, int(k), reg)
            b = to_numpy(state.b)[k] / to_numpy(state.b)[k].sum()
            relative = np.log(np.maximum(b, _LEAST)) - log_r
            start = b, (to_numpy(state.point)[here] + col) / reg - relative, to_numpy(state.own)[k] / reg - relative
            found, decrement, steps = newton(task, start, float(tol[one]), self.max_iter - int(state.n_iter[one]))
            relative = np.log(np.maximum(found.b, _LEAST)) - log_r
            error = max(found.error, decrement)
            f, raised, point, own, b = (from_numpy(v, like) for v in (
                reg * found.f - row, reg * found.g - col, reg * (found.g + relative) - col,
                reg * (found.own + relative)[None], found.b[None],
            ))  # fmt: skip
            state = replace(
                state,
                f=put(state.f, here, f),
                raised=put(state.raised, here, raised),
                point=put(state.point, here, point),
                own=put(state.own, group, own),
                b=put(state.b, group, b),
                error=put(state.error, here, np.full(here.size, error)),
                n_iter=put(state.n_iter, here, state.n_iter[here] + steps),
                used=put(state.used, here, state.used[here] + steps),
            )
            if error <= tol[one] or state.n_iter[one] < self.max_iter:
                state = state.ended(here, Status.CONVERGED if error <= tol[one] else Status.STALLED)
        return state

    def _task(self, problem: LinearProblem, k: int, reg: float) -> tuple[Task, np.ndarray, np.ndarray]:
        """The k-th barycenter for Newton steps, and the offsets of its reduced costs."""
        assert self.support is not None
        mine, costs = slice(k * self.count, (k + 1) * self.count), problem.reduced
        shape = self.count, costs.n, costs.m
        row, col = (
            np.broadcast_to(to_numpy(v[shared(mine, v.shape[0])]), (shape[0], v.shape[1]))
            for v in (costs.row, costs.col)
        )
        reduced = np.broadcast_to(to_numpy(costs.block(mine, slice(None))), shape)
        alone = to_numpy(self.support.block(slice(k, k + 1), slice(None)))[0]
        given = (reduced + row[:, :, None] + col[:, None, :]) / reg
        a, weights = to_numpy(problem.a)[mine], to_numpy(self.weights)[k]
        return Task(given, alone / reg, a, weights, self.shared), row, col

    def _swept(self, problem: LinearProblem, state: Averaged, goal: np.ndarray, last: np.ndarray) -> Averaged:
        """The state after a few iterations of the running barycenters."""
        one = slice(None, None, self.count)
        left = np.where(state.status == None, np.minimum(self.max_iter - state.n_iter, _SWEEPS), 0)[one]  # noqa: E711
        at = problem.at(state.f, state.point, from_numpy(state.reg, state.f))
        tol, limit = (from_numpy(np.asarray(v, dtype=np.float64), state.f) for v in (goal[one], left))
        # Before the last stage nothing is debiased: a large blur is undone slowly.
        due = from_numpy(last[one], state.f)
        far = problem.penalties.coupling() > _FAR * from_numpy(problem.span, state.f)
        of = barycenter.Measures(
            problem.reduced, self.support, due, self.weights, problem.kernels.softmin, problem.penalties, far
        )
        new, point, own, done, mixing = barycenter.sweep(of, at, state.own, state.mixing, tol, limit)
        counted = np.repeat(to_numpy(done).astype(np.int64), self.count)
        went = counted > 0
        error = np.where(went, np.repeat(to_numpy(new.error), self.count), state.error)
        xp, items = namespace(state.f), from_numpy(went[:, None], state.f)
        whole = from_numpy(went[one][:, None], state.f)
        return replace(
            state,
            f=xp.where(items, new.f, state.f),
            g=xp.where(items, at.g, state.g),
            point=point,
            own=own,
            raised=xp.where(items, new.raised, state.raised),
            b=xp.where(whole, new.b, state.b),
            error=error,
            n_iter=state.n_iter + counted,
            used=state.used + counted,
            mixing=mixing,
        )

    def _next(self, problem: LinearProblem, state: Averaged, moving: np.ndarray, target: np.ndarray) -> Averaged:
        """The state with some barycenters at the next regularisation, from extrapolated potentials."""
        going = np.zeros(problem.items, dtype=bool)
        going[moving] = True
        reg = np.where(going, np.maximum(state.reg / self.factor, target), state.reg)
        known = going & np.isfinite(state.past_reg)
        ratio = np.where(known, (reg - state.reg) / np.where(known, state.reg - state.past_reg, 1.0), 0.0)
        one, like = slice(None, None, self.count), state.point
        point = like + from_numpy(ratio[:, None], like) * (like - state.past.dual)
        own = state.own + from_numpy(ratio[one, None], like) * (state.own - state.past_own)
        xp, whole = namespace(like), from_numpy(going[one, None], like)
        groups = np.flatnonzero(going[one])
        fresh = take(self._fresh(problem, point, own), groups)
        return replace(
            state,
            point=point,
            own=own,
            reg=reg,
            stages=state.stages + tuple(_stage(state, int(k)) for k in moving),
            used=np.where(going, 0, state.used),
            past=state.past.put(moving, state.iterates.take(moving)),
            past_own=xp.where(whole, state.own, state.past_own),
            past_reg=np.where(going, state.reg, state.past_reg),
            mixing=put(state.mixing, groups, fresh),
        )

    def _bounded(self, problem: LinearProblem, state: Averaged, items: np.ndarray, ends: np.ndarray) -> Averaged:
        """The state with better bounds of items due, some at the ends of stages, which converge if these are close."""
        used, small = state.used[items], self._small(problem, state.reg)
        # If a stage takes long, its iterations may diverge: the end of the one before may be the best there is.
        first = items[used == _SWEEPS]
        due = np.union1d(ends[small[ends]], items[used % _PATIENCE == 0])
        proofs = self._with_past(problem, state, first).bounded(problem, self.weights, due, state.iterates)
        new = np.union1d(first, due)
        close = new[proofs.close(problem, self.rtol)[new]] if new.size else new
        return replace(state, proofs=proofs).ended(close, Status.CONVERGED)

    def _small(self, problem: LinearProblem, reg: np.ndarray) -> np.ndarray:
        """Whether the end of a stage at this regularisation is worth bounds."""
        return np.asarray(reg * _BOUNDED <= self._shared(descent.top(problem)))

    def _with_past(self, problem: LinearProblem, state: Averaged, items: np.ndarray) -> Proofs:
        """The proofs with those of the previous stages' ends, where there are and their bounds are not known."""
        unknown = np.isfinite(state.past_reg) & ~self._small(problem, state.past_reg)
        return state.proofs.bounded(problem, self.weights, items[unknown[items]], state.past)

    def finish(self, problem: LinearProblem, state: Averaged, errors: np.ndarray) -> Averages:
        stages = state.stages + tuple(_stage(state, int(k)) for k in np.flatnonzero(state.used))
        if problem.reg is None:
            left = np.flatnonzero(state.status != Status.CONVERGED)
            proofs = self._with_past(problem, state, left).bounded(problem, self.weights, left, state.iterates)
            state = state.ended(left[proofs.close(problem, self.rtol)[left]], Status.CONVERGED)
            b, point = proofs.best.b, proofs.best.dual
            fixed, found = towards(problem, b), certified(problem, proofs.best)
            plan, f, g, tol = found.plan, found.f, found.g, np.full(problem.items, self.rtol)
        else:
            b, g, point = state.b, state.raised, state.point
            fixed, found, tol = towards(problem, b), None, self._tol(problem)
            f = fixed.update_rows(g, problem.reg)
            plan = (EntropicPlan(fixed.reduced, fixed.at(f, g, problem.reg), fixed.kernels),)
        error = marginal_error(fixed, plan, f, g)
        if self.support is not None:
            error = np.maximum(error, state.error)
        if problem.reg is not None:
            state = state.ended(np.flatnonzero((state.status == Status.CONVERGED) & (error > tol)), Status.STALLED)
        return Averages(
            f=f,
            g=g,
            reg=problem.reg,
            plan=plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=tol,
            n_iter=state.n_iter,
            errors=errors,
            stages=stages,
            b=b,
            point=point,
        )


def _stage(state: Averaged, item: int) -> Stage:
    return Stage(item, float(state.reg[item]), int(state.used[item]), float(state.error[item]))
