"""Pull cotangents of the values of a result back to its inputs, its plan and its potentials."""

from __future__ import annotations

from dataclasses import dataclass, replace

from otkit import plans
from otkit.arrays import Array, from_numpy, log, namespace, only, to_numpy
from otkit.autograd.adjoint import Pullback, Term
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import divergence
from otkit.results import values
from otkit.results.result import Result


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


def by_penalties(result: Result, pull: Pullback, cotangent: Array) -> None:
    """Pull back from the optimal value to the penalties on the marginals, at a fixed plan."""
    if not pull.wants("rho", "rho_a", "rho_b"):
        return
    penalties = pull.problem.penalties
    divergences = _divergences(pull.problem, *plans.marginals(result.outcome.plan))
    pull.rho_a = pull.rho_a + cotangent * _where_penalised(penalties.rho_a, divergences[0])
    pull.rho_b = pull.rho_b + cotangent * _where_penalised(penalties.rho_b, divergences[1])


def per_weight(problem: LinearProblem, f: Array, g: Array) -> tuple[Array, Array]:
    """Derivatives of the optimal value by weights at mass 1, from optimal potentials in the costs as given."""
    xp, transform = namespace(f), problem.kernels.c_transform
    ends = (
        (f, transform(problem.reduced, only(g * 0.0, problem.b > 0)), problem.penalties.rho_a),
        (g, transform(problem.reduced.T, only(f * 0.0, problem.a > 0)), problem.penalties.rho_b),
    )
    slopes = []
    for v, nearest, rho in ends:
        v = xp.where(nearest < xp.inf, v, xp.inf * xp.ones_like(v))  # a point that no arc reaches stays empty
        left = problem.penalties.target(xp.ones_like(v), v, rho)
        slopes.append(xp.where((rho == xp.inf)[:, None], v, _where_penalised(rho, rho)[:, None] * (1 - left)))
    return slopes[0], slopes[1]


def envelope(result: Result, pull: Pullback, cotangent: Array, at: Potentials) -> None:
    """Pull back from the optimal value: the derivatives of the objective at a fixed plan (envelope theorem)."""
    problem, xp = pull.problem, namespace(pull.a)
    symmetric = problem.given.symmetric
    at = problem.middle(at) if symmetric else at
    penalties, (f, g) = problem.penalties, _given_costs(problem, at)
    ones = [xp.ones_like(v)[:, :, None] for v in (f, g)]
    pull.terms.append(Term(at, cotangent[:, None, None] * ones[0], ones[1], symmetric=symmetric))
    if pull.wants("reg"):
        pull.reg = pull.reg + cotangent * values.objective(result).reg / from_numpy(problem.mass, f) / at.reg
    by_penalties(result, pull, cotangent)
    if not pull.wants("a", "b"):
        return
    total_a, total_b = problem.totals
    unit_a, unit_b = ones[0][:, :, 0], ones[1][:, :, 0]
    if not problem.balanced.all():
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
class ByPlan:
    """The cotangent of the plan: ``Σ_r U_ir·V_jr + slope·C_ij + E_ij`` with reduced costs C."""

    U: list[Array]
    V: list[Array]
    slope: Array
    E: Array | None = None

    def add(self, u: Array, v: Array) -> None:
        """Add the product u_i·v_j."""
        self.U.append(u)
        self.V.append(v)


