"""Costs reduced by an offset of each row and column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, take, to_numpy
from otkit.geometry.base import Geometry, some_rows
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.geometry.stored import StoredArcs


@dataclass(frozen=True)
class Reduced(Geometry):
    """The flat geometry ``C_ij − row_i − col_j``, with offsets ``row (B, n)`` and ``col (B, m)``.

    ``transposed`` says that the sides were swapped. The offsets are always subtracted in the same order, so that the
    geometry and its transpose have bitwise equal costs.
    """

    base: Geometry
    row: Array
    col: Array
    transposed: bool = False

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
        return self.base.matrix

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
        return Reduced(self.base.T, self.col, self.row, not self.transposed)

    def block(self, items: slice, rows: slice) -> Array:
        row, col = self.row[items, rows, None], self.col[items, None, :]
        first, second = (col, row) if self.transposed else (row, col)
        return self.base.block(items, rows) - first - second

    def pairs(self, item: int, rows: Array, cols: Array) -> Array:
        """The costs of pairs of points of an item, for a geometry of points: ``(K,)``."""
        assert self.cloud is not None
        row, col = self.row[item][rows], self.col[item][cols]
        first, second = (col, row) if self.transposed else (row, col)
        return self.cloud.pairs(item, rows, cols) - first - second

    def take(self, items: np.ndarray) -> Reduced:
        return Reduced(self.base.take(items), *take((self.row, self.col), items), self.transposed)

    def among(self, item: int, rows: np.ndarray) -> Reduced:
        row = some_rows(self.row, item, rows)
        return Reduced(self.base.among(item, rows), row, self.col[item : item + 1, ...], self.transposed)

    def to_numpy(self) -> Reduced:
        return Reduced(self.base.to_numpy(), to_numpy(self.row), to_numpy(self.col), self.transposed)
