"""The adjoint of a solve: pull cotangents of the potentials back to costs, weights and penalties.

A half step sets the potential of one side from that of the other, ``f = keep·softmin(C − g)`` with
``keep = ρ/(ρ + reg)``. All its derivatives follow from its conditional plan ``π``, whose rows have mass 1:

    df_i = keep·Σ_j π_ij (dC_ij − dg_j − reg·db_j/b_j) + …

The solution of a converged solve is a fixed point of two half steps. A solve with a fixed number of iterations is a
sequence of half steps. Rows without mass have a conditional plan too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, map_arrays, namespace, take, to_numpy
from otkit.entropic.dual import Potentials
from otkit.linalg.cg import Preconditioner, batched_conjugate_gradients, coupled_preconditioner
from otkit.problems.linear import LinearProblem

# Entries of the scaled plans of all items that are kept in memory between iterations. Larger ones are recomputed each
# time.
_HELD = 2**25
# Share of the free memory of a GPU that they may take, where that is more.
_SHARE = 1 / 4
# Points with less than this fraction of the largest mass of their side are treated as points without mass.
_NOTHING = 1e-60
# Rounding error of a difference, relative to its largest term.
_ROUNDING = 2.0**-48
# Maximum number of iterations of conjugate gradients, and iterations before a preconditioner is computed where the
# solve needed sweeps only.
_MOST, _FEW = 2000, 10
# Fraction of the mass of a row or column that the preconditioner may drop, and fraction of all entries it may have.
_DROP, _SPARSE = 1e-3, 1 / 8


@dataclass(frozen=True)
class Term:
    """A term of the gradient by the costs: ``P_ij·(Σ_r U_ir·V_jr + slope·C_ij + E_ij)`` for the plan P of a point.

    Attributes
    ----------
    at : Potentials
        The point of the dual that gives the plan, in reduced costs.
    U, V : array (B, n, R), (B, m, R)
    slope : array (B,) or None
        The factor of the reduced costs.
    E : array (B, n, m) or None
    symmetric : bool
        Whether the term of a measure with itself is its own transpose.
    """

    at: Potentials
    U: Array
    V: Array
    slope: Array | None = None
    E: Array | None = None
    symmetric: bool = False

    def take(self, items: slice) -> Term:
        """The term of a slice of the items."""
        return map_arrays(lambda x: x[items, ...], self)

    @property
    def inside(self) -> Term:
        """The term without its last row and column."""
        E = None if self.E is None else self.E[:, :-1, :-1]
        return Term(self.at.inside, self.U[:, :-1, :], self.V[:, :-1, :], self.slope, E)

    @property
    def T(self) -> Term:
        """The term for the transposed plan."""
        E = None if self.E is None else namespace(self.E).matrix_transpose(self.E)
        return Term(self.at.T, self.V, self.U, self.slope, E)


@dataclass
class Pullback:
    """Accumulated gradients, at mass 1 and in reduced costs. The rules add to them.

    Attributes
    ----------
    problem : LinearProblem
    wanted : frozenset of str
        Names of the inputs whose gradients are computed. Gradients by other inputs are skipped where they cost a pass
        over the plan.
    terms : list of Term
        Gradient by the costs.
    a, b : array (B, n), (B, m)
        Gradients by the weights, for balanced items up to a constant.
    reg, rho_a, rho_b : array (B,)
        Gradients by the regularisation and the penalties.
    mass : array (B,)
        Gradient by the mass that was divided out of balanced items.
    by_plan : array (B,)
        Coefficient of the plan itself in the gradient by the costs, where the plan is not entropic.
    strict : bool
        Whether a linear system that is not solved is an error.
    """

    problem: LinearProblem
    wanted: frozenset[str]
    a: Array
    b: Array
    reg: Array
    rho_a: Array
    rho_b: Array
    mass: Array
    by_plan: Array
    terms: list[Term] = field(default_factory=list)
    strict: bool = False

    @staticmethod
    def of(problem: LinearProblem, wanted: frozenset[str], strict: bool) -> Pullback:
        """Zero gradients."""
        xp, one = namespace(problem.a), problem.penalties.rho_a
        nothing = [xp.zeros_like(one) for _ in range(5)]
        found = Pullback(problem, wanted, xp.zeros_like(problem.a), xp.zeros_like(problem.b), *nothing)
        found.strict = strict
        return found

    def wants(self, *names: str) -> bool:
        """Whether the gradient by at least one of these inputs is wanted."""
        return not self.wanted.isdisjoint(names)


@dataclass(frozen=True)
class Side:
    """One side of a problem, whose potential a half step sets.

    Attributes
    ----------
    problem : LinearProblem
    transposed : bool
        Whether the side is the columns.
    """

    problem: LinearProblem
    transposed: bool = False

    def half_step(self, pull: Pullback, other: Array, reg: Array, cotangent: Array) -> Array:
        """Pull the cotangent of this side's potential back through the half step that set it from the `other` side's.

        Adds to the gradients in `pull`. Returns the cotangent of the potential of the other side.
        """
        problem, transposed = self.problem, self.transposed
        costs, xp = problem.reduced.T if transposed else problem.reduced, namespace(other)
        log_w, w = (problem.log_a, problem.a) if transposed else (problem.log_b, problem.b)
        offset, rho = (costs.row, problem.penalties.rho_b if transposed else problem.penalties.rho_a)
        keep = problem.penalties.keep(reg)[1 if transposed else 0]
        below = problem.kernels.softmin(costs, other, log_w, reg)
        # Entries of the conditional plan divided by the weights of the other side, which may be zero.
        at = Potentials(below, other, xp.zeros_like(below), xp.zeros_like(other), reg)
        sent = keep[:, None] * cotangent
        reached = problem.kernels.apply_plan(costs.T, at.T, sent[:, :, None])[:, :, 0]
        conditional = replace(at, log_b=log_w)
        term = Term(conditional, sent[:, :, None], xp.ones_like(other)[:, :, None])
        pull.terms.append(term.T if transposed else term)
        by_reg = xp.zeros_like(reg)
        if pull.wants("reg"):
            # f = keep·softmin in the costs as given. In reduced costs the offset is subtracted.
            here = keep[:, None] * (below + offset) - offset
            gained = problem.kernels.apply_plan(costs, conditional, other[:, :, None])[:, :, 0]
            paid = problem.kernels.apply_plan(costs, conditional, xp.ones_like(other)[:, :, None], 1)[:, :, 0]
            by_reg = xp.sum(sent * (here + gained - paid), axis=-1) / reg
        finite = xp.where(rho == xp.inf, xp.ones_like(rho), rho)
        steep = xp.where(rho == xp.inf, xp.zeros_like(rho), reg / (finite + reg) / (finite + reg))
        by_rho = steep * xp.sum((below + offset) * cotangent, axis=-1)
        pull.reg = pull.reg + by_reg
        if transposed:
            pull.a, pull.rho_b = pull.a - reg[:, None] * reached, pull.rho_b + by_rho
        else:
            pull.b, pull.rho_a = pull.b - reg[:, None] * reached, pull.rho_a + by_rho
        return -w * reached


def without_massless(pull: Pullback, at: Potentials, f_bar: Array, g_bar: Array) -> tuple[Array, Array]:
    """Pull back the potentials of points without mass. They depend on the other side, and nothing depends on them."""
    problem, xp = pull.problem, namespace(f_bar)
    none_a, none_b = (w <= _NOTHING * xp.max(w, axis=-1, keepdims=True) for w in (problem.a, problem.b))
    lost_f, lost_g = xp.where(none_a, f_bar, 0.0), xp.where(none_b, g_bar, 0.0)
    f_bar, g_bar = f_bar - lost_f, g_bar - lost_g
    if xp.any(lost_f != 0):
        g_bar = g_bar + Side(problem).half_step(pull, at.g, at.reg, lost_f)
    if xp.any(lost_g != 0):
        f_bar = f_bar + Side(problem, transposed=True).half_step(pull, at.f, at.reg, lost_g)
    # The cotangents that this gives at other points without mass are negligible.
    return xp.where(none_a, 0.0, f_bar), xp.where(none_b, 0.0, g_bar)


def unrolled(pull: Pullback, n_iters: int, last: str, f_bar: Array, g_bar: Array) -> None:
    """Pull back through a fixed number of iterations from zero potentials, which are recomputed."""
    problem, reg = pull.problem, pull.problem.reg
    costs = problem.reduced
    assert reg is not None
    first_rows = last == "cols"
    # The input potential of every half step. The first is zero in the costs as given.
    others = [-costs.col if first_rows else -costs.row]
    for step in range(2 * n_iters - 1):
        update = problem.update_rows if (step % 2 == 0) == first_rows else problem.update_columns
        others.append(update(others[-1], reg))
    sides = Side(problem), Side(problem, transposed=True)
    bars = [f_bar, g_bar]
    for step in reversed(range(2 * n_iters)):
        on = 0 if (step % 2 == 0) == first_rows else 1
        bars[1 - on] = bars[1 - on] + sides[on].half_step(pull, others[step], reg, bars[on])
        bars[on] = bars[on] * 0.0


def implicit(pull: Pullback, at: Potentials, f_bar: Array, g_bar: Array, rtol: float, *, hard: bool) -> Solved:
    """Pull back through the fixed point of the iterations, by the implicit function theorem.

    `hard` says that the solve needed Newton steps. The preconditioner is then computed at once. The potentials of a
    measure with itself must be equal.
    """
    problem, few = pull.problem, 0 if hard else _FEW
    if problem.given.symmetric:
        found = _solve_symmetric(problem, at, (f_bar, g_bar), rtol, few)
    else:
        found = _solve(problem, at, (f_bar, g_bar), rtol, few)
    Side(problem).half_step(pull, at.g, at.reg, found.f)
    Side(problem, transposed=True).half_step(pull, at.f, at.reg, found.g)
    return found


class Solved(NamedTuple):
    """Cotangents ``f (B, n)`` and ``g (B, m)`` of the two half steps, and the steps of the linear systems.

    Residuals are relative to the cotangents that were given: the answer is exact for some that are as close to these.
    """

    f: Array
    g: Array
    residual: np.ndarray
    steps: np.ndarray


def _solve(
    problem: LinearProblem, at: Potentials, bars: tuple[Array, Array], rtol: float, few: int, whole: Array | None = None
) -> Solved:
    """Solve ``f = f̄ − κ·keep_b·g, g = ḡ − πᵀ·keep_a·f`` by the symmetric system of the smaller side.

    With the masses p and q of the plan, ``A = P/√(p⊗q)`` and ``keep_b·g = √q·z`` this system is
    ``(1 − keep_a·keep_b·AᵀA)·z = keep_b·(ḡ/√q − keep_a·Aᵀ(f̄/√p))``. If f̄ and ḡ are differences, ``whole (B, k)`` has
    what they were taken of, divided by the roots of the masses.
    """
    if problem.reduced.n < problem.reduced.m:
        transposed = _solve(_transposed(problem), at.T, bars[::-1], rtol, few, whole)
        return Solved(transposed.g, transposed.f, transposed.residual, transposed.steps)
    f_bar, g_bar = bars
    xp, costs = namespace(f_bar), problem.reduced
    keep_a, keep_b = (keep[:, None] for keep in problem.penalties.keep(at.reg))
    p, q = problem.kernels.marginals(costs, at)
    has_p, has_q = (w > _NOTHING * xp.max(w, axis=-1, keepdims=True) for w in (p, q))
    root_p, root_q = (xp.sqrt(xp.where(has, w, 1.0)) for has, w in ((has_p, p), (has_q, q)))
    log_p, log_q = (xp.where(has, log_w - xp.log(root), -xp.inf) for has, log_w, root in (
        (has_p, at.log_a, root_p), (has_q, at.log_b, root_q)))  # fmt: skip
    scaled = replace(at, log_a=log_p, log_b=log_q)
    forward, backward = _products(problem, scaled)

    own, of_rows = (xp.where(has_q, v, 0.0) for v in (g_bar / root_q, keep_a * backward(f_bar / root_p)))
    whole = xp.concat((own, xp.where(has_p, f_bar / root_p, 0.0)), axis=-1) if whole is None else whole
    rhs = keep_b * (own - of_rows)
    both = keep_a * keep_b
    # Where both marginals are exact, a constant may move between the potentials: the null space of the system.
    constant = from_numpy(problem.balanced & ~problem.forbidden, p)[:, None]
    null = xp.where(has_q & constant, root_q, 0.0)
    null = null / xp.maximum(xp.sqrt(xp.sum(null * null, axis=-1, keepdims=True)), 1e-300)

    def within(v: Array) -> Array:
        return v - null * xp.sum(null * v, axis=-1, keepdims=True)

    # A right side that is the rounding error of its terms is no right side: nothing would reduce its residual.
    rhs, noise = within(rhs), _ROUNDING * xp.max(abs(whole), axis=-1, keepdims=True)
    rhs = xp.where(xp.max(abs(rhs), axis=-1, keepdims=True) > noise, rhs, 0.0)
    found = batched_conjugate_gradients(
        lambda z: within(z - both * backward(forward(z))),
        rhs,
        lambda: _preconditioner(problem, at, (p, q), both[:, 0], null),
        rtol,
        (few, _MOST),
    )
    # Where the matrix is 0 within rounding, steps may make the residual larger than that of z = 0, which is 1.
    z = xp.where(from_numpy(found.residual < 1, rhs)[:, None], found.y, 0.0)
    residual = np.minimum(found.residual, 1.0) * _share_of(rhs, whole)
    f = xp.where(has_p, f_bar - root_p * forward(z), 0.0)
    g = xp.where(has_q, g_bar - root_q * backward(keep_a * f / root_p), 0.0)
    return Solved(f, g, residual, found.steps)


def _share_of(part: Array, whole: Array) -> np.ndarray:
    """The largest entry of each item relative to that of the whole, at most 1: ``(B,)``."""
    sizes = (to_numpy(namespace(v).max(abs(v), axis=-1)) for v in (part, whole))
    one, other = sizes
    return np.minimum(1.0, one / np.where(other > 0, other, 1.0))


def _solve_symmetric(
    problem: LinearProblem, at: Potentials, bars: tuple[Array, Array], rtol: float, few: int
) -> Solved:
    """Solve for equal cotangents of both sides, and for opposite ones, at equal potentials of both sides.

    The system for equal ones, ``(1 + keep·A)·z = f̄/√p``, has no null space. It is well conditioned at any `reg`, where
    that of `_solve`, ``1 − A²``, would lose them among the modes that converge slowly.
    """
    xp, keep = namespace(at.f), problem.penalties.keep(at.reg)[0][:, None]
    equal, opposite = (bars[0] + bars[1]) / 2, (bars[0] - bars[1]) / 2
    p, _ = problem.kernels.marginals(problem.reduced, at)
    has = p > _NOTHING * xp.max(p, axis=-1, keepdims=True)
    root = xp.sqrt(xp.where(has, p, 1.0))
    scaled = replace(at, log_a=(log_p := xp.where(has, at.log_a - xp.log(root), -xp.inf)), log_b=log_p)
    forward, _ = _products(problem, scaled)
    none: list[Preconditioner | None] = [None] * problem.items
    whole = xp.concat([xp.where(has, bar / root, 0.0) for bar in bars], axis=-1)
    rhs = xp.where(has, equal / root, 0.0)
    found = batched_conjugate_gradients(lambda z: z + keep * forward(z), rhs, lambda: none, rtol, (_MOST, _MOST))
    u, residual = xp.where(has, root * found.y, 0.0), found.residual * _share_of(rhs, whole)
    if not xp.any(opposite != 0):
        return Solved(u, u, residual, found.steps)
    # Of equal cotangents this is rounding, which the system cannot tell from a small right side of its own.
    rest = _solve(problem, at, (opposite, -opposite), rtol, few, whole)
    return Solved(u + rest.f, u + rest.g, np.maximum(residual, rest.residual), found.steps + rest.steps)


def _transposed(problem: LinearProblem) -> LinearProblem:
    penalties = problem.penalties
    return replace(
        problem,
        reduced=problem.reduced.T,
        a=problem.b,
        b=problem.a,
        penalties=replace(penalties, rho_a=penalties.rho_b, rho_b=penalties.rho_a),
    )


def _products(problem: LinearProblem, scaled: Potentials) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Products of A and its transpose with vectors ``(B, m)`` and ``(B, n)``; A is stored unless it is too large."""
    costs, xp = problem.reduced, namespace(scaled.f)
    most = max(_HELD, _SHARE * problem.kernels.room(scaled.f) / 8)
    if problem.items * costs.n * costs.m <= most:
        A = problem.kernels.plan(costs, scaled)
        transposed = xp.matrix_transpose(A)
        return (lambda v: (A @ v[:, :, None])[:, :, 0]), (lambda u: (transposed @ u[:, :, None])[:, :, 0])
    return (
        lambda v: problem.kernels.apply_plan(costs, scaled, v[:, :, None])[:, :, 0],
        lambda u: problem.kernels.apply_plan(costs.T, scaled.T, u[:, :, None])[:, :, 0],
    )


