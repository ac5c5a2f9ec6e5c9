"""CuPy arrays as arguments of kernels for tensors: views through DLPack, on CuPy's stream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from otkit.arrays import is_cupy, map_arrays, namespace


def bridged(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on tensors, converted to take and return arrays of another library."""

    def call(geometry: Any, *args: Any, **kwargs: Any) -> Any:
        xp = namespace(*geometry.arrays.values())
        with _stream(next(iter(geometry.arrays.values()))):
            views = [map_arrays(from_dlpack, part) for part in (geometry, *args)]
            named = {name: map_arrays(from_dlpack, part) for name, part in kwargs.items()}
            return map_arrays(xp.from_dlpack, operation(*views, **named))

    return call


def _stream(x: Any) -> AbstractContextManager[Any]:
    """A context in which torch uses CuPy's current stream."""
    if not is_cupy(x):
        return nullcontext()
    there: Any = torch.cuda
    return there.stream(there.ExternalStream(sys.modules["cupy"].cuda.get_current_stream().ptr))
