"""Report on convergence: a warning, or an exception with ``strict=True``."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from otkit.errors import NotConverged, warn
from otkit.results.outcome import Status
from otkit.results.result import Result
from otkit.results.values import complete

_Answer = TypeVar("_Answer")


def reported(answer: _Answer, shortfall: str, strict: bool) -> _Answer:
    """The result, after a warning or exception with the message `shortfall`; an empty message means convergence."""
    if shortfall and strict:
        raise NotConverged(shortfall, answer)
    if shortfall:
        warn(shortfall)
    return answer


def shortfall(result: Result, of: Any = None) -> str:
    """Message about a solve that did not converge; empty if it did. With `of`, the interval is of its distance."""
    if complete(result):
        return ""
    outcome = result.outcome
    bad = outcome.short
    k = int(bad.argmax())
    message = str(outcome.status[k].value)
    if result.problem.batch:
        message = f"{int(bad.sum())} of {bad.size} problems did not converge; item {k}: {message}"
    if outcome.reg is not None:
        message += f" Error {outcome.error[k]:.2g}, tolerance {outcome.tol[k]:.2g}."
        if (result.whole or result).outcome.tol[k] == result.problem.rounding[k]:
            message += " Rounding at this reg allows no smaller one; a larger reg does, and no reg needs none."
        elif outcome.status[k] in (Status.MAX_ITER, Status.STALLED):
            message += " A larger reg takes fewer iterations."
    elif outcome.status[k] is not Status.INFEASIBLE:
        quantity, interval = ("optimum", result) if of is None else ("distance", of)
        low, high = (np.reshape(bound, -1)[k] for bound in (interval.lower, interval.upper))
        message += f" The {quantity} lies in [{low:.6g}, {high:.6g}]."
    return message
