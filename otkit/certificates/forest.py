"""Bounds for penalised marginals from the arcs that carry mass, which form a forest where the optimum is a vertex.

Potentials that equal the costs along the arcs of a component are free up to a constant, which maximises the dual. They
fix the marginals, for which the entropic plan is rounded as if these were exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit import arrays
from otkit.arrays import Array, finite_or_zero, from_numpy, to_numpy
from otkit.certificates.base import sides
from otkit.certificates.rounding import Rounded, round_plan, spanning_trees
from otkit.entropic.dual import Potentials
from otkit.linalg.trees import SpanningTree
from otkit.plans import EntropicPlan, Plan, SparsePlan
from otkit.problems.linear import LinearProblem

# An arc of the plan's maximum spanning tree that has less than this fraction of the mass of its ends joins components.
_JOINS = 1e-6


def settled(problem: LinearProblem, at: Potentials) -> tuple[Array, Array]:
    """Potentials along the heaviest arcs of the plan at `at`, with the best constant in each component: f and g.

    At least one side is penalised, and none is free.
    """
    a, b, row, col = sides(problem)
    rates = [1 / to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b)]
    sums = np.concatenate([to_numpy(v) for v in problem.kernels.marginals(problem.reduced, at)], axis=1)
    n, found = problem.reduced.n, np.empty(sums.shape)
    for k, tree in enumerate(spanning_trees(problem, at)):
        of, value = _components(tree, arrays.log(sums[k]))
        sent = _log_sums(a[k], -(value[:n] + row[k]) * rates[0][k], of[:n], of.max() + 1)
        received = _log_sums(b[k], -(value[n:] + col[k]) * rates[1][k], of[n:], of.max() + 1)
        shift = finite_or_zero((sent - received) / (rates[0][k] + rates[1][k]))[of]
        found[k, :n], found[k, n:] = value[:n] + shift[:n], value[n:] - shift[n:]
    return from_numpy(found[:, :n], at.f), from_numpy(found[:, n:], at.f)


def _components(tree: SpanningTree, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The component of each node, and potentials that equal the costs along the arcs within components."""
    of, value, count = [0] * len(tree.parent), [0.0] * len(tree.parent), 0
    parents = np.maximum(tree.parent, 0)
    light = (tree.parent < 0) | ~(tree.weight >= np.log(_JOINS) + np.minimum(mass, mass[parents]))
    parent, cost, cut = tree.parent.tolist(), tree.cost.tolist(), light.tolist()
    for node in tree.order.tolist():
        if cut[node]:
            of[node], count = count, count + 1
        else:
            of[node], value[node] = of[parent[node]], cost[node] - value[parent[node]]
    return np.array(of), np.array(value)


def _log_sums(w: np.ndarray, exponent: np.ndarray, label: np.ndarray, size: int) -> np.ndarray:
    """log Σ w·e^exponent over the points of each component."""
    top = np.full(size, -np.inf)
    np.maximum.at(top, label[w > 0], exponent[w > 0])
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.bincount(label, w * np.exp(np.minimum(exponent - safe[label], 0.0)), size))


def rounded_to(problem: LinearProblem, at: Potentials, f: Array, g: Array) -> Rounded:
    """The plan at `at` rounded to the marginals that are optimal for the potentials f and g."""
    penalties, costs = problem.penalties, problem.reduced
    a = penalties.target(problem.a, f + costs.row, penalties.rho_a)
    b = penalties.target(problem.b, g + costs.col, penalties.rho_b)
    total = to_numpy(a).sum(-1)
    total = np.where(total > 0, total, 1.0)  # of nothing that moves
    mass = from_numpy(total, at.f)[:, None]
    found = round_plan(replace(problem, a=a / mass, b=b / mass), replace(at, log_a=at.log_a - arrays.log(mass)))
    return replace(found, plan=tuple(_scaled(part, total) for part in found.plan), linear=found.linear * total)


def _scaled(part: Plan, by: np.ndarray) -> Plan:
    """The plan with the mass of each item multiplied."""
    if isinstance(part, SparsePlan):
        return replace(part, entries=replace(part.entries, mass=part.entries.mass * by[part.entries.item]))
    assert isinstance(part, EntropicPlan)
    log_a = part.at.log_a + arrays.log(from_numpy(by, part.at.f))[:, None]
    return replace(part, at=replace(part.at, log_a=log_a))
