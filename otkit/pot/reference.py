"""Entropic problems whose plan is compared with another measure than a⊗b: the same problem at other costs.

KL(P | c) = KL(P | a⊗b) + ⟨log(a⊗b/c), P⟩ + Σc − ΣaΣb, so the costs M + reg·log(a⊗b/c) have the plan of the reference c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.geometry.base import GivenGeometry
from otkit.geometry.dense import Dense
from otkit.results import Result

TYPES = ("kl", "entropy")


@dataclass(frozen=True)
class Reference:
    """The problem that is solved, and how the values of the problem that was asked follow from its own.

    Attributes
    ----------
    geometry : GivenGeometry
        The costs that are solved for.
    M : array or None
        The costs that were asked; None where they are the same.
    mass : array or float
        The total Σc of the reference; unused without `M`.
    """

    geometry: GivenGeometry
    M: Array | None = None
    mass: Any = 0.0

    def linear(self, result: Result) -> Array:
        """⟨M, P⟩."""
        if self.M is None:
            return result.value_linear
        xp, P = namespace(self.M), result.plan
        M = xp.astype(self.M, P.dtype, copy=False)
        moved = P > 0
        return xp.sum(xp.where(moved, xp.where(moved, M, xp.zeros_like(M)) * P, xp.zeros_like(P)), axis=(-2, -1))

    def value(self, result: Result) -> Array:
        """The objective, with reg·Σ P log(P/c) if it is balanced, and else with reg·KL(P | c) and the penalties.

        POT leaves the mass terms −ΣP + Σc out where they are constant.
        """
        given = result.problem.given
        one, other = given.masses
        xp = namespace(result.value)
        if result.problem.balanced.all():
            total = (one + other) / 2
            constant = total * (np.log(total) if isinstance(total, float) else namespace(total).log(total))
        elif self.M is None:
            return result.value
        else:
            constant = one * other - self.mass
        return xp.astype(result.value - given.reg * constant, result.value.dtype, copy=False)


def reference(
    geometry: GivenGeometry, weights: tuple[Array | None, Array | None], reg: Any, reg_type: str, c: Any
) -> Reference:
    """The problem for POT's `reg_type`, "kl" or "entropy", and its reference measure `c`."""
    if reg_type == "kl" and c is None:
        return Reference(geometry)
    if geometry.matrix is None:
        raise NotImplementedError(
            "c= and reg_type='entropy' take a dense matrix of costs; pass reg_type='kl' and c=None, or form the matrix"
        )
    M = next(iter(geometry.arrays.values()))
    xp = namespace(M)
    M = arrays.float64(M)
    logs = [_log(w, M.shape[axis]) for w, axis in zip(weights, (-2, -1), strict=True)]
    moved = M + reg * (_along(logs[0], -1) + _along(logs[1], -2))
    if c is not None:
        c = checks.as_array(c, "c", M)
        if tuple(c.shape[-2:]) != tuple(M.shape[-2:]) or not bool(xp.all(c >= 0) & xp.any(c > 0)):
            raise ValueError(
                f"c must be a non-negative matrix of the shape {tuple(M.shape)} of M, not all 0, got shape "
                f"{tuple(c.shape)} and a sum of {float(xp.sum(c)):g}; "
                "pass the reference measure, such as a[:, None] * b"
            )
    if reg_type == "entropy":
        if c is not None and not bool(xp.all(c == 1)):
            raise ValueError("c must be None for reg_type='entropy', whose reference is 1; pass reg_type='kl' for c")
        return Reference(Dense(moved), M, float(M.shape[-2] * M.shape[-1]))
    return Reference(Dense(moved - reg * arrays.log(c)), M, xp.sum(c, axis=(-2, -1)))


def _log(w: Array | None, size: int) -> Any:
    """Logarithms of weights, 0 where there is no mass."""
    return -float(np.log(size)) if w is None else arrays.finite_or_zero(arrays.log(arrays.float64(w)))


def _along(v: Any, axis: int) -> Any:
    return v if isinstance(v, float) else namespace(v).expand_dims(v, axis=axis)
