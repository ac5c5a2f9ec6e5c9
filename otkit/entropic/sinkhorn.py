"""The Sinkhorn iteration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.arrays import Array, exp, finite_or_zero, log, namespace
from otkit.entropic.anderson import Mixing, mix
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import softmin
from otkit.geometry.reduced import Reduced


class Iterate(NamedTuple):
    """What `iterate` returns: the potential of the rows, the next one of the columns, and the error before that."""

    f: Array
    g: Array
    error: Array


def iterate(costs: Reduced, at: Potentials, penalties: Penalties) -> Iterate:
    """One Sinkhorn iteration from ``at.g``: the rows are updated, then the columns.

    The error belongs to the pair of the new f and the old g. Its rows are exact, so that it is the residual of the
    columns alone, which their update contains.
    """
    xp, g, reg = namespace(at.g), at.g, at.reg
    a, b = exp(at.log_a), exp(at.log_b)
    keep_a, keep_b = (keep[:, None] for keep in penalties.keep(reg))
    f = keep_a * softmin(costs, g, at.log_b, reg) - (1 - keep_a) * costs.row
    softmin_b = softmin(costs.T, f, at.log_a, reg)
    g_new = keep_b * softmin_b - (1 - keep_b) * costs.col

    mass = b * exp((g - softmin_b) / reg[:, None])  # the column sums
    miss = xp.sum(xp.abs(mass - penalties.target(b, g + costs.col, penalties.rho_b)), axis=-1)
    miss = xp.where(penalties.rho_b > 0, miss, xp.zeros_like(miss))
    error = miss / ((xp.sum(a, axis=-1) + xp.sum(b, axis=-1)) / 2)

    # f + t, g − t costs nothing where both marginals are exact; else there is a best t (Séjourné et al. 2022).
    sent = xp.sum(penalties.target(a, f + costs.row, penalties.rho_a), axis=-1)
    received = xp.sum(penalties.target(b, g_new + costs.col, penalties.rho_b), axis=-1)
    shift = penalties.coupling() * finite_or_zero(log(sent) - log(received))
    return Iterate(f, g_new - shift[:, None], error)


class Swept(NamedTuple):
    """What `sweep` returns.

    ``f (B, n)`` and ``g (B, m)`` are the last pair, whose rows are exact and whose error is ``error (B,)``; ``point
    (B, m)`` is where to go on from; ``count (B,)`` says how many iterations were done. ``effort (B,)`` is how many
    entries the last of them has visited, or as many as would have taken its time: all, where few are not known to do.
    ``halfway (B,)`` is the error after half of ``limit``. NaN stands for unknown, as None does.
    ``restless (B,)`` says where potentials moved so far towards the end that other entries matter. ``listed (B,)`` has
    the entries that were visited, where more iterations are needed and they are not all or too many to be kept.
    """

    f: Array
    g: Array
    point: Array
    error: Array
    count: Array
    mixing: Mixing
    effort: np.ndarray | None = None
    halfway: np.ndarray | None = None
    restless: np.ndarray | None = None
    listed: np.ndarray | None = None


def sweep(
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: Array,
    limit: Array,
    k: int,
    listed: np.ndarray | None = None,
) -> Swept:
    """Up to `k` Sinkhorn iterations from ``start.g``, rows then columns, each item stopping by itself.

    An item stops when its error is at most ``tol (B,)`` or it has done ``limit (B,)`` iterations. Below zero the
    tolerance is not met, and entries are listed for its size, those of −∞ to rounding. ``listed (B,)`` is what an
    earlier sweep to the same tolerance has listed, at the same regularisation.
    """
    xp = namespace(start.f)
    f, g, point = start.f, start.g, start.g
    weight = exp(start.log_b)
    count, error = xp.zeros_like(start.reg), xp.full_like(start.reg, xp.inf)
    active = limit > 0
    for _ in range(k):
        if not xp.any(active):
            break
        one = iterate(costs, Potentials(f, point, start.log_a, start.log_b, start.reg), penalties)
        f = xp.where(active[:, None], one.f, f)
        g = xp.where(active[:, None], point, g)
        error = xp.where(active, one.error, error)
        count = xp.where(active, count + 1, count)
        done = error <= tol
        following, mixing = mix(mixing, g, one.g, error, weight)
        point = xp.where((active & done)[:, None], one.g, xp.where(active[:, None], following, point))
        active = active & ~done & (count < limit)
    return Swept(f, g, point, error, count, mixing)
