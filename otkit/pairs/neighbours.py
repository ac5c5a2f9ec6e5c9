"""The nearest of each measure: pairs are solved from the least lower bound on, until the bounds exclude all others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.pairs.bounds import Sketches, sketches
from otkit.pairs.results import Answers, Layout, NeighboursResult, named
from otkit.pairs.work import Work, progress_bar, solved_pairs

# Measures whose bounds to all others are in memory at a time; how many are listed at first, for each that is wanted.
_ROWS, _LISTED = 128, 4

Pairs = tuple[np.ndarray, np.ndarray]


def nearest(work: Work, layout: Layout, k: int, size: int) -> tuple[NeighboursResult, tuple[Pairs, Answers]]:
    """The k nearest of each measure, and the pairs that were solved for it, in tasks of at most `size`.

    In each round a measure asks for those of least bound among the pairs that may still belong to the k nearest: k of
    them at first, then twice as many as before.
    """
    known, queue = _Known(layout), _Queue(sketches(work.clouds, work.options.cost), layout, k)
    active, ask = np.arange(layout.rows), k
    rest = np.empty(layout.rows)
    with progress_bar(work, None) as bar:
        while active.size:
            wanted, going = [np.empty(0, dtype=np.int64)], []
            for row in active.tolist():
                others, rest[row] = _asked(queue, known, row, k, ask)
                wanted.append(known.code(row, others))
                if others.size:
                    going.append(row)
            i, j = known.ends(np.unique(np.concatenate(wanted)))
            first = 0 if layout.cols is None else layout.rows
            known.add(i, j, solved_pairs(work, i, first + j, size, bar))
            active, ask = np.array(going), 2 * ask
    return _result(known, rest, k, work.options.cost.power), (known.ends(known.codes), known.answers)


class _List(NamedTuple):
    """Others of a measure, their bounds, a bound on those that are not listed, and which bounds are by moments too."""

    near: np.ndarray
    below: np.ndarray
    beyond: float
    tight: np.ndarray


class _Queue:
    """For each measure the others of least bounds, and a bound on those that are not listed."""

    def __init__(self, bounds: Sketches, layout: Layout, k: int) -> None:
        self._bounds, self._layout = bounds, layout
        self._first = 0 if layout.cols is None else layout.rows
        length = _LISTED * (k + 8)
        listed = [
            self._list(np.arange(low, min(low + _ROWS, layout.rows)), length) for low in range(0, layout.rows, _ROWS)
        ]
        self._lists = [one for some in listed for one in some]

    def of(self, row: int, solved: np.ndarray, enough: float) -> tuple[_List, np.ndarray]:
        """The others that are listed for a measure, and which of them are not solved, by their bounds.

        Bounds of at most `enough` are raised by moments.
        """
        one = self._lists[row]
        new = (one.below < np.inf) & ~np.isin(one.near, solved)
        some = np.flatnonzero(new & ~one.tight & (one.below <= enough))
        if some.size:
            one.below[some] = np.maximum(one.below[some], self._bounds.of_moments(row, self._first + one.near[some]))
            one.tight[some] = True
        return one, np.flatnonzero(new)[np.argsort(one.below[new], kind="stable")]

    def lengthen(self, row: int) -> None:
        """List four times as many others for a measure."""
        self._lists[row] = self._list(np.array([row]), 4 * len(self._lists[row].near))[0]

    def _list(self, rows: np.ndarray, length: int) -> list[_List]:
        size = self._layout.shape[1]
        below = self._bounds.below(rows, slice(self._first, self._first + size))
        if self._layout.cols is None:
            below[np.arange(rows.size), rows] = np.inf
        if length < size:
            near = np.argpartition(below, length, axis=-1)[:, : length + 1]
        else:
            near = np.broadcast_to(np.arange(size), below.shape)
        near = np.sort(near, axis=-1)
        least = np.take_along_axis(below, near, axis=-1)
        order = np.argsort(least, axis=-1, kind="stable")
        near, least = (np.take_along_axis(v, order, axis=-1) for v in (near, least))
        beyond = least[:, length] if length < size else np.full(rows.size, np.inf)
        pairs = zip(near[:, :length], least[:, :length], beyond.tolist(), strict=True)
        return [_List(v.copy(), w.copy(), far, np.zeros(len(v), dtype=bool)) for v, w, far in pairs]


class _Known:
    """The pairs that are solved, in order."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.codes, self.answers = np.empty(0, dtype=np.int64), Answers.empty(0)
        self._index()

    def ends(self, codes: np.ndarray) -> Pairs:
        """The two measures of each pair."""
        return codes // self.layout.shape[1], codes % self.layout.shape[1]

    def code(self, row: int, others: np.ndarray) -> np.ndarray:
        """The codes of the pairs of a measure with others."""
        if self.layout.cols is not None:
            return row * self.layout.shape[1] + others
        return np.minimum(row, others) * self.layout.rows + np.maximum(row, others)

    def add(self, i: np.ndarray, j: np.ndarray, answers: Answers) -> None:
        codes = np.concatenate([self.codes, i * self.layout.shape[1] + j])
        order = np.argsort(codes, kind="stable")
        joined = {name: np.concatenate([v, answers.arrays[name]]) for name, v in self.answers.arrays.items()}
        self.codes, self.answers = codes[order], Answers(**joined).take(order)
        self._index()

    def _index(self) -> None:
        """For each measure the others that are solved with it, and where."""
        i, j = self.ends(self.codes)
        place = np.arange(len(self.codes))
        if self.layout.cols is None:
            i, j, place = np.concatenate([i, j]), np.concatenate([j, i]), np.concatenate([place, place])
        order = np.lexsort([j, i])
        self._others, self._places = j[order], place[order]
        self._starts = np.searchsorted(i[order], np.arange(self.layout.rows + 1))

    def of(self, row: int) -> tuple[np.ndarray, Answers]:
        """The others that are solved with a measure, in order, and the answers."""
        own = slice(self._starts[row], self._starts[row + 1])
        return self._others[own], self.answers.take(self._places[own])


