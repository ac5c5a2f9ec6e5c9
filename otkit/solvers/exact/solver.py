"""Exact solution of the unregularised problem: annealing, the network simplex on few arcs, and pricing of all arcs.

At a small regularisation the plan is close to an optimal vertex. Its largest entries form a forest that is nearly an
optimal basis. The network simplex makes it optimal among the few arcs that carry mass. Pricing then computes the
reduced costs of all arcs and adds arcs of negative reduced cost. Both are repeated until no such arc exists, which
proves optimality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, to_numpy
from otkit.certificates.balanced import certify_plan
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import pricing
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.descent import Annealed
from otkit.solvers.exact.basis import GRAIN, ROUNDING, Basis, cold, given, judged, matrix
from otkit.solvers.exact.listed import begin, cheaper
from otkit.solvers.sns.solver import SparseNewton

# Maximum number of entries with which the simplex starts at once, without annealing.
_ALL = 2**18
# Final regularisation of annealing, times the number of points; its maximum; and the error to reach there.
_REG, _REG_MOST, _ERROR = 3.0, 3e-3, 0.1
# Maximum number of pivots in a step.
_PIVOTS = 2**15


@dataclass(frozen=True)
class Pivoted(State):
    """A state with the basis of each item."""

    bases: tuple[Basis, ...]


@dataclass(frozen=True)
class Exact(Solver[Annealed | Pivoted]):
    """An optimal vertex of the unregularised problem: Sinkhorn-Newton-Sparse, then the network simplex.

    Attributes
    ----------
    reg : float, optional
        The regularisation at which the simplex takes over, in units of the range of the costs. By default 3 divided by
        the number of points of the larger side, and at most 3e-3. A plan in the plane then has a few dozen entries for
        each point.
    max_iter : int
        Maximum number of sweeps and Newton steps of the descent and of pivots together.

    Notes
    -----
    Annealing with a crossover to a basis follows Ge, Wang, Xiong & Ye (2021). Pivots on strongly feasible trees follow
    Cunningham (1976) and cannot cycle. Arcs are added by pricing all arcs (the few arcs are a sparse neighbourhood in
    the words of Schmitzer 2016). Masses are rounded to 2⁻⁶² of the total, so that flows are exact. The plan has at most
    n + m − 1 entries, on which the potentials equal the costs.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75], method="exact")
    >>> float(result.value)
    0.25
    """

    reg: float | None = None
    max_iter: int = 10_000_000
    name = "exact"
    refuses: ClassVar[Mapping[str, str]] = {
        "tol": "rtol= bounds the unregularised answer",
        "rtol": "it is exact; method='annealing' or 'auto' stops at an interval",
    }

    def __post_init__(self) -> None:
        check_options(self)
        checks.positive(self.reg, "reg")

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed | Pivoted:
        if problem.reduced.n * problem.reduced.m <= _ALL:
            return _pivoted(problem, start)
        return self._rough.init(self._entropic(problem), start)

    def step(self, problem: LinearProblem, state: Annealed | Pivoted) -> Annealed | Pivoted:
        return self._pivot(problem, state) if isinstance(state, Pivoted) else self._anneal(problem, state)

    @property
    def _rough(self) -> SparseNewton:
        """The solver of the descent."""
        return SparseNewton(tol=_ERROR, max_iter=min(self.max_iter, SparseNewton.max_iter))

    def _entropic(self, problem: LinearProblem) -> LinearProblem:
        """The problem with the final regularisation of the descent."""
        reg = self.reg or min(_REG_MOST, _REG / max(problem.reduced.n, problem.reduced.m))
        return replace(problem, reg=from_numpy(descent.top(problem) * reg, problem.a))

    def _anneal(self, problem: LinearProblem, state: Annealed) -> Annealed | Pivoted:
        """A step of the descent; at its end, the state with the initial bases."""
        entropic, rough = self._entropic(problem), self._rough
        state = rough.step(entropic, state)
        if (state.n_iter[state.running] < rough.max_iter).any() or (state.n_iter >= self.max_iter).any():
            return state
        found = rough.finish(entropic, state, np.empty((0, problem.items)))
        costs = problem.reduced.to_numpy()
        f, g, log_a, log_b = (to_numpy(v) for v in (found.f, found.g, problem.log_a, problem.log_b))
        at = Potentials(f, g, log_a, log_b, to_numpy(found.reg))
        bases = tuple(begin(problem, costs, at, k) for k in range(problem.items))
        return Pivoted(**vars(_before(problem, found.n_iter, found.stages)), bases=bases)

    def _pivot(self, problem: LinearProblem, state: Pivoted) -> Pivoted:
        """A bounded number of pivots of each item, towards an optimal basis."""
        costs = problem.reduced.to_numpy()
        bases, n_iter = list(state.bases), state.n_iter.copy()
        for k in state.running:
            most = min(_PIVOTS, self.max_iter - int(n_iter[k]))
            bases[k], pivots, status = _improved(problem, costs, bases[k], int(k), most)
            n_iter[k] += pivots
            if status is not None:
                state = state.ended(np.array([k]), status)
        error = np.array([basis.missing * 2 * GRAIN for basis in bases])
        return replace(state, bases=tuple(bases), n_iter=n_iter, error=error)

    def finish(self, problem: LinearProblem, state: Annealed | Pivoted, errors: np.ndarray) -> Outcome:
        if not isinstance(state, Pivoted):  # stopped during the descent, while finished items waited for the others
            cause = Status.MAX_ITER if (state.status == Status.MAX_ITER).any() else Status.STOPPED
            state = state.ended(np.flatnonzero(state.status == Status.CONVERGED), cause)
            return replace(Annealing().finish(problem, state, errors), tol=np.zeros(problem.items))
        shape = problem.items, problem.reduced.n, problem.reduced.m
        prices = zip(*(basis.prices(*shape[1:]) for basis in state.bases), strict=True)
        # Prices contain the cost of artificial arcs as a constant, which has no effect except on rounding. Remove it.
        _, g = problem.centred(*(from_numpy(np.stack(v), problem.a) for v in prices))
        weights = zip(to_numpy(problem.a), to_numpy(problem.b), strict=True)
        ends = [basis.vertex(*pair) for basis, pair in zip(state.bases, weights, strict=True)]
        rows, cols, mass, cost, defect = zip(*ends, strict=True)
        item = np.repeat(np.arange(problem.items), [m.size for m in mass])
        arcs = Arcs(item, *(np.concatenate(v) for v in (rows, cols, mass)))
        plan = (SparsePlan(shape, arcs, problem.a),)
        linear = np.array([m @ c for m, c in zip(mass, cost, strict=True)])
        whole = np.array([basis.missing == 0 for basis in state.bases]) | (state.status == Status.CONVERGED)
        found = certify_plan(problem, g, plan, np.where(whole, linear, np.inf), np.array(defect))
        error = marginal_error(problem, plan, found.f, found.g)
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=np.zeros(problem.items),
            n_iter=state.n_iter,
            errors=errors,
            stages=state.stages,
        )


def _before(problem: LinearProblem, n_iter: np.ndarray, log: tuple[Stage, ...]) -> State:
    """The state before the first pivot."""
    items = problem.items
    nothing, running = np.zeros(items), np.full(items, None, dtype=object)
    return State(problem.a, problem.b, nothing, running, np.full(items, np.inf), n_iter, log)


def _pivoted(problem: LinearProblem, start: tuple[Array, Array] | None) -> Pivoted:
    """The state before the first pivot, without annealing."""
    costs, scale = problem.reduced.to_numpy(), descent.top(problem)
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    if start is None:
        bases = (cold(costs, k, a[k], b[k], scale[k]) for k in range(problem.items))
    else:
        g = to_numpy(start[1])
        bases = (given(costs, k, a[k], b[k], g[k], scale[k]) for k in range(problem.items))
    return Pivoted(**vars(_before(problem, np.zeros(problem.items, dtype=np.int64), ())), bases=tuple(bases))


def _improved(
    problem: LinearProblem, costs: Reduced, basis: Basis, item: int, most: int
) -> tuple[Basis, int, Status | None]:
    """The basis of an item after at most so many pivots, their number, and the status if it is final."""
    scale, points, done = float(descent.top(problem)[item]), costs.n + costs.m, 0
    C = matrix(costs, item, basis.rows, basis.cols) if basis.by_rows else np.empty((0, basis.cols.size))
    while done < most:
        listed = C, basis.listed, basis.tree, basis.rows.size, basis.by_rows
        pivots, optimal = pricing.solve(*listed, ROUNDING, scale, most - done)
        done += pivots
        if not optimal:
            break
        new = None if basis.by_rows else cheaper(problem, costs, basis, item)
        if new is not None:
            return new, done, None
        basis, status = judged(basis, scale, points)
        if status is not None:
            return basis, done, status
    return basis, done, None
