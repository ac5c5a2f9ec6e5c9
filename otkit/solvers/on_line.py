"""One pair of clouds on a line: from the caller's arrays to the solution by one compiled pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from otkit.arrays import later, made
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, threads
from otkit.kernels.numba import items as v
from otkit.kernels.numba import line
from otkit.kernels.numba.sorting import in_order
from otkit.kernels.numba.written import as_written
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result
from otkit.solvers.exact.packed import described
from otkit.solvers.exact.small import runs_as_written
from otkit.solvers.small import F64, INFINITE, NO_WEIGHTS, TRUE, ZERO, converged, ordinary
from otkit.solvers.univariate import Solution, Univariate, outcome_of

# Time to sort a number, in exponentials.
_KEY = 20
_SECOND = np.ones(1, dtype=np.int64)


def solved(cloud: GivenGeometry, a: Any, b: Any) -> Result | None:
    """The solution of one problem on a line, of float64 arrays of NumPy; None where the general way must look.

    Data are not checked: the compiled pass flags whatever is unusual.
    """
    if type(cloud) is not PointCloud or cloud.metric.period is not None:
        return None
    x, y, weights = cloud.x, cloud.y, [w for w in (a, b) if w is not None]
    n, m = x.size, y.size
    if not (all(map(ordinary, (x, y, *weights))) and n and m and x.shape == (n, 1) and y.shape == (m, 1)):
        return None
    if any(w is not None and w.shape != (size,) for w, size in ((a, n), (b, m))):
        return None
    own_x = x.copy()
    own_y = own_x if y is x else y.copy()
    flat = made(PointCloud, x=own_x[None], y=own_y[None], metric=cloud.metric, swapped=False)
    kernels = choose(flat)
    found = _numbers((own_x[:, 0], own_y[:, 0]), (a, b), cloud.metric) if kernels.name == "numba" else None
    if found is None:
        return None
    own_a, own_b = (None if w is None else w.copy() for w in (a, b))
    owned = made(PointCloud, x=own_x, y=own_y, metric=cloud.metric, swapped=False)
    given = made(
        Given, geometry=owned, a=own_a, b=own_a if b is a else own_b, reg=None, unbalanced=None, totals=(None, None)
    )
    problem = _problem(given, flat, kernels, found)
    solution = made(Solution, problem=problem, _paid=(found[:, v.VALUE], found[:, v.ERROR]))
    outcome = outcome_of(solution, converged(1), np.zeros((1, 1)))
    kernel = f"{kernels.name} (numpy)"
    return made(Result, problem=problem, outcome=outcome, method=Univariate.name, kernel=kernel, link=None)


def _problem(given: Given, flat: PointCloud, kernels: Kernels, found: np.ndarray) -> LinearProblem:
    """The problem that `LinearProblem.build` makes."""
    span = found[:, v.SPAN]
    return made(
        LinearProblem,
        given=given,
        fingerprint=None,
        asked=given.geometry,
        geometry=flat,
        reduced=later(_not_reduced, flat),
        kernels=kernels,
        a=later(_shares, given.a, flat.n),
        b=later(_shares, given.b, flat.m),
        reg=None,
        penalties=made(Penalties, rho_a=INFINITE, rho_b=INFINITE),
        balanced=TRUE,
        idle=None,
        mass=found[:, v.MASS],
        rescaled=found[:, v.RESCALED],
        span=span,
        low=ZERO,
        high=span,
        forbidden=~TRUE,
        batch=(),
        dtype=F64,
        unit=UNIT,
    )


def _shares(w: np.ndarray | None, size: int) -> np.ndarray:
    """The weights of a side over their total, ``(1, size)``."""
    return (np.full(size, 1 / size) if w is None else w / w.sum())[None]


def _not_reduced(flat: PointCloud) -> Reduced:
    """The costs without offsets: the distances of points on a line are not reduced."""
    return Reduced(flat, np.zeros((1, flat.n)), np.zeros((1, flat.m)))


def _numbers(points: tuple[np.ndarray, np.ndarray], weights: tuple[Any, Any], metric: Cost) -> np.ndarray | None:
    """What `line.solve` writes about two measures, ``(1, 10)``; None if it does not solve them."""
    if runs_as_written(points[0].size + points[1].size):
        with np.errstate(all="ignore"):
            return _numbers_by(as_written(in_order), as_written(line.solve), points, weights, metric)
    return _numbers_by(in_order, line.solve, points, weights, metric)


def _numbers_by(
    sort: Callable[..., bool],
    match: Callable[..., None],
    points: tuple[np.ndarray, np.ndarray],
    weights: tuple[Any, Any],
    metric: Cost,
) -> np.ndarray | None:
    n, m = points[0].size, points[1].size
    both, w = np.empty(n + m), np.empty(n + m)
    sides = tuple(zip(points, weights, ((both[:n], w[:n]), (both[n:], w[n:])), strict=True))
    threads.each(lambda side: _write(sort, *side), sides, _KEY * (n + m))
    x, y = both[:n], both[n:]
    if not (-np.inf < x[0] and x[-1] < np.inf and -np.inf < y[0] and y[-1] < np.inf):
        return None
    rounding = metric.rounding(1, float(max(-x[0], x[-1], -y[0], y[-1])), float(min(_least(x), _least(y))))
    num, info = np.empty((1, 10)), np.empty((1, 4), dtype=np.int64)
    start = np.array([0, n, n + m])
    match(both[:, None], w, start, described(metric, rounding), start[:1], _SECOND, UNIT, 0, 1, num, info)
    if weights[0] is None and weights[1] is None:
        num[0, v.MASS] = 1.0
    return num if info[0, v.FLAG] == 0 else None


def _write(sort: Callable[..., bool], x: np.ndarray, w: Any, out: tuple[np.ndarray, np.ndarray]) -> None:
    """Write the points of a side in order, and their weights, by `in_order` where it applies."""
    out_x, out_w = out
    if sort(x, NO_WEIGHTS if w is None else w, out_x, out_w):
        return
    if w is None:
        out_x[:], out_w[:] = np.sort(x), 1 / x.size
    else:
        order = np.argsort(x)
        out_x[:], out_w[:] = x[order], w[order]


def _least(x: np.ndarray) -> float:
    """The least size of the sorted numbers that are not 0."""
    below = above = x.searchsorted(0.0)
    if above < x.size and x[above] == 0.0:
        above = x.searchsorted(0.0, "right")
    return min(-x[below - 1] if below else np.inf, x[above] if above < x.size else np.inf)
