"""Softmaxes at a temperature, compiled on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit import arrays
from otkit.kernels import threads
from otkit.kernels.numba.softmax import softmax, softmax_gradient
from otkit.losses.tensors import as_numpy

# Entries of the rows that a thread takes at a time.
_ENTRIES = 2**17


def softened(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """The softmaxes of ``logits/temperature (..., V)``, differentiable as often as one likes."""
    learned = isinstance(temperature, Tensor) and temperature.requires_grad
    if learned or logits.device.type != "cpu" or arrays.transformed(logits):
        return torch.softmax(logits / temperature, -1)
    found: Tensor = _Softmax.apply(logits, 1 / float(temperature))
    return found


class _Softmax(torch.autograd.Function):
    """Softmaxes that keep nothing else for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, inverse: float) -> Tensor:
        out = logits.new_empty(logits.shape)
        _share(softmax, (logits,), inverse, out)
        ctx.save_for_backward(out)
        ctx.inverse = inverse
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        if torch.is_grad_enabled() or arrays.transformed(cotangent):  # create_graph=True: p is a function of the logits
            return ctx.inverse * p * (cotangent - (p * cotangent).sum(-1, keepdim=True)), None
        out = p.new_empty(p.shape)
        _share(softmax_gradient, (p, cotangent), ctx.inverse, out)
        return out, None


def _share(kernel: Any, given: tuple[Tensor, ...], inverse: float, out: Tensor) -> None:
    """Run a kernel on parts of all rows."""
    views = [as_numpy(v.reshape(-1, v.shape[-1])) for v in (*given, out)]
    size = max(1, _ENTRIES // out.shape[-1])
    parts = [slice(low, low + size) for low in range(0, len(views[0]), size)]
    threads.each(lambda part: kernel(*(v[part] for v in views[:-1]), inverse, views[-1][part]), parts, out.numel())
