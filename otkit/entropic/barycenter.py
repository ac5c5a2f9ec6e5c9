"""Iterations whose plans share their column sums: those of an entropic barycenter on a fixed support.

Items are measures, of which K successive ones have one barycenter. Its weights b are unknown, and the potentials g_k
are relative to the uniform weights r on the support. Iterations maximise the dual Σ_k w_k·⟨a_k, f_k⟩ subject to
Σ_k w_k·g_k = 0 over one side and the other in turns (Benamou et al. 2015). f_k is a soft minimum. If the potentials t_k
would make the column sums r, they agree for g_k = t_k − Σ_l w_l·t_l, and log(b/r) = −Σ_l w_l·t_l/reg. A debiased
barycenter adds its potential with itself, `own`, to both, which has a symmetric iteration (Janati, Cuturi & Gramfort
2020).

With penalties ρ_a·KL(P_k1 | a_k) and ρ_b·KL(P_kᵀ1 | b), the least ρ_b·⟨b, 1 − Σ_k w_k·e^(−g_k/ρ_b)⟩ over b is −∞ unless
Σ_k w_k·e^(−g_k/ρ_b) ≤ 1, which takes the place of Σ_k w_k·g_k = 0 (Chizat et al. 2018). The multipliers of this
constraint are b: the best g_k are ρ_b/(ρ_b + reg)·(t_k + reg·log(b/r)), with reg·log(b/r) = (ρ_b + reg)·log Σ_k
w_k·e^(−t_k/(ρ_b + reg)). For fixed b there is a best constant in f_k + τ, g_k − τ, as in `otkit.entropic.sinkhorn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from otkit.arrays import Array, exp, finite_or_zero, log, namespace
from otkit.entropic.anderson import Mixing, mix
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.sinkhorn import Softmin
from otkit.geometry.base import Geometry
from otkit.geometry.reduced import Reduced


@dataclass(frozen=True)
class Measures:
    """What the iterations of G barycenters of K measures each are about.

    Attributes
    ----------
    costs : Reduced
        The costs from every measure to the support.
    support : Geometry or None
        The costs between the points of the support, if barycenters are debiased.
    due : array of bool (G,)
        Which of them are debiased now.
    weights : array (G, K)
        The weights of the measures, which sum to 1.
    softmin : callable
        The operation.
    penalties : Penalties
        The penalties on the marginals of each plan.
    far : array of bool (G·K,)
        Which of them are far above the costs: sweeps change the constant in the potentials too slowly then.
    """

    costs: Reduced
    support: Geometry | None
    due: Array
    weights: Array
    softmin: Softmin
    penalties: Penalties
    far: Array


class Average(NamedTuple):
    """Result of an iteration of G barycenters of K measures each.

    Attributes
    ----------
    f, g : array (G·K, n), (G·K, m)
        The potentials of the rows, and the new ones of the columns.
    raised : array (G·K, m)
        The potentials of the columns relative to the new barycenter in place of r: their plans have its weights.
    own : array (G, m)
        The potential of the barycenter with itself; 0 without `debias`.
    b : array (G, m)
        Its weights: the mean of the column sums of the plans of `f` and the old g. Their geometric mean is that of the
        formula above, and may vanish everywhere before they agree.
    error : array (G,)
        The largest L1 distance of such column sums from these weights.
    """

    f: Array
    g: Array
    raised: Array
    own: Array
    b: Array
    error: Array


def iterate(of: Measures, at: Potentials, own: Array) -> Average:
    """One iteration from ``at.g``; ``at.log_b`` is log r."""
    costs, weights, softmin = of.costs, of.weights, of.softmin
    xp, (groups, count), m = namespace(at.g), weights.shape, at.g.shape[-1]
    keep_a, keep_b = (keep[:, None] for keep in of.penalties.keep(at.reg))
    f = keep_a * softmin(costs, at.g, at.log_b, at.reg) - (1 - keep_a) * costs.row
    raised = softmin(costs.T, f, at.log_a, at.reg)
    mean = _common(of, xp.reshape(raised + costs.col, (groups, count, m)), at.reg)
    reg, log_r = xp.reshape(at.reg, (groups, count))[:, :1], xp.reshape(at.log_b, (groups, count, m))[:, 0, :]
    sums = xp.reshape(exp((at.g - raised) / at.reg[:, None] + at.log_b), (groups, count, m))
    b = xp.sum(weights[:, :, None] * sums, axis=1)
    each = xp.reshape(xp.broadcast_to(b[:, None, :], sums.shape), at.g.shape)
    wanted = xp.reshape(of.penalties.target(each, at.g + costs.col, of.penalties.rho_b), sums.shape)
    total = xp.reshape(xp.sum(exp(at.log_a), axis=-1), (groups, count))
    error = xp.max(xp.sum(xp.abs(sums - wanted), axis=-1) / total, axis=-1)
    shift = xp.broadcast_to((own - mean)[:, None, :], (groups, count, m))
    if of.support is not None and xp.any(of.due):
        alone = softmin(of.support, own, log_r, reg[:, 0])
        miss = xp.sum(xp.abs(exp((own - alone) / reg + log_r) - b), axis=-1)
        own = xp.where(of.due[:, None], own + (alone - mean) / 2, own)
        error = xp.where(of.due, xp.maximum(error, miss), error)
    level = xp.reshape(xp.broadcast_to(mean[:, None, :], sums.shape), at.g.shape) - costs.col
    new = keep_b * (raised + xp.reshape(shift, at.g.shape)) - (1 - keep_b) * costs.col
    if xp.any(of.far):
        sent = xp.sum(of.penalties.target(exp(at.log_a), f + costs.row, of.penalties.rho_a), axis=-1)
        received = xp.sum(of.penalties.target(each, new + costs.col, of.penalties.rho_b), axis=-1)
        move = of.penalties.coupling() * finite_or_zero(log(sent) - log(received))
        new = xp.where(of.far[:, None], new - move[:, None], new)
    return Average(f, new, keep_b * raised + (1 - keep_b) * level, own, b, error)


def _common(of: Measures, t: Array, reg: Array) -> Array:
    """reg·log(r/b) for the potentials ``t (G, K, m)`` that would make the column sums r: ``(G, m)``."""
    xp, w = namespace(t), of.weights[:, :, None]
    rho, eps = (xp.reshape(v, of.weights.shape)[:, :1] for v in (of.penalties.rho_b, reg))
    exact = rho == xp.inf
    scale = xp.where(exact, 1.0, rho + eps)
    counted = xp.where(w > 0, t, xp.inf)
    least = xp.min(counted, axis=1)
    soft = least - scale * log(xp.sum(w * exp((least[:, None, :] - counted) / scale[:, :, None]), axis=1))
    return xp.where(exact, xp.sum(w * t, axis=1), soft)


def begin_mixing(point: Array, own: Array, groups: int, reach: Array, window: int) -> Mixing:
    """An empty history of the potentials of all measures of a barycenter, and its own."""
    return Mixing.begin(_joined(point, own, groups), reach, window)


def _joined(point: Array, own: Array, groups: int) -> Array:
    xp = namespace(point)
    return xp.concat((xp.reshape(point, (groups, -1)), own), axis=-1)


class Swept(NamedTuple):
    """Result of `sweep`: the last iteration, the points to continue from, the numbers of iterations, the history."""

    last: Average
    point: Array
    own: Array
    count: Array
    mixing: Mixing


def sweep(of: Measures, at: Potentials, own: Array, mixing: Mixing, tol: Array, limit: Array) -> Swept:
    """Iterations of each barycenter until its error is at most ``tol (G,)``, at most ``limit (G,)`` of them."""
    xp, (groups, count), m = namespace(at.g), of.weights.shape, at.g.shape[-1]
    size, last = groups * count, None
    penalised = bool(xp.any(of.penalties.coupling() > 0))
    point, done, active = _joined(at.g, own, groups), xp.zeros_like(tol), limit > 0
    while xp.any(active):
        g, own = xp.reshape(point[:, :-m], (size, m)), point[:, -m:]
        here = Potentials(at.f, g, at.log_a, at.log_b, at.reg)
        new = iterate(of, here, own)
        if last is not None:
            each = xp.reshape(xp.broadcast_to(active[:, None], (groups, count)), (size,))
            new = Average(*(_where(active if len(v) == groups else each, v, u) for v, u in zip(new, last, strict=True)))
        last, done = new, xp.where(active, done + 1, done)
        short = active & (new.error > tol)
        each = xp.reshape(of.weights[:, :, None] * new.b[:, None, :], (groups, -1))
        weight = xp.concat((each, new.b), axis=-1)
        after = _joined(new.g, new.own, groups)
        following, mixing = mix(mixing, point, after, new.error, weight, balanced=not penalised)
        point = xp.where(short[:, None], following, xp.where(active[:, None], after, point))
        active = short & (done < limit)
    assert last is not None
    return Swept(last, xp.reshape(point[:, :-m], (size, m)), point[:, -m:], done, mixing)


def _where(mask: Array, x: Array, y: Array) -> Array:
    """`x` for the rows of the mask, else `y`."""
    return namespace(x).where(mask[:, None] if x.ndim == 2 else mask, x, y)
