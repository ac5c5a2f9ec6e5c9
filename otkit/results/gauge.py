"""The gauge: the constant shift between the potentials on every connected component."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.geometry.base import Geometry, finite_arcs
from otkit.linalg.trees import components
from otkit.problems.linear import LinearProblem
from otkit.results.solved import Solved, kept


@kept
def gauged(result: Solved) -> tuple[Array, Array]:
    """Potentials in units of the cost, ``(B, n)`` and ``(B, m)``, of equal means on every connected component.

    Of partial transport they are relative to those of the last row and column, and at most 0; with total-variation
    penalties of at most their size.
    """
    if result.whole is not None:
        return _inner(result, *gauged(result.whole))
    problem, out = result.problem, result.outcome
    f, g = out.f + problem.reduced.row, out.g + problem.reduced.col
    if not (problem.forbidden & problem.balanced).any():
        return problem.centred(f, g)
    problem.check_costs()
    f, g = (from_numpy(v, problem.a) for v in _by_component(problem, to_numpy(f), to_numpy(g)))
    # A point without mass may have arcs to several components, so its potential is recomputed.
    reg, xp = conditional_reg(result), namespace(f)
    new_f = problem.kernels.softmin(problem.geometry, g, problem.log_b, reg)
    new_g = problem.kernels.softmin(problem.geometry.T, f, problem.log_a, reg)
    penalised = from_numpy(~problem.balanced[:, None], f)
    return xp.where((problem.a > 0) | penalised, f, new_f), xp.where((problem.b > 0) | penalised, g, new_g)


def relative(f: Array, g: Array, most_f: Any = 0.0, most_g: Any = 0.0) -> tuple[Array, Array]:
    """Potentials ``(..., n + 1)`` and ``(..., m + 1)`` relative to the last ones, which are those of mass that stays.

    Points without mass may stay too, which the last ones without mass do not see: potentials are at most the penalty
    of mass that stays.
    """
    f, g = f[..., :-1] + g[..., -1:], g[..., :-1] + f[..., -1:]
    xp = namespace(f)
    return xp.where(f < most_f, f, most_f + 0.0 * f), xp.where(g < most_g, g, most_g + 0.0 * g)


def _inner(result: Solved, f: Array, g: Array) -> tuple[Array, Array]:
    """The potentials of partial transport, or with total-variation penalties, from those with one more on each side."""
    if result.variation is None:
        return relative(f, g)
    problem, xp = result.problem, namespace(f)
    rho_a, rho_b = (from_numpy(r[:, None], f) for r in result.variation[:2])
    # If the corner moves no mass, the last potentials may leave room. Points without mass are then below their largest
    # potential by this room, and perhaps below −ρ.
    room = -(f[:, -1:] + g[:, -1:])
    f, g = relative(f, g, rho_a, rho_b)
    return (
        xp.where(problem.a > 0, f, xp.minimum(f + room, rho_a)),
        xp.where(problem.b > 0, g, xp.minimum(g + room, rho_b)),
    )


def price(result: Solved) -> Array:
    """The derivative of the optimal value of partial transport by its mass, ``(B,)``."""
    assert result.whole is not None
    f, g = gauged(result.whole)
    return -(f[:, -1] + g[:, -1])


def conditional_reg(result: Solved) -> Array:
    """The regularisation of the conditional plan, ``(B,)``; negligibly small if the problem is unregularised."""
    if result.outcome.reg is not None:
        return result.outcome.reg
    problem = result.problem
    span = np.where(problem.span > 0, problem.span, 1.0)
    return from_numpy(1e-12 * span, problem.a)


def components_with_mass(geometry: Geometry, item: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels of `otkit.linalg.trees.components` for the finite arcs between points with mass."""
    rows, cols = finite_arcs(geometry, item)
    carries = (a[rows] > 0) & (b[cols] > 0)
    return components(geometry.n, geometry.m, rows[carries], cols[carries])


def _by_component(problem: LinearProblem, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    f, g = f.copy(), g.copy()
    geometry = problem.reduced.to_numpy()
    for k in np.flatnonzero(problem.balanced):
        rows, cols = components_with_mass(geometry, int(k), a[k], b[k])
        for label in np.unique(rows[a[k] > 0]):
            r, c = rows == label, cols == label
            mean_f, mean_g = np.average(f[k, r], weights=a[k, r]), np.average(g[k, c], weights=b[k, c])
            f[k, r] += (mean_g - mean_f) / 2
            g[k, c] -= (mean_g - mean_f) / 2
    return f, g
