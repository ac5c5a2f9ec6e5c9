"""Pairs solved on any executor, a bounded number of tasks at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from otkit.arrays import for_threads
from otkit.kernels import threads
from otkit.pairs.blocks import Options, Task, solve
from otkit.pairs.clouds import Clouds
from otkit.pairs.results import Answers
from otkit.pairs.store import Block, Folder, Memory

_Key = TypeVar("_Key")

# Workers of an executor whose size is unknown. Tasks that wait take little memory, and workers that wait much time.
_WORKERS = 32


@dataclass(frozen=True)
class Work:
    """What is to be solved, and by whom.

    Attributes
    ----------
    clouds : Clouds
    options : Options
    executor : Executor
    solve : callable
        Called there with a task.
    prepare : callable
        Called here with a task before it is sent.
    most : int
        The number of tasks in flight.
    progress : bool
        Whether to show a progress bar, on a terminal.
    """

    clouds: Clouds
    options: Options
    executor: Executor
    solve: Callable[[Task], Answers]
    prepare: Callable[[Task], Task]
    most: int
    progress: bool


@contextmanager
def working(
    clouds: Clouds, options: Options, executor: Executor | None, workers: int | None, progress: bool
) -> Generator[Work]:
    """Work for the caller's executor, or for threads that end with this context."""
    if executor is not None:
        yield Work(clouds, options, executor, solve, Task.alone, 2 * (workers or _WORKERS), progress)
        return
    stop, count = threading.Event(), workers or threads.count()
    pool = ThreadPoolExecutor(count, thread_name_prefix="otkit-pairwise")
    try:
        here = for_threads(lambda task: solve(task, stop.is_set))
        yield Work(clouds, options, pool, here, lambda task: task, 2 * count, progress)
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def fill(store: Folder | Memory, blocks: Sequence[Block], work: Work) -> None:
    """Solve the pairs of these blocks that the store does not know, and keep each block as soon as it is solved."""
    grid = store.grid
    left = [block for block in blocks if store.kept(block) is None]
    pairs, new = (sum(map(grid.size, some)) for some in (blocks, left))
    first = grid.layout.rows if grid.layout.cols is not None else 0

    def tasks() -> Iterator[tuple[tuple[Block, Answers], Task]]:
        for block in left:
            known, (i, j) = store.known(block), grid.pairs(block)
            open_ = known.status == 0
            if open_.any():
                yield (block, known), Task(work.clouds, i[open_], first + j[open_], work.options)
            else:
                store.keep(block, known)
                bar.update(len(known))

    with progress_bar(work, pairs, pairs - new) as bar, closing(completed(work, tasks())) as coming:
        for (block, known), answers in coming:
            known.put(known.status == 0, answers)
            store.keep(block, known)
            bar.update(len(known))


def solved_pairs(work: Work, left: np.ndarray, right: np.ndarray, size: int, bar: tqdm) -> Answers:
    """The answers for pairs of measures, in tasks of at most `size`."""
    parts = [slice(low, low + size) for low in range(0, len(left), size)]
    tasks = ((part, Task(work.clouds, left[part], right[part], work.options)) for part in parts)
    answers = Answers.empty(len(left))
    with closing(completed(work, tasks)) as coming:
        for part, found in coming:
            answers.put(part, found)
            bar.update(len(found))
    return answers


def completed(work: Work, tasks: Iterable[tuple[_Key, Task]]) -> Generator[tuple[_Key, Answers]]:
    """Answers in order of completion. After an error no more tasks start; it is raised after what is already there."""
    done: SimpleQueue[Future[Answers]] = SimpleQueue()
    running: dict[Future[Answers], _Key] = {}
    left, failure = iter(tasks), None
    try:
        while failure is None:
            try:
                _submit(work, left, running, done)
                if not running:
                    return
                future = done.get()
                yield running.pop(future), future.result()
            except Exception as error:
                failure = error
        while not done.empty():
            future = done.get()
            if not future.cancelled() and future.exception() is None:
                yield running.pop(future), future.result()
        if isinstance(failure, BrokenExecutor):
            raise type(failure)(
                f"a worker of the executor died: {failure} With folder=, the same call with a new executor goes on "
                "from the blocks that are done."
            ) from failure
        raise failure
    finally:
        for future in running:
            future.cancel()


def _submit(
    work: Work,
    left: Iterator[tuple[_Key, Task]],
    running: dict[Future[Answers], _Key],
    done: SimpleQueue[Future[Answers]],
) -> None:
    """Start tasks until as many are in flight as may be."""
    while len(running) < work.most and (following := next(left, None)) is not None:
        key, task = following
        future = work.executor.submit(work.solve, work.prepare(task))
        running[future] = key
        future.add_done_callback(done.put)


def progress_bar(work: Work, pairs: int | None, ready: int = 0) -> tqdm:
    """The bar with the rate of pairs, and the time left where their number is known."""
    return tqdm(total=pairs, initial=ready, unit="pair", disable=None if work.progress else True)
