"""Doubly stochastic matrices by a number of Sinkhorn's rounds, for layers of networks with many small ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit import arrays, checks
from otkit.api import solve
from otkit.autograd.torch import once
from otkit.kernels import threads
from otkit.kernels.numba import scalings as kernels
from otkit.losses.chunks import upcast
from otkit.losses.distillation.unrolled import RANGE
from otkit.losses.tensors import check_tensor
from otkit.solvers import Sinkhorn, Solver

# Entries of the matrices in a part of the work.
_ENTRIES = 2**13


@arrays.eager
def doubly_stochastic(logits: Tensor, n_iters: int = 20, reg: float = 1.0) -> Tensor:
    """Exponentials of logits, of which rows and columns are divided by their sums in turn.

    Parameters
    ----------
    logits : Tensor (..., n, n)
        −inf for an entry that is 0.
    n_iters : int
        The number of rounds: rows, then columns.
    reg : float
        What logits are divided by, a temperature.

    Returns
    -------
    Tensor (..., n, n)
        Matrices whose columns sum to 1, and whose rows do to what the rounds reached. Their gradient is that of the
        rounds; a second one is refused.

    Raises
    ------
    ValueError, TypeError
        If the matrices are not square, or options make no sense.

    Notes
    -----
    Sinkhorn & Knopp (1967); the mixing of residual streams of mHC (2025), and the attention of the Sinkformer (Sander
    et al. 2022). The result is n times the plan of ``solve(-logits, u, u, reg=reg, method=Sinkhorn(n_iters=n_iters))``
    with uniform u, which computes the matrices whose logits have too wide a range for exponentials. The others are
    scaled on the CPU by compiled loops. Their backward pass computes the scalings again: only the exponentials are
    kept. A matrix with NaN, with +inf, or with a row or column of −inf is NaN. Half precision is computed in float32.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import doubly_stochastic
    >>> doubly_stochastic(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), n_iters=50)
    tensor([[0.3775, 0.6225],
            [0.6225, 0.3775]])
    """
    check_tensor("logits", logits)
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2] or not logits.shape[-1]:
        raise ValueError(
            f"logits must be square matrices (..., n, n), got shape {tuple(logits.shape)}; for other shapes use "
            "otkit.solve with the marginals that they should have"
        )
    method = Sinkhorn(n_iters=n_iters, last="cols")  # checks the number
    checks.positive(reg, "reg")
    checks.no_transform(logits, "logits")
    with torch.autocast(logits.device.type, enabled=False):
        L = upcast(logits).reshape(-1, *logits.shape[-2:]) / reg
        L = L - L.detach().amax(-1, keepdim=True)
        wide = -L.detach().amin((-2, -1)) > RANGE[L.dtype]
        if not wide.any():
            found = _scaled(L, n_iters)
        else:
            empty = (L.detach().amax(-2) == -torch.inf).any(-1)
            L, wide = L.masked_fill(empty[:, None, None], torch.nan), wide & ~empty
            found = torch.empty_like(L)
            found = found.index_put((~wide,), _scaled(L[~wide], n_iters))
            if wide.any():
                found = found.index_put((wide,), _by_potentials(L[wide], method))
    return found.reshape(logits.shape).to(logits.dtype)


def _scaled(L: Tensor, n_iters: int) -> Tensor:
    if L.device.type != "cpu":
        return rounds(L.exp(), n_iters)
    P: Tensor = _Rounds.apply(L, n_iters)
    return P


def rounds(P: Tensor, n_iters: int) -> Tensor:
    """The rounds of matrices ``(B, n, n)`` in PyTorch; the reference of the compiled ones."""
    for _ in range(n_iters):
        P = P / P.sum(-1, keepdim=True)
        P = P / P.sum(-2, keepdim=True)
    return P


def _by_potentials(L: Tensor, method: Solver[Any]) -> Tensor:
    n = L.shape[-1]
    u = L.new_full((n,), 1 / n)
    P: Tensor = n * solve(-L, u, u, reg=1.0, method=method).plan
    return P


class _Rounds(torch.autograd.Function):
    """Compiled rounds, of which only the exponentials are saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, L: Tensor, n_iters: int) -> Tensor:
        E = L.detach().exp().contiguous()
        ctx.save_for_backward(L, E)
        ctx.n_iters = n_iters
        P = torch.empty_like(E)
        _each(kernels.rounds, n_iters, E, P)
        return P

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        L, E = ctx.saved_tensors
        by_L = torch.empty_like(E)
        _each(kernels.rounds_gradient, ctx.n_iters, E, cotangent.detach().contiguous(), by_L)
        return *once("doubly_stochastic", (by_L,), cotangent, L), None


def _each(kernel: Any, n_iters: int, E: Tensor, *more: Tensor) -> None:
    """Run a kernel on the matrices, some at a time; threads share them."""
    first, *rest = (v.numpy() for v in (E, *more))
    size = max(1, _ENTRIES // E[0].numel()) if len(E) else 1
    parts = [slice(low, low + size) for low in range(0, len(E), size)]
    # A multiplication takes about an eighth of the time of an exponential.
    threads.each(lambda part: kernel(first[part], n_iters, *(v[part] for v in rest)), parts, E.numel() * n_iters // 4)
