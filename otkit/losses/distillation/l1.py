"""L1 distances between all rows of two matrices, some columns at a time in the forward and the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit import checks
from otkit.autograd.torch import once
from otkit.kernels import threads
from otkit.kernels.numba.l1 import distance_gradient, distances, distances_across, gradient_across
from otkit.losses.tensors import as_numpy, check_tensor

# Rows of a part on the CPU.
_ROWS = 32
# Up to so many coordinates of at least so many points, inner loops run over these points: with 1024 of 2 coordinates
# that takes an eighth of the time, and the gradient a thirtieth.
_FEW, _MANY = 64, 64
# Differences in memory at once on other devices.
_DIFFERENCES = 2**24
# Differences computed in the time of one exponential.
_PER_EXPONENTIAL = 16


def l1_cost(x: Tensor, y: Tensor) -> Tensor:
    """The L1 distances between the rows of two matrices.

    Parameters
    ----------
    x : Tensor (..., n, d)
    y : Tensor (..., m, d)
        In float32 or float64, both the same.

    Returns
    -------
    Tensor (..., n, m)
        Σ_k |x_ik − y_jk|, with the gradient Σ_j c̄_ij·sign(x_ik − y_jk), in which the sign of 0 is 0.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit together.

    Notes
    -----
    The forward and the backward pass take d in chunks: their memory does not grow like n·m·d, as that of the backward
    pass of ``torch.cdist`` does on a GPU. On the CPU they are compiled loops. A second derivative is refused.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses.distillation.l1 import l1_cost
    >>> l1_cost(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([[2.],
            [1.]])
    """
    for name, v in (("x", x), ("y", y)):
        check_tensor(name, v)
    if x.ndim < 2 or x.ndim != y.ndim or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"x and y must have shapes (..., n, d) and (..., m, d), got {tuple(x.shape)} and {tuple(y.shape)}; "
            "expand leading axes to one shape"
        )
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.float64) or x.device != y.device:
        raise ValueError(
            f"x and y must be of float32 or float64, of one dtype and on one device, got {x.dtype} on {x.device} and "
            f"{y.dtype} on {y.device}; convert them with .float()"
        )
    for v, name in ((x, "x"), (y, "y")):
        checks.no_transform(v, name)
    cost: Tensor = _L1Cost.apply(x, y)
    return cost


class _L1Cost(torch.autograd.Function):
    """Distances that keep only the rows for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        flat = (v.detach().reshape(-1, *v.shape[-2:]) for v in (x, y))
        return _distances(*flat).reshape(*x.shape[:-1], y.shape[-2])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        u, v, c = (t.detach().reshape(-1, *t.shape[-2:]) for t in (x, y, cotangent))
        by_x = _gradient(u, v, c).reshape(x.shape) if ctx.needs_input_grad[0] else None
        by_y = _gradient(v, u, c.mT).reshape(y.shape) if ctx.needs_input_grad[1] else None
        by: tuple[Tensor | None, Tensor | None] = once("the L1 cost", (by_x, by_y), cotangent, x, y)
        return by


def _compiled(v: Tensor) -> bool:
    return v.device.type == "cpu"


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """The distances ``(B, n, m)`` between rows ``x (B, n, d)`` and ``y (B, m, d)``."""
    if _compiled(x):
        out = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
        if _few(y):
            _share(distances_across, (x, y.mT.contiguous()), out)
        else:
            _share(distances, (x, y), out)
        return out
    out = x.new_zeros(x.shape[0], x.shape[1], y.shape[1])
    for part in _slices(x, y):
        out += (x[:, :, None, part] - y[:, None, :, part]).abs().sum(-1)
    return out


def _gradient(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """The gradient by `x` for the cotangent ``c (B, n, m)``."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if _compiled(x):
        if _few(y):
            _share(gradient_across, (x, y.mT.contiguous(), c.contiguous()), out)
        else:
            _share(distance_gradient, (x, y, c), out)
        return out
    for part in _slices(x, y):
        out[:, :, part] = torch.einsum("bnm,bnmk->bnk", c, (x[:, :, None, part] - y[:, None, :, part]).sign())
    return out


def _few(y: Tensor) -> bool:
    """Whether ``y (B, m, d)`` has many rows of few coordinates."""
    return y.shape[1] >= _MANY and y.shape[2] <= _FEW


def _share(kernel: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
    """Run a kernel on parts of the rows of all problems."""
    arrays = [as_numpy(v) for v in (*given, out)]
    number, n = given[0].shape[:2]
    parts = [(k, low, min(low + _ROWS, n)) for k in range(number) for low in range(0, n, _ROWS)]
    differences = n * given[1].numel()
    threads.each(lambda part: kernel(*(v[part[0]] for v in arrays), *part[1:]), parts, differences // _PER_EXPONENTIAL)


def _slices(x: Tensor, y: Tensor) -> list[slice]:
    """Columns for which the differences of all pairs fit in memory."""
    width = max(1, _DIFFERENCES // max(1, x.shape[0] * x.shape[1] * y.shape[1]))
    return [slice(low, low + width) for low in range(0, x.shape[2], width)]
