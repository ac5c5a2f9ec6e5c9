"""Bounds where marginals are penalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from otkit.arrays import Array, finite_or_zero, from_numpy, log, namespace, only, to_numpy
from otkit.certificates.base import Certificate, sides, sum_rounding
from otkit.certificates.forest import rounded_to, settled
from otkit.entropic.dual import Potentials
from otkit.geometry.costs import UNIT
from otkit.plans import EntropicPlan, Plan, marginals
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import conjugate, log_ratio, penalty


@np.errstate(over="ignore", invalid="ignore")  # what overflows is no bound
def certify_relaxed(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds where marginals are penalised: the entropic plan itself, and the penalised dual at feasible potentials.

    An exact side is first scaled to its weights. Where to move nothing costs less, that is the plan. Bounds of balanced
    items are not valid; the caller replaces them.
    """
    costs = problem.reduced
    lower, dual = _dual_bound(problem, (g, g + reg[:, None] * finite_or_zero(problem.log_b)))
    at, missing = _exact_sides(problem, f, g, reg)
    cost, rows, cols = (to_numpy(v) for v in problem.kernels.transport_cost(costs, at))
    unmoved = problem.unmoved.sum(0) - problem.idle_penalty
    empty = ~(_paid(problem, cost, rows, cols)[1] <= unmoved) & (unmoved < np.inf)  # to move nothing costs less
    if empty.any():
        at = replace(at, log_a=at.log_a - from_numpy(np.where(empty, np.inf, 0.0)[:, None], f))
        rows, cols = (np.where(empty[:, None], 0.0, v) for v in (rows, cols))
        cost = np.where(empty, 0.0, cost)
    plan = (EntropicPlan(costs, at, problem.kernels),)
    return _certificate(problem, lower, dual, plan, (cost, rows, cols), missing, _apart(problem, at))


