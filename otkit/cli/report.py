"""Exit statuses, notes on the standard error, and intervals: which are narrow enough, and as text."""

from __future__ import annotations

import decimal
import math
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


def digits(lower: float, upper: float) -> int:
    """Number of digits, from 6 to 9, that distinguish the ends of an interval."""
    if not lower < upper or lower <= 0:
        return 6
    return min(9, max(6, 2 - math.floor(math.log10((upper - lower) / upper))))


def outward(lower: float, upper: float) -> tuple[str, str]:
    """The ends of an interval in that many digits, rounded outwards."""
    count = digits(lower, upper)
    ends = (
        decimal.Context(prec=count, rounding=rounding).create_decimal_from_float(end)
        for end, rounding in ((lower, decimal.ROUND_FLOOR), (upper, decimal.ROUND_CEILING))
    )
    low, high = (f"{end.normalize():g}" for end in ends)
    return low, high
