"""The geometry interface: what it costs to move mass, asked for in tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from otkit.arrays import Array, namespace


def flatten_batch(x: Array, batch: tuple[int, ...], trailing: int) -> Array:
    """`x` with the axes before its last `trailing` ones broadcast to `batch` and joined; length 1 if it has none."""
    xp = namespace(x)
    tail = tuple(x.shape[x.ndim - trailing :])
    if all(size == 1 for size in x.shape[: x.ndim - trailing]):
        return xp.reshape(x, (1, *tail))
    return xp.reshape(xp.broadcast_to(x, (*batch, *tail)), (-1, *tail))


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
    def called(self) -> bool:
        """Whether the costs are what a function of the caller's returns."""

    @abstractmethod
    def block(self, items: slice, rows: slice) -> Array:
        """A tile of a flat geometry in float64, ``(items or 1, rows, m)``."""

    @abstractmethod
    def take(self, items: Array) -> Geometry:
        """The flat geometry of some of the items, by index."""

    @abstractmethod
    def to_numpy(self) -> Geometry:
        """The same geometry over NumPy arrays."""


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
