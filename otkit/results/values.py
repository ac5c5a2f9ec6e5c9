"""The objective of a result, its parts, its dual and the bounds, in the internal form of the problem."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otkit import plans
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.certificates.base import Certificate
from otkit.certificates.certify import certify
from otkit.entropic.operations import Moved
from otkit.geometry.base import costs_along
from otkit.plans import EntropicPlan, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import conjugate, penalty
from otkit.problems.variation import Variation
from otkit.results.solved import Solved, by_item, kept, kept_as, of_whole


class Values(NamedTuple):
    """The parts of the objective in float64, ``(B,)`` each; None where a part does not exist."""

    linear: Array
    reg: Array | None
    marginal: Array | None

    @property
    def total(self) -> Array:
        """The objective."""
        whole = self.linear if self.reg is None else self.linear + self.reg
        return whole if self.marginal is None else whole + self.marginal


@of_whole
@kept
def certificate(result: Solved) -> Certificate:
    """The certificate of the bounds, in the internal form of the problem."""
    out = result.outcome
    if out.certificate is not None:
        return out.certificate
    result.problem.check_costs()
    return certify(result.problem, out.f, out.g, out.reg)


def moved(result: Solved) -> Moved:
    """⟨C, P⟩ in reduced costs and the marginals, for an entropic plan."""
    return _entropic_plan(result).moved


def _entropic_plan(result: Solved) -> EntropicPlan:
    (plan,) = result.outcome.plan
    assert isinstance(plan, EntropicPlan)
    return plan


@by_item
@kept
def objective(result: Solved) -> Values:
    """The parts of the objective."""
    if result.whole is None:
        return _parts(result)
    found = _parts(result.whole)
    if result.variation is None:
        return found
    parts = result.outcome.plan
    if all(isinstance(part, SparsePlan) for part in parts):  # penalties may be large, so marginals are not exact enough
        linear = _by_arcs(result)
        return Values(linear, None, found.total - linear)
    paid = _varied(result, result.variation)
    return Values(found.total - paid, None, paid)


def _by_arcs(result: Solved) -> Array:
    """⟨C, P⟩ of a plan of arcs, ``(B,)``."""
    problem = result.problem
    problem.check_costs()
    costs, total = problem.geometry.to_numpy(), np.zeros(problem.items)
    for part in result.outcome.plan:
        assert isinstance(part, SparsePlan)
        e = part.entries
        for item in np.unique(e.item).tolist():
            row, col, mass = (v[e.item == item] for v in (e.row, e.col, e.mass))
            total[item] += costs_along(costs, item, row, col) @ mass
    return from_numpy(total * problem.mass, problem.a)


def _varied(result: Solved, variation: Variation) -> Array:
    """ρ_a·‖P1 − a‖₁ + ρ_b·‖Pᵀ1 − b‖₁ of a plan, ``(B,)``."""
    problem, paid = result.problem, np.zeros(result.problem.items)
    sides = zip(variation[:2], plans.marginals(result.outcome.plan), (problem.a, problem.b), strict=True)
    for rho, sums, w in sides:
        paid = paid + rho * abs(to_numpy(sums) - to_numpy(w)).sum(-1)
    return from_numpy(paid * problem.mass, problem.a)


def _parts(result: Solved) -> Values:
    problem, out = result.problem, result.outcome
    linear, divergence = out.linear, out.divergence
    if linear is None:
        if out.reg is not None:
            return _entropic(result)
        assert out.certificate is not None
        linear = out.certificate.linear
    like = problem.penalties.rho_a
    by_reg = None if divergence is None else from_numpy(divergence * problem.mass, like)
    return Values(from_numpy(linear * problem.mass, like), by_reg, _by_marginals(result))


def _entropic(result: Solved) -> Values:
    """The parts for an entropic plan, by its marginals and its cost."""
    problem, out = result.problem, result.outcome
    xp, mass = namespace(problem.a), from_numpy(problem.mass, problem.a)
    sums, costs = moved(result), problem.reduced
    offset = xp.sum(costs.row * sums.row, axis=-1) + xp.sum(costs.col * sums.col, axis=-1)
    # log P/(a⊗b) is (f + g − C)/reg, so the divergence needs no logarithm.
    gained = xp.sum(out.f * sums.row, axis=-1) + xp.sum(out.g * sums.col, axis=-1) - sums.cost
    by_reg = (gained - out.reg * (xp.sum(sums.row, axis=-1) - _product(problem))) * mass
    return Values((sums.cost + offset) * mass, by_reg, _by_marginals(result))


def _by_marginals(result: Solved) -> Array | None:
    problem = result.problem
    if problem.balanced.all():
        return None
    rows, cols = plans.marginals(result.outcome.plan)
    sides = ((rows, problem.a, problem.penalties.rho_a), (cols, problem.b, problem.penalties.rho_b))
    paid = plans.add([penalty(*(to_numpy(v) for v in side)) for side in sides])
    return from_numpy(paid + problem.idle_penalty, problem.a)


@of_whole
@by_item
@kept
def dual(result: Solved) -> Array | None:
    """The dual objective at the potentials, ``(B,)``; None for an unregularised problem."""
    out, problem = result.outcome, result.problem
    if out.reg is None:
        return None
    penalties, costs = problem.penalties, problem.reduced
    sides = ((out.f + costs.row, problem.a, penalties.rho_a), (out.g + costs.col, problem.b, penalties.rho_b))
    earned = plans.add([conjugate(*(to_numpy(v) for v in side)) for side in sides]) + problem.idle_penalty
    earned = from_numpy(earned, problem.a)
    sent = _entropic_plan(result).mass
    return (earned - out.reg * (sent - _product(problem))) * from_numpy(problem.mass, problem.a)


def named(result: Solved, name: str) -> Array | None:
    """A value by the name of its property, ``(B,)``."""
    if name == "value_dual":
        return dual(result)
    found = objective(result)
    parts = {"value_linear": found.linear, "value_reg": found.reg, "value_marginal": found.marginal}
    return found.total if name == "value" else parts[name]


def given(result: Solved, name: str) -> Array | None:
    """The same in the form of the caller, ``(...)``; of a part of a batch, an item of the values of the batch."""
    if result.origin is not None:
        found = given(result.origin.batch, name)
        return None if found is None else found.reshape(-1)[result.origin.here].reshape(result.origin.shape)
    memory = vars(result).setdefault("_given", {})
    if name not in memory:
        x = named(result, name)
        memory[name] = None if x is None else result.problem.as_given(x)
    return memory[name]


@kept
def complete(result: Solved) -> bool:
    """Whether every item has reached its tolerance."""
    return result.outcome.complete


_COMPLETE = kept_as(complete)


def converged_at(linear: float, divergence: float | None = None) -> dict[str, Any]:
    """Attributes of the result of one problem that has converged, by which its values are known at once.

    Its problem and its outcome may then be values for `later`.
    """
    known = {"value_linear": np.array(linear)}
    if divergence is not None:
        known["value_reg"] = np.array(divergence)
    known["value"] = known["value_linear"] if divergence is None else np.array(linear + divergence)
    return {_COMPLETE: True, "_given": known}


def _product(problem: LinearProblem) -> Array:
    """Σa·Σb."""
    total_a, total_b = problem.totals
    return total_a * total_b
