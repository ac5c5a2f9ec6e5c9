"""Optimal transport between many points of few coordinates, from coarse cells to fine ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from otkit.arrays import Array
from otkit.certificates.width import narrow, precise
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.exact.basis import GRAIN
from otkit.solvers.multiscale import entropic, vertex
from otkit.solvers.multiscale.bounds import Found, joined, proved, trivial
from otkit.solvers.multiscale.entropic import Effort, Plan
from otkit.solvers.multiscale.scale import Scale, coarsest

# Divisor of the regularisation between scales; and at the finest cells, if arcs are at most _FAR times too many.
_FACTOR, _FINEST, _FAR = 4.0, 2.0, 3.0
# At the finest cells the simplex takes over from plans of at most so many arcs for each cell, or where arcs no longer
# become fewer by this factor, or plans are further from the weights than _STALLED.
_ARCS, _FEWER, _STALLED = 14.0, 0.8, 0.05
# Up to so many cells, plans are settled to the last digits that matter; else only as far as the simplex needs.
_MANY = 8000
_SETTLED, _ROUGH = Effort(1e-6, 100, 12), Effort(1e-2, 10, 1)
# The gap of cells is about so many regularisations.
_GAP = 2.0
# Where the gap is at most so many times too wide, only the cells that carry this share of it are split.
_CLOSE, _SHARE = 4.0, 0.9
# Maximum number of pivots in a step.
_PIVOTS = 2**18


@dataclass(frozen=True)
class Refined(State):
    """A state with the scale that each item has reached."""

    scales: tuple[Scale, ...]
    found: tuple[Found | None, ...]

    def moved(self, k: int, scale: Scale, done: int, error: float) -> Refined:
        """The state with an item at another scale, after so many iterations."""
        n_iter, reg, errors = self.n_iter.copy(), self.reg.copy(), self.error.copy()
        n_iter[k], reg[k], errors[k] = n_iter[k] + done, scale.reg, error
        return replace(self, scales=_put(self.scales, k, scale), n_iter=n_iter, reg=reg, error=errors)


@dataclass(frozen=True)
class Multiscale(Solver[Refined]):
    """Transport between many points in up to three dimensions: entropic plans of ever finer cells, then the simplex.

    Attributes
    ----------
    rtol : float, optional
        Stop when ``upper − lower ≤ rtol·|upper|``, for all pairs of points and with rounding errors. By default the
        solution is exact.
    max_iter : int
        Maximum number of sweeps, Newton steps and pivots together.

    Notes
    -----
    Cells are nodes of a tree over the points of each side, of a variance proportional to the regularisation. The plan
    between cells is settled by Sinkhorn sweeps and Newton steps on the few arcs that matter (Schmitzer 2019). Their
    potentials are the start at the next scale, and the heaviest arcs that of a network simplex between cells or points.
    Pricing through trees adds arcs until none is left among all pairs.

    With `rtol`, the plan spreads the mass between two cells over their points by their weights: it is a `CellPlan`. The
    lower bound is of potentials at all points: an optimum of cells alone is no bound.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.random((2000, 2)), rng.random((2000, 2)) + 1
    >>> exact = otkit.solve_sample(x, y, method="multiscale")
    >>> near = otkit.solve_sample(x, y, method=otkit.Multiscale(rtol=1e-2))
    >>> bool(near.lower <= exact.value <= near.upper)
    True
    """

    rtol: float | None = None
    max_iter: int = 1_000_000_000
    name = "multiscale"
    refuses: ClassVar[Mapping[str, str]] = {
        "tol": "rtol= bounds the unregularised answer",
        "init": "it begins with coarse cells; drop init=, or use method='exact'",
    }

    def __post_init__(self) -> None:
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Refined:
        items = problem.items
        scales = tuple(coarsest(problem, k) for k in range(items))
        nothing, running = np.zeros(items), np.full(items, None, dtype=object)
        never, reg = np.full(items, np.inf), np.array([scale.reg for scale in scales])
        return Refined(problem.a, problem.b, reg, running, never, nothing.astype(np.int64), (), scales, (None,) * items)

    def step(self, problem: LinearProblem, state: Refined) -> Refined:
        for k in state.running.tolist():
            state = self._settle(state, k) if state.scales[k].basis is None else self._pivot(problem, state, k)
        return state

    def _pivot(self, problem: LinearProblem, state: Refined, k: int) -> Refined:
        """The state after a bounded number of pivots of an item; at the optimum, the end or finer cells."""
        scale, top = state.scales[k], float(descent.top(problem)[k])
        assert scale.basis is not None
        most = min(_PIVOTS, self.max_iter - int(state.n_iter[k]))
        basis, pivots, status = vertex.improved(scale.pairs, scale.basis, top, most)
        scale = replace(scale, basis=basis)
        state = state.moved(k, scale, pivots, basis.missing * 2 * GRAIN)
        if status is not Status.CONVERGED:
            return state if status is None else state.ended(np.array([k]), status)
        found = proved(problem, k, scale)
        state = replace(state, found=_put(state.found, k, found))
        lower, upper = found.certificate.lower, found.certificate.upper
        one = problem.take(np.array([k]))
        if self.rtol is not None and narrow(one, lower, upper, self.rtol, 0.0)[0]:
            return state.ended(np.array([k]), Status.CONVERGED)
        if scale.finest:
            exact = precise(one, lower, upper, self.rtol)[0]
            return state.ended(np.array([k]), Status.CONVERGED if exact else Status.IMPRECISE)
        assert self.rtol is not None
        wide = float((upper - lower)[0]) / (self.rtol * abs(float(upper[0])))
        return state.moved(k, _refined(scale, found, wide), 0, np.inf)

    def _settle(self, state: Refined, k: int) -> Refined:
        """The state after the entropic plan of the scale of an item; in the next scale, or with the first basis."""
        scale = state.scales[k]
        size = max(scale.rows.mass.size, scale.cols.mass.size)
        effort = _SETTLED if size <= _MANY else _ROUGH
        plan = entropic.settled(scale.pairs, scale.rows, scale.cols, scale.g, scale.reg, effort)
        arcs = plan.P.size
        state = replace(state, stages=(*state.stages, _stage(k, plan)))
        return state.moved(k, self._next(scale, plan, arcs, size), plan.n_iter, plan.error)

    def _next(self, scale: Scale, plan: Plan, arcs: int, size: int) -> Scale:
        """The next scale, or this one with the first basis."""
        if scale.finest:
            if _ARCS * size < arcs <= _FEWER * scale.arcs and plan.error <= _STALLED:
                return scale.finer(plan, scale.reg / (_FACTOR if arcs > _FAR * _ARCS * size else _FINEST), arcs)
            return replace(scale, basis=vertex.begin(scale.pairs, scale.rows, scale.cols, plan))
        wanted = 0.0 if self.rtol is None else self.rtol * plan.cost / _GAP
        if scale.last or scale.reg <= wanted:
            return replace(scale, basis=vertex.begin(scale.pairs, scale.rows, scale.cols, plan))
        reg = max(scale.reg / _FACTOR, wanted)
        return scale.finer(plan, reg, arcs, last=reg <= wanted)

    def finish(self, problem: LinearProblem, state: Refined, errors: np.ndarray) -> Outcome:
        found = [trivial(problem, k) if one is None else one for k, one in enumerate(state.found)]
        certificate = joined(problem, [one.certificate for one in found])
        return Outcome(
            f=certificate.f,
            g=certificate.g,
            reg=None,
            plan=certificate.plan,
            certificate=certificate,
            status=state.status,
            error=marginal_error(problem, certificate.plan, certificate.f, certificate.g),
            tol=np.full(problem.items, self.rtol or 0.0),
            n_iter=state.n_iter,
            errors=errors,
            stages=state.stages,
        )


def _refined(scale: Scale, found: Found, wide: float) -> Scale:
    """The scale with finer cells where the gap arises, which is so many times too wide."""
    large = np.concatenate([scale.rows.variance, scale.cols.variance]) > 0
    shares = np.where(large, np.concatenate(found.shares), 0.0)
    order = np.argsort(-shares)
    many = int(np.searchsorted(np.cumsum(shares[order]), _SHARE * shares.sum())) + 1
    chosen = np.zeros(shares.size, dtype=bool)
    chosen[order[:many]] = True
    if wide > _CLOSE or not (chosen & large).any():
        chosen[:] = True
    n = scale.rows.mass.size
    return scale.split(found.f, chosen[:n], chosen[n:], min(max(wide, 2.0), _FACTOR))


def _stage(item: int, plan: Plan) -> Stage:
    counts = dict(newton_steps=plan.steps, cg_steps=plan.cg_steps, kept=plan.P.size)
    return Stage(item, plan.reg, plan.n_iter, plan.error, **counts)


def _put(items: tuple[Any, ...], k: int, value: Any) -> tuple[Any, ...]:
    return (*items[:k], value, *items[k + 1 :])
