"""Small exact problems, from the caller's arrays to a result by one compiled pass.

`solved` gives the result that `LinearProblem.build` and `run` with `Exact` give, with every field filled from what the
pass returns. It does not check data: the pass flags whatever is unusual. The general way then says what is wrong, or
solves the problem in another way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import numpy as np

from otkit import arrays, checks
from otkit.certificates.base import Certificate
from otkit.certificates.width import EXACT, precise
from otkit.entropic.dual import Penalties
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT
from otkit.geometry.dense import Dense
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose, hosted, threads
from otkit.kernels.numba import vertices as v
from otkit.kernels.numba.written import as_written
from otkit.plans import Arcs, SparsePlan
from otkit.problems.fingerprint import Fingerprint
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem, _result_dtype
from otkit.results.outcome import Outcome, Status
from otkit.results.result import Result
from otkit.solvers.exact.packed import ENTRY, LIMIT, NO_MATRIX, PAIR, described, runs

# Maximum number of entries of a problem. Above, the simplex starts from masses that go along the arcs of least cost of
# all. With 300 and 600 points, the mean over 28 families is 1.8 and 1.2 times as long then, with 1000 points the same.
LARGEST = 2**19
# Maximum number of entries of a problem that is solved without compilation: in up to 0.3 s, about as long as loading
# compiled kernels takes.
_FEW = 2**13
# The largest cost of points is between this and its reciprocal: none that matters under- or overflows.
_LEAST = 2.0**-500
_uncompiled = ContextVar("uncompiled", default=False)
_F64 = np.dtype(np.float64)
_NO_WEIGHTS, _NO_POINTS, _EXACT_COSTS = np.empty(0), np.empty((0, 0)), np.zeros(7)
_Class = TypeVar("_Class")


def _constant(x: list[Any], dtype: Any) -> np.ndarray:
    array = np.array(x, dtype=dtype)
    array.flags.writeable = False
    return array


# What is the same for every single problem.
_FIRST, _ZERO, _INFINITE = np.zeros(1, dtype=np.int64), _constant([0.0], float), _constant([np.inf], float)
_TRUE, _CONVERGED = _constant([True], bool), _constant([Status.CONVERGED], object)


class _Side(NamedTuple):
    """The measures of a side: weights and points, where each measure begins, and the measure of each item."""

    weights: np.ndarray
    points: np.ndarray
    start: np.ndarray
    of_item: np.ndarray


class _Solved(NamedTuple):
    """What the compiled pass writes; `otkit.kernels.numba.vertices` names the places."""

    num: np.ndarray
    info: np.ndarray
    vectors: np.ndarray
    ends: np.ndarray
    mass: np.ndarray


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within this context, small problems are solved by kernels as they are written: the only problem of a process."""
    token = _uncompiled.set(True)
    try:
        yield
    finally:
        _uncompiled.reset(token)


@np.errstate(over="ignore", invalid="ignore")  # as in `LinearProblem.build`
def solved(geometry: GivenGeometry, a: Any, b: Any) -> Result | None:
    """The solution of an exact problem; None where the general way must look."""
    like = next(iter(geometry.arrays.values()))
    a, b = (w if w is None or _ordinary(w) else checks.as_array(w, name, like) for w, name in ((a, "a"), (b, "b")))
    if not _is_plain(geometry):
        return None
    n, m = geometry.n, geometry.m
    given = [x for x in (*geometry.arrays.values(), a, b) if x is not None]
    batch = _batch(geometry.arrays, ((a, n), (b, m)))
    if batch is None or not 0 < n * m <= LARGEST or len({type(x) for x in given}) > 1:
        return None
    in_numpy = type(given[0]) is np.ndarray
    owned = geometry if in_numpy and type(geometry) is Dense else geometry.owned()
    flat = (owned if in_numpy else hosted(owned)).flat(batch)
    kernels = choose(flat)
    if kernels.name != "numba" or not all(isinstance(v, np.ndarray) for v in flat.arrays.values()):
        return None
    dtype, unit = (_F64, UNIT) if all(map(_ordinary, given)) else _result_dtype([arrays.detached(x) for x in given])
    found = _run(flat, a, b, unit, math.prod(batch))
    if found is None:
        return None
    problem = _made(
        LinearProblem,
        given=_given(owned, a, b) if in_numpy else Given.of(geometry, owned, (a, b), None, None),
        fingerprint=None if flat.matrix is None else Fingerprint.of(flat.matrix),
        asked=owned,
        geometry=flat,
        kernels=kernels,
        batch=batch,
        dtype=dtype,
        unit=unit,
        **_fields(flat, found),
    )
    lower, upper = found.num[:, v.LOWER], found.num[:, v.UPPER]  # finite without a flag
    # The first look and `_given` only spare calls of Python: a tenth of the time of a call with 5 points.
    if not (upper - lower <= EXACT * abs(upper)).all() and not precise(problem, lower, upper).all():
        return None
    kernel = f"{kernels.name} ({arrays.library_name(given[0])})"
    return _made(Result, problem=problem, outcome=_outcome(found, n, m), method="exact", kernel=kernel, link=None)


