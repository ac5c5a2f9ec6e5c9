"""Partition of a problem for compiled operations: parts for threads, and tiles of costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from otkit.geometry.base import Geometry, shared
from otkit.geometry.costs import Cost, cancelled
from otkit.kernels import threads
from otkit.kernels.memory import lent
from otkit.kernels.numba import distances

SMALL = 2**19  # maximum entries of a problem that a single thread computes
_CHUNK = 2**17  # entries of small problems that form one part
_TILE = 2**16  # entries of a tile of distances: half of a second-level cache
_GROUP, _GROUPS = 2**18, 16  # entries of a part of a large problem, and maximum number of parts

Work = Callable[[np.ndarray, int, int, int, int], None]  # tile, low, high, first row, group


class Part(NamedTuple):
    """Rows of some items, computed by one thread. Sums over rows are first accumulated for each `group`."""

    items: slice
    rows: slice
    group: int


def parts(n: int, m: int, items: int) -> list[Part]:
    """Partition into parts, by the size of a problem only: sums depend on neither threads nor other items."""
    if n * m <= SMALL:
        width = max(1, _CHUNK // (n * m))
        return [Part(slice(k, min(k + width, items)), slice(0, n), 0) for k in range(0, items, width)]
    rows = _cut(n, groups(n, m))
    return [Part(slice(k, k + 1), r, group) for k in range(items) for group, r in enumerate(rows)]


@lru_cache
def _cut(n: int, count: int) -> list[slice]:
    """Slices of rows, in `count` groups of nearly equal size."""
    return [slice(*ends) for ends in pairwise(np.linspace(0, n, count + 1).astype(int).tolist())]


def groups(n: int, m: int) -> int:
    """Number of groups of rows of a problem."""
    if n * m <= SMALL:
        return 1
    return min(_GROUPS, n, 2 ** max(0, math.ceil(math.log2(n * m / _GROUP))))


class Tiles:
    """Tiles of a flat geometry for kernels: C-contiguous, in float64 or float32."""

    def __init__(self, geometry: Geometry) -> None:
        self.n, self.m = geometry.n, geometry.m
        self.C, self.cloud, self.grid = geometry.matrix, geometry.cloud, geometry.grid
        self.offsets, self.bordered = geometry.offsets, geometry.bordered
        self.inner = None if self.bordered is None else Tiles(self.bordered.inner)
        self.form: tuple[int, float] | None = None
        if self.C is None and self.cloud is not None:
            self.form = _form(self.cloud.metric)
            if self.form is not None and self.cloud.metric.direct(self.cloud.d):
                self.y = np.ascontiguousarray(self.cloud.y.transpose(0, 2, 1))
            elif self.form is not None:
                self.y = np.ascontiguousarray(self.cloud.y)
                one = np.einsum("...d,...d->...", self.cloud.x, self.cloud.x)
                alike = self.cloud.y is self.cloud.x
                self.squares = one, one if alike else np.einsum("...d,...d->...", self.cloud.y, self.cloud.y)

    def reduction(self, items: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The offsets ``row (B, n)`` and ``col (B, m)``, and whether columns are subtracted first."""
        if self.offsets is None:
            return np.zeros((items, self.n)), np.zeros((items, self.m)), False
        row, col, columns_first = self.offsets
        return solid(row, items), solid(col, items), columns_first

    def tile(self, items: slice, rows: slice, out: np.ndarray | None = None) -> np.ndarray:
        """The costs ``(items or 1, rows, m)``; those of points are written to `out` if given."""
        if self.bordered is not None and self.inner is not None:
            return np.ascontiguousarray(self.bordered.tile(items, rows, self.inner.tile), dtype=np.float64)
        if self.C is not None:
            C = self.C[shared(items, self.C.shape[0]), rows]
            return np.ascontiguousarray(C, dtype=C.dtype if C.dtype in (np.float32, np.float64) else np.float64)
        if self.form is None:
            given = self.grid if self.cloud is None else self.cloud
            assert given is not None
            return np.ascontiguousarray(given.block(items, rows))
        assert self.cloud is not None
        x = np.ascontiguousarray(self.cloud.x[shared(items, self.cloud.x.shape[0]), rows])
        y = self.y[shared(items, self.y.shape[0])]
        if out is None:
            out = np.empty((max(x.shape[0], y.shape[0]), x.shape[1], self.m))
        if not self.cloud.metric.direct(self.cloud.d):
            lengths = [v[shared(items, v.shape[0])] for v in self.squares]
            alike = self.cloud.x is self.cloud.y and x.shape[1] == self.m
            share = cancelled(self.cloud.d)
            distances.from_products(x, y, lengths[0][:, rows], lengths[1], self.form[1], share, alike, out)
            return out
        distances.distances(x, y, *self.form, out)
        return out

    def walk(self, part: Part, work: Work, into: np.ndarray | None = None) -> None:
        """Call `work` for every tile of a part. Costs of points are written to ``into (items, n, m)`` if given."""
        rows, height = part.rows, part.rows.stop - part.rows.start
        if self.C is None and self.n * self.m > SMALL:
            height = max(1, _TILE // self.m)
        for first in range(rows.start, rows.stop, height):
            some = slice(first, min(first + height, rows.stop))
            tile = self.tile(part.items, some, None if into is None else into[part.items, some])
            work(tile, part.items.start, part.items.stop, first, part.group)

    def each(self, items: int, work: Work) -> None:
        """Call `work` for every tile, on all threads."""
        cut = parts(self.n, self.m, items)
        threads.each(lambda part: self.walk(part, work), cut, items * self.n * self.m)


def filled(geometry: Geometry) -> np.ndarray:
    """The matrix of the costs of a flat geometry, formed by tiles: ``(B or 1, n, m)``."""
    tiles, items = Tiles(geometry), geometry.batch[0]
    out = lent((items, geometry.n, geometry.m))

    def work(C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        if tiles.form is None:
            out[low:high, first : first + C.shape[1]] = C

    cut = parts(tiles.n, tiles.m, items)
    threads.each(lambda part: tiles.walk(part, work, out), cut, items * tiles.n * tiles.m)
    return out


_FORMS: dict[Any, tuple[int, float]] = {
    ("euclidean", 2.0): (distances.EUCLIDEAN, 1.0),
    ("euclidean", 1.0): (distances.EUCLIDEAN, 0.5),
    ("cityblock", 1.0): (distances.CITYBLOCK, 1.0),
    ("cityblock", 2.0): (distances.CITYBLOCK, 2.0),
}


def _form(metric: Cost) -> tuple[int, float] | None:
    """The ground and the power by which a compiled loop computes a cost; None where there is no such loop."""
    return _FORMS.get((metric.ground, metric.power))


def computes(metric: Cost) -> bool:
    """Whether a compiled loop computes this cost."""
    return _form(metric) is not None


def is_squared(metric: Cost) -> bool:
    """Whether a cost is the squared Euclidean distance."""
    return _form(metric) == (distances.EUCLIDEAN, 1.0)


def solid(x: Any, items: int) -> np.ndarray:
    """A vector for each item, contiguous and in float64."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    return x if x.shape[0] == items else np.repeat(x, items, axis=0)
