"""Entropic partial transport in POT's sense: the regularisation sees only the mass that moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.entropic.dual import Potentials
from otkit.entropic.partial import iterate
from otkit.errors import warn
from otkit.geometry.base import GivenGeometry
from otkit.geometry.bordered import Bordered
from otkit.kernels import choose
from otkit.problems.linear import LinearProblem
from otkit.problems.partial import moved_mass, partial_problem

_MOST, _TOL = 10_000, 1e-9
# The regularisation falls by this factor from stage to stage. A stage ends at the error _STAGE.
_FACTOR, _STAGE = 4.0, 1e-3


def entropic_partial(
    geometry: GivenGeometry, pair: tuple[Any, Any], reg: Any, mass: Any, limits: tuple[int | None, float | None]
) -> tuple[Array, list[float]]:
    """The plan, and the errors of the iterations; `limits` are their number and the error to reach."""
    if geometry.matrix is None:
        raise NotImplementedError("M must be dense with a reg, got a sparse matrix; fill the missing entries with inf")
    problem = partial_problem(geometry, *pair, reg, mass).build(reg)
    if problem.batch:
        raise ValueError(f"a, b, M, reg and m must be those of one problem, got a batch {problem.batch}; call for each")
    at, free, errors = _optimum(problem, limits)
    bordered = problem.geometry
    assert isinstance(bordered, Bordered)
    plan = choose(bordered.inner).plan(bordered.inner, at) * float(problem.mass[0])
    inputs = (next(iter(geometry.arrays.values())), problem.given.a, problem.given.b, reg)
    if any(map(arrays.requires_grad, inputs)):
        return _recorded(plan[0, ...], free, problem, inputs), errors
    return problem.as_given(plan), errors


def _optimum(
    problem: LinearProblem, limits: tuple[int | None, float | None]
) -> tuple[Potentials, tuple[Array, Array], list[float]]:
    """The optimal potentials, relative to weights of total 1, whether rows and columns are free, and the errors.

    Rows and columns are free if they are not full.
    """
    most, tol = limits
    most, tol = most or _MOST, float(max(tol or _TOL, problem.rounding[0]))
    bordered, reg = problem.geometry, problem.reg
    assert isinstance(bordered, Bordered)
    assert reg is not None
    costs, kernels = bordered.inner, choose(bordered.inner)
    a, b = problem.a[:, :-1], problem.b[:, :-1]
    found = kernels.cost_range(costs, a > 0, b > 0)
    log_a, log_b = (arrays.only(arrays.log(w), r) for w, r in ((a, found.reach_a), (b, found.reach_b)))
    mass = from_numpy(to_numpy(arrays.detached(moved_mass(problem.given))).reshape(1) / problem.mass, a)
    xp = namespace(a)
    now = xp.where(found.high - found.low > reg, found.high - found.low, reg)
    f, price, errors = xp.zeros_like(a), xp.zeros_like(reg), []
    for _ in range(most):
        new = iterate(costs, f, price, (log_a, log_b), mass, now, kernels.softmin)
        errors.append(float(new.error[0]))
        last = bool(now[0] <= reg[0])
        if last and errors[-1] <= tol:
            break
        f, price = new.f, new.price
        if errors[-1] <= _STAGE:
            now = xp.where(now > _FACTOR * reg, now / _FACTOR, reg)
    else:
        warn(
            "The maximum number of iterations was reached; raise numItermax. "
            f"Error {errors[-1]:.2g}, tolerance {tol:.2g}."
        )
    full_f, full_g = -reg[:, None] * log_a, new.price[:, None] - reg[:, None] * log_b
    return Potentials(f, new.g, log_a, log_b, reg), (f >= full_f, new.g >= full_g), errors


def _recorded(
    plan: Array, free: tuple[Array, Array], problem: LinearProblem, inputs: tuple[Array, Any, Any, Any]
) -> Array:
    """The plan in autograd's graph, by one Newton step from the optimum, whose derivative is that of the optimum.

    Unknown are the potentials of full rows and columns and the price of the mass. Residuals are those of their sums.
    """
    M, a, b, reg = inputs
    P = to_numpy(plan)
    rows, cols, mass = P.sum(1), P.sum(0), P.sum()
    full = [np.flatnonzero(~to_numpy(v)[0]) for v in free]
    H = np.block([[np.diag(rows), P, rows[:, None]], [P.T, np.diag(cols), cols[:, None]], [rows, cols, mass]])
    some = np.concatenate([full[0], full[1] + rows.size, [rows.size + cols.size]])
    step = np.zeros_like(H)
    step[np.ix_(some, some)] = np.linalg.pinv(H[np.ix_(some, some)], hermitian=True)

    xp, like = namespace(M), arrays.detached(arrays.float64(M))
    here, reg_now = from_numpy(P > 0, like), float(to_numpy(problem.reg)[0])
    start = from_numpy(reg_now * np.log(np.where(P > 0, P, 1.0)), like) + xp.where(here, like, 0.0)
    above = start - xp.where(here, arrays.float64(M), 0.0)
    reg = arrays.float64(reg) if arrays.requires_grad(reg) else reg_now
    moved = xp.where(here, xp.exp(above / reg), 0.0)
    sums = xp.concat([xp.sum(moved, axis=1), xp.sum(moved, axis=0), xp.sum(moved)[None]])
    asked = xp.concat([arrays.float64(a)[:-1], arrays.float64(b)[:-1], xp.reshape(moved_mass(problem.given), (1,))])
    change = xp.matmul(from_numpy(step * reg_now, like), asked - sums)
    change = change[: rows.size, None] + change[None, rows.size : -1] + change[-1]
    return xp.astype(xp.where(here, xp.exp((above + change) / reg), 0.0), problem.dtype)
