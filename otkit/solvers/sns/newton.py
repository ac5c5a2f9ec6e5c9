"""The Newton step of Sinkhorn-Newton-Sparse, with a sparsified plan in the Hessian (Tang et al., ICLR 2024).

The rows are always exact: f is the optimal potential of the rows for g, and the dual is maximised over g alone. With
the row masses r, the column masses c, the plan P, and the optimal masses t of the columns at g, the gradient is
``t − c`` and

    −reg·Hessian = diag(c + t·reg/ρ_b) − Pᵀ·diag(1/(r·(1 + reg/ρ_a)))·P,

the Schur complement of the Hessian in both potentials. At a small regularisation few entries of P carry nearly all of
the mass. Only these are used, with the exact c and r, so the matrix stays positive definite whatever is dropped.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from otkit.arrays import Array, from_numpy, to_numpy
from otkit.geometry.costs import UNIT
from otkit.linalg.cg import Memory, Solution, solve_coupled
from otkit.problems.linear import LinearProblem
from otkit.solvers.sns.dual import Entries, Point, SparseHessian, evaluate, row_masses

# Maximum relative tolerance of conjugate gradients. The tolerance is the square root of the error if that is smaller.
_FORCING = 0.1
# Constant of Armijo's condition, and the shortest step relative to the longest.
_RISE, _SHORTEST = 1e-4, 1e-3


def direction(
    part: LinearProblem, at: Point, reg: Array, listed: Entries, drop: float, shift: float, memory: Memory
) -> tuple[np.ndarray, Solution, SparseHessian]:
    """The Newton step of g, ``(m,)``, with a sparsified plan and a multiple of the diagonal added to the matrix."""
    keep_a, keep_b = (float(keep[0]) for keep in part.penalties.keep(reg))
    target = np.zeros_like(at.target) if keep_b == 1 else at.target
    # The diagonal is r·(1 + reg/ρ_a) and c + t·reg/ρ_b. Scaling by its inverse root from both sides makes it 1.
    diagonals = row_masses(part, at.f) / keep_a, at.masses + target * (1 / keep_b - 1)
    roots = diagonals[0] ** 0.5, diagonals[1] ** 0.5  # the scaled constant potentials f = 1, g = −1, up to sign
    halves = [np.divide(1.0, root, out=np.ones_like(root), where=root > 0) for root in roots]
    sparse = listed.scaled(part, at, reg, halves, drop)
    found = solve_coupled(
        sparse.matrix,
        at.gradient * halves[1],
        shift + 8 * UNIT * (1 + float(part.span[0] / reg[0])),  # covers the rounding of exponents
        min(_FORCING, at.error**0.5),
        partial(part.kernels.conjugate_gradients, memory=memory),
        roots,
    )
    with np.errstate(over="ignore", invalid="ignore"):  # a step that overflows is not taken
        move = float(reg[0]) * found.y * halves[1]
        if part.balanced[0]:  # a constant has no effect
            b = to_numpy(part.b)[0]
            move = np.where(b > 0, move - b @ move / b.sum(), 0.0)
    return move, found, sparse


@np.errstate(over="ignore", invalid="ignore")  # along a move as long as large penalties
def search(part: LinearProblem, at: Point, reg: Array, move: np.ndarray, goal: float) -> tuple[Point, bool]:
    """A point of sufficiently larger dual value, by a step along `move` or a sweep; also whether the step was long."""
    furthest = float(abs(move).max())
    slope = float(at.gradient @ move) if furthest < np.inf else 0.0
    step = longest = min(1.0, float(part.span[0]) / furthest) if furthest > 0 else 1.0
    while slope > 0 and step > _SHORTEST * longest:
        trial = evaluate(part, at.f, at.g + from_numpy(step * move[None], at.g), reg, goal, at.listed)
        # The dual is concave: if it still rises at the end of a step, it has risen along all of it. This criterion
        # works even if the difference of the dual values is below rounding.
        if _rise(part, at, trial, reg) >= _RISE * step * slope or trial.gradient @ move >= 0:
            return trial, step >= 0.25
        step /= 2
    return evaluate(part, at.f, at.following, reg, goal, at.listed), False


@np.errstate(over="ignore")  # far below, the dual of penalties has no bound
def _rise(part: LinearProblem, at: Point, to: Point, reg: Array) -> float:
    """Difference of the dual between two points, computed from differences only, to avoid cancellation."""
    rho_a, rho_b = float(part.penalties.rho_a[0]), float(part.penalties.rho_b[0])
    a, move_f, move_g = (to_numpy(v)[0] for v in (part.a, to.f - at.f, to.g - at.g))
    b = to_numpy(part.b)[0]
    if rho_a == np.inf:  # the total mass does not change
        sides = a @ move_f
    else:  # the terms of f and of −reg times the mass P1 = a·exp(−f/ρ_a)
        sides = -(rho_a + float(reg[0])) * (row_masses(part, at.f) @ np.expm1(-move_f / rho_a))
    return sides + (b @ move_g if rho_b == np.inf else -rho_b * (at.target @ np.expm1(-move_g / rho_b)))
