"""Exact solution of the unregularised problem: sweeps where they help, and the network simplex.

At a small regularisation the plan is close to an optimal vertex. Its largest entries form a forest that is nearly an
optimal basis. Where sweeps do not lead to such a plan in a short time, masses that go greedily along cheap arcs are a
basis too. The simplex prices rows of the cost matrix until no arc has a negative reduced cost, which proves optimality.

Costs of many points, and costs on a GPU, are not a matrix on the host. The simplex then makes the basis optimal among
the few arcs that carry mass, or may by the potentials of a sample. Pricing computes the reduced costs of all arcs and
adds arcs of negative reduced cost. Both are repeated until no such arc exists. Sparse costs are few arcs at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, put, take, to_numpy
from otkit.certificates.balanced import certify_plan
from otkit.certificates.base import Certificate, dual_bound, feasible
from otkit.certificates.width import EXACT, narrow, precise
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import pricing
from otkit.kernels.searches import searches
from otkit.plans import Arcs, Plan, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status, marginal_error
from otkit.solvers import descent
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.descent import Annealed
from otkit.solvers.exact import approach, products
from otkit.solvers.exact.approach import Approach
from otkit.solvers.exact.basis import (
    GRAIN,
    ROUNDING,
    Basis,
    Vertex,
    cold,
    entries_with_mass,
    judged,
    matrix_of,
    warm,
)
from otkit.solvers.exact.listed import begin, cheaper, from_ranks, whole
from otkit.solvers.exact.outliers import reconsidered, vertex
from otkit.solvers.exact.products import Sampled
from otkit.solvers.exact.unfinished import completed
from otkit.solvers.sns.solver import SparseNewton

# Maximum number of entries with which the simplex starts at once: sweeps take as long or longer (16 to 61 ms instead of
# 12 to 59 ms for 1000 points, in ten families of benchmarks/compare/exact.py).
_ALL = 2**20
# Maximum number of costs between points with mass that are formed as a matrix, and of costs on a GPU that are copied.
_FORMED, _COPIED = 2**24, 2**18
# Surcharge of artificial arcs: relative to the final regularisation of sweeps, and to the range of the costs with
# potentials of the caller, of which no regularisation is known.
_SURCHARGE, _GIVEN = 8.0, 2.0**-10
# Where only some arcs are known: the final regularisation of annealing, times the number of points; its maximum; and
# the error to reach there.
_REG, _REG_MOST, _ERROR = 3.0, 3e-3, 0.1
# The part of a certificate that potentials prove.
_DUAL = ("lower", "f", "g", "rounding")
# Maximum number of pivots of an item in a step, and of entries that these read: a second of work. Items from a million
# costs take turns.
_PIVOTS, _READ = 2**15, 2**31


@dataclass(frozen=True)
class Pivoted(State):
    """A state with the basis of each item."""

    bases: tuple[Basis, ...]


@dataclass(frozen=True)
class Exact(Solver[Annealed | Sampled | Pivoted]):
    """An optimal vertex of the unregularised problem: sweeps where they help, then the network simplex.

    Attributes
    ----------
    reg : float, optional
        The regularisation at which the simplex takes over, in units of the range of the costs. By default, sweeps end
        when rows of the plan have about 16 entries, or when it shows that sweeps do not help. Many points, and costs
        on a GPU, are annealed to 3 divided by the number of points of the larger side, and at most 3e-3. Squared
        distances of many points with more than three coordinates start from the potentials of a sample instead.
    rtol : float, optional
        Width of the interval, relative to its upper end, up to which an item counts as converged. By default the
        interval counts as exact up to 1e-9, relative to the optimum or to the range of the costs without outliers. For
        the p-th power of a distance this is p times as much.
    max_iter : int
        Maximum number of sweeps, Newton steps and pivots together.

    Notes
    -----
    Annealing with a crossover to a basis follows Ge, Wang, Xiong & Ye (2021). Pivots on strongly feasible trees follow
    Cunningham (1976) and cannot cycle. The tree is that of LEMON's simplex (Király & Kovács 2012). Where few arcs are
    known, pricing of all arcs adds others (the few arcs are a sparse neighbourhood in the words of Schmitzer 2016).
    Masses are rounded to 2⁻⁶² of the total, so that flows are exact. The plan has at most n + m − 1 entries, on which
    the potentials equal the costs.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75], method="exact")
    >>> float(result.value)
    0.25
    """

    reg: float | None = None
    rtol: float | None = None
    max_iter: int = 10_000_000
    name = "exact"
    refuses: ClassVar[Mapping[str, str]] = {"tol": "rtol= bounds the unregularised answer"}

    def __post_init__(self) -> None:
        check_options(self)
        checks.positive(self.reg, "reg")

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed | Sampled | Pivoted:
        start, by_rows = start and _feasible(problem, start[1]), has_rows(problem)
        if problem.geometry.stored is not None:
            return _from_arcs(problem, start)
        if self.reg is None and products.applies(problem):
            return products.begin(problem) if start is None else _from_products(problem, start[1])
        small = by_rows and entries_with_mass(problem) <= _ALL
        if start is not None and not by_rows and searches(problem.geometry):
            return _from_ranks(problem, *start)
        anneals = not small and (not by_rows or self.reg is not None)
        if anneals:
            return self._rough.init(self._entropic(problem), start)
        if start is not None:
            return from_potentials(problem, start[1], np.zeros(problem.items, dtype=np.int64))
        return _from_masses(problem) if small else self._approached(problem, approach.begin(problem))

    def step(self, problem: LinearProblem, state: Annealed | Sampled | Pivoted) -> Annealed | Sampled | Pivoted:
        if isinstance(state, Pivoted):
            return self.pivot(problem, state)
        if isinstance(state, Sampled):
            swept = int(state.n_iter[0]) > products.SWEEPS
            return _from_products(problem, state.g, state) if swept else products.sweep(problem, state)
        if isinstance(state, Approach):
            return self._approached(problem, approach.sweep(state, self.max_iter))
        return self._anneal(problem, state)

    def _approached(self, problem: LinearProblem, state: Approach) -> Approach | Pivoted:
        """The state of the sweeps; at their end, the state with the initial bases."""
        if state.running.size or (state.n_iter >= self.max_iter).any():
            return state
        found = _from_plans(state.core, (state.f, state.g), state.reg, state)
        bases = (replace(basis, rows=state.rows[basis.rows], cols=state.cols[basis.cols]) for basis in found.bases)
        return replace(found, f=problem.a, g=problem.b, bases=tuple(bases))

    @property
    def _rough(self) -> SparseNewton:
        """The solver of the descent where only some arcs are known, or to a given regularisation."""
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
        return _from_plans(problem, (found.f, found.g), to_numpy(found.reg), found)

    def pivot(self, problem: LinearProblem, state: Pivoted) -> Pivoted:
        """A bounded number of pivots of each item, towards an optimal basis."""
        costs = _read(problem)
        bases, n_iter = list(state.bases), state.n_iter.copy()
        turn = state.running[:1] if entries_with_mass(problem) > _ALL else state.running
        for k in turn:
            most = min(_PIVOTS, self.max_iter - int(n_iter[k]))
            bases[k], pivots, status = _improved(problem, costs, bases[k], int(k), most)
            n_iter[k] += pivots
            if status is not None:
                state = state.ended(np.array([k]), status)
        error = np.array([basis.missing * 2 * GRAIN for basis in bases])
        return replace(state, bases=tuple(bases), n_iter=n_iter, error=error)

    def finish(self, problem: LinearProblem, state: Annealed | Sampled | Pivoted, errors: np.ndarray) -> Outcome:
        if isinstance(state, Sampled):
            state = replace(_from_products(problem, state.g, state), status=state.status)
        if not isinstance(state, Pivoted):  # stopped during the descent, while finished items waited for the others
            cause = Status.MAX_ITER if (state.n_iter >= self.max_iter).any() else Status.STOPPED
            state = state.ended(np.flatnonzero(state.status == Status.CONVERGED), cause)
            state = state.whole(problem) if isinstance(state, Approach) else state
            return replace(Annealing().finish(problem, state, errors), tol=np.zeros(problem.items))
        size = problem.reduced.n, problem.reduced.m
        prices = zip(*(basis.prices(*size) for basis in state.bases), strict=True)
        # Prices contain the cost of artificial arcs as a constant, which has no effect except on rounding. Remove it.
        _, g = problem.centred(*(from_numpy(np.stack(v), problem.a) for v in prices))
        state, found = _certified(problem, state, g, self.rtol)
        error = marginal_error(problem, found.plan, found.f, found.g)
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=found.plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=np.full(problem.items, self.rtol or 0.0),
            n_iter=state.n_iter,
            errors=errors,
            stages=state.stages,
        )


def _certified(problem: LinearProblem, state: Pivoted, g: Array, rtol: float | None) -> tuple[Pivoted, Certificate]:
    """The certificate of optimal bases, and the state that says which intervals are too wide to count as exact."""
    costs, done = _read(problem), state.status == Status.CONVERGED
    whole = np.array([basis.missing == 0 for basis in state.bases]) | done
    weights = list(zip(to_numpy(problem.a), to_numpy(problem.b), strict=True))
    ends = [basis.vertex(*pair) for basis, pair in zip(state.bases, weights, strict=True)]
    for k in np.flatnonzero(~whole & ~problem.forbidden):
        ends[k], whole[k] = completed(costs, int(k), ends[k], *weights[k]), True
    dual = _dual(problem, g)
    found = _of_plans(problem, dual, ends, whole)
    wide = done & _is_wide(problem, found, rtol)
    if wide.any():
        # Masses that are computed exactly leave no defect, which would have to be repaired at the largest cost.
        for k in np.flatnonzero(wide):
            ends[k] = vertex(costs, int(k), state.bases[k], *weights[k], float(problem.mass[k]))
        found = _of_plans(problem, dual, ends, whole)
        wide = wide & _is_wide(problem, found, rtol)
    if not done.all() or wide.any():
        # Prices may be far larger than the costs that matter, and then round more than 0, which is feasible too; or
        # they may be those of an early basis.
        other = _of_plans(problem, _dual(problem, 0.0 * g), ends, whole)
        items = np.flatnonzero((wide | ~done) & (other.lower > found.lower))
        best = {name: put(getattr(found, name), items, take(getattr(other, name), items)) for name in _DUAL}
        found = replace(found, **best)
    state = state.ended(np.flatnonzero(done & ~precise(problem, found.lower, found.upper, rtol)), Status.IMPRECISE)
    return state, found


def _dual(problem: LinearProblem, g: Array) -> tuple[Array, Array]:
    """Feasible potentials from those of the columns."""
    return products.feasible(problem, g) if products.applies(problem) else feasible(problem, g=g)


def _is_wide(problem: LinearProblem, found: Certificate, rtol: float | None) -> np.ndarray:
    """Which intervals are finite, and too wide to count as exact relative to the optimum."""
    return (found.upper < np.inf) & ~narrow(problem, found.lower, found.upper, rtol or EXACT, 0.0)


def _of_plans(problem: LinearProblem, dual: tuple[Array, Array], ends: list[Vertex], whole: np.ndarray) -> Certificate:
    """The certificate of plans and of feasible potentials; only some of the plans are `whole`."""
    plan, linear = of_vertices(problem, ends)
    defect = np.array([end.defect for end in ends])
    return certify_plan(problem, *dual, plan, np.where(whole, linear, np.inf), defect)


def of_vertices(problem: LinearProblem, ends: Sequence[Vertex]) -> tuple[tuple[Plan, ...], np.ndarray]:
    """The plan of all items from those of each, and its reduced cost ``(B,)``."""
    rows, cols, mass, cost, _ = zip(*ends, strict=True)
    item = np.repeat(np.arange(problem.items), [m.size for m in mass])
    arcs = Arcs(item, *(np.concatenate(v) for v in (rows, cols, mass)))
    plan = SparsePlan((problem.items, problem.reduced.n, problem.reduced.m), arcs, problem.a)
    return (plan,), np.array([m @ c for m, c in zip(mass, cost, strict=True)])


def _feasible(problem: LinearProblem, g: Array) -> tuple[Array, Array] | None:
    """Feasible potentials from the given ones of the columns; None if these are no better than zeros for some item.

    The dual of the reduced costs is 0 at zero potentials. Wild potentials would spoil the prices, and the tolerances
    that follow from their size.
    """
    f, g = problem.centred(*feasible(problem, g=g))
    return (f, g) if (dual_bound(problem, f, g) > 0).all() else None


def has_rows(problem: LinearProblem) -> bool:
    """Whether the costs are a matrix on the host, or few enough to become one, so that the simplex can price rows."""
    costs = problem.reduced
    if isinstance(problem.geometry.matrix, np.ndarray):
        return True
    if not isinstance(problem.a, np.ndarray):
        return costs.n * costs.m <= _COPIED
    return (costs.n * costs.m if costs.bordered is not None else entries_with_mass(problem)) <= _FORMED


def _read(problem: LinearProblem) -> Reduced:
    """The costs that the simplex reads: on the host if it prices rows or trees search them, else where they are."""
    on_host = has_rows(problem) or searches(problem.reduced)
    return problem.reduced.to_numpy() if on_host else problem.reduced


def _pivoted(problem: LinearProblem, bases: Iterable[Basis], n_iter: np.ndarray, log: tuple[Stage, ...]) -> Pivoted:
    """The state before the first pivot."""
    items = problem.items
    nothing, running = np.zeros(items), np.full(items, None, dtype=object)
    return Pivoted(problem.a, problem.b, nothing, running, np.full(items, np.inf), n_iter, log, tuple(bases))


def _from_masses(problem: LinearProblem) -> Pivoted:
    """The state with bases of masses that go greedily."""
    costs, none = problem.reduced.to_numpy(), np.zeros(problem.items, dtype=np.int64)
    return _pivoted(problem, (cold(problem, costs, k) for k in range(problem.items)), none, ())


def from_potentials(problem: LinearProblem, g: Array, n_iter: np.ndarray) -> Pivoted:
    """The state with bases from given potentials of the columns, after so many iterations of another method."""
    costs = problem.reduced.to_numpy()
    surcharge, prices = _GIVEN * descent.top(problem), to_numpy(g)
    bases = (warm(problem, costs, k, prices[k], surcharge[k]) for k in range(problem.items))
    return _pivoted(problem, bases, n_iter, ())


def _from_ranks(problem: LinearProblem, f: Array, g: Array) -> Pivoted:
    """The state with bases from feasible potentials, where trees search the costs."""
    costs, none, f, g = problem.reduced.to_numpy(), np.zeros(problem.items, dtype=np.int64), to_numpy(f), to_numpy(g)
    return _pivoted(problem, (from_ranks(problem, costs, k, f[k], g[k]) for k in range(problem.items)), none, ())


def _from_products(problem: LinearProblem, g: Array, swept: Sampled | None = None) -> Pivoted:
    """The state with the basis from potentials of the columns, where products of matrices evaluate the costs."""
    n_iter = np.zeros(1, dtype=np.int64) if swept is None else swept.n_iter
    return _pivoted(problem, [products.basis(problem, g[0])], n_iter, ())


def _from_arcs(problem: LinearProblem, start: tuple[Array, Array] | None) -> Pivoted:
    """The state with bases of masses that go greedily, where all arcs are listed."""
    costs, none = problem.reduced.to_numpy(), np.zeros(problem.items, dtype=np.int64)
    f, g = start or (np.zeros(problem.a.shape), np.zeros(problem.b.shape))
    return _pivoted(problem, (whole(problem, costs, k, f[k], g[k]) for k in range(problem.items)), none, ())


def _from_plans(
    problem: LinearProblem, potentials: tuple[Array, Array], reg: np.ndarray, found: Approach | Outcome
) -> Pivoted:
    """The state with bases from entropic plans, or from masses where sweeps did not help."""
    costs = _read(problem)
    f, g, log_a, log_b = (to_numpy(v) for v in (*potentials, problem.log_a, problem.log_b))
    at, bases = Potentials(f, g, log_a, log_b, reg), []
    for k in range(problem.items):
        if not has_rows(problem):
            bases.append(begin(problem, costs, at, k))
        elif isinstance(found, Approach) and not found.helps[k]:
            bases.append(cold(problem, costs, k))
        else:
            absorbed = f[k] + reg[k] * log_a[k], g[k] + reg[k] * log_b[k]
            bases.append(warm(problem, costs, k, g[k], _SURCHARGE * reg[k], absorbed))
    log = descent.log(found) if isinstance(found, Approach) else found.stages
    return _pivoted(problem, bases, found.n_iter, log)


def _improved(
    problem: LinearProblem, costs: Reduced, basis: Basis, item: int, most: int
) -> tuple[Basis, int, Status | None]:
    """The basis of an item after at most so many pivots, their number, and the status if it is final."""
    scale, points, done = min(float(descent.top(problem)[item]), basis.limit), costs.n + costs.m, 0
    largest = scale if basis.limit == np.inf else 0.0  # without outliers, rounding is relative to the prices
    matrix = basis.matrix
    if matrix is None and basis.by_rows:
        matrix = matrix_of(problem, costs, item, basis.rows, basis.cols, basis.limit)
    C, single = matrix[:2] if matrix is not None else (np.empty((0, basis.cols.size), t) for t in "df")
    while done < most:
        listed = C, single, basis.listed, basis.tree, basis.rows.size, basis.by_rows
        pivots, optimal = pricing.solve(*listed, ROUNDING, largest, most - done, _READ)
        done += pivots
        if not optimal:
            break
        price = products.cheaper if products.applies(problem) else cheaper
        new = None if basis.by_rows else price(problem, costs, basis, item)
        if new is not None:
            return new, done, None
        basis, status = judged(basis, scale, points)
        if status is not None:
            new = reconsidered(problem, costs, basis, item, status)
            return (replace(basis, matrix=None), done, status) if new is None else (new, done, None)
    return basis, done, None
