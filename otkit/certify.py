"""Two-sided bounds on the unregularised optimum, widened by what rounding can do.

Lower: potentials made feasible by c-transforms. Upper: the cost of a plan made feasible by rounding. Both hold for any
potentials, also after one iteration; they meet as the potentials come close to optimal ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import Array, finite_or_zero, from_numpy, log, namespace, only, put, to_numpy
from otkit.geometry.costs import UNIT
from otkit.kernels import Potentials, c_transform, marginals, transport_cost
from otkit.plans import EntropicPlan, Plan
from otkit.problems import LinearProblem
from otkit.problems.penalties import conjugate, penalty
from otkit.rounding import round_plan


def _sums(size: int) -> float:
    """Rounding in sums over `size` points and of their weights, in units of the terms' absolute sum."""
    return float(64 + 3 * np.log2(size)) * UNIT


@dataclass(frozen=True)
class Certificate:
    """Bounds on the optimum of each item at mass 1, and what proves them.

    Attributes
    ----------
    lower, upper : numpy array (B,)
        They contain the optimum. ``upper`` is inf where no plan that avoids forbidden arcs was found.
    f, g : array (B, n), (B, m)
        Feasible potentials of the reduced problem that give `lower`.
    plan : tuple of Plan
        Parts that add up to the feasible plan that gives `upper`.
    linear : numpy array (B,)
        The cost of that plan as computed, before `upper` was widened.
    rounding : numpy array (B,)
        How much of ``upper − lower`` is there to cover rounding.
    """

    lower: np.ndarray
    upper: np.ndarray
    f: Array
    g: Array
    plan: tuple[Plan, ...]
    linear: np.ndarray
    rounding: np.ndarray


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds on the optimum without the regularisation, from potentials of the problem regularised by ``reg (B,)``."""
    if problem.balanced.all():
        return _certify_balanced(problem, f, g, reg)
    found = certify_relaxed(problem, f, g, reg)
    items = np.flatnonzero(problem.balanced)
    if items.size:
        index = from_numpy(items, f)
        part = [namespace(f).take(v, index, axis=0) for v in (f, g, reg)]
        exact = _certify_balanced(problem.take(items), *part)
        for name in ("lower", "upper", "linear", "rounding"):
            getattr(found, name)[items] = getattr(exact, name)
        found = replace(found, f=put(found.f, items, exact.f), g=put(found.g, items, exact.g))
    return found


def _certify_balanced(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    # The constant that changes no plan is chosen for small exponents, which round less.
    f, g = problem.centred(f, g)
    rounded = round_plan(problem, problem.at(f, g, reg))
    # With the weights absorbed, f_i + g_j ≤ C_ij wherever P_ij ≤ 1: nearly feasible to begin with.
    log_a, log_b = problem.log_a, problem.log_b
    dual = _better(
        problem,
        feasible(problem, g=g + reg[:, None] * log_b),
        feasible(problem, f=f + reg[:, None] * log_a),
    )
    dual = _better(problem, dual, feasible(problem, f=rounded.tree_f))
    return widened(problem, _value(problem, *dual), rounded.linear, rounded.defect, *dual, rounded.plan, rounded.drawn)


def certify_plan(
    problem: LinearProblem, g: Array, plan: tuple[Plan, ...], linear: np.ndarray, defect: np.ndarray
) -> Certificate:
    """Bounds from potentials of the columns, and from a plan of cost `linear` in reduced costs.

    ``defect (B,)`` is the L1 distance of its marginals from the weights.
    """
    f, g = feasible(problem, g=g)
    return widened(problem, _value(problem, f, g), linear, defect, f, g, plan)


def widened(
    problem: LinearProblem,
    lower: np.ndarray,
    linear: np.ndarray,
    defect: np.ndarray,
    f: Array,
    g: Array,
    plan: tuple[Plan, ...],
    drawn: np.ndarray | float = 0.0,
) -> Certificate:
    """The certificate of a lower bound and of a plan of cost `linear`, both in reduced costs as computed.

    ``defect (B,)`` bounds the L1 distance of the plan's marginals from the weights in exact arithmetic.
    """
    costs = problem.reduced
    a, b, row, col = _sides(problem)
    sums = _sums(costs.n + costs.m)
    offset = (a * row).sum(-1) + (b * col).sum(-1)
    offset_error = sums * ((a * abs(row)).sum(-1) + (b * abs(col)).sum(-1))
    # Two subtractions reduce a cost, each with an error of a unit of its result; none where the offsets are 0.
    plain = (row == 0).all(-1) & (col == 0).all(-1)
    evaluation = np.where(plain, 0.0, 2 * UNIT * (2 * problem.span + abs(col).max(-1)))
    # A defect is repaired along arcs of at most the span each; among forbidden ones perhaps along many of them.
    steps = np.where(problem.forbidden, costs.n + costs.m, 1)
    size = (a * abs(to_numpy(f))).sum(-1) + (b * abs(to_numpy(g))).sum(-1)
    paid = np.where(linear < np.inf, linear, 0.0)
    below = sums * size + evaluation + offset_error
    above = ((costs.n + costs.m) * UNIT + sums) * paid + evaluation + offset_error
    above = above + 1.01 * defect * steps * problem.span  # a hundredth for its own rounding, and for Σa
    lower, upper = lower + offset, linear + offset

    relative, absolute = problem.geometry.rounding
    below = below + relative * abs(lower) + absolute
    top = np.maximum(abs(problem.low), abs(problem.high))
    above = above + relative * (abs(paid + offset) + 2 * drawn * top) + (1 + 2 * drawn) * absolute
    lower, upper = lower - below, upper + above
    non_negative = problem.asked.non_negative | (problem.low >= 0)
    lower = np.where(non_negative, np.maximum(lower, 0.0), lower)
    return Certificate(lower, upper, f, g, plan, linear + offset, below + above)


def _sides(problem: LinearProblem) -> tuple[np.ndarray, ...]:
    """Weights and offsets on the host, the offsets 0 where there is no mass."""
    a, b, row, col = (to_numpy(v) for v in (problem.a, problem.b, problem.reduced.row, problem.reduced.col))
    return a, b, np.where(a > 0, row, 0.0), np.where(b > 0, col, 0.0)


def _value(problem: LinearProblem, f: Array, g: Array) -> np.ndarray:
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    return (a * to_numpy(f)).sum(-1) + (b * to_numpy(g)).sum(-1)


def feasible(problem: LinearProblem, *, f: Array | None = None, g: Array | None = None) -> tuple[Array, Array]:
    """Potentials with f_i + g_j ≤ C_ij on all arcs between mass, by two c-transforms from one side's."""
    costs, has_a, has_b = problem.reduced, problem.a > 0, problem.b > 0
    if g is None:
        g = c_transform(costs.T, only(f, has_a))
        f = c_transform(costs, only(g, has_b))
    else:
        f = c_transform(costs, only(g, has_b))
        g = c_transform(costs.T, only(f, has_a))
    return finite_or_zero(f), finite_or_zero(g)


