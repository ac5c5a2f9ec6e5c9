"""The unregularised problem exactly: annealing to few arcs, the network simplex on them, and pricing of all arcs.

At a small regularisation the plan is close to an optimal vertex, and its largest entries form a forest that is nearly
an optimal basis. The network simplex mends what is wrong with it, on the few arcs that carry anything. Its prices are
then held against all arcs; those that are too cheap come in, and so on until there are none. That proves optimality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, to_numpy
from otkit.certify import certify_plan
from otkit.geometry.costs import UNIT
from otkit.kernels import Potentials, Reduced, c_transform, select
from otkit.kernels import numba_simplex as simplex
from otkit.linalg import SpanningTree, heaviest_forest
from otkit.plans import Arcs, SparsePlan
from otkit.problems import LinearProblem
from otkit.results import Outcome, Stage, Status, marginal_error
from otkit.solvers import stages
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver, State
from otkit.solvers.newton import SparseNewton
from otkit.solvers.stages import Annealed

# Masses are whole multiples of this.
_GRAIN = 2.0**-62
# Up to so many entries all arcs are taken in from the start; that is quicker than to find out which matter.
_ALL = 2**16
# The regularisation to come down to, times the number of points and at most, and the error there.
_REG, _REG_MOST, _ERROR = 3.0, 3e-3, 0.1
# The arcs to begin with are the entries of the plan above this share of the mean entry of their row: the first share
# that leaves fewer than so many a node.
_SHARES, _MOST = (1e-6, 1e-3, 0.1, 1.0, 10.0), 32
# Arcs that a row gets in a round of pricing, at most.
_NEW = 4
# Reduced costs above minus this, in units of the largest cost or price, are taken for rounding: by the simplex, and
# when all arcs are priced, where another order of the operations gives other last digits.
_ROUNDING, _PRICED = 16 * UNIT, 32 * UNIT
# The first price of a unit of mass on an artificial arc, relative to the range of the costs, and what it grows by.
_PENALTY, _DEARER = 4.0, 64.0


@dataclass(frozen=True)
class _Basis:
    """The arcs of an item that are looked at, and the tree of those that are in its basis.

    Attributes
    ----------
    tails, heads : array of int (K,)
        Rows, and columns counted on from the rows.
    costs : array (K,)
        Reduced costs.
    penalty : float
        The price of artificial arcs.
    tree : simplex.Tree
        Pivots change it in place.
    """

    tails: np.ndarray
    heads: np.ndarray
    costs: np.ndarray
    penalty: float
    tree: simplex.Tree

    @property
    def missing(self) -> int:
        """The mass on artificial arcs."""
        return int(self.tree.flow[self.tree.arc < 0].sum())

    def size(self, scale: float) -> float:
        """The largest number among costs and prices, which decides how reduced costs round."""
        pi = self.tree.pi[:-1]
        if not self.missing:  # the price of artificial arcs is in all of them, and of no effect
            pi -= pi.mean()
        return max(scale, float(abs(pi).max()))

    def vertex(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
        """Row, column, mass and cost of the arcs of the basis, and how far their sums are from the weights in L1.

        The masses are those of the weights as they are, by differences from the leaves of the tree up.
        """
        nodes = a.size + b.size
        arc = self.tree.arc[:nodes]
        parent = np.where(arc >= 0, self.tree.parent[:nodes], -1)
        order, nothing = np.argsort(self.tree.depth[:nodes], kind="stable"), np.zeros(nodes)
        flow, _, defect = SpanningTree(a.size, order, parent, nothing, nothing).flows(np.concatenate([a, b]))
        k, mass = arc[arc >= 0], flow[arc >= 0]
        defect -= 2 * float(mass[mass < 0].sum())  # of a grain that rounding has taken
        mass = np.maximum(mass, 0.0)
        return self.tails[k], self.heads[k] - a.size, mass, self.costs[k], np.array(defect)


@dataclass(frozen=True)
class Pivoted(State):
    """A state with the basis of each item."""

    bases: tuple[_Basis, ...]


@dataclass(frozen=True)
class Exact(Solver):
    """The unregularised problem, to an optimal vertex: Sinkhorn-Newton-Sparse, then the network simplex.

    Attributes
    ----------
    reg : float, optional
        What the regularisation comes down to before the simplex takes over, in units of the range of the costs. By
        default 3 divided by the number of points of the larger side, and at most 3e-3: then a plan in the plane has a
        few dozen entries for each point.
    max_iter : int
        Sweeps and Newton steps on the way down, and pivots.

    Notes
    -----
    Annealing with a crossover to a basis after Ge, Wang, Xiong & Ye (2021); pivots on strongly feasible trees after
    Cunningham (1976), which cannot cycle; arcs come in by pricing all of them (Schmitzer 2016 calls the few a sparse
    neighbourhood). Masses are rounded to 2⁻⁶² of the total, so that flows are exact. The plan has at most n + m − 1
    entries, and the potentials meet the costs on all of them.

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

    def __post_init__(self) -> None:
        checks.solver_options(self)
        checks.positive(self.reg, "reg")

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        if problem.reduced.n * problem.reduced.m <= _ALL:
            prices, reg = (problem.a * 0.0, problem.b * 0.0), np.full(problem.items, np.nan)
            return _pivoted(problem, prices, reg, np.zeros(problem.items, dtype=np.int64), ())
        return self._rough.init(self._entropic(problem), start)

    def step(self, problem: LinearProblem, state: State) -> State:
        return self._pivot(problem, state) if isinstance(state, Pivoted) else self._anneal(problem, state)

    @property
    def _rough(self) -> SparseNewton:
        """The way down."""
        return SparseNewton(tol=_ERROR, max_iter=min(self.max_iter, SparseNewton.max_iter))

    def _entropic(self, problem: LinearProblem) -> LinearProblem:
        """The problem with the regularisation to come down to."""
        reg = self.reg or min(_REG_MOST, _REG / max(problem.reduced.n, problem.reduced.m))
        return replace(problem, reg=from_numpy(stages.top(problem) * reg, problem.a))

    def _anneal(self, problem: LinearProblem, state: State) -> State:
        """A step of the way down, and from its end to the bases."""
        assert isinstance(state, Annealed)
        entropic, rough = self._entropic(problem), self._rough
        state = rough.step(entropic, state)
        if (state.n_iter[state.running] < rough.max_iter).any() or (state.n_iter >= self.max_iter).any():
            return state
        found = rough.finish(entropic, state, np.empty((0, problem.items)))
        return _pivoted(problem, (found.f, found.g), to_numpy(found.reg), found.n_iter, found.stages)

    def _pivot(self, problem: LinearProblem, state: Pivoted) -> Pivoted:
        """Pivots on the arcs of each item until they are optimal among these, and pricing."""
        costs = problem.reduced.to_numpy()
        bases, n_iter = list(state.bases), state.n_iter.copy()
        # Sums of weights that should be equal on both sides of forbidden arcs differ by this.
        rounding = 16 * (costs.n + costs.m) * UNIT
        for k in state.running:
            scale, basis = float(stages.top(problem)[k]), bases[k]
            arcs = basis.tails, basis.heads, basis.costs, basis.penalty, _ROUNDING * basis.size(scale)
            n_iter[k] += simplex.solve(*arcs, self.max_iter - n_iter[k], basis.tree)
            new = _cheaper(problem, costs, basis, int(k), _PRICED * basis.size(scale))
            if new is not None:
                bases[k] = new
            elif not basis.missing or (basis.penalty > _PENALTY * scale and basis.missing * _GRAIN <= rounding):
                state = state.ended(np.array([k]), Status.CONVERGED)
            elif basis.penalty > _DEARER * (costs.n + costs.m) * scale:
                state = state.ended(np.array([k]), Status.INFEASIBLE)
            else:
                bases[k] = _dearer(basis)
        error = np.array([basis.missing * 2 * _GRAIN for basis in bases])
        return replace(state, bases=tuple(bases), n_iter=n_iter, error=error)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        if not isinstance(state, Pivoted):  # stopped on the way down, where items that had come to its end waited
            cause = Status.MAX_ITER if (state.status == Status.MAX_ITER).any() else Status.STOPPED
            state = state.ended(np.flatnonzero(state.status == Status.CONVERGED), cause)
            return replace(Annealing().finish(problem, state, errors), tol=np.zeros(problem.items))
        n, shape = problem.reduced.n, (problem.items, problem.reduced.n, problem.reduced.m)
        pi = np.stack([basis.tree.pi[:-1] for basis in state.bases])
        # Prices carry that of artificial arcs, which are gone: a constant, and of no effect but for its rounding.
        _, g = problem.centred(*(from_numpy(v.copy(), problem.a) for v in (-pi[:, :n], pi[:, n:])))
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
            found.f, found.g, None, plan, found, state.status, error, np.zeros(problem.items), state.n_iter, errors,
            state.stages,
        )  # fmt: skip


