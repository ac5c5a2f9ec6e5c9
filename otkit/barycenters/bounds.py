"""Bounds on the optimum over all barycenters on a support, by the dual whose potentials average to 0."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array, from_numpy, log, namespace, to_numpy
from otkit.certificates.base import sides, sum_rounding
from otkit.certificates.penalised import conjugate_rounding
from otkit.entropic.dual import Potentials
from otkit.geometry.costs import UNIT
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import conjugate


def lower_bound(problem: LinearProblem, g: Array, weights: Array) -> np.ndarray:
    """A lower bound on min_b Σ_k w_k·OT(a_k, b) at mass 1, from any potentials of the columns: ``(G,)``.

    For potentials with f_k ⊕ g_k ≤ C, it is Σ_k w_k·⟨a_k, f_k⟩ + min_j Σ_k w_k·g_kj, whatever b is.
    """
    if not problem.balanced.all():
        return _penalised(problem, g, weights)
    g = _centred(problem, g, weights)
    return _dual(problem, problem.kernels.c_transform(problem.reduced, g), g, weights)


def _centred(problem: LinearProblem, g: Array, weights: Array) -> Array:
    """The potentials less their weighted mean, which is then 0 in the costs as given."""
    xp, size = namespace(g), (*weights.shape, g.shape[-1])
    mean = xp.sum(weights[:, :, None] * xp.reshape(g + problem.reduced.col, size), axis=1, keepdims=True)
    return g - xp.reshape(xp.broadcast_to(mean, size), g.shape)


def _penalised(problem: LinearProblem, g: Array, weights: Array) -> np.ndarray:
    """The same with penalties: Σ_k w_k·ρ_a·⟨a_k, 1 − e^(−f_k/ρ_a)⟩ at mass as given, where Σ_k w_k·e^(−g_k/ρ_b) ≤ 1.

    A shift of all g_k makes any potentials feasible.
    """
    w, costs = to_numpy(weights), problem.reduced
    a, _, row, _ = sides(problem)
    rho_a, rho_b = to_numpy(problem.penalties.rho_a), to_numpy(problem.penalties.rho_b).reshape(w.shape)[:, :1, None]
    v = (to_numpy(g) + to_numpy(costs.col)).reshape(*w.shape, -1)
    counted = np.where(w[:, :, None] > 0, v, np.inf)
    least, scale = counted.min(1, keepdims=True), np.where(rho_b < np.inf, rho_b, 1.0)
    soft = least - scale * np.log((w[:, :, None] * np.exp((least - counted) / scale)).sum(1, keepdims=True))
    shift = np.where(rho_b < np.inf, soft, (w[:, :, None] * v).sum(1, keepdims=True))
    v = (v - shift).reshape(g.shape)
    f = to_numpy(problem.kernels.c_transform(costs, from_numpy(v, g) - costs.col))
    size = sum(abs(u).max(-1) for u in (np.where(a > 0, f, 0.0), row, v, 2 * to_numpy(costs.col)))
    relative, absolute = problem.geometry.rounding
    # What rounding may add to a sum f + g, or to the mean of the exponentials, is taken from f.
    error = (sum_rounding(costs.n + costs.m) + 8 * UNIT + relative) * (size + problem.span) + absolute
    side = (f + row - error[:, None], a, rho_a)
    return (w * (conjugate(*side) - conjugate_rounding(*side)).reshape(w.shape)).sum(-1)


def _dual(problem: LinearProblem, f: Array, g: Array, weights: Array) -> np.ndarray:
    """Σ_k w_k·⟨a_k, f_k⟩ + min_j Σ_k w_k·g_kj in the costs as given, less what rounding can do: ``(G,)``."""
    w, costs = to_numpy(weights), problem.reduced
    a, _, row, _ = sides(problem)
    f, g, col = to_numpy(f), to_numpy(g), to_numpy(costs.col)
    level = (w[:, :, None] * (g + col).reshape(*w.shape, -1)).sum(1).min(-1)
    held = (a * (np.where(a > 0, f, 0.0) + row)).sum(-1)
    size = (a * (abs(np.where(a > 0, f, 0.0)) + abs(row))).sum(-1) + abs(g).max(-1) + abs(col).max(-1)
    relative, absolute = problem.geometry.rounding
    error = (sum_rounding(costs.n + costs.m) + 8 * UNIT + relative) * (size + problem.span) + absolute
    return (w * (held - error).reshape(w.shape)).sum(-1) + level


def excess(problem: LinearProblem, g: Array, weights: Array) -> tuple[np.ndarray, np.ndarray]:
    """The dual value of the entropic barycenter, and a bound on its distance from the optimum: ``(G,)`` at mass 1.

    The columns of `problem` are the barycenter. The plans of potentials have exact rows. Their columns are cut to the
    barycenter, and the missing mass δ is moved by the product of what rows and columns lack. By convexity, the
    objective of the sum is at most the mean of those of the two parts, scaled to mass 1, with weights 1 − δ and δ.
    """
    xp, costs, kernels, b, reg = namespace(g), problem.reduced, problem.kernels, problem.b, problem.reg
    assert reg is not None
    g, log_r = _centred(problem, g, weights), xp.full_like(g, -np.log(costs.m))
    f = kernels.softmin(costs, g, log_r, reg)
    w = to_numpy(weights)
    dual = _dual(problem, f, g, weights)
    sums = kernels.marginals(costs, Potentials(f, g, problem.log_a, log_r, reg))[1]
    cut = xp.minimum(b / xp.where(sums > 0, sums, 1.0), xp.ones_like(sums))
    lowered = g + reg[:, None] * log(xp.where(cut > 0, cut, 1.0))
    part = Potentials(f, lowered, problem.log_a, xp.where(cut > 0, log_r, -xp.inf), reg)
    rows, cols = kernels.marginals(costs, part)
    kept = to_numpy(xp.sum(f * rows, axis=-1) + xp.sum(lowered * cols, axis=-1))
    lack_a, lack_b = (to_numpy(xp.maximum(v, xp.zeros_like(v))) for v in (problem.a - rows, b - cols))
    moved, eps = lack_b.sum(-1), to_numpy(reg)
    log_a = np.where(to_numpy(problem.a) > 0, to_numpy(problem.log_a), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sum(
            np.where(lack > 0, lack * (np.log(lack / moved[:, None]) - log_w), 0.0).sum(-1)
            for lack, log_w in ((lack_a, log_a), (lack_b, to_numpy(log_r)))
        )
    # (1 − δ)·F(A/(1 − δ)) + δ·F(B/δ), with costs of B at most the span
    primal = kept - eps * (1 - moved) * np.log1p(-np.minimum(moved, 0.5)) + moved * problem.span + eps * spread
    a, _, row, _ = sides(problem)
    col = to_numpy(costs.col)
    offset = (a * row).sum(-1) + (to_numpy(b) * col).sum(-1)
    primal = (w * (primal + offset).reshape(w.shape)).sum(-1)
    primal = np.where((moved.reshape(w.shape) <= 0.5).all(-1), primal, np.inf)
    error = 2 * sum_rounding(costs.n + costs.m) * (w * (abs(kept) + problem.span).reshape(w.shape)).sum(-1)
    return dual, primal - dual + error
