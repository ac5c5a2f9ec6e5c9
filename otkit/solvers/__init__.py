"""The solvers, the loop that runs them, and the choice of a solver."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import checks
from otkit.arrays import detached, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.kernels import hosted, shared_by
from otkit.kernels.searches import searchable, searches
from otkit.problems import LinearProblem
from otkit.problems.penalties import has_minimum
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver, run
from otkit.solvers.exact import products
from otkit.solvers.exact.outliers import has_outliers
from otkit.solvers.exact.solver import Exact, has_rows
from otkit.solvers.frank_wolfe import FrankWolfe
from otkit.solvers.grid.flow import GridFlow
from otkit.solvers.grid.solver import CoarseToFine
from otkit.solvers.multiscale.solver import Multiscale
from otkit.solvers.sinkhorn import Sinkhorn
from otkit.solvers.sns.solver import SparseNewton
from otkit.solvers.univariate import Univariate
from otkit.solvers.watch import Progress

__all__ = [
    "SOLVERS",
    "Annealing",
    "CoarseToFine",
    "Exact",
    "FrankWolfe",
    "GridFlow",
    "Multiscale",
    "Progress",
    "Sinkhorn",
    "Solver",
    "SparseNewton",
    "Univariate",
    "cells_or_points",
    "choose_solver",
    "run",
]

# Maximum number of points with mass of a side of which many are solved exactly by default, and the accuracy beyond.
_EXACT, _RTOL = 2**18, 1e-2
# Maximum number of cells of a grid that are solved exactly by default, of the squared distance; of others a quarter. Of
# points that trees search, those without mass cost little, and only the cells with mass count.
_EXACT_CELLS = 2**14

SOLVERS: dict[str, type[Solver[Any]]] = {
    solver.name: solver
    for solver in (SparseNewton, Sinkhorn, Annealing, FrankWolfe, Exact, Multiscale, Univariate, CoarseToFine, GridFlow)
}


def cells_or_points(grid: Grid, method: str | Solver[Any], a: Any, b: Any) -> Grid | PointCloud:
    """The grid of a problem without a `reg`, or its cells as points where a solver of points is asked for, or exact."""
    if method == "auto":
        most = {1.0: 0, 2.0: _EXACT_CELLS}.get(grid.power, _EXACT_CELLS // 4)
        if len(grid.shape) == 1 or grid.n <= most:
            return grid.points
        if grid.power != 2 or a is None or b is None or shared_by() is not None or _with_mass(a, b) > most:
            return grid
        points = grid.points
        return points if searches(points) and isinstance(hosted(points).x, np.ndarray) else grid
    solver = SOLVERS.get(method) if isinstance(method, str) else type(method)
    return grid.points if solver in (Exact, Multiscale, Univariate) else grid


def choose_solver(problem: LinearProblem, method: str | Solver[Any], bounded: bool = False) -> Solver[Any]:
    """The solver of a problem: the one named by `method`, or for "auto" the one in this table.

    ====================================  ================
    problem                               "auto"
    ====================================  ================
    a `reg`                               `SparseNewton`
    a `reg`, on a grid                    `Sinkhorn`
    a `reg`, shared by processes          `Sinkhorn`
    no `reg`, penalised marginals         `FrankWolfe`
    no `reg`, points on a line, convex    `Univariate`
    no `reg`, many points of few          `Multiscale`
    coordinates, convex
    no `reg`, many points of more         `Exact`
    coordinates, squared distances
    no `reg`, a grid, city-block          `GridFlow`
    no `reg`, a grid, powers up to 2      `CoarseToFine`
    no `reg`, a grid, higher powers       `Annealing`
    no `reg`, else                        `Exact`
    the same, an interval is enough,      `Annealing`
    and the costs are no matrix on the
    host, or processes share them
    the same, some costs are outliers     `Exact`
    ====================================  ================

    Many points are more than 2²⁴ pairs, in up to three dimensions. Their solution is exact up to 2¹⁸ points with mass
    on the larger side, and beyond accurate to 1 %, unless `rtol` says otherwise. Where marginals are penalised, the
    solution is accurate to 1e-6 by default.

    ``bounded`` says that an interval is enough. Where costs are a matrix on the host, or few enough to become one, the
    exact method takes a third to a thirtieth of the time of annealing to 10 % (29 families of 300 and 1000 points).
    Costs that are far larger than the others are more than annealing can resolve. They are no difficulty for the exact
    method up to 2²⁴ arcs. Of small grids, and of grids with mass in few cells, the cells are points here.

    Raises
    ------
    ValueError
        If the name is unknown, or the solver does not apply to this problem.
    """
    if method == "auto":
        method = _chosen(problem, bounded)
    if isinstance(method, str):
        if method not in SOLVERS:
            raise ValueError(f"method must be 'auto', {', '.join(map(repr, SOLVERS))} or a solver, got {method!r}")
        method = SOLVERS[method]()
    if not isinstance(method, Solver):
        raise ValueError(
            f"method must be a name or a solver such as otkit.Sinkhorn(), got {method!r}; call the class to make one"
        )
    _check(problem, method)
    return method


def _check(problem: LinearProblem, method: Solver[Any]) -> None:
    """Raise ``ValueError`` if a solver does not apply to a problem."""
    if method.entropic and problem.reg is None:
        raise ValueError(
            f"method {method.name!r} needs a reg, got reg=None; pass reg=, or method='auto' to solve without one"
        )
    if not method.entropic and problem.reg is not None:
        raise ValueError(f"method {method.name!r} solves the unregularised problem, got a reg; drop reg= or method=")
    if problem.reg is None and not problem.balanced.all():
        if not isinstance(method, Annealing):
            raise ValueError(
                f"method {method.name!r} needs exact marginals, got penalties; use method='frank-wolfe', or "
                "penalty='tv'"
            )
        has_minimum(problem.low, problem.unmoved.sum(0))
    if isinstance(method, Univariate) and not problem.asked.convex_on_line:
        raise ValueError(
            "method 'univariate' needs points of one dimension and a convex cost of their distance "
            f"(power ≥ 1), got {problem.asked!r}; use method='auto'"
        )
    if isinstance(method, Multiscale) and not _has_scales(problem):
        raise ValueError(
            "method 'multiscale' needs host points of up to 3 coordinates, exact marginals, and 'sqeuclidean' or a "
            "power ≥ 1 of the 'euclidean', 'cityblock', 'chebyshev' or 'cosine' distance, "
            f"got {problem.asked!r}; use method='auto'"
        )
    grid = problem.geometry.grid
    most, powers = {CoarseToFine: (2, "a power of at most 2"), GridFlow: (1, "metric 'cityblock'")}.get(
        type(method), (np.inf, "")
    )
    if powers and (grid is None or grid.power > most):
        raise ValueError(f"method {method.name!r} needs a grid with {powers}, got {problem.asked!r}; use method='auto'")


def _chosen(problem: LinearProblem, bounded: bool) -> str | Solver[Any]:
    """What "auto" is for a problem."""
    grid, shared = problem.geometry.grid, shared_by() is not None
    if problem.reg is not None:
        return "sns" if grid is None and not shared else "sinkhorn"
    if not problem.balanced.all():
        return "annealing" if grid is not None or shared else "frank-wolfe"
    if grid is not None:
        return "flow" if grid.power == 1 else "coarse-to-fine" if grid.power <= 2 else "annealing"
    if shared and bounded:
        return "annealing"
    if problem.asked.convex_on_line:
        return "univariate"
    if searches(problem.geometry) and _has_scales(problem):
        return Multiscale(rtol=None if _with_mass(problem.a, problem.b) <= _EXACT else _RTOL)
    if not bounded or (isinstance(problem.a, np.ndarray) and has_rows(problem)):
        return "exact"
    return "exact" if has_outliers(problem) or products.applies(problem) else "annealing"


def in_scales(geometry: GivenGeometry, method: str | Solver[Any], reg: Any = None, unbalanced: Any = None) -> bool:
    """Whether `Multiscale` will solve a problem of many points. It does not need reduced costs."""
    if reg is not None or unbalanced is not None or shared_by() is not None or not searches(geometry):
        return False
    return (
        isinstance(method, Multiscale) or method == "multiscale" or (method == "auto" and not geometry.convex_on_line)
    )


def _with_mass(a: Any, b: Any) -> int:
    """The largest number of points with mass of an item, on the larger side."""
    hosts = (np.atleast_1d(to_numpy(detached(checks.as_array(w, name)))) for w, name in ((a, "a"), (b, "b")))
    return max(int(np.max(np.count_nonzero(w > 0, axis=-1), initial=0)) for w in hosts)


def _has_scales(problem: LinearProblem) -> bool:
    """Whether the problem has coarser and finer cells."""
    return bool(searchable(problem.geometry) and isinstance(problem.a, np.ndarray) and problem.balanced.all())
