"""Batches of pairs of clouds of similar sizes, padded by points without weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otkit import arrays
from otkit.arrays import Array, is_array, to_numpy
from otkit.geometry.points import Padded

# Sizes are rounded up to powers of two from this one on.
_SMALLEST = 64
# Maximum number of entries of a pair in a batch, and of a batch. A larger pair is divided among threads.
_LARGEST, _TOGETHER = 2**19, 2**20
# Numbers for each place of a pair in a batch that one compiled pass solves, which holds no entries.
_VECTORS = 16
# Bits of a factor between the magnitudes of coordinates in a batch, whose bounds cover the rounding of the largest.
_BITS = 4


class Batch(NamedTuple):
    """The indices of pairs that are solved together, and the arguments of their batch; None for a pair alone."""

    pairs: list[int]
    arguments: list[Any] | None


@dataclass(frozen=True)
class Side:
    """Clouds of a side, one after the other.

    Attributes
    ----------
    points : array (N, d)
    weights : array (N,) or None
    start, size : array of int (K,)
        Where each cloud begins, and its number of points.
    alone : bool
        Whether all pairs share one cloud, of which there are only the points and weights.
    """

    points: Array
    weights: Array | None
    start: np.ndarray
    size: np.ndarray
    alone: bool

    @staticmethod
    def of(points: list[Array], weights: list[Array | None], *, recorded: bool) -> Side:
        """The clouds of lists, in autograd's graph if `recorded`."""
        size = np.array(list(map(len, points)))
        start = np.cumsum(size) - size
        first, own = points[0], weights[0]
        alone = all(v is first for v in points) and all(w is own for w in weights)
        x, w = (first, own) if alone else (_flat(points), None if own is None else _flat(weights))
        x, w = (x, w) if recorded else (arrays.detached(x), arrays.detached(w))
        return Side(x, w, start, size, alone)

    @property
    def magnitudes(self) -> np.ndarray:
        """Exponents, in steps of `_BITS` bits, of the largest coordinate of each cloud: ``(K,)``."""
        sizes = abs(to_numpy(self.points)).reshape(-1)
        largest = sizes.max() if self.alone else np.maximum.reduceat(sizes, self.points.shape[1] * self.start)
        return np.broadcast_to(np.frexp(largest)[1] // _BITS, self.size.shape)

    def padded(self, items: np.ndarray) -> tuple[Array, Array | None]:
        """The points ``(K, N, d)`` and weights ``(K, N)`` of some clouds: the last point is repeated without weight."""
        if self.alone:
            return self.points, self.weights
        size, place = self.size[items, None], np.arange(self.size[items].max())
        index = self.start[items, None] + np.minimum(place, size - 1)
        there = place < size
        x, like = _rows(self.points, index), self.points
        if self.weights is None:
            w = arrays.from_numpy(there / size, like)
            return x, arrays.namespace(w).astype(w, like.dtype)
        return x, _rows(self.weights, index) * arrays.from_numpy(there, like)


def _flat(parts: list[Any]) -> Array:
    return np.concatenate(parts) if type(parts[0]) is np.ndarray else arrays.namespace(parts[0]).concat(parts)


def _rows(flat: Array, index: np.ndarray) -> Array:
    """Rows of an array, ``(K, N, ...)``."""
    rows = arrays.namespace(flat).take(flat, arrays.from_numpy(index.reshape(-1), flat), axis=0)
    return rows.reshape((*index.shape, *flat.shape[1:]))


def batches(columns: list[list[Any]], compiled: Callable[[int], int], *, recorded: bool) -> Iterator[Batch]:
    """The batches of all pairs.

    The columns are x, y, a, b and further numbers of all pairs. Pairs of a batch have arrays of one kind, sizes between
    the same powers of two, and coordinates of similar magnitude. A batch is in autograd's graph if `recorded`. Of
    points in host memory with d coordinates, pairs of at most ``compiled(d)`` entries are solved at their own sizes by
    one pass: they are `Padded`, and only the larger size of a pair is between the same powers of four.
    """
    kinds: dict[Any, list[int]] = {}
    for k, kind in enumerate(_kinds(columns)):
        kinds.setdefault(kind, []).append(k)
    for kind, members in kinds.items():
        if kind is None or len(members) == 1:
            yield from (Batch([k], None) for k in members)
            continue
        x, y, a, b, *numbers = ([column[k] for k in members] for column in columns)
        same = all(v is w for v, w in zip(x, y, strict=True)) and all(v is w for v, w in zip(a, b, strict=True))
        rows = Side.of(x, a, recorded=recorded)
        cols = rows if same else Side.of(y, b, recorded=recorded)
        most = 0 if arrays.on_gpu(x[0]) else compiled(x[0].shape[1])
        for items in _similar(rows, cols, most):
            some = [members[k] for k in items.tolist()]
            if items.size == 1:
                yield Batch(some, None)
                continue
            yield Batch(
                some, [*_points(rows, cols, items, most), *(_together([v[k] for k in items.tolist()]) for v in numbers)]
            )


def _points(rows: Side, cols: Side, items: np.ndarray, compiled: int) -> list[Any]:
    """Points and weights of both sides in a batch."""
    x, a = rows.padded(items)
    y, b = (x, a) if cols is rows else cols.padded(items)
    if rows.alone and cols.alone:  # all pairs are one
        many = arrays.namespace(x).broadcast_to(x, (items.size, *x.shape))
        x, y = many, many if y is x else y
    if rows.size[items[0]] * cols.size[items[0]] <= compiled:
        x, y = (Padded(v, of.size[items][: len(v) if v.ndim == 3 else 1]) for v, of in ((x, rows), (y, cols)))
    return [x, y, a, b]


def _similar(rows: Side, cols: Side, compiled: int) -> Iterator[np.ndarray]:
    """The pairs of each batch, the largest first."""
    sizes = np.column_stack((rows.size, cols.size))
    entries = sizes.prod(1)
    levels = np.ceil(np.log2(np.maximum(sizes, _SMALLEST)))
    small = entries <= compiled
    levels[small] = 2 * np.ceil(levels[small].max(1, keepdims=True, initial=0) / 2)
    large = np.where(~small & (entries > _LARGEST), np.arange(len(sizes)), -1)
    keys = np.column_stack((levels, np.maximum(rows.magnitudes, cols.magnitudes), large, small))
    groups: dict[tuple[float, ...], list[int]] = {}
    for k in np.argsort(-entries, kind="stable").tolist():
        groups.setdefault(tuple(keys[k].tolist()), []).append(k)
    for some in map(np.array, groups.values()):
        n, m = sizes[some].max(0).tolist()
        most = max(1, _TOGETHER // (_VECTORS * max(n, m) if small[some[0]] else n * m))
        yield from (some[low : low + most] for low in range(0, some.size, most))


def _kinds(columns: list[list[Any]]) -> list[tuple[Any, ...] | None]:
    """What the pairs of a batch have in common; None for a pair that is solved alone, also if it is invalid."""
    x, y, a, b, *numbers = columns
    parts = [list(map(_kind, v)) for v in (x, y)]
    parts += [list(map(_kind_of_weights, w, v)) for w, v in ((a, x), (b, y))]
    parts += [list(map(_kind_of_number, v)) for v in numbers]
    return [None if None in kind else kind for kind in zip(*parts, strict=True)]


def _kind(v: Any) -> Any:
    """The kind of points of real numbers, in an array that may be indexed by arrays; None for others."""
    if type(v) is np.ndarray:
        return (v.dtype.str, v.shape[1]) if v.ndim == 2 and v.dtype.kind == "f" and v.size else None
    if not arrays.is_tensor(v) or v.ndim != 2 or not v.dtype.is_floating_point or 0 in v.shape or arrays.transformed(v):
        return None
    return str(v.dtype), v.shape[1], str(v.device)


def _kind_of_weights(w: Any, points: Any) -> Any:
    if w is None:
        return ""
    if type(w) is not type(points) or w.shape != points.shape[:1]:
        return None
    if type(w) is np.ndarray:
        return w.dtype.str
    return None if arrays.transformed(w) else str(w.dtype)


def _kind_of_number(v: Any) -> Any:
    """Whether there is a number, also for a tuple of them; None for arrays."""
    if v is None:
        return False
    if isinstance(v, tuple):
        return None if None in (found := tuple(map(_kind_of_number, v))) else found
    return True if isinstance(v, (float, int)) or (is_array(v) and v.ndim == 0) else None


def _together(numbers: list[Any]) -> Any:
    """The number of all pairs, an array with one for each, or a tuple of such."""
    first = numbers[0]
    if isinstance(first, tuple):
        return tuple(_together([v[side] for v in numbers]) for side in range(len(first)))
    if first is None or (type(first) is float and all(v is first for v in numbers)):
        return first
    found = np.array([float(arrays.detached(v)) for v in numbers])
    return float(found[0]) if (found == found[0]).all() else found
