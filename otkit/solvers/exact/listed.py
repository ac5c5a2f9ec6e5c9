"""Bases on a few arcs, where costs are not a matrix on the host: arcs of an entropic plan, and rounds of pricing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import from_numpy, map_arrays, to_numpy
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Arcs
from otkit.geometry.base import costs_along
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose
from otkit.kernels.arcs import costs as arc_costs
from otkit.kernels.numba import pricing, starts
from otkit.kernels.searches import ranked
from otkit.linalg.trees import heaviest_forest
from otkit.problems.linear import LinearProblem
from otkit.solvers import descent
from otkit.solvers.exact.basis import Basis, Priced, planted, points_of

# The initial arcs are the entries of the plan above a fraction of the mean entry of their row: the first of these
# fractions that leaves at most _MOST arcs for each node.
_SHARES, _MOST = (1e-6, 1e-3, 0.1, 1.0, 10.0), 32
# Maximum number of arcs added to a row in a round of pricing. Where very many have a negative reduced cost, it is at
# least so many times the least one of the row.
_NEW, _NEAR = 4, 0.5
# Initial surcharge of artificial arcs, relative to the range of the costs; from potentials, to the mean reduced cost
# of the initial arcs and at least to the range.
_SURCHARGE, _STEEP, _LEAST = 4.0, 8.0, 2.0**-20
# Number of arcs by rank for each row and column, from potentials.
_RANKS = 6
# Negative reduced costs above minus this tolerance, relative to the largest cost or price, count as rounding errors in
# the pricing of all arcs, where operations in another order give other last digits than in the simplex.
_ROUNDING = 48 * UNIT


def begin(problem: LinearProblem, costs: Reduced, at: Potentials, item: int) -> Basis:
    """The initial basis: the heaviest forest of the entropic plan."""
    n, m, one = costs.n, costs.m, slice(item, item + 1)
    points = points_of(problem, item)
    here = Potentials(at.f[one], at.g[one], at.log_a[one], at.log_b[one], at.reg[one])
    rows, cols, log_plan = _entries(costs.take(np.array([item])), here)
    cost, members = costs_along(costs, item, rows, cols), heaviest_forest(n, m, rows, cols, log_plan)
    i, j = (np.searchsorted(side, index) for side, index in zip(points, (rows, cols), strict=False))
    forest = pricing.Arcs(i[members], j[members], cost[members])
    listed = pricing.Arcs(i.astype(np.int32), j.astype(np.int32), cost)
    prices = np.concatenate([-at.f[item][points[0]], at.g[item][points[1]]])
    surcharge = _SURCHARGE * float(descent.top(problem)[item])
    return planted(
        points,
        forest,
        prices,
        surcharge,
        Priced(listed, i.size, 0, (np.zeros(points[0].size), np.zeros(points[1].size)), np.inf, None),
    )


def whole(problem: LinearProblem, costs: Reduced, item: int, f: np.ndarray, g: np.ndarray) -> Basis:
    """The initial basis where all arcs are listed: masses that go greedily by the costs less the given potentials."""
    assert costs.stored is not None
    points = points_of(problem, item)
    arcs, cost = costs.stored, arc_costs(costs.take(np.array([item])))[0]
    some = np.isfinite(cost) & (to_numpy(problem.a)[item][arcs.row] > 0) & (to_numpy(problem.b)[item][arcs.col] > 0)
    rows, cols, cost = arcs.row[some], arcs.col[some], cost[some]
    i, j = (np.searchsorted(side, index) for side, index in zip(points, (rows, cols), strict=False))
    members = starts.greedy(np.argsort(cost - f[rows] - g[cols], kind="stable"), i, j, points[2], points[0].size)
    forest = pricing.Arcs(i[members], j[members], cost[members])
    listed = pricing.Arcs(i.astype(np.int32), j.astype(np.int32), cost)
    nothing = np.zeros(points[0].size), np.zeros(points[1].size)
    prices = np.concatenate([-f[points[0]], g[points[1]]])
    surcharge = float(descent.top(problem)[item])
    return planted(points, forest, prices, surcharge, Priced(listed, i.size, 0, nothing, np.inf, None))


def _entries(costs: Reduced, at: Potentials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and log P of the largest entries of a plan: at most `_MOST` for each node."""
    every = np.full_like(at.g, np.inf)
    # In a row of weight a, fewer than k entries are above a/k.
    shares = [share for share in _SHARES if share < costs.m / _MOST] + [costs.m / _MOST]
    for share in shares[:-1]:
        found = _selected(costs, at, at.log_a + np.log(share / costs.m), every, _MOST * (costs.n + costs.m))
        if found is not None:
            break
    else:
        found = _selected(costs, at, at.log_a - np.log(_MOST), every, np.inf)
        assert found is not None
    return found.row, found.col, found.log_plan


def _selected(costs: Reduced, at: Potentials, rows: np.ndarray, cols: np.ndarray, limit: float) -> Arcs | None:
    """`otkit.entropic.operations.select` where the costs are, from and to the host."""
    at, rows, cols = map_arrays(lambda v: from_numpy(v, costs.row), (at, rows, cols))
    found = choose(costs).select(costs, at, rows, cols, limit)
    return None if found is None else map_arrays(to_numpy, found)


