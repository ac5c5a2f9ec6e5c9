"""Optimal transport between many points of few coordinates, from coarse cells to fine ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from otkit.arrays import Array, from_numpy, renewed
from otkit.certificates.base import Certificate
from otkit.certificates.width import narrow, precise
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.exact.basis import GRAIN
from otkit.solvers.exact.solver import Exact, Pivoted, from_potentials
from otkit.solvers.multiscale import entropic, vertex
from otkit.solvers.multiscale.bounds import Found, at_points, joined, proved, trivial
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
# The plan of a scale does not settle if its error stays above _WILD, or above _LOOSE with less than _THIN arcs for each
# cell of the larger side: it is then nearly a vertex, which takes many sweeps. Towards the exact answer, the simplex
# goes on with all costs in a matrix, if these are at most _MATRIX, and _COPIES times those between places.
_WILD, _LOOSE, _THIN, _MATRIX, _COPIES = 2.5e-2, 1e-3, 6.0, 2**27, 2
# Maximum number of pivots in a step.
_PIVOTS = 2**18


@dataclass(frozen=True)
class Refined(State):
    """A state with the scale that each item has reached, or the bases of the items whose plans do not settle.

    Certificates are of the items that have one.
    """

    scales: tuple[Scale, ...]
    bases: tuple[Pivoted | None, ...]
    certificates: tuple[Certificate | None, ...]

    def moved(self, k: int, done: int, error: float, reg: float) -> Refined:
        """The state with these iterations of an item, its error and its regularisation."""
        n_iter, regs, errors = self.n_iter.copy(), self.reg.copy(), self.error.copy()
        n_iter[k], regs[k], errors[k] = n_iter[k] + done, reg, error
        return replace(self, reg=regs, n_iter=n_iter, error=errors)

    def put(self, k: int, **new: Any) -> Refined:
        """The state with another value of an item in some of the tuples."""
        old = {name: getattr(self, name) for name in new}
        return renewed(self, **{name: (*v[:k], new[name], *v[k + 1 :]) for name, v in old.items()})


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
    Pricing through trees adds arcs until none is left among all pairs. Where the plans of cells do not settle, and the
    costs fit into a matrix, the simplex prices its rows instead, as `Exact` does.

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
        scales, none = tuple(coarsest(problem, k) for k in range(items)), (None,) * items
        running, never = np.full(items, None, dtype=object), np.full(items, np.inf)
        reg, n_iter = np.array([scale.reg for scale in scales]), np.zeros(items, dtype=np.int64)
        return Refined(problem.a, problem.b, reg, running, never, n_iter, (), scales, none, none)

    def step(self, problem: LinearProblem, state: Refined) -> Refined:
        for k in state.running.tolist():
            if state.bases[k] is not None:
                state = self._price(problem, state, k, state.bases[k])
            elif state.scales[k].basis is not None:
                state = self._pivot(problem, state, k)
            else:
                state = self._settle(problem, state, k)
        return state

    def _settle(self, problem: LinearProblem, state: Refined, k: int) -> Refined:
        """The state after the entropic plan of the scale of an item: in the next scale, or with the first basis."""
        scale = state.scales[k]
        size = max(scale.rows.mass.size, scale.cols.mass.size)
        effort = _SETTLED if size <= _MANY else _ROUGH
        plan = entropic.settled(scale.pairs, scale.rows, scale.cols, scale.g, scale.reg, effort)
        first = not state.n_iter[k]  # from no potentials: the next scale may settle
        state = replace(state, stages=(*state.stages, _stage(k, plan))).moved(k, plan.n_iter, plan.error, scale.reg)
        unsettled = plan.error > max(effort.error, _WILD if plan.P.size > _THIN * size else _LOOSE)
        if unsettled and not first and self.rtol is None and _has_matrix(problem, scale):
            one = problem.take(np.array([k]))
            g = from_numpy(at_points(problem, k, scale, plan), problem.b)
            return state.put(k, bases=from_potentials(one, g, state.n_iter[k : k + 1]))
        return state.put(k, scales=self._next(scale, plan, plan.P.size, size))

    def _price(self, problem: LinearProblem, state: Refined, k: int, basis: Pivoted) -> Refined:
        """The state after a bounded number of pivots of an item whose plans do not settle."""
        one, exact = problem.take(np.array([k])), self._exact
        new = exact.pivot(one, basis)
        done, error = int(new.n_iter[0] - basis.n_iter[0]), float(new.error[0])
        state = state.moved(k, done, error, 0.0).put(k, bases=new)
        if not new.running.size:
            found = exact.finish(one, new, np.empty((0, 1)))
            state = state.put(k, certificates=found.certificate).ended(np.array([k]), found.status[0])
        return state

    @property
    def _exact(self) -> Exact:
        """The solver of items whose plans do not settle."""
        return Exact(rtol=self.rtol, max_iter=self.max_iter)

    def _pivot(self, problem: LinearProblem, state: Refined, k: int) -> Refined:
        """The state after a bounded number of pivots of an item; at the optimum, the end or finer cells."""
        scale, top = state.scales[k], float(descent.top(problem)[k])
        assert scale.basis is not None
        most = min(_PIVOTS, self.max_iter - int(state.n_iter[k]))
        basis, pivots, status = vertex.improved(scale.pairs, scale.basis, top, most)
        scale = replace(scale, basis=basis)
        state = state.moved(k, pivots, basis.missing * 2 * GRAIN, scale.reg).put(k, scales=scale)
        if status is not Status.CONVERGED:
            return state if status is None else state.ended(np.array([k]), status)
        found = proved(problem, k, scale)
        state = state.put(k, certificates=found.certificate)
        lower, upper = found.certificate.lower, found.certificate.upper
        one = problem.take(np.array([k]))
        if self.rtol is not None and narrow(one, lower, upper, self.rtol, 0.0)[0]:
            return state.ended(np.array([k]), Status.CONVERGED)
        if scale.finest:
            exact = precise(one, lower, upper, self.rtol)[0]
            return state.ended(np.array([k]), Status.CONVERGED if exact else Status.IMPRECISE)
        assert self.rtol is not None
        wide = float((upper - lower)[0]) / (self.rtol * abs(float(upper[0])))
        return state.put(k, scales=_refined(scale, found, wide))

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
        certificate = joined(problem, [self._certificate(problem, state, k) for k in range(problem.items)])
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

    def _certificate(self, problem: LinearProblem, state: Refined, k: int) -> Certificate:
        """The certificate of an item, at any time."""
        certificate, basis = state.certificates[k], state.bases[k]
        if certificate is not None:
            return certificate
        if basis is None:
            return trivial(problem, k).certificate
        stopped = basis.ended(np.zeros(1, dtype=np.int64), state.status[k])
        found = self._exact.finish(problem.take(np.array([k])), stopped, np.empty((0, 1))).certificate
        assert found is not None
        return found


def _has_matrix(problem: LinearProblem, scale: Scale) -> bool:
    """Whether the costs may be a matrix, and points that coincide do not make most of it."""
    rows, cols = (side.places.mass.size for side in scale.sides)
    return problem.reduced.n * problem.reduced.m <= min(_MATRIX, _COPIES * rows * cols)


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
