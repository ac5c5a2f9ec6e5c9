"""Row updates of one large problem, and the entries of the plan that they keep in memory.

The first update is computed in the log domain. Later updates only rescale the columns of its entries: of all entries,
or of the few that matter if the plan is sparse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.entropic.sparsity import FAR, Listed
from otkit.geometry.reduced import Reduced
from otkit.kernels import threads
from otkit.kernels.memory import NEGLIGIBLE, free_memory, lent
from otkit.kernels.numba import iterations
from otkit.kernels.numba import listed as listed_entries
from otkit.kernels.numba.tiles import Tiles, parts

# Maximum memory in bytes for all entries, and for listed entries. The size of the cost matrix is allowed in any case.
KEPT, LISTED = 2**28, 2**29
# A plan is sparse if at most the fraction _SPARSE of its entries matters. The fraction is estimated from about _SAMPLE
# rows, for problems of at least WORTH entries.
_SPARSE, _SAMPLE, WORTH = 1 / 6, 16, 2**16
# Spare places in each row, beyond twice the mean of the sample or its maximum, and bytes of an entry.
_SPARE, _ENTRY = 32, 12
# Cost of a listed entry in an update, relative to an entry of a full matrix.
_LISTED_COST = 3


class Item(NamedTuple):
    """One problem in the form needed by row updates.

    ``f (n,)`` has guesses of the potentials of the rows, which overwrite them. ``h (m,)`` is g + reg·log b + the offset
    of the columns, for the log domain. ``v (m,)`` has the scalings of the columns since the entries were computed. Both
    change with each iteration.
    """

    costs: Reduced
    a: np.ndarray
    row: np.ndarray
    keep: float
    reg: float
    f: np.ndarray
    h: np.ndarray
    v: np.ndarray


def begin(item: Item, b: np.ndarray, tol: float, budget: int, listed: Listed | None) -> Rows:
    """The kind of row updates for at most `budget` iterations to this tolerance, chosen before the first iteration."""
    n, m = item.costs.n, item.costs.m
    C = item.costs.matrix
    held = 0 if C is None else C.nbytes // C.shape[0]
    allowed = max(LISTED, held)
    if n * m >= WORTH:
        low, cut = listed_entries.cuts(abs(tol) if tol > -np.inf else 0.0, b, n)
        found = _sample(item, low, cut) if listed is None else np.diff(listed.ends)
        few = listed is not None or found.mean() <= _SPARSE * m
        if few and _is_room(int(n * (found.mean() + _SPARE)) * _ENTRY, allowed):
            return SparseRows(item, low, cut, int(max(2 * found.mean(), found.max())) + _SPARE, allowed, listed)
    if budget <= 1:  # no later iteration would use the entries
        return Rows(item)
    dtype = np.dtype(np.float32 if tol >= iterations.SINGLE else np.float64)
    return DenseRows(item, dtype) if _is_room(n * m * dtype.itemsize, max(KEPT, held)) else Rows(item)


def _is_room(need: int, allowed: int) -> bool:
    free = free_memory() if need > NEGLIGIBLE else None
    return need <= allowed and (free is None or need <= free)


def _sample(item: Item, low: float, cut: np.ndarray) -> np.ndarray:
    """Numbers of entries to keep in a sample of rows."""
    some = slice(0, item.costs.n, max(1, item.costs.n // _SAMPLE))
    C = Tiles(item.costs).tile(slice(0, 1), some)[0]
    a, row, sigma = (np.ascontiguousarray(v[some]) for v in (item.a, item.row, item.f))
    Q, sums, f = np.empty(C.shape), np.zeros(item.costs.m), np.empty(a.size)
    iterations.log_rows(C, 0, a, row, item.h, item.keep, item.reg, sigma, f, sums, Q)
    least = np.minimum(np.exp(low) * a[:, None], np.exp(cut))
    return (Q * a[:, None] > least).sum(axis=1)


class Rows:
    """Row updates that are always in the log domain and keep no entries.

    Attributes
    ----------
    sums, mass : numpy array (G, m), (G,)
        The column sums before scaling, and the mass of the rows, by groups of rows.
    far : float
        Largest exponent of a scaling for `rescaled`; 0 if no entries are kept.
    light : float
        Sums that are not above this may have underflowed.
    effort : float
        Number of entries that an update visits, or a number of entries of the same cost; NaN if it is unknown whether
        all entries matter.
    given : Listed or None
        The entries listed by an earlier sweep, until they are recomputed.
    """

    far, light = 0.0, iterations.LIGHT
    given: Listed | None = None

    def __init__(self, item: Item) -> None:
        n, m = item.costs.n, item.costs.m
        self.item, self.effort = item, float(n * m if n * m >= WORTH else np.nan)
        self.work = n * m
        self.tiles, self.parts = Tiles(item.costs), parts(n, m, 1)
        self.ends = np.array([0, *(part.rows.stop for part in self.parts)])
        self.sums, self.mass = np.zeros((len(self.parts), m)), np.zeros(len(self.parts))
        self.sigma, self.sigma0 = item.f.copy(), np.empty(n)
        self.Q = np.empty((0, 0))

    def formed(self) -> None:
        """Update the rows in the log domain, by ``h``, and keep the entries for the next updates."""
        self.sums[:] = self.mass[:] = 0.0
        threads.each(lambda part: self.tiles.walk(part, self._tile), self.parts, self.item.costs.n * self.item.costs.m)
        self.sigma0[:] = self.sigma

    def rescaled(self) -> None:
        """Update the rows by the kept entries, with the columns scaled by ``v``."""
        threads.each(self._share, threads.shares(len(self.parts), self.work), self.work)

    def _tile(self, C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        at = self.item
        self.mass[group] += iterations.log_rows(
            C[0], first, at.a, at.row, at.h, at.keep, at.reg, self.sigma, at.f, self.sums[group], self.Q
        )

    def _share(self, share: range) -> None:
        raise NotImplementedError

    def to_list(self, g: np.ndarray) -> Listed | None:
        """The kept entries, computed at the potentials `g` of the columns; None if these are all entries or none."""
        return None


class DenseRows(Rows):
    """Row updates that keep all entries."""

    far = iterations.SCALED

    def __init__(self, item: Item, dtype: np.dtype) -> None:
        super().__init__(item)
        self.Q = lent((item.costs.n, item.costs.m), dtype)
        self.light = iterations.LIGHT if dtype == np.float64 else iterations.LIGHT_SINGLE

    def _share(self, share: range) -> None:
        at = self.item
        iterations.absorbed_groups(
            self.Q, self.ends, share.start, share.stop, at.a, at.row, at.v, at.keep, at.reg,
            self.sigma0, self.sigma, at.f, self.sums, self.mass,
        )  # fmt: skip


class SparseRows(Rows):
    """Row updates by a list of the entries that matter.

    If a list needs more than `places` in each row, it is recomputed with more places as long as it needs at most
    `allowed` bytes. Beyond this, no entries are kept.
    """

    def __init__(
        self, item: Item, low: float, cut: np.ndarray, places: int, allowed: int, listed: Listed | None
    ) -> None:
        super().__init__(item)
        self.allowed, self.places, self.given = allowed, places, listed
        self.low, self.cut, self.least = low, cut, np.exp(cut)
        self.spans, self.total = np.empty((item.costs.n, 2), dtype=np.int64), np.empty(item.costs.n)
        self.where, self.value = np.empty(0, dtype=np.uint32), np.empty(0)
        if listed is not None:
            self.spans[:, 0], self.spans[:, 1] = listed.ends[:-1], listed.ends[1:]
            self.where, self.value = listed.cols.view(np.uint32), listed.values
            self.sigma0[:] = listed.sigma
            self._visit(listed.values.size)

    def _visit(self, count: int) -> None:
        self.count, self.work, self.far = count, _LISTED_COST * count, FAR
        self.effort = float(self.work)

    def formed(self) -> None:
        self.places = min(self.places, self.item.costs.m)
        if self.where.size != self.item.costs.n * self.places or self.given is not None:
            count = self.item.costs.n * self.places
            self.where, self.value, self.given = np.empty(count, dtype=np.uint32), np.empty(count), None
        starts = self.ends * self.places
        self.next = starts[:-1].copy()
        super().formed()
        used = self.next - starts[:-1]
        self._visit(int(used.sum()))
        most = float((used / np.diff(self.ends)).max())
        if most > self.places:  # the list is incomplete, but the sums include all entries
            self.far = 0.0
            if _is_room(self.count * _ENTRY, self.allowed):
                self.places = int(1.5 * most) + 1
            else:
                self.effort = float(self.item.costs.n * self.item.costs.m)

    def _tile(self, C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        at = self.item
        mass, self.next[group] = listed_entries.list_rows(
            C[0], first, at.a, at.row, at.h, at.keep, at.reg, self.sigma, at.f, self.sums[group],
            self.low, self.cut, self.least, self.spans, self.where, self.value,
            self.next[group], self.ends[group + 1] * self.places,
        )  # fmt: skip
        self.mass[group] += mass

    def _share(self, share: range) -> None:
        at = self.item
        listed_entries.listed_groups(
            self.spans, self.where, self.value, self.ends, share.start, share.stop, at.a, at.row, at.v, at.keep, at.reg,
            self.sigma0, self.sigma, at.f, self.sums, self.mass, self.total,
        )  # fmt: skip

    def to_list(self, g: np.ndarray) -> Listed | None:
        if self.given is not None:
            return self.given
        if self.far == 0.0 or self.count * _ENTRY > NEGLIGIBLE:
            return None
        ends = np.zeros(self.item.costs.n + 1, dtype=np.int32)
        np.cumsum(self.spans[:, 1] - self.spans[:, 0], out=ends[1:])
        runs = [slice(*run) for run in zip(self.ends[:-1] * self.places, self.next, strict=True)]
        cols, values = (np.concatenate([v[run] for run in runs]) for v in (self.where.view(np.int32), self.value))
        return Listed(self.sigma0.copy(), g.copy(), ends, cols, values)
