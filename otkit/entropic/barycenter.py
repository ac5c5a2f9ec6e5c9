"""Iterations whose plans share their column sums: those of an entropic barycenter on a fixed support.

Items are measures, of which K successive ones have one barycenter. Its weights b are unknown, and the potentials g_k
are relative to the uniform weights r on the support. Iterations maximise the dual Σ_k w_k·⟨a_k, f_k⟩ subject to
Σ_k w_k·g_k = 0 over one side and the other in turns (Benamou et al. 2015). f_k is a soft minimum. If the potentials t_k
would make the column sums r, they agree for g_k = t_k − Σ_l w_l·t_l, and log(b/r) = −Σ_l w_l·t_l/reg. A debiased
barycenter adds its potential with itself, `own`, to both, which has a symmetric iteration (Janati, Cuturi & Gramfort
2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from otkit.arrays import Array, exp, namespace
from otkit.entropic.anderson import Mixing, mix
from otkit.entropic.dual import Potentials
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
    """

    costs: Reduced
    support: Geometry | None
    due: Array
    weights: Array
    softmin: Softmin


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
    f = softmin(costs, at.g, at.log_b, at.reg)
    raised = softmin(costs.T, f, at.log_a, at.reg)
    mean = xp.sum(weights[:, :, None] * xp.reshape(raised + costs.col, (groups, count, m)), axis=1)
    reg, log_r = xp.reshape(at.reg, (groups, count))[:, :1], xp.reshape(at.log_b, (groups, count, m))[:, 0, :]
    sums = xp.reshape(exp((at.g - raised) / at.reg[:, None] + at.log_b), (groups, count, m))
    b = xp.sum(weights[:, :, None] * sums, axis=1)
    error = xp.max(xp.sum(xp.abs(sums - b[:, None, :]), axis=-1), axis=-1)
    shift = xp.broadcast_to((own - mean)[:, None, :], (groups, count, m))
    if of.support is not None and xp.any(of.due):
        alone = softmin(of.support, own, log_r, reg[:, 0])
        miss = xp.sum(xp.abs(exp((own - alone) / reg + log_r) - b), axis=-1)
        own = xp.where(of.due[:, None], own + (alone - mean) / 2, own)
        error = xp.where(of.due, xp.maximum(error, miss), error)
    return Average(f, raised + xp.reshape(shift, at.g.shape), raised, own, b, error)


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
        following, mixing = mix(mixing, point, after, new.error, weight)
        point = xp.where(short[:, None], following, xp.where(active[:, None], after, point))
        active = short & (done < limit)
    assert last is not None
    return Swept(last, xp.reshape(point[:, :-m], (size, m)), point[:, -m:], done, mixing)


def _where(mask: Array, x: Array, y: Array) -> Array:
    """`x` for the rows of the mask, else `y`."""
    return namespace(x).where(mask[:, None] if x.ndim == 2 else mask, x, y)
