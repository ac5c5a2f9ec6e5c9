"""Vector–Jacobian products of the results of a solve, for arrays of any library.

Every output is an explicit function of the plan, the potentials, the costs and the weights. Differentiating it leaves
cotangents of the potentials. These are pulled back through the fixed point of the iterations, or through the iterations
themselves. The optimal value needs neither: its objective is stationary (envelope theorem).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, float64, from_numpy, log, namespace, to_numpy
from otkit.autograd.adjoint import Pullback, Term, implicit, unrolled, without_massless
from otkit.autograd.inputs import Gradients, by_input
from otkit.entropic.dual import Potentials
from otkit.errors import warn
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import divergence
from otkit.results.gauge import components_with_mass, gauged
from otkit.results.result import Result
from otkit.results.solved import readable
from otkit.results.values import moved, objective

# Relative tolerance of the linear systems: this fraction of the tolerance of the solve, and at least the floor.
_FRACTION, _FLOOR = 1e-3, 1e-12

VALUES = ("value", "value_linear", "value_reg", "value_marginal", "value_dual")
OUTPUTS = (*VALUES, "plan", "f", "g")


@arrays.eager
def vjp(result: Result, **cotangents: Any) -> Gradients:
    """Gradients of a function of a result by the inputs of its solve, from its derivatives by fields of the result.

    Parameters
    ----------
    result : Result
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
    unknown = sorted(set(cotangents) - set(OUTPUTS))
    if unknown:
        raise TypeError(f"vjp takes cotangents of {', '.join(OUTPUTS)}, got {', '.join(unknown)}")
    given = {name: _inside(result, name, value) for name, value in cotangents.items() if value is not None}
    return gradients(result, given, [], frozenset(result.problem.given.by_name))


Product = tuple[Array, Array]


def field_gradients(
    result: Result, name: str, cotangent: Array, parts: tuple[Array, ...], wanted: frozenset[str]
) -> Gradients:
    """Gradients of `wanted` inputs, from the cotangent of a field; `parts` has the vectors that the plan multiplies."""
    if name in OUTPUTS:
        return gradients(result, {name: _inside(result, name, cotangent)}, [], wanted)
    n, m = result.problem.reduced.n, result.problem.reduced.m
    on_rows = name in ("rows", "apply")
    given = result.problem.columns(cotangent, n if on_rows else m, name)[0]
    if parts:
        other = result.problem.columns(parts[0], m if on_rows else n, name)[0]
    else:
        other = from_numpy(np.ones((given.shape[0], m if on_rows else n, 1)), given)
    return gradients(result, {}, [(given, other) if on_rows else (other, given)], wanted)


def gradients(result: Result, given: dict[str, Array], products: list[Product], wanted: frozenset[str]) -> Gradients:
    """Gradients of `wanted` inputs, from cotangents ``(B, …)`` of fields and cotangents ``Σ_k U_ik·V_jk`` of the plan.

    The latter are given as pairs of arrays ``(B, n, k)`` and ``(B, m, k)``.
    """
    readable(result)
    _combine(result, given)
    rule = _unregularised if result.outcome.reg is None else _regularised
    return rule(result, given, products, Pullback.of(result.problem, wanted))


def _inside(result: Result, name: str, value: Any) -> Array:
    """A cotangent in the internal form, ``(B, …)``."""
    problem = result.problem
    n, m = problem.reduced.n, problem.reduced.m
    shape = (*problem.batch, *{"plan": (n, m), "f": (n,), "g": (m,)}.get(name, ()))
    value = checks.as_array(value, f"the cotangent of {name}", problem.like)
    value = float64(problem.inside(arrays.detached(value)))
    if value.ndim and tuple(value.shape) != shape:
        raise ValueError(f"the cotangent of {name} must have its shape {shape}, got {tuple(value.shape)}")
    xp = namespace(value)
    return xp.reshape(xp.broadcast_to(value, shape), (problem.items, *shape[len(problem.batch) :]))


