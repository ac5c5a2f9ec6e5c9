"""The arcs of the network simplex, and its basis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import to_numpy
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose
from otkit.kernels.numba import simplex
from otkit.linalg.trees import SpanningTree, heaviest_forest
from otkit.problems.linear import LinearProblem
from otkit.solvers import descent

# Masses are integer multiples of this.
GRAIN = 2.0**-62
# The initial arcs are the entries of the plan above a fraction of the mean entry of their row: the first of these
# fractions that leaves at most _MOST arcs for each node.
_SHARES, _MOST = (1e-6, 1e-3, 0.1, 1.0, 10.0), 32
# Maximum number of arcs added to a row in a round of pricing.
_NEW = 4
# Initial cost of artificial arcs, relative to the range of the costs, and the factor by which it is increased.
PENALTY, STEEPER = 4.0, 64.0


@dataclass(frozen=True)
class Basis:
    """The arcs of an item that the network simplex considers, and the tree of the arcs in its basis.

    Attributes
    ----------
    tails, heads : array of int (K,)
        Row nodes, numbered from 0, and column nodes, numbered from n.
    costs : array (K,)
        Reduced costs of the problem.
    penalty : float
        The cost of artificial arcs.
    tree : simplex.Tree
        The basis. Pivots change it in place.
    """

    tails: np.ndarray
    heads: np.ndarray
    costs: np.ndarray
    penalty: float
    tree: simplex.Tree

    @property
    def missing(self) -> int:
        """The mass on artificial arcs, in grains."""
        return int(self.tree.flow[self.tree.arc < 0].sum())

    def size(self, scale: float) -> float:
        """The largest absolute value among costs and prices, which scales the rounding of reduced costs."""
        pi = self.tree.pi[:-1]
        if not self.missing:  # the cost of artificial arcs shifts all prices and has no effect
            pi -= pi.mean()
        return max(scale, float(abs(pi).max()))

    def vertex(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
        """Row, column, mass and cost of the arcs of the basis, and the L1 distance of their marginals from the weights.

        The masses are computed from the unrounded weights, by differences from the leaves of the tree up.
        """
        nodes = a.size + b.size
        arc = self.tree.arc[:nodes]
        parent = np.where(arc >= 0, self.tree.parent[:nodes], -1)
        order, nothing = np.argsort(self.tree.depth[:nodes], kind="stable"), np.zeros(nodes)
        flow, _, defect = SpanningTree(a.size, order, parent, nothing, nothing).flows(np.concatenate([a, b]))
        k, mass = arc[arc >= 0], flow[arc >= 0]
        defect -= 2 * float(mass[mass < 0].sum())  # negative masses, of about a grain, from rounding
        mass = np.maximum(mass, 0.0)
        return self.tails[k], self.heads[k] - a.size, mass, self.costs[k], np.array(defect)


def begin(problem: LinearProblem, costs: Reduced, at: Potentials, item: int) -> Basis:
    """The initial basis: the heaviest forest of the entropic plan; without a regularisation, all arcs and no forest.

    In the latter case, prices given by the caller select the forest.
    """
    n, m = costs.n, costs.m
    one = slice(item, item + 1)
    supply = _whole(to_numpy(problem.a)[item], to_numpy(problem.b)[item])
    prices = np.concatenate([-at.f[item], at.g[item]])
    if np.isnan(at.reg[item]):
        cost = to_numpy(costs.block(one, slice(0, n)))[0]
        rows, cols = np.nonzero((supply[:n, None] > 0) & (supply[None, n:] < 0) & np.isfinite(cost))
        cost, members = cost[rows, cols], np.empty(0, dtype=np.int64)
        if prices.any():  # given by the caller: the arcs of smallest reduced cost are nearly a basis
            members = heaviest_forest(n, m, rows, cols, at.f[item][rows] + at.g[item][cols] - cost)
    else:
        here = Potentials(at.f[one], at.g[one], at.log_a[one], at.log_b[one], at.reg[one])
        rows, cols, log_plan = _entries(costs.take(np.array([item])), here)
        there = (supply[rows] > 0) & (supply[n + cols] < 0)
        rows, cols, log_plan = rows[there], cols[there], log_plan[there]
        cost, members = _costs(costs, item, rows, cols), heaviest_forest(n, m, rows, cols, log_plan)
    tree = simplex.Tree.empty(n + m)
    tails, heads, penalty = rows, cols + n, PENALTY * float(descent.top(problem)[item])
    simplex.start(supply, tails, heads, members, prices, tree)
    simplex.price(cost, penalty, tree)
    return Basis(tails, heads, cost, penalty, tree)


def _whole(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Weights of total 1 in integer grains, with columns negative, so that the sum is exactly 0."""
    rows, cols = (np.rint(w / w.sum() / GRAIN).astype(np.int64) for w in (a, b))
    cols[cols.argmax()] += rows.sum() - cols.sum()
    return np.concatenate([rows, -cols])


def _entries(costs: Reduced, at: Potentials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and log P of the largest entries of a plan: at most `_MOST` for each node."""
    every = np.full_like(at.g, np.inf)
    # In a row of weight a, fewer than k entries are above a/k.
    shares = [share for share in _SHARES if share < costs.m / _MOST] + [costs.m / _MOST]
    for share in shares[:-1]:
        found = choose(costs).select(costs, at, at.log_a + np.log(share / costs.m), every, _MOST * (costs.n + costs.m))
        if found is not None:
            break
    else:
        found = choose(costs).select(costs, at, at.log_a - np.log(_MOST), every, np.inf)
        assert found is not None
    return found.row, found.col, found.log_plan


def _costs(costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Reduced costs of arcs in row order."""
    found = np.empty(rows.size)
    at, starts = np.unique(rows, return_index=True)
    ends = np.append(starts, rows.size)[1:]
    for row, low, high in zip(at.tolist(), starts, ends, strict=True):
        found[low:high] = _row(costs, item, row)[cols[low:high]]
    return found


def _row(costs: Reduced, item: int, row: int) -> np.ndarray:
    return to_numpy(costs.block(slice(item, item + 1), slice(row, row + 1)))[0, 0]


def cheaper(problem: LinearProblem, costs: Reduced, basis: Basis, item: int, tolerance: float) -> Basis | None:
    """The basis with added arcs of negative reduced cost, at most `_NEW` for each row; None if there are none."""
    n = costs.n
    f, g = -basis.tree.pi[:n], basis.tree.pi[n:-1]
    g = np.where(to_numpy(problem.b)[item] > 0, g, -np.inf)
    least = choose(costs).c_transform(costs.take(np.array([item])), g[None])[0] - f
    rows = np.flatnonzero((to_numpy(problem.a)[item] > 0) & (least < -tolerance))
    if not rows.size:
        return None
    tails, heads, found = [basis.tails], [basis.heads], [basis.costs]
    for row in rows.tolist():
        cost = _row(costs, item, row)
        reduced = cost - f[row] - g
        shifted = np.roll(np.arange(reduced.size), -row)  # different rows choose different columns among equals
        new = shifted[np.argpartition(reduced[shifted], min(_NEW, reduced.size) - 1)[:_NEW]]
        new = new[reduced[new] < -tolerance]
        tails.append(np.full(new.size, row))
        heads.append(new + n)
        found.append(cost[new])
    return replace(basis, tails=np.concatenate(tails), heads=np.concatenate(heads), costs=np.concatenate(found))


def steeper(basis: Basis) -> Basis:
    """The basis with a larger cost of artificial arcs."""
    basis = replace(basis, penalty=basis.penalty * STEEPER)
    simplex.price(basis.costs, basis.penalty, basis.tree)
    return basis
