"""The interface of a result for `values`, `maps` and `gauge`, and the cache of derived quantities."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from otkit.plans import EntropicPlan, Plan
from otkit.problems.linear import LinearProblem
from otkit.problems.variation import Variation
from otkit.results.outcome import Outcome


class Solved(Protocol):
    """A problem with the outcome of its solve.

    `link` is None unless autograd records the result, and `whole` unless it is of partial transport or of
    total-variation penalties, the `variation`.
    """

    @property
    def problem(self) -> LinearProblem: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def link(self) -> object | None: ...
    @property
    def whole(self) -> Solved | None: ...

    @property
    def variation(self) -> Variation | None: ...


_Value = TypeVar("_Value")


def kept(function: Callable[[Solved], _Value]) -> Callable[[Solved], _Value]:
    """The function of a result, evaluated once for each result and cached in it."""
    name = f"_{function.__module__}.{function.__name__}"

    @wraps(function)
    def call(result: Solved) -> _Value:
        memory = vars(result)
        if name not in memory:
            memory[name] = function(result)
        value: _Value = memory[name]
        return value

    return call


def of_whole(function: Callable[[Solved], _Value]) -> Callable[[Solved], _Value]:
    """The function of a result, of partial transport evaluated for the balanced problem that it comes from."""

    @wraps(function)
    def call(result: Solved) -> _Value:
        return function(result if result.whole is None else result.whole)

    return call


def readable(result: Solved) -> tuple[Plan, ...]:
    """The parts of the plan, to be read; ``RuntimeError`` if they are made of costs that have changed."""
    parts = result.outcome.plan
    if any(isinstance(part, EntropicPlan) for part in parts):
        result.problem.check_costs()
    return parts
