"""The geometry interface, and the reference version of every operation that costs O(n·m).

An operation is a function of a *flat* geometry (one batch axis) and of float64 vectors with the same leading axis:
potentials ``f (B, n)`` and ``g (B, m)``, log-weights ``log_a`` and ``log_b`` alike, ``reg (B,)``. It speaks of rows;
the columns are the rows of ``geometry.T``. The plan is ``P_ij = exp((f_i + g_j − C_ij)/reg + log a_i + log b_j)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from otkit.arrays import Array, device, exp, finite_or_zero, log, logsumexp, namespace, only, to_numpy

# Entries of a tile: its temporaries stay in cache, and it still hides the cost of the interpreter.
_TILE = 2**17


class Geometry(ABC):
    """What it costs to move mass from row i to column j, asked for in tiles.

    Attributes
    ----------
    batch : tuple of int
        The leading axes. A flat geometry has one, of length 1 where all items share the costs.
    n, m : int
        Rows and columns.
    """

    @property
    @abstractmethod
    def batch(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def n(self) -> int: ...

    @property
    @abstractmethod
    def m(self) -> int: ...

    @property
    @abstractmethod
    def T(self) -> Geometry:
        """The same costs with the sides swapped."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The arrays that the costs are made of, by the names that the caller gave them under."""

    @abstractmethod
    def block(self, items: slice, rows: slice) -> Array:
        """A tile of a flat geometry in float64, ``(items or 1, rows, m)``."""

    @abstractmethod
    def take(self, items: Array) -> Geometry:
        """The flat geometry of some of the items, by index."""

    @abstractmethod
    def to_numpy(self) -> Geometry:
        """The same geometry over NumPy arrays."""


@dataclass(frozen=True)
class Reduced(Geometry):
    """The flat geometry ``C_ij − row_i − col_j``, with offsets ``row (B, n)`` and ``col (B, m)``.

    ``turned`` tells that the sides were swapped: the offsets are taken off in one order all the same, so that a cost
    is the same number from both sides.
    """

    base: Geometry
    row: Array
    col: Array
    turned: bool = False

    @property
    def batch(self) -> tuple[int, ...]:
        return (self.row.shape[0],)

    @property
    def n(self) -> int:
        return self.base.n

    @property
    def m(self) -> int:
        return self.base.m

    @property
    def arrays(self) -> dict[str, Array]:
        return self.base.arrays

    @property
    def T(self) -> Reduced:
        return Reduced(self.base.T, self.col, self.row, not self.turned)

    def block(self, items: slice, rows: slice) -> Array:
        row, col = self.row[items, rows, None], self.col[items, None, :]
        first, second = (col, row) if self.turned else (row, col)
        return self.base.block(items, rows) - first - second

    def take(self, items: Array) -> Reduced:
        xp = namespace(self.row)
        row, col = (xp.take(v, items, axis=0) for v in (self.row, self.col))
        return Reduced(self.base.take(items), row, col, self.turned)

    def to_numpy(self) -> Reduced:
        return Reduced(self.base.to_numpy(), to_numpy(self.row), to_numpy(self.col), self.turned)


def shared(items: slice, length: int) -> slice:
    """The slice of a batch axis of `length`, which is the whole axis when the items share it."""
    return slice(None) if length == 1 else items


