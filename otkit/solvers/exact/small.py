"""Small exact problems, from the caller's arrays to a result by one compiled pass.

`solved` gives the result that `LinearProblem.build` and `run` with `Exact` give, with every field filled from what the
pass returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import later, made
from otkit.certificates.base import Certificate
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import Cost
from otkit.kernels import hosted
from otkit.kernels.numba import items as t
from otkit.kernels.numba import vertices as v
from otkit.kernels.numba.written import as_written
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.results.result import Result
from otkit.solvers import small
from otkit.solvers.exact.packed import ENTRY, LIMIT, PAIR

# Maximum number of entries of a problem. Above, the simplex starts from masses that go along the arcs of least cost of
# all. With 300 and 600 points, the mean over 28 families is 1.8 and 1.2 times as long then, with 1000 points the same.
LARGEST = 2**19
# So many times more where these are between points with mass: the other entries are only read by the proof. Where they
# are four times as many, the general way reads them more often, so that up to _BEYOND more may have mass.
_IDLE, _BEYOND = 8, 1.375
# Maximum number of entries of a problem that is solved without compilation: about as long as loading compiled kernels.
_FEW = 40_000
_uncompiled = ContextVar("uncompiled", default=False)


class _Solved(NamedTuple):
    """What the compiled pass writes; `otkit.kernels.numba.items` names the places."""

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


def runs_as_written(entries: int) -> bool:
    """Whether a problem with so many entries, or points on a line, is solved without compilation here."""
    return _uncompiled.get() and entries <= _FEW


def largest(cost: Cost, d: int) -> int:
    """The most entries of a pair of clouds in d coordinates that the pass takes; 0 where it does not take the cost."""
    on_line = d == 1 and cost.convex_on_line and not cost.forbids
    return LARGEST if isinstance(cost.ground, str) and not on_line else 0


def solved(geometry: GivenGeometry, a: Any, b: Any, rtol: float | None = None) -> Result | None:
    """The solution of an exact problem; None where the general way must look."""
    if rtol is not None and not (isinstance(rtol, float) and 0 < rtol < 1):
        return None
    asked = small.read(geometry, a, b, _largest(a, b))
    return None if asked is None else solved_as_read(asked, rtol)


def solved_as_read(asked: small.Read, rtol: float | None = None) -> Result | None:
    """The solution of a problem as the pass reads it; None where the general way must look."""
    found = _run(asked)
    if not small.all_solved(asked, found.num, found.info):
        return None
    lower, upper = found.num[:, t.LOWER], found.num[:, t.UPPER]
    if rtol is not None and not (upper - lower <= rtol * abs(upper)).all():
        return None
    passed, size = small.Passed.by(asked, found.num, found.info, found.vectors), (asked.flat.n, asked.flat.m)
    return small.result_of(passed, "exact", later(_outcome, found, *size, rtol), found.num[0, t.VALUE])


def _largest(a: Any, b: Any) -> int:
    """The most entries that the pass takes: more than LARGEST if few of them are between points with mass."""
    if all(small.ordinary(w) and w.ndim == 1 for w in (a, b)) and LARGEST < a.size * b.size <= _IDLE * LARGEST:
        with_mass, all_entries = np.count_nonzero(a) * np.count_nonzero(b), a.size * b.size
        most = _BEYOND * LARGEST if all_entries >= 4 * with_mass else LARGEST
        return all_entries if with_mass <= most else LARGEST
    return LARGEST


def certified(problem: LinearProblem) -> tuple[Certificate | None, np.ndarray]:
    """The bounds of a problem by its exact solution, with or without a regularisation, and the items that have them."""
    a, b = (w.reshape((*problem.batch, w.shape[1])) for w in (problem.a, problem.b))
    asked = small.read(hosted(problem.asked), a, b, LARGEST)
    if asked is None:
        return None, np.zeros(problem.items, dtype=bool)
    found = _run(asked)
    solved = small.are_solved(asked, found.num, found.info) & problem.balanced
    return _certificate(found, asked.flat.n, asked.flat.m), solved


def _run(asked: small.Read) -> _Solved:
    """The compiled pass over all items."""
    n, m, items = asked.flat.n, asked.flat.m, asked.items
    found = _Solved(
        np.empty((items, 10)),
        np.empty((items, 4), dtype=np.int64),
        np.zeros((items, 6, max(n, m))),
        np.empty((items, n + m, 2), dtype=np.int32),
        np.empty((items, n + m)),
    )
    given, most = (*asked.costs, *asked.measures, asked.unit, LIMIT), asked.most
    if runs_as_written(items * most):
        with np.errstate(all="ignore"):
            as_written(v.solve)(*given, 0, items, np.empty(most), *found)
    else:

        def work(run: range) -> None:
            v.solve(*given, run.start, run.stop, np.empty(most), *found)

        small.each(work, range(items), PAIR + ENTRY * asked.entries)
    return found


def _outcome(found: _Solved, n: int, m: int, rtol: float | None) -> Outcome:
    """The outcome of the pass, as `Exact.finish` makes it."""
    items, num = len(found.num), found.num
    return made(
        Outcome,
        f=found.vectors[:, t.F, :n],
        g=found.vectors[:, t.G, :m],
        reg=None,
        plan=later(_plan, found, n, m),
        certificate=later(_certificate, found, n, m),
        status=small.converged(items),
        error=num[:, t.ERROR],
        tol=small.ZERO if items == 1 and rtol is None else np.full(items, rtol or 0.0),
        n_iter=found.info[:, t.PIVOTS],
        errors=small.ZERO[None] if items == 1 else np.zeros((1, items)),
        stages=(),
        linear=num[:, t.VALUE],
        counted=None,
    )


def _certificate(found: _Solved, n: int, m: int) -> Certificate:
    num, vectors = found.num, found.vectors
    return Certificate(
        lower=num[:, t.LOWER],
        upper=num[:, t.UPPER],
        f=vectors[:, t.F, :n],
        g=vectors[:, t.G, :m],
        plan=_plan(found, n, m),
        linear=num[:, t.VALUE],
        rounding=num[:, t.ROUNDING],
    )


def _plan(found: _Solved, n: int, m: int) -> tuple[SparsePlan]:
    entries = _arcs(found, found.info[:, t.ARCS])
    return (SparsePlan((len(found.num), n, m), entries, found.vectors[:, t.A, :n]),)


def _arcs(found: _Solved, counts: np.ndarray) -> Arcs:
    """The arcs of all items."""
    if counts.size == 1:
        count = int(counts[0])
        ends = found.ends[0, :count]
        return Arcs(np.zeros(count, dtype=np.int64), ends[:, 0], ends[:, 1], found.mass[0, :count])
    kept = np.arange(found.mass.shape[1]) < counts[:, None]
    ends = found.ends[kept]
    return Arcs(np.repeat(np.arange(counts.size), counts), ends[:, 0], ends[:, 1], found.mass[kept])
