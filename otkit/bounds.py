"""The public function `certify`: potentials, and perhaps a plan, of any origin → an interval for the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import to_numpy
from otkit.certificates.given import certify_given
from otkit.certificates.width import precise
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import parse_cost
from otkit.geometry.points import PointCloud
from otkit.geometry.stored import is_sparse
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, SparseArcs, Status, marginal_error
from otkit.results.result import Result
from otkit.solving import costs_of, kernel_of, potential_of


@arrays.eager
def certify(
    x: Any,
    y: Any = None,
    a: Any = None,
    b: Any = None,
    *,
    f: Any = None,
    g: Any = None,
    plan: Any = None,
    metric: Any = "sqeuclidean",
    period: float | None = None,
    reg: Any = None,
) -> Result:
    """An interval that contains the unregularised optimum, from potentials of any origin.

    They may be those of a neural network, another library, a subsample or an earlier problem. The interval is valid
    however bad they are, and as narrow as they are good.

    Parameters
    ----------
    x, y : array (..., n, d), (..., m, d)
        The points. Without `y`, the costs instead: an array (..., n, m), a sparse matrix of SciPy or a geometry, as in
        `solve`.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total; uniform by default.
    f, g : array (..., n), (..., m), optional
        Potentials in units of the cost, any finite numbers. One suffices: the other is its c-transform. Of two, the one
        that proves more is transformed.
    plan : array (..., n, m), sparse matrix (n, m) of SciPy, or SparseArcs, optional
        A plan between the weights, whose cost is the upper bound. What its marginals miss is paid for at the largest
        cost. By default a plan is formed from the potentials and rounded to the weights.
    metric, period
        As in `solve_sample`.
    reg : float or array (...), optional
        The regularisation, if the potentials are those of an entropic problem: the plan is then formed at it. By
        default, at the one of several that gives the cheapest plan.

    Returns
    -------
    Result
        With `lower`, `upper` and `gap`; the feasible potentials `f` and `g`, which prove `lower`; and the feasible
        plan, whose cost is `value`. The status is CONVERGED if the interval counts as exact, and else COMPLETED. It is
        INFEASIBLE where the potentials prove that no plan avoids the forbidden arcs. Autograd does not record it.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid; raised before any computation.

    Notes
    -----
    Makes the potentials feasible by two c-transforms, in float64. The bounds cover rounding errors: see the page on
    certificates. Without `plan` and `reg`, eight plans are rounded, which takes some 50 passes over all pairs. An
    optimal plan costs a solve, which ``init=(f, g)`` starts from the potentials.

    Examples
    --------
    >>> import otkit
    >>> x, y = [[0.0], [2.0]], [[1.0], [5.0]]
    >>> found = otkit.certify(x, y, f=[0.0, 0.0])
    >>> found.lower <= 5.0 <= found.upper
    True
    >>> otkit.certify(x, y, g=[0.0, 8.0], plan=[[0.5, 0.0], [0.0, 0.5]]).status
    <Status.CONVERGED>
    """
    if f is None and g is None:
        raise ValueError("certify needs potentials, got neither f nor g; pass one of them or both")
    if plan is not None and reg is not None:
        raise ValueError("reg= says how a plan is formed, and plan= is one; drop one of them")
    problem = LinearProblem.build(_geometry(x, y, metric, period), a, b, reg, instead="")
    sides = ((f, "f", problem.reduced.row), (g, "g", problem.reduced.col))
    start = [None if v is None else potential_of(problem, v, name, offset) for v, name, offset in sides]
    found = certify_given(problem, start[0], start[1], None if plan is None else _plan(problem, plan))
    status = np.full(problem.items, Status.COMPLETED, dtype=object)
    status[(found.upper < np.inf) & precise(problem, found.lower, found.upper)] = Status.CONVERGED
    status[problem.forbidden & (found.lower > problem.high)] = Status.INFEASIBLE
    nothing = np.zeros(problem.items)
    outcome = Outcome(
        f=found.f,
        g=found.g,
        reg=None,
        plan=found.plan,
        certificate=found,
        status=status,
        error=marginal_error(problem, found.plan, found.f, found.g),
        tol=nothing,
        n_iter=nothing.astype(np.int64),
        errors=np.empty((0, problem.items)),
        stages=(),
    )
    return Result(problem, outcome, "certify", kernel_of(problem))


def _geometry(x: Any, y: Any, metric: Any, period: float | None) -> GivenGeometry:
    """The costs between points, or those given in place of points."""
    if np.ndim(y) == 1:
        raise ValueError(
            "y must be points of shape (..., m, d), got one axis; pass y[:, None] for points on a line, and weights "
            "beside costs as a= and b="
        )
    if y is not None:
        return PointCloud(x, y, metric if period is None else parse_cost(metric, period=period))
    if metric != "sqeuclidean" or period is not None:
        raise ValueError("metric= and period= are for points, got costs, without a y; pass y, or drop them")
    return costs_of(x)


def _plan(problem: LinearProblem, plan: Any) -> SparsePlan:
    """A plan of the caller at mass 1."""
    arcs = plan if isinstance(plan, SparseArcs) else _arcs(problem, plan)
    shape = problem.items, problem.reduced.n, problem.reduced.m
    places = (arcs.item, arcs.row, arcs.col)
    for index, size, name in zip(places, shape, ("item", "row", "col"), strict=True):
        if index.size and (index.min() < 0 or index.max() >= size):
            raise ValueError(
                f"plan.{name} must be from 0 to {size - 1}, got {index.min()} to {index.max()}; pass a plan of this "
                "problem"
            )
    if not (arcs.mass >= 0).all() or (arcs.mass == np.inf).any():
        raise ValueError("plan must hold finite, non-negative masses, got others; clip it at 0")
    return SparsePlan(shape, Arcs(*places, arcs.mass / problem.mass[arcs.item]), problem.a)


def _arcs(problem: LinearProblem, plan: Any) -> SparseArcs:
    """The entries of a matrix that is not 0."""
    shape = (*problem.batch, problem.reduced.n, problem.reduced.m)
    if is_sparse(plan):
        found = plan.tocoo()
        if tuple(found.shape) != shape:
            raise ValueError(
                f"plan must have shape {shape}, got a sparse matrix of shape {tuple(found.shape)}; pass one of this "
                "problem"
            )
        row, col, mass = found.row, found.col, found.data.astype(np.float64)
        return SparseArcs(row, col, mass, np.zeros(row.size, dtype=np.int64))
    P = to_numpy(arrays.detached(checks.as_array(plan, "plan", problem.like)))
    if P.shape[-2:] != shape[-2:] or P.ndim < 2:
        raise ValueError(f"plan must have shape {shape}, got shape {P.shape}; pass one of this problem")
    checks.fits(P.shape[:-2], problem.batch, "plan")
    P = np.broadcast_to(P, shape).reshape(problem.items, *shape[-2:])
    item, row, col = np.nonzero(P)
    return SparseArcs(row, col, P[item, row, col].astype(np.float64), item)
