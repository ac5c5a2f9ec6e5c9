"""The Sinkhorn iteration of partial transport whose regularisation sees only the mass that moves.

Minimised is ⟨C, P⟩ + reg·Σ P log P over plans of a given mass, with row sums at most a and column sums at most b
(Benamou et al. 2015). Potentials are relative to the weights, P_ij = a_i·b_j·exp((f_i + g_j − C_ij)/reg). The dual
bounds them: f_i ≤ −reg·log a_i and g_j ≤ λ − reg·log b_j, with a price λ of the mass, and equality unless the row or
column is full. Iterations maximise the dual over the rows, and over the columns and the price together, in turns.
"""

from __future__ import annotations

from typing import NamedTuple

from otkit.arrays import Array, exp, logsumexp, namespace
from otkit.entropic import operations
from otkit.entropic.sinkhorn import Softmin
from otkit.geometry.base import Geometry


class Moved(NamedTuple):
    """Result of `iterate`: the columns and the price for the old f, the new f, and the error of the old f.

    Attributes
    ----------
    g : array (B, m)
    price : array (B,)
    f : array (B, n)
    error : array (B,)
        The L1 distance of the row sums of the plan of the old f and of g from those of the new f, relative to the mass.
        The columns of that plan fit their weights, and its mass is exact.
    """

    g: Array
    price: Array
    f: Array
    error: Array


def iterate(
    costs: Geometry,
    f: Array,
    price: Array,
    weights: tuple[Array, Array],
    mass: Array,
    reg: Array,
    softmin: Softmin = operations.softmin,
) -> Moved:
    """One iteration from the potential of the rows and a price, for `weights`, the logarithms of a and b."""
    (log_a, log_b), xp = weights, namespace(f)
    scale = reg[:, None]
    full = softmin(costs.T, f, log_a, reg)
    price = reg * level(-full / scale, log_b, mass, price / reg)
    g = xp.minimum(full, price[:, None] - scale * log_b)
    full = softmin(costs, g, log_b, reg)
    new = xp.minimum(full, -scale * log_a)
    rows, sent = (exp(log_a + (v - full) / scale) for v in (f, new))
    return Moved(g, price, new, xp.sum(xp.abs(rows - sent), axis=-1) / mass)


def level(log_rates: Array, log_caps: Array, mass: Array, start: Array) -> Array:
    """The x with Σ_j min(cap_j, e^x·rate_j) = mass, ``(B,)``; the least x at which all are full if that is more.

    The sum is concave in e^x, so Newton steps from any `start` rise to the solution after the first.
    """
    xp, caps = namespace(log_caps), exp(log_caps)
    fills = log_caps - log_rates  # the x at which each is full
    last, nothing = xp.max(fills, axis=-1), xp.zeros_like(caps)
    full = fills <= start[:, None]
    full = full & (xp.sum(xp.where(full, caps, nothing), axis=-1) < mass)[:, None]
    for _ in range(caps.shape[-1] + 1):
        left = mass - xp.sum(xp.where(full, caps, nothing), axis=-1)
        some = left > 0
        rate = logsumexp(xp.where(full, nothing - xp.inf, log_rates))
        x = xp.where(some, xp.minimum(xp.log(xp.where(some, left, mass)) - rate, last), last)
        following = fills <= x[:, None]
        if xp.all(following == full):
            break
        full = following
    return x
