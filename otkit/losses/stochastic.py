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
from otkit.losses.distillation.unrolled import RANGE, scaled
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
        L = upcast(logits).reshape(-1, *logits.shape[-2:])
        found, far = (_Rounds.apply if logits.device.type == "cpu" else rounds)(L, reg, n_iters)
        if far.any():
            found = found.index_put((far,), _by_potentials(L[far] / reg, method))
    return found.reshape(logits.shape).to(logits.dtype)


def rounds(L: Tensor, reg: float, n_iters: int) -> tuple[Tensor, Tensor]:
    """The rounds of matrices ``(B, n, n)`` in PyTorch, and those that it leaves out; the reference of `_Rounds`."""
    C = L.detach().amax(-1, keepdim=True) - L
    far = C.detach().amax((-2, -1)) > reg * RANGE[L.dtype]
    one = torch.ones_like(L[..., 0])
    return scaled(C.masked_fill(far[:, None, None], 0.0), one, one, reg, n_iters)[0], far


def _by_potentials(L: Tensor, method: Solver[Any]) -> Tensor:
    """The rounds of matrices whose exponentials under- or overflow."""
    n, empty = L.shape[-1], (L.detach().amax(-2) == -torch.inf).any(-1)[:, None, None]
    u = L.new_full((n,), 1 / n)
    P: Tensor = n * solve(-L.masked_fill(empty, 0.0), u, u, reg=1.0, method=method).plan
    return P.masked_fill(empty, torch.nan)


class _Rounds(torch.autograd.Function):
    """Compiled rounds, of which only the exponentials are saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, L: Tensor, reg: float, n_iters: int) -> tuple[Tensor, Tensor]:
        given = L.detach().contiguous()
        E, P, far = torch.empty_like(given), torch.empty_like(given), torch.empty(len(L), dtype=torch.bool)
        scale, limit = given.numpy().dtype.type(1 / reg), RANGE[L.dtype]
        _each(lambda L, *rest: kernels.rounds(L, scale, limit, *rest), n_iters, given, E, P, far)
        ctx.save_for_backward(L, E)
        ctx.reg, ctx.n_iters = reg, n_iters
        ctx.mark_non_differentiable(far)
        return P, far

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        L, E = ctx.saved_tensors
        by_L = torch.empty_like(E)
        _each(kernels.rounds_gradient, ctx.n_iters, E, cotangent.detach().contiguous(), by_L)
        return *once("doubly_stochastic", (by_L / ctx.reg,), cotangent, L), None, None


def _each(kernel: Any, n_iters: int, *tensors: Tensor) -> None:
    """Run a kernel on the matrices, some at a time; threads share them."""
    first, *rest = (v.numpy() for v in tensors)
    size = max(1, _ENTRIES // first[0].size) if len(first) else 1
    parts = [slice(low, low + size) for low in range(0, len(first), size)]
    # A multiplication takes about an eighth of the time of an exponential.
    threads.each(lambda part: kernel(first[part], n_iters, *(v[part] for v in rest)), parts, first.size * n_iters // 4)
