"""Bounds from potentials and plans of any origin."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.certificates.balanced import certify_balanced
from otkit.certificates.base import Certificate, better, dual_bound, feasible, widened
from otkit.certificates.rounding import Rounded, round_plan
from otkit.geometry.base import costs_along
from otkit.geometry.costs import UNIT
from otkit.plans import SparsePlan
from otkit.problems.linear import LinearProblem

# Potentials are cut off at so many times the size of the costs, and at the last number. Any numbers prove a bound, and
# of larger ones rounding leaves nothing, but their sums overflow.
_WILD, _LARGEST = 2.0**60, 2.0**1000
# Binary logarithms of the regularisations at which plans are rounded, relative to the range of the costs: the cheapest
# plan is at one of the first for rough potentials, and at one of the last for optimal ones. Sweeps before rounding.
_REGS, _SWEEPS = (-4, -7, -10, -14, -18, -24, -32), 2


def certify_given(problem: LinearProblem, f: Array | None, g: Array | None, plan: SparsePlan | None) -> Certificate:
    """Bounds from potentials of the reduced problem, of at least one side, and from a plan if there is one.

    Potentials of a problem with a `reg` are those of an entropic plan, which is rounded. Without one, plans of several
    regularisations are rounded, and the cheapest is taken.
    """
    size = problem.span + abs(problem.low) + abs(problem.high)
    most = from_numpy(np.minimum(_WILD * size, _LARGEST)[:, None], problem.a)
    f, g = (None if v is None else namespace(v).clip(v, -most, most) for v in (f, g))
    pairs = [feasible(problem, **{side: v}) for side, v in (("f", f), ("g", g)) if v is not None]
    value = [dual_bound(problem, *pair) for pair in pairs]
    dual = better(problem, pairs[0], pairs[-1])
    if plan is not None:
        return widened(problem, dual_bound(problem, *dual), *_paid(problem, plan), *dual, (plan,))
    if problem.reg is not None:
        if f is not None:
            soft, of_rows = problem.update_columns(f, problem.reg), from_numpy(value[0] >= value[-1], f)[:, None]
            g = soft if g is None else namespace(f).where(of_rows, soft, g)
        g = _tame(problem, g)
        return certify_balanced(problem, problem.update_rows(g, problem.reg), g, problem.reg)
    found = _cheapest(problem, dual[1])
    return widened(problem, dual_bound(problem, *dual), found.linear, found.defect, *dual, found.plan, found.drawn)


def _tame(problem: LinearProblem, g: Array) -> Array:
    """Potentials of the columns from which plans are formed.

    Optimal ones of reduced costs are at most the range of these apart. Larger ones are noise in exponents.
    """
    xp, most = namespace(g), 2 * from_numpy(problem.span[:, None], g)
    return xp.clip(g - xp.sum(problem.b * g, axis=-1, keepdims=True), -most, most)


def _cheapest(problem: LinearProblem, g: Array) -> Rounded:
    """The cheapest of the plans that sweeps from these potentials make at several regularisations, once rounded."""
    g = _tame(problem, g)
    top = np.where(problem.span > 0, problem.span, 1.0)
    costs = np.stack([_rounded(problem, g, top * 2.0**k).linear for k in _REGS])
    return _rounded(problem, g, top * 2.0 ** np.array(_REGS)[costs.argmin(0)])


def _rounded(problem: LinearProblem, g: Array, reg: np.ndarray) -> Rounded:
    """The rounded plan after a few sweeps from these potentials of the columns."""
    at = from_numpy(reg, g)
    f = problem.update_rows(g, at)
    for _ in range(_SWEEPS - 1):
        g = problem.update_columns(f, at)
        f = problem.update_rows(g, at)
    return round_plan(problem, problem.at(f, g, at))


def _paid(problem: LinearProblem, plan: SparsePlan) -> tuple[np.ndarray, np.ndarray]:
    """The cost of a plan in reduced costs, and a bound on the L1 distance of its marginals from the weights."""
    costs, arcs, linear = problem.reduced, plan.entries, np.empty(problem.items)
    for k in range(problem.items):
        some = (arcs.item == k) & (arcs.mass > 0)
        linear[k] = (arcs.mass[some] * costs_along(costs, k, arcs.row[some], arcs.col[some])).sum()
    pairs = zip(map(to_numpy, plan.marginals()), map(to_numpy, (problem.a, problem.b)), strict=True)
    defect = sum(abs(sums - weights).sum(-1) for sums, weights in pairs)
    return linear, defect + 4 * (sum(plan.shape[1:]) + 128) * UNIT
