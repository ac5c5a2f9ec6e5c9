"""Who watches a run and may end it: a callback, a progress bar, a time limit, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from otkit import checks
from otkit.kernels import shared_by

# Ctrl-C in a shorter run is an exception as in any other code: there is no result that took long.
_LONG = 1.0


@dataclass(frozen=True)
class Progress:
    """Progress of a solve, passed to the callback after every step.

    Attributes
    ----------
    n_iter : numpy array of int (B,)
        Iterations of each item so far.
    error : numpy array (B,)
        The error of each item.
    reg : numpy array (B,)
        The regularisation of the stage that each item is in.
    done : numpy array of bool (B,)
        Which items have ended.
    stage : numpy array of int (B,)
        Number of the stage or level that each item is in, from 0.
    gap : numpy array (B,)
        Width of the last certified interval of each item, relative to its upper end; NaN where there is none so far.
    seconds : float
        Time since the call.
    seconds_left : float
        Time until the `time_limit`; infinite without one.

    Examples
    --------
    A callback that keeps the regularisation of each stage:

    >>> import numpy as np
    >>> import otkit
    >>> seen = set()
    >>> C, a = abs(np.subtract.outer(np.arange(50.0), np.arange(50.0))), np.arange(1, 51) / 1275
    >>> result = otkit.solve(C, a, reg=0.01, method="sinkhorn", callback=lambda progress: seen.update(progress.reg))
    >>> [float(reg) for reg in sorted(seen)]
    [0.01, 0.04, 0.16]
    """

    n_iter: np.ndarray
    error: np.ndarray
    reg: np.ndarray
    done: np.ndarray
    stage: np.ndarray
    gap: np.ndarray
    seconds: float
    seconds_left: float


Callback = Callable[[Progress], Any]


@dataclass(frozen=True)
class Watch:
    """The callback and the limits of a call; it is made when the call begins.

    Attributes
    ----------
    callback : callable, optional
    begun, deadline : float
        The time of the call, and that at which runs end, by `time.monotonic`.
    shows : bool
        Whether to show a progress bar on the standard error, if that is a terminal.
    """

    callback: Callback | None
    begun: float
    deadline: float
    shows: bool

    @staticmethod
    def of(callback: Callback | None = None, time_limit: float | None = None, progress: bool = False) -> Watch:
        """The watch over a call that begins now, after a check of its arguments."""
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function of a Progress, got {callback!r}; pass a function")
        if not isinstance(progress, bool):
            raise TypeError(f"progress must be True or False, got {progress!r}; pass a function as callback=")
        checks.positive(time_limit, "time_limit")
        if time_limit is not None and shared_by() is not None:
            raise ValueError(
                "time_limit must be None where processes share a call, which stop together only after equal steps, "
                f"got {time_limit!r}; pass rtol= or max_iter="
            )
        now = time.monotonic()
        return Watch(callback, now, np.inf if time_limit is None else now + float(time_limit), progress)

    @property
    def idle(self) -> bool:
        """Whether nothing can end a run."""
        return self.callback is None and self.deadline == np.inf

    def progress(self, **found: np.ndarray) -> Progress:
        """The progress of a run, with the times of this watch."""
        now = time.monotonic()
        return Progress(**found, seconds=now - self.begun, seconds_left=max(self.deadline - now, 0.0))

    @contextmanager
    def over(self) -> Generator[Callable[[Callable[[], Progress]], bool]]:
        """A function that takes the progress after every step of a run, and returns whether the run ends."""
        with _interrupts() as interrupted, _bar(self) as show:

            def told(progress: Callable[[], Progress]) -> bool:
                if self.shows:
                    show(progress())
                asked = self.callback is not None and bool(self.callback(progress()))
                return asked or interrupted.is_set() or time.monotonic() >= self.deadline

            yield told


@contextmanager
def _interrupts() -> Generator[threading.Event]:
    """An event that Ctrl-C sets, where it would raise ``KeyboardInterrupt`` and the run takes long.

    The second one raises. Other threads and other handlers are left alone.
    """
    asked, begun, raises = threading.Event(), time.monotonic(), signal.default_int_handler

    def handler(number: int, frame: FrameType | None) -> None:
        if asked.is_set() or time.monotonic() < begun + _LONG:
            raises(number, frame)
        asked.set()

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not raises:
        yield asked
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, raises)


@contextmanager
def _bar(watch: Watch) -> Generator[Callable[[Progress], None]]:
    """A function that shows the progress on the standard error."""
    if not watch.shows:
        yield lambda progress: None
        return
    from tqdm import tqdm

    def show(progress: Progress) -> None:
        bar.set_description_str(_line(progress), refresh=False)
        bar.update(max(min(progress.seconds, total or np.inf) - bar.n, 0.0))

    total = None if watch.deadline == np.inf else watch.deadline - watch.begun
    form = "{desc} [{elapsed}]" if total is None else "{desc} [{elapsed} of at most {total:.0f} s]"
    with tqdm(total=total, bar_format=form, disable=None) as bar:
        yield show


def _line(progress: Progress) -> str:
    """The progress in one line: of the item that is furthest from its end."""
    left = np.flatnonzero(~progress.done)
    k = int(left[progress.error[left].argmax()]) if left.size else int(progress.error.argmax())
    items = f"{progress.done.sum()} of {progress.done.size} done, " if progress.done.size > 1 else ""
    gap = "" if np.isnan(progress.gap[k]) else f", gap {progress.gap[k]:.2g}"
    return f"{items}stage {progress.stage[k]}, {progress.n_iter[k]} iterations, error {progress.error[k]:.2g}{gap}"
