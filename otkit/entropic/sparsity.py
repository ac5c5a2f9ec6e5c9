"""Sparsity of entropic plans: the entries that matter at a tolerance, and how long they remain valid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Listed:
    """The entries of the plan of an item that matter near the potentials ``g (m,)`` of the columns, by rows (CSR).

    ``sigma (n,)`` has the softmins of the rows at ``g``. The entries of row i are ``ends[i]`` to ``ends[i + 1]`` of
    ``cols`` and ``values``, with ``ends (n + 1,)``. Values are relative to the mass of the row.
    """

    sigma: np.ndarray
    g: np.ndarray
    ends: np.ndarray
    cols: np.ndarray
    values: np.ndarray


# Largest change of potentials, in units of the regularisation, before the entries that matter are recomputed.
FAR = 6.0
# Largest mass left out after this change, relative to the tolerance, and a lower bound on the tolerance.
_LEFT_OUT, _ROUNDING = 5e-4, 1e-14


def left_out(tol: float) -> float:
    """Fraction of the mass of each row and column that may be left out of the listed entries.

    While potentials move, the fraction grows at most by the ratio of the largest scaling to the smallest.
    """
    return _LEFT_OUT * max(tol, _ROUNDING) * math.exp(-2 * FAR)


def thresholds(
    fraction: float, rows: np.ndarray | float, cols: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds on log P by the masses of rows and columns: the smaller entries are at most that fraction of each.

    The m entries of a row of mass r that are below fraction·r/m sum to at most fraction·r; likewise for columns.
    """
    n, m = shape
    with np.errstate(divide="ignore"):
        return np.log(rows) + np.log(fraction / m), np.log(cols) + np.log(fraction / n)
