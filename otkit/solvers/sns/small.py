"""Small entropic problems, from the caller's arrays to a result by one compiled pass.

`solved` gives the result that `LinearProblem.build` and `run` with `SparseNewton` give, to the tolerance. The pass
takes Newton steps sooner, and with dense matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otkit import checks
from otkit.geometry.base import GivenGeometry
from otkit.kernels.numba import items as t
from otkit.kernels.numba import newton as k
from otkit.plans import EntropicPlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, marginal_error
from otkit.results.result import Result
from otkit.solvers import descent, small
from otkit.solvers.exact.packed import PAIR
from otkit.solvers.small import made

# Maximum number of points on either side.
LARGEST = 64
# Nanoseconds of an item for each pair of points.
_ENTRY = 100


class _Solved(NamedTuple):
    """What the compiled pass writes; `otkit.kernels.numba.items` and `newton` name the places."""

    num: np.ndarray
    info: np.ndarray
    vectors: np.ndarray
    stages: np.ndarray


@np.errstate(over="ignore", invalid="ignore")  # as in `LinearProblem.build`
def solved(geometry: GivenGeometry, a: Any, b: Any, reg: Any, tol: float | None = None) -> Result | None:
    """The solution of an entropic problem with exact marginals; None where the general way must look."""
    checks.positive(tol, "tol")
    asked = small.read(geometry, a, b, LARGEST**2)
    if asked is None or max(asked.flat.n, asked.flat.m) > LARGEST:
        return None
    by_item = _by_item(reg, asked)
    if by_item is None:
        return None
    found = _run(asked, by_item, descent.asked(tol, asked.unit))
    if not small.is_solved(asked, found.num, found.info):
        return None
    problem = small.problem_of(asked, found.num, found.info, found.vectors, (reg, by_item))
    outcome = _outcome(found, problem, descent.tolerance(problem, tol))
    return small.result_of(asked, problem, "sns", outcome) if (outcome.error <= outcome.tol).all() else None


def _by_item(reg: Any, asked: small.Read) -> np.ndarray | None:
    """The regularisation of each item; None if it has other axes than the batch."""
    x = np.asarray(reg) if isinstance(reg, float) and 0 < reg < np.inf else checks.regularisation(reg)
    return np.broadcast_to(x, asked.batch).reshape(-1) if x.shape in ((), asked.batch) else None


def _run(asked: small.Read, reg: np.ndarray, tol: float) -> _Solved:
    """The compiled pass over all items."""
    n, m, items = asked.flat.n, asked.flat.m, asked.items
    found = _Solved(
        np.empty((items, 10)),
        np.empty((items, 4), dtype=np.int64),
        np.empty((items, 6, max(n, m))),
        np.empty((items, k.STAGES, 4)),
    )
    given = (*asked.costs, *asked.measures, asked.unit, reg, tol)
    small.each(lambda run: k.solve(*given, run.start, run.stop, *found), items, PAIR + _ENTRY * n * m)
    return found


def _outcome(found: _Solved, problem: LinearProblem, tol: np.ndarray) -> Outcome:
    """The outcome of the pass, as `SparseNewton.finish` makes it."""
    n, m, reg = problem.reduced.n, problem.reduced.m, problem.reg
    f, g = found.vectors[:, t.F, :n], found.vectors[:, t.G, :m]
    plan = (EntropicPlan(problem.reduced, problem.at(f, g, reg), problem.kernels),)
    error = marginal_error(problem, plan, f, g)
    return made(
        Outcome,
        f=f,
        g=g,
        reg=reg,
        plan=plan,
        certificate=None,
        status=small.converged(problem.items),
        error=error,
        tol=tol,
        n_iter=found.info[:, t.PIVOTS],
        errors=error[None],
        stages=_stages(found, n * m),
        linear=None,
        counted=None,
    )


def _stages(found: _Solved, entries: int) -> tuple[Stage, ...]:
    """The log of the stages; Newton steps keep all entries."""
    counts, log = found.info[:, t.ARCS].tolist(), found.stages
    return tuple(
        made(
            Stage,
            item=item,
            reg=reg,
            n_iter=int(done),
            error=error,
            newton_steps=int(newton),
            cg_steps=0,
            kept=entries if newton else 0,
            dropped=0.0,
        )
        for item, count in enumerate(counts)
        for reg, done, error, newton in log[item, :count].tolist()
    )
