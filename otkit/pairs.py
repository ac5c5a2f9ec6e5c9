"""Distances between all pairs of measures, computed in threads and saved to a file one by one."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from otkit import arrays, checks
from otkit.api import solved
from otkit.distance import WassersteinResult, distance_cost, measured
from otkit.geometry.costs import Cost
from otkit.geometry.points import PointCloud
from otkit.kernels import threads
from otkit.problems.linear import LinearProblem
from otkit.report import reported
from otkit.results.outcome import Status
from otkit.solvers.base import Progress

_Pair = tuple[int, int]

_HEADER = ("x", "y", "distance", "lower", "upper", "status", "question")


@dataclass(frozen=True, repr=False)
class PairwiseResult:
    """The distances between all pairs of K measures, in NumPy.

    Attributes
    ----------
    distance : array (K, K)
        Symmetric, with zeros on the diagonal.
    lower, upper : array (K, K)
        Certified bounds on each distance.
    status : object array (K, K)
        Termination status of each solve, a `Status`.
    p : float
        The order of the distance.
    """

    distance: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    status: np.ndarray
    p: float

    @property
    def converged(self) -> np.ndarray:
        """Which pairs reached their tolerance, ``(K, K)``."""
        return np.asarray(self.status == Status.CONVERGED)

    def __repr__(self) -> str:
        size = len(self.distance)
        pairs, short = size * (size - 1) // 2, int((~self.converged).sum()) // 2
        word = f"{short} did not converge" if short else "all converged"
        return f"PairwiseResult(W{self.p:g} of {pairs} pairs of {size} measures; {word})"


class _Options(NamedTuple):
    rtol: float | None
    reg: float | None
    max_iter: int | None


class _Answer(NamedTuple):
    """Distance, bounds and status of a pair."""

    distance: float
    lower: float
    upper: float
    status: Status


def pairwise(
    measures: Sequence[Any],
    *,
    p: float = 2,
    metric: Any = "euclidean",
    rtol: float | None = None,
    reg: float | None = None,
    max_iter: int | None = None,
    names: Sequence[str] | None = None,
    file: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
    strict: bool = False,
) -> PairwiseResult:
    """Pairwise p-Wasserstein distances between measures, each with a certified interval.

    Parameters
    ----------
    measures : sequence of array (n_k, d) or tuple (x, a) of arrays (n_k, d), (n_k,)
        The points of each measure, and their weights; uniform by default. All have the same total mass.
    p, metric, rtol, max_iter
        As in `wasserstein`.
    reg : float, optional
        Solve entropic problems, with this regularisation in units of the distance to the power p. Each distance is
        then computed from the entropic plan. The intervals still contain the unregularised distances.
    names : sequence of str, optional
        Names of the measures in the file; "0", "1", … by default.
    file : str or path, optional
        A CSV file to which a line is appended as soon as a pair is solved. Pairs in an existing file are not solved
        again, so repeating an interrupted call resumes it. Each line has a digest of its data and options. A file with
        other data or options is refused.
    workers : int, optional
        Number of pairs solved at a time, in threads. By default the number of cores, or ``OTKIT_NUM_THREADS``. Results
        do not depend on it.
    progress : bool
        Show a progress bar on the standard error, if that is a terminal.
    strict : bool
        Raise `NotConverged` instead of a warning.

    Returns
    -------
    PairwiseResult

    Raises
    ------
    ValueError, TypeError
        If a measure is invalid or the file does not match; raised before any computation.
    NotConverged
        If `strict` and some pair did not converge.

    Examples
    --------
    >>> import otkit
    >>> otkit.pairwise([[[0.0], [2.0]], [[1.0], [3.0]], [[1.0], [5.0]]], p=1).distance
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    """
    cost, options = distance_cost(p, metric, rtol), _Options(rtol, reg, max_iter)
    checks.positive(max_iter, "max_iter")
    checks.positive(workers, "workers")
    if rtol is not None and reg is not None:
        raise ValueError("rtol bounds the unregularised distance, and reg asks for another; pass one of them")
    clouds = _checked(measures, cost)
    names = [str(k) for k in range(len(clouds))] if names is None else list(names)
    if len(names) != len(clouds):
        raise ValueError(f"names must be one for each of the {len(clouds)} measures, got {len(names)}")
    pairs = list(itertools.combinations(range(len(clouds)), 2))
    found: dict[_Pair, _Answer] = {}
    if file is not None:
        _Kept.check(names, cost)
        kept = _Kept(Path(file), names, _questions(clouds, cost, options))
        found |= kept.read()
    stop = threading.Event()

    def solve(pair: _Pair) -> _Answer:
        (x, a), (y, b) = (clouds[k] for k in pair)
        return _solve((x, y), (a, b), cost, options, stop)

    left = [pair for pair in pairs if pair not in found]
    with (
        tqdm(total=len(pairs), initial=len(found), unit="pair", disable=None if progress else True) as bar,
        closing(_in_threads(solve, left, workers or threads.count(), stop)) as coming,
    ):
        for pair, answer in coming:
            found[pair] = answer
            if file is not None:
                kept.append(pair, answer)
            bar.update()
    result = _matrices(found, len(clouds), float(p))
    return reported(result, _shortfall(result, names), strict)


def _checked(measures: Sequence[Any], cost: Cost) -> list[tuple[Any, Any]]:
    """Points and weights of the measures, each validated as a problem with the first measure."""
    clouds = [m if isinstance(m, tuple) and len(m) == 2 else (m, None) for m in measures]
    if len(clouds) < 2:
        raise ValueError(f"measures must be at least two, got {len(clouds)}")
    (first, weights), *_ = clouds
    for k, (x, a) in enumerate(clouds):
        try:
            for v, name in ((x, "x"), (a, "a")):
                checks.no_gradient(v, name, "call otkit.wasserstein for each pair")
            problem = LinearProblem.build(PointCloud(first, x, cost), weights, a, relaxes=False)
        except (ValueError, TypeError) as error:
            raise type(error)(f"measures 0 and {k}, as x and y: {error}") from None
        if problem.batch:
            raise ValueError(f"measure {k} must be of points (n, d) and weights (n,), got a batch {problem.batch}")
    return clouds


def _in_threads(
    solve: Callable[[_Pair], _Answer], pairs: Sequence[_Pair], workers: int, stop: threading.Event
) -> Generator[tuple[_Pair, _Answer]]:
    """Results in order of completion. Closing the generator early also stops the running solves."""
    with ThreadPoolExecutor(workers, thread_name_prefix="otkit-pairwise") as pool:
        running = {pool.submit(solve, pair): pair for pair in pairs}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _solve(
    points: tuple[Any, Any], weights: tuple[Any, Any], cost: Cost, options: _Options, stop: threading.Event
) -> _Answer:
    def stopped(_: Progress) -> bool:
        return stop.is_set()

    if options.reg is None:
        found = measured(points, weights, cost, options.rtol, options.max_iter, stopped)
    else:
        asked = {"tol": None, "rtol": None, "max_iter": options.max_iter}
        result = solved(PointCloud(*points, cost), (*weights, options.reg, None), "auto", asked, None, stopped)
        found = WassersteinResult(result, cost.power)
    return _Answer(float(found), found.lower, found.upper, found.status)


class _Kept:
    """The CSV file with one line for each solved pair."""

    def __init__(self, path: Path, names: Sequence[str], questions: dict[_Pair, str]) -> None:
        self.path, self.names, self.questions = path, names, questions

    @staticmethod
    def check(names: Sequence[str], cost: Cost) -> None:
        """Refuse names and metrics by which lines cannot be identified."""
        if len(set(names)) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise ValueError(f"names must differ for a file of answers, got {twice!r} twice; pass names=")
        if cost.called:
            raise ValueError("file= needs a metric with a name, which identifies its lines, got a callable; drop file=")

    def read(self) -> dict[_Pair, _Answer]:
        """Results in the file for the pairs of this call. An incomplete last line is truncated."""
        if not self.path.exists():
            with self.path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(_HEADER)
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline="")))
        if not rows or tuple(rows[0]) != _HEADER:
            raise ValueError(f"{self.path} is not a file of pairwise answers; give the name of a new file")
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        asked = {(self.names[i], self.names[j]): (i, j) for i, j in self.questions}
        found = {}
        for x, y, distance, lower, upper, status, question in rows[1:]:
            pair = asked.get((x, y))
            if pair is None:
                continue
            if question != self.questions[pair]:
                raise ValueError(
                    f"{self.path} has an answer for {x} and {y} with other data or options; "
                    "give the name of a new file, or remove this one"
                )
            found[pair] = _Answer(float(distance), float(lower), float(upper), Status[status])
        return found

    def append(self, pair: _Pair, answer: _Answer) -> None:
        """Append a line."""
        names = (self.names[k] for k in pair)
        numbers = (repr(value) for value in (answer.distance, answer.lower, answer.upper))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            line = (*names, *numbers, answer.status.name, self.questions[pair])
            csv.writer(file, lineterminator="\n").writerow(line)


def _questions(clouds: Sequence[tuple[Any, Any]], cost: Cost, options: _Options) -> dict[_Pair, str]:
    """Digest of the data and options of each pair."""

    def digest(*parts: bytes) -> bytes:
        return hashlib.blake2b(b"\0".join(parts), digest_size=8).digest()

    how = repr((cost, options)).encode()
    data = []
    for x, a in clouds:
        x, a = (None if v is None else arrays.to_numpy(checks.as_array(v, "")) for v in (x, a))
        parts = (b"" if v is None else f"{v.dtype}{v.shape}".encode() + v.tobytes() for v in (x, a))
        data.append(digest(*parts))
    pairs = itertools.combinations(range(len(clouds)), 2)
    return {(i, j): digest(how, data[i], data[j]).hex() for i, j in pairs}


def _matrices(found: dict[_Pair, _Answer], size: int, p: float) -> PairwiseResult:
    distance, lower, upper = (np.zeros((size, size)) for _ in range(3))
    status = np.full((size, size), Status.CONVERGED, dtype=object)
    for pair, answer in found.items():
        for matrix, value in zip((distance, lower, upper, status), answer, strict=True):
            matrix[pair] = matrix[pair[::-1]] = value
    return PairwiseResult(distance, lower, upper, status, p)


def _shortfall(result: PairwiseResult, names: Sequence[str]) -> str:
    """Message about pairs that did not converge; empty if all did."""
    short = np.argwhere(np.triu(~result.converged))
    if not short.size:
        return ""
    i, j = short[0]
    low, high = result.lower[i, j], result.upper[i, j]
    return (
        f"{len(short)} of {len(names) * (len(names) - 1) // 2} pairs did not converge; {names[i]} and {names[j]}: "
        f"{result.status[i, j].value} The distance lies in [{low:.6g}, {high:.6g}]."
    )