def _combine(result: Result, given: dict[str, Array]) -> None:
    """Replace cotangents of values that are sums and differences of others by cotangents of the latter."""
    by_reg, by_dual = given.pop("value_reg", None), given.pop("value_dual", None)
    if by_dual is not None and result.outcome.counted is not None:
        raise ValueError("value_dual of a fixed number of iterations has no gradient here; use value, or a tolerance")
    more = [("value", by_dual), ("value", by_reg), ("value_linear", None if by_reg is None else -by_reg)]
    if objective(result).marginal is None:
        given.pop("value_marginal", None)
    elif by_reg is not None:
        more.append(("value_marginal", -by_reg))
    for name, cotangent in more:
        if cotangent is not None:
            given[name] = given[name] + cotangent if name in given else cotangent


def _unregularised(result: Result, given: dict[str, Array], products: list[Product], pull: Pullback) -> Gradients:
    """Gradients of the optimal cost: the plan, and optimal potentials."""
    wrong = [name for name in ("plan", "f", "g") if name in given] + ["what follows from the plan"] * bool(products)
    if wrong:
        raise ValueError(
            f"there is no useful gradient of {' and '.join(wrong)} without a reg: it changes only in jumps; pass a reg"
        )
    f, g = gauged(result)
    mass = from_numpy(result.problem.mass, pull.a)
    for cotangent in given.values():
        pull.a, pull.b = (w + (cotangent * mass)[:, None] * v for w, v in ((pull.a, f), (pull.b, g)))
        pull.mass = pull.mass + cotangent * objective(result).linear / mass
        pull.by_plan = pull.by_plan + cotangent * mass
    return by_input(result, pull)


def _regularised(result: Result, given: dict[str, Array], products: list[Product], pull: Pullback) -> Gradients:
    problem, out, xp = result.problem, result.outcome, namespace(pull.a)
    at = problem.at(out.f, out.g, out.reg)
    mass = from_numpy(problem.mass, pull.a)
    values = objective(result)
    for name, inner in (("value", values.total), ("value_linear", values.linear)):
        if name in given:
            pull.mass = pull.mass + given[name] * inner / mass
            given[name] = given[name] * mass
    by_plan = _ByPlan([], [], xp.zeros_like(at.reg))
    if "plan" in given:
        pull.mass = pull.mass + xp.sum(given["plan"] * problem.kernels.plan(problem.reduced, at), axis=(-2, -1))
        by_plan.E = given.pop("plan") * mass[:, None, None]
    for U, V in products:
        pull.mass = pull.mass + xp.sum(U * problem.kernels.apply_plan(problem.reduced, at, V), axis=(-2, -1))
        for k in range(U.shape[-1]):
            by_plan.add(mass[:, None] * U[:, :, k], V[:, :, k])
    if "value" in given and out.counted is None:
        _envelope(result, pull, given.pop("value"), at)
    if given or by_plan.U or by_plan.E is not None:
        _by_solve(result, pull, by_plan, given, at)
    if out.short.any():
        k = int(out.short.argmax())
        _warn(f"the solve did not converge (error {out.error[k]:.2g}, tolerance {out.tol[k]:.2g})")
    return by_input(result, pull)


def _warn(why: str) -> None:
    warn(f"gradients are approximate: {why}")


def _given_costs(problem: LinearProblem, at: Potentials) -> tuple[Array, Array]:
    """The potentials in the costs as given."""
    return at.f + problem.reduced.row, at.g + problem.reduced.col


def _divergences(problem: LinearProblem, rows: Array, cols: Array) -> tuple[Array, Array]:
    """KL(P1 | a) and KL(Pᵀ1 | b)."""
    pairs = ((rows, problem.a), (cols, problem.b))
    one, other = (from_numpy(divergence(*(to_numpy(v) for v in pair)), problem.a) for pair in pairs)
    idle_a, idle_b = problem.idle_divergences
    return one + idle_a, other + idle_b


