"""Total-variation penalties on the marginals, as a balanced problem with one more row and one more column.

A unit that a row keeps goes to the last column at the cost ρ_a, and a unit that a column lacks comes from the last row
at the cost ρ_b. The corner is free, and the last row and column have the totals of the other side.

A marginal may also exceed its weights. A column then gets a unit from a row beyond its weight, for ρ_a and the cost of
the arc, where this is less than ρ_b; and a row sends one to a column beyond its weight. The edges have the smaller of
the two costs. A unit beyond the weights of both sides would cost C_ij + ρ_a + ρ_b, which must not be negative.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from otkit import checks
from otkit.arrays import from_numpy, namespace, requires_grad, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.geometry.stored import StoredArcs
from otkit.kernels import choose, hosted
from otkit.problems.linear import result_dtype
from otkit.problems.partial import WithBorder, extended, weights_of, with_border
from otkit.problems.penalties import penalty_pair

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


class Variation(NamedTuple):
    """The penalties ρ_a and ρ_b ``(B,)``, and whether some edges are less than them."""

    rho_a: np.ndarray
    rho_b: np.ndarray
    exceeds: bool


def variation_problem(asked: GivenGeometry, a: Any, b: Any, unbalanced: Any) -> tuple[WithBorder, Variation]:
    """The balanced problem whose value is min ⟨C, P⟩ + ρ_a·‖P1 − a‖₁ + ρ_b·‖Pᵀ1 − b‖₁.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid, as in `LinearProblem.build`, a penalty is not finite, or there is no minimum.
    """
    like = next(iter(asked.arrays.values()))
    a, b = (None if w is None else checks.as_array(w, name, like) for w, name in ((a, "a"), (b, "b")))
    checks.same_library(**asked.arrays, a=a, b=b)
    hosted(asked).check()
    dtype, unit = result_dtype([*asked.arrays.values(), a, b])
    a, b = (weights_of(w, size, name, like) for w, size, name in ((a, asked.n, "a"), (b, asked.m, "b")))
    rho = _penalties(unbalanced)
    batch = checks.batch_shape(
        costs=asked.batch,
        a=tuple(a.shape[:-1]),
        b=tuple(b.shape[:-1]),
        unbalanced=np.broadcast_shapes(*map(np.shape, rho)),
    )
    edges, exceeds = _edges(asked, *rho)
    xp = namespace(a)
    weights = extended(a, xp.sum(b, axis=-1)), extended(b, xp.sum(a, axis=-1))
    problem = WithBorder(with_border(asked, edges), *weights, dtype, unit)
    rho_a, rho_b = (np.broadcast_to(r, batch).reshape(math.prod(batch)) for r in rho)
    return problem, Variation(rho_a, rho_b, exceeds)


def _penalties(unbalanced: Any) -> tuple[np.ndarray, np.ndarray]:
    """ρ of the rows and of the columns: finite, and numbers without gradients."""
    if any(map(requires_grad, unbalanced if isinstance(unbalanced, tuple) else (unbalanced,))):
        raise ValueError("unbalanced has no gradient with penalty='tv'; pass unbalanced.detach()")
    rho = penalty_pair(unbalanced)
    if not all(np.isfinite(r).all() for r in rho):
        raise ValueError(
            "unbalanced must be finite with penalty='tv', got inf; pass a penalty above the costs, or drop it"
        )
    return rho


def _edges(asked: GivenGeometry, rho_a: np.ndarray, rho_b: np.ndarray) -> tuple[Edges, bool]:
    """The costs of the last column, the last row and the corner, and whether some are less than the penalties."""
    if isinstance(asked, StoredArcs) and (rho_a.ndim or rho_b.ndim):
        raise ValueError("unbalanced must be a number, or a pair of them, for a sparse matrix; call solve for each")
    right, below, corner = rho_a[..., None], rho_b[..., None], np.zeros(1)
    if asked.non_negative and np.array_equal(rho_a, rho_b):
        return (right, below, corner), False
    by_row, by_col = (_least(side) for side in (asked, asked.T))
    if not (by_row.min(-1) + rho_a + rho_b >= 0).all():
        raise ValueError(
            "costs must be at least −(rho_a + rho_b), or more mass would always cost less, got a cost of "
            f"{by_row.min():g}; raise unbalanced="
        )
    edges = np.minimum(right, below + by_row), np.minimum(below, right + by_col)
    exceeds = bool((edges[0] < right).any() or (edges[1] < below).any())
    if not exceeds:
        return (right, below, corner), False
    if any(map(requires_grad, asked.arrays.values())):
        raise ValueError(
            "costs have no gradient where a marginal may exceed its weights, for less than the other penalty; pass one "
            "penalty for both sides and non-negative costs, or detach the costs"
        )
    return (*edges, corner), True


def _least(asked: GivenGeometry) -> np.ndarray:
    """The smallest cost of each row, inf where all arcs are forbidden: ``(..., n)``."""
    flat = hosted(asked.detached()).flat(asked.batch)
    inside = next(iter(flat.arrays.values()))
    items = math.prod(asked.batch)
    has = [from_numpy(np.ones((items, size), dtype=bool), inside) for size in (asked.n, asked.m)]
    found = choose(flat).cost_range(flat, *has)
    least = np.where(to_numpy(found.reach_a), to_numpy(found.row), np.inf)
    return least.reshape(*asked.batch, asked.n)