def _given(owned: GivenGeometry, a: np.ndarray | None, b: np.ndarray | None) -> Given:
    """`Given.of` arrays of NumPy."""
    a, b = (None if w is None else w.copy() for w in (a, b))
    return _made(Given, geometry=owned, a=a, b=b, reg=None, unbalanced=None, totals=(None, None))


def _ordinary(x: Any) -> bool:
    """Whether `x` is a NumPy array in float64, with nothing unusual about it."""
    return type(x) is np.ndarray and x.dtype == _F64 and x.flags.behaved


def _is_plain(geometry: GivenGeometry) -> bool:
    """Whether the compiled pass can form the costs, and their shapes are valid."""
    if type(geometry) is Dense:
        return geometry.C.ndim >= 2
    if type(geometry) is not PointCloud or not isinstance(geometry.metric.ground, str) or geometry.swapped:
        return False
    x, y = geometry.x, geometry.y
    return x.ndim >= 2 <= y.ndim and x.shape[-1] == y.shape[-1] > 0 and not geometry.convex_on_line


def _batch(costs: dict[str, Any], weights: tuple[tuple[Any, int], ...]) -> tuple[int, ...] | None:
    """The batch axes, if each array has all of them or none; None otherwise, or where shapes do not match."""
    batch: tuple[int, ...] = ()
    shapes = [x.shape[:-2] for x in costs.values()]
    for w, size in weights:
        if w is not None:
            if w.ndim < 1 or w.shape[-1] != size:
                return None
            shapes.append(w.shape[:-1])
    for lead in shapes:
        if lead and batch and lead != batch:
            return None
        batch = lead or batch
    return tuple(batch) if 0 not in batch else None


def _measures(w: Any, points: np.ndarray | None, size: int, items: int) -> _Side:
    """The measures of a side, with the same place for their weights and points; without weights, these are empty."""
    flat = _NO_WEIGHTS if w is None else arrays.float64(arrays.hosted(arrays.detached(w)))
    where = _NO_POINTS if points is None else points.reshape(-1, points.shape[2])
    count = items if flat.size > size or where.shape[0] > size else 1
    if 0 < flat.size < count * size:
        flat = np.broadcast_to(flat.reshape(-1, size), (count, size))
    if 0 < where.shape[0] < count * size:
        where = np.broadcast_to(where, (count, *where.shape)).reshape(-1, where.shape[1])
    index = _FIRST if items == 1 else np.arange(items) if count > 1 else np.zeros(items, dtype=np.int64)
    start = np.arange(0, count * size + 1, size)
    return _Side(np.ascontiguousarray(flat).reshape(-1), np.ascontiguousarray(where), start, index)