def _preconditioner(
    problem: LinearProblem, at: Potentials, masses: tuple[Array, Array], both: Array, null: Array
) -> list[Preconditioner | None]:
    """Factorised sparse Newton matrix of every item, from the entries of A with nearly all mass; None if it is dense.

    The matrix is nearly singular along `null`, which is projected out of the solutions.
    """
    n, m = problem.reduced.n, problem.reduced.m
    made: list[Preconditioner | None] = []
    for k in range(problem.items):
        part, here = problem.take(np.array([k])), take(at, np.array([k]))
        with np.errstate(divide="ignore"):
            log_p, log_q = (np.log(to_numpy(w)[k]) for w in masses)
        # The entries of a row that are below drop/m of its mass sum to at most the fraction drop.
        least = [from_numpy(v[None] + np.log(_DROP / size), at.f) for v, size in ((log_p, m), (log_q, n))]
        found = part.kernels.select(part.reduced, here, least[0], least[1], _SPARSE * n * m)
        if found is None:
            made.append(None)
            continue
        row, col, log_plan = (to_numpy(v) for v in (found.row, found.col, found.log_plan))
        A = np.exp(log_plan - 0.5 * (log_p[row] + log_q[col]))
        inverse = coupled_preconditioner((row, col, A), (n, m), float(both[k]))
        made.append(inverse and _across(inverse, to_numpy(null)[k]))
    return made


def _across(inverse: Preconditioner, null: np.ndarray) -> Preconditioner:
    def across(v: np.ndarray) -> np.ndarray:
        z = inverse(v)
        return z - null * (null @ z)

    return across
