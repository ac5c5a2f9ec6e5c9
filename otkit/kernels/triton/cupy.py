"""CuPy arrays as arguments of kernels for tensors: views through DLPack, on CuPy's stream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from otkit.arrays import is_cupy, map_arrays, namespace, on_gpu


def bridged(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on tensors, converted to take and return arrays of another library."""

    def call(geometry: Any, *args: Any, **kwargs: Any) -> Any:
        like = next(iter(geometry.arrays.values()))
        with _stream(like):
            views = [map_arrays(from_dlpack, part) for part in (geometry, *args)]
            named = {name: map_arrays(from_dlpack, part) for name, part in kwargs.items()}
            return map_arrays(namespace(like).from_dlpack, operation(*views, **named))

    return call


def streamed(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on CuPy's current stream, for one that makes its own views and returns tensors."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = []

        def see(x: Any) -> Any:
            given.append(x)
            return x

        map_arrays(see, args)
        with _stream(next(filter(on_gpu, given), None)):
            return operation(*args, **kwargs)

    return call


def _stream(x: Any) -> AbstractContextManager[Any]:
    """A context in which torch uses CuPy's current stream on the device of `x`, an array of CuPy or a CUDA tensor."""
    if not on_gpu(x):
        return nullcontext()
    there: Any = torch.cuda
    pointer = sys.modules["cupy"].cuda.get_current_stream().ptr
    device = x.device.id if is_cupy(x) else x.device.index
    # Of the null stream, whose pointer is 0, torch would make a new one.
    return there.stream(there.ExternalStream(pointer, device=device) if pointer else there.default_stream(device))
