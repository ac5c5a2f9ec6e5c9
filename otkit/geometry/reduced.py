"""Costs reduced by an offset of each row and column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, namespace, take, to_numpy
from otkit.geometry.base import Geometry, shared, some_rows
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.geometry.stored import StoredArcs


@dataclass(frozen=True)
class Reduced(Geometry):
    """The flat geometry ``C_ij − row_i − col_j``, with offsets ``row (B, n)`` and ``col (B, m)``.

    ``transposed`` says that the sides were swapped. The offsets are always subtracted in the same order, so that the
    geometry and its transpose have bitwise equal costs. Costs of points may be ``held`` as a matrix ``(B or 1, n, m)``.
    """

    base: Geometry
    row: Array
    col: Array
    transposed: bool = False
    held: Array | None = None

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
    def matrix(self) -> Array | None:
        return self.base.matrix if self.held is None else self.held

    @property
    def cloud(self) -> PointCloud | None:
        return self.base.cloud

    @property
    def stored(self) -> StoredArcs | None:
        return self.base.stored

    @property
    def grid(self) -> Grid | None:
        return self.base.grid

    @property
    def offsets(self) -> tuple[Array, Array, bool]:
        return self.row, self.col, self.transposed

    @property
    def called(self) -> bool:
        return self.base.called

    @property
    def T(self) -> Reduced:
        held = None if self.held is None else namespace(self.held).matrix_transpose(self.held)
        return Reduced(self.base.T, self.col, self.row, not self.transposed, held)

    def block(self, items: slice, rows: slice) -> Array:
        row, col = self.row[items, rows, None], self.col[items, None, :]
        first, second = (col, row) if self.transposed else (row, col)
        C = self.base.block(items, rows) if self.held is None else self.held[shared(items, len(self.held)), rows]
        return C - first - second

    def pairs(self, item: int, rows: Array, cols: Array) -> Array:
        """The costs of pairs of points of an item, for a geometry of points: ``(K,)``."""
        assert self.cloud is not None
        row, col = self.row[item][rows], self.col[item][cols]
        first, second = (col, row) if self.transposed else (row, col)
        return self.cloud.pairs(item, rows, cols) - first - second

    def take(self, items: np.ndarray) -> Reduced:
        held = self.held if self.held is None or self.held.shape[0] == 1 else take(self.held, items)
        return Reduced(self.base.take(items), *take((self.row, self.col), items), self.transposed, held)

    def among(self, item: int, rows: np.ndarray) -> Reduced:
        row = some_rows(self.row, item, rows)
        return Reduced(self.base.among(item, rows), row, self.col[item : item + 1, ...], self.transposed)

    def to_numpy(self) -> Reduced:
        return Reduced(self.base.to_numpy(), to_numpy(self.row), to_numpy(self.col), self.transposed)
