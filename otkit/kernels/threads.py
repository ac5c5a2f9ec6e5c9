"""Threads for compiled kernels, which release the global interpreter lock."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

_Part = TypeVar("_Part")
_Answer = TypeVar("_Answer")

# Number of exponentials below which threads do not pay (measured: 500 × 500 is slower, 1000 × 1000 is faster).
_WORTH = 2**19

_pool: ThreadPoolExecutor | None = None
# The number of threads at work, and whether this one is among them.
_lock, _busy, _here = threading.Lock(), 0, threading.local()


def _forget() -> None:
    global _pool, _lock, _busy
    _pool, _lock, _busy = None, threading.Lock(), int(_is_here())


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_forget)


def count() -> int:
    """Number of threads: ``OTKIT_NUM_THREADS``, or at most what others were told, and the cores of this process.

    Others are PyTorch, once it is imported, which knows ``torch.set_num_threads``, and ``OMP_NUM_THREADS``.
    """
    given = os.environ.get("OTKIT_NUM_THREADS", "")
    if given.isdigit():
        return max(1, int(given))
    torch, told = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if torch is not None and hasattr(torch, "get_num_threads"):
        told = str(torch.get_num_threads())
    return min(_cores(), max(1, int(told))) if told.isdigit() else _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(parts: int, entries: int) -> list[range]:
    """Contiguous ranges of parts, one for each thread of `each`; a single range if it uses one thread."""
    size = -(-parts // count()) if entries >= _WORTH else parts
    return [range(low, min(low + size, parts)) for low in range(0, parts, size)]


@contextmanager
def at_work() -> Generator[None]:
    """A context in which this thread keeps a core busy: calls of `each` in other threads get less help."""
    if _is_here():
        yield
        return
    _change(1)
    _here.busy = True
    try:
        yield
    finally:
        _here.busy = False
        _change(-1)


def each(work: Callable[[_Part], None], parts: Sequence[_Part], entries: int) -> None:
    """Call `work` for all parts, also in other threads while cores are idle. The cost is that of so many exponentials.

    The partition must not depend on the number of threads, so that the result does not either.
    """
    most = min(count(), len(parts)) if entries >= _WORTH else 1
    if most == 1:
        for part in parts:
            work(part)
        return
    left = iter(parts)  # each thread takes the next part

    def help_out() -> None:
        _here.busy = True
        try:
            for part in left:
                work(part)
        finally:
            _here.busy = False
            _change(-1)

    others: list[Future[Any]] = []
    with at_work():
        for part in left:
            while len(others) + 1 < most and _is_idle():
                others.append(_threads().submit(help_out))
            work(part)
    for other in others:
        if other.cancel():  # it has not started, and no part is left
            _change(-1)
        else:
            other.result()


def answers(
    solve: Callable[[_Part], _Answer], parts: Sequence[_Part], entries: int, order: Sequence[int] | None = None
) -> list[_Answer]:
    """The answers for all parts, by calls in this `order` in threads; or the error of the first part that has one."""
    found: list[Any] = [None] * len(parts)
    wrong: dict[int, Exception] = {}

    def work(k: int) -> None:
        if k > min(list(wrong), default=k):
            return
        try:
            found[k] = copy_context().run(solve, parts[k])
        except Exception as error:
            wrong[k] = error

    each(work, range(len(parts)) if order is None else order, entries)
    if wrong:
        raise wrong[min(wrong)]
    return found


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(thread_name_prefix="otkit")
    return _pool


def _is_here() -> bool:
    return getattr(_here, "busy", False)


def _is_idle() -> bool:
    """Whether a core is idle; then it counts as busy."""
    return _change(1, count())


def _change(by: int, most: float = math.inf) -> bool:
    """Change the number of threads at work, unless it would be above `most`."""
    global _busy
    with _lock:
        if _busy + by > most:
            return False
        _busy += by
    return True
