"""Penalties on the marginals, as the caller gives them; the Kullback–Leibler penalty and its conjugate."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks

_EXACT = np.array(np.inf), np.array(np.inf)


def given_penalties(unbalanced: Any) -> tuple[np.ndarray, np.ndarray]:
    """ρ of the rows and of the columns in float64: non-negative, ``inf`` for an exact marginal."""
    if unbalanced is None:
        return _EXACT
    return penalty_pair(unbalanced)


def penalty_pair(unbalanced: Any) -> tuple[np.ndarray, np.ndarray]:
    """ρ of the rows and of the columns in float64: non-negative."""
    pair = unbalanced if isinstance(unbalanced, tuple) else (unbalanced, unbalanced)
    if len(pair) != 2:
        raise ValueError(f"unbalanced must be one penalty or a pair (rho_a, rho_b), got {len(pair)}; pass one or two")
    if any(rho is None for rho in pair):
        raise TypeError(
            f"unbalanced must hold numbers, got {unbalanced!r}; inf makes a marginal exact, 0 leaves it free"
        )
    rho_a, rho_b = (arrays.to_numpy(checks.as_array(r, "unbalanced")).astype(np.float64) for r in pair)
    for rho in (rho_a, rho_b):
        checks.numbers(rho, "unbalanced")
        if not np.all(rho >= 0):
            raise ValueError(
                f"unbalanced must be non-negative, in units of the cost, got {rho[~(rho >= 0)].flat[0]:g}; "
                "inf makes a marginal exact, 0 leaves it free"
            )
    return rho_a, rho_b


def one_penalty(unbalanced: Any) -> None:
    """Refuse a pair of penalties: a divergence has the same penalty on both sides."""
    if isinstance(unbalanced, tuple):
        raise ValueError(f"unbalanced must be one penalty for both sides of a divergence, got {unbalanced!r}; pass one")


def has_minimum(low: np.ndarray, unmoved: np.ndarray) -> None:
    """Require the least costs ``(B,)`` not to be negative where mass that does not move costs nothing."""
    endless = (low < 0) & (unmoved == 0)
    if endless.any():
        raise ValueError(
            "costs must be non-negative where both marginals are free, or more mass would always cost less, got "
            f"{low[endless][0]:g}; pass a positive unbalanced= or a reg="
        )


def log_ratio(p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """log(p/w) for non-negative p and w, to full precision where they are close; NaN where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = (p - w) / w
        return np.where(abs(excess) < 0.5, np.log1p(excess), np.log(p / w))


def divergence(p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """KL(p | w) = Σ p log(p/w) − Σp + Σw over the last axis, for p that vanishes where w does.

    Where p and w are close, its rounding is a fraction of |p − w|, not of p.
    """
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * log_ratio(p, w), 0.0)
    return np.maximum((terms - (p - w)).sum(-1), 0.0)


def penalty(p: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """ρ·KL(p | w); 0 where the side is exact (ρ = inf, whose error is reported separately) or free (ρ = 0)."""
    penalised = (rho > 0) & (rho < np.inf)
    return np.where(penalised, np.where(penalised, rho, 0.0) * divergence(p, w), 0.0)


def conjugate(potential: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The term of a potential f in the dual: Σ w·f if exact, ρ·Σ w·(1 − e^(−f/ρ)) if penalised, 0 if free."""
    penalised = (rho > 0) & (rho < np.inf)
    used = np.where(w > 0, potential, 0.0)  # the potential of a point without mass is arbitrary
    if not penalised.any():
        return np.where(rho > 0, (w * used).sum(-1), 0.0)
    scale = np.where(penalised, rho, 1.0)
    with np.errstate(over="ignore"):
        earned = -scale * (w * np.expm1(-used / scale[:, None])).sum(-1)
    return np.where(penalised, earned, np.where(rho > 0, (w * used).sum(-1), 0.0))
