"""Small entropic problems, from the caller's arrays to a result by one compiled pass.

`solved` gives the result that `LinearProblem.build` and `run` with `SparseNewton` give, to the tolerance. The pass
takes Newton steps sooner, with dense matrices, and begins from an exact solution where the regularisation is small.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from otkit import checks
from otkit.arrays import later, made, put, take
from otkit.certificates.balanced import certify_plan
from otkit.certificates.base import Certificate
from otkit.certificates.certify import certify, joined
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Moved
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT
from otkit.kernels.numba import entropic as k
from otkit.kernels.numba import items as t
from otkit.kernels.numba import newton
from otkit.plans import EntropicPlan
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import given_penalties
from otkit.results.outcome import Outcome, Stage
from otkit.results.result import Result
from otkit.solvers import descent, small
from otkit.solvers.base import run
from otkit.solvers.exact import small as small_exact
from otkit.solvers.exact.packed import LIMIT, PAIR
from otkit.solvers.sns.solver import SparseNewton

# Maximum number of entries of a problem, and of those of pairs of clouds that are solved among others.
LARGEST, FEW = 2**14, 2**12
# A batch of more than _MANY items of more than _LARGE entries is left to the general way, which sweeps all together,
# where the reg of the first is between these factors of the range of its costs: Newton's steps are many and large then.
# The general way takes 0.35 to 1.2 of the time there, with a few ties 1.6, and up to twice the time elsewhere.
_MANY, _LARGE, _EASY = 32, 2**13, (1 / 256, 1 / 50)
# Nanoseconds of an item for each pair of points.
_ENTRY = 100
_NONE = np.empty(0, dtype=np.int64)


class _Solved(NamedTuple):
    """What the compiled pass writes; `otkit.kernels.numba.items` and `newton` name the places."""

    num: np.ndarray
    info: np.ndarray
    vectors: np.ndarray
    stages: np.ndarray


def solved(geometry: GivenGeometry, a: Any, b: Any, reg: Any, unbalanced: Any, tol: float | None) -> Result | None:
    """The solution of an entropic problem with exact marginals; None where the general way must look."""
    checks.positive(tol, "tol")
    plain = isinstance(reg, float) and checks.SMALLEST <= reg < np.inf
    reg_of = np.asarray(reg) if plain else checks.regularisation(reg)
    exact = None if unbalanced is None else _are_exact(*given_penalties(unbalanced))
    if exact is not None and not exact.any():
        return None
    others = (reg_of.shape,) if exact is None else (reg_of.shape, exact.shape)
    asked = small.read(geometry, a, b, LARGEST, *others)
    if asked is None:
        return None
    by_item = small.by_item(reg_of, asked)
    found = _run(asked, by_item, descent.asked(tol, asked.unit))
    if found is None:
        return None
    good = small.are_solved(asked, found.num, found.info)
    if exact is not None:
        good &= small.by_item(exact, asked)
    count = np.count_nonzero(good)
    if not count:
        return None
    if count < asked.items:
        found.num[~good] = 0.0
    passed = small.Passed.by(asked, found.num, found.info, found.vectors, (reg, unbalanced, by_item))
    if count < asked.items:
        return _with_rest(passed, found, tol, ~good, LinearProblem.build(geometry, a, b, reg, unbalanced))
    values = found.num[0, k.LINEAR], found.num[0, k.DIVERGENCE]
    return small.result_of(passed, "sns", later(_outcome, passed, found, tol), *values)


def _with_rest(
    passed: small.Passed, found: _Solved, tol: float | None, left: np.ndarray, general: LinearProblem
) -> Result:
    """The result of a batch of which a pass has left some items to the general way."""
    rest, outcome = np.flatnonzero(left), _outcome(passed, found, tol)
    part = general.take(rest)
    problem = passed.problem.put(rest, part)
    outcome = _joined(problem, outcome, rest, run(part, SparseNewton(tol=tol)))
    return replace(small.result_of(passed, "sns", outcome), problem=problem)


def _are_exact(rho_a: np.ndarray, rho_b: np.ndarray) -> np.ndarray:
    return np.asarray((rho_a == np.inf) & (rho_b == np.inf))


def _joined(problem: LinearProblem, outcome: Outcome, rest: np.ndarray, other: Outcome) -> Outcome:
    """The outcome with that of another run for the items `rest`."""
    whole, part = ((of.f, of.g, of.status, of.error, of.tol, of.n_iter, _moved(of)) for of in (outcome, other))
    f, g, status, error, tol, n_iter, moved = put(whole, rest, part)
    errors = np.repeat(outcome.errors, len(other.errors), axis=0)
    errors[:, rest] = other.errors
    stages = [stage for stage in outcome.stages if stage.item not in rest]
    stages += [replace(stage, item=int(rest[stage.item])) for stage in other.stages]
    return Outcome(
        f=f,
        g=g,
        reg=problem.reg,
        plan=_plan(problem, f, g, moved),
        certificate=later(_certificate, problem, f, g, moved, rest),
        status=status,
        error=error,
        tol=tol,
        n_iter=n_iter,
        errors=errors,
        stages=tuple(stages),
    )


def _run(asked: small.Read, reg: np.ndarray, tol: float) -> _Solved | None:
    """The compiled pass over all items; None where sweeps of all together take less time."""
    n, m, items, most = asked.flat.n, asked.flat.m, asked.items, asked.most
    found = _Solved(
        np.zeros((items, 10)),
        np.zeros((items, 4), dtype=np.int64),
        np.zeros((items, 8, max(n, m))),
        np.empty((items, newton.STAGES, 4)),
    )
    given = (*asked.costs, *asked.measures, asked.unit, reg, tol)

    def solve(run: range, easy: tuple[float, float] = (np.inf, np.inf)) -> None:
        k.solve(*given, easy, LIMIT, run.start, run.stop, np.empty(most), *found)

    first = int(items > _MANY and most > _LARGE)
    if first:
        solve(range(1), _EASY)
        if found.info[0, t.FLAG]:
            return None
    small.each(solve, range(first, items), PAIR + _ENTRY * asked.entries)
    return found


def _outcome(passed: small.Passed, found: _Solved, tol: float | None) -> Outcome:
    """The outcome of the pass, as `SparseNewton.finish` makes it."""
    problem = passed.problem
    n, m, num, vectors = problem.reduced.n, problem.reduced.m, found.num, found.vectors
    f, g = vectors[:, t.F, :n], vectors[:, t.G, :m]
    moved = Moved(num[:, t.VALUE], vectors[:, k.SENT, :n], vectors[:, k.RECEIVED, :m])
    return made(
        Outcome,
        f=f,
        g=g,
        reg=problem.reg,
        plan=_plan(problem, f, g, moved),
        certificate=later(_certificate, problem, f, g, moved, _NONE),
        status=small.converged(problem.items),
        error=num[:, t.ERROR],
        tol=descent.tolerance(problem, tol),
        n_iter=found.info[:, t.PIVOTS],
        errors=num[None, :, t.ERROR],
        stages=later(_stages, found, n * m),
        linear=num[:, k.LINEAR],
        divergence=num[:, k.DIVERGENCE],
        counted=None,
    )


def _plan(problem: LinearProblem, f: np.ndarray, g: np.ndarray, moved: Moved) -> tuple[EntropicPlan]:
    """The plan of the potentials, whose cost and marginals are known."""
    at = later(_at, problem, f, g)
    return (made(EntropicPlan, geometry=problem.reduced, at=at, kernels=problem.kernels, moved=moved),)


def _moved(outcome: Outcome) -> Moved:
    (plan,) = outcome.plan
    assert isinstance(plan, EntropicPlan)
    return plan.moved


def _at(problem: LinearProblem, f: np.ndarray, g: np.ndarray) -> Potentials:
    assert problem.reg is not None
    return problem.at(f, g, problem.reg)


def _certificate(problem: LinearProblem, f: np.ndarray, g: np.ndarray, moved: Moved, rest: np.ndarray) -> Certificate:
    """The bounds, by the plan and by the potentials of the exact solution, which takes less time than a repair of both.

    The items `rest`, and those without such a solution, have the bounds of `certify`.
    """
    problem.check_costs()
    assert problem.reg is not None
    exact, solved = small_exact.certified(problem)
    solved[rest] = False
    rest = np.flatnonzero(~solved)
    if exact is None or rest.size == problem.items:
        return certify(problem, f, g, problem.reg)
    # The marginals of the plan miss the weights, and sums of them round by a few units of every weight.
    defect = abs(moved.row - problem.a).sum(-1) + abs(moved.col - problem.b).sum(-1)
    defect = defect + 4 * (problem.reduced.n + problem.reduced.m + 128) * UNIT
    feasible_f, feasible_g = (np.where(solved[:, None], v, 0.0) for v in (exact.f, exact.g))
    found = certify_plan(problem, feasible_f, feasible_g, _plan(problem, f, g, moved), moved.cost, defect)
    return joined(found, rest, certify(problem.take(rest), *take((f, g, problem.reg), rest))) if rest.size else found


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
