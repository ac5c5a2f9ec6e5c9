"""One pair of clouds on a line: from the caller's arrays to the solution by one compiled pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from otkit.arrays import later, made
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose, runs_on_host, threads
from otkit.kernels.numba import items as v
from otkit.kernels.numba import line
from otkit.kernels.numba.sorting import in_order
from otkit.kernels.numba.written import as_written
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.results.result import Result
from otkit.results.values import converged_at
from otkit.solvers.exact.packed import described
from otkit.solvers.exact.small import runs_as_written
from otkit.solvers.small import F64, INFINITE, NO_WEIGHTS, TRUE, ZERO, constant, converged, ordinary
from otkit.solvers.univariate import Solution, Univariate, outcome_of

# Time to sort a number, in exponentials, and the number of points of both sides from which two threads sort them.
_KEY, _MANY = 20, 2**15
_FIRST, _SECOND = constant([0], np.int64), constant([1], np.int64)
# Coordinates that are not 0 are at least as large, so that bounds on the rounding of costs do not depend on them.
_LEAST = 2.0**-400


@dataclass(frozen=True, eq=False)
class _Case:
    """Copies of the caller's arrays, the cost, and what `line.solve` has found; all else is made on first use."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray | None
    b: np.ndarray | None
    metric: Cost
    found: np.ndarray

    @cached_property
    def problem(self) -> LinearProblem:
        return _problem(self)

    @property
    def cloud(self) -> PointCloud:
        return made(PointCloud, x=self.x, y=self.y, metric=self.metric, swapped=False)

    @property
    def flat(self) -> PointCloud:
        return made(PointCloud, x=self.x[None], y=self.y[None], metric=self.metric, swapped=False)


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
    found = _numbers(x, y, a, b, cloud.metric)
    if found is None:
        return None
    own_x, own_a = x.copy(), None if a is None else a.copy()
    own_y, own_b = own_x if y is x else y.copy(), own_a if b is a else None if b is None else b.copy()
    case = made(_Case, x=own_x, y=own_y, a=own_a, b=own_b, metric=cloud.metric, found=found)
    return made(
        Result,
        problem=later(_problem_of, case),
        outcome=later(_outcome, case),
        method=Univariate.name,
        kernel="numba (numpy)",
        link=None,
        **converged_at(found[0, v.VALUE] * found[0, v.MASS]),
    )


def _problem_of(case: _Case) -> LinearProblem:
    return case.problem


def _problem(case: _Case) -> LinearProblem:
    """The problem that `LinearProblem.build` makes."""
    flat, found = case.flat, case.found
    n, m, span = flat.n, flat.m, found[:, v.SPAN]
    given = made(Given, geometry=case.cloud, a=case.a, b=case.b, reg=None, unbalanced=None, totals=(None, None))
    return made(
        LinearProblem,
        given=given,
        fingerprint=None,
        asked=given.geometry,
        geometry=flat,
        # The distances of points on a line are not reduced.
        reduced=later(Reduced, flat, np.zeros((1, n)), np.zeros((1, m))),
        kernels=choose(flat),
        a=later(_shares, case.a, n),
        b=later(_shares, case.b, m),
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


def _outcome(case: _Case) -> Outcome:
    found = case.found
    solution = made(
        Solution,
        problem=case.problem,
        proved=(found[:, v.LOWER], found[:, v.UPPER], found[:, v.ROUNDING]),
        _paid=(found[:, v.VALUE], found[:, v.ERROR]),
    )
    return outcome_of(solution, converged(1), np.zeros((1, 1)))


def _shares(w: np.ndarray | None, size: int) -> np.ndarray:
    """The weights of a side over their total, ``(1, size)``."""
    return (np.full(size, 1 / size) if w is None else w / w.sum())[None]


@cache
def _described(metric: Cost) -> np.ndarray:
    """A cost of points on a line, none of them smaller than _LEAST, as the kernels read it."""
    return described(metric, metric.rounding(1, 0.0, _LEAST))


def _numbers(x: np.ndarray, y: np.ndarray, a: Any, b: Any, metric: Cost) -> np.ndarray | None:
    """What `line.solve` writes about two measures, ``(1, 10)``; None if it does not solve them."""
    n, m, cost = x.size, y.size, _described(metric)
    num, info = np.empty((1, 10)), np.empty((1, 4), dtype=np.int64)
    given = x, y, NO_WEIGHTS if a is None else a, NO_WEIGHTS if b is None else b, cost, UNIT, _LEAST, num, info
    if runs_as_written(n + m):
        with np.errstate(all="ignore"):
            as_written(line.pair)(*given)
    elif n + m < _MANY:
        line.pair(*given)
    else:
        info[0, v.FLAG] = v.UNSOLVED
    if info[0, v.FLAG] == v.UNSOLVED:
        both, w = np.empty((n + m, 1)), np.empty(n + m)
        sides = (x[:, 0], a, both[:n, 0], w[:n]), (y[:, 0], b, both[n:, 0], w[n:])
        threads.each(_write, sides, _KEY * (n + m))
        line.solve(both, w, np.array((0, n, n + m)), cost, _FIRST, _SECOND, UNIT, 0, 1, num, info)
    if a is None and b is None:
        num[0, v.MASS] = 1.0
    return None if info[0, v.FLAG] else num


def _write(side: tuple[np.ndarray, Any, np.ndarray, np.ndarray]) -> None:
    """Write the points of a side in order, and their weights; NaN in place of points that the general way looks at."""
    x, w, out_x, out_w = side
    least = in_order(x, NO_WEIGHTS if w is None else w, out_x, out_w)
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
