"""Certificates: a lower and an upper bound, their proofs, and bounds on their rounding errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, deferrable, finite_or_zero, from_numpy, namespace, only, to_numpy
from otkit.geometry.costs import UNIT
from otkit.plans import Plan
from otkit.problems.linear import LinearProblem

# Costs that overflow are larger than this.
_OVERFLOWN = 2.0**1020


def sum_rounding(size: int) -> float:
    """Rounding error of sums over `size` points and of their weights, relative to the terms' absolute sum."""
    return float(64 + 3 * np.log2(size)) * UNIT


@dataclass(frozen=True)
class Certificate:
    """Bounds on the optimum of each item at mass 1, with their proofs, which may be given as values for `later`.

    Attributes
    ----------
    lower, upper : numpy array (B,)
        Bounds on the optimum. ``upper`` is inf where no plan that avoids forbidden arcs was found.
    f, g : array (B, n), (B, m)
        Feasible potentials of the reduced problem, which prove `lower`.
    plan : tuple of Plan
        Parts of the feasible plan that proves `upper`.
    linear : numpy array (B,)
        The computed cost of that plan, before `upper` was widened, or `lower` if this is more.
    rounding : numpy array (B,)
        The part of ``upper − lower`` that covers rounding errors.
    """

    lower: np.ndarray
    upper: np.ndarray
    f: Array
    g: Array
    plan: tuple[Plan, ...]
    linear: np.ndarray
    rounding: np.ndarray


deferrable(Certificate, "f", "g", "plan")


def sides(problem: LinearProblem) -> tuple[np.ndarray, ...]:
    """Weights and offsets on the host, with offsets 0 where there is no mass."""
    a, b, row, col = (to_numpy(v) for v in (problem.a, problem.b, problem.reduced.row, problem.reduced.col))
    return a, b, np.where(a > 0, row, 0.0), np.where(b > 0, col, 0.0)


def dual_bound(problem: LinearProblem, f: Array, g: Array) -> np.ndarray:
    """⟨a, f⟩ + ⟨b, g⟩, the lower bound that feasible potentials give: ``(B,)``."""
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    return (a * to_numpy(f)).sum(-1) + (b * to_numpy(g)).sum(-1)


def feasible(problem: LinearProblem, *, f: Array | None = None, g: Array | None = None) -> tuple[Array, Array]:
    """Potentials with f_i + g_j ≤ C_ij on all arcs between points with mass, by two c-transforms from one side."""
    costs, has_a, has_b = problem.reduced, problem.a > 0, problem.b > 0
    transform = problem.kernels.c_transform
    if g is None:
        g = transform(costs.T, only(f, has_a))
        f = transform(costs, only(g, has_b))
    else:
        f = transform(costs, only(g, has_b))
        g = transform(costs.T, only(f, has_a))
    return finite_or_zero(f), finite_or_zero(g)


def dual_value(problem: LinearProblem, f: Array) -> np.ndarray:
    """A lower bound on the optimum in the caller's costs at mass 1, up to rounding: ``(B,)``."""
    costs = problem.reduced
    return dual_bound(problem, *feasible(problem, f=f)) + dual_bound(problem, costs.row, costs.col)


def better(problem: LinearProblem, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """For each item, the pair of potentials with the larger dual value."""
    xp = namespace(problem.a)
    first = from_numpy(dual_bound(problem, *one) >= dual_bound(problem, *other), problem.a)[:, None]
    return xp.where(first, one[0], other[0]), xp.where(first, one[1], other[1])


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
    """The certificate of a lower bound and a plan of cost `linear`, both as computed in reduced costs.

    ``defect (B,)`` bounds the L1 distance of the plan's marginals from the weights in exact arithmetic. ``drawn (B,)``
    is the mass that the plan's correction subtracts from arcs.
    """
    costs = problem.reduced
    a, b, row, col = sides(problem)
    sums = sum_rounding(costs.n + costs.m)
    offset = (a * row).sum(-1) + (b * col).sum(-1)
    offset_error = sums * ((a * abs(row)).sum(-1) + (b * abs(col)).sum(-1))
    # Two subtractions reduce a cost, each with an error of one unit roundoff of its result; none where offsets are 0.
    unit = np.where((row == 0).all(-1) & (col == 0).all(-1), 0.0, 2 * UNIT)
    offset_error = offset_error + unit * (b * abs(col)).sum(-1)
    # A defect is repaired along arcs, each of cost at most the span. With forbidden arcs, many may be needed.
    steps = np.where(problem.forbidden, costs.n + costs.m, 1)
    size = (a * abs(to_numpy(f))).sum(-1) + (b * abs(to_numpy(g))).sum(-1)
    paid = np.where(linear < np.inf, linear, 0.0)
    below = (sums + 2 * unit) * size + offset_error
    above = ((costs.n + costs.m) * UNIT + sums + 2 * unit) * paid + offset_error + unit * defect * abs(col).max(-1)
    above = above + 1.01 * defect * steps * problem.span  # 1 % for the rounding of this term and of Σa
    lower, upper = lower + offset, linear + offset

    relative, absolute = problem.geometry.rounding
    below = below + relative * abs(lower) + absolute
    top = np.maximum(abs(problem.low), abs(problem.high))
    above = above + relative * (abs(paid + offset) + 2 * drawn * top) + (1 + 2 * drawn) * absolute
    lower, upper = lower - below, upper + above
    if problem.geometry.may_forbid and problem.asked.non_negative:
        # Costs that overflowed set no constraint. They are larger than these potentials.
        most = to_numpy(f + costs.row).max(-1) + to_numpy(g + costs.col).max(-1)
        lower = np.where(most < _OVERFLOWN, lower, -np.inf)
    non_negative = problem.asked.non_negative | (problem.low >= 0)
    lower = np.where(non_negative, np.maximum(lower, 0.0), lower)
    linear = np.maximum(linear + offset, lower)  # a defect may save more than the plan costs beyond the optimum
    return Certificate(lower=lower, upper=upper, f=f, g=g, plan=plan, linear=linear, rounding=below + above)