def _where_penalised(rho: Array, value: Array) -> Array:
    """The value where the penalty on a marginal is finite, 0 where the marginal is exact."""
    xp = namespace(rho)
    return xp.where(rho == xp.inf, xp.zeros_like(value), value)


def _envelope(result: Result, pull: Pullback, cotangent: Array, at: Potentials) -> None:
    """Pull back from the optimal value: the derivatives of the objective at a fixed plan (envelope theorem)."""
    problem, xp, sums = pull.problem, namespace(pull.a), moved(result)
    penalties, (f, g) = problem.penalties, _given_costs(problem, at)
    ones = [xp.ones_like(v)[:, :, None] for v in (f, g)]
    pull.terms.append(Term(at, cotangent[:, None, None] * ones[0], ones[1]))
    pull.reg = pull.reg + cotangent * objective(result).reg / from_numpy(problem.mass, f) / at.reg
    divergences = _divergences(problem, sums.row, sums.col)
    pull.rho_a = pull.rho_a + cotangent * _where_penalised(penalties.rho_a, divergences[0])
    pull.rho_b = pull.rho_b + cotangent * _where_penalised(penalties.rho_b, divergences[1])
    total_a, total_b = problem.totals
    unit_a, unit_b = ones[0][:, :, 0], ones[1][:, :, 0]
    if not problem.balanced.all() and pull.wants("a", "b"):
        # Mass per weight, Σ_j P_ij/a_i, defined also for points without weight.
        unit_a = problem.kernels.apply_plan(problem.reduced, replace(at, log_a=f * 0.0), ones[1])[:, :, 0]
        unit_b = problem.kernels.apply_plan(problem.reduced.T, replace(at, log_b=g * 0.0).T, ones[0])[:, :, 0]
    for name, v, unit, rho, other in (
        ("a", f, unit_a, penalties.rho_a, total_b),
        ("b", g, unit_b, penalties.rho_b, total_a),
    ):
        exact = (rho == xp.inf)[:, None]
        # For an exact marginal, the derivative by the weight is the potential itself.
        paid = xp.where(exact, v, xp.where(exact, 0.0, rho[:, None]) * (1 - unit))
        slope = paid + at.reg[:, None] * (other[:, None] - xp.where(exact, 1.0, unit))
        setattr(pull, name, getattr(pull, name) + cotangent[:, None] * slope)


@dataclass
class _ByPlan:
    """The cotangent of the plan: ``Σ_r U_ir·V_jr + slope·C_ij + E_ij`` with reduced costs C."""

    U: list[Array]
    V: list[Array]
    slope: Array
    E: Array | None = None

    def add(self, u: Array, v: Array) -> None:
        """Add the product u_i·v_j."""
        self.U.append(u)
        self.V.append(v)


def _by_solve(result: Result, pull: Pullback, by_plan: _ByPlan, given: dict[str, Array], at: Potentials) -> None:
    """Pull cotangents of the plan and the potentials back through the solve."""
    problem, xp, out = pull.problem, namespace(pull.a), result.outcome
    f_bar, g_bar = given.get("f", xp.zeros_like(at.f)), given.get("g", xp.zeros_like(at.g))
    f_bar, g_bar = without_massless(pull, at, f_bar, g_bar)
    f_bar, g_bar = _without_gauge(result, pull, f_bar, g_bar)
    if "value_linear" in given:
        _linear(problem, pull, by_plan, given["value_linear"], at)
    if "value_marginal" in given:
        _marginal(result, pull, by_plan, given["value_marginal"])
    if "value" in given:
        more = _objective(result, pull, by_plan, given["value"], at)
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
        _warn(f"their linear system ended with a relative residual of {residual.max():.2g}")