def from_ranks(problem: LinearProblem, costs: Reduced, item: int, f: np.ndarray, g: np.ndarray) -> Basis:
    """The initial basis of feasible potentials, on the arcs of least reduced cost of each point.

    Costs are those of points that trees search.
    """
    f, g = (np.where(to_numpy(w)[item] > 0, v, -np.inf) for w, v in ((problem.a, f), (problem.b, g)))
    return on_arcs(problem, costs, item, (f, g), ranked(costs, item, f, g, _RANKS))


def on_arcs(
    problem: LinearProblem,
    costs: Reduced,
    item: int,
    potentials: tuple[np.ndarray, np.ndarray],
    arcs: tuple[np.ndarray, np.ndarray],
) -> Basis:
    """The initial basis of feasible potentials, on these arcs in row order: their heaviest forest."""
    (f, g), (rows, cols), points = potentials, arcs, points_of(problem, item)
    cost = costs_along(costs, item, rows, cols)
    slack = cost - f[rows] - g[cols]
    surcharge = _STEEP * float(slack.mean()) + _LEAST * float(descent.top(problem)[item])
    members = heaviest_forest(costs.n, costs.m, rows, cols, -slack / surcharge)
    i, j = (np.searchsorted(side, index) for side, index in zip(points, (rows, cols), strict=False))
    listed = pricing.Arcs(i.astype(np.int32), j.astype(np.int32), cost)
    nothing = np.zeros(points[0].size), np.zeros(points[1].size)
    prices = np.concatenate([-f[points[0]], g[points[1]]])
    forest = pricing.Arcs(i[members], j[members], cost[members])
    return planted(points, forest, prices, surcharge, Priced(listed, i.size, 0, nothing, np.inf, None))


def cheaper(problem: LinearProblem, costs: Reduced, basis: Basis, item: int) -> Basis | None:
    """The basis with added arcs of negative reduced cost, at most `_NEW` for each row; None if there are none."""
    f, g = basis.prices(costs.n, costs.m)
    none_a, none_b = (np.where(to_numpy(w)[[item]] > 0, 0.0, -np.inf) for w in (problem.a, problem.b))
    at = Potentials(f[None], g[None], none_a, none_b, np.ones(1))
    rows, cols = violating(costs.take(np.array([item])), at, tolerance(problem, basis, item))
    return added(basis, costs, item, rows, cols) if rows.size else None


def tolerance(problem: LinearProblem, basis: Basis, item: int) -> float:
    """The absolute value of negative reduced costs that count as rounding errors in the pricing of all arcs."""
    return _ROUNDING * max(float(descent.top(problem)[item]), basis.size)


def added(basis: Basis, costs: Reduced, item: int, rows: np.ndarray, cols: np.ndarray) -> Basis:
    """The basis with more listed arcs."""
    i, j = np.searchsorted(basis.rows, rows), np.searchsorted(basis.cols, cols)
    new = pricing.Arcs(i.astype(np.int32), j.astype(np.int32), costs_along(costs, item, rows, cols))
    listed = pricing.Arcs(*(np.concatenate(pair) for pair in zip(basis.listed, new, strict=True)))
    basis.tree.cursor[:4] = 0, basis.tree.cursor[1], listed.rows.size, True
    return replace(basis, listed=listed)


def violating(costs: Reduced, at: Potentials, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the arcs of least reduced cost of each row, if it is negative; in row order.

    Logarithms of weights say which points have mass: 0 or −inf. There is one item. Arcs are listed with costs that may
    be computed otherwise than in a pass over all. Those whose reduced cost is only negative in the pass are left out:
    they would not enter the basis, and be found again.
    """
    most, never = _MOST * (costs.n + costs.m), np.full((1, costs.m), np.inf)
    limits = np.full((1, costs.n), tolerance)
    found = _selected(costs, at, limits, never, most)
    if found is None:
        gain = at.f - to_numpy(choose(costs).c_transform(costs, from_numpy(at.g + at.log_b, costs.row)))
        limits = np.where(gain > tolerance, np.maximum(limits, _NEAR * gain), np.inf)
        while (found := _selected(costs, at, limits, never, most)) is None:  # many arcs are equal: take fewer rows
            limits[:, np.flatnonzero(limits[0] < np.inf)[::2]] = np.inf
    order = np.lexsort(((found.col - found.row) % costs.m, -found.log_plan, found.row))  # rows differ among equals
    rows, cols = found.row[order], found.col[order]
    kept = np.ones(rows.size, dtype=bool)
    kept[_NEW:] = rows[_NEW:] != rows[:-_NEW]
    rows, cols = rows[kept], cols[kept]
    f, g = to_numpy(at.f)[0], to_numpy(at.g)[0]
    negative = costs_along(costs, 0, rows, cols) - f[rows] - g[cols] < -tolerance
    return rows[negative], cols[negative]