def _pivoted(
    problem: LinearProblem, prices: tuple[Array, Array], reg: np.ndarray, n_iter: np.ndarray, log: tuple[Stage, ...]
) -> Pivoted:
    """The state before the first pivot, from potentials for ``reg (B,)``: NaN to take in all arcs."""
    costs, items = problem.reduced.to_numpy(), problem.items
    f, g, log_a, log_b = (to_numpy(v) for v in (*prices, problem.log_a, problem.log_b))
    at = Potentials(f, g, log_a, log_b, reg)
    return Pivoted(
        f=prices[0],
        g=prices[1],
        reg=np.zeros(items),
        status=np.full(items, None, dtype=object),
        error=np.full(items, np.inf),
        n_iter=n_iter,
        stages=log,
        bases=tuple(_begin(problem, costs, at, k) for k in range(items)),
    )


def _begin(problem: LinearProblem, costs: Reduced, at: Potentials, item: int) -> _Basis:
    """The basis along the heaviest forest of the plan, or all arcs and none of them in the basis."""
    n, m = costs.n, costs.m
    one = slice(item, item + 1)
    supply = _whole(to_numpy(problem.a)[item], to_numpy(problem.b)[item])
    prices = np.concatenate([-at.f[item], at.g[item]])
    if np.isnan(at.reg[item]):
        cost = to_numpy(costs.block(one, slice(0, n)))[0]
        rows, cols = np.nonzero((supply[:n, None] > 0) & (supply[None, n:] < 0) & np.isfinite(cost))
        cost, members = cost[rows, cols], np.empty(0, dtype=np.int64)
    else:
        here = Potentials(at.f[one], at.g[one], at.log_a[one], at.log_b[one], at.reg[one])
        rows, cols, log_plan = _entries(costs.take(np.array([item])), here)
        there = (supply[rows] > 0) & (supply[n + cols] < 0)
        rows, cols, log_plan = rows[there], cols[there], log_plan[there]
        cost, members = _costs(costs, item, rows, cols), heaviest_forest(n, m, rows, cols, log_plan)
    tree = simplex.Tree.empty(n + m)
    tails, heads, penalty = rows, cols + n, _PENALTY * float(stages.top(problem)[item])
    simplex.start(supply, tails, heads, members, prices, tree)
    simplex.price(cost, penalty, tree)
    return _Basis(tails, heads, cost, penalty, tree)


