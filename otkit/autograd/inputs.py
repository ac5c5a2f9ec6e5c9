"""Conversion of accumulated gradients to gradients by the inputs of a solve, in their shapes, library and dtype."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from otkit import arrays, checks, plans
from otkit.arrays import Array, device, float64, from_numpy, namespace, to_numpy
from otkit.autograd.adjoint import Pullback, Term
from otkit.geometry.base import flatten_batch
from otkit.geometry.costs import UNIT
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result


@dataclass(frozen=True)
class Gradients:
    """Gradients by the inputs of a solve, in their shapes, library and dtype; None for an input that was not given.

    Attributes
    ----------
    C : array (..., n, m) or None
        Gradient by the cost matrix; 0 where a cost is infinite. None for a sparse matrix.
    x, y : array (..., n, d), (..., m, d) or None
        Gradients by the points.
    a, b : array (..., n), (..., m) or None
        Gradients by the weights. The two sides of a balanced problem must have the same total, so only the components
        along changes that keep the totals equal are meaningful.
    reg : array (...) or None
        Gradient by the regularisation.
    rho, rho_a, rho_b : array (...) or None
        Gradient by the common penalty of both marginals, or by each penalty of a pair; 0 where a marginal is exact.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75])
    >>> otkit.vjp(result, value=1.0).C  # the plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    """

    C: Array | None
    x: Array | None
    y: Array | None
    a: Array | None
    b: Array | None
    reg: Array | None
    rho: Array | None
    rho_a: Array | None
    rho_b: Array | None


def by_input(result: Result, pull: Pullback) -> Gradients:
    """The accumulated gradients as gradients by the inputs as given."""
    problem, xp = result.problem, namespace(pull.a)
    mass, balanced = from_numpy(problem.mass, pull.a)[:, None], from_numpy(problem.balanced, pull.a)[:, None]
    found = {"reg": pull.reg, "rho": pull.rho_a + pull.rho_b, "rho_a": pull.rho_a, "rho_b": pull.rho_b}
    for name, w, by in (("a", problem.a, pull.a), ("b", problem.b, pull.b)):
        # Balanced weights were divided by their total, and the results multiplied by it.
        free = (by - xp.sum(w * by, axis=-1, keepdims=True)) / mass + pull.mass[:, None] / 2
        found[name] = xp.where(balanced, free, by)
    if pull.wants("C") and problem.geometry.stored is None:
        found["C"] = _by_matrix(result, pull)
    if pull.wants("x", "y"):
        found |= _by_points(result, pull)
    given = {
        name: v for name, v in problem.given.by_name.items() if v is not None and name in pull.wanted and name in found
    }
    whole = {name: _as_given(result, found[name], v) for name, v in given.items()}
    return Gradients(**{field.name: whole.get(field.name) for field in fields(Gradients)})


def _as_given(result: Result, by: Array, like: Any) -> Array:
    """A gradient ``(B, …)`` summed over the broadcast axes of the input, in the input's shape and dtype."""
    shape = tuple(like.shape) if arrays.is_array(like) else np.shape(like)
    batch = result.problem.batch
    xp = namespace(by)
    tail = tuple(by.shape[1:])
    by = by if by.shape[0] != result.problem.items else xp.reshape(by, (*batch, *tail))
    if tuple(by.shape) != shape:
        full = (1,) * (by.ndim - len(shape)) + shape
        axes = tuple(k for k, (have, want) in enumerate(zip(by.shape, full, strict=True)) if want == 1 and have != 1)
        by = xp.reshape(xp.sum(by, axis=axes, keepdims=True) if axes else by, shape)
    if not arrays.is_array(like):
        return arrays.convert(by, result.problem.like)
    by = arrays.convert(by, like)
    xp = namespace(by)
    return xp.astype(by, like.dtype, copy=False) if xp.isdtype(like.dtype, "real floating") else by


def _by_matrix(result: Result, pull: Pullback) -> Array:
    """Gradient by the costs ``(B, n, m)``, or ``(1, n, m)`` where all items share them."""
    problem, xp = pull.problem, namespace(pull.a)
    costs = problem.reduced
    shared = problem.geometry.batch[0] == 1
    total: Any = 0.0
    for items in [slice(k, k + 1) for k in range(problem.items)] if shared else [slice(None)]:
        part, here = costs.take(np.arange(problem.items)[items]), 0.0
        for term in pull.terms:
            here = here + _weighted(problem.kernels, part, term.take(items))
        total = total + here if shared else here
    if result.outcome.reg is None:
        parts = plans.add([part.dense() for part in result.outcome.plan])
        whole = pull.by_plan[:, None, None] * parts
        total = xp.sum(whole, axis=0, keepdims=True) if shared else whole
    return total if problem.geometry.bordered is None else total[:, :-1, :-1]


