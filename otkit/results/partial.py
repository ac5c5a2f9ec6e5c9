"""The result of partial transport: that of the balanced problem, without its last row and column."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import checks
from otkit.arrays import Array, detached, later, namespace, renewed, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose, hosted
from otkit.plans import Arcs, EntropicPlan, Plan, SparsePlan, add_arcs
from otkit.problems.linear import LinearProblem
from otkit.problems.partial import moved_mass
from otkit.problems.variation import Variation
from otkit.results.gauge import relative
from otkit.results.outcome import Outcome
from otkit.results.result import Result


def without_border(whole: Result, asked: GivenGeometry, variation: Variation | None = None) -> Result:
    """The result of the problem `asked`, from that of the problem with one more row and one more column."""
    problem, out = whole.problem, whole.outcome
    owned, costs = asked.owned(), problem.reduced
    inner = hosted(owned).flat(problem.batch)
    inside = renewed(
        problem,
        asked=owned,
        geometry=inner,
        reduced=Reduced(inner, costs.row[:, :-1], costs.col[:, :-1]),
        kernels=problem.kernels if isinstance(inner.matrix, np.ndarray) else choose(inner),
        a=problem.a[:, :-1],
        b=problem.b[:, :-1],
    )
    parts = later(_parts, whole, inside, variation)
    found = renewed(out, f=out.f[:, :-1], g=out.g[:, :-1], plan=parts, certificate=None, linear=None, divergence=None)
    if problem.reg is not None:
        found = _relative_to_moved(found, problem)
    return Result(inside, found, whole.method, whole.kernel, None if whole.link is None else _linked, whole, variation)


def _relative_to_moved(found: Outcome, problem: LinearProblem) -> Outcome:
    """The outcome of a balanced problem with its errors relative to the mass that moves, not to all."""
    moved = to_numpy(detached(moved_mass(problem.given)))
    moved = np.broadcast_to(moved, problem.batch).reshape(-1)
    least, times = problem.mass * problem.rounding, problem.mass / moved
    if (moved <= least).any():
        k = int(np.argmax(least / moved))
        raise ValueError(
            f"mass must be above {least[k]:.3g} with this reg, where rounding errors of the mass that stays are as "
            f"large, got {moved[k]:.3g}; raise mass or reg, or solve without reg"
        )
    stages = tuple(renewed(stage, error=float(stage.error * times[stage.item])) for stage in found.stages)
    error, tol, errors = found.error * times, found.tol * times, found.errors * times
    return renewed(found, error=error, tol=tol, errors=errors, stages=stages)


def _parts(whole: Result, inside: LinearProblem, variation: Variation | None) -> tuple[Plan, ...]:
    """The parts of the plan without the last row and column."""
    parts = tuple(_part(part, inside) for part in whole.outcome.plan)
    if variation is None or not variation.exceeds:
        return parts
    return *parts, *(_exceeding(part, inside, variation) for part in whole.outcome.plan)


def _exceeding(part: Plan, inside: LinearProblem, variation: Variation) -> Plan:
    """The mass beyond the weights of a side: that of the border where an arc and the other penalty cost less."""
    assert isinstance(part, SparsePlan)
    inside.check_costs()
    costs, e = inside.geometry, part.entries
    n, m = costs.n, costs.m
    found: list[Arcs] = []
    for k in np.flatnonzero((e.row == n) != (e.col == m)).tolist():
        item, lacks = int(e.item[k]), e.row[k] == n
        rho, point = (variation.rho_a[item], variation.rho_b[item]), int(e.col[k] if lacks else e.row[k])
        line = to_numpy((costs.T if lacks else costs).block(slice(item, item + 1), slice(point, point + 1))).ravel()
        other = int(line.argmin())
        if line[other] + rho[0 if lacks else 1] < rho[1 if lacks else 0]:
            row, col = (other, point) if lacks else (point, other)
            found.append(Arcs(*(np.array([v]) for v in (item, row, col, e.mass[k]))))
    none = Arcs(*(v[:0] for v in (e.item, e.row, e.col, e.mass)))
    return SparsePlan((inside.items, n, m), add_arcs([none, *found], (inside.items, n, m)), part.like)


def _part(part: Plan, inside: LinearProblem) -> Plan:
    if isinstance(part, EntropicPlan):
        return EntropicPlan(inside.reduced, part.at.inside, inside.kernels)
    assert isinstance(part, SparsePlan)
    n, m, e = inside.reduced.n, inside.reduced.m, part.entries
    some = np.flatnonzero((e.row < n) & (e.col < m))
    return SparsePlan((inside.items, n, m), Arcs(*(v[some] for v in (e.item, e.row, e.col, e.mass))), part.like)


def _linked(result: Result, name: str, array: Array, parts: tuple[Array, ...]) -> Array:
    """A field of the result, as a function of fields of the balanced one that are in autograd's graph."""
    whole = result.whole
    assert whole is not None
    if result.variation is not None and name in ("f", "g", "value_linear", "value_marginal"):
        raise ValueError(f"{name} has no gradient with penalty='tv'; take that of value, or detach the input")
    if name in ("f", "g"):
        return relative(*whole.potentials)[0 if name == "f" else 1]
    if name == "price":
        return -(whole.f[..., -1] + whole.g[..., -1])
    if name == "plan":
        return whole.plan[..., :-1, :-1]
    if name in ("rows", "apply", "cols", "apply_t"):
        on_rows, vector = name in ("rows", "apply"), array.ndim == len(result.problem.batch) + 1
        size = result.problem.reduced.m if on_rows else result.problem.reduced.n
        v = checks.as_array(parts[0], "v", array) if parts else namespace(array).ones_like(array[..., :1])
        if not parts:
            v = namespace(v).broadcast_to(v, (*v.shape[:-1], size))
        moved = (whole.apply if on_rows else whole.apply_t)(_with_zero(v, vector))
        return moved[..., :-1] if vector else moved[..., :-1, :]
    field: Any = getattr(whole, name)
    return field


def _with_zero(v: Array, vector: bool) -> Array:
    """Values at points, with 0 at one more."""
    nothing = 0.0 * (v[..., :1] if vector else v[..., :1, :])
    return namespace(v).concat([v, nothing], axis=-1 if vector else -2)
