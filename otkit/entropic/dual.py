"""Points of the dual, and the penalties on the marginals."""

from __future__ import annotations

from dataclasses import dataclass

from otkit.arrays import Array, exp, namespace


@dataclass(frozen=True)
class Potentials:
    """A point of the dual, with the log-weights and the regularisation: together with the costs they give the plan.

    Attributes
    ----------
    f, log_a : array (B, n)
    g, log_b : array (B, m)
    reg : array (B,)
    """

    f: Array
    g: Array
    log_a: Array
    log_b: Array
    reg: Array

    @property
    def T(self) -> Potentials:
        """The potentials of the transposed plan."""
        return Potentials(self.g, self.f, self.log_b, self.log_a, self.reg)

    @property
    def inside(self) -> Potentials:
        """The potentials without those of the last row and column."""
        f, g, log_a, log_b = (v[:, :-1] for v in (self.f, self.g, self.log_a, self.log_b))
        return Potentials(f, g, log_a, log_b, self.reg)

    def log_plan(self, C: Array, items: slice, rows: slice) -> Array:
        """log P of a tile of costs."""
        exponent = (self.f[items, rows, None] + self.g[items, None, :] - C) / self.reg[items, None, None]
        return exponent + (self.log_a[items, rows, None] + self.log_b[items, None, :])

    def plan(self, C: Array, items: slice, rows: slice) -> Array:
        """P of a tile of costs."""
        return exp(self.log_plan(C, items, rows))


@dataclass(frozen=True)
class Penalties:
    """Penalties ``rho_a``, ``rho_b (B,)`` on the KL divergences of the marginals from the weights.

    ``inf`` makes a marginal exact, 0 leaves it free. With ``shifts``, iterations also move the optimal constant from
    the potentials of one side to those of the other.
    """

    rho_a: Array
    rho_b: Array
    shifts: bool = True

    def keep(self, reg: Array) -> tuple[Array, Array]:
        """The factors ρ/(ρ + reg) of the updates of both sides, 1 where a marginal is exact."""
        xp = namespace(reg)
        one = xp.ones_like(reg)
        exact = [rho == xp.inf for rho in (self.rho_a, self.rho_b)]
        finite = [xp.where(e, one, rho) for e, rho in zip(exact, (self.rho_a, self.rho_b), strict=True)]
        a, b = (xp.where(e, one, rho / (rho + reg)) for e, rho in zip(exact, finite, strict=True))
        return a, b

    def coupling(self) -> Array:
        """ρ_a·ρ_b/(ρ_a + ρ_b), the curvature of the dual along f + t, g − t; 0 where the constant t has no effect."""
        xp = namespace(self.rho_a)
        low, high = xp.minimum(self.rho_a, self.rho_b), xp.maximum(self.rho_a, self.rho_b)
        none = (low == 0) | (low == xp.inf) if self.shifts else low >= 0
        ratio = xp.where(none | (high == xp.inf), xp.zeros_like(low), low) / xp.where(
            high > 0, high, xp.ones_like(high)
        )
        return xp.where(none, xp.zeros_like(low), low / (1 + ratio))

    def target(self, w: Array, potential: Array, side: Array) -> Array:
        """Optimal mass w·e^(−f/ρ) at a potential f in the costs as given; `side` is the ρ of that side."""
        xp = namespace(w)
        penalised = ((side > 0) & (side < xp.inf))[:, None]
        rho = xp.where(penalised, side[:, None], xp.ones_like(side[:, None]))
        return w * exp(xp.where(penalised, -potential / rho, xp.zeros_like(potential)))