def _weighted(kernels: Kernels, costs: Reduced, term: Term) -> Array:
    """The plan of a term times its weights, ``(B, n, m)``. In place, since allocating memory of this size is slow."""
    xp = namespace(term.U)
    P = kernels.plan(costs, term.at)
    if term.slope is None and term.E is None and term.U.shape[-1] == 1:
        P *= term.U
        P *= xp.matrix_transpose(term.V)
        return P
    weights = term.U @ xp.matrix_transpose(term.V)
    if term.slope is not None:
        C = costs.block(slice(None), slice(None))
        weights += term.slope[:, None, None] * xp.where(P > 0, C, 0.0)
    if term.E is not None:
        weights += term.E
    P *= weights
    return P


def _by_points(result: Result, pull: Pullback) -> dict[str, Array]:
    """Gradients by the points of each side, ``(B, n, d)`` and ``(B, m, d)``, where wanted."""
    problem = pull.problem
    geometry, reduced, terms, kernels = _of_points(problem, pull.terms)
    checks.differentiable(geometry.metric.ground)
    single = problem.unit > UNIT  # gradients are rounded to it
    sides = {"x": (geometry, reduced, terms)}
    sides["y"] = geometry.T, reduced.T, [term.T for term in terms]
    found: dict[str, Array] = {}
    alike = all(term.symmetric for term in terms) and result.outcome.reg is not None
    for name, (cloud, costs, terms) in sides.items():
        if not pull.wants(name):
            continue
        if alike and found:  # a measure with itself has the same gradient on both sides
            found["y"] = found["x"]
            continue
        xp = namespace(cloud.x)
        by = xp.zeros((problem.items, *cloud.x.shape[1:]), dtype=cloud.x.dtype, device=device(cloud.x))
        for term in terms:
            by = by + kernels.apply_cost_gradient(costs, term.at, term.U, term.V, term.slope, single=single)
            if term.E is not None:
                W = kernels.plan(costs, term.at) * term.E
                by = by + cloud.pulled(W, slice(0, problem.items), slice(None))
        if result.outcome.reg is None:
            by = by + _by_arcs(result, pull, name)
        if cloud.metric.ground == "cosine":
            given = flatten_batch(problem.inside(problem.asked.arrays[name]), problem.batch, 2)
            by = _through_length(given, cloud.x, by)
        found[name] = by
    return found


def _of_points(problem: LinearProblem, terms: list[Term]) -> tuple[PointCloud, Reduced, list[Term], Kernels]:
    """The points, their reduced costs, and the terms and kernels of these: without the border where there is one."""
    geometry, costs, kernels = problem.geometry, problem.reduced, problem.kernels
    if geometry.bordered is not None:
        inner = geometry.bordered.inner
        costs, kernels = Reduced(inner, costs.row[:, :-1], costs.col[:, :-1]), choose(inner)
        terms = [term.inside for term in terms]
    cloud = costs.cloud
    assert cloud is not None
    return cloud, costs, terms, kernels


def _by_arcs(result: Result, pull: Pullback, name: str) -> Array:
    """Gradient of the cost of a sparse plan by the points of a side."""
    problem = pull.problem
    geometry = _of_points(problem, [])[0].to_numpy()
    arcs = result.plan_sparse()
    if problem.geometry.bordered is not None:
        arcs = arcs.within(geometry.n, geometry.m)
    mass = arcs.mass / problem.mass[arcs.item] * to_numpy(pull.by_plan)[arcs.item]
    at_x, at_y = (0 if v.shape[0] == 1 else arcs.item for v in (geometry.x, geometry.y))
    ends = geometry.x[at_x, arcs.row][:, None], geometry.y[at_y, arcs.col][:, None]
    here, other, index, size = (*ends, arcs.row, geometry.n) if name == "x" else (*ends[::-1], arcs.col, geometry.m)
    total = np.zeros((problem.items, size, geometry.d))
    np.add.at(total, (arcs.item, index), geometry.metric.weighted_gradient(mass[:, None, None], here, other)[:, 0])
    return from_numpy(total, pull.a)


def _through_length(given: Array, unit: Array, by: Array) -> Array:
    """Pull back through the division of points by their length."""
    xp = namespace(by)
    largest = xp.max(xp.abs(float64(given)), axis=-1, keepdims=True)  # squares may over- or underflow
    length = largest * xp.linalg.vector_norm(float64(given) / largest, axis=-1, keepdims=True)
    return (by - unit * xp.sum(by * unit, axis=-1, keepdims=True)) / length
