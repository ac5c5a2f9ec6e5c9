"""Costs with outliers: arcs that no optimal plan uses leave the problem, and masses are computed in whole numbers.

Rounding errors of the simplex are relative to the largest cost that it reads. Where the plan costs far less, arcs above
a limit leave the problem. An optimum of the others is one of all arcs if its potentials are feasible for these; else,
and if no plan is left, the limit rises. Nothing of this has to be believed: the certificate is that of all costs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import from_numpy, to_numpy
from otkit.certificates.width import EXACT, ORDINARY, outliers
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Status
from otkit.solvers import descent
from otkit.solvers.exact.basis import GRAIN, ROUNDING, Basis, Vertex, charged, cold, kept, matrix_of

# Arcs leave the problem if it has at most so many: the others are then a matrix.
MOST = 2**24
# Reduced costs above minus this tolerance, relative to the largest price, count as rounding errors.
_TOLERANCE = 48 * UNIT


def has_outliers(problem: LinearProblem) -> bool:
    """Whether arcs should leave the problem of some item, and may."""
    if problem.reg is not None or not _may_leave(problem):
        return False
    return any(outliers(problem, item) for item in range(problem.items))


def _may_leave(problem: LinearProblem) -> bool:
    return problem.geometry.stored is None and problem.reduced.n * problem.reduced.m <= MOST


def reconsidered(problem: LinearProblem, costs: Reduced, basis: Basis, item: int, status: Status) -> Basis | None:
    """The basis to go on from after a final status: with other arcs, or None if the status stands."""
    top = float(descent.top(problem)[item])
    if basis.limit == np.inf:
        if (status is Status.CONVERGED and _is_fine(basis, top)) or not _may_leave(problem):
            return None
        size = outliers(problem, item)
        return cold(problem, costs, item, ORDINARY * size) if size else None
    if basis.limit >= top or (status is Status.CONVERGED and _is_feasible(problem, costs, basis, item)):
        return None
    limit = min(ORDINARY * basis.limit, top)
    matrix = matrix_of(problem, costs, item, basis.rows, basis.cols, limit)
    basis = replace(basis, limit=limit, matrix=kept(costs, matrix))
    return basis if status is Status.CONVERGED else charged(basis, limit, every=False)


def _is_fine(basis: Basis, top: float) -> bool:
    """Whether rounding errors of the simplex are negligible relative to the cost of the plan."""
    forest = basis.forest()
    with np.errstate(over="ignore"):  # an artificial arc of the largest costs carries mass
        paid = float(basis.tree.flow[forest.nodes] @ forest.cost[forest.nodes]) * GRAIN
    return 4 * ROUNDING * max(top, basis.size) <= EXACT * paid


def _is_feasible(problem: LinearProblem, costs: Reduced, basis: Basis, item: int) -> bool:
    """Whether no arc at all has a negative reduced cost."""
    f, g = basis.prices(costs.n, costs.m)
    g = np.where(to_numpy(problem.b)[item] > 0, g, -np.inf)
    least = choose(costs).c_transform(costs.take(np.array([item])), from_numpy(g[None], costs.row))
    slack = to_numpy(least)[0] - f
    return bool(slack[basis.rows].min() >= -_TOLERANCE * basis.size)


def vertex(costs: Reduced, item: int, basis: Basis, a: np.ndarray, b: np.ndarray, total: float) -> Vertex:
    """The plan of a basis with masses that are exact up to their own rounding, for weights of a `total` as given.

    An arc of negative mass, where weights of equal sums differ by rounding, is emptied along a cycle of four arcs.
    """
    forest = basis.forest()
    sides = a[basis.rows], b[basis.cols]
    whole = [_given(w, total) for w in sides]
    supply, unit = _balanced(*(whole if None not in whole else map(_multiples, sides)))
    parent, flow, defect = forest.parent.tolist(), {}, 0
    for node in reversed(forest.order.tolist()):
        p = parent[node]
        if p < 0:
            defect += abs(supply[node])
        else:
            flow[node] = supply[node]
            supply[p] -= supply[node]
    nodes = np.array(list(flow), dtype=np.int64)
    row, col = forest.arcs(nodes)
    mass = dict(zip(zip(row.tolist(), col.tolist(), strict=True), flow.values(), strict=True))
    cost = dict(zip(mass, forest.cost[nodes].tolist(), strict=True))
    for arc in [arc for arc, moved in mass.items() if moved < 0]:
        defect += _emptied(costs, item, basis, arc, mass, cost)
    rows, cols = np.array(list(mass), dtype=np.int64).reshape(-1, 2).T
    shares = np.array([moved / unit for moved in mass.values()])
    return Vertex(basis.rows[rows], basis.cols[cols], shares, np.array(list(cost.values())), defect / unit)


def _given(w: np.ndarray, total: float) -> list[int] | None:
    """The whole numbers of this total that the caller gave as weights, or ones if all are equal; None if others.

    They are exact, where rounding of the shares of their total makes sums differ.
    """
    if (w == w[0]).all():
        return [1] * w.size
    given = np.rint(w * total)
    return [int(v) for v in given] if total < 1 / UNIT and (given / total == w).all() else None


def _multiples(w: np.ndarray) -> list[int]:
    """Floating-point numbers as whole multiples of a power of two."""
    ratios = [v.as_integer_ratio() for v in w.tolist()]
    common = max(bottom for _, bottom in ratios)
    return [top * (common // bottom) for top, bottom in ratios]


def _balanced(out: list[int], into: list[int]) -> tuple[list[int], int]:
    """The weights of both sides as multiples of 1/unit, each divided by the exact sum of its side."""
    sum_out, sum_into = sum(out), sum(into)
    return [w * sum_into for w in out] + [w * sum_out for w in into], sum_out * sum_into


def _emptied(
    costs: Reduced,
    item: int,
    basis: Basis,
    arc: tuple[int, int],
    mass: dict[tuple[int, int], int],
    cost: dict[tuple[int, int], float],
) -> int:
    """Empty an arc (i, j) of negative mass, along (i, s) and (r, j) that carry enough, and (r, s); the defect left."""
    (i, j), missing = arc, -mass[arc]
    mass[arc] = 0
    across = [s for r, s in mass if r == i and s != j and mass[r, s] >= missing]
    down = [r for r, s in mass if s == j and r != i and mass[r, s] >= missing]
    best, found = np.inf, None
    for r in down:
        row = int(basis.rows[r])
        line = to_numpy(costs.block(slice(item, item + 1), slice(row, row + 1)))[0, 0]
        line = line[basis.cols[across]]
        if line.size and line.min() < best:
            best, found = float(line.min()), (r, across[int(line.argmin())])
    if found is None:
        return 2 * missing
    for other in ((i, found[1]), (found[0], j)):
        mass[other] -= missing
    mass[found], cost[found] = mass.get(found, 0) + missing, best
    return 0
