"""The public function `pairwise`: measures → blocks → tasks → answers → result → report on convergence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.distance import distance_cost
from otkit.geometry.costs import Cost
from otkit.kernels import shared_by
from otkit.pairs.blocks import Grid, Options, side_for
from otkit.pairs.clouds import Clouds, checked
from otkit.pairs.results import CONVERGED, STATUSES, Answers, Layout, PairwiseResult
from otkit.pairs.store import Folder, Memory, Question
from otkit.pairs.work import fill, working
from otkit.report import reported


@arrays.eager
def pairwise(
    measures: Sequence[Any],
    others: Sequence[Any] | None = None,
    *,
    p: float = 2,
    metric: Any = "euclidean",
    rtol: float | None = None,
    reg: float | None = None,
    max_iter: int | None = None,
    neighbours: int | None = None,
    names: Sequence[str] | None = None,
    folder: str | Path | None = None,
    block: tuple[int, int] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Any:
    """Pairwise p-Wasserstein distances between measures, each with a certified interval.

    Pairs are solved in blocks of up to 32 × 32 measures, on threads or on any executor. Results do not depend on where,
    in which order and in which blocks, bitwise.

    Parameters
    ----------
    measures : sequence of array (n_k, d) or tuple (x, a) of arrays (n_k, d), (n_k,)
        The points of each measure, and their weights; uniform by default. All have the same total mass.
    others : sequence of the same, optional
        Measures to which those of the first list are compared; by default that list itself.
    p, metric, rtol, max_iter
        As in `wasserstein`.
    reg : float, optional
        Solve entropic problems, with this regularisation in units of the distance to the power p. Each distance is
        then computed from the entropic plan. The intervals still contain the unregularised distances.
    neighbours : int, optional
        Find only the so many nearest of each measure. Pairs that a lower bound excludes are not solved.
    names : sequence of str, optional
        Names of the measures and then of the others, for messages; "0", "1", … by default.
    folder : str or path, optional
        A folder in which each block is saved as soon as it is solved, and at the end the result, as arrays that are
        mapped into memory. Blocks that are there are not solved again, so repeating an interrupted call resumes it,
        also with more measures. A folder with answers for other data or options is refused.
    block : tuple (i, N) of int, optional
        Solve only share i of N, counted from 1, and keep it in the `folder`: for N jobs at a time, on any machines that
        share the folder. The same call without it gives the result.
    executor : concurrent.futures.Executor, optional
        Where blocks are solved: a ``ProcessPoolExecutor``, or that of loky, mpi4py or Dask
        (``client.get_executor()``). Each task carries the measures of its block. By default threads of this process.
    workers : int, optional
        Number of threads. By default the number of cores, or ``OTKIT_NUM_THREADS``. With an `executor` the number of
        its workers, 32 by default: twice as many blocks are in flight.
    progress : bool
        Show a progress bar on the standard error, if that is a terminal.
    strict : bool
        Raise `NotConverged` instead of a warning.

    Returns
    -------
    PairwiseResult
        Or a `NeighboursResult` with `neighbours`, and None with `block`.

    Raises
    ------
    ValueError, TypeError
        If a measure is invalid or the folder does not match; raised before any computation.
    NotConverged
        If `strict` and some pair did not converge.
    BrokenExecutor
        If a worker of the executor died.

    Examples
    --------
    >>> import otkit
    >>> clouds = [[[0.0], [2.0]], [[1.0], [3.0]], [[1.0], [5.0]]]
    >>> otkit.pairwise(clouds, p=1).distance
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    >>> otkit.pairwise(clouds[:1], clouds[1:], p=1).distance
    array([[1., 2.]])
    >>> otkit.pairwise(clouds, p=1, neighbours=1).indices
    array([[1],
           [0],
           [1]])
    """
    if shared_by() is not None:
        raise ValueError("pairwise shares pairs, not rows, got a call in otkit.sharded; leave it, and pass executor=")
    options = _options(p, metric, rtol, reg, max_iter)
    _check_workers(executor, workers)
    clouds, layout = _checked(measures, others, options.cost)
    names = None if names is None else [str(name) for name in names]
    if names is not None and len(names) != len(clouds):
        raise ValueError(
            f"names must be one for each of the {len(clouds)} measures, got {len(names)}; leave names out for numbers"
        )
    _check_uses(neighbours, folder, block, layout, options.cost)
    if options.exact:
        clouds = clouds.for_loops(options.cost)
    grid = Grid(layout, side_for(clouds, layout, options))
    with working(clouds, options, executor, workers, progress) as work:
        if neighbours is not None:
            from otkit.pairs.neighbours import nearest  # with SciPy's distances, which take long to load

            near, solved_for_it = nearest(work, layout, neighbours, grid.side**2)
            return reported(near, _shortfall([solved_for_it], layout, names), strict)
        store: Folder | Memory = Memory(grid)
        if folder is not None:
            store = Folder.opened(Path(folder), Question.of(clouds, grid, options, names))
        share = store.grid.blocks if block is None else store.grid.blocks[block[0] - 1 :: block[1]]
        if not store.whole:
            fill(store, share, work)
    if block is not None:
        solved = ((store.grid.pairs(own), store.known(own)) for own in share)
        return reported(None, _shortfall(solved, layout, names), strict)
    result = PairwiseResult(store.joined(), layout, float(p), names)
    return reported(result, _shortfall([(None, result.condensed)], layout, names), strict)


def _check_workers(executor: Any, workers: int | None) -> None:
    checks.count(workers, "workers")
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "submit")):
        what = f"the class {executor.__name__}" if isinstance(executor, type) else type(executor).__name__
        raise TypeError(
            f"executor must be an executor, such as ProcessPoolExecutor(), got {what}; pass workers= for a number of "
            "threads of this process"
        )


def _options(p: float, metric: Any, rtol: float | None, reg: float | None, max_iter: int | None) -> Options:
    cost = distance_cost(p, metric, rtol)
    checks.count(max_iter, "max_iter")
    if rtol is not None and reg is not None:
        raise ValueError("rtol bounds the unregularised distance, and reg asks for another; pass one of them")
    if reg is not None and (given := checks.regularisation(reg)).ndim:
        raise ValueError(f"reg must be one number for all pairs, got an array of shape {given.shape}; pass a number")
    rtol, reg = (None if number is None else float(number) for number in (rtol, reg))
    return Options(cost, rtol, reg, None if max_iter is None else int(max_iter))


def _listed(measures: Any, name: str) -> list[Any]:
    """The measures of an iterable."""
    try:
        return list(measures)
    except TypeError:
        came = type(measures).__name__
        raise TypeError(
            f"{name} must be a sequence of arrays of points, or (points, weights), got {came}; pass a list"
        ) from None


def _checked(measures: Sequence[Any], others: Sequence[Any] | None, cost: Cost) -> tuple[Clouds, Layout]:
    """All measures, those of the second list behind those of the first, and their pairs."""
    measures, others = _listed(measures, "measures"), None if others is None else _listed(others, "others")
    least = 2 if others is None else 1
    if len(measures) < least:
        raise ValueError(
            f"measures must be at least {('one', 'two')[least - 1]}, got {len(measures)}; add some, or skip the call"
        )
    if others is None:
        return checked(measures, cost), Layout(len(measures))
    if len(others) < 1:
        raise ValueError("others must be at least one measure, got 0; leave it out for the pairs of one list")
    return checked([*measures, *others], cost), Layout(len(measures), len(others))


def _check_uses(neighbours: int | None, folder: Any, block: tuple[int, int] | None, layout: Layout, cost: Cost) -> None:
    """Check the options that say which pairs are solved and where they are kept."""
    if neighbours is not None:
        most = layout.rows - 1 if layout.cols is None else layout.cols
        if not _is_whole(neighbours) or not 1 <= neighbours <= most:
            raise ValueError(
                f"neighbours must be a whole number from 1 to {most}, got {neighbours!r}; leave it out for all"
            )
        if folder is not None or block is not None:
            raise ValueError("folder= and block= keep all pairs, and neighbours= solves few; drop the one or the other")
    if block is not None:
        if folder is None:
            raise ValueError("block= is a share of the work for a folder; pass folder=")
        pair = isinstance(block, (tuple, list)) and len(block) == 2 and all(map(_is_whole, block))
        if not pair or not 1 <= block[0] <= block[1]:
            raise ValueError(f"block must be (i, N) with 1 ≤ i ≤ N, got {block!r}; (1, N) is the first share")
    if folder is not None:
        _check_folder(folder, cost)


def _is_whole(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def _check_folder(folder: Any, cost: Cost) -> None:
    if not isinstance(folder, (str, PathLike)) or not str(folder):
        raise TypeError(f"folder must be the name of a folder, got {folder!r}; pass a path, or leave it out")
    if cost.called:
        raise ValueError(
            "folder= needs a metric with a name, which identifies its answers, got a callable; drop folder="
        )


_Part = tuple[tuple[np.ndarray, np.ndarray] | None, Answers]


def _shortfall(parts: Iterable[_Part], layout: Layout, names: Sequence[str] | None) -> str:
    """Message about pairs that did not converge; empty if all did. Answers without pairs are those of the layout."""
    count, total, words = 0, 0, ""
    for pairs, answers in parts:
        short = answers.status != CONVERGED
        total += len(answers)
        count += int(np.count_nonzero(short))
        if words or not short.any():
            continue
        k = int(short.argmax())
        i, j = layout.pair(k) if pairs is None else (int(ends[k]) for ends in pairs)
        other = j if layout.cols is None else layout.rows + j
        one, two = (i, j) if names is None else (names[i], names[other])
        words = (
            f"{one} and {two}: {STATUSES[answers.status[k]].value} "
            f"The distance lies in [{answers.lower[k]:.6g}, {answers.upper[k]:.6g}]."
        )
    return f"{count} of {total} pairs did not converge; {words}" if count else ""
