"""Sinkhorn iterations with guarded Anderson acceleration.

Sweeps shrink the error of each mode of the plan by its own factor, and a few slow modes take nearly all the
iterations. The next point is the combination of the last ones whose residuals cancel best (Anderson 1965; Walker & Ni
2011), which removes those modes. Where there are too many of them, each new direction is made conjugate to the last
few: in the inner product of the masses a sweep is symmetric, so that close to the solution a short memory does as well
as a complete one would (Wei, Bao & Liu 2022). Far from it mixing may lead astray: where the error rises above twice its
best, the item goes back to the best point and takes plain steps. Plain sweeps never raise the L1 error, so that costs
at most a constant factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Listed:
    """The entries of the plan of an item that matter near the potentials ``g (m,)`` of the columns.

    ``sigma (n,)`` are the soft minima of the rows there. The entries of each row end, and those of the next begin, at
    the places ``ends (n + 1,)`` of ``cols`` and ``values``, which are relative to the mass of the row.
    """

    sigma: np.ndarray
    g: np.ndarray
    ends: np.ndarray
    cols: np.ndarray
    values: np.ndarray


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
