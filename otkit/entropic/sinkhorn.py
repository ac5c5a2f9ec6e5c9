"""The Sinkhorn iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from otkit.arrays import Array, exp, finite_or_zero, log, namespace
from otkit.entropic import operations
from otkit.entropic.anderson import Mixing, mix
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry.reduced import Reduced

Softmin = Callable[..., Array]


class Iterate(NamedTuple):
    """Result of `iterate`: the new f, the new g, and the error of the new f with the old g."""

    f: Array
    g: Array
    error: Array


def iterate(costs: Reduced, at: Potentials, penalties: Penalties, softmin: Softmin = operations.softmin) -> Iterate:
    """One Sinkhorn iteration from ``at.g``: update of the rows, then of the columns.

    The error is that of the pair of the new f and the old g. The rows of this pair are exact, so the error is the
    residual of the columns, a by-product of their update.
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

    # The dual is constant along f + t, g − t if both marginals are exact. Else t has an optimum (Séjourné et al. 2022).
    sent = xp.sum(penalties.target(a, f + costs.row, penalties.rho_a), axis=-1)
    received = xp.sum(penalties.target(b, g_new + costs.col, penalties.rho_b), axis=-1)
    shift = penalties.coupling() * finite_or_zero(log(sent) - log(received))
    return Iterate(f, g_new - shift[:, None], error)


class Swept(NamedTuple):
    """Result of `sweep`. NaN and None mean unknown.

    Attributes
    ----------
    f, g : array (B, n), (B, m)
        The last pair of potentials, whose rows are exact.
    point : array (B, m)
        The potential of the columns to continue from.
    error : array (B,)
        The error of `f` and `g`.
    count : array (B,)
        Number of iterations done.
    mixing : Mixing
    effort : numpy array (B,), optional
        Number of entries that the last iteration visited, or a number of entries of the same cost. All entries, unless
        few are known to suffice.
    halfway : numpy array (B,), optional
        The error after half of ``limit`` iterations.
    restless : numpy array of bool (B,), optional
        Whether the potentials moved so far in the last iterations that other entries matter.
    listed : numpy array of Listed (B,), optional
        The visited entries, if more iterations are needed and the entries are neither all nor too many to be kept.
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
    """At most `k` Sinkhorn iterations from ``start.g``, rows then columns. Each item stops independently.

    An item stops when its error is at most ``tol (B,)`` or after ``limit (B,)`` iterations. A negative tolerance is
    never met. Entries are then listed for its absolute value, or to rounding if it is −∞. ``listed (B,)`` has the
    entries that an earlier sweep listed for the same tolerance at the same regularisation.
    """
    return sweep_by(operations.softmin, costs, start, penalties, mixing, tol, limit, k)


def sweep_by(
    softmin: Softmin,
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: Array,
    limit: Array,
    k: int,
) -> Swept:
    """As `sweep`, by any version of the operation `softmin`."""
    xp = namespace(start.f)
    f, g, point = start.f, start.g, start.g
    weight = exp(start.log_b)
    count, error = xp.zeros_like(start.reg), xp.full_like(start.reg, xp.inf)
    active = limit > 0
    for _ in range(k):
        if not xp.any(active):
            break
        one = iterate(costs, Potentials(f, point, start.log_a, start.log_b, start.reg), penalties, softmin)
        f = xp.where(active[:, None], one.f, f)
        g = xp.where(active[:, None], point, g)
        error = xp.where(active, one.error, error)
        count = xp.where(active, count + 1, count)
        done = error <= tol
        following, mixing = mix(mixing, g, one.g, error, weight)
        point = xp.where((active & done)[:, None], one.g, xp.where(active[:, None], following, point))
        active = active & ~done & (count < limit)
    return Swept(f=f, g=g, point=point, error=error, count=count, mixing=mixing)
