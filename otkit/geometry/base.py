"""The geometry interface: what it costs to move mass, asked for in tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from otkit.arrays import Array, namespace

if TYPE_CHECKING:
    from otkit.geometry.points import PointCloud

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

    @property
    @abstractmethod
    def matrix(self) -> Array | None:
        """The matrix ``(items or 1, n, m)`` that the costs are read from; None where they are not held."""

    @property
    @abstractmethod
    def cloud(self) -> PointCloud | None:
        """The points whose distances the costs are; None where there are none."""

    @property
    @abstractmethod
    def offsets(self) -> tuple[Array, Array, bool] | None:
        """What is taken off matrix or distances: of rows ``(B, n)``, of columns ``(B, m)``, and if the latter first."""

    @property
    @abstractmethod
    def called(self) -> bool:
        """Whether the costs are what a function of the caller's returns."""

    @abstractmethod
    def block(self, items: slice, rows: slice) -> Array:
        """A tile of a flat geometry in float64, ``(items or 1, rows, m)``."""

    @abstractmethod
    def take(self, items: np.ndarray) -> Geometry:
        """The flat geometry of some of the items, by index."""

    @abstractmethod
    def to_numpy(self) -> Geometry:
        """The same geometry over NumPy arrays."""


class GivenGeometry(Geometry):
    """A geometry as a caller gives it, with any batch axes: what a problem asks of it before it is flat."""

    @property
    @abstractmethod
    def T(self) -> Self: ...

    @property
    @abstractmethod
    def rounding(self) -> tuple[float, float]:
        """Bounds (relative, absolute) on the distance of a float64 cost from the real one; of a flat geometry."""

    @property
    @abstractmethod
    def non_negative(self) -> bool:
        """Whether the kind of cost rules out negative ones."""

    @property
    @abstractmethod
    def convex_on_line(self) -> bool:
        """Whether the points lie on a line and the cost is convex along it, so that sorting solves the problem."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` for shapes and points that make no costs."""

    @abstractmethod
    def detached(self) -> Self:
        """The same costs, not recorded by autograd."""

    @abstractmethod
    def hosted(self) -> Self:
        """The same costs as views in NumPy, where their arrays lie in the memory of the host."""

    @abstractmethod
    def flat(self, batch: tuple[int, ...]) -> Self:
        """The costs of the items of `batch` along one leading axis, of length 1 where they share them."""

    @abstractmethod
    def take(self, items: np.ndarray) -> Self: ...

    @abstractmethod
    def to_numpy(self) -> Self: ...


def flatten_batch(x: Array, batch: tuple[int, ...], trailing: int) -> Array:
    """`x` with the axes before its last `trailing` ones broadcast to `batch` and joined; length 1 if it has none."""
    xp = namespace(x)
    tail = tuple(x.shape[x.ndim - trailing :])
    if all(size == 1 for size in x.shape[: x.ndim - trailing]):
        return xp.reshape(x, (1, *tail))
    return xp.reshape(xp.broadcast_to(x, (*batch, *tail)), (-1, *tail))


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
