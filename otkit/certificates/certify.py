"""Two-sided bounds on the unregularised optimum, widened by a bound on rounding errors.

The lower bound comes from potentials made feasible by c-transforms. The upper bound is the cost of a plan made feasible
by rounding. Both are valid for any potentials, also after a single iteration. They meet as the potentials approach
optimal ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import Array, put, take
from otkit.certificates.balanced import certify_balanced
from otkit.certificates.base import Certificate
from otkit.certificates.glued import certify_glued
from otkit.certificates.penalised import certify_relaxed
from otkit.entropic.dual import Potentials
from otkit.plans import EntropicPlan, Glued, Plan, Shift, SparsePlan
from otkit.problems.linear import LinearProblem

_ARRAYS = ("lower", "upper", "f", "g", "linear", "rounding")


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds on the unregularised optimum, from potentials of the problem regularised by ``reg (B,)``."""
    if problem.balanced.all():
        return _exactly(problem, f, g, reg)
    found = certify_relaxed(problem, f, g, reg)
    items = np.flatnonzero(problem.balanced)
    if items.size:
        found = joined(found, items, _exactly(problem.take(items), *take((f, g, reg), items)))
    return found


def joined(found: Certificate, items: np.ndarray, part: Certificate) -> Certificate:
    """The certificate of entropic plans, with that of some items replaced by `part`."""
    arrays = {name: put(getattr(found, name), items, getattr(part, name)) for name in _ARRAYS}
    (relaxed,) = found.plan
    return replace(found, plan=_parts(relaxed, items, part.plan), **arrays)


def _parts(relaxed: Plan, items: np.ndarray, exact: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """The parts of the plan of all items: `exact` of these items, and the entropic plan of the others."""
    assert isinstance(relaxed, EntropicPlan)
    count, nothing = relaxed.at.reg.shape[0], replace(relaxed.at, log_a=relaxed.at.log_a - np.inf)

    def entropic(at: Potentials) -> EntropicPlan:
        return EntropicPlan(relaxed.geometry, put(nothing, items, at), relaxed.kernels)

    def placed(part: Plan) -> Plan:
        if isinstance(part, SparsePlan):
            arcs = replace(part.entries, item=items[part.entries.item])
            return SparsePlan((count, *part.shape[1:]), arcs, part.like)
        if isinstance(part, EntropicPlan):
            return entropic(part.at)
        assert isinstance(part, Glued)
        cols: list[tuple[Shift, ...]] = [()] * count
        for item, shifts in zip(items, part.cols, strict=True):
            cols[item] = shifts
        return Glued(entropic(part.middle.at), ((),) * count, tuple(cols))

    others = replace(relaxed, at=put(relaxed.at, items, take(nothing, items)))
    return others, *(placed(part) for part in exact)


def _exactly(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    return certify_balanced(problem, f, g, reg) if problem.geometry.grid is None else certify_glued(problem, g, reg)