def _asked(queue: _Queue, known: _Known, row: int, k: int, ask: int) -> tuple[np.ndarray, float]:
    """The others to solve next for a measure, none at the end, and the least bound of those that are not solved."""
    solved, answers = known.of(row)
    enough = np.sort(answers.upper)[k - 1] if solved.size >= k else np.inf
    while True:
        listed, new = queue.of(row, solved, enough)
        below = listed.below[new]
        wanted = listed.near[new[below <= enough]]
        if wanted.size or not (listed.beyond <= enough and listed.beyond < np.inf):
            return wanted[:ask], min(below.min(initial=np.inf), listed.beyond)
        queue.lengthen(row)


def _result(known: _Known, rest: np.ndarray, k: int, p: float) -> NeighboursResult:
    """The k nearest by their distances, the first of equal ones; `rest` bounds what is not solved."""
    rows = known.layout.rows
    indices, codes = np.empty((rows, k), dtype=np.int64), np.empty((rows, k), dtype=np.uint8)
    distance, lower, upper = np.empty((3, rows, k))
    certified = np.empty((rows, k), dtype=bool)
    for row in range(rows):
        others, answers = known.of(row)
        order = np.argsort(answers.distance, kind="stable")
        near = answers.take(order[:k])
        indices[row], codes[row] = others[order[:k]], near.status
        distance[row], lower[row], upper[row] = near.distance, near.lower, near.upper
        certified[row] = near.upper <= min(answers.lower[order[k:]].min(initial=np.inf), rest[row])
    return NeighboursResult(
        indices=indices,
        distance=distance,
        lower=lower,
        upper=upper,
        status=named(codes),
        certified=certified,
        solved=len(known.codes),
        pairs=known.layout.pairs,
        p=p,
    )
