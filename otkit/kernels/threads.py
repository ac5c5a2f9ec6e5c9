"""Threads for compiled kernels, which release the global interpreter lock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Part = TypeVar("_Part")

# Number of exponentials below which threads do not pay (measured: 500 × 500 is slower, 1000 × 1000 is faster).
_WORTH = 2**19

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    global _pool
    _pool = None


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


def each(work: Callable[[_Part], None], parts: Sequence[_Part], entries: int) -> None:
    """Call `work` for all parts, in threads. The total cost is that of `entries` exponentials.

    The partition must not depend on the number of threads, so that the result does not either.
    """
    global _pool
    threads = min(count(), len(parts)) if entries >= _WORTH else 1
    if threads == 1:
        for part in parts:
            work(part)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(thread_name_prefix="otkit")

    left = iter(parts)  # each idle thread takes the next part

    def help_out() -> None:
        for part in left:
            work(part)

    others = [_pool.submit(help_out) for _ in range(1, threads)]
    help_out()
    for other in others:
        if not other.cancel():  # a task that has not started has no parts left
            other.result()
