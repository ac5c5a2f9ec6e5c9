"""A regularised problem on the host: costs and masses about 1, and the points that may carry mass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import from_numpy
from otkit.pot.duals import Smooth, Squares, Step, descended, diverged
from otkit.pot.regularised import Regularised, host
from otkit.pot.sides import Side, Sides


@dataclass(frozen=True)
class Functions:
    """R(P) = reg·f(P) of a caller's f and df.

    Attributes
    ----------
    given : Regularised
    kept, cost, mass
        As in `Normalised`.
    """

    given: Regularised
    kept: tuple[np.ndarray, np.ndarray]
    cost: float
    mass: float
    curvature: float = 0.0

    def value(self, P: np.ndarray) -> float:
        """R(P)."""
        found = self.given.kind[0](self._whole(P))
        try:
            number = float(found)
        except (TypeError, ValueError):
            raise ValueError(
                f"f of reg_type=(f, df) must return a number, got {type(found).__name__}; sum over the plan"
            ) from None
        return float(host(self.given.reg)) * number / (self.cost * self.mass)

    def gradient(self, P: np.ndarray) -> np.ndarray:
        """The gradient at P."""
        found, shape = self.given.kind[1](self._whole(P)), tuple(self.given.M.shape)
        if not arrays.is_array(found) or tuple(found.shape) != shape:
            raise ValueError(
                f"df of reg_type=(f, df) must return an array of shape {shape}, the gradient of f at the plan, got "
                f"{type(found).__name__} of shape {tuple(np.shape(found))}; return one"
            )
        return float(host(self.given.reg)) / self.cost * host(found)[np.ix_(*self.kept)]

    def conjugate(self, S: np.ndarray) -> float:
        """Unknown."""
        return np.inf

    def _whole(self, P: np.ndarray) -> Any:
        whole = np.zeros(self.given.M.shape)
        whole[np.ix_(*self.kept)] = self.mass * P
        return from_numpy(whole, self.given.M)


@dataclass(frozen=True)
class Normalised:
    """The problem that is solved, and the way back to the caller's.

    Attributes
    ----------
    given : Regularised
    M : numpy array
    sides : tuple of 2 Side
    kept : tuple of numpy array of int
        The points of both sides, without those of weight 0 that no plan of finite cost moves.
    cost, mass : float
        The units of costs and of masses.
    """

    given: Regularised
    M: np.ndarray
    sides: Sides
    kept: tuple[np.ndarray, np.ndarray]
    cost: float
    mass: float

    @staticmethod
    def of(given: Regularised) -> Normalised:
        """The problem in units of its median cost, whatever a few outliers are, and of its mean mass."""
        kept = tuple(np.flatnonzero(side.w > 0) if side.tight else np.arange(side.w.size) for side in given.sides)
        M = host(given.M)[np.ix_(*kept)]
        cost = float(np.median(np.abs(M))) or float(np.max(np.abs(M))) or 1.0
        mass = float(sum(side.w.sum() for side in given.sides)) / 2
        unit = cost / mass if given.penalty == "l2" else cost
        one, other = (
            Side(side.w[rows] / mass, side.rho / unit, side.penalty)
            for side, rows in zip(given.sides, kept, strict=True)
        )
        return Normalised(given, M / cost, (one, other), (kept[0], kept[1]), cost, mass)

    def solved(self, tol: float, max_iter: int) -> Step:
        """The minimum."""
        a, b = (side.w for side in self.sides)
        reg, kind = float(host(self.given.reg)), self.given.kind
        if reg and kind in ("kl", "entropy"):
            return diverged(self.M, self.sides, reg / self.cost, self._reference, tol, max_iter)
        R: Smooth = Squares(0.0, 0.0)
        if reg and kind == "l2":
            R = Squares(reg * self.mass / self.cost, self._reference)
        elif reg:
            R = Functions(self.given, self.kept, self.cost, self.mass)
            slope = R.gradient(np.outer(a, b / b.sum()))
            if not np.isfinite(slope).all():
                raise ValueError(
                    "df of reg_type=(f, df) must be finite at plans without zeros, got NaN or inf; mend it"
                )
        return descended(self.M, self.sides, R, np.outer(a, b / b.sum()), tol, max_iter)

    @property
    def _reference(self) -> np.ndarray:
        return host(self.given.c)[np.ix_(*self.kept)] / self.mass

    def restored(self, step: Step) -> Step:
        """The step in the caller's units and with all points."""
        unit, P = self.cost * self.mass, np.zeros(self.given.M.shape)
        P[np.ix_(*self.kept)] = self.mass * step.P
        rest = self._rest
        lower, upper, *history = (unit * v + rest for v in (step.lower, step.upper, *step.history))
        f, g = self._potentials(P, self.cost * step.f, self.cost * step.g)
        return replace(step, P=P, f=f, g=g, lower=lower, upper=upper, history=history)

    @property
    def _rest(self) -> float:
        """R on the arcs of the points that are left out, for squares and divergences."""
        reg, kind = float(host(self.given.reg)), self.given.kind
        if not reg or isinstance(kind, tuple):
            return 0.0
        cost = host(self.given.c).copy()
        cost[np.ix_(*self.kept)] = 0.0
        return reg * float(np.sum(cost**2) / 2 if kind == "l2" else np.sum(cost))

    def _potentials(self, P: np.ndarray, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The potentials of all points: of those that are left out the largest, what their first mass would cost."""
        reg, kind = float(host(self.given.reg)), self.given.kind
        M, (n, m), (rows, cols) = host(self.given.M), P.shape, self.kept
        if len(rows) == n and len(cols) == m:
            return f, g
        if reg and kind == "l2":
            M = M + reg * (P - host(self.given.c))
        elif reg and isinstance(kind, tuple):
            M = M + reg * host(kind[1](from_numpy(P, self.given.M)))
        all_f, all_g = (M[:, cols] - g).min(axis=1), (M[rows] - f[:, None]).min(axis=0)
        all_f[rows], all_g[cols] = f, g
        return all_f, all_g
