"""Bottleneck transport: the plan whose largest cost is least, by thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from otkit.arrays import Array, namespace, to_numpy
from otkit.certificates.base import Certificate
from otkit.certificates.width import precise
from otkit.geometry.base import flatten_batch
from otkit.geometry.costs import UNIT
from otkit.geometry.points import PointCloud
from otkit.kernels.numba import pricing, simplex, starts
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.results.result import Result
from otkit.solvers.base import Solver, State, begun
from otkit.solvers.exact.basis import GRAIN, ROUNDING, Matrix, by_rank, points_with_mass

# Maximum number of arcs, all of which are in memory.
MOST = 2**24

# Number of arcs by rank of each row and column along which masses first go greedily.
_GREEDY = 8
_PIVOTS = 2**62


class Widest(NamedTuple):
    """The least largest cost of a plan, and the arcs and masses of such a plan."""

    value: float
    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray


def bottleneck(C: np.ndarray, a: np.ndarray, b: np.ndarray, factor: float = 1.0) -> Widest:
    """The bottleneck of the costs ``C (n, m)`` between weights ``(n,)``, ``(m,)`` of total 1, up to this factor.

    Mass of the order of rounding errors of the weights may stay where it is: sums of weights that should be equal are
    not, and this mass may have a long way to go.

    Notes
    -----
    The bottleneck is the least of the costs t for which some plan has no arc above t. For a given t, the least mass
    above it is the optimum of a transport problem of costs 0 and 1, which the network simplex solves in exact
    arithmetic. The bisection of the sorted costs starts every problem from the optimal basis of the one before.
    Burkard, Dell'Amico & Martello (2012), section 6.2, do so for assignments.
    """
    rows, cols, supply = points_with_mass(a, b)
    C = np.ascontiguousarray(C[np.ix_(rows, cols)])
    forest = _plan(C, supply)
    tree = simplex.Tree.empty(supply.size, 0)
    simplex.start(supply, rows.size, *forest, np.zeros(forest[0].size), tree)
    slack = 16 * supply.size * UNIT / GRAIN
    heavy = abs(supply) > slack
    ends = np.concatenate([C.min(1), C.min(0)])[heavy]
    least = ends.max() if ends.size else 0.0  # no plan has smaller costs only
    largest = C[_arcs(tree, rows.size)[:2]].max()
    steps = np.unique(C[(least <= C) & (largest >= C)])
    # A plan is known for the cost at `high`, and none for costs below that at `low`.
    low, high = 0, steps.size - 1
    found = _arcs(tree, rows.size)
    while low < high and not (steps[low] > 0 and steps[high] / factor <= steps[low]):
        middle = (low + high) // 2
        i, j, flow = _improved(C, steps[middle], tree, rows.size)
        above = C[i, j] > steps[middle]
        if flow[above].sum() > slack:
            low = middle + 1
        else:
            found = i[~above], j[~above], flow[~above]
            high = int(np.searchsorted(steps, C[found[:2]].max()))
            low = min(low, high)
    i, j, flow = found
    return Widest(float(steps[high]), rows[i], cols[j], flow * GRAIN)


def _plan(C: np.ndarray, supply: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arcs of a plan, a forest: greedily along the least costs of each row and column, then in order."""
    n, m = C.shape
    nothing = np.zeros(n), np.zeros(m)
    i, j = by_rank(Matrix(C, np.empty((0, m), dtype=np.float32), nothing), *nothing, _GREEDY)
    members = starts.greedy(np.argsort(C[i, j], kind="stable"), i, j, supply, n)
    left, taken = abs(supply), []
    for k in members.tolist():
        moved = min(left[i[k]], left[n + j[k]])
        left[i[k]] -= moved
        left[n + j[k]] -= moved
        taken.append((i[k], j[k]))
    row, col = 0, 0
    while row < n and col < m:
        moved = min(left[row], left[n + col])
        if moved:
            left[row] -= moved
            left[n + col] -= moved
            taken.append((row, col))
        row, col = (row + 1, col) if not left[row] else (row, col + 1)
    rows, cols = np.array(taken, dtype=np.int64).T
    return rows, cols


