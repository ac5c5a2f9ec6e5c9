"""Small problems: from the caller's arrays to what a compiled pass reads, and from what it writes to a problem.

`read` does not check data: the pass flags whatever is unusual. The general way then says what is wrong, or solves the
problem in another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from otkit import arrays, checks
from otkit.arrays import later, made, renewed
from otkit.certificates.width import exactness
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry, flatten_batch
from otkit.geometry.bordered import Bordered
from otkit.geometry.costs import DIRECT_DIMENSIONS, UNIT
from otkit.geometry.dense import Dense
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, hosted, threads
from otkit.kernels.numba import items as t
from otkit.problems.fingerprint import Fingerprint
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem, result_dtype
from otkit.results.outcome import Status
from otkit.results.result import Result
from otkit.results.values import converged_at
from otkit.solvers.exact.packed import NO_MATRIX, described, runs

# The largest cost of points is between this and its reciprocal: none that matters under- or overflows.
_LEAST = 2.0**-500
F64 = np.dtype(np.float64)
NO_WEIGHTS, NO_POINTS, EXACT_COSTS = np.empty(0), np.empty((0, 0)), np.array([*7 * [0.0], *exactness(1.0)])


def constant(x: list[Any], dtype: Any) -> np.ndarray:
    """An array that cannot be written."""
    array = np.array(x, dtype=dtype)
    array.flags.writeable = False
    return array


# What is the same for every single problem.
_FIRST = np.zeros(1, dtype=np.int64)
ZERO, INFINITE, TRUE = constant([0.0], float), constant([np.inf], float), constant([True], bool)
_CONVERGED = constant([Status.CONVERGED], object)


class Read(NamedTuple):
    """A small problem: its geometry, the caller's and the flat one, and the arrays that compiled passes read.

    ``costs`` are the first four arguments of `otkit.kernels.numba.vertices.solve`, and ``measures`` the next six. Items
    have so many ``entries``: a number, or one for each.
    """

    asked: GivenGeometry
    owned: GivenGeometry
    flat: GivenGeometry
    weights: tuple[Any, Any]
    kernels: Kernels
    library: str
    batch: tuple[int, ...]
    items: int
    dtype: Any
    unit: float
    costs: tuple[np.ndarray, ...]
    measures: tuple[np.ndarray, ...]
    entries: Any

    @property
    def most(self) -> int:
        """The number of entries of the largest item."""
        return _most(self.entries)


def _most(entries: Any) -> int:
    return entries if isinstance(entries, int) else int(entries.max())


def read(geometry: GivenGeometry, a: Any, b: Any, largest: int, *others: tuple[int, ...]) -> Read | None:
    """The problem, if its items have at most `largest` entries; None where the general way must look.

    ``others`` are the shapes of further arguments with a number for each item.
    """
    costs = tuple(geometry.arrays.values())
    given = [x for x in (*costs, a, b) if x is not None]
    common = all(map(ordinary, given))
    if not common:
        a, b = (None if w is None else checks.as_array(w, name, costs[0]) for w, name in ((a, "a"), (b, "b")))
        given = [x for x in (*costs, a, b) if x is not None]
    if not _is_plain(geometry) or len(set(map(type, given))) > 1:
        return None
    n, m = geometry.n, geometry.m
    edges = geometry.edges if type(geometry) is Bordered else ()
    batch = _batch(costs, ((a, n), (b, m)), (*others, *(v.shape[:-1] for v in edges)))
    rows, cols = getattr(geometry, "sizes", None) or (n, m)
    entries = rows * cols
    if batch is None or not 0 < _most(entries) <= largest:
        return None
    owned = geometry if common and type(geometry) is Dense else geometry.owned()
    here = owned if common else hosted(owned)
    flat = here.flat(batch)
    kernels = choose(flat)
    if kernels.name != "numba" or not (common or all(isinstance(v, np.ndarray) for v in flat.arrays.values())):
        return None
    items, bordered, cloud, left, right = math.prod(batch), flat.bordered, points_of(flat), NO_POINTS, NO_POINTS
    if cloud is not None and not all(np.isfinite(x).all() for x in (cloud.x, cloud.y)):
        return None
    if cloud is None or bordered is not None:
        given_costs = flat.matrix if bordered is None else flat.block(slice(0, items), slice(0, n))
        matrix = np.ascontiguousarray(given_costs, dtype=np.float64)
        metric = EXACT_COSTS if cloud is None else described(cloud.metric, cloud.rounding)
    else:
        if here.cloud is not None and cloud.d > DIRECT_DIMENSIONS:  # the pass forms differences, in any dimension
            cloud = renewed(here.cloud, metric=replace(cloud.metric, by_products=False)).flat(batch)
        with np.errstate(over="ignore", invalid="ignore"):  # as in `LinearProblem.build`
            matrix, metric = NO_MATRIX, described(cloud.metric, cloud.rounding)
        left, right = (x.reshape(-1, x.shape[2]) for x in (cloud.x, cloud.y))
    w_a, x, at_a, first = _measures(a if common else _hosted(a), left, n, items, batch, rows)
    w_b, y, at_b, second = _measures(b if common else _hosted(b), right, m, items, batch, cols)
    dtype, unit = (F64, UNIT) if common else result_dtype([arrays.detached(x) for x in given])
    return Read(
        asked=geometry,
        owned=owned,
        flat=flat,
        weights=(a, b),
        kernels=kernels,
        library="numpy" if common else arrays.library_name(given[0]),
        batch=batch,
        items=items,
        dtype=dtype,
        unit=unit,
        costs=(matrix, x, y, metric),
        measures=(w_a, w_b, at_a, at_b, first, second),
        entries=entries,
    )


def points_of(geometry: GivenGeometry) -> PointCloud | None:
    """The points between which costs are, perhaps with a border; None for a matrix."""
    bordered = geometry.bordered
    return geometry.cloud if bordered is None else bordered.inner.cloud


def ordinary(x: Any) -> bool:
    """Whether `x` is a NumPy array in float64, with nothing unusual about it."""
    return type(x) is np.ndarray and x.dtype == F64 and x.flags.behaved


def _is_plain(geometry: GivenGeometry) -> bool:
    """Whether a compiled pass can form the costs, and their shapes are valid."""
    if type(geometry) is Bordered:
        geometry = geometry.inner
    if type(geometry) is Dense:
        return geometry.C.ndim >= 2
    if type(geometry) is not PointCloud or not isinstance(geometry.metric.ground, str) or geometry.swapped:
        return False
    x, y = geometry.x, geometry.y
    return x.ndim >= 2 <= y.ndim and x.shape[-1] == y.shape[-1] > 0


def _batch(
    costs: tuple[Any, ...], weights: tuple[tuple[Any, int], ...], others: tuple[tuple[int, ...], ...]
) -> tuple[int, ...] | None:
    """The batch axes that all arguments have after broadcasting; None where shapes do not match or are empty."""
    shapes = {tuple(x.shape[:-2]) for x in costs}.union(others)
    for w, size in weights:
        if w is not None:
            if w.ndim < 1 or w.shape[-1] != size:
                return None
            shapes.add(tuple(w.shape[:-1]))
    try:
        batch = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    return batch if 0 not in batch else None


def _hosted(w: Any) -> np.ndarray | None:
    """Weights in host memory and float64."""
    return None if w is None else arrays.float64(arrays.hosted(arrays.detached(w)))


def _measures(
    w: np.ndarray | None, points: np.ndarray, size: int, items: int, batch: tuple[int, ...], sizes: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The measures of a side: weights and points, where each measure begins and ends, and the measure of each item.

    A measure has the same place for its weights and points; without weights, these are empty.
    """
    if items == 1:
        flat = NO_WEIGHTS if w is None else np.ascontiguousarray(w).reshape(-1)
        return flat, np.ascontiguousarray(points), np.array([(0, size)]), _FIRST
    flat = NO_WEIGHTS if w is None else flatten_batch(w, batch, 1)
    count = items if flat.size > size or points.shape[0] > size else 1
    if 0 < flat.size < count * size:
        flat = np.broadcast_to(flat, (count, size))
    if 0 < points.shape[0] < count * size:
        points = np.broadcast_to(points, (count, *points.shape)).reshape(-1, points.shape[1])
    index = np.arange(items) if count > 1 else np.zeros(items, dtype=np.int64)
    start = np.arange(0, count * size, size)
    places = np.column_stack((start, start + sizes))
    return np.ascontiguousarray(flat).reshape(-1), np.ascontiguousarray(points), places, index


