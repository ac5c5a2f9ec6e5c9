"""One pair of clouds on a line: from the caller's arrays to the solution by one compiled pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import later, made
from otkit.certificates.base import Certificate
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, runs_on_host, threads
from otkit.kernels.numba import items as v
from otkit.kernels.numba import line
from otkit.kernels.numba.sorting import in_order
from otkit.kernels.numba.written import as_written
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result
from otkit.solvers.exact.packed import described
from otkit.solvers.exact.small import runs_as_written
from otkit.solvers.small import F64, FALSE, INFINITE, NO_WEIGHTS, TRUE, ZERO, constant, converged, ordinary
from otkit.solvers.univariate import Solution, Univariate, outcome_of

# Time to sort a number, in exponentials.
_KEY = 20
_FIRST, _SECOND = constant([0], np.int64), constant([1], np.int64)
_EXACT, _NO_ERRORS = made(Penalties, rho_a=INFINITE, rho_b=INFINITE), constant([[0.0]], float)
# Coordinates that are not 0 are at least as large, so that bounds on the rounding of costs do not depend on them.
_LEAST = 2.0**-400


class _Owned(NamedTuple):
    """Copies of the caller's arrays, and the cost."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray | None
    b: np.ndarray | None
    metric: Cost


def solved(cloud: GivenGeometry, a: Any, b: Any) -> Result | None:
    """The solution of one problem on a line, of float64 arrays of NumPy; None where the general way must look.

    Data are not checked: the compiled pass flags whatever is unusual.
    """
    if type(cloud) is not PointCloud or cloud.metric.period is not None or not runs_on_host():
        return None
    x, y = cloud.x, cloud.y
    n, m = x.size, y.size
    if not (ordinary(x) and ordinary(y) and x.shape == (n, 1) and y.shape == (m, 1) and n and m):
        return None
    for w, size in ((a, n), (b, m)):
        if w is not None and not (ordinary(w) and w.shape == (size,)):
            return None
    found = _numbers((x[:, 0], y[:, 0]), (a, b), cloud.metric)
    if found is None:
        return None
    own_x, own_a = x.copy(), None if a is None else a.copy()
    own_y, own_b = own_x if y is x else y.copy(), own_a if b is a else None if b is None else b.copy()
    problem = _problem(_Owned(own_x, own_y, own_a, own_b, cloud.metric), found)
    proved = found[:, v.LOWER], found[:, v.UPPER], found[:, v.ROUNDING]
    solution = made(Solution, problem=problem, proved=proved, _paid=(found[:, v.VALUE], found[:, v.ERROR]))
    outcome = outcome_of(solution, converged(1), _NO_ERRORS)
    return made(Result, problem=problem, outcome=outcome, method=Univariate.name, kernel="numba (numpy)", link=None)


def _problem(own: _Owned, found: np.ndarray) -> LinearProblem:
    """The problem that `LinearProblem.build` makes."""
    span, n, m = found[:, v.SPAN], own.x.size, own.y.size
    return made(
        LinearProblem,
        given=later(_given, own),
        fingerprint=None,
        asked=later(_cloud, own),
        geometry=later(_flat, own),
        reduced=later(_not_reduced, own),
        kernels=later(_kernels, own),
        a=later(_shares, own.a, n),
        b=later(_shares, own.b, m),
        reg=None,
        penalties=_EXACT,
        balanced=TRUE,
        idle=None,
        mass=found[:, v.MASS],
        rescaled=found[:, v.RESCALED],
        span=span,
        low=ZERO,
        high=span,
        forbidden=FALSE,
        batch=(),
        dtype=F64,
        unit=UNIT,
    )


def _given(own: _Owned) -> Given:
    return made(Given, geometry=_cloud(own), a=own.a, b=own.b, reg=None, unbalanced=None, totals=(None, None))


def _cloud(own: _Owned) -> PointCloud:
    return made(PointCloud, x=own.x, y=own.y, metric=own.metric, swapped=False)


def _flat(own: _Owned) -> PointCloud:
    return made(PointCloud, x=own.x[None], y=own.y[None], metric=own.metric, swapped=False)


def _kernels(own: _Owned) -> Kernels:
    return choose(_flat(own))


def _shares(w: np.ndarray | None, size: int) -> np.ndarray:
    """The weights of a side over their total, ``(1, size)``."""
    return (np.full(size, 1 / size) if w is None else w / w.sum())[None]


def _not_reduced(own: _Owned) -> Reduced:
    """The costs without offsets: the distances of points on a line are not reduced."""
    return Reduced(_flat(own), np.zeros((1, own.x.size)), np.zeros((1, own.y.size)))


@cache
def _described(metric: Cost) -> np.ndarray:
    """A cost of points on a line, none of them smaller than _LEAST, as the kernels read it."""
    return described(metric, metric.rounding(1, 0.0, _LEAST))


def _numbers(points: tuple[np.ndarray, np.ndarray], weights: tuple[Any, Any], metric: Cost) -> np.ndarray | None:
    """What `line.solve` writes about two measures, ``(1, 10)``; None if it does not solve them."""
    if runs_as_written(points[0].size + points[1].size):
        with np.errstate(all="ignore"):
            return _numbers_by(as_written(in_order), as_written(line.solve), points, weights, metric)
    return _numbers_by(in_order, line.solve, points, weights, metric)


def _numbers_by(
    sort: Callable[..., float],
    match: Callable[..., None],
    points: tuple[np.ndarray, np.ndarray],
    weights: tuple[Any, Any],
    metric: Cost,
) -> np.ndarray | None:
    n, m = points[0].size, points[1].size
    both, w = np.empty(n + m), np.empty(n + m)
    sides = (
        (sort, points[0], weights[0], both[:n], w[:n]),
        (sort, points[1], weights[1], both[n:], w[n:]),
    )
    threads.each(_write, sides, _KEY * (n + m))
    num, info = np.empty((1, 10)), np.empty((1, 4), dtype=np.int64)
    start = np.array((0, n, n + m))
    match(both[:, None], w, start, _described(metric), _FIRST, _SECOND, UNIT, 0, 1, num, info)
    if weights[0] is None and weights[1] is None:
        num[0, v.MASS] = 1.0
    return None if info[0, v.FLAG] else num


def _write(side: tuple[Callable[..., float], np.ndarray, Any, np.ndarray, np.ndarray]) -> None:
    """Write the points of a side in order, and their weights; NaN in place of points that the general way looks at."""
    sort, x, w, out_x, out_w = side
    least = sort(x, NO_WEIGHTS if w is None else w, out_x, out_w)
    if least < 0.0:
        if w is None:
            out_x[:], out_w[:] = np.sort(x), 1 / x.size
        else:
            order = np.argsort(x)
            out_x[:], out_w[:] = x[order], w[order]
        size = abs(out_x)
        least = size.min(where=size > 0.0, initial=np.inf)
    if not least >= _LEAST:
        out_x[:] = np.nan