def dual_value(problem: LinearProblem, f: Array) -> np.ndarray:
    """A lower bound on the optimum in the caller's costs at mass 1, up to rounding: ``(B,)``."""
    costs = problem.reduced
    return _value(problem, *feasible(problem, f=f)) + _value(problem, costs.row, costs.col)


def _better(problem: LinearProblem, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Item by item the pair of potentials with the larger dual value."""
    xp = namespace(problem.a)
    first = from_numpy(_value(problem, *one) >= _value(problem, *other), problem.a)[:, None]
    return xp.where(first, one[0], other[0]), xp.where(first, one[1], other[1])


def certify_relaxed(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds where marginals are penalised: the entropic plan itself, and the penalised dual at feasible potentials.

    A side that is exact is scaled to its weights first. Bounds of balanced items are of no meaning.
    """
    costs, held = problem.reduced, problem.penalties
    a, b, row, col = _sides(problem)
    rho_a, rho_b = to_numpy(held.rho_a), to_numpy(held.rho_b)
    relative, absolute = problem.geometry.rounding
    top = np.maximum(abs(problem.low), abs(problem.high))
    evaluation = 3 * UNIT * (2 * problem.span + abs(col).max(-1) + abs(row).max(-1)) + relative * top + absolute

    best_f, best_g = f, g
    lower = np.full(problem.items, -np.inf)
    for start in (g, g + reg[:, None] * finite_or_zero(problem.log_b)):
        f_new, g_new, shift = _feasible_relaxed(problem, start)
        off = evaluation + 3 * UNIT * shift
        # What evaluation may have got wrong is taken off one potential, and with it off every constraint.
        off_a = np.where(rho_b == 0, off, 0.0)[:, None]
        sides = (
            (to_numpy(f_new) + row - off_a, a, rho_a),
            (to_numpy(g_new) + col - off[:, None] + off_a, b, rho_b),
        )
        value = sum(conjugate(*side) - _conjugate_rounding(*side) for side in sides)
        value = np.where((rho_a == 0) & (rho_b == 0) & (problem.low < 0), -np.inf, value)
        better = from_numpy(value > lower, f)[:, None]
        best_f, best_g = namespace(f).where(better, f_new, best_f), namespace(f).where(better, g_new, best_g)
        lower = np.maximum(lower, value)

    at, missing = _exact_sides(problem, f, g, reg)
    moved = transport_cost(costs, at)
    cost, rows, cols = (to_numpy(v) for v in moved)
    linear = cost + (row * rows).sum(-1) + (col * cols).sum(-1)
    paid = linear + penalty(rows, a, rho_a) + penalty(cols, b, rho_b)
    # Sums of n or m terms, and the exact side, which is scaled to its weights up to `miss`.
    size = cost + (abs(row) * rows).sum(-1) + (abs(col) * cols).sum(-1)
    size = size + _penalty_size(rows, a, rho_a) + _penalty_size(cols, b, rho_b)
    miss = _miss(rows, a, rho_a) + _miss(cols, b, rho_b)
    widen = (4 * (costs.n + costs.m + 64) * UNIT + 4 * miss) * size + evaluation * rows.sum(-1)
    upper = np.where(missing | (miss > 1e-3), np.inf, paid + widen)
    return Certificate(lower, upper, best_f, best_g, (EntropicPlan(costs, at),), linear, evaluation + widen)


def _feasible_relaxed(problem: LinearProblem, g: Array) -> tuple[Array, Array, np.ndarray]:
    """Potentials with f_i + g_j ≤ C_ij, 0 on a free side, moved along f + t, g − t to where the dual is largest."""
    xp, costs, held = namespace(g), problem.reduced, problem.penalties
    has_a, has_b = problem.a > 0, problem.b > 0
    free_a, free_b = (held.rho_a == 0)[:, None], (held.rho_b == 0)[:, None]
    g = xp.where(free_b, -costs.col, g)
    f = xp.where(free_a, -costs.row, finite_or_zero(c_transform(costs, only(g, has_b))))
    g = xp.where(free_b, -costs.col, finite_or_zero(c_transform(costs.T, only(f, has_a))))
    # With both sides free every plan is the worse for its mass: where costs are not negative, 0 is feasible.
    sent = xp.sum(held.target(problem.a, f + costs.row, held.rho_a), axis=-1)
    received = xp.sum(held.target(problem.b, g + costs.col, held.rho_b), axis=-1)
    shift = (held.coupling() * finite_or_zero(log(sent) - log(received)))[:, None]
    return f + shift, g - shift, abs(to_numpy(shift)[:, 0])


def _exact_sides(problem: LinearProblem, f: Array, g: Array, reg: Array) -> tuple[Potentials, np.ndarray]:
    """The plan with its exact side scaled to the weights, and which items have a point there that it does not reach."""
    at = problem.at(f, g, reg)
    rows, cols = marginals(problem.reduced, at)
    xp, held = namespace(f), problem.penalties
    short_a = xp.any((problem.a > 0) & (rows <= 0), axis=-1) & (held.rho_a == xp.inf)
    short_b = xp.any((problem.b > 0) & (cols <= 0), axis=-1) & (held.rho_b == xp.inf)
    gain_a, gain_b = (
        reg[:, None] * xp.where(sums > 0, finite_or_zero(log_w) - finite_or_zero(log(sums)), xp.zeros_like(sums))
        for log_w, sums in ((problem.log_a, rows), (problem.log_b, cols))
    )
    exact_a, exact_b = ((rho == xp.inf)[:, None] for rho in (held.rho_a, held.rho_b))
    f, g = xp.where(exact_a, f + gain_a, f), xp.where(exact_b & ~exact_a, g + gain_b, g)
    return problem.at(f, g, reg), to_numpy(short_a | short_b)


def _conjugate_rounding(potential: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """A bound on what rounding does to `conjugate`."""
    priced = (rho > 0) & (rho < np.inf)
    scale = np.where(priced, rho, 1.0)[:, None]
    potential = np.where(w > 0, potential, 0.0)
    with np.errstate(over="ignore"):
        steep = w * np.exp(np.where(priced[:, None], -potential / scale, 0.0))
    size = (steep * abs(potential)).sum(-1) + np.where(priced, scale[:, 0] * abs(w - steep).sum(-1), 0.0)
    return np.where(rho > 0, _sums(w.shape[-1]) * size, 0.0)


def _penalty_size(p: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The absolute sum of the terms of a penalty, and of their sensitivity to p."""
    priced = (rho > 0) & (rho < np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (1 + abs(np.log(p / w))), 0.0) + p + w
    return np.where(priced, np.where(priced, rho, 0.0) * terms.sum(-1), 0.0)


def _miss(p: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The largest relative distance of an exact side from its weights."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(w > 0, abs(p / w - 1), 0.0)
    return np.where(rho == np.inf, relative.max(-1), 0.0)