@np.errstate(over="ignore", invalid="ignore")
def certify_settled(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """The same from the arcs that carry mass (`otkit.certificates.forest`), where no side is free."""
    at = problem.at(f, g, reg)
    dual = settled(problem, at)
    rounded = rounded_to(problem, at, *dual)
    return certify_moved(problem, dual[1], rounded.plan, rounded.linear)


@np.errstate(over="ignore", invalid="ignore")
def certify_moved(problem: LinearProblem, g: Array, plan: tuple[Plan, ...], cost: np.ndarray) -> Certificate:
    """The bounds of potentials of the columns and of a plan of this reduced cost, which is inf where there is none."""
    rows, cols = (to_numpy(v) for v in marginals(plan))
    lower, dual = _dual_bound(problem, (g,))
    return _certificate(problem, lower, dual, plan, (cost, rows, cols), np.isinf(cost))


def _dual_bound(problem: LinearProblem, starts: Sequence[Array]) -> tuple[np.ndarray, tuple[Array, Array]]:
    """The best lower bound that potentials of the columns give, with feasible potentials that prove it."""
    a, b, row, col = sides(problem)
    rho_a, rho_b = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    evaluation, lower = _evaluation(problem), np.full(problem.items, -np.inf)
    xp, best = namespace(starts[0]), None
    for start in starts:
        f, g, shift = _feasible_relaxed(problem, start)
        off = evaluation + 3 * UNIT * shift
        # The bound on evaluation errors is subtracted from one potential, and with it from every constraint.
        off_a = np.where(rho_b == 0, off, 0.0)[:, None]
        both = (to_numpy(f) + row - off_a, a, rho_a), (to_numpy(g) + col - off[:, None] + off_a, b, rho_b)
        value = sum(conjugate(*side) - conjugate_rounding(*side) for side in both)
        value = np.where((rho_a == 0) & (rho_b == 0) & (problem.low < 0), -np.inf, value)
        better = from_numpy(value > lower, f)[:, None]
        best = (f, g) if best is None else (xp.where(better, f, best[0]), xp.where(better, g, best[1]))
        lower = np.maximum(lower, value)
    assert best is not None
    return lower, best


def _evaluation(problem: LinearProblem) -> np.ndarray:
    """A bound on the error of a cost less two potentials, ``(B,)``."""
    _, _, row, col = sides(problem)
    relative, absolute = problem.geometry.rounding
    top = np.maximum(abs(problem.low), abs(problem.high))
    return 3 * UNIT * (2 * problem.span + abs(col).max(-1) + abs(row).max(-1)) + relative * top + absolute


def _paid(
    problem: LinearProblem, cost: np.ndarray, rows: np.ndarray, cols: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """⟨C, P⟩, from the reduced cost of a plan and its marginals, and the same with the penalties."""
    a, b, row, col = sides(problem)
    linear = cost + (row * rows).sum(-1) + (col * cols).sum(-1)
    rho_a, rho_b = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    return linear, linear + penalty(rows, a, rho_a) + penalty(cols, b, rho_b)


def _certificate(
    problem: LinearProblem,
    lower: np.ndarray,
    dual: tuple[Array, Array],
    plan: tuple[Plan, ...],
    costs: tuple[np.ndarray, np.ndarray, np.ndarray],
    missing: np.ndarray,
    apart: np.ndarray | float = 0.0,
) -> Certificate:
    """The certificate of potentials and a plan, of its reduced cost and marginals; none above where some is missing.

    These may belong to plans whose entries differ by the factor ``1 ± apart (B,)``.
    """
    (cost, rows, cols), idle = costs, problem.idle_penalty
    (a, b, row, col), size = sides(problem), problem.reduced.n + problem.reduced.m
    rho_a, rho_b = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    linear, paid = _paid(problem, *costs)
    # Rounding of sums of n or m terms. The exact side is scaled to its weights up to `miss`.
    terms = cost + (abs(row) * rows).sum(-1) + (abs(col) * cols).sum(-1)
    miss = _miss(rows, a, rho_a) + _miss(cols, b, rho_b)
    evaluation, share = _evaluation(problem), 4 * (size + 64) * UNIT + 4 * miss + apart
    terms = terms + _penalty_error(rows, a, rho_a, share) + _penalty_error(cols, b, rho_b, share)
    widen = share * terms + evaluation * rows.sum(-1)
    upper = np.where(missing | ~(miss <= 1e-3) | ~(paid < np.inf), np.inf, paid + widen)
    rounding = sum_rounding(size) * idle
    lower = np.where(problem.asked.non_negative | (problem.low >= 0), np.fmax(lower, 0.0), lower)
    return Certificate(
        lower=lower - rounding + idle,
        upper=upper + rounding + idle,
        f=dual[0],
        g=dual[1],
        plan=plan,
        linear=linear,
        rounding=evaluation + widen,
    )


def _apart(problem: LinearProblem, at: Potentials) -> np.ndarray | float:
    """How far the entries of a plan differ between passes over a grid, relative to them, ``(B,)``; 0 elsewhere.

    Other passes over all pairs take the cost and the marginals from the same entries.
    """
    grid = problem.geometry.grid
    if grid is None:
        return 0.0
    # Each of two passes along an axis rounds its sums of a potential and a cost, and its result, which are as large as
    # potentials where entries matter.
    _, _, row, col = sides(problem)
    largest = np.maximum(*(abs(to_numpy(v) + offset).max(-1) for v, offset in ((at.f, row), (at.g, col))))
    return 6 * len(grid.shape) * UNIT * (largest / to_numpy(at.reg) + 64)


def _feasible_relaxed(problem: LinearProblem, g: Array) -> tuple[Array, Array, np.ndarray]:
    """Potentials with f_i + g_j ≤ C_ij, 0 on a free side, and with the t in f + t, g − t that maximises the dual."""
    xp, costs, penalties = namespace(g), problem.reduced, problem.penalties
    has_a, has_b = problem.a > 0, problem.b > 0
    free_a, free_b = (penalties.rho_a == 0)[:, None], (penalties.rho_b == 0)[:, None]
    g = xp.where(free_b, -costs.col, g)
    f = xp.where(free_a, -costs.row, finite_or_zero(problem.kernels.c_transform(costs, only(g, has_b))))
    g = xp.where(free_b, -costs.col, finite_or_zero(problem.kernels.c_transform(costs.T, only(f, has_a))))
    # With both sides free, the zero plan is optimal and zero potentials are feasible where costs are not negative.
    sent = xp.sum(penalties.target(problem.a, f + costs.row, penalties.rho_a), axis=-1)
    received = xp.sum(penalties.target(problem.b, g + costs.col, penalties.rho_b), axis=-1)
    shift = (penalties.coupling() * finite_or_zero(log(sent) - log(received)))[:, None]
    return f + shift, g - shift, abs(to_numpy(shift)[:, 0])


def _exact_sides(problem: LinearProblem, f: Array, g: Array, reg: Array) -> tuple[Potentials, np.ndarray]:
    """The plan with its exact side scaled to the weights; also which items have a point of that side without mass."""
    at = problem.at(f, g, reg)
    rows, cols = problem.kernels.marginals(problem.reduced, at)
    xp, penalties = namespace(f), problem.penalties
    short_a = xp.any((problem.a > 0) & (rows <= 0), axis=-1) & (penalties.rho_a == xp.inf)
    short_b = xp.any((problem.b > 0) & (cols <= 0), axis=-1) & (penalties.rho_b == xp.inf)
    gain_a, gain_b = (
        reg[:, None] * xp.where(sums > 0, finite_or_zero(log_w) - finite_or_zero(log(sums)), xp.zeros_like(sums))
        for log_w, sums in ((problem.log_a, rows), (problem.log_b, cols))
    )
    exact_a, exact_b = ((rho == xp.inf)[:, None] for rho in (penalties.rho_a, penalties.rho_b))
    f, g = xp.where(exact_a, f + gain_a, f), xp.where(exact_b & ~exact_a, g + gain_b, g)
    return problem.at(f, g, reg), to_numpy(short_a | short_b)


def conjugate_rounding(potential: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """A bound on the rounding error of `conjugate`."""
    penalised = (rho > 0) & (rho < np.inf)
    scale = np.where(penalised, rho, 1.0)[:, None]
    potential = np.where(w > 0, potential, 0.0)
    with np.errstate(over="ignore"):
        steep = w * np.exp(np.where(penalised[:, None], -potential / scale, 0.0))
    size = (steep * abs(potential)).sum(-1) + np.where(penalised, scale[:, 0] * abs(w - steep).sum(-1), 0.0)
    return np.where(rho > 0, sum_rounding(w.shape[-1]) * size, 0.0)


def _penalty_error(p: np.ndarray, w: np.ndarray, rho: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The error of a penalty as a multiple of `share`, where every p may be wrong by this share of it.

    The derivative of KL(p | w) by p is log(p/w), and the second one 1/p.
    """
    penalised = (rho > 0) & (rho < np.inf)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * abs(log_ratio(p, w)), 0.0) + abs(p - w) + share[:, None] * p
    return np.where(penalised, np.where(penalised, rho, 0.0) * terms.sum(-1), 0.0)


def _miss(p: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Largest relative deviation of an exact marginal from its weights."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(w > 0, abs(p / w - 1), 0.0)
    return np.where(rho == np.inf, relative.max(-1), 0.0)
