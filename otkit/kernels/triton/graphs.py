"""Launches that are repeated: captured once in a CUDA graph, and then launched together.

The host spends tens of microseconds on each launch from Python, and a few on a graph of all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from otkit.kernels.triton.launch import Tensor


class Repeated:
    """A function that enqueues kernels with the same arguments at every call, and nothing else.

    The first call runs it, so that all kernels are compiled. The second captures its launches in a CUDA graph on a GPU,
    which later calls launch as well. If the capture fails, one warning says why, and all calls of this process run
    their functions. The end of the context waits for the launches: a graph must not end before them.

    Parameters
    ----------
    function : callable
    like : tensor
        A tensor on the device of the kernels.
    """

    def __init__(self, function: Callable[[], None], like: Tensor) -> None:
        self.function, self.like = function, like
        self.calls = 0
        self.graph: Any = None

    def __enter__(self) -> Repeated:
        return self

    def __exit__(self, *_: object) -> None:
        if self.graph is not None:
            torch.cuda.current_stream(self.like.device).synchronize()

    def __call__(self) -> None:
        if self.calls == 1 and _has_graphs(self.like):
            self.graph = _captured(self.function, self.like)
        self.calls += 1
        if self.graph is None:
            self.function()
        else:
            cuda: Any = torch.cuda
            with cuda.device_of(self.like):
                self.graph.replay()


# Why no graph could be captured; empty as long as all could.
refused: set[str] = set()


def _has_graphs(like: Tensor) -> bool:
    return like.is_cuda and not refused


def _captured(function: Callable[[], None], like: Tensor) -> Any:
    """The graph of the launches of a function, none of which is run; None if they cannot be captured."""
    cuda: Any = torch.cuda
    graph = cuda.CUDAGraph()
    # Not by `torch.cuda.graph`, which waits for the device and frees all memory that is kept for later tensors.
    try:
        with cuda.stream(cuda.Stream(like.device)):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        refused.add(str(error))
        what = "kernels are launched one by one, since a CUDA graph of them could not be captured"
        warnings.warn(f"{what}: {error}", RuntimeWarning, stacklevel=2)
        return None
    return graph
