"""Arrays of CuPy for kernels that take tensors: views through DLPack, on CuPy's stream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from otkit.arrays import is_cupy, map_arrays, namespace


def bridged(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on tensors, for arrays of another library, in which it answers."""

    def call(geometry: Any, *args: Any, **kwargs: Any) -> Any:
        xp = namespace(*geometry.arrays.values())
        with _stream(next(iter(geometry.arrays.values()))):
            views = [map_arrays(from_dlpack, part) for part in (geometry, *args)]
            named = {name: map_arrays(from_dlpack, part) for name, part in kwargs.items()}
            return map_arrays(xp.from_dlpack, operation(*views, **named))

    return call


def _stream(x: Any) -> AbstractContextManager[Any]:
    """CuPy's current stream as that of torch."""
    if not is_cupy(x):
        return nullcontext()
    there: Any = torch.cuda
    return there.stream(there.ExternalStream(sys.modules["cupy"].cuda.get_current_stream().ptr))
