"""Validation of options that are no data: numbers of things, and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np


def count(value: Any, name: str) -> int:
    """Require a positive whole number."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}; pass 1 or more")
    return int(value)


def generator(rng: Any) -> np.random.Generator:
    """A generator of random numbers, from a seed or as given."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(
            f"rng must be a whole number ≥ 0, the seed, or a numpy.random.Generator, got {rng!r}; pass a seed"
        ) from None
