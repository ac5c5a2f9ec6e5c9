"""Two-sided bounds on the unregularised optimum, widened by what rounding can do.

Lower: potentials made feasible by c-transforms. Upper: the cost of a plan made feasible by rounding. Both hold for any
potentials, also after one iteration; they meet as the potentials come close to optimal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, finite_or_zero, from_numpy, namespace, only, to_numpy
from otkit.geometry.costs import UNIT
from otkit.kernels import c_transform
from otkit.plans import Plan
from otkit.problems import LinearProblem
from otkit.rounding import round_plan

# Rounding of a pairwise sum and of the products in it, in units of the terms' absolute sum.
_SUM = 64 * UNIT


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
    """Bounds on the unregularised optimum from potentials ``f``, ``g`` of the problem regularised by ``reg (B,)``."""
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
    return widened(problem, _value(problem, *dual), rounded.linear, rounded.defect, *dual, rounded.plan)


def widened(
    problem: LinearProblem,
    lower: np.ndarray,
    linear: np.ndarray,
    defect: np.ndarray,
    f: Array,
    g: Array,
    plan: tuple[Plan, ...],
) -> Certificate:
    """The certificate of a lower bound and of a plan of cost `linear`, both in reduced costs as computed.

    ``defect (B,)`` bounds the L1 distance of the plan's marginals from the weights in exact arithmetic.
    """
    costs = problem.reduced
    a, b, row, col = (to_numpy(v) for v in (problem.a, problem.b, costs.row, costs.col))
    offset = (a * row).sum(-1) + (b * col).sum(-1)
    offset_error = _SUM * ((a * abs(row)).sum(-1) + (b * abs(col)).sum(-1))
    # Two subtractions reduce a cost, each with an error of a unit of its result; none where the offsets are 0.
    plain = (row == 0).all(-1) & (col == 0).all(-1)
    evaluation = np.where(plain, 0.0, 2 * UNIT * (2 * problem.span + abs(col).max(-1)))
    # A defect is repaired along arcs of at most the span each; among forbidden ones perhaps along many of them.
    steps = np.where(problem.forbidden, costs.n + costs.m, 1)
    size = (a * abs(to_numpy(f))).sum(-1) + (b * abs(to_numpy(g))).sum(-1)
    paid = np.where(linear < np.inf, linear, 0.0)
    below = _SUM * size + evaluation + offset_error
    above = (costs.n + costs.m + 64) * UNIT * paid + defect * steps * problem.span + evaluation + offset_error
    lower, upper = lower + offset, linear + offset

    relative, absolute = problem.geometry.rounding
    below, above = below + relative * abs(lower) + absolute, above + relative * abs(paid + offset) + absolute
    lower, upper = lower - below, upper + above
    non_negative = problem.asked.non_negative | (problem.low >= 0)
    lower = np.where(non_negative, np.maximum(lower, 0.0), lower)
    return Certificate(lower, upper, f, g, plan, linear + offset, below + above)


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
