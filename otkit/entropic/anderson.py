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

from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, from_numpy, namespace

# Residuals that are combined.
WINDOW = 30
# After so many iterations many modes are slow, more than a window holds. Then a few conjugate directions do better.
LONG, SHORT = 1000.0, 4
# Directions of relative singular value below the root of this are not trusted.
RIDGE = 1e-12
# Above this error the iteration is far from linear.
FAR = 0.5
WORSE = 2.0
PLAIN_STEPS = 3.0


@dataclass(frozen=True)
class Mixing:
    """The recent past of each item.

    Attributes
    ----------
    moves, bends : array (B, window, m)
        Differences of what successive plain steps led to, and of their residuals, written in turn; zeros where there
        are none yet. With a window of 0 nothing is mixed.
    point, residual : array (B, m)
        The last ones.
    best_point, best_error : array (B, m), (B,)
        Where the smallest error was seen, one plain step on, and that error.
    wait : array (B,)
        Plain steps to take before the next combination; negative once there is something to combine.
    age : array (B,)
        How many differences were written.
    reach : array (B,)
        The furthest that a combination goes from the plain step.
    """

    moves: Array
    bends: Array
    point: Array
    residual: Array
    best_point: Array
    best_error: Array
    wait: Array
    age: Array
    reach: Array

    @property
    def window(self) -> int:
        """How many residuals are combined."""
        return self.moves.shape[1]

    @staticmethod
    def begin(g: Array, reach: Array, window: int = WINDOW) -> Mixing:
        """No past."""
        items, m = g.shape
        empty = from_numpy(np.zeros((items, window, m)), g)
        inf, wait, age = (from_numpy(np.full(items, v), g) for v in (np.inf, PLAIN_STEPS, 0.0))
        return Mixing(empty, empty, g, g, g, inf, wait, age, reach)


def mix(past: Mixing, g: Array, g_new: Array, error: Array, weight: Array) -> tuple[Array, Mixing]:
    """The point to go on from, given the one before a plain step, the one after it and the error before it.

    ``weight (B, m)`` is the inner product in which residuals are compared: that of the columns' masses.
    """
    xp = namespace(g)
    window = past.window
    if window == 0:
        return g_new, past
    residual = g_new - g
    lost = error > WORSE * past.best_error
    better = error < past.best_error
    best_point = xp.where(better[:, None], g_new, past.best_point)

    known = (past.wait < PLAIN_STEPS) & ~lost
    moves, bends = _remember(past, g_new - (past.point + past.residual), residual - past.residual, weight, known)
    age = xp.where(known, past.age + 1, xp.zeros_like(past.age))

    size = xp.sqrt(_inner(bends, bends, weight))
    size = xp.where(size > 0, size, xp.ones_like(size))
    scaled = bends / size
    gram = xp.matmul(scaled * weight[:, None, :], xp.matrix_transpose(scaled))
    gram = gram + RIDGE * xp.eye(window, dtype=xp.float64)
    share = xp.linalg.solve(gram, _inner(scaled, residual[:, None, :], weight)) / size
    change = -xp.sum(share * moves, axis=1)
    # A constant changes no plan, and would grow without anything to hold it; so would columns without mass.
    mean = xp.sum(weight * change, axis=-1, keepdims=True) / xp.sum(weight, axis=-1, keepdims=True)
    change = xp.where(weight > 0, change - mean, xp.zeros_like(change))
    furthest = xp.max(xp.abs(change), axis=-1)
    far = furthest > past.reach
    one = xp.ones_like(furthest)
    shrink = xp.where(far, past.reach, one) / xp.where(far, furthest, one)
    mixed = g_new + shrink[:, None] * change

    wait = xp.where(lost, xp.full_like(error, PLAIN_STEPS), past.wait - 1)
    plain = (wait > 0) | (error > FAR) | ~xp.isfinite(furthest)
    g_next = xp.where(plain[:, None], g_new, mixed)
    g_next = xp.where(lost[:, None], past.best_point, g_next)
    best_error = xp.where(lost, xp.full_like(error, xp.inf), xp.where(better, error, past.best_error))
    return g_next, Mixing(moves, bends, g, residual, best_point, best_error, wait, age, past.reach)


def _remember(past: Mixing, move: Array, bend: Array, weight: Array, known: Array) -> tuple[Array, Array]:
    """The windows with a new pair in the place of the oldest one, or emptied where nothing is `known`."""
    xp = namespace(move)
    conjugate = past.age >= LONG
    width = xp.where(conjugate, xp.full_like(past.age, float(min(SHORT, past.window))), float(past.window))
    slot = xp.remainder(past.age, width)
    here = (xp.arange(past.window, dtype=slot.dtype)[None, :] == slot[:, None])[:, :, None]
    kept = (known & (past.age != LONG))[:, None, None] & ~here
    nothing = xp.zeros_like(past.moves)
    moves, bends = (xp.where(kept, v, nothing) for v in (past.moves, past.bends))
    size = _inner(bends, bends, weight)
    for p in range(min(SHORT, past.window)):
        share = _inner(bends[:, p : p + 1, :], bend[:, None, :], weight)[:, 0, :]
        some = conjugate[:, None] & (size[:, p, :] > 0)
        share = xp.where(some, share / xp.where(some, size[:, p, :], xp.ones_like(share)), xp.zeros_like(share))
        move, bend = move - share * moves[:, p, :], bend - share * bends[:, p, :]
    new = here & known[:, None, None]
    return xp.where(new, move[:, None, :], moves), xp.where(new, bend[:, None, :], bends)


def _inner(x: Array, y: Array, weight: Array) -> Array:
    """Σ_j w_j·x_pj·y_pj: ``(B, window, 1)``."""
    return namespace(x).sum(x * y * weight[:, None, :], axis=-1, keepdims=True)
