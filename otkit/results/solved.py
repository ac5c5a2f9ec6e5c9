"""What values, maps and gauge read of a result, and what is computed once and kept in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome


class Solved(Protocol):
    """A problem with the outcome of its solve; a link says that autograd records it."""

    @property
    def problem(self) -> LinearProblem: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def link(self) -> object | None: ...


_Value = TypeVar("_Value")


def kept(function: Callable[[Solved], _Value]) -> Callable[[Solved], _Value]:
    """The function of a result, which is called on first use only."""
    name = f"_{function.__module__}.{function.__name__}"

    @wraps(function)
    def call(result: Solved) -> _Value:
        memory = vars(result)
        if name not in memory:
            memory[name] = function(result)
        value: _Value = memory[name]
        return value

    return call
