"""The geometry interface: costs of moving mass, evaluated in tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from otkit.arrays import Array, float64, from_numpy, namespace, to_numpy

if TYPE_CHECKING:
    from otkit.geometry.bordered import Bordered
    from otkit.geometry.grid import Grid
    from otkit.geometry.points import PointCloud
    from otkit.geometry.stored import StoredArcs

# Entries of a tile: few enough for its temporaries to stay in cache, enough to hide the interpreter's overhead.
_TILE = 2**17


class Geometry(ABC):
    """Costs of moving mass from row i to column j, evaluated in tiles.

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
        """The arrays that define the costs, by the names of the caller's arguments."""

    @property
    @abstractmethod
    def matrix(self) -> Array | None:
        """The matrix ``(items or 1, n, m)`` of the costs; None where they are not stored."""

    @property
    @abstractmethod
    def cloud(self) -> PointCloud | None:
        """The points that define the costs; None if the costs are a matrix."""

    @property
    @abstractmethod
    def stored(self) -> StoredArcs | None:
        """The arcs that a sparse matrix stores, if all others are forbidden; else None."""

    @property
    @abstractmethod
    def grid(self) -> Grid | None:
        """The grid whose cells are the points of both sides; None elsewhere."""

    @property
    @abstractmethod
    def bordered(self) -> Bordered | None:
        """The costs with one more row and column; None elsewhere."""

    @property
    @abstractmethod
    def offsets(self) -> tuple[Array, Array, bool] | None:
        """Offsets subtracted from the costs: of rows ``(B, n)``, of columns ``(B, m)``, and whether columns first."""

    @property
    @abstractmethod
    def called(self) -> bool:
        """Whether the costs are returned by a function of the caller."""

    @abstractmethod
    def block(self, items: slice, rows: slice) -> Array:
        """A tile of a flat geometry in float64, ``(items or 1, rows, m)``."""

    @abstractmethod
    def take(self, items: np.ndarray) -> Geometry:
        """The flat geometry of some of the items, by index."""

    @abstractmethod
    def among(self, item: int, rows: np.ndarray) -> Geometry:
        """The flat geometry of some rows of one item, by index."""

    @abstractmethod
    def to_numpy(self) -> Geometry:
        """The same geometry over NumPy arrays."""


class GivenGeometry(Geometry):
    """A geometry as given by the caller, with any batch axes."""

    @property
    @abstractmethod
    def T(self) -> Self: ...

    @property
    @abstractmethod
    def rounding(self) -> tuple[float, float]:
        """Bounds (relative, absolute) on the error of a float64 cost, for a flat geometry."""

    @property
    @abstractmethod
    def non_negative(self) -> bool:
        """Whether the kind of cost excludes negative costs."""

    @property
    @abstractmethod
    def undefined(self) -> str:
        """The message for costs that are no numbers: what must hold, what came, what to do."""

    @property
    @abstractmethod
    def may_forbid(self) -> bool:
        """Whether an infinite cost forbids its arc. Otherwise it is an overflow."""

    @property
    @abstractmethod
    def convex_on_line(self) -> bool:
        """Whether the points lie on a line and the cost is convex along it, so that sorting solves the problem."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` for shapes and points that do not define costs."""

    @abstractmethod
    def detached(self) -> Self:
        """The same costs, detached from autograd's graph."""

    @abstractmethod
    def owned(self) -> Self:
        """The same costs, detached from autograd's graph, and with a copy of what is small: points, no matrix."""

    @abstractmethod
    def hosted(self) -> Self:
        """The same costs as NumPy views, where their arrays lie in host memory."""

    @abstractmethod
    def flat(self, batch: tuple[int, ...]) -> Self:
        """The costs of the items of `batch` along one leading axis, of length 1 where they share them."""

    @abstractmethod
    def take(self, items: np.ndarray) -> Self: ...

    @abstractmethod
    def among(self, item: int, rows: np.ndarray) -> GivenGeometry: ...

    @abstractmethod
    def to_numpy(self) -> Self: ...


def flatten_batch(x: Array, batch: tuple[int, ...], trailing: int) -> Array:
    """`x` with the axes before the last `trailing` ones broadcast to `batch` and flattened; length 1 if all are 1."""
    if x.ndim == trailing:
        return x[None, ...]
    xp = namespace(x)
    tail = tuple(x.shape[x.ndim - trailing :])
    if all(size == 1 for size in x.shape[: x.ndim - trailing]):
        return xp.reshape(x, (1, *tail))
    return xp.reshape(xp.broadcast_to(x, (*batch, *tail)), (-1, *tail))


def finite_arcs(geometry: Geometry, item: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the arcs of an item that are not forbidden, for a geometry over NumPy arrays."""
    if geometry.stored is not None:
        arcs = geometry.stored
        finite = np.isfinite(arcs.cost)
        return arcs.row[finite], arcs.col[finite]
    rows, cols = np.nonzero(np.isfinite(geometry.block(slice(item, item + 1), slice(None))[0]))
    return rows, cols


def costs_along(geometry: Geometry, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The costs of single arcs of an item, on the host: ``(K,)``."""
    if geometry.bordered is None and (geometry.called or geometry.grid is not None):
        return _costs_by_rows(geometry, item, rows, cols)
    like = next(iter(geometry.arrays.values()))
    i, j = from_numpy(rows, like), from_numpy(cols, like)
    if geometry.bordered is not None:
        cost = geometry.bordered.along(item, rows, cols)
    elif geometry.matrix is not None:
        C = geometry.matrix
        cost = to_numpy(float64(C[item % C.shape[0], i, j]))
    elif geometry.stored is not None:
        cost = geometry.stored.at(rows, cols)
    else:
        assert geometry.cloud is not None
        cost = to_numpy(geometry.cloud.pairs(item, i, j))
    if geometry.offsets is None:
        return cost
    row, col, columns_first = geometry.offsets
    first, second = to_numpy(row[item, :])[rows], to_numpy(col[item, :])[cols]
    return cost - second - first if columns_first else cost - first - second


def _costs_by_rows(geometry: Geometry, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The same where only rows can be evaluated."""
    found, order = np.empty(rows.size), np.argsort(rows, kind="stable")
    row, starts = np.unique(rows[order], return_index=True)
    for k, arcs in zip(row.tolist(), np.split(order, starts[1:]), strict=True):
        found[arcs] = to_numpy(geometry.block(slice(item, item + 1), slice(k, k + 1)))[0, 0, cols[arcs]]
    return found


def some_rows(x: Array, item: int, rows: np.ndarray) -> Array:
    """Some rows of one item of ``x (items or 1, n, …)``, which all items may share: ``(1, K, …)``."""
    return namespace(x).take(x[item % x.shape[0], ...], from_numpy(rows, x), axis=0)[None, ...]


def shared(items: slice, length: int) -> slice:
    """The slice `items` of a batch axis of `length`; the whole axis of length 1 if the items share it."""
    return slice(None) if length == 1 else items


def tiles(geometry: Geometry, items: int, size: int = _TILE) -> Iterator[tuple[slice, slice]]:
    """Slices (items, rows) that cover ``items × n``, of at most `size` entries unless a single row has more.

    The partition of rows, and so the rounding of an item, does not depend on the number of items.
    """
    height = min(geometry.n, max(1, size // geometry.m))
    width = max(1, size // (height * geometry.m))
    for start in range(0, items, width):
        for top in range(0, geometry.n, height):
            yield slice(start, min(start + width, items)), slice(top, min(top + height, geometry.n))