def _linear(problem: LinearProblem, pull: Pullback, by_plan: _ByPlan, cotangent: Array, at: Potentials) -> None:
    """Pull back from ⟨C, P⟩."""
    costs, one, other = problem.reduced, at.f * 0.0 + 1.0, at.g * 0.0 + 1.0
    scaled = cotangent[:, None]
    pull.terms.append(Term(at, (scaled * one)[:, :, None], other[:, :, None]))
    by_plan.slope = by_plan.slope + cotangent
    by_plan.add(scaled * costs.row, other)
    by_plan.add(scaled * one, costs.col)


def _marginal(result: Result, pull: Pullback, by_plan: _ByPlan, cotangent: Array) -> None:
    """Pull back from ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), where an exact side adds nothing."""
    problem, sums = pull.problem, moved(result)
    penalties, xp = problem.penalties, namespace(pull.a)
    divergences = _divergences(problem, sums.row, sums.col)
    one, other = xp.ones_like(pull.a), xp.ones_like(pull.b)
    idle_a, idle_b = problem.idle or (pull.a * 0.0, pull.b * 0.0)
    for name, w, mass, rho, total, idle in (
        ("a", problem.a, sums.row, penalties.rho_a, divergences[0], idle_a),
        ("b", problem.b, sums.col, penalties.rho_b, divergences[1], idle_b),
    ):
        penalty = (cotangent * _where_penalised(rho, rho))[:, None]
        ratio = xp.where(w > 0, mass / xp.where(w > 0, w, 1.0), xp.where(idle > 0, 0.0, 1.0))
        setattr(pull, name, getattr(pull, name) + penalty * (1 - ratio))
        grown = getattr(pull, f"rho_{name}") + cotangent * _where_penalised(rho, total)
        setattr(pull, f"rho_{name}", grown)
        slope = penalty * xp.where(ratio > 0, log(ratio), 0.0)
        by_plan.add(*((slope, other) if name == "a" else (one, slope)))


def _objective(
    result: Result, pull: Pullback, by_plan: _ByPlan, cotangent: Array, at: Potentials
) -> tuple[Array, Array]:
    """Pull back from the objective at any plan; returns its contribution to the cotangents of the potentials.

    ⟨C, P⟩ + reg·KL(P | a⊗b) equals ⟨f ⊕ g, P⟩ − reg·ΣP + reg·Σa·Σb.
    """
    problem, sums, xp = pull.problem, moved(result), namespace(pull.a)
    (f, g), scaled = _given_costs(problem, at), cotangent[:, None]
    one, other = xp.ones_like(f), xp.ones_like(g)
    by_plan.add(scaled * (f - at.reg[:, None]), other)
    by_plan.add(scaled * one, g)
    total_a, total_b = problem.totals
    pull.reg = pull.reg + cotangent * (total_a * total_b - xp.sum(sums.row, axis=-1))
    pull.a = pull.a + scaled * (at.reg * total_b)[:, None]
    pull.b = pull.b + scaled * (at.reg * total_a)[:, None]
    if not problem.balanced.all():
        _marginal(result, pull, by_plan, cotangent)
    return scaled * sums.row, scaled * sums.col


def _through_plan(problem: LinearProblem, pull: Pullback, by: _ByPlan, at: Potentials) -> tuple[Array, Array]:
    """Pull back from the plan to potentials, costs, weights and reg; returns the cotangents of the potentials."""
    xp, reg = namespace(pull.a), at.reg[:, None]
    nothing_U, nothing_V = (v[:, :, None] * 0.0 for v in (at.f, at.g))
    U, V = (xp.stack(v, axis=-1) if v else zero for v, zero in ((by.U, nothing_U), (by.V, nothing_V)))
    term = Term(at, U, V, by.slope, by.E)
    # Sums over the plan per weight, defined also for points without weight.
    unit_a = _row_sums(problem.kernels, problem.reduced, replace(term, at=replace(at, log_a=at.f * 0.0)), 0)
    unit_b = _row_sums(problem.kernels, problem.reduced.T, replace(term, at=replace(at, log_b=at.g * 0.0)).T, 0)
    rows, cols = problem.a * unit_a, problem.b * unit_b
    pull.a, pull.b = pull.a + unit_a, pull.b + unit_b
    if pull.wants("reg"):
        paid = xp.sum(_row_sums(problem.kernels, problem.reduced, term, 1), axis=-1)
        gained = xp.sum(at.f * rows, axis=-1) + xp.sum(at.g * cols, axis=-1) - paid
        pull.reg = pull.reg - gained / at.reg / at.reg
    E = None if by.E is None else -by.E / reg[:, :, None]
    pull.terms.append(Term(at, -U / reg[:, :, None], V, -by.slope / at.reg, E))
    return rows / reg, cols / reg


