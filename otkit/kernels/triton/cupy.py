"""Arrays of CuPy for kernels that take tensors: views through DLPack, on CuPy's stream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from otkit.arrays import is_array, is_cupy, namespace


def bridged(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on tensors, for arrays of another library, in which it answers."""

    def call(geometry: Any, *args: Any, **kwargs: Any) -> Any:
        xp = namespace(*geometry.arrays.values())
        with _stream(next(iter(geometry.arrays.values()))):
            views = [mapped(from_dlpack, part) for part in (geometry, *args)]
            named = {name: mapped(from_dlpack, part) for name, part in kwargs.items()}
            return mapped(xp.from_dlpack, operation(*views, **named))

    return call


def mapped(convert: Callable[[Any], Any], part: Any) -> Any:
    """A tree of dataclasses and tuples with every array in it converted."""
    if is_array(part):
        return convert(part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: mapped(convert, getattr(part, f.name)) for f in fields(part)})
    if isinstance(part, tuple):
        inner = [mapped(convert, x) for x in part]
        return type(part)(*inner) if hasattr(part, "_fields") else tuple(inner)
    return part


def _stream(x: Any) -> AbstractContextManager[Any]:
    """CuPy's current stream as that of torch."""
    if not is_cupy(x):
        return nullcontext()
    there: Any = torch.cuda
    return there.stream(there.ExternalStream(sys.modules["cupy"].cuda.get_current_stream().ptr))