def by_item(x: np.ndarray, problem: Read) -> np.ndarray:
    """One number for each item, or the same for all: ``(items,)``."""
    if x.size == problem.items:
        return x.reshape(-1)
    return np.full(problem.items, x) if x.ndim == 0 else np.broadcast_to(x, problem.batch).reshape(-1)


def each(work: Callable[[range], None], items: range, time: Any) -> None:
    """Call `work` for ranges of the items, in threads where it pays; `time` is that of any item, or each, in ns."""
    if len(items) == 1:
        work(items)
    else:
        time = np.broadcast_to(time, (items.stop,))[items.start :]
        threads.each(work, [items[run.start : run.stop] for run in runs(time)], int(time.sum()))


def all_solved(problem: Read, num: np.ndarray, info: np.ndarray) -> bool:
    """Whether a pass has solved all items in the ordinary way, by the numbers and counts that it wrote."""
    if points_of(problem.flat) is None:
        return not np.count_nonzero(info[:, t.FLAG])
    return bool(are_solved(problem, num, info).all())


def are_solved(problem: Read, num: np.ndarray, info: np.ndarray) -> np.ndarray:
    """Which items a pass has solved in the ordinary way, by the numbers and counts that it wrote."""
    solved = info[:, t.FLAG] == 0
    if points_of(problem.flat) is not None:
        solved &= (num[:, t.HIGH] > _LEAST) & (num[:, t.HIGH] < 1 / _LEAST)
    return solved


