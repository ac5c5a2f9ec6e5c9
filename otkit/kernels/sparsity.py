"""What may be left out of a plan without being seen at a tolerance."""

from __future__ import annotations

import math

import numpy as np

# How far potentials may move, in units of the regularisation, before the entries that matter are looked for anew.
FAR = 6.0
# What is left out at most by then, relative to the tolerance, and the tolerance at least.
_LEFT_OUT, _ROUNDING = 5e-4, 1e-14


def left_out(tol: float) -> float:
    """The fraction of the mass of each row and column that may be left out.

    While potentials move, it grows by as much as the largest scaling over the smallest.
    """
    return _LEFT_OUT * max(tol, _ROUNDING) * math.exp(-2 * FAR)


def thresholds(
    fraction: float, rows: np.ndarray | float, cols: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest log P that is kept by the masses of rows and columns: what is left out of each is that fraction.

    The m entries of a row that are below fraction·r/m sum to at most fraction·r, and so do those of a column.
    """
    n, m = shape
    with np.errstate(divide="ignore"):
        return np.log(rows) + np.log(fraction / m), np.log(cols) + np.log(fraction / n)
