"""Pairs solved on any executor, a bounded number of tasks at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar, final

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
    help : callable
        Called here while no answer has come: it solves a task here, or returns False.
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
    help: Callable[[], bool]
    prepare: Callable[[Task], Task]
    most: int
    progress: bool


@final
class Helped(Executor):
    """Threads, of which the calling one is the first: it solves tasks by `help` while it waits for others."""

    def __init__(self, count: int) -> None:
        self._tasks: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._others = ThreadPoolExecutor(count - 1, thread_name_prefix="otkit-pairwise") if count > 1 else None

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:  # type: ignore[override]
        """Have a thread call the function."""
        future: Future[Any] = Future()
        self._tasks.append((future, function, args))
        if self._others is not None:
            self._others.submit(self.help)
        return future

    def help(self) -> bool:
        """Do the next task in this thread; False if none is left."""
        try:
            future, function, args = self._tasks.popleft()
        except IndexError:
            return False
        if future.set_running_or_notify_cancel():
            with threads.at_work():
                try:
                    result = function(*args)
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start no more tasks."""
        self._tasks.clear()
        if self._others is not None:
            self._others.shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def working(
    clouds: Clouds, options: Options, executor: Executor | None, workers: int | None, progress: bool
) -> Generator[Work]:
    """Work for the caller's executor, or for this thread and others, which end with this context."""
    if executor is not None:
        yield Work(clouds, options, executor, solve, lambda: False, Task.alone, 2 * (workers or _WORKERS), progress)
        return
    stop, count = threading.Event(), workers or threads.count()
    pool = Helped(count)
    try:
        here = for_threads(lambda task: solve(task, stop.is_set))
        yield Work(clouds, options, pool, here, pool.help, lambda task: task, 2 * count, progress)
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
                while done.empty() and work.help():
                    pass
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
