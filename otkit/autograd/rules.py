"""Vector–Jacobian products of the results of a solve, for arrays of any library.

Every output is an explicit function of the plan, the potentials, the costs and the weights. Differentiating it leaves
cotangents of the potentials. These are pulled back through the fixed point of the iterations, or through the iterations
themselves. The optimal value needs neither: its objective is stationary (envelope theorem).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, float64, from_numpy, namespace
from otkit.autograd import by_values
from otkit.autograd.adjoint import Pullback, Term, implicit, unrolled, without_massless
from otkit.autograd.by_values import ByPlan, row_sums
from otkit.autograd.gauge import without_gauge
from otkit.autograd.inputs import Gradients, by_input
from otkit.entropic.dual import Potentials
from otkit.errors import NotConverged, warn
from otkit.problems.linear import LinearProblem
from otkit.results.gauge import gauged
from otkit.results.result import Result
from otkit.results.solved import readable
from otkit.results.values import dual, objective

# Relative tolerance of the linear systems: this fraction of the tolerance of the solve, and at least the floor.
_FRACTION, _FLOOR = 1e-3, 1e-12

VALUES = ("value", "value_linear", "value_reg", "value_marginal", "value_dual")
OUTPUTS = (*VALUES, "plan", "f", "g")
# The mean of the two potentials of a measure with itself, of which the divergence is made.
_FIELDS = (*OUTPUTS, "own")


@arrays.eager
def vjp(result: Result, *, strict: bool = False, **cotangents: Any) -> Gradients:
    """Gradients of a function of a result by the inputs of its solve, from its derivatives by fields of the result.

    Parameters
    ----------
    result : Result
    strict : bool
        Raise `NotConverged` in place of the warning about the linear system.
    **cotangents : float or array
        The derivatives of the function by fields of the result, each of the shape of its field: ``value``,
        ``value_linear``, ``value_reg``, ``value_marginal``, ``value_dual``, ``plan``, ``f``, ``g``. A single number
        applies to all entries. The gauge of the potentials is that of `Result.f` and `Result.g`.

    Returns
    -------
    Gradients

    Raises
    ------
    ValueError, TypeError
        If a name is not one of these, a shape does not fit, or the derivative does not exist: of the plan and the
        potentials of a problem without a `reg`, and by the points of a metric that is a callable.
    NotConverged
        If `strict` and the linear system of the gradient was not solved.

    Warns
    -----
    ConvergenceWarning
        If the solve or the linear system of the gradient did not converge: the gradient is then approximate.

    Notes
    -----
    Values are differentiated by the envelope theorem, the plan and the potentials by the implicit function theorem
    (Luise et al. 2018; Eisenberger et al. 2022). The linear system is solved by conjugate gradients, preconditioned by
    the sparse matrix of Sinkhorn-Newton-Sparse where they are slow. ``Sinkhorn(n_iters=…)`` is differentiated through
    its iterations.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> result = otkit.solve(np.array([[0.0, 1.0], [1.0, 0.0]]), reg=0.5, tol=1e-12)
    >>> otkit.vjp(result, plan=np.array([[1.0, 0.0], [0.0, 0.0]])).C.round(6)
    array([[-0.052497,  0.052497],
           [ 0.052497, -0.052497]])
    """
    if result.whole is not None:
        raise ValueError("vjp does not apply to partial transport; pass tensors of PyTorch, and take their gradients")
    unknown = sorted(set(cotangents) - set(OUTPUTS))
    if unknown:
        raise TypeError(f"vjp takes cotangents of {', '.join(OUTPUTS)}, got {', '.join(unknown)}")
    given = {name: _inside(result, name, value) for name, value in cotangents.items() if value is not None}
    if not given:
        raise TypeError("vjp needs the derivative by at least one field, got none; pass one, such as value=1.0")
    return gradients(result, given, [], frozenset(result.problem.given.by_name), strict)


Product = tuple[Array, Array]


def field_gradients(
    result: Result, name: str, cotangent: Array, parts: tuple[Array, ...], wanted: frozenset[str], strict: bool
) -> Gradients:
    """Gradients of `wanted` inputs, from the cotangent of a field; `parts` has the vectors that the plan multiplies."""
    if name in _FIELDS:
        return gradients(result, {name: _inside(result, name, cotangent)}, [], wanted, strict)
    n, m = result.problem.reduced.n, result.problem.reduced.m
    on_rows = name in ("rows", "apply")
    given = result.problem.columns(cotangent, n if on_rows else m, name)[0]
    if parts:
        other = result.problem.columns(parts[0], m if on_rows else n, name)[0]
    else:
        other = from_numpy(np.ones((given.shape[0], m if on_rows else n, 1)), given)
    return gradients(result, {}, [(given, other) if on_rows else (other, given)], wanted, strict)


def gradients(
    result: Result, given: dict[str, Array], products: list[Product], wanted: frozenset[str], strict: bool
) -> Gradients:
    """Gradients of `wanted` inputs, from cotangents ``(B, …)`` of fields and cotangents ``Σ_k U_ik·V_jk`` of the plan.

    The latter are given as pairs of arrays ``(B, n, k)`` and ``(B, m, k)``.
    """
    readable(result)
    _combine(result, given)
    rule = _unregularised if result.outcome.reg is None else _regularised
    return rule(result, given, products, Pullback.of(result.problem, wanted, strict))


def _inside(result: Result, name: str, value: Any) -> Array:
    """A cotangent in the internal form, ``(B, …)``."""
    problem = result.problem
    n, m = problem.reduced.n, problem.reduced.m
    shape = (*problem.batch, *{"plan": (n, m), "f": (n,), "g": (m,), "own": (n,)}.get(name, ()))
    value = checks.as_array(value, f"the cotangent of {name}", problem.like)
    value = float64(problem.inside(arrays.detached(value)))
    if value.ndim and tuple(value.shape) != shape:
        raise ValueError(
            f"the cotangent of {name} must have its shape {shape}, got {tuple(value.shape)}; a number stands for all"
        )
    xp = namespace(value)
    return xp.reshape(xp.broadcast_to(value, shape), (problem.items, *shape[len(problem.batch) :]))


def _combine(result: Result, given: dict[str, Array]) -> None:
    """Replace cotangents of values that are sums and differences of others by cotangents of the latter."""
    by_reg, own = given.pop("value_reg", None), given.pop("own", None)
    more = [("value", by_reg), ("value_linear", None if by_reg is None else -by_reg)]
    more += [(name, None if own is None else own / 2) for name in ("f", "g")]
    if result.outcome.counted is None:
        more.append(("value", given.pop("value_dual", None)))
    if ("value_marginal" in given or by_reg is not None) and objective(result).marginal is None:
        given.pop("value_marginal", None)
    elif by_reg is not None:
        more.append(("value_marginal", -by_reg))
    for name, cotangent in more:
        if cotangent is not None:
            given[name] = given[name] + cotangent if name in given else cotangent


def _unregularised(result: Result, given: dict[str, Array], products: list[Product], pull: Pullback) -> Gradients:
    """Gradients of the optimal cost: the plan, and optimal potentials."""
    relaxed = not result.problem.balanced.all()
    names = ("plan", "f", "g") + ("value_linear", "value_marginal") * relaxed
    wrong = [name for name in names if name in given] + ["what follows from the plan"] * bool(products)
    if wrong:
        why = "that of value alone is known" if relaxed else "it changes only in jumps"
        raise ValueError(f"there is no useful gradient of {' and '.join(wrong)} without a reg: {why}; pass a reg")
    f, g = gauged(result)
    if relaxed:
        f, g = by_values.per_weight(result.problem, f, g)
    mass = from_numpy(result.problem.mass, pull.a)
    for cotangent in given.values():
        if relaxed:
            by_values.by_penalties(result, pull, cotangent)
        pull.a, pull.b = (w + (cotangent * mass)[:, None] * v for w, v in ((pull.a, f), (pull.b, g)))
        pull.mass = pull.mass + cotangent * objective(result).linear / mass
        pull.by_plan = pull.by_plan + cotangent * mass
    return by_input(result, pull)


def _regularised(result: Result, given: dict[str, Array], products: list[Product], pull: Pullback) -> Gradients:
    problem, out, xp = result.problem, result.outcome, namespace(pull.a)
    at = _point(result)
    mass = from_numpy(problem.mass, pull.a)
    for name in ("value", "value_linear", "value_dual"):
        if name in given:
            if pull.wants("a", "b"):
                pull.mass = pull.mass + given[name] * _value(result, name) / mass
            given[name] = given[name] * mass
    by_plan = ByPlan([], [], xp.zeros_like(at.reg))
    if "plan" in given:
        pull.mass = pull.mass + xp.sum(given["plan"] * problem.kernels.plan(problem.reduced, at), axis=(-2, -1))
        by_plan.E = given.pop("plan") * mass[:, None, None]
    for U, V in products:
        pull.mass = pull.mass + xp.sum(U * problem.kernels.apply_plan(problem.reduced, at, V), axis=(-2, -1))
        for k in range(U.shape[-1]):
            by_plan.add(mass[:, None] * U[:, :, k], V[:, :, k])
    if "value" in given and out.counted is None:
        by_values.envelope(result, pull, given.pop("value"), at)
    if given or by_plan.U or by_plan.E is not None:
        _by_solve(result, pull, by_plan, given, at)
    if out.short.any():
        k = int(out.short.argmax())
        error, tol = out.error[k], out.tol[k]
        warn(f"gradients are approximate: the solve did not converge (error {error:.2g}, tolerance {tol:.2g})")
    return by_input(result, pull)


def _point(result: Result) -> Potentials:
    """The point of the dual at which a problem with a reg is differentiated."""
    problem, out = result.problem, result.outcome
    at = problem.at(out.f, out.g, out.reg)
    # The plan of a measure with itself is symmetric to the tolerance only. Cotangents that go through it would differ
    # by as much, in directions that the linear system cannot resolve.
    return problem.middle(at) if problem.given.symmetric and out.counted is None else at


def _value(result: Result, name: str) -> Array:
    """A value of a problem with a reg, ``(B,)``."""
    if name == "value_dual":
        return dual(result)
    values = objective(result)
    return values.total if name == "value" else values.linear


def _by_solve(result: Result, pull: Pullback, by_plan: ByPlan, given: dict[str, Array], at: Potentials) -> None:
    """Pull cotangents of the plan and the potentials back through the solve."""
    problem, xp, out = pull.problem, namespace(pull.a), result.outcome
    f_bar, g_bar = given.get("f", xp.zeros_like(at.f)), given.get("g", xp.zeros_like(at.g))
    f_bar, g_bar = without_massless(pull, at, f_bar, g_bar)
    f_bar, g_bar = without_gauge(result, pull, f_bar, g_bar)
    if "value_linear" in given:
        by_values.linear(problem, pull, by_plan, given["value_linear"], at)
    if "value_marginal" in given:
        by_values.marginal(result, pull, by_plan, given["value_marginal"])
    if "value_dual" in given:
        more = by_values.dual(problem, pull, given["value_dual"], at)
        f_bar, g_bar = f_bar + more[0], g_bar + more[1]
    if "value" in given:
        more = by_values.objective(result, pull, by_plan, given["value"], at)
        f_bar, g_bar = f_bar + more[0], g_bar + more[1]
    if by_plan.U or by_plan.E is not None:
        more = _through_plan(problem, pull, by_plan, at)
        f_bar, g_bar = f_bar + more[0], g_bar + more[1]
    if out.counted is not None:
        unrolled(pull, *out.counted, f_bar, g_bar)
        return
    rtol = max(_FLOOR, _FRACTION * float(out.tol.min()))
    hard = any(stage.newton_steps for stage in out.stages)
    residual = implicit(pull, at, f_bar, g_bar, rtol, hard=hard).residual
    if residual.max() > max(1e2 * rtol, float(out.tol.max())):
        message = (
            f"gradients are approximate: their linear system ended with a relative residual of {residual.max():.2g}, "
            f"above {rtol:.2g}; a larger reg makes it easier, and value needs none"
        )
        if pull.strict:
            raise NotConverged(message, result)
        warn(message)


def _through_plan(problem: LinearProblem, pull: Pullback, by: ByPlan, at: Potentials) -> tuple[Array, Array]:
    """Pull back from the plan to potentials, costs, weights and reg; returns the cotangents of the potentials."""
    xp, reg = namespace(pull.a), at.reg[:, None]
    nothing_U, nothing_V = (v[:, :, None] * 0.0 for v in (at.f, at.g))
    U, V = (xp.stack(v, axis=-1) if v else zero for v, zero in ((by.U, nothing_U), (by.V, nothing_V)))
    term = Term(at, U, V, by.slope, by.E)
    # Sums over the plan per weight, defined also for points without weight.
    unit_a = row_sums(problem.kernels, problem.reduced, replace(term, at=replace(at, log_a=at.f * 0.0)), 0)
    unit_b = row_sums(problem.kernels, problem.reduced.T, replace(term, at=replace(at, log_b=at.g * 0.0)).T, 0)
    rows, cols = problem.a * unit_a, problem.b * unit_b
    pull.a, pull.b = pull.a + unit_a, pull.b + unit_b
    if pull.wants("reg"):
        paid = xp.sum(row_sums(problem.kernels, problem.reduced, term, 1), axis=-1)
        gained = xp.sum(at.f * rows, axis=-1) + xp.sum(at.g * cols, axis=-1) - paid
        pull.reg = pull.reg - gained / at.reg / at.reg
    E = None if by.E is None else -by.E / reg[:, :, None]
    pull.terms.append(Term(at, -U / reg[:, :, None], V, -by.slope / at.reg, E))
    return rows / reg, cols / reg
