"""Transport with squared or user-defined regularisations and penalties, which the solvers of otkit do not have.

R is reg·½‖P − c‖², reg·KL(P | c) or reg·f(P), the penalties are those of `sides`. SciPy's L-BFGS-B finds the minimum on
the host, and the potentials prove an interval for it. The value has gradients, by the envelope theorem.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, full, namespace, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.geometry.dense import Dense
from otkit.pot.inputs import lowered, of_one_total
from otkit.pot.reference import TYPES
from otkit.pot.sides import Side, Sides
from otkit.problems.penalties import given_penalties


def regularisation_of(reg_type: Any) -> Any:
    """POT's `reg_type`: a name in lower case, or a pair of functions."""
    if isinstance(reg_type, (tuple, list)) and len(reg_type) == 2 and all(map(callable, reg_type)):
        return tuple(reg_type)
    if lowered(reg_type) not in (*TYPES, "l2"):
        raise NotImplementedError(
            f"reg_type must be 'KL', 'entropy', 'L2' or a pair of functions (f, df), got {reg_type!r}; pass one"
        )
    return lowered(reg_type)


@dataclass(frozen=True)
class Regularised:
    """The problem min over P ≥ 0 of ⟨M, P⟩ + R(P) + ρ_a·U(P1, a) + ρ_b·U(Pᵀ1, b), in the arrays of the caller.

    Attributes
    ----------
    M : array (n, m)
    a, b : array (n,), (m,)
    reg : float or array ()
        The weight of R; 0 without one.
    kind : {"l2", "kl", "entropy"} or tuple of 2 functions
        R: half the squares of P − c, the divergence from c or from 1, or f with its gradient df.
    c : array (n, m) or float
        The reference.
    rho : tuple of 2 floats or arrays ()
        ρ_a and ρ_b; inf makes a marginal exact, 0 leaves it free.
    penalty : {"kl", "l2", "tv"}
        U, as in `Side`.
    """

    M: Array
    a: Array
    b: Array
    reg: Any
    kind: Any
    c: Any
    rho: tuple[Any, Any]
    penalty: str

    @staticmethod
    def of(
        geometry: GivenGeometry, weights: tuple[Any, Any], problem: tuple[Any, Any, Any], penalties: tuple[Any, str]
    ) -> Regularised:
        """The checked problem, of `problem` (reg, kind, c) and `penalties` (unbalanced, penalty)."""
        if not isinstance(geometry, Dense) or geometry.batch:
            raise NotImplementedError(
                "this regularisation or penalty takes one dense matrix of costs and one pair of weights; pass these, "
                "or reg_type='KL' and unbalanced_type='KL'"
            )
        geometry.check()
        M, (reg, kind, c), (unbalanced, penalty) = geometry.C, problem, penalties
        low, high = arrays.extremes(M)
        if not np.isfinite(low + high):
            raise ValueError(
                f"M must be finite, got {low + high:g} in it: this regularisation or penalty forbids no arcs; pass "
                "large costs, or reg_type='KL' and unbalanced_type='KL', which do"
            )
        if any(w is not None and w.ndim != 1 for w in weights):
            raise ValueError("a and b must be weights (n,) and (m,), got several histograms; pass one pair at a time")
        for w, size, name in zip(weights, (geometry.n, geometry.m), "ab", strict=True):
            if w is not None:
                checks.weights(w, size, name)
        if reg is None:
            reg = 0.0
        else:
            checks.regularisation(reg)
        rho = given_penalties(unbalanced)
        exact = all(bool(r == np.inf) for r in rho)
        a, b = of_one_total(geometry, *weights, True) if exact else weights
        a, b = (full((k,), 1 / k, M) if w is None else w for w, k in ((a, geometry.n), (b, geometry.m)))
        given = unbalanced if isinstance(unbalanced, tuple) else (unbalanced, unbalanced)
        c = _reference(M, (a, b), kind, c, squares=exact)
        return Regularised(M, a, b, reg, kind, c, (np.inf, np.inf) if exact else given, penalty)

    @cached_property
    def sides(self) -> Sides:
        """The marginals, on the host."""
        (one, rho), (other, sigma) = (
            (host(w), float(host(r))) for w, r in zip((self.a, self.b), self.rho, strict=True)
        )
        if rho == sigma == np.inf:  # totals agree to the rounding of the caller's dtype alone
            other = other * (one.sum() / other.sum())
        return Side(one, rho, self.penalty), Side(other, sigma, self.penalty)

    def value(self, P: Array, f: Array, g: Array) -> tuple[Array, Array]:
        """The objective and ⟨M, P⟩ at a plan and its potentials, which are constants of their gradients.

        The derivative by the weights of an exact or TV side is its potential, by the envelope theorem.
        """
        xp = namespace(self.M)
        linear = xp.sum(arrays.float64(self.M) * P)
        total = linear + self._of_plan(P)
        for w, rho, side, axis, u in zip((self.a, self.b), self.rho, self.sides, (1, 0), (f, g), strict=True):
            w, fixed, r = arrays.float64(w), arrays.float64(arrays.detached(w)), xp.sum(P, axis=axis)
            if side.kind == "l2":
                total = total + rho / 2 * xp.sum((r - w) ** 2)
            elif side.kind == "kl":
                total = total + rho * _divergence(r, w)
            elif side.kind == "tv":
                total = total + rho * xp.sum(xp.abs(r - fixed))
            if side.kind in ("exact", "tv"):
                total = total + xp.sum(u * (w - fixed))
        return total, linear

    def _of_plan(self, P: Array) -> Any:
        """R(P)."""
        xp = namespace(P)
        if isinstance(self.reg, float) and self.reg == 0:
            return 0.0
        if isinstance(self.kind, tuple):
            return self.reg * float(self.kind[0](P))
        if self.kind == "l2":
            return self.reg / 2 * xp.sum((P - self.c) ** 2)
        return self.reg * _divergence(P, self.c)


def host(x: Any) -> np.ndarray:
    """A number or an array in float64, in memory of the host."""
    return to_numpy(arrays.detached(x)).astype(np.float64) if arrays.is_array(x) else np.asarray(x, dtype=np.float64)


def _reference(M: Array, weights: tuple[Array, Array], kind: Any, c: Any, *, squares: bool) -> Any:
    """The reference c of R; with `squares`, that of "l2" is 0 by default, as in POT."""
    if kind == "entropy":
        if c is not None and not bool(namespace(M).all(checks.as_array(c, "c", M) == 1)):
            raise ValueError("c must be None for reg_type='entropy', whose reference is 1; pass reg_type='kl' for c")
        return full(tuple(M.shape), 1.0, M)
    if c is None:
        one, other = (arrays.float64(w) for w in weights)
        return full(tuple(M.shape), 0.0, M) if kind == "l2" and squares else one[:, None] * other[None, :]
    c = arrays.float64(checks.as_array(c, "c", M))
    if tuple(c.shape) != tuple(M.shape) or not arrays.every((c >= 0) & namespace(c).isfinite(c)):
        raise ValueError(
            f"c must be a non-negative matrix of the shape {tuple(M.shape)} of M, got shape {tuple(c.shape)}; "
            "pass the reference measure, such as a[:, None] * b"
        )
    return c


def _divergence(P: Array, Q: Array) -> Array:
    """KL(P | Q), for P that vanishes where Q does."""
    xp = namespace(P)
    moved = (P > 0) & (Q > 0)
    ratio = xp.where(moved, P, xp.ones_like(P)) / xp.where(moved, Q, xp.ones_like(Q))
    return xp.sum(P * xp.log(ratio) - P + Q)