@dataclass(frozen=True, eq=False)
class Passed:
    """What a pass read and wrote, and copies of the caller's inputs; the problem is made of it on first use."""

    of: Read
    num: np.ndarray
    info: np.ndarray
    vectors: np.ndarray
    reg: np.ndarray | None
    given: Given
    fingerprint: Fingerprint | None

    @staticmethod
    def by(
        of: Read,
        num: np.ndarray,
        info: np.ndarray,
        vectors: np.ndarray,
        reg: tuple[Any, Any, Any] = (None, None, None),
    ) -> Passed:
        """With a regularisation, `reg` has the caller's, the caller's penalties, and that of each item."""
        given_reg, penalties, by_item = reg
        return made(
            Passed,
            of=of._replace(weights=(None, None), costs=(), measures=()),
            num=num,
            info=info,
            vectors=vectors,
            reg=by_item,
            given=_given(of, given_reg, penalties),
            fingerprint=Fingerprint.of_costs(of.flat),
        )

    @cached_property
    def problem(self) -> LinearProblem:
        """The problem that `LinearProblem.build` makes."""
        return _problem(self)


def problem_of(passed: Passed) -> LinearProblem:
    """The problem of a pass."""
    return passed.problem


def _problem(passed: Passed) -> LinearProblem:
    of, num, info, vectors = passed.of, passed.num, passed.info, passed.vectors
    n, m, flat = of.flat.n, of.flat.m, of.flat
    infinite, every = (INFINITE, TRUE) if of.items == 1 else (np.full(of.items, np.inf), np.ones(of.items, bool))
    return made(
        LinearProblem,
        given=passed.given,
        fingerprint=passed.fingerprint,
        asked=of.owned,
        geometry=flat,
        reduced=made(Reduced, base=flat, row=vectors[:, t.ROW, :n], col=vectors[:, t.COL, :m]),
        kernels=of.kernels,
        a=vectors[:, t.A, :n],
        b=vectors[:, t.B, :m],
        reg=passed.reg,
        penalties=made(Penalties, rho_a=infinite, rho_b=infinite),
        balanced=every,
        idle=None,
        mass=num[:, t.MASS],
        rescaled=num[:, t.RESCALED],
        span=num[:, t.SPAN],
        low=num[:, t.LOW],
        high=num[:, t.HIGH],
        forbidden=info[:, t.FORBIDDEN] != 0,
        batch=of.batch,
        dtype=of.dtype,
        unit=of.unit,
    )


def _given(of: Read, reg: Any, unbalanced: Any) -> Given:
    """The caller's inputs; of arrays of NumPy, without the detours of `Given.of`."""
    if of.library != "numpy" or unbalanced is not None or not (reg is None or isinstance(reg, float)):
        return Given.of(of.asked, of.owned, of.weights, reg, unbalanced)
    own = {id(w): None if w is None else w.copy() for w in of.weights}  # of a measure with itself one
    a, b = (own[id(w)] for w in of.weights)
    return made(Given, geometry=of.owned, a=a, b=b, reg=reg, unbalanced=None, totals=(None, None))


def result_of(passed: Passed, method: str, outcome: Any, *values: np.ndarray) -> Result:
    """The result of a pass; `values` are ⟨C, P⟩ and the divergence, at mass 1, where all items have converged.

    The problem of one pair of arrays of NumPy is made on first use: most read the value alone.
    """
    of, given = passed.of, passed.given
    kernel = f"{of.kernels.name} ({of.library})"
    plain = of.library == "numpy" and of.dtype is F64 and given.unbalanced is None
    if of.batch or not values or not plain or not (given.reg is None or isinstance(given.reg, float)):
        return made(Result, problem=passed.problem, outcome=outcome, method=method, kernel=kernel, link=None)
    known = converged_at(*(v * passed.num[0, t.MASS] for v in values))
    return made(
        Result, problem=later(problem_of, passed), outcome=outcome, method=method, kernel=kernel, link=None, **known
    )


def converged(items: int) -> np.ndarray:
    """The status of items that a pass has solved."""
    return _CONVERGED if items == 1 else np.full(items, Status.CONVERGED, dtype=object)
