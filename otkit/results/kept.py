"""What is computed once and kept in a result."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from otkit.results.result import Result

_Value = TypeVar("_Value")


def kept(function: Callable[[Result], _Value]) -> Callable[[Result], _Value]:
    """The function of a result, which is called on first use only."""
    name = f"_{function.__module__}.{function.__name__}"

    @wraps(function)
    def call(result: Result) -> _Value:
        memory = vars(result)
        if name not in memory:
            memory[name] = function(result)
        value: _Value = memory[name]
        return value

    return call
