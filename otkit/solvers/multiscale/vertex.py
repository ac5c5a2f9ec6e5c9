"""The network simplex between cells or points: the heaviest forest of an entropic plan, and pricing through trees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.kernels.numba import pricing
from otkit.kernels.numba.support import Support
from otkit.linalg.trees import heaviest_forest
from otkit.results.outcome import Status
from otkit.solvers.exact.basis import ROUNDING, Basis, Priced, judged, planted, points_with_mass
from otkit.solvers.multiscale.cells import Grid
from otkit.solvers.multiscale.entropic import Plan
from otkit.solvers.multiscale.pairs import Pairs

# Arcs are taken whose entries are at least e^−_KEEP of the largest of their row or column: at most _MOST for a cell.
_KEEP, _MOST = 6.0, 16
# The surcharge of artificial arcs, relative to the regularisation.
_SURCHARGE = 32.0
# Arcs of negative reduced cost that pricing adds to a row, at most; more if many rows have some.
_NEW = 4
# Entries below this are not normal numbers.
_LEAST = float(np.finfo(float).tiny)
# Reduced costs above minus this tolerance, relative to prices and potentials, count as rounding errors in pricing.
_ROUNDING = 1.5 * ROUNDING


def thin(plan: Plan, m: int) -> np.ndarray:
    """Which arcs of an entropic plan the simplex starts from."""
    ends, cols, _ = plan.arcs
    log_P = np.log(np.maximum(plan.P, _LEAST))
    by_row = np.maximum.reduceat(log_P, ends[:-1])
    by_col = np.full(m, -np.inf)
    np.maximum.at(by_col, cols, log_P)
    below = np.minimum(np.repeat(by_row, np.diff(ends)), by_col[cols]) - log_P
    most = _MOST * max(ends.size - 1, m)
    limit = _KEEP if below.size <= most else min(_KEEP, float(np.partition(below, most)[most]))
    return np.asarray(below <= limit)


def begin(pairs: Pairs, rows: Grid, cols: Grid, plan: Plan) -> Basis:
    """The basis of the heaviest forest of an entropic plan.

    Costs are reduced by feasible potentials. Without them, cycles through artificial arcs might have negative costs.
    """
    kept = thin(plan, cols.mass.size)
    n, m = rows.mass.size, cols.mass.size
    i, j = np.repeat(np.arange(n), np.diff(plan.arcs.ends))[kept], plan.arcs.cols[kept].astype(np.int64)
    g = plan.G - plan.reg / 2 * np.log(cols.mass)
    f = pairs.least(g)
    cost = np.maximum((plan.arcs.costs[kept] - f[i]) - g[j], 0.0)
    members = heaviest_forest(n, m, i, j, np.log(np.maximum(plan.P[kept], _LEAST)))
    forest = pricing.Arcs(i[members], j[members], cost[members])
    listed = pricing.Arcs(i.astype(np.int32), j.astype(np.int32), cost)
    priced = Priced(listed, i.size, 0, (-f, -g), np.inf, None)
    return planted(points_with_mass(rows.mass, cols.mass), forest, np.zeros(n + m), _SURCHARGE * plan.reg, priced)


def improved(pairs: Pairs, basis: Basis, scale: float, most: int) -> tuple[Basis, int, Status | None]:
    """The basis after at most so many pivots, their number, and the status if it is final.

    `scale` is the range of the costs.
    """
    n, m = basis.rows.size, basis.cols.size
    C, single = np.empty((0, m)), np.empty((0, m), dtype=np.float32)
    pivots, optimal = pricing.solve(C, single, basis.listed, basis.tree, n, 0, ROUNDING, 0.0, most)
    if not optimal:
        return basis, pivots, None
    new = _cheaper(pairs, basis)
    if new is not None:
        return new, pivots, None
    basis, status = judged(basis, scale, n + m)
    return basis, pivots, status


def _cheaper(pairs: Pairs, basis: Basis) -> Basis | None:
    """The basis with more arcs, of negative reduced cost; None if there are none."""
    f, g = basis.prices(basis.rows.size, basis.cols.size)
    limits = f - _ROUNDING * (basis.size + abs(f))
    bad = pairs.least(g) < limits
    if not bad.any():
        return None
    i, j, cost = _best(pairs.below(g, np.where(bad, limits, -np.inf)), g, _NEW)
    some = (cost - f[i]) - g[j] < -_ROUNDING * (basis.size + abs(f[i]) + abs(g[j]))
    if not some.any():
        return None
    i, j, cost = i[some], j[some], cost[some]
    costs = np.maximum((cost + basis.offsets[0][i]) + basis.offsets[1][j], 0.0)
    added = i.astype(np.int32), j.astype(np.int32), costs
    listed = pricing.Arcs(*(np.concatenate(pair) for pair in zip(basis.listed, added, strict=True)))
    basis.tree.cursor[:4] = 0, basis.tree.cursor[1], listed.rows.size, True
    return replace(basis, listed=listed)


def _best(arcs: Support, g: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and cost of the best arcs of each row, at most so many."""
    ends, cols, costs = arcs
    rows = np.repeat(np.arange(ends.size - 1), np.diff(ends))
    order = np.lexsort((costs - g[cols], rows))
    order = order[np.arange(rows.size) - ends[rows] < most]
    return rows[order], cols[order], costs[order]
