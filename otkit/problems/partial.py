"""Partial transport as a balanced problem with one more row and one more column.

The last column takes the mass Σa − s that the rows keep, and the last row gives the mass Σb − s that the columns lack,
both at no cost. Between the two nothing moves, so that exactly the mass s moves between the points.

Without a `reg`, weights above 2s are 2s: no plan moves more than half of these, and s is not lost in rounding errors of
much larger totals. The potential of such a point is 0 in both problems.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.geometry.base import GivenGeometry, flatten_batch
from otkit.geometry.bordered import Bordered
from otkit.geometry.stored import StoredArcs
from otkit.kernels import choose, hosted
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem, result_dtype

# With this multiple of the regularisation added to its cost, the corner carries less than e^−700 of the mass.
_FAR = 800.0
# The range of costs that are all equal, relative to them.
_EQUAL = 2.0**-10


class WithBorder(NamedTuple):
    """A balanced problem with one more row and one more column: costs, weights in float64, and the dtype of results.

    ``unit`` is the unit roundoff of that dtype.
    """

    geometry: GivenGeometry
    a: Array
    b: Array
    dtype: Any
    unit: float

    def build(self, reg: Any = None) -> LinearProblem:
        """The problem in its internal form; ``ValueError`` for invalid data, as in `LinearProblem.build`."""
        return self.typed(LinearProblem.build(self.geometry, self.a, self.b, reg, instead="a smaller mass"))

    @property
    def share(self) -> float:
        """The mass that moves, relative to that of the balanced problem: the least of all items."""
        a, b = (to_numpy(arrays.detached(w)) for w in (self.a, self.b))
        return float(np.min((a[..., :-1].sum(-1) - b[..., -1]) / a.sum(-1)))

    def typed(self, problem: LinearProblem) -> LinearProblem:
        """The problem with results of this dtype."""
        return problem if problem.dtype == self.dtype else replace(problem, dtype=self.dtype, unit=self.unit)


def partial_problem(asked: GivenGeometry, a: Any, b: Any, reg: Any, mass: Any) -> WithBorder:
    """The balanced problem whose plan, without its last row and column, moves `mass` at least cost.

    Raises
    ------
    ValueError, TypeError
        If weights or reg are invalid, as in `LinearProblem.build`, or `mass` is not in the range (0, min(Σa, Σb)].
    """
    like = next(iter(asked.arrays.values()))
    a, b = (None if w is None else checks.as_array(w, name, like) for w, name in ((a, "a"), (b, "b")))
    mass = arrays.convert(checks.as_array(np.asarray(mass) if np.isscalar(mass) else mass, "mass", like), like)
    checks.numbers(mass, "mass")
    checks.same_library(**asked.arrays, a=a, b=b, mass=mass)
    hosted(asked).check()
    dtype, unit = result_dtype([*asked.arrays.values(), a, b])
    sides = [weights_of(w, size, name, like) for w, size, name in ((a, asked.n, "a"), (b, asked.m, "b"))]
    moved = _moved(sides, mass, asked)
    if reg is None:
        sides = [namespace(w).minimum(w, 2 * moved[..., None]) for w in sides]
    rest = _rest(sides, moved)
    regs = None if reg is None else checks.regularisation(reg)
    edges = _edges(asked, sides, regs)
    a, b = map(extended, sides, rest)
    return WithBorder(with_border(asked, edges), a, b, dtype, unit)


def with_border(asked: GivenGeometry, edges: tuple[np.ndarray, np.ndarray, np.ndarray]) -> GivenGeometry:
    """The costs with one more row and one more column, of the edges of `Bordered`."""
    if isinstance(asked, StoredArcs):
        return asked.with_border(*edges)
    return Bordered(asked, edges)


def weights_of(w: Array | None, size: int, name: str, like: Array) -> Array:
    """Weights of the caller in float64, in the caller's graph."""
    if w is None:
        return from_numpy(np.full(size, 1 / size), like)
    checks.weights(arrays.detached(w), size, name)
    return arrays.float64(w)


