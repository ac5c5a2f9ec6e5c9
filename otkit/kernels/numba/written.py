"""Kernels as they are written, in Python. A single small problem takes less time so than kernels take to compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any


@cache
def as_written(kernel: Any) -> Callable[..., Any]:
    """The function that a kernel was compiled from, with all that it calls: bitwise the same results.

    Only for kernels that keep the order of operations, or whose sums are exact in any order.
    """
    function = kernel.py_func
    scope = dict(function.__globals__)
    for name in function.__code__.co_names:
        called = scope.get(name)
        if hasattr(called, "py_func"):
            scope[name] = as_written(called)
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
