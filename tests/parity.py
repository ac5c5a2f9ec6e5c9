"""The compiled operations against their references: the costs, the points and the bounds.

Bounds follow from rounding. An exponent (f + g − C)/reg + log a + log b is off by a few units of its largest term,
hence its exponential by as much relative to itself, besides the 2e-14 of the compiled exp; sums of positive terms are
no worse than their terms. 16u·(largest potential or cost/reg + largest |log weight|) covers both versions together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.testing import assert_array_equal

from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA

U = 2.0**-53
EXP = 4e-14  # twice the error of the compiled exp
INF = np.inf


def chebyshev(x, y):
    return abs(x[..., :, None, :] - y[..., None, :, :]).max(-1)


def name_of(metric):
    return getattr(metric, "__name__", str(metric))


def matrix(rng, batch, n, m):
    C = rng.random((*batch, n, m))
    C[rng.random(C.shape) < 0.1] = INF
    C[..., 0, :] = rng.random(m)
    C[..., :, 0] = rng.random(n)
    return C


DENSE = {
    "float64": lambda C: C,
    "float32": lambda C: C.astype(np.float32),
    "transposed": lambda C: np.ascontiguousarray(np.swapaxes(C, -1, -2)).swapaxes(-1, -2),
    "integers": lambda C: np.where(np.isfinite(C), 9 * C, 20).astype(np.int32),
    "strided": lambda C: np.repeat(C, 2, axis=-1)[..., ::2],
}


@dataclass(frozen=True)
class Case:
    """Reduced costs, and a point where the rows of the plan are nearly exact."""

    costs: Reduced
    at: Potentials
    a: np.ndarray
    b: np.ndarray
    span: float

    @property
    def unit(self):
        """A bound on the rounding of a sum of a cost and potentials."""
        vectors = (self.costs.row, self.costs.col, self.at.f, self.at.g)
        return 16 * U * (sum(abs(v).max() for v in vectors) + self.span)

    @property
    def exponents(self):
        """A bound on the rounding of log P, for each item."""
        at, C = self.at, self.costs.base
        whole = C.block(slice(None), slice(None))
        size = np.abs(whole[np.isfinite(whole)]).max() + sum(abs(v).max() for v in (self.costs.row, self.costs.col))
        logs = sum(abs(v[np.isfinite(v)]).max() for v in (at.log_a, at.log_b))
        return 16 * U * ((size + abs(at.f).max() + abs(at.g).max()) / at.reg + logs)

    @property
    def relative(self):
        """A bound on the relative rounding of an entry of the plan, and of sums of them."""
        return self.exponents + EXP + 4 * U * np.sqrt(self.costs.n + self.costs.m)


def case(geometry, items=1, relative=0.1, seed=0, holes=True):
    rng = np.random.default_rng(seed)
    flat = geometry.flat((items,))
    n, m = flat.n, flat.m
    a, b = rng.dirichlet(np.ones(n), items), rng.dirichlet(np.ones(m), items)
    if holes and min(n, m) > 3:
        a[:, 2] = b[-1, 3] = 0
    a, b = (w / w.sum(1, keepdims=True) for w in (a, b))
    reduction = REFERENCE.cost_range(flat, a > 0, b > 0)
    costs = Reduced(flat, reduction.row, reduction.col)
    span = float(reduction.span.max()) or 1.0
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    reg = relative * span * np.linspace(1, 2, items)
    g = 0.1 * span * rng.standard_normal((items, m))
    f = REFERENCE.softmin(costs, g, log_b, reg)
    return Case(costs, Potentials(f, g, log_a, log_b, reg), a, b, span)


def both(name, *args, **kwargs):
    """The answers of the compiled operation and of the reference."""
    return [getattr(table, name)(*args, **kwargs) for table in (NUMBA, REFERENCE)]


def within(found, wanted, relative, absolute=0.0):
    """|found − wanted| ≤ relative·|wanted| + absolute, with bounds ``(B,)``, and infinities in the same places."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert found.shape == wanted.shape
    finite = np.isfinite(wanted)
    assert_array_equal(found[~finite], wanted[~finite])
    spread = (-1, *(1 for _ in wanted.shape[1:]))
    bound = np.reshape(relative, spread) * abs(np.where(finite, wanted, 0)) + np.reshape(absolute, spread)
    miss = abs(np.where(finite, found, 0) - np.where(finite, wanted, 0))
    assert (miss <= bound).all(), (
        f"off by {(miss - bound).max():.3g} more than {bound.flat[(miss - bound).argmax()]:.3g}"
    )


def close(found, wanted, bound):
    """|found − wanted| ≤ bound, entry by entry."""
    assert found.shape == wanted.shape
    assert (abs(found - wanted) <= bound).all(), f"off by {abs(found - wanted).max():.3g}"


def finite(costs):
    """The size of costs that are all formed, 0 where they are infinite."""
    C = abs(costs.block(slice(None), slice(None)))
    return np.where(np.isfinite(C), C, 0)


def distance_slopes(x, y, metric):
    """How much an end of a pair counts in the derivative of its cost."""
    difference = abs(x[:, :, None] - y[:, None])
    ground, power = metric.ground, metric.power
    total = (difference if ground == "cityblock" else difference**2).sum(-1)
    exponent = power / 2 if ground == "euclidean" else power
    slopes = exponent * np.where(total > 0, total, 1) ** (exponent - 1)
    return slopes * {"cityblock": 1, "euclidean": 2, "cosine": 2.0 ** (1 - power)}[ground]


SIZES = [(1, 1), (1, 37), (41, 1), (2, 3), (33, 65), (64, 31)]


def swept(c, table, count, penalties=None, window=0, tol=-1e-14):
    items = c.at.reg.size
    penalties = penalties or Penalties(np.full(items, INF), np.full(items, INF))
    start = Mixing.begin(c.at.g, np.full(items, c.span), window)
    return table.sweep(c.costs, c.at, penalties, start, np.full(items, tol), np.full(items, float(count)), count)


def same_sweeps(one, other, c, count, extra=0.0):
    """Iterations do not magnify errors of the potentials, and each of them adds that of two softmins."""
    slack = 2 * count * c.at.reg * (c.relative + extra)
    used_a, used_b = c.a > 0, c.b > 0
    assert_array_equal(one.count, other.count)
    for name, used in (("f", used_a), ("g", used_b), ("point", used_b)):
        found, wanted = (np.where(used, getattr(s, name), 0) for s in (one, other))
        within(found, wanted, 0, slack)
    within(one.error, other.error, 0, 4 * slack / c.at.reg)
