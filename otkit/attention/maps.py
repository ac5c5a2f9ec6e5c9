"""What a map of attention weights says, and how its mass is moved: tensors ``(..., Q, K)`` in, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor


def importance(weights: Tensor, visible: Tensor | None = None) -> Tensor:
    """The mean weight that each key receives from the queries that see it.

    Parameters
    ----------
    weights : Tensor (..., Q, K)
        Attention weights. The last query sees the last key.
    visible : bool Tensor, broadcastable to (..., Q, K), optional
        Which query sees which key; causal by default.

    Returns
    -------
    Tensor (..., K)
        In float32 or wider; 0 for a key that no query sees.

    Raises
    ------
    ValueError, TypeError
        If `weights` has no two axes, or `visible` does not fit.

    Notes
    -----
    α of Gu et al. (2025), *When Attention Sink Emerges in Language Models*. Of a transport plan with exact rows and
    free columns, it is the mass of each column over the number of rows that may send any.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import importance
    >>> importance(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.7500, 0.5000])
    """
    visible = _visible(weights, visible)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    received = weights.masked_fill(~visible, 0.0).sum(-2)
    return received / visible.sum(-2).clamp(min=1)


def sink_rate(weights: Tensor, eps: float = 0.3, key: int = 0, visible: Tensor | None = None) -> Tensor:
    """The share of maps in which a key has an importance above `eps`.

    Parameters
    ----------
    weights : Tensor (..., Q, K)
        Attention weights; the mean is over all leading axes.
    eps : float
        The threshold, in [0, 1]; a key at the threshold is no sink.
    key : int
        The index of the key.
    visible : bool Tensor, broadcastable to (..., Q, K), optional
        Which query sees which key; causal by default.

    Returns
    -------
    Tensor ()

    Raises
    ------
    ValueError, TypeError
        As `importance`; and if `eps` or `key` is out of range.

    Notes
    -----
    Sink_k^ε of Gu et al. (2025).

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import sink_rate
    >>> sink_rate(torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]]), eps=0.6)
    tensor(0.5000)
    """
    within_unit(eps, "eps")
    found = importance(weights, visible)
    if not -found.shape[-1] <= key < found.shape[-1]:
        raise ValueError(
            f"key must be one of the {found.shape[-1]} keys of weights, got {key}; 0 is the first token, -1 the last"
        )
    return (found[..., key] > eps).to(found.dtype).mean()


def redistribute(weights: Tensor, source: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """Move a share of the weight of source keys to target keys, in proportion to what these have.

    Parameters
    ----------
    weights : Tensor (..., Q, K)
        Non-negative weights.
    source, target : bool Tensor, broadcastable to (..., Q, K)
        The keys that give and the keys that take. A key may be in neither, never in both.
    share : float
        The share of the source keys' weight that is moved, in [0, 1].

    Returns
    -------
    Tensor (..., Q, K)
        With the row sums of `weights`. A row whose target keys have no weight stays as it is.

    Raises
    ------
    ValueError, TypeError
        If `share` is out of range, a key is in both groups, or the shapes do not fit.

    Notes
    -----
    Each row is the Kullback–Leibler projection of the former one onto the new masses of the two groups. ACT, VAR and
    the eviction of keys are all this step.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import redistribute
    >>> first, others = torch.tensor([True, False, False]), torch.tensor([False, True, True])
    >>> redistribute(torch.tensor([[0.5, 0.125, 0.375]]), first, others, share=0.5)
    tensor([[0.2500, 0.1875, 0.5625]])
    """
    within_unit(share, "share")
    _check_map(weights)
    for group, name in ((source, "source"), (target, "target")):
        _check_group(group, name, weights)
    if bool((source & target).any()):
        raise ValueError("source and target must have no key in common; use target & ~source")
    return moved(weights, source, target, share)


def moved(weights: Tensor, source: Tensor, target: Tensor, share: float) -> Tensor:
    """`redistribute`, unchecked: what it checks would make a GPU wait."""
    taken = share * weights.masked_fill(~source, 0.0).sum(-1, keepdim=True)
    there = weights.masked_fill(~target, 0.0).sum(-1, keepdim=True)
    takes = there > 0
    one = torch.ones_like(there)
    less = torch.where(takes, 1.0 - share, one)
    # Divided by what the target has: 1 less the mass of the source cancels where that is nearly all.
    more = torch.where(takes, 1.0 + taken / torch.where(takes, there, one), one)
    return weights * torch.where(source, less, torch.where(target, more, one))


def massive_activation(hidden: Tensor, dims: Tensor | list[int]) -> Tensor:
    """How far some dimensions of hidden states exceed the root mean square of all.

    Parameters
    ----------
    hidden : Tensor (..., D)
        Hidden states.
    dims : sequence of int, or Tensor
        The dimensions, such as those of `massive_dims`.

    Returns
    -------
    Tensor (...)
        φ of Kang et al. (2025), *See What You Are Told*: the largest absolute value over the root mean square. It is at
        most √D, and 0 where all states are 0.

    Raises
    ------
    ValueError
        If there are no `dims`, or one is out of range.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import massive_activation
    >>> massive_activation(torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), [0])
    tensor([2., 1.])
    """
    dims = torch.as_tensor(dims, device=hidden.device, dtype=torch.long).reshape(-1)
    size = hidden.shape[-1]
    if not dims.numel() or bool(((dims < -size) | (dims >= size)).any()):
        raise ValueError(
            f"dims must be some of the {size} dimensions of hidden, got {dims.tolist()}; massive_dims(hidden) finds "
            "some"
        )
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    scale = hidden.square().mean(-1).sqrt()
    return hidden[..., dims].abs().amax(-1) / torch.where(scale > 0, scale, 1.0)


def massive_dims(hidden: Tensor, top: int = 2) -> Tensor:
    """The dimensions whose largest entry exceeds the root mean square of its state the most.

    Parameters
    ----------
    hidden : Tensor (..., T, D)
        Hidden states of some tokens.
    top : int
        The number of dimensions, at most D.

    Returns
    -------
    int64 Tensor (top,)
        From the largest on.

    Raises
    ------
    ValueError
        If `top` is out of range.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import massive_dims
    >>> massive_dims(torch.tensor([[1.0, -9.0, 2.0], [1.0, 1.0, 1.0]]), top=1)
    tensor([1])
    """
    size = hidden.shape[-1]
    if not 1 <= top <= size:
        raise ValueError(f"top must be 1 to {size}, the dimensions of hidden, got {top}")
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32)).reshape(-1, size)
    scale = hidden.square().mean(-1, keepdim=True).sqrt()
    return (hidden.abs() / torch.where(scale > 0, scale, 1.0)).amax(0).topk(top).indices


def within_unit(value: float, name: str) -> None:
    """Refuse what is not a number from 0 to 1."""
    if not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def at_least(value: int, least: int, name: str) -> None:
    """Refuse what is not a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which of the last queries sees which key, ``(Q, K)``."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _visible(weights: Tensor, visible: Tensor | None) -> Tensor:
    _check_map(weights)
    if visible is None:
        return causal(weights.shape[-2], weights.shape[-1], weights.device)
    _check_group(visible, "visible", weights)
    return visible.expand(*visible.shape[:-2], *weights.shape[-2:]) if visible.ndim > 1 else visible.expand_as(weights)


def _kind(x: object) -> object:
    return getattr(x, "dtype", type(x).__name__)


def _check_map(weights: Tensor) -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise TypeError(f"weights must be a tensor of floats, got {_kind(weights)}; pass weights.float()")
    if weights.ndim < 2:
        raise ValueError(
            f"weights must be (..., Q, K), queries and keys, got shape {tuple(weights.shape)}; weights[None] is one "
            "query"
        )


def _check_group(group: Tensor, name: str, weights: Tensor) -> None:
    if not isinstance(group, Tensor) or group.dtype != torch.bool:
        raise TypeError(f"{name} must be a tensor of bool, got {_kind(group)}; {name} != 0 makes one of ones and zeros")
    pairs = zip(reversed(group.shape), reversed(weights.shape), strict=False)
    if group.ndim > weights.ndim or any(own not in (1, size) for own, size in pairs):
        raise ValueError(
            f"{name} must broadcast to the shape of weights {tuple(weights.shape)}, got {tuple(group.shape)}; give "
            "each axis that size or 1"
        )
