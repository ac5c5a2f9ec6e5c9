"""Exit statuses, notes on the standard error, and which intervals are narrow enough."""

from __future__ import annotations

import sys

CERTIFIED, NOT_CERTIFIED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

WIDTH = 1e-2  # the relative width of an interval with a regularisation


def wanted(rtol: float | None, reg: float | None) -> str:
    """The required width of an interval, as text."""
    width = rtol or (WIDTH if reg else None)
    return "the last digits" if width is None else f"--rtol {width:g}"


def note(words: str) -> None:
    """Print a line on the standard error, after flushing the standard output."""
    print(end="", flush=True)
    print(words, file=sys.stderr)
