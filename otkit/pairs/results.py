"""Distances between many measures, their bounds and how they ended, in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otkit.results.outcome import Status

# What a code of a status stands for; what is not solved has the code 0.
STATUSES: tuple[Status | None, ...] = (None, *Status)
CODES = {status: code for code, status in enumerate(STATUSES)}
CONVERGED = CODES[Status.CONVERGED]

_NAMED = np.array(STATUSES, dtype=object)


@dataclass(frozen=True)
class Answers:
    """Distances of pairs, in NumPy.

    Attributes
    ----------
    distance : array (P,)
    lower, upper : array (P,)
        Certified bounds on each distance.
    status : array of uint8 (P,)
        How each solve ended: 0 if the pair is not solved, else 1 + the place in ``list(otkit.Status)``.
    """

    distance: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    status: np.ndarray

    @staticmethod
    def empty(size: int) -> Answers:
        """No pair is solved yet."""
        distance, lower, upper = np.zeros((3, size))
        return Answers(distance, lower, upper, np.zeros(size, dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.status)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The four arrays by name."""
        return {"distance": self.distance, "lower": self.lower, "upper": self.upper, "status": self.status}

    def take(self, places: np.ndarray) -> Answers:
        """The answers at these places."""
        return Answers(**{name: v[places] for name, v in self.arrays.items()})

    def put(self, places: np.ndarray | slice, answers: Answers) -> None:
        """Write answers to these places."""
        for name, v in self.arrays.items():
            v[places] = answers.arrays[name]


@dataclass(frozen=True)
class Layout:
    """Which pairs of K measures, or of K with L others, in which order.

    Attributes
    ----------
    rows : int
        The number K of measures.
    cols : int or None
        The number L of the others; None for the pairs i < j of one list.
    """

    rows: int
    cols: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of a matrix."""
        return self.rows, self.rows if self.cols is None else self.cols

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return self.rows * (self.rows - 1) // 2 if self.cols is None else self.rows * self.cols

    def places(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where the answers for pairs (i, j) stand: row by row, and for one list as in SciPy's ``pdist``."""
        if self.cols is not None:
            return i * self.cols + j
        return i * self.rows - i * (i + 1) // 2 + j - i - 1

    def pair(self, place: int) -> tuple[int, int]:
        """The pair whose answer stands at a place."""
        if self.cols is not None:
            return place // self.cols, place % self.cols
        i = np.arange(self.rows)
        row = int(np.searchsorted(self.places(i, i + 1), place, side="right")) - 1
        return row, place - int(self.places(np.array(row), np.array(row + 1))) + row + 1


@dataclass(frozen=True, repr=False)
class PairwiseResult:
    """The distances between all pairs of K measures, or of K measures with L others, in NumPy.

    Attributes
    ----------
    condensed : Answers
        The pairs i < j in the order of SciPy's condensed matrices, row by row, for `scipy.cluster` and
        `scipy.spatial.distance.squareform`; of two lists all pairs, row by row. Read-only and memory-mapped if the call
        had a `folder`.
    layout : Layout
        Which pairs these are.
    p : float
        The order of the distance.
    names : list of str or None
        Names of the measures, if they were given.

    Examples
    --------
    >>> import otkit
    >>> answer = otkit.pairwise([[[0.0], [1.0]], [[2.0], [3.0]], [[7.0], [8.0]]])
    >>> answer
    PairwiseResult(W2 of 3 pairs of 3 measures; all converged)
    >>> answer.distance
    array([[0., 2., 7.],
           [2., 0., 5.],
           [7., 5., 0.]])
    """

    condensed: Answers
    layout: Layout
    p: float
    names: list[str] | None = None

    @cached_property
    def distance(self) -> np.ndarray:
        """The matrix ``(K, K)``, symmetric with zeros on the diagonal, or ``(K, L)``; formed on first use."""
        return self._matrix(self.condensed.distance)

    @cached_property
    def lower(self) -> np.ndarray:
        """Certified lower bounds on the distances, in a matrix formed on first use."""
        return self._matrix(self.condensed.lower)

    @cached_property
    def upper(self) -> np.ndarray:
        """Certified upper bounds on the distances, in a matrix formed on first use."""
        return self._matrix(self.condensed.upper)

    @cached_property
    def status(self) -> np.ndarray:
        """Termination status of each solve, a `Status`, in an object matrix formed on first use."""
        return _NAMED[self._codes]

    @property
    def converged(self) -> np.ndarray:
        """Which pairs reached their tolerance, in a matrix."""
        return self._codes == CONVERGED

    @property
    def _codes(self) -> np.ndarray:
        codes = self._matrix(self.condensed.status)
        if self.layout.cols is None:
            np.fill_diagonal(codes, CONVERGED)
        return codes

    def _matrix(self, values: np.ndarray) -> np.ndarray:
        if self.layout.cols is not None:
            return values.reshape(self.layout.shape)
        size, at = self.layout.rows, 0
        matrix = np.zeros(self.layout.shape, dtype=values.dtype)
        for row in range(size - 1):
            others = values[at : at + size - 1 - row]
            matrix[row, row + 1 :] = matrix[row + 1 :, row] = others
            at += len(others)
        return matrix

    def __repr__(self) -> str:
        short = int(np.count_nonzero(self.condensed.status != CONVERGED))
        word = f"{short} did not converge" if short else "all converged"
        rows, cols = self.layout.shape
        of = f"{rows} measures" if self.layout.cols is None else f"{rows} measures with {cols} others"
        return f"PairwiseResult(W{self.p:g} of {self.layout.pairs} pairs of {of}; {word})"


@dataclass(frozen=True, repr=False)
class NeighboursResult:
    """The k nearest of each of K measures, in NumPy, from the nearest on.

    Attributes
    ----------
    indices : array of int (K, k)
        The places of the neighbours in the list.
    distance : array (K, k)
        Their distances.
    lower, upper : array (K, k)
        Certified bounds on these.
    status : object array (K, k)
        Termination status of each solve, a `Status`.
    certified : array of bool (K, k)
        Whether a neighbour is proven to be among the k nearest: no measure that is left out can be nearer. Where it is
        not, the interval overlaps that of another measure, as with equal distances or a wide `rtol`.
    solved, pairs : int
        The number of pairs that were solved, of all pairs. Lower bounds have excluded the others.
    p : float
        The order of the distance.

    Examples
    --------
    >>> import otkit
    >>> answer = otkit.pairwise([[[0.0], [1.0]], [[2.0], [3.0]], [[7.0], [8.0]]], neighbours=1)
    >>> answer
    NeighboursResult(W2 to the 1 nearest of 3 measures; 2 of 3 pairs solved; all certified)
    >>> answer.indices.tolist(), answer.distance.tolist()
    ([[1], [0], [1]], [[2.0], [2.0], [5.0]])
    """

    indices: np.ndarray
    distance: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    status: np.ndarray
    certified: np.ndarray
    solved: int
    pairs: int
    p: float

    @property
    def converged(self) -> np.ndarray:
        """Which of these distances reached their tolerance, ``(K, k)``."""
        return np.asarray(self.status == Status.CONVERGED)

    def __repr__(self) -> str:
        rows, k = self.indices.shape
        short = int(np.count_nonzero(~self.certified))
        word = f"{short} of {rows * k} are not certified" if short else "all certified"
        return (
            f"NeighboursResult(W{self.p:g} to the {k} nearest of {rows} measures; "
            f"{self.solved} of {self.pairs} pairs solved; {word})"
        )


def named(codes: np.ndarray) -> np.ndarray:
    """The statuses of these codes."""
    return _NAMED[codes]
