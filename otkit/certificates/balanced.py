"""Bounds where both marginals are exact: a lower one from feasible potentials, an upper one from a feasible plan."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array
from otkit.certificates.base import Certificate, better, dual_bound, feasible, widened
from otkit.certificates.rounding import round_plan
from otkit.plans import Plan
from otkit.problems.linear import LinearProblem


def certify_balanced(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds from potentials of the problem regularised by ``reg (B,)``, and from its plan rounded to the weights."""
    # The constant between the potentials does not change the plan. It is chosen for small exponents, which round less.
    f, g = problem.centred(f, g)
    rounded = round_plan(problem, problem.at(f, g, reg))
    # With the weights absorbed, f_i + g_j ≤ C_ij wherever P_ij ≤ 1, so these potentials are nearly feasible.
    log_a, log_b = problem.log_a, problem.log_b
    dual = better(
        problem,
        feasible(problem, g=g + reg[:, None] * log_b),
        feasible(problem, f=f + reg[:, None] * log_a),
    )
    dual = better(problem, dual, feasible(problem, f=rounded.tree_f))
    return widened(
        problem, dual_bound(problem, *dual), rounded.linear, rounded.defect, *dual, rounded.plan, rounded.drawn
    )


def certify_plan(
    problem: LinearProblem, f: Array, g: Array, plan: tuple[Plan, ...], linear: np.ndarray, defect: np.ndarray
) -> Certificate:
    """Bounds from feasible potentials, and from a plan of cost `linear` in reduced costs.

    ``defect (B,)`` is the L1 distance of the plan's marginals from the weights.
    """
    return widened(problem, dual_bound(problem, f, g), linear, defect, f, g, plan)
