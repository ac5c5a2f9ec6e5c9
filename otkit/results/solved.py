"""The interface of a result for `values`, `maps` and `gauge`, and the cache of derived quantities."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

from otkit.plans import EntropicPlan, Plan
from otkit.problems.linear import LinearProblem
from otkit.problems.variation import Variation
from otkit.results.outcome import Outcome


class Place(Protocol):
    """The place of a result in that of a batch."""

    @property
    def batch(self) -> Solved: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def here(self) -> slice: ...


class Solved(Protocol):
    """A problem with the outcome of its solve.

    `link` is None unless autograd records the result, and `whole` unless it is of partial transport or of
    total-variation penalties, the `variation`. `origin` is None unless it is a part of the result of a batch.
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
    @property
    def origin(self) -> Place | None: ...


_Value = TypeVar("_Value")


def kept(function: Callable[[Solved], _Value]) -> Callable[[Solved], _Value]:
    """The function of a result, evaluated once for each result and cached in it."""
    name = kept_as(function)

    @wraps(function)
    def call(result: Solved) -> _Value:
        memory = vars(result)
        if name not in memory:
            memory[name] = function(result)
        value: _Value = memory[name]
        return value

    return call


def kept_as(function: Callable[..., Any]) -> str:
    """The name of the attribute of a result in which the value of a `kept` function is."""
    return f"_{function.__module__}.{function.__name__}"


def by_item(function: Callable[[Solved], _Value]) -> Callable[[Solved], _Value]:
    """The function of a result, with a number for each item, evaluated for the batch that the result is a part of."""

    @wraps(function)
    def call(result: Solved) -> _Value:
        if result.origin is None:
            return function(result)
        found: Any = function(result.origin.batch)
        if isinstance(found, tuple):
            return found._make(_at(v, result.origin.here) for v in found)  # type: ignore[attr-defined]
        return _at(found, result.origin.here)

    return call


def _at(v: Any, here: slice) -> Any:
    return None if v is None else v[here]


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
