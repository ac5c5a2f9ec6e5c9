"""The plan of a result as a matrix, as a linear map of vectors, and as a map of points."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks, plans
from otkit.arrays import Array, from_numpy, namespace
from otkit.entropic.dual import Potentials
from otkit.geometry.costs import UNIT
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import hosted
from otkit.kernels.memory import fits_in_memory
from otkit.plans import EntropicPlan, add_arcs
from otkit.results.gauge import conditional_reg
from otkit.results.outcome import SparseArcs
from otkit.results.solved import Solved, kept, readable


@kept
def dense(result: Solved) -> Array:
    """The plan ``(..., n, m)``, in the library and dtype of the input."""
    problem, parts = result.problem, readable(result)
    fits_in_memory(problem.reduced.n, problem.reduced.m, problem.items, "a dense plan")
    single = problem.unit > UNIT
    P = parts[0].dense(single=single) if len(parts) == 1 else plans.add([part.dense() for part in parts])
    if (problem.mass != 1).any():
        P *= _mass(result)[:, None, None]  # in place: allocating a second array is slower than computing the plan
    return problem.as_given(P)


def sparse(result: Solved, drop: float) -> SparseArcs:
    """The entries of the plan, without at most a fraction `drop` of the mass of every row."""
    problem = result.problem
    checks.positive(drop, "drop", below=1.0)
    parts = [part.arcs(drop) for part in readable(result)]
    arcs = add_arcs(parts, (problem.items, problem.reduced.n, problem.reduced.m))
    return SparseArcs(arcs.row, arcs.col, arcs.mass * problem.mass[arcs.item], arcs.item)


@kept
def marginals(result: Solved) -> tuple[Array, Array]:
    """Row and column sums of the plan, ``(B, n)`` and ``(B, m)``; those of the error, so no costs are read."""
    rows, cols = (v * _mass(result)[:, None] for v in plans.marginals(result.outcome.plan))
    return rows, cols


def apply(result: Solved, v: Any) -> Array:
    """Σ_j P_ij v_j, ``(B, n)`` or ``(B, n, k)``."""
    return _moved(result, readable(result), v, result.problem.reduced.m, "v")


def apply_t(result: Solved, u: Any) -> Array:
    """Σ_i P_ij u_i, ``(B, m)`` or ``(B, m, k)``."""
    return _moved(result, tuple(part.T for part in readable(result)), u, result.problem.reduced.n, "u")


def _moved(result: Solved, parts: tuple[plans.Plan, ...], v: Any, size: int, name: str) -> Array:
    columns, tail = result.problem.columns(v, size, name)
    moved = plans.apply(parts, columns) * _mass(result)[:, None, None]
    return moved if tail else moved[:, :, 0]


def barycentric(result: Solved, y: Any) -> Array:
    """Mean target of each row, ``(..., n, k)``."""
    _no_graph(result, "barycentric(y) does not reach the inputs of the solve; use result.apply(y)")
    problem = result.problem
    problem.check_costs()
    if y is None:
        cloud = _points(result, "pass y=, or use otkit.solve_sample")
        if cloud.metric.period is not None:
            raise ValueError("barycentric() has no mean of points on a circle; pass values y, or use plan_sparse()")
        y = cloud.y
    y, tail = problem.columns(y, problem.reduced.m, "y")
    regularised = result.outcome.reg is not None
    sent = _conditional(result, problem.reduced).apply(y) if regularised else _mean_of_arcs(result, y)
    return problem.as_given(sent if tail else sent[:, :, 0])


def _mean_of_arcs(result: Solved, y: Array) -> Array:
    """Mean target of each row of an unregularised plan, ``(B, n, k)``."""
    problem, xp = result.problem, namespace(y)
    exact = result.whole is None and problem.balanced.all()
    mass = (problem.a if exact else plans.marginals(result.outcome.plan)[0])[:, :, None]
    some = mass > 0
    moved = plans.apply(result.outcome.plan, y) / xp.where(some, mass, xp.ones_like(mass))
    if xp.all(some):
        return moved
    return xp.where(some, moved, _conditional(result, problem.reduced).apply(y))


def transport(result: Solved, x_new: Any) -> Array:
    """Images of new points, ``(..., k, d)``."""
    _no_graph(result, "transport(x_new) does not reach the inputs of the solve; use a result of detached tensors")
    checks.no_gradient(x_new, "x_new", "call under torch.no_grad()")
    problem, asked = (
        result.problem,
        _points(result, "use otkit.solve_sample, or barycentric(y) for the rows themselves"),
    )
    if asked.metric.period is not None and result.outcome.reg is not None:
        raise ValueError("transport(x_new) with a reg has no mean of points on a circle; solve without one")
    x_new = checks.as_array(x_new, "x_new", asked.y)
    checks.same_library(x_new=x_new, y=asked.y)
    checks.points(x_new, asked.y)
    if asked.metric.ground == "cosine":
        checks.cosine_points(x_new, asked.y)
    costs = hosted(PointCloud(x_new, asked.y, asked.metric)).flat(problem.batch)
    rows = from_numpy(np.zeros((problem.items, costs.n)), problem.a)
    y, _ = problem.columns(asked.y, asked.m, "y")
    return problem.as_given(_conditional(result, Reduced(costs, rows, problem.reduced.col)).apply(y))


def _conditional(result: Solved, costs: Reduced) -> EntropicPlan:
    """The conditional plan, whose rows have mass 1; the rows of `costs` may differ from those of the problem."""
    problem, reg, g = result.problem, conditional_reg(result), result.outcome.g
    f = problem.kernels.softmin(costs, g, problem.log_b, reg)
    at = Potentials(f, g, namespace(f).zeros_like(f), problem.log_b, reg)
    return EntropicPlan(costs, at, problem.kernels)


def _mass(result: Solved) -> Array:
    return from_numpy(result.problem.mass, result.problem.a)


def _points(result: Solved, instead: str) -> PointCloud:
    cloud = result.problem.asked.cloud
    if cloud is None:
        raise ValueError(f"this needs points, and the problem was given as a cost matrix; {instead}")
    return cloud


def _no_graph(result: Solved, message: str) -> None:
    if result.link is not None and arrays.records():
        raise ValueError(f"the gradient of {message}, or call under torch.no_grad()")
