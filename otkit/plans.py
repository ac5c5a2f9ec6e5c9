"""Parts of a plan: entropic potentials, also with moves that correct their marginals, or lists of arcs.

A plan is the sum of a few such parts.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from otkit.arrays import Array, deferrable, exp, from_numpy, log, namespace, to_numpy
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Moved
from otkit.geometry.base import Geometry, some_rows
from otkit.kernels import Kernels, choose
from otkit.kernels.memory import free_memory

# Rows of a dense plan that are formed at a time, and bytes of a listed entry, with those of temporary arrays.
_BLOCK, _ENTRY = 512, 96


class Plan(ABC):
    """Mass moved between n rows and m columns, for each item of one batch axis."""

    @property
    @abstractmethod
    def T(self) -> Plan:
        """The transposed plan."""

    @abstractmethod
    def dense(self, *, single: bool = False) -> Array:
        """The matrix: ``(B, n, m)``, in float32 where `single`."""

    @abstractmethod
    def apply(self, v: Array) -> Array:
        """Σ_j P_ij v_j for ``v (B, m, k)``: ``(B, n, k)``."""

    @abstractmethod
    def marginals(self) -> tuple[Array, Array]:
        """Row sums ``(B, n)`` and column sums ``(B, m)``."""

    @abstractmethod
    def dense_rows(self, item: int, rows: np.ndarray) -> np.ndarray:
        """Some rows of the matrix of an item, by index: ``(K, m)``."""

    @abstractmethod
    def arcs(self, drop: float) -> Arcs:
        """The entries of the plan, without at most a fraction `drop` of the weight of every row."""


@dataclass(frozen=True)
class Arcs:
    """Entries of plans: item, row, column and mass, NumPy arrays ``(K,)``."""

    item: np.ndarray
    row: np.ndarray
    col: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class EntropicPlan(Plan):
    """The plan exp((f_i + g_j − C_ij)/reg + log a_i + log b_j); the potentials may be given as a value for `later`.

    Its mass ``known (B,)`` may be known without a pass over its entries.
    """

    geometry: Geometry
    at: Potentials
    kernels: Kernels
    known: Array | None = None

    @property
    def T(self) -> EntropicPlan:
        return EntropicPlan(self.geometry.T, self.at.T, self.kernels, self.known)

    @property
    def mass(self) -> Array:
        """The total mass, ``(B,)``."""
        return namespace(self.at.reg).sum(self.moved.row, axis=-1) if self.known is None else self.known

    @cached_property
    def moved(self) -> Moved:
        """⟨C, P⟩ and the marginals, computed in one pass for both the error and the value."""
        return self.kernels.transport_cost(self.geometry, self.at)

    def dense(self, *, single: bool = False) -> Array:
        return self.kernels.plan(self.geometry, self.at, single=single)

    def apply(self, v: Array) -> Array:
        return self.kernels.apply_plan(self.geometry, self.at, v)

    def marginals(self) -> tuple[Array, Array]:
        return self.moved.row, self.moved.col

    def dense_rows(self, item: int, rows: np.ndarray) -> np.ndarray:
        costs, one = self.geometry.among(item, rows), slice(item, item + 1)
        f, log_a = (some_rows(v, item, rows) for v in (self.at.f, self.at.log_a))
        at = Potentials(f, self.at.g[one, :], log_a, self.at.log_b[one, :], self.at.reg[one])
        return to_numpy(choose(costs).plan(costs, at))[0]

    def arcs(self, drop: float) -> Arcs:
        # In a row of weight a, the m entries below drop·a/m sum to at most drop·a.
        threshold = self.at.log_a + log(namespace(self.at.f).full_like(self.at.f, drop / self.geometry.m))
        every = namespace(self.at.g).full_like(self.at.g, np.inf)
        found = self.kernels.select(self.geometry, self.at, threshold, every, np.inf)
        assert found is not None
        return Arcs(to_numpy(found.item), to_numpy(found.row), to_numpy(found.col), to_numpy(exp(found.log_plan)))


deferrable(EntropicPlan, "at")


@dataclass(frozen=True)
class SparsePlan(Plan):
    """A plan given by its arcs. Masses may be negative where the part corrects another one."""

    shape: tuple[int, int, int]
    entries: Arcs
    like: Array

    @property
    def T(self) -> SparsePlan:
        items, n, m = self.shape
        e = self.entries
        return SparsePlan((items, m, n), Arcs(e.item, e.col, e.row, e.mass), self.like)

    def dense(self, *, single: bool = False) -> Array:
        plan = np.zeros(self.shape, dtype=np.float32 if single else np.float64)
        np.add.at(plan, (self.entries.item, self.entries.row, self.entries.col), self.entries.mass)
        return from_numpy(plan, self.like)

    def apply(self, v: Array) -> Array:
        e = self.entries
        moved = np.zeros((*self.shape[:2], v.shape[-1]))
        np.add.at(moved, (e.item, e.row), e.mass[:, None] * to_numpy(v)[e.item, e.col])
        return from_numpy(moved, self.like)

    def marginals(self) -> tuple[Array, Array]:
        e, (items, n, m) = self.entries, self.shape
        rows, cols = (
            np.bincount(e.item * size + k, weights=e.mass, minlength=items * size).reshape(items, size)
            for k, size in ((e.row, n), (e.col, m))
        )
        return from_numpy(rows, self.like), from_numpy(cols, self.like)

    def dense_rows(self, item: int, rows: np.ndarray) -> np.ndarray:
        from scipy.sparse import csr_array

        e = self.entries
        here = e.item == item
        P = csr_array((e.mass[here], (e.row[here], e.col[here])), shape=self.shape[1:])
        return np.asarray(P[rows].toarray())

    def arcs(self, drop: float) -> Arcs:
        return self.entries


@dataclass(frozen=True)
class CellPlan(Plan):
    """A plan of one item between cells, spread over their points: P_ij = P̄_XY·(a_i/A_X)·(b_j/B_Y) for i in X, j in Y.

    Attributes
    ----------
    shape : tuple of int
        Items, rows and columns.
    item : int
        The item. The plan has no mass in the others.
    cells : tuple of int
        The number of cells of the rows and of the columns.
    labels : tuple of array of int (n,), (m,)
        The cell of every row and of every column.
    shares : tuple of array (n,), (m,)
        The share of each in the mass of its cell.
    rows, cols, mass : array (K,)
        The plan between cells.
    like : array
        An array of the library and device of results.
    """

    shape: tuple[int, int, int]
    item: int
    cells: tuple[int, int]
    labels: tuple[np.ndarray, np.ndarray]
    shares: tuple[np.ndarray, np.ndarray]
    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    like: Array

    @property
    def T(self) -> CellPlan:
        items, n, m = self.shape
        (X, Y), (x, y), (a, b) = self.cells, self.labels, self.shares
        return CellPlan((items, m, n), self.item, (Y, X), (y, x), (b, a), self.cols, self.rows, self.mass, self.like)

    def dense(self, *, single: bool = False) -> Array:
        (x, y), (a, b) = self.labels, self.shares
        between = np.zeros(self.cells, dtype=np.float32 if single else np.float64)
        np.add.at(between, (self.rows, self.cols), self.mass)
        plan = np.zeros(self.shape, dtype=between.dtype)
        for low in range(0, x.size, _BLOCK):
            part = slice(low, low + _BLOCK)
            plan[self.item, part] = a[part, None] * between[x[part, None], y] * b
        return from_numpy(plan, self.like)

    def apply(self, v: Array) -> Array:
        given = to_numpy(v)[self.item]
        moved = np.zeros((*self.shape[:2], given.shape[-1]))
        for k in range(given.shape[-1]):
            at_cells = np.bincount(self.labels[1], self.shares[1] * given[:, k], self.cells[1])
            sent = np.bincount(self.rows, self.mass * at_cells[self.cols], self.cells[0])
            moved[self.item, :, k] = self.shares[0] * sent[self.labels[0]]
        return from_numpy(moved, self.like)

    def marginals(self) -> tuple[Array, Array]:
        items, n, m = self.shape
        rows, cols = self.apply(np.ones((items, m, 1))), self.T.apply(np.ones((items, n, 1)))
        return rows[:, :, 0], cols[:, :, 0]

    def dense_rows(self, item: int, rows: np.ndarray) -> np.ndarray:
        out, place = np.zeros((rows.size, self.shape[2])), np.zeros(self.shape[1], dtype=np.int64)
        if item == self.item:
            place[rows], found = np.arange(rows.size), self.of_rows(rows)
            out[place[found.row], found.col] = found.mass
        return out

    def arcs(self, drop: float) -> Arcs:
        rows, cols = (np.bincount(label, minlength=k) for label, k in zip(self.labels, self.cells, strict=True))
        need, available = _ENTRY * int(rows[self.rows] @ cols[self.cols]), free_memory()
        if available is not None and need > available:
            raise MemoryError(
                f"the entries of the plan need {need / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free; "
                "use apply(), barycentric() or transport(), which do not list them"
            )
        return self.of_rows(np.arange(self.shape[1]))

    def of_rows(self, rows: np.ndarray) -> Arcs:
        """The entries of some rows, in the order of these."""
        order = np.argsort(self.rows, kind="stable")
        first = np.searchsorted(self.rows[order], np.arange(self.cells[0] + 1))
        i, k = _members(first, self.labels[0][rows])
        i, k = rows[i], order[k]
        members = np.argsort(self.labels[1], kind="stable")
        first = np.searchsorted(self.labels[1][members], np.arange(self.cells[1] + 1))
        arc, j = _members(first, self.cols[k])
        i, j, k = i[arc], members[j], k[arc]
        mass = self.mass[k] * self.shares[0][i] * self.shares[1][j]
        some = mass > 0
        return Arcs(np.full(int(some.sum()), self.item), i[some], j[some], mass[some])


def _members(first: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All members of groups, where those of group k are the numbers from ``first[k]`` on; and whose member each is."""
    start, count = first[groups], first[groups + 1] - first[groups]
    before = np.cumsum(count) - count
    return np.repeat(np.arange(groups.size), count), np.arange(count.sum()) + np.repeat(start - before, count)