def dual(problem: LinearProblem, pull: Pullback, cotangent: Array, at: Potentials) -> tuple[Array, Array]:
    """Pull back from the dual at any potentials; returns its contribution to their cotangents."""
    xp, costs, penalties = namespace(pull.a), problem.reduced, problem.penalties
    (f, g), scaled = _given_costs(problem, at), cotangent[:, None]
    ones = [xp.ones_like(v)[:, :, None] for v in (f, g)]
    pull.terms.append(Term(at, scaled[:, :, None] * ones[0], ones[1]))
    unit_a = problem.kernels.apply_plan(costs, replace(at, log_a=f * 0.0), ones[1])[:, :, 0]
    unit_b = problem.kernels.apply_plan(costs.T, replace(at, log_b=g * 0.0).T, ones[0])[:, :, 0]
    total_a, total_b = problem.totals
    rows, cols = problem.a * unit_a, problem.b * unit_b
    paid = xp.sum(problem.a * row_sums(problem.kernels, costs, Term(replace(at, log_a=f * 0.0), *ones), 1), axis=-1)
    entropy = (xp.sum(at.f * rows, axis=-1) + xp.sum(at.g * cols, axis=-1) - paid) / at.reg
    pull.reg = pull.reg + cotangent * (total_a * total_b - xp.sum(rows, axis=-1) + entropy)
    bars = []
    for name, v, w, unit, rho, other in (
        ("a", f, problem.a, unit_a, penalties.rho_a, total_b),
        ("b", g, problem.b, unit_b, penalties.rho_b, total_a),
    ):
        exact, free = (rho == xp.inf)[:, None], (rho == 0)[:, None]
        scale = xp.where(exact | free, 1.0, rho[:, None])
        kept = xp.where(exact, 1.0, xp.where(free, 0.0, xp.exp(-v / scale)))
        earned = xp.where(exact, v, xp.where(free, 0.0, scale * (1 - kept)))
        slope = earned + at.reg[:, None] * (other[:, None] - unit)
        setattr(pull, name, getattr(pull, name) + scaled * slope)
        by_rho = xp.sum(w * xp.where(exact | free, 0.0, 1 - kept * (1 + v / scale)), axis=-1)
        setattr(pull, f"rho_{name}", getattr(pull, f"rho_{name}") + cotangent * by_rho)
        bars.append(scaled * w * (kept - unit))
    return bars[0], bars[1]


def linear(problem: LinearProblem, pull: Pullback, by_plan: ByPlan, cotangent: Array, at: Potentials) -> None:
    """Pull back from ⟨C, P⟩."""
    costs, one, other = problem.reduced, at.f * 0.0 + 1.0, at.g * 0.0 + 1.0
    scaled = cotangent[:, None]
    pull.terms.append(Term(at, (scaled * one)[:, :, None], other[:, :, None]))
    by_plan.slope = by_plan.slope + cotangent
    by_plan.add(scaled * costs.row, other)
    by_plan.add(scaled * one, costs.col)


def marginal(result: Result, pull: Pullback, by_plan: ByPlan, cotangent: Array) -> None:
    """Pull back from ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), where an exact side adds nothing."""
    problem, sums = pull.problem, values.moved(result)
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


def objective(result: Result, pull: Pullback, by_plan: ByPlan, cotangent: Array, at: Potentials) -> tuple[Array, Array]:
    """Pull back from the objective at any plan; returns its contribution to the cotangents of the potentials.

    ⟨C, P⟩ + reg·KL(P | a⊗b) equals ⟨f ⊕ g, P⟩ − reg·ΣP + reg·Σa·Σb.
    """
    problem, sums, xp = pull.problem, values.moved(result), namespace(pull.a)
    (f, g), scaled = _given_costs(problem, at), cotangent[:, None]
    one, other = xp.ones_like(f), xp.ones_like(g)
    by_plan.add(scaled * (f - at.reg[:, None]), other)
    by_plan.add(scaled * one, g)
    total_a, total_b = problem.totals
    pull.reg = pull.reg + cotangent * (total_a * total_b - xp.sum(sums.row, axis=-1))
    pull.a = pull.a + scaled * (at.reg * total_b)[:, None]
    pull.b = pull.b + scaled * (at.reg * total_a)[:, None]
    if not problem.balanced.all():
        marginal(result, pull, by_plan, cotangent)
    return scaled * sums.row, scaled * sums.col


def row_sums(kernels: Kernels, costs: Reduced, term: Term, power: int) -> Array:
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
