"""Two-sided bounds on the unregularised optimum, widened by a bound on rounding errors.

The lower bound comes from potentials made feasible by c-transforms. The upper bound is the cost of a plan made feasible
by rounding. Both are valid for any potentials, also after a single iteration. They meet as the potentials approach
optimal ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import Array, put, take, to_numpy
from otkit.certificates.balanced import certify_balanced
from otkit.certificates.base import Certificate
from otkit.certificates.glued import certify_glued
from otkit.certificates.penalised import certify_relaxed, certify_settled
from otkit.entropic.dual import Potentials
from otkit.kernels import shared_by
from otkit.plans import EntropicPlan, Glued, Plan, Shift, SparsePlan
from otkit.problems.linear import LinearProblem

_DUAL = ("lower", "f", "g")
_ARRAYS = (*_DUAL, "upper", "linear", "rounding")


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array, by_arcs: np.ndarray | None = None) -> Certificate:
    """Bounds on the unregularised optimum, from potentials of the problem regularised by ``reg (B,)``.

    Of penalised items in the mask `by_arcs`, the arcs that carry mass are tried too. This takes a tree of the plan.
    """
    if problem.balanced.all():
        return _exactly(problem, f, g, reg)
    found = certify_relaxed(problem, f, g, reg)
    if by_arcs is not None:
        found = _with_arcs(problem, found, (f, g, reg), by_arcs)
    items = np.flatnonzero(problem.balanced)
    if items.size:
        found = joined(found, items, _exactly(problem.take(items), *take((f, g, reg), items)))
    return found


def _with_arcs(
    problem: LinearProblem, found: Certificate, at: tuple[Array, Array, Array], by_arcs: np.ndarray
) -> Certificate:
    """The bounds of penalised items, with better ones from the arcs that carry mass. Free sides leave nothing to do."""
    rho_a, rho_b = (to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    items = np.flatnonzero(by_arcs & ~problem.balanced & (np.minimum(rho_a, rho_b) > 0) & (found.upper < np.inf))
    if not items.size or problem.geometry.grid is not None or shared_by() is not None:
        return found
    part = certify_settled(problem.take(items), *take(at, items))
    higher, less = (np.flatnonzero(v) for v in (part.lower > found.lower[items], part.upper < found.upper[items]))
    dual = {name: put(getattr(found, name), items[higher], take(getattr(part, name), higher)) for name in _DUAL}
    found = replace(found, **dual)
    if not less.size:
        return found
    items = items[less]
    if less.size < len(part.lower):
        part = certify_settled(problem.take(items), *take(at, items))
    return joined(found, items, replace(part, **{name: take(getattr(found, name), items) for name in _DUAL}))


def joined(found: Certificate, items: np.ndarray, part: Certificate) -> Certificate:
    """The certificate of entropic plans, with that of some items replaced by `part`."""
    arrays = {name: put(getattr(found, name), items, getattr(part, name)) for name in _ARRAYS}
    relaxed, *others = found.plan
    return replace(found, plan=(*_parts(relaxed, items, part.plan), *others), **arrays)


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
