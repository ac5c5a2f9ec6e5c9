"""Guarded Anderson acceleration of Sinkhorn iterations.

A sweep shrinks each mode of the error by a factor of its own, and a few slow modes cost nearly all the iterations. The
next point is the combination of the last points whose residuals have the smallest norm (Anderson 1965; Walker & Ni
2011), which removes these modes. If more modes are slow than the window has directions, each new direction is made
conjugate to the last few. In the inner product weighted by the masses, a sweep is symmetric, so near the solution a
short memory is as good as a complete one (Wei, Bao & Liu 2022).

Far from the solution mixing may diverge. If the error rises above twice its smallest value, the item returns to the
best point and takes plain steps. Plain sweeps never raise the L1 error, so this costs at most a constant factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from otkit.arrays import Array, full, namespace, zeros

# Number of residuals that are combined.
WINDOW = 30
# After LONG iterations more modes are slow than a window has directions. SHORT conjugate directions then do better.
LONG, SHORT = 1000.0, 4
# Ridge added to the scaled Gram matrix. It suppresses directions of relative singular value below its square root.
RIDGE = 1e-12
# Above this error the iteration is far from linear and is not mixed.
FAR = 0.5
# Restart from the best point if the error exceeds the smallest one by this factor; plain steps after a restart.
WORSE = 2.0
PLAIN_STEPS = 3.0


@dataclass(frozen=True)
class Mixing:
    """History of the acceleration of each item.

    Attributes
    ----------
    moves, bends : array (B, window, m)
        Differences between the results of successive plain steps (moves), and between their residuals (bends), as a
        ring buffer. Empty slots are zero. With a window of 0 nothing is mixed.
    point, residual : array (B, m)
        The last point and its residual.
    best_point, best_error : array (B, m), (B,)
        The smallest error so far, and the point one plain step after the point that had it.
    wait : array (B,)
        Number of plain steps before the next combination; negative once there are differences to combine.
    age : array (B,)
        Number of differences written.
    reach : array (B,)
        Largest distance of a combination from the plain step, in the maximum norm.
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
        """Number of residuals that are combined."""
        return self.moves.shape[1]

    @staticmethod
    def begin(g: Array, reach: Array, window: int = WINDOW) -> Mixing:
        """An empty history."""
        items, m = g.shape
        empty = zeros((items, window, m), g)
        inf, wait, age = (full((items,), v, g) for v in (math.inf, PLAIN_STEPS, 0.0))
        return Mixing(
            moves=empty, bends=empty, point=g, residual=g, best_point=g, best_error=inf, wait=wait, age=age, reach=reach
        )


def mix(
    past: Mixing, g: Array, g_new: Array, error: Array, weight: Array, *, balanced: bool = True
) -> tuple[Array, Mixing]:
    """The next point and the updated history, given the points before and after a plain step and the error before it.

    ``weight (B, m)``, the masses of the columns, defines the inner product of residuals. Where problems are `balanced`,
    or a plain step ends with the best constant, mixing leaves the constant of a point alone.
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
    # A constant does not change the plan, and nothing bounds it. The same holds for columns without mass.
    mean = xp.sum(weight * change, axis=-1, keepdims=True) / xp.sum(weight, axis=-1, keepdims=True)
    mean = mean if balanced else 0.0 * mean
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
    return g_next, Mixing(
        moves=moves,
        bends=bends,
        point=g,
        residual=residual,
        best_point=best_point,
        best_error=best_error,
        wait=wait,
        age=age,
        reach=past.reach,
    )


def _remember(past: Mixing, move: Array, bend: Array, weight: Array, known: Array) -> tuple[Array, Array]:
    """The windows with the oldest pair replaced by a new one, or emptied where no pair is `known`."""
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
