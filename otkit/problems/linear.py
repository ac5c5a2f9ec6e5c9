"""The linear problem: costs, weights, penalties and a regularisation, validated and in one internal form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import CostRange
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, hosted
from otkit.problems.given import Given
from otkit.problems.line import line_range


@dataclass(frozen=True)
class LinearProblem:
    """The problem min over plans P of ⟨C, P⟩ + reg·KL(P | a⊗b) + ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b).

    In the internal form, arrays have one leading axis of items and are float64. Arrays in host memory are NumPy arrays.
    Costs are *reduced* by one c-transform of each side: they are non-negative with a zero in every row and column, so
    offsets of the cost do not matter. Balanced items (both ρ infinite: exact marginals) have mass 1. The masses
    of other items matter and are unchanged.

    Attributes
    ----------
    given : Given
        The caller's inputs.
    asked : GivenGeometry
        The caller's geometry, detached from autograd's graph.
    geometry : GivenGeometry
        `asked` as a flat geometry.
    reduced : Reduced
        The flat geometry of reduced costs, on which solvers work.
    kernels : Kernels
        The operations for this geometry.
    a, b : array (B, n), (B, m)
        Weights; those of balanced items sum to 1.
    reg : array (B,) or None
        In units of the cost; None for the unregularised problem.
    penalties : Penalties
        The penalties on the marginals.
    balanced : numpy array of bool (B,)
        Whether both marginals are exact.
    mass : numpy array (B,)
        The mass of a balanced item before normalisation, the mean of the two sides; 1 for other items.
    rescaled : numpy array (B,)
        The relative difference of the masses of the two sides that normalisation removed as rounding.
    span, low, high : numpy array (B,)
        The largest reduced cost, and the smallest and largest cost, over the finite arcs between points with mass.
    forbidden : numpy array of bool (B,)
        Whether some arc between points with mass has an infinite cost.
    batch : tuple of int
        The batch axes of results.
    dtype : dtype
        The dtype of results.
    unit : float
        The unit roundoff of that dtype.
    """

    given: Given
    asked: GivenGeometry
    geometry: GivenGeometry
    reduced: Reduced
    kernels: Kernels
    a: Array
    b: Array
    reg: Array | None
    penalties: Penalties
    balanced: np.ndarray
    mass: np.ndarray
    rescaled: np.ndarray
    span: np.ndarray
    low: np.ndarray
    high: np.ndarray
    forbidden: np.ndarray
    batch: tuple[int, ...]
    dtype: Any
    unit: float

    @staticmethod
    @np.errstate(over="ignore", invalid="ignore")  # overflow is refused by the checks
    def build(
        asked: GivenGeometry, a: Any = None, b: Any = None, reg: Any = None, unbalanced: Any = None
    ) -> LinearProblem:
        """Validate the data, and convert them to the internal form.

        Raises
        ------
        ValueError, TypeError
            If the data are invalid. The message says what must hold, what was passed and what to do.
        """
        a, b = (None if w is None else checks.as_array(w, name) for w, name in ((a, "a"), (b, "b")))
        given = Given(asked, a, b, reg, unbalanced)
        asked, a, b = asked.detached(), arrays.detached(a), arrays.detached(b)
        asked.check()
        checks.same_library(**asked.arrays, a=a, b=b)
        for w, size, name in ((a, asked.n, "a"), (b, asked.m, "b")):
            if w is not None:
                checks.weights(w, size, name)
        reg = None if reg is None else checks.regularisation(reg)
        rho = checks.penalties(unbalanced, reg)
        batch = checks.batch_shape(
            costs=asked.batch,
            a=() if a is None else tuple(a.shape[:-1]),
            b=() if b is None else tuple(b.shape[:-1]),
            reg=() if reg is None else reg.shape,
            unbalanced=np.broadcast_shapes(*(r.shape for r in rho)),
        )
        dtype, unit = _result_dtype([*asked.arrays.values(), a, b])
        geometry = hosted(asked).flat(batch)
        kernels = choose(geometry)
        like = next(iter(geometry.arrays.values()))
        rho_a, rho_b = (_by_item(r, batch) for r in rho)
        balanced = (rho_a == np.inf) & (rho_b == np.inf)

        a, mass_a = _normalised(a, asked.n, batch, balanced, like)
        b, mass_b = _normalised(b, asked.m, batch, balanced, like)
        uniform = given.a is None and given.b is None
        rescaled = np.zeros(balanced.size) if uniform else checks.equal_mass(mass_a, mass_b, unit)
        costs = _cost_range(kernels, geometry, a > 0, b > 0, sorts=reg is None and geometry.convex_on_line)
        _check_costs(asked, costs, a, b)
        return LinearProblem(
            given=given,
            asked=asked,
            geometry=geometry,
            reduced=Reduced(geometry, costs.row, costs.col),
            kernels=kernels,
            a=a,
            b=b,
            reg=None if reg is None else from_numpy(_by_item(reg, batch), like),
            penalties=Penalties(from_numpy(rho_a, like), from_numpy(rho_b, like)),
            balanced=balanced,
            mass=mass_a / 2 + mass_b / 2,
            rescaled=rescaled,
            span=to_numpy(costs.span),
            low=to_numpy(costs.low),
            high=to_numpy(costs.high),
            forbidden=to_numpy(costs.forbidden),
            batch=batch,
            dtype=dtype,
            unit=unit,
        )

    @cached_property
    def log_a(self) -> Array:
        """Logarithms of the weights of the rows, −inf where there is no mass: ``(B, n)``."""
        return arrays.log(self.a)

    @cached_property
    def log_b(self) -> Array:
        """Logarithms of the weights of the columns, −inf where there is no mass: ``(B, m)``."""
        return arrays.log(self.b)

    @property
    def items(self) -> int:
        """Number of problems in the batch."""
        return self.a.shape[0]

    def take(self, items: np.ndarray) -> LinearProblem:
        """The problem restricted to the items of these indices."""
        if items.size == self.items:
            return self
        taken = arrays.take(tuple(getattr(self, name) for name in _BY_ITEM), items)
        geometry, reduced = self.geometry.take(items), self.reduced.take(items)
        return replace(
            self, geometry=geometry, reduced=reduced, batch=(items.size,), **dict(zip(_BY_ITEM, taken, strict=True))
        )

    def inside(self, x: Array) -> Array:
        """An array of the caller in the library of the internal form."""
        return arrays.hosted(x) if isinstance(self.a, np.ndarray) else x

    @property
    def like(self) -> Array:
        """An array of the caller, as a reference for library and device."""
        return next(iter(self.asked.arrays.values()))

    def as_given(self, x: Array) -> Array:
        """An array ``(B, …)`` of the internal form in the library and dtype of the input, with the batch axes."""
        x = arrays.convert(namespace(x).reshape(x, (*self.batch, *x.shape[1:])), self.like)
        return namespace(x).astype(x, self.dtype, copy=False)

    def columns(self, v: Any, size: int, name: str) -> tuple[Array, tuple[int, ...]]:
        """Vectors of the caller as ``(B, size, k)`` in float64, and the trailing axes (none or k) of the result."""
        v = arrays.detached(checks.as_array(v, name))
        checks.same_library(**{name: v, "the problem": self.like})
        v = self.inside(v)
        xp = namespace(v)
        is_vector = v.ndim == 1 or tuple(v.shape) == (*self.batch, size)
        columns = v[..., None] if is_vector else v
        if columns.ndim < 2 or columns.shape[-2] != size:
            raise ValueError(f"{name} must have shape (..., {size}) or (..., {size}, k), got shape {tuple(v.shape)}")
        k = columns.shape[-1]
        columns = arrays.float64(xp.broadcast_to(columns, (*self.batch, size, k)))
        return xp.reshape(columns, (self.items, size, k)), () if is_vector else (k,)

    @property
    def size(self) -> np.ndarray:
        """½(Σa + Σb), the divisor of errors: ``(B,)``."""
        xp = namespace(self.a)
        return to_numpy(xp.sum(self.a, axis=-1) + xp.sum(self.b, axis=-1)) / 2

    def centred(self, f: Array, g: Array) -> tuple[Array, Array]:
        """Potentials of the same plan with ⟨a, f⟩ = ⟨b, g⟩; potentials of unbalanced items are unique and unchanged."""
        xp = namespace(f)
        shift = (xp.sum(self.b * g, axis=-1) - xp.sum(self.a * f, axis=-1)) / 2
        shift = xp.where(from_numpy(self.balanced, f), shift, xp.zeros_like(shift))
        return f + shift[:, None], g - shift[:, None]

    def update_rows(self, g: Array, reg: Array) -> Array:
        """The potential of the rows, by half an iteration from the potential of the columns."""
        keep = self.penalties.keep(reg)[0][:, None]
        return keep * self.kernels.softmin(self.reduced, g, self.log_b, reg) - (1 - keep) * self.reduced.row

    def update_columns(self, f: Array, reg: Array) -> Array:
        """The potential of the columns, by half an iteration from the potential of the rows."""
        keep = self.penalties.keep(reg)[1][:, None]
        return keep * self.kernels.softmin(self.reduced.T, f, self.log_a, reg) - (1 - keep) * self.reduced.col

    def at(self, f: Array, g: Array, reg: Array) -> Potentials:
        """A point of the dual of the reduced problem."""
        return Potentials(f, g, self.log_a, self.log_b, reg)


_BY_ITEM = (
    *("a", "b", "reg", "penalties"),
    *("balanced", "mass", "rescaled", "span", "low", "high", "forbidden"),
)


def _by_item(x: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """One number for each item, or the same for all: ``(B,)``."""
    return np.full(math.prod(batch), x) if x.ndim == 0 else np.broadcast_to(x, batch).reshape(-1)


def _all(*conditions: Array) -> bool:
    return all(map(arrays.every, conditions))


def _cost_range(kernels: Kernels, geometry: GivenGeometry, has_a: Array, has_b: Array, *, sorts: bool) -> CostRange:
    """Offsets and bounds of the costs, after a check that costs are numbers. With `sorts`, costs are not evaluated."""
    if sorts and geometry.cloud is not None:
        return line_range(geometry.cloud, has_a, has_b)
    costs = kernels.cost_range(geometry, has_a, has_b)
    # If every point has mass, the pass for `costs` has read all costs, and its results show whether all are finite.
    if not (_all(has_a, has_b, ~costs.forbidden, costs.low > -np.inf) or kernels.are_costs(geometry)):
        raise ValueError(
            "costs must be numbers or +inf (a forbidden arc), got NaN or -inf; correct them, or pass inf to forbid"
        )
    return costs


def _check_costs(asked: GivenGeometry, costs: CostRange, a: Array, b: Array) -> None:
    xp = namespace(a)
    overflow = asked.non_negative and not arrays.every(~costs.forbidden)  # metrics have no forbidden arcs
    if overflow or not arrays.every(costs.high - costs.low < xp.inf):
        raise ValueError("costs must be finite in float64, but their range overflows; divide the data by a constant")
    for weight, reach, name, side in ((a, costs.reach_a, "a", "row"), (b, costs.reach_b, "b", "column")):
        if arrays.every(reach):
            continue
        stranded = (weight > 0) & ~reach
        if xp.any(stranded):
            item, k = (int(v[0]) for v in xp.nonzero(stranded))
            raise ValueError(
                f"every {side} that carries mass must have a finite cost to some point with mass, but {side} {k} "
                f"(of item {item}) has {name} = {float(weight[item, k]):g} and only infinite costs; "
                f"set its weight to 0 or allow an arc"
            )


def _result_dtype(given: list[Array | None]) -> tuple[Any, float]:
    """The widest floating dtype of the arrays, or float64 if all are integers, and its unit roundoff."""
    present = [x for x in given if x is not None]
    return _widest(namespace(*present), frozenset(x.dtype for x in present))


@cache
def _widest(xp: Any, dtypes: frozenset[Any]) -> tuple[Any, float]:
    floating = [dtype for dtype in dtypes if xp.isdtype(dtype, "real floating")]
    dtype = xp.result_type(*floating) if floating else xp.float64
    # Half precision is computed like float32. Only the results are rounded to it.
    return dtype, UNIT if dtype == xp.float64 else 2.0**-24


def _normalised(
    w: Array | None, size: int, batch: tuple[int, ...], balanced: np.ndarray, like: Array
) -> tuple[Array, np.ndarray]:
    """Weights ``(B, size)`` in float64, with total 1 for balanced items, and the divisors used for it."""
    xp, items = namespace(like), balanced.size
    if w is None:
        return from_numpy(np.full((items, size), 1 / size), like), np.ones(items)
    w = arrays.float64(arrays.hosted(w) if isinstance(like, np.ndarray) else w)
    if w.ndim > 1 or batch:
        w = xp.broadcast_to(w, (*batch, size))
    w = xp.reshape(w, (items, size))
    # NumPy sums pairwise over a contiguous axis, so the total does not depend on library and layout.
    total = from_numpy(np.ascontiguousarray(to_numpy(w)).sum(-1), like)
    total = xp.where(from_numpy(balanced, like), total, xp.ones_like(total))
    return w / total[:, None], to_numpy(total)
