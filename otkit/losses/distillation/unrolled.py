"""A fixed number of Sinkhorn iterations in PyTorch, unrolled: their exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit.api import solve
from otkit.autograd.torch import once
from otkit.kernels import threads
from otkit.kernels.numba import scalings as kernels
from otkit.solvers import Sinkhorn

# The largest range(C)/reg for which the scalings of any number of iterations, and their products, are normal numbers.
RANGE = {torch.float32: 40.0, torch.float64: 300.0}

Pair = tuple[Tensor, Tensor]


def unrolled_plan(
    C: Tensor, a: Tensor, b: Tensor, reg: float, n_iters: int, largest: float, *, value: bool
) -> tuple[Tensor, Tensor | None]:
    """The plan after `n_iters` iterations from zero potentials, rows first, as of ``Sinkhorn(n_iters=…, last="cols")``.

    Parameters
    ----------
    C : Tensor (B, n, m)
        Costs between 0 and `largest`. Results can be differentiated by them; a second derivative is refused.
    a, b : Tensor (B, n), (B, m)
        Weights of total 1, not negative. A point of weight 0 takes no part.
    reg : float
    n_iters : int
    largest : float
    value : bool
        Whether to return the value too.

    Returns
    -------
    P : Tensor (B, n, m)
    value : Tensor (B,) or None
        ⟨C, P⟩ + reg·KL(P | a⊗b).

    Notes
    -----
    For the backward pass of T iterations 2·T vectors are kept, the scalings u and v. Autograd would keep T plans. All
    iterations together add the kernel times a matrix of rank 2·T to the gradient by the costs: one matrix product.
    Scalings can overflow where `reg` is below ``largest/300``: there `otkit.solve` does the same iterations.
    """
    dtype = next((t for t in (C.dtype, torch.float64) if largest / reg <= RANGE[t]), None)
    if dtype is None:
        result = solve(C, a, b, reg=reg, method=Sinkhorn(n_iters=n_iters, last="cols"))
        return result.plan, result.value if value else None
    a, b = a.to(dtype), b.to(dtype)
    P, u, v = scaled(C.to(dtype), a, b, reg, n_iters)
    if not value:
        return P.to(C.dtype), None
    # Columns have the masses b: with potentials f = reg·log(u/a) and g = reg·log(v/b) the value is ⟨P1, f⟩ + ⟨b, g⟩.
    f, g = (reg * torch.where(w > 0, s / w.masked_fill(w == 0, 1.0), 1.0).log() for s, w in ((u, a), (v, b)))
    return P.to(C.dtype), ((P.sum(-1) * f).sum(-1) + (b * g).sum(-1)).to(C.dtype)


def scaled(C: Tensor, a: Tensor, b: Tensor, reg: float, n_iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """The plan ``(B, n, m)`` and the last scalings u and v, from v = b: of costs whose exponentials are normal numbers.

    u = a/(K·v), v = b/(Kᵀ·u), with K = exp(−C/reg).
    """
    P, u, v = _Scalings.apply(C, a, b, reg, n_iters)
    return P, u, v


class _Scalings(torch.autograd.Function):
    """`scaled`, with the backward pass of its iterations."""

    @staticmethod
    def forward(ctx: Any, C: Tensor, a: Tensor, b: Tensor, reg: float, n_iters: int) -> tuple[Tensor, ...]:
        K = torch.exp(C / -reg)
        U, V = C.new_empty(C.shape[0], n_iters, C.shape[1]), C.new_empty(C.shape[0], n_iters + 1, C.shape[2])
        V[:, 0] = b
        (compiled_scale if C.device.type == "cpu" else scale)(K, a, b, U, V)
        u, v = U[:, -1], V[:, -1]
        P = K * u[:, :, None] * v[:, None, :]
        ctx.save_for_backward(C, K, U, V, P, a, b)
        ctx.reg = reg
        ctx.set_materialize_grads(False)
        return P, u.clone(), v.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        C, *saved = ctx.saved_tensors
        with torch.no_grad():
            by_C = _Scalings._by_costs(saved, cotangents, ctx.reg)
        origin = [C, *(v for v in cotangents if v is not None)]
        return *once("a number of Sinkhorn iterations", (by_C,), *origin), None, None, None, None

    @staticmethod
    def _by_costs(saved: list[Tensor], cotangents: tuple[Tensor | None, ...], reg: float) -> Tensor:
        """The gradient by the costs."""
        (K, U, V, P, a, b), (P_bar, *scalings_bar) = saved, cotangents
        per_a, per_b = (w.reciprocal().masked_fill(w == 0, 0.0) for w in (a, b))
        direct = torch.zeros_like(P) if P_bar is None else P_bar * P
        by_u, by_v = direct.sum(-1), direct.sum(-2)  # by log u and log v
        for sums, scalings, bar in zip((by_u, by_v), (U, V), scalings_bar, strict=True):
            if bar is not None:
                sums += scalings[:, -1] * bar
        W, Z = torch.empty_like(V[:, 1:], memory_format=torch.contiguous_format), torch.empty_like(U)
        backward_pass = compiled_unscale if K.device.type == "cpu" else unscale
        backward_pass(K, (per_a, per_b), (U, V), (by_u, by_v), (W, Z))
        by_K = torch.bmm(torch.cat([U, Z], 1).mT, torch.cat([W, V[:, :-1]], 1))
        return (direct + K * by_K) / -reg


def scale(K: Tensor, a: Tensor, b: Tensor, U: Tensor, V: Tensor) -> None:
    """Iterate from ``V[:, 0]``, all problems at once; the reference of `compiled_scale`."""
    for t in range(U.shape[1]):
        U[:, t] = a / (K @ V[:, t, :, None])[..., 0]
        V[:, t + 1] = b / (U[:, t, None, :] @ K)[:, 0]


def unscale(K: Tensor, per_weight: Pair, scalings: Pair, by_logs: Pair, out: Pair) -> None:
    """The backward pass of `scale`, all problems at once; the reference of `compiled_unscale`.

    `per_weight` are 1/a and 1/b, 0 where the weight is 0. `by_logs` are the cotangents of the last log u and log v.
    Those of the sums Kᵀ·u and K·v are written to `out`, W and Z.
    """
    (per_a, per_b), (U, V), (by_u, by_v), (W, Z) = per_weight, scalings, by_logs, out
    for t in reversed(range(U.shape[1])):
        W[:, t] = -by_v * V[:, t + 1] * per_b
        Z[:, t] = -(by_u + U[:, t] * (K @ W[:, t, :, None])[..., 0]) * U[:, t] * per_a
        by_u = torch.zeros_like(by_u)
        by_v = V[:, t] * (Z[:, t, None, :] @ K)[:, 0]


def compiled_scale(K: Tensor, a: Tensor, b: Tensor, U: Tensor, V: Tensor) -> None:
    """`scale` by compiled loops, on the CPU."""
    _each(kernels.scale, (K, a, b, U, V))


def compiled_unscale(K: Tensor, per_weight: Pair, scalings: Pair, by_logs: Pair, out: Pair) -> None:
    """`unscale` by compiled loops, on the CPU; overwrites `by_logs`."""
    _each(kernels.unscale, (K, *per_weight, *scalings, *by_logs, *out))


def _each(kernel: Any, tensors: tuple[Tensor, ...]) -> None:
    """Run a kernel for every problem; threads share the problems."""
    arrays = [v.numpy() for v in tensors]
    threads.each(lambda k: kernel(*(v[k] for v in arrays)), range(len(arrays[0])), arrays[0].size * 2)
