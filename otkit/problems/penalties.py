"""The Kullback–Leibler penalty on a marginal, and its conjugate."""

from __future__ import annotations

import numpy as np


def divergence(p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """KL(p | w) = Σ p log(p/w) − Σp + Σw over the last axis, for p that vanishes where w does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / w), 0.0)
    return np.maximum((terms - p + w).sum(-1), 0.0)


def penalty(p: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """ρ·KL(p | w); 0 where the side is exact (ρ = inf, whose error is reported separately) or free (ρ = 0)."""
    penalised = (rho > 0) & (rho < np.inf)
    return np.where(penalised, np.where(penalised, rho, 0.0) * divergence(p, w), 0.0)


def conjugate(potential: np.ndarray, w: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The term of a potential f in the dual: Σ w·f if exact, ρ·Σ w·(1 − e^(−f/ρ)) if penalised, 0 if free."""
    penalised = (rho > 0) & (rho < np.inf)
    scale = np.where(penalised, rho, 1.0)
    used = np.where(w > 0, potential, 0.0)  # the potential of a point without mass is arbitrary
    with np.errstate(over="ignore"):
        earned = -scale * (w * np.expm1(-used / scale[:, None])).sum(-1)
    return np.where(penalised, earned, np.where(rho > 0, (w * used).sum(-1), 0.0))
