"""A fixed number of rounds of Sinkhorn's algorithm in PyTorch, differentiated exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit.api import solve
from otkit.kernels import threads
from otkit.kernels.numba import scalings as kernels
from otkit.solvers import Sinkhorn

# The largest range(C)/reg for which the scalings of any number of rounds, and their products, are normal numbers.
_RANGE = {torch.float32: 40.0, torch.float64: 300.0}


def counted_rounds(
    C: Tensor, a: Tensor, b: Tensor, reg: float, n_iters: int, largest: float, *, value: bool
) -> tuple[Tensor, Tensor | None]:
    """Rows, then columns, `n_iters` times from zero potentials, as ``Sinkhorn(n_iters=…, last="cols")`` does.

    Parameters
    ----------
    C : Tensor (B, n, m)
        Costs between 0 and `largest`; the results are differentiable by them, once.
    a, b : Tensor (B, n), (B, m)
        Weights of total 1, not negative; a point of weight 0 takes no part.
    reg : float
    n_iters : int
    largest : float
    value : bool
        Whether the value is wanted too.

    Returns
    -------
    P : Tensor (B, n, m)
    value : Tensor (B,) or None
        ⟨C, P⟩ + reg·KL(P | a⊗b).

    Notes
    -----
    The scalings u and v are kept, 2·T vectors for T rounds, and not the T plans that autograd would keep. All rounds
    together add a matrix of rank 2·T, times the kernel, to the gradient by the costs: one product of matrices.
    Where `reg` is below ``largest/300`` scalings are not safe, and `otkit.solve` does the same rounds.
    """
    dtype = next((t for t in (C.dtype, torch.float64) if largest / reg <= _RANGE[t]), None)
    if dtype is None:
        result = solve(C, a, b, reg=reg, method=Sinkhorn(n_iters=n_iters, last="cols"))
        return result.plan, result.value if value else None
    a, b = a.to(dtype), b.to(dtype)
    P, u, v = _Rounds.apply(C.to(dtype), a, b, reg, n_iters)
    if not value:
        return P.to(C.dtype), None
    # With the potentials f = reg·log(u/a) and g, and the masses of the columns being b, it is ⟨P1, f⟩ + ⟨b, g⟩.
    f, g = (reg * torch.where(w > 0, s / w.masked_fill(w == 0, 1.0), 1.0).log() for s, w in ((u, a), (v, b)))
    return P.to(C.dtype), ((P.sum(-1) * f).sum(-1) + (b * g).sum(-1)).to(C.dtype)


class _Rounds(torch.autograd.Function):
    """The rounds by scalings: u = a/(K·v), v = b/(Kᵀ·u), with K = exp(−C/reg)."""

    @staticmethod
    def forward(ctx: Any, C: Tensor, a: Tensor, b: Tensor, reg: float, n_iters: int) -> tuple[Tensor, ...]:
        K = torch.exp(C / -reg)
        U, V = C.new_empty(C.shape[0], n_iters, C.shape[1]), C.new_empty(C.shape[0], n_iters + 1, C.shape[2])
        V[:, 0] = b
        (_scale if C.device.type == "cpu" else scale)(K, a, b, U, V)
        u, v = U[:, -1], V[:, -1]
        P = K * u[:, :, None] * v[:, None, :]
        ctx.save_for_backward(K, U, V, P, a, b)
        ctx.reg = reg
        ctx.set_materialize_grads(False)
        return P, u.clone(), v.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, P_bar: Tensor | None, *scalings_bar: Tensor | None) -> tuple[Tensor | None, ...]:
        K, U, V, P, a, b = ctx.saved_tensors
        per_a, per_b = (w.reciprocal().masked_fill(w == 0, 0.0) for w in (a, b))
        direct = torch.zeros_like(P) if P_bar is None else P_bar * P
        by_u, by_v = direct.sum(-1), direct.sum(-2)  # by log u and log v
        for sums, scalings, bar in zip((by_u, by_v), (U, V), scalings_bar, strict=True):
            if bar is not None:
                sums += scalings[:, -1] * bar
        W, Z = torch.empty_like(V[:, 1:], memory_format=torch.contiguous_format), torch.empty_like(U)
        (_unscale if K.device.type == "cpu" else unscale)(K, per_a, per_b, U, V, by_u, by_v, W, Z)
        by_K = torch.bmm(torch.cat([U, Z], 1).mT, torch.cat([W, V[:, :-1]], 1))
        return (direct + K * by_K) / -ctx.reg, None, None, None, None


def scale(K: Tensor, a: Tensor, b: Tensor, U: Tensor, V: Tensor) -> None:
    """Rounds from ``V[:, 0]``, of all problems at once; the reference of the compiled ones."""
    for t in range(U.shape[1]):
        U[:, t] = a / (K @ V[:, t, :, None])[..., 0]
        V[:, t + 1] = b / (U[:, t, None, :] @ K)[:, 0]


def unscale(
    K: Tensor, per_a: Tensor, per_b: Tensor, U: Tensor, V: Tensor, by_u: Tensor, by_v: Tensor, W: Tensor, Z: Tensor
) -> None:
    """The way back, of all problems at once; the reference of the compiled one."""
    for t in reversed(range(U.shape[1])):
        W[:, t] = -by_v * V[:, t + 1] * per_b
        Z[:, t] = -(by_u + U[:, t] * (K @ W[:, t, :, None])[..., 0]) * U[:, t] * per_a
        by_u = torch.zeros_like(by_u)
        by_v = V[:, t] * (Z[:, t, None, :] @ K)[:, 0]


def _scale(*tensors: Tensor) -> None:
    _each(kernels.scale, tensors)


def _unscale(*tensors: Tensor) -> None:
    _each(kernels.unscale, tensors)


def _each(kernel: Any, tensors: tuple[Tensor, ...]) -> None:
    """Run a kernel for every problem, which threads share out."""
    arrays = [v.numpy() for v in tensors]
    threads.each(lambda k: kernel(*(v[k] for v in arrays)), range(len(arrays[0])), arrays[0].size * 2)