def tiles(geometry: Geometry, items: int, size: int = _TILE) -> Iterator[tuple[slice, slice]]:
    """Slices (items, rows) that cover ``items × n``, of at most `size` entries where a row has no more.

    How the rows are cut does not depend on the number of items, so neither does any item's rounding.
    """
    height = min(geometry.n, max(1, size // geometry.m))
    width = max(1, size // (height * geometry.m))
    for start in range(0, items, width):
        for top in range(0, geometry.n, height):
            yield slice(start, min(start + width, items)), slice(top, min(top + height, geometry.n))


def _map_rows(geometry: Geometry, items: int, rows_of: Callable[[slice, slice], Array]) -> Array:
    """Join the results ``(k, rows, …)`` of all tiles to ``(items, n, …)``."""
    xp = None
    parts: list[list[Array]] = []
    for s, r in tiles(geometry, items):
        part = rows_of(s, r)
        xp = xp or namespace(part)
        if r.start == 0:
            parts.append([])
        parts[-1].append(part)
    assert xp is not None
    return xp.concat([xp.concat(row, axis=1) for row in parts], axis=0)


@dataclass(frozen=True)
class Potentials:
    """A point of the dual and the problem's constants: all that an entry of the plan depends on but its cost.

    Attributes
    ----------
    f, log_a : array (B, n)
    g, log_b : array (B, m)
    reg : array (B,)
    """

    f: Array
    g: Array
    log_a: Array
    log_b: Array
    reg: Array

    @property
    def T(self) -> Potentials:
        """The transposed plan."""
        return Potentials(self.g, self.f, self.log_b, self.log_a, self.reg)

    def log_plan(self, C: Array, items: slice, rows: slice) -> Array:
        """log P of a tile of costs."""
        exponent = (self.f[items, rows, None] + self.g[items, None, :] - C) / self.reg[items, None, None]
        return exponent + (self.log_a[items, rows, None] + self.log_b[items, None, :])

    def plan(self, C: Array, items: slice, rows: slice) -> Array:
        """P of a tile of costs."""
        return exp(self.log_plan(C, items, rows))


def softmin(geometry: Geometry, g: Array, log_b: Array, reg: Array) -> Array:
    """−reg·log Σ_j b_j exp((g_j − C_ij)/reg): ``(B, n)``; 0 for a row that reaches no mass."""
    h = g + reg[:, None] * log_b

    def rows_of(s: slice, r: slice) -> Array:
        scaled = (h[s, None, :] - geometry.block(s, r)) / reg[s, None, None]
        return finite_or_zero(-reg[s, None] * logsumexp(scaled))

    return _map_rows(geometry, g.shape[0], rows_of)


@dataclass(frozen=True)
class Penalties:
    """What holds the marginals: ``rho_a``, ``rho_b (B,)``, the price of a unit of KL divergence from the weights.

    ``inf`` makes a marginal exact, 0 leaves it free. ``shifts`` tells whether iterations also move the best constant
    from one side's potentials to the other's.
    """

    rho_a: Array
    rho_b: Array
    shifts: bool = True

    def take(self, items: Array) -> Penalties:
        """Those of some of the items."""
        xp = namespace(self.rho_a)
        rho_a, rho_b = (xp.take(rho, items, axis=0) for rho in (self.rho_a, self.rho_b))
        return Penalties(rho_a, rho_b, self.shifts)

    def keep(self, reg: Array) -> tuple[Array, Array]:
        """The factors ρ/(ρ + reg) of the updates of either side, 1 where it is exact."""
        xp = namespace(reg)
        one = xp.ones_like(reg)
        exact = [rho == xp.inf for rho in (self.rho_a, self.rho_b)]
        finite = [xp.where(e, one, rho) for e, rho in zip(exact, (self.rho_a, self.rho_b), strict=True)]
        a, b = (xp.where(e, one, rho / (rho + reg)) for e, rho in zip(exact, finite, strict=True))
        return a, b

    def coupling(self) -> Array:
        """ρ_a·ρ_b/(ρ_a + ρ_b), the curvature of the dual along f + t, g − t; 0 where that constant is of no effect."""
        xp = namespace(self.rho_a)
        low, high = xp.minimum(self.rho_a, self.rho_b), xp.maximum(self.rho_a, self.rho_b)
        none = (low == 0) | (low == xp.inf) if self.shifts else low >= 0
        ratio = xp.where(none | (high == xp.inf), xp.zeros_like(low), low) / xp.where(
            high > 0, high, xp.ones_like(high)
        )
        return xp.where(none, xp.zeros_like(low), low / (1 + ratio))

    def target(self, w: Array, potential: Array, side: Array) -> Array:
        """The mass w·e^(−f/ρ) that is optimal at a potential in the costs as given; `side` is one of the two ρ."""
        xp = namespace(w)
        priced = ((side > 0) & (side < xp.inf))[:, None]
        rho = xp.where(priced, side[:, None], xp.ones_like(side[:, None]))
        return w * exp(xp.where(priced, -potential / rho, xp.zeros_like(potential)))


class Iterate(NamedTuple):
    """What `iterate` returns: the potential of the rows, the next one of the columns, and the error before that."""

    f: Array
    g: Array
    error: Array


def iterate(costs: Reduced, at: Potentials, penalties: Penalties) -> Iterate:
    """One Sinkhorn iteration from ``at.g``: the rows are updated, then the columns.

    The error belongs to the pair of the new f and the old g. Its rows are exact, so that it is the residual of the
    columns alone, which their update contains.
    """
    xp, g, reg = namespace(at.g), at.g, at.reg
    a, b = exp(at.log_a), exp(at.log_b)
    keep_a, keep_b = (keep[:, None] for keep in penalties.keep(reg))
    f = keep_a * softmin(costs, g, at.log_b, reg) - (1 - keep_a) * costs.row
    softmin_b = softmin(costs.T, f, at.log_a, reg)
    g_new = keep_b * softmin_b - (1 - keep_b) * costs.col

    mass = b * exp((g - softmin_b) / reg[:, None])  # the column sums
    miss = xp.sum(xp.abs(mass - penalties.target(b, g + costs.col, penalties.rho_b)), axis=-1)
    miss = xp.where(penalties.rho_b > 0, miss, xp.zeros_like(miss))
    error = miss / ((xp.sum(a, axis=-1) + xp.sum(b, axis=-1)) / 2)

    # f + t, g − t costs nothing where both marginals are exact; else there is a best t (Séjourné et al. 2022).
    sent = xp.sum(penalties.target(a, f + costs.row, penalties.rho_a), axis=-1)
    received = xp.sum(penalties.target(b, g_new + costs.col, penalties.rho_b), axis=-1)
    shift = penalties.coupling() * finite_or_zero(log(sent) - log(received))
    return Iterate(f, g_new - shift[:, None], error)


def marginals(geometry: Geometry, at: Potentials) -> tuple[Array, Array]:
    """Row sums ``(B, n)`` and column sums ``(B, m)`` of the plan."""
    moved = _moved(geometry, at, with_cost=False)
    return moved.row, moved.col


class Moved(NamedTuple):
    """⟨C, P⟩ ``(B,)``, and the row sums ``(B, n)`` and column sums ``(B, m)`` that the same pass gives."""

    cost: Array
    row: Array
    col: Array


def transport_cost(geometry: Geometry, at: Potentials) -> Moved:
    """⟨C, P⟩, where a forbidden arc counts 0, and the marginals."""
    return _moved(geometry, at, with_cost=True)


def _moved(geometry: Geometry, at: Potentials, *, with_cost: bool) -> Moved:
    xp = namespace(at.f)
    col, cost = xp.zeros_like(at.g), xp.zeros_like(at.reg)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        P = at.plan(C, s, r)
        col[s, :] = col[s, :] + xp.sum(P, axis=-2)
        if with_cost:
            paid = P * xp.where(P > 0, C, xp.zeros_like(C))
            cost[s] = cost[s] + xp.sum(xp.sum(paid, axis=-1), axis=-1)
        return xp.sum(P, axis=-1)

    row = _map_rows(geometry, at.f.shape[0], rows_of)
    return Moved(cost, row, col)


def plan(geometry: Geometry, at: Potentials, *, single: bool = False) -> Array:
    """The plan ``(B, n, m)``, in float32 where `single`."""
    xp = namespace(at.f)
    dtype = xp.float32 if single else xp.float64

    def rows_of(s: slice, r: slice) -> Array:
        return xp.astype(at.plan(geometry.block(s, r), s, r), dtype, copy=False)

    return _map_rows(geometry, at.f.shape[0], rows_of)


def apply_plan(geometry: Geometry, at: Potentials, v: Array, power: int = 0) -> Array:
    """Σ_j P_ij·C_ij^power·v_j for ``v (B, m, k)``, where a forbidden arc counts 0: ``(B, n, k)``."""
    xp = namespace(v)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        P = at.plan(C, s, r)
        if power:
            P = P * xp.where(P > 0, C, 0.0) ** power
        return xp.matmul(P, v[s, ...])

    return _map_rows(geometry, v.shape[0], rows_of)


def apply_cost_gradient(geometry: Reduced, at: Potentials, U: Array, V: Array, slope: Array | None) -> Array:
    """Σ_j P_ij·(Σ_r U_ir·V_jr + slope·C_ij)·∇₁c(x_i, y_j), in the reduced costs C: ``(B, n, d)``.

    ``U (B, n, R)``, ``V (B, m, R)`` and ``slope (B,)`` are weights of the pairs of a `PointCloud`.
    """
    base: Any = geometry.base
    cloud = base.centred()
    xp = namespace(U)

    def rows_of(s: slice, r: slice) -> Array:
        C = geometry.block(s, r)
        weights = xp.matmul(U[s, r, :], xp.matrix_transpose(V[s, :, :]))
        if slope is not None:
            weights = weights + slope[s, None, None] * C
        return cloud.pulled(at.plan(C, s, r) * weights, s, r)

    return _map_rows(geometry, U.shape[0], rows_of)


def c_transform(geometry: Geometry, g: Array) -> Array:
    """min_j C_ij − g_j: ``(B, n)``, ``inf`` for a row without arcs; a column of potential −inf takes no part."""
    xp = namespace(g)

    def rows_of(s: slice, r: slice) -> Array:
        return xp.min(geometry.block(s, r) - g[s, None, :], axis=-1)

    return _map_rows(geometry, g.shape[0], rows_of)


class Arcs(NamedTuple):
    """Selected entries, in row order: their item, row, column and log P, each ``(K,)``."""

    item: Array
    row: Array
    col: Array
    log_plan: Array


def select(geometry: Geometry, at: Potentials, rows: Array, cols: Array, limit: float) -> Arcs | None:
    """The entries with ``log P_ij ≥ min(rows_i, cols_j)``: ``rows (B, n)``, ``cols (B, m)``; None if over `limit`."""
    xp = namespace(at.f)
    found, count = [], 0
    for s, r in tiles(geometry, at.f.shape[0]):
        entries = at.log_plan(geometry.block(s, r), s, r)
        threshold = xp.minimum(rows[s, r, None], cols[s, None, :])
        item, row, col = xp.nonzero((entries >= threshold) & (entries > -xp.inf))
        count += item.shape[0]
        if count > limit:
            return None
        flat = (item * entries.shape[1] + row) * entries.shape[2] + col
        values = xp.take(xp.reshape(entries, (-1,)), flat, axis=0)
        found.append((item + s.start, row + r.start, col, values))
    return Arcs(*(xp.concat(part) for part in zip(*found, strict=True)))


def are_costs(geometry: Geometry) -> bool:
    """Whether every cost is a number or +inf."""
    items = geometry.batch[0]
    blocks = (geometry.block(s, r) for s, r in tiles(geometry, items))
    return all(not namespace(C).any(namespace(C).isnan(C) | (-namespace(C).inf == C)) for C in blocks)


class CostRange(NamedTuple):
    """What is known of the costs of the arcs that can carry mass.

    ``row (B, n)`` and ``col (B, m)`` reduce them: ``C − row − col`` is at least 0, with a 0 in every row and column.
    ``span (B,)`` is the largest finite reduced cost, ``low`` and ``high (B,)`` bound the costs themselves, ``forbidden
    (B,)`` says whether some are infinite. ``reach_a (B, n)`` and ``reach_b (B, m)`` tell which rows and columns have a
    finite arc to the other side's mass.
    """

    row: Array
    col: Array
    span: Array
    low: Array
    high: Array
    forbidden: Array
    reach_a: Array
    reach_b: Array


def cost_range(geometry: Geometry, has_a: Array, has_b: Array) -> CostRange:
    """Reduce the costs by one c-transform each way, over rows and columns that carry mass."""
    xp = namespace(has_a)
    size = has_a.shape[0]

    zeros_b = xp.zeros(has_b.shape, dtype=xp.float64, device=device(has_b))
    row = c_transform(geometry, only(zeros_b, has_b))
    reach_a, row = row < xp.inf, finite_or_zero(row)
    col = c_transform(geometry.T, only(row, has_a))
    reach_b = col < xp.inf
    reduced = Reduced(geometry, row, finite_or_zero(col))

    def rows_of(s: slice, r: slice) -> Array:
        carries = has_a[s, r, None] & has_b[s, None, :]
        C, carries = xp.broadcast_arrays(geometry.block(s, r), carries)
        allowed = carries & xp.isfinite(C)
        infinite = xp.full_like(C, xp.inf)
        columns = (
            xp.max(xp.where(allowed, reduced.block(s, r), -infinite), axis=-1),
            -xp.min(xp.where(allowed, C, infinite), axis=-1),
            xp.max(xp.where(allowed, C, -infinite), axis=-1),
            xp.astype(xp.any(carries & ~xp.isfinite(C), axis=-1), xp.float64),
        )
        return xp.stack(columns, axis=-1)

    top = xp.max(_map_rows(geometry, size, rows_of), axis=1)
    return CostRange(row, reduced.col, top[:, 0], -top[:, 1], top[:, 2], top[:, 3] > 0, reach_a, reach_b)