def _row_sums(kernels: Kernels, costs: Reduced, term: Term, power: int) -> Array:
    """Σ_j P_ij·C_ij^power·(Σ_r U_ir·V_jr + slope·C_ij + E_ij), in reduced costs: ``(B, n)``."""
    xp, at = namespace(term.U), term.at
    total = xp.sum(term.U * kernels.apply_plan(costs, at, term.V, power), axis=-1)
    if term.slope is not None and xp.any(term.slope != 0):
        ones = xp.ones_like(at.g)[:, :, None]
        total = total + term.slope[:, None] * kernels.apply_plan(costs, at, ones, power + 1)[:, :, 0]
    if term.E is not None:
        C = costs.block(slice(None), slice(None))
        P = kernels.plan(costs, at)
        total = total + xp.sum(P * term.E * xp.where(P > 0, C, 0.0) ** power, axis=-1)
    return total


def _without_gauge(result: Result, pull: Pullback, f_bar: Array, g_bar: Array) -> tuple[Array, Array]:
    """Pull back through the gauge, which makes the weighted means of f and g equal on every connected component."""
    problem, xp = pull.problem, namespace(pull.a)
    f, g = gauged(result)
    for rows, cols in _parts(problem):
        sums = [xp.sum(part * w, axis=-1, keepdims=True) for part, w in ((rows, problem.a), (cols, problem.b))]
        total_a, total_b = (xp.where(v > 0, v, 1.0) for v in sums)
        extra = (xp.sum(rows * f_bar, axis=-1, keepdims=True) - xp.sum(cols * g_bar, axis=-1, keepdims=True)) / 2
        share_a, share_b = rows * problem.a / total_a, cols * problem.b / total_b
        mean_f = xp.sum(share_a * f, axis=-1, keepdims=True)
        mean_g = xp.sum(share_b * g, axis=-1, keepdims=True)
        f_bar, g_bar = f_bar - extra * share_a, g_bar + extra * share_b
        pull.a = pull.a - rows * extra * (f - mean_f) / total_a
        pull.b = pull.b + cols * extra * (g - mean_g) / total_b
    return f_bar, g_bar


def _parts(problem: LinearProblem) -> list[tuple[Array, Array]]:
    """Masks, as numbers, of the rows and columns of each connected component of balanced items."""
    balanced = problem.balanced
    if not balanced.any():
        return []
    shapes = (problem.items, problem.reduced.n), (problem.items, problem.reduced.m)
    if not (problem.forbidden & balanced).any():
        masks = [(np.ones(shape) * balanced[:, None]) for shape in shapes]
        return [(from_numpy(masks[0], problem.a), from_numpy(masks[1], problem.a))]
    parts: list[tuple[Array, Array]] = []
    geometry = problem.reduced.to_numpy()
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    for k in np.flatnonzero(balanced):
        labels = components_with_mass(geometry, int(k), a[k], b[k])
        for label in np.unique(labels[0][a[k] > 0]):
            rows, cols = (np.zeros(shape) for shape in shapes)
            rows[k], cols[k] = (own == label for own in labels)
            parts.append((from_numpy(rows, problem.a), from_numpy(cols, problem.a)))
    return parts
