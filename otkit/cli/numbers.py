"""Numbers and names in the arguments of the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

_N = TypeVar("_N", int, float)


def order(text: str) -> float:
    """The order of a distance."""
    from otkit.distance import HIGHEST

    return _number(text, float, lambda value: 1 <= value <= HIGHEST or value == math.inf, f"1 to {HIGHEST}, or inf")


def positive(text: str) -> float:
    """A positive number."""
    return _number(text, float, lambda value: 0 < value < float("inf"), "a positive number")


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    return _number(text, float, lambda value: 0 < value < 1, "a number between 0 and 1")


def count(text: str) -> int:
    """A positive whole number."""
    return _number(text, int, lambda value: value > 0, "a positive whole number")


def share(text: str) -> tuple[int, int]:
    """One of so many shares: its number, from 1, and theirs."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 ≤ I ≤ N, such as 3/16, got {text!r}")
    return int(parts[0]), int(parts[1])


def file_format(text: str) -> str:
    """A format of files."""
    from otkit.cli.files import FORMATS

    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(FORMATS)}, got {text!r}")
    return text


def _number(text: str, kind: type[_N], valid: Callable[[_N], bool], must_be: str) -> _N:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"must be {must_be}, got {text!r}")
    return value