def _run(flat: GivenGeometry, a: Any, b: Any, unit: float, items: int) -> _Solved | None:
    """The compiled pass over all items; None if one of them has a flag."""
    n, m = flat.n, flat.m
    cloud = flat.cloud
    if cloud is None:
        matrix, metric = np.ascontiguousarray(flat.matrix, dtype=np.float64), _EXACT_COSTS
        left, right = _measures(a, None, n, items), _measures(b, None, m, items)
    else:
        if not all(np.isfinite(x).all() for x in (cloud.x, cloud.y)):
            return None
        matrix, metric = NO_MATRIX, described(cloud.metric, cloud.rounding)
        left, right = _measures(a, cloud.x, n, items), _measures(b, cloud.y, m, items)
    found = _Solved(
        np.empty((items, 10)),
        np.empty((items, 4), dtype=np.int64),
        np.empty((items, 6, max(n, m))),
        np.empty((items, n + m, 2), dtype=np.int32),
        np.empty((items, n + m)),
    )
    costs = matrix, left.points, right.points, metric
    measures = left.weights, right.weights, left.start, right.start, left.of_item, right.of_item

    def work(run: range) -> None:
        v.solve(*costs, *measures, unit, LIMIT, run.start, run.stop, *found)

    if _uncompiled.get() and items * n * m <= _FEW:
        with np.errstate(all="ignore"):
            as_written(v.solve)(*costs, *measures, unit, LIMIT, 0, items, *found)
    elif items == 1:
        work(range(1))
    else:
        time = PAIR + ENTRY * n * m
        threads.each(work, runs(np.full(items, time)), items * time)
    if found.info[:, v.FLAG].any():
        return None
    if cloud is not None and not ((found.num[:, v.HIGH] > _LEAST) & (found.num[:, v.HIGH] < 1 / _LEAST)).all():
        return None
    return found


def _fields(flat: GivenGeometry, found: _Solved) -> dict[str, Any]:
    """The fields of the problem that the pass has computed."""
    items, n, m = len(found.num), flat.n, flat.m
    infinite, every = (_INFINITE, _TRUE) if items == 1 else (np.full(items, np.inf), np.ones(items, dtype=bool))
    return {
        "reduced": _made(Reduced, base=flat, row=found.vectors[:, v.ROW, :n], col=found.vectors[:, v.COL, :m]),
        "a": found.vectors[:, v.A, :n],
        "b": found.vectors[:, v.B, :m],
        "reg": None,
        "penalties": _made(Penalties, rho_a=infinite, rho_b=infinite),
        "balanced": every,
        "idle": None,
        "mass": found.num[:, v.MASS],
        "rescaled": found.num[:, v.RESCALED],
        "span": found.num[:, v.SPAN],
        "low": found.num[:, v.LOW],
        "high": found.num[:, v.HIGH],
        "forbidden": found.info[:, v.FORBIDDEN] != 0,
    }


def _outcome(found: _Solved, n: int, m: int) -> Outcome:
    """The outcome of the pass, as `Exact.finish` makes it."""
    items, num = len(found.num), found.num
    f, g = found.vectors[:, v.F, :n], found.vectors[:, v.G, :m]
    like = found.vectors[:, v.A, :n]
    plan = (_made(SparsePlan, shape=(items, n, m), entries=_arcs(found, found.info[:, v.ARCS]), like=like),)
    bounds = dict(lower=num[:, v.LOWER], upper=num[:, v.UPPER], linear=num[:, v.VALUE], rounding=num[:, v.ROUNDING])
    return _made(
        Outcome,
        f=f,
        g=g,
        reg=None,
        plan=plan,
        certificate=_made(Certificate, f=f, g=g, plan=plan, **bounds),
        status=_CONVERGED if items == 1 else np.full(items, Status.CONVERGED, dtype=object),
        error=num[:, v.ERROR],
        tol=_ZERO if items == 1 else np.zeros(items),
        n_iter=found.info[:, v.PIVOTS],
        errors=np.zeros((1, items)),
        stages=(),
        counted=None,
    )


def _arcs(found: _Solved, counts: np.ndarray) -> Arcs:
    """The arcs of all items."""
    if counts.size == 1:
        count = int(counts[0])
        ends = found.ends[0, :count]
        return Arcs(np.zeros(count, dtype=np.int64), ends[:, 0], ends[:, 1], found.mass[0, :count])
    kept = np.arange(found.mass.shape[1]) < counts[:, None]
    ends = found.ends[kept]
    return Arcs(np.repeat(np.arange(counts.size), counts), ends[:, 0], ends[:, 1], found.mass[kept])


def _made(of: type[_Class], **fields: Any) -> _Class:
    """A frozen dataclass without its checks, for fields that are known to be valid."""
    new = object.__new__(of)
    vars(new).update(fields)
    return new
