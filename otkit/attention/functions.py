"""Attention from queries, keys and values: with sink logits, in groups, or as a stream, on PyTorch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as sdpa

from otkit.attention.maps import at_least, causal, within_unit

_EXTRA = 8  # dimensions that carry the sink logit; kernels want the size of heads to be a multiple of 8


def sink_attention(
    query: Tensor, key: Tensor, value: Tensor, sink: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Softmax attention in which each head may also attend to nothing, at a learnable logit.

    Parameters
    ----------
    query : Tensor (B, H, Q, d)
    key, value : Tensor (B, H_kv, K, d), (B, H_kv, K, d_v)
        H is a multiple of H_kv.
    sink : Tensor (H,)
        The logit of each head's sink. It has no key, and a value of 0. With 0 this is softmax-one, with -inf softmax.
    mask : bool Tensor, broadcastable to (B, H, Q, K), optional
        Which query sees which key; causal by default, where the last query sees the last key.
    scale : float, optional
        The factor of the logits; d^(-1/2) by default.

    Returns
    -------
    Tensor (B, H, Q, d_v)

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, or `mask` is not of bool.

    Notes
    -----
    The attention of gpt-oss. The sink is one more key, which every query meets in a dimension of its own, so that
    `scaled_dot_product_attention` and its backward pass do the work: no (Q, K) array is held by kernels that hold none.
    All four tensors get gradients.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import sink_attention
    >>> one = torch.ones(1, 1, 1, 4)
    >>> sink_attention(0 * one, one, one, torch.zeros(1)).flatten()  # half of the mass goes to the sink
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    key, value = _check(query, key, value)
    batch, heads, queries, size = query.shape
    if sink.shape != (heads,):
        raise ValueError(
            f"sink must have one logit for each of the {heads} heads, got shape {tuple(sink.shape)}; "
            f"sink.expand({heads}) repeats one"
        )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be a tensor of bool, True where a query sees a key, got {mask.dtype}; mask == 0 makes one of "
            "an additive mask, mask != 0 one of ones and zeros"
        )
    scale = size**-0.5 if scale is None else scale
    if mask is None and 1 < queries != key.shape[2]:
        mask = causal(queries, key.shape[2], query.device)
    # In two parts, so that the logit is as exact in half precision as those of the softmax.
    logit = (sink / scale).clamp(min=torch.finfo(query.dtype).min / 4)  # -inf, for no sink, would be nan below
    high = logit.to(query.dtype)
    parts = torch.stack([high, (logit - high.to(logit.dtype)).to(query.dtype)], -1).view(1, heads, 1, 2)
    ghost = pad(parts, (size, _EXTRA - 2)).expand(batch, heads, 1, size + _EXTRA)
    meets = pad(query.new_ones(2), (size, _EXTRA - 2))
    first = 1 if mask is None and queries > 1 else 0  # a row for the sink, so that the causal diagonal is in its place
    query = pad(query, (0, _EXTRA, first, 0)) + meets
    key = torch.cat([ghost, pad(key, (0, _EXTRA))], 2)
    wide = value.shape[-1]
    value = pad(value, (0, max(0, key.shape[-1] - wide), 1, 0))  # else PyTorch falls back to a kernel that holds (Q, K)
    if mask is not None:
        mask = pad(mask.expand(*mask.shape[:-1], key.shape[2] - 1), (1, 0), value=True)
    return sdpa(query, key, value, attn_mask=mask, is_causal=bool(first), scale=scale)[:, :, first:, :wide]


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    group: int,
    shifted: float = 0.25,
    sinks: int = 4,
    scale: float | None = None,
) -> Tensor:
    """Causal attention inside groups of tokens and to the first ones, for fine-tuning on long sequences.

    Parameters
    ----------
    query : Tensor (B, H, T, d)
    key, value : Tensor (B, H_kv, T, d), (B, H_kv, T, d_v)
        H is a multiple of H_kv.
    group : int
        The number of tokens in a group, even.
    shifted : float
        The share of the heads, the last ones, whose groups begin half a group earlier.
    sinks : int
        The number of first tokens that all see; at most half a group.
    scale : float, optional
        The factor of the logits; d^(-1/2) by default.

    Returns
    -------
    Tensor (B, H, T, d_v)
        The same as attention under `grouped_mask`, without an array of T × T: time and memory grow like T · group.

    Raises
    ------
    ValueError
        If an option is out of range or the shapes do not fit.

    Notes
    -----
    Our reading of SF-Attn of SinkLoRA (Zhang, 2024), whose code was not released. ``shifted=0.5, sinks=0`` is the
    S²-Attn of LongLoRA (Chen et al., 2024), but that nothing wraps around the ends.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import grouped_attention
    >>> x = torch.arange(4.0).view(1, 1, 4, 1)
    >>> grouped_attention(0 * x, x, x, group=2, shifted=0, sinks=1).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.6667])
    """
    key, value = _check(query, key, value)
    heads, length = query.shape[1:3]
    _check_groups(group, shifted, sinks)
    if key.shape[2] != length:
        raise ValueError(
            f"grouped_attention needs as many keys as queries, got {key.shape[2]} and {length}; it is for whole "
            "sequences, without a cache"
        )
    moved = _moved(heads, shifted)
    parts = []
    for own, first in ((slice(0, heads - moved), group), (slice(heads - moved, heads), group // 2)):
        if own.start < own.stop:
            cuts = [0, *range(first, length, group), length]
            parts.append(_by_group((query[:, own], key[:, own], value[:, own]), cuts, sinks, scale))
    return torch.cat(parts, 1)


def grouped_mask(
    length: int,
    heads: int,
    *,
    group: int,
    shifted: float = 0.25,
    sinks: int = 4,
    device: torch.device | str | None = None,
) -> Tensor:
    """What the heads of `grouped_attention` see: its definition.

    Parameters
    ----------
    length, heads : int
        The number of tokens and of heads.
    group, shifted, sinks
        As in `grouped_attention`.
    device : torch.device or str, optional
        Where the mask lies.

    Returns
    -------
    bool Tensor (heads, length, length)

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> from otkit.attention import grouped_mask
    >>> grouped_mask(4, 1, group=2, shifted=0, sinks=1)[0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 1, 1]], dtype=torch.int32)
    """
    _check_groups(group, shifted, sinks)
    at = torch.arange(length, device=device)
    delta = torch.zeros(heads, 1, dtype=torch.long, device=device)
    delta[heads - _moved(heads, shifted) :] = group // 2
    member = (at + delta) // group
    return ((member[:, :, None] == member[:, None]) | (at < sinks)) & (at[:, None] >= at)


def streaming_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    sinks: int,
    window: int,
    turn: Callable[[Tensor, Tensor], Tensor] | None = None,
    scale: float | None = None,
    block: int | None = None,
) -> Tensor:
    """What a stream of single tokens through a `SinkCache` computes, for all tokens at once.

    Parameters
    ----------
    query : Tensor (B, H, T, d)
    key, value : Tensor (B, H_kv, T, d), (B, H_kv, T, d_v)
        H is a multiple of H_kv.
    sinks, window : int
        Query t sees keys j < sinks and t − window < j ≤ t.
    turn : callable, optional
        ``turn(queries, shifts)`` turns the queries (B, H, n, d) by the positions of the int64 tensor (n,):
        ``Rotation(model).rows``. Sinks then are where they stand in the cache. By default they stay where they were.
    scale : float, optional
        The factor of the logits; d^(-1/2) by default.
    block : int, optional
        The number of queries at a time; it bounds the memory, and does not change the result beyond rounding.

    Returns
    -------
    Tensor (B, H, T, d_v)
        In time that grows like T · window.

    Raises
    ------
    ValueError
        If an option is out of range or the shapes do not fit.

    Notes
    -----
    StreamingLLM (Xiao et al., 2024). With a rotary embedding, logits depend on differences of positions. Sinks at their
    place in the cache are nearer to query t by the number of tokens that left, so the query is turned back by it.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import streaming_attention
    >>> x = torch.arange(4.0).view(1, 1, 4, 1)
    >>> streaming_attention(0 * x, x, x, sinks=1, window=2).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.6667])
    """
    at_least(sinks, 0, "sinks")
    at_least(window, 1, "window")
    _check(query, key, value)
    heads, length, size = query.shape[1:]
    if key.shape[2] != length:
        raise ValueError(
            f"streaming_attention needs as many keys as queries, got {key.shape[2]} and {length}; decode with a "
            "SinkCache"
        )
    scale = size**-0.5 if scale is None else scale
    shared = heads // key.shape[1]
    out = []
    for start in range(0, length, step := block or max(window, 128)):
        stop = min(start + step, length)
        low = max(0, start - window + 1)
        at, near = torch.arange(start, stop, device=query.device), torch.arange(low, stop, device=query.device)
        rows = query[:, :, start:stop]
        seen = (near <= at[:, None]) & (near > at[:, None] - window) & (near >= sinks)
        logits = _logits(rows, key[:, :, low:stop], shared).masked_fill(~seen, -torch.inf)
        values = value[:, :, low:stop]
        if sinks:
            gone = (at - (sinks + window - 1)).clamp(min=0)
            back = rows if turn is None else turn(rows, -gone)
            first = torch.arange(min(sinks, length), device=query.device)
            far = _logits(back, key[:, :, :sinks], shared).masked_fill(first > at[:, None], -torch.inf)
            logits, values = torch.cat([far, logits], -1), torch.cat([value[:, :, :sinks], values], 2)
        wide = torch.promote_types(logits.dtype, torch.float32)
        weights = torch.softmax(logits.to(wide) * scale, -1).to(value.dtype)
        out.append((weights @ values[:, :, None]).flatten(1, 2))
    return torch.cat(out, 2)


def _logits(query: Tensor, key: Tensor, shared: int) -> Tensor:
    """Inner products (B, H_kv, shared, Q, K) of heads that share their keys."""
    return query.unflatten(1, (-1, shared)) @ key[:, :, None].mT


def _check(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values for each head of the queries."""
    if not query.ndim == key.ndim == value.ndim == 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(
            f"query, key and value must be (batch, heads, tokens, size), got {shapes}; x[None] adds a batch of one"
        )
    heads, shared = query.shape[1], key.shape[1]
    if key.shape[:3] != value.shape[:3] or key.shape[0] != query.shape[0] or key.shape[3] != query.shape[3]:
        raise ValueError(
            f"key and value must agree in batch, heads and tokens, and key and query in batch and size, got "
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; the axes are (batch, "
            "heads, tokens, size)"
        )
    if heads % shared:
        raise ValueError(
            f"the heads of query must be a multiple of those of key, got {heads} and {shared}; heads are axis 1"
        )
    if heads == shared:
        return key, value
    return key.repeat_interleave(heads // shared, 1), value.repeat_interleave(heads // shared, 1)


def _check_groups(group: int, shifted: float, sinks: int) -> None:
    at_least(group, 2, "group")
    at_least(sinks, 0, "sinks")
    within_unit(shifted, "shifted")
    if group % 2:
        raise ValueError(f"group must be even, since groups are shifted by a half, got {group}; {group + 1} is")
    if sinks > group // 2:
        raise ValueError(f"sinks must be at most half a group of {group}, got {sinks}; raise group")


def _moved(heads: int, shifted: float) -> int:
    return round(shifted * heads)


def _by_group(qkv: tuple[Tensor, ...], cuts: list[int], sinks: int, scale: float | None) -> Tensor:
    """Attention inside ``[cuts[i], cuts[i + 1])`` and to the first tokens. Neighbours of one size are one batch."""
    batch = qkv[0].shape[0]
    sizes = [end - begin for begin, end in pairwise(cuts)]
    out, i = [], 0
    while i < len(sizes):
        own = sinks if i else 0  # the first group has the sinks in it
        j = i + 1
        while i and j < len(sizes) and sizes[j] == sizes[i]:
            j += 1
        parts = [x[:, :, cuts[i] : cuts[j]].unflatten(2, (j - i, sizes[i])).transpose(1, 2) for x in qkv]
        if own:
            ahead = [x[:, None, :, :own].expand(-1, j - i, -1, -1, -1) for x in qkv]
            parts = [torch.cat(pair, 3) for pair in zip(ahead, parts, strict=True)]
        query, key, value = (x.flatten(0, 1) for x in parts)
        found = sdpa(query, key, value, is_causal=True, scale=scale)[:, :, own:]
        out.append(found.unflatten(0, (batch, j - i)).transpose(1, 2).flatten(2, 3))
        i = j
    return torch.cat(out, 2)
