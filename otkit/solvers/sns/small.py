"""Small entropic problems, from the caller's arrays to a result by one compiled pass.

`solved` gives the result that `LinearProblem.build` and `run` with `SparseNewton` give, to the tolerance. The pass
takes Newton steps sooner, and with dense matrices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from otkit import checks
from otkit.arrays import put
from otkit.geometry.base import GivenGeometry
from otkit.kernels.numba import items as t
from otkit.kernels.numba import newton as k
from otkit.plans import EntropicPlan
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import given_penalties
from otkit.results.outcome import Outcome, Stage, marginal_error
from otkit.results.result import Result
from otkit.solvers import descent, small
from otkit.solvers.base import run
from otkit.solvers.exact.packed import PAIR
from otkit.solvers.small import made
from otkit.solvers.sns.solver import SparseNewton

# Maximum number of points on either side.
LARGEST = 64
# Nanoseconds of an item for each pair of points.
_ENTRY = 100
_ALL = np.array(True)


class _Solved(NamedTuple):
    """What the compiled pass writes; `otkit.kernels.numba.items` and `newton` name the places."""

    num: np.ndarray
    info: np.ndarray
    vectors: np.ndarray
    stages: np.ndarray


def solved(geometry: GivenGeometry, a: Any, b: Any, reg: Any, unbalanced: Any, tol: float | None) -> Result | None:
    """The solution of an entropic problem with exact marginals; None where the general way must look."""
    checks.positive(tol, "tol")
    reg_of = np.asarray(reg) if isinstance(reg, float) and 0 < reg < np.inf else checks.regularisation(reg)
    exact = _ALL if unbalanced is None else _are_exact(*given_penalties(unbalanced))
    asked = small.read(geometry, a, b, LARGEST**2, reg_of.shape, exact.shape) if exact.any() else None
    if asked is None or max(asked.flat.n, asked.flat.m) > LARGEST:
        return None
    by_item = small.by_item(reg_of, asked)
    found = _run(asked, by_item, descent.asked(tol, asked.unit))
    good = small.are_solved(asked, found.num, found.info)
    if unbalanced is not None:
        good &= small.by_item(exact, asked)
    if not good.any():
        return None
    if not good.all():
        found.num[~good] = 0.0
    problem = small.problem_of(asked, found.num, found.info, found.vectors, (reg, unbalanced, by_item))
    outcome = _outcome(found, problem, descent.tolerance(problem, tol))
    good &= outcome.error <= outcome.tol
    if not good.all():
        rest, general = np.flatnonzero(~good), LinearProblem.build(geometry, a, b, reg, unbalanced)
        part = general.take(rest)
        problem = problem.put(rest, part)
        outcome = _joined(problem, outcome, rest, run(part, SparseNewton(tol=tol)))
    return small.result_of(asked, problem, "sns", outcome)


def _are_exact(rho_a: np.ndarray, rho_b: np.ndarray) -> np.ndarray:
    return np.asarray((rho_a == np.inf) & (rho_b == np.inf))


def _joined(problem: LinearProblem, outcome: Outcome, rest: np.ndarray, other: Outcome) -> Outcome:
    """The outcome with that of another run for the items `rest`."""
    whole, part = ((of.f, of.g, of.status, of.error, of.tol, of.n_iter) for of in (outcome, other))
    f, g, status, error, tol, n_iter = put(whole, rest, part)
    errors = np.repeat(outcome.errors, len(other.errors), axis=0)
    errors[:, rest] = other.errors
    stages = [stage for stage in outcome.stages if stage.item not in rest]
    stages += [replace(stage, item=int(rest[stage.item])) for stage in other.stages]
    return Outcome(
        f=f,
        g=g,
        reg=problem.reg,
        plan=_plan(problem, f, g),
        certificate=None,
        status=status,
        error=error,
        tol=tol,
        n_iter=n_iter,
        errors=errors,
        stages=tuple(stages),
    )


def _run(asked: small.Read, reg: np.ndarray, tol: float) -> _Solved:
    """The compiled pass over all items."""
    n, m, items = asked.flat.n, asked.flat.m, asked.items
    found = _Solved(
        np.zeros((items, 10)),
        np.zeros((items, 4), dtype=np.int64),
        np.zeros((items, 6, max(n, m))),
        np.empty((items, k.STAGES, 4)),
    )
    given = (*asked.costs, *asked.measures, asked.unit, reg, tol)
    small.each(lambda run: k.solve(*given, run.start, run.stop, *found), items, PAIR + _ENTRY * n * m)
    return found


def _outcome(found: _Solved, problem: LinearProblem, tol: np.ndarray) -> Outcome:
    """The outcome of the pass, as `SparseNewton.finish` makes it."""
    n, m, reg = problem.reduced.n, problem.reduced.m, problem.reg
    f, g = found.vectors[:, t.F, :n], found.vectors[:, t.G, :m]
    plan = _plan(problem, f, g)
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


def _plan(problem: LinearProblem, f: np.ndarray, g: np.ndarray) -> tuple[EntropicPlan]:
    return (EntropicPlan(problem.reduced, problem.at(f, g, problem.reg), problem.kernels),)


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
