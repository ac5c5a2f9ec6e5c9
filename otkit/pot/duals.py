"""Minimisation of transport costs with a regularisation and penalties, by SciPy's L-BFGS-B on the smooth dual.

The objective ⟨M, P⟩ + R(P) + penalties is minimised in steps. Each is a problem whose R is ε·½‖P − c‖² or ε·KL(P | c)
and whose dual is smooth, in n + m variables. All quantities are normalised: costs and masses are about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from scipy.optimize import Bounds, minimize
from scipy.special import kl_div

from otkit.pot.sides import Sides, feasible, lower_bound, paid

# L-BFGS-B: the gradient, which is the error of the marginals, to stop at, and how many iterations a step may take.
_ERROR, _STEP, _MEMORY = 1e-11, 1000, 20
# A step that took fewer iterations lets the next one regularise less, by the factor; not below _LEAST times the first.
_EASY, _FACTOR, _LEAST = 400, 0.2, 1e-5
# How far beyond the tolerance the interval shrinks while that is cheap, and in how many steps it must halve.
_BEYOND, _PATIENCE = 1e-4, 40
# A step must lower the largest of so many recent objectives; the shortest cut of one.
_RECENT, _SMALLEST = 8, 1e-6

Kernel = Callable[[np.ndarray, float, np.ndarray], tuple[float, np.ndarray]]


class Smooth(Protocol):
    """A regularisation R that has a gradient."""

    @property
    def curvature(self) -> float:
        """The largest curvature; 0 where it is unknown."""

    def value(self, P: np.ndarray) -> float:
        """R(P)."""

    def gradient(self, P: np.ndarray) -> np.ndarray:
        """The gradient at P."""

    def conjugate(self, S: np.ndarray) -> float:
        """The largest ⟨S, P⟩ − R(P) over P ≥ 0; inf where it is unknown."""


@dataclass(frozen=True)
class Squares:
    """R(P) = reg·½‖P − c‖², and none with a `reg` of 0."""

    curvature: float
    c: Any

    def value(self, P: np.ndarray) -> float:
        """R(P)."""
        return float(self.curvature / 2 * np.sum((P - self.c) ** 2)) if self.curvature else 0.0

    def gradient(self, P: np.ndarray) -> np.ndarray:
        """The gradient at P."""
        return self.curvature * (P - self.c) if self.curvature else np.zeros_like(P)

    def conjugate(self, S: np.ndarray) -> float:
        """The largest ⟨S, P⟩ − R(P) over P ≥ 0; inf where it is unknown."""
        return squares(S, self.curvature, self.c)[0] if self.curvature else np.inf


@dataclass(frozen=True)
class Step:
    """A plan, its potentials, and the interval of the optimum that they prove.

    Attributes
    ----------
    P, f, g : numpy array (n, m), (n,), (m,)
    lower, upper : float
    n_iter : int
        Iterations so far.
    history : list of float
        The objective after each step.
    stopped : bool
        Whether the limit on iterations ended the run.
    search : OptimizeResult
        What SciPy says of the last step.
    """

    P: np.ndarray
    f: np.ndarray
    g: np.ndarray
    lower: float
    upper: float
    n_iter: int
    search: Any
    history: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def gap(self) -> float:
        """The width of the interval; inf where it is unknown."""
        width = self.upper - self.lower
        return width if np.isfinite(width) else np.inf


def squares(S: np.ndarray, scale: float, c: np.ndarray) -> tuple[float, np.ndarray]:
    """The conjugate of scale·½‖P − c‖² over P ≥ 0 at S, and its maximiser."""
    P = np.maximum(c + S / scale, 0.0)
    return float(np.sum(S * P) - scale / 2 * np.sum((P - c) ** 2)), P


def divergence(S: np.ndarray, scale: float, c: np.ndarray) -> tuple[float, np.ndarray]:
    """The conjugate of scale·KL(P | c) at S, and its maximiser."""
    P = c * np.exp(S / scale)
    return float(scale * np.sum(P - c)), P


def ascend(
    M: np.ndarray, sides: Sides, kernel: Kernel, at: tuple[float, np.ndarray, float], start: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray, Any]:
    """The plan and the potentials (f, g) at the largest dual value that L-BFGS-B finds, and SciPy's report.

    `at` has the scale and c of the kernel, and the unit of potentials in which the first step has length 1.
    """
    (scale, c, unit), n = at, M.shape[0]

    def descent(x: np.ndarray) -> tuple[float, np.ndarray]:
        f, g = unit * x[:n], unit * x[n:]
        (one, r), (other, s) = sides[0].dual(f), sides[1].dual(g)
        value, P = kernel(f[:, None] + g - M, scale, c)
        slope = np.concatenate([P.sum(axis=1) - r, P.sum(axis=0) - s])
        value = (value - one - other) / unit
        return (value, slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e300, np.zeros_like(x))

    low, high = (np.repeat([side.bounds[k] / unit for side in sides], M.shape) for k in (0, 1))
    options = {"maxcor": _MEMORY, "ftol": 0.0, "gtol": _ERROR, "maxiter": limit, "maxfun": 20 * limit}
    first = np.clip(start / unit, low, high)
    with np.errstate(over="ignore", invalid="ignore"):
        found = minimize(descent, first, jac=True, method="L-BFGS-B", bounds=Bounds(low, high), options=options)
        x = unit * found.x
        return kernel(x[:n, None] + x[n:] - M, scale, c)[1], x, found


def done(step: Step, tol: float) -> bool:
    """Whether the interval is narrow: relative to the optimum, or to 1e-3 of the median cost of the mass."""
    return step.gap <= tol * max(abs(step.upper), 1e-3)


def diverged(M: np.ndarray, sides: Sides, reg: float, c: np.ndarray, tol: float, max_iter: int) -> Step:
    """The minimum with R = reg·KL(P | c): maxima of the dual at scales that fall to `reg`."""
    n, scale, total, x = M.shape[0], max(reg, 1.0), 0, np.zeros(sum(M.shape))
    while True:
        P, x, search = ascend(M, sides, divergence, (scale, c, scale), x, min(_STEP, max(max_iter - total, 1)))
        total += search.nit
        if scale == reg or total >= max_iter:
            break
        scale = max(reg, scale / 4)
    f, g = x[:n], x[n:]
    # The dual value at `reg` is a bound at any potentials.
    with np.errstate(over="ignore"):
        value = divergence(f[:, None] + g - M, reg, c)[0]
        lower = sides[0].dual(f)[0] + sides[1].dual(g)[0] - value
    P = feasible(P, sides)
    upper = float(np.sum(M * P)) + float(reg * np.sum(kl_div(P, c))) + paid(P, sides)
    step = Step(P, f, g, lower, upper, total, search, [upper])
    return replace(step, stopped=total >= max_iter and not done(step, tol))


def descended(M: np.ndarray, sides: Sides, R: Smooth, P: np.ndarray, tol: float, max_iter: int) -> Step:
    """The minimum with a smooth R, by proximal steps from P: R is linear in each, with L·½‖P − P_k‖² added.

    The next L is the curvature of R along the step, and at least a share of the last L: for squares L falls to their
    own `reg`, and without R to a small one, whose plan is sparse. A step that does not lower the objective is cut.
    The interval is that of the linear problem at the gradient, valid for a convex R, or of the dual of R.
    """
    least, total, x, slope = np.sqrt(M.size), 0, np.zeros(sum(M.shape)), R.gradient(P)
    L, least = max(least, R.curvature), _LEAST * least
    best, history, narrowed = None, [_objective(M, sides, R, P)], 1
    while True:
        at = (L, P, L / np.sqrt(M.size))
        Q, x, search = ascend(M + slope, sides, squares, at, x, min(_STEP, max(max_iter - total, 1)))
        total += search.nit + 1
        Q = _cut(M, sides, R, (P, slope), feasible(Q, sides), max(history[-_RECENT:]))
        new, moved = R.gradient(Q), Q - P
        length = float(np.sum(moved**2))
        bend = float(np.sum((new - slope) * moved)) / length if length > 0 else 0.0
        P, slope = Q, new
        step = _proved(M, sides, R, (P, slope, x), total, search)
        history.append(step.upper)
        before = np.inf if best is None else best.gap
        best = step if best is None or step.gap < before else best
        narrowed = len(history) if step.gap <= before / 2 else narrowed
        stalled = len(history) - narrowed >= (2 if done(best, tol) else _PATIENCE)
        if done(best, _BEYOND * tol) or stalled or length == 0 or total >= max_iter:
            stopped = total >= max_iter and not done(best, tol)
            return replace(best, n_iter=total, history=history, stopped=stopped)
        L = 4 * L if search.nit >= _STEP else max(bend, L if search.nit >= _EASY else _FACTOR * L, least)


def _cut(
    M: np.ndarray, sides: Sides, R: Smooth, at: tuple[np.ndarray, np.ndarray], Q: np.ndarray, most: float
) -> np.ndarray:
    """A point on the way from P to Q whose objective is below `most` and where R has a gradient; `at` is (P, ∇R)."""
    P, slope = at
    predicted = float(np.sum((M + slope) * (Q - P))) + paid(Q, sides) - paid(P, sides)
    share = 1.0
    with np.errstate(all="ignore"):
        while share > _SMALLEST:
            point = Q if share == 1.0 else P + share * (Q - P)
            falls = _objective(M, sides, R, point) <= most + 1e-4 * share * min(predicted, 0.0) + 1e-14 * abs(most)
            if falls and np.isfinite(R.gradient(point)).all():
                return point
            share *= 0.9 if share == 1.0 else 0.5
    return P


def _objective(M: np.ndarray, sides: Sides, R: Smooth, P: np.ndarray) -> float:
    return float(np.sum(M * P)) + R.value(P) + paid(P, sides)


def _proved(
    M: np.ndarray,
    sides: Sides,
    R: Smooth,
    at: tuple[np.ndarray, np.ndarray, np.ndarray],
    total: int,
    search: Any,
) -> Step:
    """The step to P with the interval that the potentials prove; `at` is P, the gradient of R and the potentials."""
    (P, slope, x), n = at, M.shape[0]
    value, upper = R.value(P), _objective(M, sides, R, P)
    bound, f, g = lower_bound(M + slope, x[:n], sides)
    lower = value - float(np.sum(slope * P)) + bound
    direct = sides[0].dual(x[:n])[0] + sides[1].dual(x[n:])[0] - R.conjugate(x[:n, None] + x[n:] - M)
    return Step(P, f, g, max(lower, direct), upper, total, search)