def _moved(sides: list[Array], mass: Array, asked: GivenGeometry) -> Array:
    """The mass that moves in float64, ``(...)``, after a check."""
    moved = arrays.float64(mass)
    lead = {name: tuple(w.shape[:-1]) for name, w in zip("ab", sides, strict=True)}
    checks.batch_shape(costs=asked.batch, **lead, mass=tuple(mass.shape))
    host, total_a, total_b = (to_numpy(arrays.detached(v)) for v in (moved, *map(_total, sides)))
    most = np.minimum(total_a, total_b)
    wrong = ~((host > 0) & (host <= most))
    if wrong.any():
        wrong &= ~((host > 0) & (host <= most * (1 + checks.allowance(mass))))
    if wrong.any():
        worst = [np.broadcast_to(v, wrong.shape)[wrong].flat[0] for v in (host, total_a, total_b)]
        raise ValueError(
            f"mass must be above 0 and at most the smaller total of a and b, got {worst[0]:.9g} and the totals "
            f"{worst[1]:.9g} and {worst[2]:.9g}; pass a part of it, such as {0.9 * min(worst[1:]):.3g}"
        )
    return moved


def _rest(sides: list[Array], moved: Array) -> tuple[Array, Array]:
    """The masses that the columns lack and that the rows keep, ``(...)``."""
    kept_a, kept_b = (_total(w) - moved for w in sides)
    xp = namespace(moved)
    rest_a, rest_b = (xp.where(v > 0, v, 0.0 * v) for v in (kept_b, kept_a))
    return rest_a, rest_b


def _total(w: Array) -> Array:
    return namespace(w).sum(w, axis=-1)


def extended(w: Array, rest: Array) -> Array:
    """Weights with one more entry, ``(..., n + 1)``."""
    xp, batch = namespace(w), np.broadcast_shapes(tuple(w.shape[:-1]), tuple(rest.shape))
    return xp.concat([xp.broadcast_to(w, (*batch, w.shape[-1])), xp.broadcast_to(rest, batch)[..., None]], axis=-1)


def _edges(
    asked: GivenGeometry, sides: list[Array], reg: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The costs of the last column, the last row and the corner, ``(..., 1)`` each.

    A corner that costs more than −min C would only add to the mass that moves, and to the cost. It exceeds this by the
    range of the costs, so that it neither matters nor spoils their resolution.
    """
    if isinstance(asked, StoredArcs):
        return np.zeros(1), np.zeros(1), np.full(1, np.inf)
    hosts = [to_numpy(arrays.detached(w)) for w in sides]
    batch = checks.batch_shape(costs=asked.batch, a=hosts[0].shape[:-1], b=hosts[1].shape[:-1])
    flat = hosted(asked.detached()).flat(batch)
    items = int(np.prod(batch))
    has = [np.broadcast_to(flatten_batch(w, batch, 1) > 0, (items, w.shape[-1])) for w in hosts]
    inside = next(iter(flat.arrays.values()))
    found = choose(flat).cost_range(flat, *(from_numpy(np.ascontiguousarray(w), inside) for w in has))
    low, high = (to_numpy(v).reshape(batch) for v in (found.low, found.high))
    if (high == -np.inf).any():
        raise ValueError(
            "some costs between points with mass must be finite, got only infinite (forbidden) ones; allow an arc"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # refused later
        corner = np.vectorize(corner_cost, otypes=[float])(low, high) + (0.0 if reg is None else _FAR * reg)
    corner = corner[..., None]
    return np.zeros_like(corner), np.zeros_like(corner), corner


def corner_cost(low: float, high: float) -> float:
    """The cost of the corner, from the range of the costs. It exceeds −min C by this range, also where it is 0."""
    return (high - low if high > low else _EQUAL * abs(high) or 1.0) - low


def moved_mass(given: Given) -> Array:
    """The mass that moves, ``(...)`` in float64 in the caller's graph, from the weights of the balanced problem."""
    return namespace(given.a).sum(given.a[..., :-1], axis=-1) - given.b[..., -1]
