"""What may be left out of a plan without being seen at a tolerance."""

from __future__ import annotations

import math

# How far potentials may move, in units of the regularisation, before the entries that matter are looked for anew.
FAR = 6.0
# What is left out at most by then, relative to the tolerance, and the tolerance at least.
_LEFT_OUT, _ROUNDING = 5e-4, 1e-14


def left_out(tol: float) -> float:
    """The fraction of the mass of each row and column that may be left out.

    While potentials move, it grows by as much as the largest scaling over the smallest.
    """
    return _LEFT_OUT * max(tol, _ROUNDING) * math.exp(-2 * FAR)
