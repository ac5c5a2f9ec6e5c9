"""Costs of the arcs that a sparse matrix stores; all other arcs are forbidden."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otkit import checks
from otkit.arrays import is_scipy_sparse
from otkit.geometry.base import GivenGeometry


def _diagonals(C: Any) -> Any:
    """The entries of stored diagonals, also those that are 0, which SciPy's conversion drops."""
    from scipy.sparse import coo_array

    row = np.arange(C.data.shape[1]) - C.offsets[:, None]
    at, col = np.nonzero((row >= 0) & (row < C.shape[0]) & (np.arange(row.shape[1]) < C.shape[1]))
    return coo_array((C.data[at, col], (row[at, col], col)), shape=C.shape)


@dataclass(frozen=True, eq=False)
class StoredArcs(GivenGeometry):
    """The costs of listed arcs, in row order. The matrix, which is infinite elsewhere, is never formed as a whole.

    Attributes
    ----------
    cost : array (K,)
    row, col : array of int (K,)
    start : array of int (n + 1,)
        The place of the first arc of each row, and K.
    columns : int
        Number of columns.
    leading : tuple of int
        The batch axes: ``(1,)`` for a flat geometry, ``()`` for one as given.
    """

    cost: np.ndarray
    row: np.ndarray
    col: np.ndarray
    start: np.ndarray
    columns: int
    leading: tuple[int, ...] = ()

    @staticmethod
    def of(C: Any) -> StoredArcs:
        """The arcs of a sparse matrix of SciPy. Zeros that it stores are costs; entries at one place are summed."""
        if C.ndim != 2:
            raise ValueError(f"sparse C must have shape (n, m), got shape {tuple(C.shape)}; pass one matrix at a time")
        from scipy.sparse import csr_array

        given = _diagonals(C) if C.format == "dia" else C.tocoo()
        cost = checks.as_array(given.data, "C")
        cost = cost if cost.dtype == np.float32 else cost.astype(np.float64, copy=False)
        rows = csr_array((cost, (given.row, given.col)), shape=C.shape)
        rows.sum_duplicates()
        col, start = (v.astype(np.int64) for v in (rows.indices, rows.indptr))
        return StoredArcs(rows.data, np.repeat(np.arange(C.shape[0]), np.diff(start)), col, start, C.shape[1])

    @property
    def batch(self) -> tuple[int, ...]:
        return self.leading

    @property
    def n(self) -> int:
        return self.start.size - 1

    @property
    def m(self) -> int:
        return self.columns

    @property
    def T(self) -> StoredArcs:
        return self._transposed

    @cached_property
    def _transposed(self) -> StoredArcs:
        order = np.argsort(self.col, kind="stable")
        start = np.append(0, np.cumsum(np.bincount(self.col, minlength=self.m)))
        other = StoredArcs(self.cost[order], self.col[order], self.row[order], start, self.n, self.leading)
        vars(other)["_transposed"] = self
        return other

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"C": self.cost}

    @property
    def rounding(self) -> tuple[float, float]:
        return 0.0, 0.0  # the costs are exact by definition

    @property
    def matrix(self) -> None:
        return None

    @property
    def cloud(self) -> None:
        return None

    @property
    def stored(self) -> StoredArcs:
        return self

    @property
    def grid(self) -> None:
        return None

    @property
    def bordered(self) -> None:
        return None

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return False

    @property
    def non_negative(self) -> bool:
        return False

    @property
    def undefined(self) -> str:
        return "costs must be numbers or +inf (a forbidden arc), got NaN or -inf; correct them, or leave them out"

    @property
    def may_forbid(self) -> bool:
        return True

    @property
    def convex_on_line(self) -> bool:
        return False

    def check(self) -> None:
        if 0 in (self.n, self.m):
            raise ValueError(f"C must not be empty, got shape {(self.n, self.m)}; leave empty problems out")

    def detached(self) -> StoredArcs:
        return self

    def owned(self) -> StoredArcs:
        return self  # the arcs are a copy already

    def hosted(self) -> StoredArcs:
        return self

    def flat(self, batch: tuple[int, ...]) -> StoredArcs:
        return replace(self, cost=self.cost.astype(np.float64, copy=False), leading=(1,))

    def block(self, items: slice, rows: slice) -> np.ndarray:
        low, high, _ = rows.indices(self.n)
        part = slice(self.start[low], self.start[high])
        tile = np.full((1, high - low, self.m), np.inf)
        tile[0, self.row[part] - low, self.col[part]] = self.cost[part]
        return tile

    def at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """The costs of these arcs, inf for those that are not stored: ``(K,)``."""
        here, wanted = (row * self.m + col for row, col in ((self.row, self.col), (rows, cols)))
        place = np.minimum(np.searchsorted(here, wanted), here.size - 1)
        return np.where(here[place] == wanted, self.cost[place], np.inf)

    def take(self, items: np.ndarray) -> StoredArcs:
        return self

    def among(self, item: int, rows: np.ndarray) -> StoredArcs:
        count = np.diff(self.start)[rows]
        start = np.append(0, np.cumsum(count))
        arcs = np.arange(start[-1]) + np.repeat(self.start[rows] - start[:-1], count)
        row = np.repeat(np.arange(rows.size), count)
        return StoredArcs(self.cost[arcs], row, self.col[arcs], start, self.columns, self.leading)

    def with_border(self, right: np.ndarray, below: np.ndarray, corner: np.ndarray) -> StoredArcs:
        """The arcs with those of one more row and column, whose costs are the edges of `Bordered` of one item."""
        n, m = self.n, self.m
        last = np.append(np.broadcast_to(below, m), corner)
        last = last[np.isfinite(last)]  # the corner may be forbidden
        row = np.concatenate([self.row, np.arange(n), np.full(last.size, n)])
        col = np.concatenate([self.col, np.full(n, m), np.arange(last.size)])
        cost = np.concatenate([self.cost, np.broadcast_to(right, n), last])
        order = np.argsort(row, kind="stable")
        start = np.append(0, np.cumsum(np.bincount(row, minlength=n + 1)))
        return StoredArcs(cost[order], row[order], col[order], start, m + 1, self.leading)

    def to_numpy(self) -> StoredArcs:
        return self


def is_sparse(C: Any) -> bool:
    """Whether `C` is a sparse matrix or array of SciPy."""
    return type(C) is not np.ndarray and is_scipy_sparse(C)