@dataclass(frozen=True)
class Shift:
    """A map of mass among the cells of a grid, the same whatever the places along its later axes.

    Attributes
    ----------
    matrix : sparse matrix (K, K) of SciPy
        Its rows sum to 1. The K cells are the places along some axes, in row order; each stands for all places along
        the others.
    shape : tuple of int
        The shape of the grid.
    order : tuple of int
        The axes: first those of the matrix, then the others.
    """

    matrix: Any
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def T(self) -> Shift:
        """The transposed map."""
        return Shift(self.matrix.T.tocsr(), self.shape, self.order)

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """The product with ``v (m, k)``."""
        turned = v.reshape(*self.shape, -1).transpose(*self.order, len(self.shape))
        moved = np.asarray(self.matrix @ turned.reshape(self.matrix.shape[0], -1)).reshape(turned.shape)
        return moved.transpose(*np.argsort(self.order), len(self.shape)).reshape(v.shape)

    @property
    def whole(self) -> Any:
        """The matrix ``(m, m)`` in the row order of the grid."""
        from scipy.sparse import eye_array, kron

        m = int(np.prod(self.shape))
        place = np.argsort(np.arange(m).reshape(self.shape).transpose(self.order).ravel())
        return kron(self.matrix, eye_array(m // self.matrix.shape[0]), format="csr")[place][:, place]


@dataclass(frozen=True)
class Glued(Plan):
    """An entropic plan and, for each item, maps of mass among its rows and among its columns, in this order."""

    middle: EntropicPlan
    rows: tuple[tuple[Shift, ...], ...]
    cols: tuple[tuple[Shift, ...], ...]

    @property
    def T(self) -> Glued:
        rows, cols = (tuple(tuple(s.T for s in reversed(one)) for one in maps) for maps in (self.rows, self.cols))
        return Glued(self.middle.T, cols, rows)

    def dense(self, *, single: bool = False) -> Array:
        P = to_numpy(self.middle.dense())
        whole = np.stack([self._product(p, k) for k, p in enumerate(P)])
        return from_numpy(whole.astype(np.float32) if single else whole, self.middle.at.f)

    def _product(self, P: Any, item: int) -> Any:
        """The plan of an item, from its middle as a matrix."""
        for shift in reversed(self.rows[item]):
            P = shift.whole @ P
        for shift in self.cols[item]:
            P = P @ shift.whole
        return P

    def apply(self, v: Array) -> Array:
        moved = _shifted(to_numpy(v), self.cols)
        return from_numpy(_shifted(to_numpy(self.middle.apply(from_numpy(moved, v))), self.rows), v)

    def marginals(self) -> tuple[Array, Array]:
        f, g = self.middle.at.f, self.middle.at.g
        ones = (namespace(v).ones_like(v)[:, :, None] for v in (g, f))
        return self.apply(next(ones))[:, :, 0], self.T.apply(next(ones))[:, :, 0]

    def dense_rows(self, item: int, rows: np.ndarray) -> np.ndarray:
        alone = np.zeros((len(self.rows), self.middle.geometry.n, rows.size))
        alone[item, rows, np.arange(rows.size)] = 1.0
        return to_numpy(self.T.apply(from_numpy(alone, self.middle.at.f)))[item].T

    def arcs(self, drop: float) -> Arcs:
        from scipy.sparse import csr_array

        n, m = self.middle.geometry.n, self.middle.geometry.m
        found, parts = self.middle.arcs(drop), []
        for k in range(len(self.rows)):
            here = found.item == k
            P = csr_array((found.mass[here], (found.row[here], found.col[here])), shape=(n, m))
            P = self._product(P, k).tocoo()
            parts.append(Arcs(np.full(P.nnz, k), P.row, P.col, P.data))
        return add_arcs(parts, (len(self.rows), n, m))


def _shifted(v: np.ndarray, maps: tuple[tuple[Shift, ...], ...]) -> np.ndarray:
    """The vectors of each item ``(B, m, k)`` after its maps, of which the last acts first."""
    out = v.copy()
    for k, shifts in enumerate(maps):
        for shift in reversed(shifts):
            out[k] = shift(out[k])
    return out


Parts = Sequence[Plan]


def apply(parts: Parts, v: Array) -> Array:
    """Σ_j P_ij v_j of the sum of the parts, for ``v (B, m, k)``: ``(B, n, k)``."""
    return add([part.apply(v) for part in parts])


def marginals(parts: Parts) -> tuple[Array, Array]:
    """Row and column sums of the sum of the parts."""
    rows, cols = zip(*(part.marginals() for part in parts), strict=True)
    return add(rows), add(cols)


def add(arrays: Sequence[Array]) -> Array:
    """Sum of the arrays."""
    return reduce(operator.add, arrays)


def add_arcs(parts: list[Arcs], shape: tuple[int, int, int]) -> Arcs:
    """The arcs of a sum of plans, in row order and without duplicates; sums that are not positive are dropped."""
    item, row, col, mass = (np.concatenate([getattr(p, k) for p in parts]) for k in ("item", "row", "col", "mass"))
    key, where = np.unique(np.ravel_multi_index((item, row, col), shape), return_inverse=True)
    total = np.bincount(where, weights=mass, minlength=key.size)
    key, total = key[total > 0], total[total > 0]
    item, row, col = np.unravel_index(key, shape)
    return Arcs(item, row, col, total)
