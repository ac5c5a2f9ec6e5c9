"""The weights of the measures of a barycenter."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import to_numpy


def shares_of(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of measures as fractions ``(..., K)``, for measures of this shape."""
    if weights is None:
        return np.full(shape, 1 / shape[-1])
    w = to_numpy(arrays.detached(checks.as_array(weights, "weights"))).astype(np.float64)
    if w.shape[-1:] != shape[-1:]:
        raise ValueError(
            f"weights must be one for each of the {shape[-1]} measures, got shape {w.shape}; pass (..., K)"
        )
    checks.fits(w.shape[:-1], shape[:-1], "weights")
    if not (np.isfinite(w).all() and (w >= 0).all() and (w.sum(-1) > 0).all()):
        raise ValueError(
            f"weights must be non-negative with a positive sum, got {w.min():g} to {w.max():g}; drop others"
        )
    return np.broadcast_to(w / w.sum(-1, keepdims=True), shape)
