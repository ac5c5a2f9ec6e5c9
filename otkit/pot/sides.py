"""One marginal of a plan, exact or with a penalty: what the marginal costs, and its part of the dual problem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import kl_div

PENALTIES = ("kl", "l2", "tv")


@dataclass(frozen=True)
class Side:
    """The marginal r of one side, which is to be the weights w or pays ρ·U(r, w).

    The part of the dual is D(f) = min over r ≥ 0 of ρ·U(r, w) + ⟨f, r⟩. It does not fall in f, and its gradient is the
    minimising r.

    Attributes
    ----------
    w : numpy array (n,)
        The weights.
    rho : float
        The penalty ρ in [0, inf]: inf makes the marginal exact, 0 leaves it free.
    penalty : {"kl", "l2", "tv"}
        U: the divergence, half the squared distance, or the total variation Σ|r − w|.
    """

    w: np.ndarray
    rho: float
    penalty: str

    @property
    def kind(self) -> str:
        """The penalty, "exact" or "free"."""
        return "exact" if self.rho == np.inf else self.penalty if self.rho else "free"

    @property
    def tight(self) -> bool:
        """Whether points of weight 0 carry no mass in any plan of finite cost."""
        return self.kind in ("exact", "kl")

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds on the potential, outside of which D is −inf or no larger."""
        return {"free": (0.0, 0.0), "tv": (-self.rho, self.rho)}.get(self.kind, (-np.inf, np.inf))

    def dual(self, f: np.ndarray) -> tuple[float, np.ndarray]:
        """D(f) for f within the bounds, and its gradient, the marginal."""
        w, rho = self.w, self.rho
        if self.kind == "free":
            return 0.0, np.zeros_like(w)
        if self.kind == "l2":
            r = np.maximum(w - f / rho, 0.0)
            return float(np.sum(rho / 2 * (r - w) ** 2 + f * r)), r
        if self.kind == "kl":
            return float(-rho * np.sum(w * np.expm1(-f / rho))), w * np.exp(-f / rho)
        return float(w @ f), w

    def primal(self, r: np.ndarray) -> float:
        """The cost ρ·U(r, w) of a marginal; 0 for an exact one, which r is."""
        if self.kind == "l2":
            return float(self.rho / 2 * np.sum((r - self.w) ** 2))
        if self.kind == "kl":
            return float(self.rho * np.sum(kl_div(r, self.w)))
        return float(self.rho * np.sum(np.abs(r - self.w))) if self.kind == "tv" else 0.0


Sides = tuple[Side, Side]


def paid(P: np.ndarray, sides: Sides) -> float:
    """The penalties of both marginals of a plan."""
    return sides[0].primal(P.sum(axis=1)) + sides[1].primal(P.sum(axis=0))


def feasible(P: np.ndarray, sides: Sides) -> np.ndarray:
    """A plan near P whose exact marginals are exact."""
    rows, cols = (side.kind == "exact" for side in sides)
    a, b = (side.w for side in sides)
    if not rows and not cols:
        return P
    if rows and not cols:
        return _filled(P, a, b)
    if cols and not rows:
        return _filled(P.T, b, a).T
    P = P * np.minimum(1.0, _ratio(a, P.sum(axis=1)))[:, None]
    P = P * np.minimum(1.0, _ratio(b, P.sum(axis=0)))
    rest_a, rest_b = (np.maximum(rest, 0.0) for rest in (a - P.sum(axis=1), b - P.sum(axis=0)))
    total = max(rest_a.sum(), rest_b.sum())
    return P + np.outer(rest_a, rest_b / total) if total > 0 else P


def _filled(P: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P with rows of the sums a; an empty row is spread like b."""
    r = P.sum(axis=1)
    return np.where((r > 0)[:, None], P * _ratio(a, r)[:, None], np.outer(a, b / b.sum()))


def _ratio(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.divide(w, r, out=np.ones_like(w), where=r > 0)


def lower_bound(M: np.ndarray, f: np.ndarray, sides: Sides) -> tuple[float, np.ndarray, np.ndarray]:
    """A lower bound on ⟨M, P⟩ and the penalties over P ≥ 0, from any potential of the rows; and its potentials.

    Potentials with f_i + g_j ≤ M_ij and within the bounds prove D_a(f) + D_b(g). There are none if mass of some arc
    pays for itself: the bound is −inf.
    """
    (low_a, high_a), (low_b, high_b) = (side.bounds for side in sides)
    f = np.minimum(np.minimum(f, high_a), (M - low_b).min(axis=1))
    g = np.minimum(high_b, (M - f[:, None]).min(axis=0))
    if (f < low_a).any():
        return -np.inf, f, g
    f = np.minimum(high_a, (M - g).min(axis=1))
    with np.errstate(over="ignore"):
        return sides[0].dual(f)[0] + sides[1].dual(g)[0], f, g
