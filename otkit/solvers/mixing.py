"""Anderson acceleration of a fixed-point iteration, guarded.

Sweeps shrink the error of each mode of the plan by its own factor, and a few slow modes take nearly all the
iterations. The next point is the combination of the last ones whose residuals cancel best (Anderson 1965; Walker & Ni
2011), which removes those modes. Far from the solution it may lead astray: where the error rises above twice its
best, the item goes back to the best point and takes plain steps. Plain sweeps never raise the L1 error, so that costs
at most a constant factor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from otkit.arrays import Array, from_numpy, namespace
from otkit.solvers.base import put

# Residuals that are combined.
_WINDOW = 20
# Directions of relative singular value below the root of this are not trusted.
_RIDGE = 1e-12
# Above this error the iteration is far from linear.
_FAR = 0.5
_WORSE = 2.0
_PLAIN_STEPS = 3.0


@dataclass(frozen=True)
class Mixing:
    """The recent past of each item.

    Attributes
    ----------
    steps, bends : array (B, window, n)
        Differences of successive points and of their residuals; zeros where there are none yet.
    point, residual : array (B, n)
        The last ones.
    best_point, best_error : array (B, n), (B,)
        Where the smallest error was seen, one plain step on, and that error.
    wait : array (B,)
        Plain steps to take before the next combination; negative once there is something to combine.
    """

    steps: Array
    bends: Array
    point: Array
    residual: Array
    best_point: Array
    best_error: Array
    wait: Array

    @staticmethod
    def begin(f: Array) -> Mixing:
        """No past."""
        items, n = f.shape
        empty = from_numpy(np.zeros((items, _WINDOW, n)), f)
        errors, wait = from_numpy(np.full(items, np.inf), f), from_numpy(np.full(items, _PLAIN_STEPS), f)
        return Mixing(empty, empty, f, f, f, errors, wait)

    def take(self, items: Array) -> Mixing:
        """That of some of the items."""
        xp = namespace(self.point)
        return Mixing(*(xp.take(getattr(self, k.name), items, axis=0) for k in fields(self)))

    def put(self, items: np.ndarray, part: Mixing) -> Mixing:
        """With that of some of the items replaced."""
        return Mixing(*(put(getattr(self, k.name), items, getattr(part, k.name)) for k in fields(self)))


def mix(past: Mixing, f: Array, f_new: Array, error: Array, weight: Array, reach: Array) -> tuple[Array, Mixing]:
    """The point to go on from, given the one before a plain step, the one after it and the error before it.

    ``weight (B, n)`` is the inner product in which residuals are compared: that of the rows' masses, which sum to 1. A
    combination goes no further than ``reach (B,)`` from the plain step.
    """
    xp = namespace(f)
    residual = f_new - f
    lost = error > _WORSE * past.best_error
    better = error < past.best_error
    best_point = xp.where(better[:, None], f_new, past.best_point)

    known = (past.wait < _PLAIN_STEPS) & ~lost
    steps = _pushed(past.steps, f - past.point, known)
    bends = _pushed(past.bends, residual - past.residual, known)

    root = xp.sqrt(weight)[:, None, :]
    scaled = bends * root
    size = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))
    size = xp.where(size > 0, size, xp.ones_like(size))
    scaled = scaled / size
    gram = xp.matmul(scaled, xp.matrix_transpose(scaled)) + _RIDGE * xp.eye(_WINDOW, dtype=xp.float64)
    share = xp.linalg.solve(gram, xp.matmul(scaled, (residual[:, None, :] * root).mT)) / size
    change = -xp.sum(share * (steps + bends), axis=1)
    # A constant changes no plan, and would grow without anything to hold it; so would rows without mass.
    change = change - xp.sum(weight * change, axis=-1, keepdims=True)
    change = xp.where(weight > 0, change, xp.zeros_like(change))
    furthest = xp.max(xp.abs(change), axis=-1)
    far = furthest > reach
    shrink = xp.where(far, reach, xp.ones_like(reach)) / xp.where(far, furthest, xp.ones_like(furthest))
    mixed = f_new + shrink[:, None] * change

    wait = xp.where(lost, xp.full_like(error, _PLAIN_STEPS), past.wait - 1)
    plain = (wait > 0) | (error > _FAR) | ~xp.isfinite(furthest)
    f_next = xp.where(plain[:, None], f_new, mixed)
    f_next = xp.where(lost[:, None], past.best_point, f_next)
    best_error = xp.where(lost, xp.full_like(error, xp.inf), xp.where(better, error, past.best_error))
    return f_next, Mixing(steps, bends, f, residual, best_point, best_error, wait)


def _pushed(rows: Array, new: Array, known: Array) -> Array:
    """The window moved on by a new row, or emptied."""
    xp = namespace(rows)
    moved = xp.concat([rows[:, 1:, :], new[:, None, :]], axis=1)
    return xp.where(known[:, None, None], moved, xp.zeros_like(rows))
