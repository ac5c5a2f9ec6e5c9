"""The linear problem: costs, weights, penalties and a regularisation, validated and in one internal form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, deferrable, from_numpy, full, namespace, to_numpy
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import CostRange
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels import Kernels, choose, held, hosted
from otkit.problems.fingerprint import Fingerprint
from otkit.problems.given import Given
from otkit.problems.penalties import given_penalties
from otkit.problems.ranges import cost_range


@dataclass(frozen=True)
class LinearProblem:
    """The problem min over plans P of ⟨C, P⟩ + reg·KL(P | a⊗b) + ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b).

    In the internal form, arrays have one leading axis of items and are float64. Arrays in host memory are NumPy arrays.
    Costs are *reduced* by one c-transform of each side: they are non-negative with a zero in every row and column, so
    offsets of the cost do not matter. Balanced items (both ρ infinite: exact marginals) have mass 1. The masses
    of other items matter and are unchanged. Weights and reduced costs may be given as values for `later`.

    Attributes
    ----------
    given : Given
        The caller's inputs.
    fingerprint : Fingerprint or None
        The mark of a cost matrix, which is the caller's own; None for points.
    asked : GivenGeometry
        The caller's geometry, detached from autograd's graph, with points of its own.
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
    idle : tuple of array (B, n) and (B, m), or None
        Weights of points of penalised sides that no arc reaches, at their places. They are 0 in `a` and `b`: such
        points stay empty, at the cost of their penalty. None if there are none.
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
    fingerprint: Fingerprint | None
    asked: GivenGeometry
    geometry: GivenGeometry
    reduced: Reduced
    kernels: Kernels
    a: Array
    b: Array
    reg: Array | None
    penalties: Penalties
    balanced: np.ndarray
    idle: tuple[Array, Array] | None
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
        asked: GivenGeometry,
        a: Any = None,
        b: Any = None,
        reg: Any = None,
        unbalanced: Any = None,
        *,
        instead: str = "unbalanced=",
        reduces: bool = True,
    ) -> LinearProblem:
        """Validate the data, and convert them to the internal form.

        `instead` is what the call takes where marginals cannot be met, if anything. `reduces` says whether offsets
        reduce costs that trees search.

        Raises
        ------
        ValueError, TypeError
            If the data are invalid. The message says what must hold, what was passed and what to do.
        """
        like = next(iter(asked.arrays.values()))
        a, b = (None if w is None else checks.as_array(w, name, like) for w, name in ((a, "a"), (b, "b")))
        owned = asked.owned()
        given = Given.of(asked, owned, (a, b), reg, unbalanced)
        asked, a, b = owned, arrays.detached(a), arrays.detached(b)
        checks.same_library(**asked.arrays, a=a, b=b)
        dtype, unit = result_dtype([*asked.arrays.values(), a, b])
        geometry, a, b, like = _at_hand(asked, a, b)
        reg = None if reg is None else checks.regularisation(reg)
        rho = given_penalties(unbalanced)
        batch = checks.batch_shape(
            costs=asked.batch,
            **{name: () if w is None else tuple(w.shape[:-1]) for name, w in (("a", a), ("b", b))},
            reg=() if reg is None else reg.shape,
            unbalanced=np.broadcast_shapes(*(r.shape for r in rho)),
        )
        geometry = geometry.flat(batch)
        kernels = choose(geometry, a, b, reg, *rho)
        rho_a, rho_b = (_by_item(r, batch) for r in rho)
        balanced, weights = (rho_a == np.inf) & (rho_b == np.inf), (a, b)
        a, mass_a = _normalised(a, asked.n, batch, balanced, like)
        b, mass_b = _normalised(b, asked.m, batch, balanced, like)
        rescaled = checks.equal_mass(mass_a, mass_b, *weights, otherwise=instead and f"pass {instead}")
        matrix, reg = (None, None) if reg is None else (held(kernels, geometry), _by_item(reg, batch))
        costs = cost_range(kernels, geometry, matrix, a > 0, b > 0, bounded=reg is None, reduces=reduces)
        a, b, idle = _reached(costs, (a, b), (rho_a, rho_b), instead)
        checks.resolved(reg, 8 * UNIT * to_numpy(costs.span), balanced)
        return LinearProblem(
            given=given,
            fingerprint=Fingerprint.of_costs(geometry),
            asked=asked,
            geometry=geometry,
            reduced=Reduced(geometry, costs.row, costs.col, held=matrix),
            kernels=kernels,
            a=a,
            b=b,
            reg=None if reg is None else from_numpy(reg, like),
            penalties=Penalties(from_numpy(rho_a, like), from_numpy(rho_b, like)),
            balanced=balanced,
            idle=idle,
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

    def check_costs(self) -> None:
        """Raise ``RuntimeError`` if the costs have changed since the solve; before a result reads them."""
        if self.fingerprint is not None:
            self.fingerprint.check()

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
        return self.mass.size

    def take(self, items: np.ndarray) -> LinearProblem:
        """The problem restricted to the items of these indices."""
        if items.size == self.items:
            return self
        taken = arrays.take(tuple(getattr(self, name) for name in _BY_ITEM), items)
        geometry, reduced = self.geometry.take(items), self.reduced.take(items)
        return replace(
            self, geometry=geometry, reduced=reduced, batch=(items.size,), **dict(zip(_BY_ITEM, taken, strict=True))
        )

    def put(self, items: np.ndarray, part: LinearProblem) -> LinearProblem:
        """The problem with the items of these indices replaced by those of `part`, which has the same costs."""
        both = (of if of.idle else replace(of, idle=(of.a * 0.0, of.b * 0.0)) for of in (self, part))
        old, new = ((*(getattr(of, name) for name in _BY_ITEM), of.reduced.row, of.reduced.col) for of in both)
        *joined, row, col = arrays.put(old, items, new)
        reduced = replace(self.reduced, row=row, col=col)
        return replace(self, reduced=reduced, **dict(zip(_BY_ITEM, joined, strict=True)))

    def inside(self, x: Array) -> Array:
        """An array of the caller in the library of the internal form."""
        return to_numpy(x) if isinstance(self.a, np.ndarray) else x

    @property
    def like(self) -> Array:
        """An array of the caller, as a reference for library and device."""
        return next(iter(self.asked.arrays.values()))

    def as_given(self, x: Array) -> Array:
        """An array ``(B, …)`` of the internal form in the library and dtype of the input, with the batch axes."""
        if type(x) is type(self.like) is np.ndarray:  # the most frequent case, and five times quicker
            return x.reshape((*self.batch, *x.shape[1:])).astype(self.dtype, copy=False)
        x = arrays.convert(namespace(x).reshape(x, (*self.batch, *x.shape[1:])), self.like)
        return namespace(x).astype(x, self.dtype, copy=False)

    def columns(self, v: Any, size: int, name: str) -> tuple[Array, tuple[int, ...]]:
        """Vectors of the caller as ``(B, size, k)`` in float64, and the trailing axes (none or k) of the result."""
        v = arrays.detached(checks.as_array(v, name, self.like))
        checks.same_library(**{name: v, "the problem": self.like})
        v = self.inside(v)
        xp = namespace(v)
        is_vector = v.ndim == 1 or tuple(v.shape) == (*self.batch, size)
        columns = v[..., None] if is_vector else v
        if columns.ndim < 2 or columns.shape[-2] != size:
            raise ValueError(
                f"{name} must have shape (..., {size}) or (..., {size}, k), got shape {tuple(v.shape)}; pass one "
                "value, or one row of values, for each point"
            )
        k = columns.shape[-1]
        checks.fits(tuple(columns.shape[:-2]), self.batch, name)
        columns = arrays.float64(xp.broadcast_to(columns, (*self.batch, size, k)))
        return xp.reshape(columns, (self.items, size, k)), () if is_vector else (k,)

    @property
    def rounding(self) -> np.ndarray:
        """The error that rounding of the exponents of the plan can make, 8u·range(C)/reg: ``(B,)``."""
        return 8 * UNIT * self.span / to_numpy(self.reg)

    @property
    def totals(self) -> tuple[Array, Array]:
        """Σa and Σb, ``(B,)``, with the weights of points that no arc reaches."""
        total_a, total_b = (namespace(w).sum(w, axis=-1) for w in (self.a, self.b))
        if self.idle is None:
            return total_a, total_b
        idle_a, idle_b = self._idle_totals
        return total_a + idle_a, total_b + idle_b

    @property
    def unmoved(self) -> np.ndarray:
        """The penalties of a plan that moves nothing, ρ_a·Σa and ρ_b·Σb: ``(2, B)``, inf for an exact marginal."""
        rho = (self.penalties.rho_a, self.penalties.rho_b)
        return np.stack([to_numpy(r) * to_numpy(total) for r, total in zip(rho, self.totals, strict=True)])

    @property
    def idle_divergences(self) -> tuple[Array, Array]:
        """KL(0 | w) of the points that no arc reaches, the sum of their weights: ``(B,)`` for each side."""
        nothing = namespace(self.a).zeros_like(self.a[:, 0])
        return (nothing, nothing) if self.idle is None else self._idle_totals

    @property
    def idle_penalty(self) -> np.ndarray:
        """The penalties of points that no arc reaches, ``(B,)``."""
        rho = (self.penalties.rho_a, self.penalties.rho_b)
        sides = zip((to_numpy(r) for r in rho), (to_numpy(v) for v in self.idle_divergences), strict=True)
        return sum((np.where(r < np.inf, r, 0.0) * total for r, total in sides), start=np.zeros(self.items))

    @property
    def _idle_totals(self) -> tuple[Array, Array]:
        assert self.idle is not None
        idle_a, idle_b = (namespace(w).sum(w, axis=-1) for w in self.idle)
        return idle_a, idle_b

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

    def middle(self, at: Potentials) -> Potentials:
        """The mean of both potentials of a measure with itself, on both sides: no less of the dual, and symmetric."""
        h = (at.f + self.reduced.row + at.g + self.reduced.col) / 2
        return replace(at, f=h - self.reduced.row, g=h - self.reduced.col)


deferrable(LinearProblem, "given", "asked", "geometry", "a", "b", "reduced")

_BY_ITEM = (
    *("a", "b", "reg", "penalties"),
    *("balanced", "idle", "mass", "rescaled", "span", "low", "high", "forbidden"),
)


def _at_hand(
    asked: GivenGeometry, a: Array | None, b: Array | None
) -> tuple[GivenGeometry, Array | None, Array | None, Array]:
    """Costs and weights where they are computed, after a check of their values; and an array of the costs."""
    geometry = hosted(asked)
    like = next(iter(geometry.arrays.values()))
    if isinstance(like, np.ndarray):
        a, b = (None if w is None else to_numpy(w) for w in (a, b))
    geometry.check()
    for w, size, name in ((a, asked.n, "a"), (b, asked.m, "b")):
        if w is not None:
            checks.weights(w, size, name)
    return geometry, a, b, like


def _by_item(x: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """One number for each item, or the same for all: ``(B,)``."""
    return np.full(math.prod(batch), x) if x.ndim == 0 else np.broadcast_to(x, batch).reshape(-1)


def _reached(
    costs: CostRange, weights: tuple[Array, Array], rho: tuple[np.ndarray, np.ndarray], instead: str
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """The weights of points that arcs reach, and those of other points, which stay empty if their side is penalised."""
    checks.product_of_masses(*weights, rho)
    xp = namespace(weights[0])
    stranded = [(w > 0) & ~reach for w, reach in zip(weights, (costs.reach_a, costs.reach_b), strict=True)]
    if not any(bool(xp.any(v)) for v in stranded):
        return *weights, None
    for w, alone, r, (name, side) in zip(weights, stranded, rho, (("a", "row"), ("b", "column")), strict=True):
        wrong = alone & from_numpy(r == np.inf, w)[:, None]
        if xp.any(wrong):
            item, k = (int(v[0]) for v in xp.nonzero(wrong))
            raise ValueError(
                f"every {side} that carries mass must have a finite cost to some point with mass, but {side} {k} "
                f"(of item {item}) has {name} = {float(w[item, k]):g} and only infinite costs; "
                f"set its weight to 0{', ' if instead else ' or '}allow an arc"
                f"{instead and f', or let it stay empty by {instead}'}"
            )
    pairs = list(zip(weights, stranded, strict=True))
    idle = [xp.where(alone, w, xp.zeros_like(w)) for w, alone in pairs]
    a, b = (xp.where(alone, xp.zeros_like(w), w) for w, alone in pairs)
    return a, b, (idle[0], idle[1])


def result_dtype(given: list[Array | None]) -> tuple[Any, float]:
    """The widest floating dtype of the arrays, or float64 if all are integers, and its unit roundoff."""
    present = [x for x in given if x is not None]
    xp = namespace(*present)
    floating = {x.dtype for x in present if xp.isdtype(x.dtype, "real floating")}
    if len(floating) == 1:
        (dtype,) = floating
    else:  # JAX has float64 only where its 64-bit numbers are enabled
        dtype = xp.result_type(*floating) if floating else from_numpy(np.zeros(()), present[0]).dtype
    # Half precision is computed like float32. Only the results are rounded to it.
    return dtype, UNIT if dtype == xp.float64 else 2.0**-24


def _normalised(
    w: Array | None, size: int, batch: tuple[int, ...], balanced: np.ndarray, like: Array
) -> tuple[Array, np.ndarray]:
    """Weights ``(B, size)`` in float64, with total 1 for balanced items, and the divisors used for it."""
    xp, items = namespace(like), balanced.size
    if w is None:
        return full((items, size), 1 / size, like), np.ones(items)
    w = arrays.float64(w)
    if w.ndim > 1 or batch:
        w = xp.broadcast_to(w, (*batch, size))
    w = xp.reshape(w, (items, size))
    # NumPy sums pairwise over a contiguous axis, so the total does not depend on library and layout.
    total = from_numpy(np.ascontiguousarray(to_numpy(w)).sum(-1), like)
    total = xp.where(from_numpy(balanced, like), total, xp.ones_like(total))
    return w / total[:, None], to_numpy(total)