def _improved(C: np.ndarray, step: float, tree: simplex.Tree, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plan with the least mass above a cost."""
    above = (step < C).astype(np.float64)
    nodes = np.flatnonzero(tree.parent[:-1] < tree.parent.size - 1)
    other = tree.parent[nodes]
    tree.cost[nodes] = above[np.minimum(nodes, other), np.maximum(nodes, other) - n]
    none = np.empty(0, dtype=np.int32)
    pricing.solve(
        above,
        np.empty((0, above.shape[1]), dtype=np.float32),
        pricing.Arcs(none, none, np.empty(0)),
        tree,
        n,
        1,
        ROUNDING,
        1.0,
        _PIVOTS,
    )
    return _arcs(tree, n)


def _arcs(tree: simplex.Tree, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and mass in grains of the arcs that carry some."""
    nodes = np.flatnonzero((tree.parent[:-1] < tree.parent.size - 1) & (tree.flow[:-1] > 0))
    other = tree.parent[nodes]
    return np.minimum(nodes, other), np.maximum(nodes, other) - n, tree.flow[nodes]


@dataclass(frozen=True)
class Bottleneck(Solver[State]):
    """The plan whose largest cost is least, between points. The bounds are on that cost; there are no potentials."""

    name = "bottleneck"
    max_iter = 1
    refuses: ClassVar[Mapping[str, str]] = {"max_iter": "thresholds are halved until one is left; drop max_iter="}

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        return begun(problem, -problem.reduced.row, -problem.reduced.col)

    def step(self, problem: LinearProblem, state: State) -> State:
        return state.ended(state.running, Status.CONVERGED)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        every, items = slice(0, problem.reduced.n), range(problem.items)
        weights = [to_numpy(w) for w in (problem.a, problem.b)]
        costs = (to_numpy(problem.geometry.block(slice(k, k + 1), every))[0] for k in items)
        found = [bottleneck(C, *pair) for C, *pair in zip(costs, *weights, strict=True)]
        arcs = (np.concatenate([getattr(one, name) for one in found]) for name in ("rows", "cols", "mass"))
        item = np.repeat(np.arange(problem.items), [one.mass.size for one in found])
        shape = problem.items, problem.reduced.n, problem.reduced.m
        plan = (SparsePlan(shape, Arcs(item, *arcs), problem.a),)
        value, (relative, absolute) = np.array([one.value for one in found]), problem.geometry.rounding
        width = relative * value + absolute
        lower, upper = np.maximum(value - width, 0.0) if problem.asked.non_negative else value - width, value + width
        state = state.ended(np.flatnonzero(~precise(problem, lower, upper)), Status.IMPRECISE)
        return Outcome(
            f=state.f,
            g=state.g,
            reg=None,
            plan=plan,
            certificate=Certificate(lower, upper, state.f, state.g, plan, value, 2 * width),
            status=state.status,
            error=marginal_error(problem, plan, state.f, state.g),
            tol=np.zeros(problem.items),
            n_iter=state.n_iter,
            errors=errors,
            stages=(),
        )


def longest_arcs(result: Result) -> Array:
    """The largest distance over the plan of each item ``(...)``, in the caller's graph and dtype; 0 has gradient 0."""
    problem, given = result.problem, result.problem.given.geometry
    assert isinstance(given, PointCloud)
    flat, arcs = problem.geometry.to_numpy(), result.outcome.plan[0].arcs(0.0)
    xp, ends = namespace(given.x), []
    for k in range(problem.items):
        at = arcs.item == k
        rows, cols = arcs.row[at], arcs.col[at]
        C = flat.block(slice(k, k + 1), slice(0, flat.n))[0]
        longest = int(C[rows, cols].argmax())
        ends.append((int(rows[longest]), int(cols[longest])))
    x, y = (flatten_batch(v, problem.batch, 2) for v in (given.x, given.y))
    tails, heads = (
        xp.stack([v[min(k, v.shape[0] - 1), end[side]] for k, end in enumerate(ends)])[:, None, :]
        for side, v in enumerate((x, y))
    )
    apart = xp.any(tails != heads, axis=-1, keepdims=True)
    cloud = PointCloud(xp.where(apart, tails, tails + 1.0), heads, given.metric)  # away from the kink at equal points
    d = cloud.flat((problem.items,)).block(slice(0, problem.items), slice(0, 1))[:, 0, 0]
    d = xp.where(apart[:, 0, 0], d, 0.0 * d)
    return xp.astype(xp.reshape(d, problem.batch), problem.dtype, copy=False)
