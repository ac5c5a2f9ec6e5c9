"""The nearest of each measure: pairs are solved from the least lower bound on, until the bounds exclude all others."""

from __future__ import annotations

import numpy as np

from otkit.pairs.bounds import Sketches, sketches
from otkit.pairs.results import Answers, Layout, NeighboursResult, named
from otkit.pairs.work import Work, progress_bar, solved_pairs

# Measures whose bounds to all others are in memory at a time.
_ROWS = 128

Pairs = tuple[np.ndarray, np.ndarray]


def nearest(work: Work, layout: Layout, k: int, size: int) -> tuple[NeighboursResult, tuple[Pairs, Answers]]:
    """The k nearest of each measure, and the pairs that were solved for it, in tasks of at most `size`.

    In each round a measure asks for those of least bound among the pairs that may still belong to the k nearest: k of
    them at first, then twice as many as before.
    """
    bounds = sketches(work.clouds, work.options.cost)
    known = _Known(layout)
    active, ask = np.arange(layout.rows), k
    rest = np.full(layout.rows, np.inf)
    with progress_bar(work, None) as bar:
        while active.size:
            wanted = [np.empty(0, dtype=np.int64)]
            for low in range(0, active.size, _ROWS):
                rows = active[low : low + _ROWS]
                asked, rest[rows] = _asked(bounds, known, rows, k, ask)
                wanted.append(asked)
            i, j = known.ends(np.unique(np.concatenate(wanted)))
            first = 0 if layout.cols is None else layout.rows
            known.add(i, j, solved_pairs(work, i, first + j, size, bar))
            active, ask = active[rest[active] == -np.inf], 2 * ask
    return _result(known, rest, k, work.options.cost.power), (known.ends(known.codes), known.answers)


class _Known:
    """The pairs that are solved, in order."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.codes, self.answers = np.empty(0, dtype=np.int64), Answers.empty(0)
        self._index()

    def ends(self, codes: np.ndarray) -> Pairs:
        """The two measures of each pair."""
        return codes // self.layout.shape[1], codes % self.layout.shape[1]

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


def _asked(bounds: Sketches, known: _Known, rows: np.ndarray, k: int, ask: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes of pairs to solve for these measures, and the least bound of the others; −inf if some may matter."""
    layout = known.layout
    first, size = (0, layout.rows) if layout.cols is None else (layout.rows, layout.cols)
    below = bounds.below(rows, slice(first, first + size))
    if layout.cols is None:
        below[np.arange(rows.size), rows] = np.inf
    asked, rest = [], np.empty(rows.size)
    for at, row in enumerate(rows):
        others, answers = known.of(row)
        below[at, others] = np.inf
        enough = np.sort(answers.upper)[k - 1] if others.size >= k else np.inf
        open_ = np.flatnonzero((below[at] <= enough) & (below[at] < np.inf))
        rest[at] = -np.inf if open_.size else below[at].min()
        if open_.size > ask:
            open_ = open_[np.argsort(below[at, open_], kind="stable")[:ask]]
        low, high = (open_ * 0 + row, open_) if layout.cols is not None else np.sort([open_ * 0 + row, open_], axis=0)
        asked.append(low * layout.shape[1] + high)
    return np.concatenate(asked), rest


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