def _whole(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Weights that sum to 1 in whole grains, those of the columns negative, and with a sum of exactly 0."""
    rows, cols = (np.rint(w / w.sum() / _GRAIN).astype(np.int64) for w in (a, b))
    cols[cols.argmax()] += rows.sum() - cols.sum()
    return np.concatenate([rows, -cols])


def _entries(costs: Reduced, at: Potentials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and log P of the largest entries of a plan: not more than a few for each node."""
    every = np.full_like(at.g, np.inf)
    # Of a row with the weight a, fewer than k entries are above a/k.
    shares = [share for share in _SHARES if share < costs.m / _MOST] + [costs.m / _MOST]
    for share in shares[:-1]:
        found = select(costs, at, at.log_a + np.log(share / costs.m), every, _MOST * (costs.n + costs.m))
        if found is not None:
            break
    else:
        found = select(costs, at, at.log_a - np.log(_MOST), every, np.inf)
        assert found is not None
    return found.row, found.col, found.log_plan


def _costs(costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The reduced costs of arcs in row order."""
    found = np.empty(rows.size)
    at, starts = np.unique(rows, return_index=True)
    ends = np.append(starts, rows.size)[1:]
    for row, low, high in zip(at.tolist(), starts, ends, strict=True):
        found[low:high] = _row(costs, item, row)[cols[low:high]]
    return found


def _row(costs: Reduced, item: int, row: int) -> np.ndarray:
    return to_numpy(costs.block(slice(item, item + 1), slice(row, row + 1)))[0, 0]


def _cheaper(problem: LinearProblem, costs: Reduced, basis: _Basis, item: int, tolerance: float) -> _Basis | None:
    """The basis beside arcs that are too cheap for its prices, a few of every row; None where there are none."""
    n = costs.n
    f, g = -basis.tree.pi[:n], basis.tree.pi[n:-1]
    g = np.where(to_numpy(problem.b)[item] > 0, g, -np.inf)
    least = c_transform(costs.take(np.array([item])), g[None])[0] - f
    rows = np.flatnonzero((to_numpy(problem.a)[item] > 0) & (least < -tolerance))
    if not rows.size:
        return None
    tails, heads, found = [basis.tails], [basis.heads], [basis.costs]
    for row in rows.tolist():
        cost = _row(costs, item, row)
        reduced = cost - f[row] - g
        turned = np.roll(np.arange(reduced.size), -row)  # rows take different columns among equals
        new = turned[np.argpartition(reduced[turned], min(_NEW, reduced.size) - 1)[:_NEW]]
        new = new[reduced[new] < -tolerance]
        tails.append(np.full(new.size, row))
        heads.append(new + n)
        found.append(cost[new])
    return replace(basis, tails=np.concatenate(tails), heads=np.concatenate(heads), costs=np.concatenate(found))


def _dearer(basis: _Basis) -> _Basis:
    """The basis with a higher price on artificial arcs."""
    basis = replace(basis, penalty=basis.penalty * _DEARER)
    simplex.price(basis.costs, basis.penalty, basis.tree)
    return basis
