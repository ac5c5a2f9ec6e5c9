"""Readers of attention weights: the sink metric, and the calibrations ACT and VAR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from otkit.attention.maps import at_least, massive_activation, moved, within_unit
from otkit.attention.models import Reader, attach


class SinkMeter(Reader):
    """Importance of keys and rate of sinks, for each layer and head.

    Parameters
    ----------
    eps : float
        A key with an importance above it is a sink.

    Raises
    ------
    ValueError
        If `eps` is not from 0 to 1; in a forward pass, if tokens are in a cache already.

    Notes
    -----
    The metric of Gu et al. (2025): see `importance` and `sink_rate`. All sequences seen while attached take part; keys
    are counted from each sequence's first token, and padding takes no part. It holds sums of the size layers × heads ×
    tokens, and never a map.

    Examples
    --------
    Read from a matrix; `attach` does it in a model:

    >>> import torch
    >>> from otkit.attention import SinkMeter
    >>> meter, weights = SinkMeter(), torch.tensor([[1.0, 0.0], [0.75, 0.25]])
    >>> meter.read(0, weights[None, None], weights[None, None] > 0, first=0, last=True)
    >>> meter.importance.tolist(), meter.rates.tolist()
    ([[[0.875, 0.25]]], [[[1.0, 0.0]]])
    """

    def __init__(self, eps: float = 0.3) -> None:
        within_unit(eps, "eps")
        self.eps = eps
        self._open: dict[int, tuple[Tensor, Tensor, list[Tensor]]] = {}
        self._sums: dict[int, Tensor] = {}

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> None:
        weights = weights.detach()
        batch, heads, rows, keys = weights.shape
        if first == 0:
            zeros = weights.new_zeros(batch, heads, keys)
            self._open[layer] = (zeros, zeros[:, :1].clone(), [])
        if layer not in self._open or first != sum(part.shape[1] for part in self._open[layer][2]):
            raise ValueError(
                "SinkMeter reads whole sequences, got tokens after others in a cache; call the model itself on whole "
                "sequences, without generate and without a cache that holds any"
            )
        received, seen, real = self._open[layer]
        real.append(_real(visible, first).expand(batch, rows))
        here = real[-1][:, None, :, None]
        received += weights.masked_fill(~here, 0.0).sum(-2)
        seen += (visible & here)[:, :1].sum(-2)
        if last:
            del self._open[layer]
            self._close(layer, received, seen, torch.cat(real, 1))

    def _close(self, layer: int, received: Tensor, seen: Tensor, real: Tensor) -> None:
        """Add a layer's importance, with keys counted from each first real token."""
        keys = received.shape[-1]
        start = real.to(torch.int64).argmax(1)
        at = ((torch.arange(keys, device=real.device) + start[:, None]) % keys)[:, None].expand_as(received)
        found, there = (received / seen.clamp(min=1)).gather(-1, at), (seen > 0).expand_as(received).gather(-1, at)
        sums = torch.stack([found.where(there, 0.0), (found > self.eps) & there, there]).sum(1, dtype=torch.float64)
        former = self._sums.get(layer)
        if former is not None:
            size = max(former.shape[-1], keys)
            sums = pad(former, (0, size - former.shape[-1])) + pad(sums, (0, size - keys))
        self._sums[layer] = sums

    @property
    def importance(self) -> Tensor:
        """Mean importance of each key over the sequences that have it, ``(layers, heads, tokens)``."""
        return self._mean(0)

    @property
    def rates(self) -> Tensor:
        """The share of sequences in which each key is a sink, ``(layers, heads, tokens)``."""
        return self._mean(1)

    @property
    def samples(self) -> int:
        """The number of sequences seen."""
        return int(next(iter(self._sums.values()))[2, 0, 0]) if self._sums else 0

    def rate(self, key: int = 0) -> float:
        """The share of heads and sequences in which a key is a sink."""
        return float(self.rates[..., key].mean())

    def _mean(self, row: int) -> Tensor:
        if not self._sums:
            raise ValueError("SinkMeter has read nothing yet; call the model inside attach(model, meter)")
        size = max(sums.shape[-1] for sums in self._sums.values())
        layers = (self._sums[layer] for layer in sorted(self._sums))
        sums = torch.stack([pad(own, (0, size - own.shape[-1])) for own in layers])
        return sums[:, row] / sums[:, 2].clamp(min=1)


def _real(visible: Tensor, first: int) -> Tensor:
    """Which rows are of tokens: padding does not see itself. (B or 1, rows)."""
    at = torch.arange(visible.shape[-2], device=visible.device)
    return visible[:, 0, at, first + at]


class ACT(Reader):
    """Attention calibration: some heads attend less to keys that receive much, save the first ones.

    Parameters
    ----------
    heads : mapping of int to sequence of int, optional
        The heads of each layer that are calibrated, by `choose_heads`; all by default, which makes models worse.
    beta : float
        The share of their weight that sinks keep, from 0 to 1.
    alpha : float
        A key is a sink if its importance over a prompt of N tokens is above alpha / N.
    threshold : float, optional
        An importance in place of alpha / N.
    protect : int
        The number of first keys that are no sinks.

    Raises
    ------
    ValueError
        If an option is out of range; in a forward pass, if the cache has forgotten tokens.

    Notes
    -----
    Yu et al. (2024), *Unveiling and Harnessing Hidden Attention Sinks*. The sinks of a prompt stay those of the tokens
    decoded after it. Later tokens of the prompt decide which keys are sinks, so that a loss on the prompt is no
    likelihood.

    The choice of heads is the method: on a small pretrained model, calibrating all heads makes the prediction worse.
    Choose them on one set, and report on another.

    Examples
    --------
    >>> from otkit.attention import ACT
    >>> calibrated = ACT({3: [0, 2], 4: [1]})  # attach(model, calibrated)
    """

    whole = True

    def __init__(
        self,
        heads: Mapping[int, Sequence[int]] | None = None,
        *,
        beta: float = 0.4,
        alpha: float = 5.0,
        threshold: float | None = None,
        protect: int = 1,
    ) -> None:
        within_unit(beta, "beta")
        at_least(protect, 0, "protect")
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}; 5 is usual")
        if threshold is not None:
            within_unit(threshold, "threshold")
        self.heads = None if heads is None else {layer: tuple(own) for layer, own in heads.items()}
        self.only = self.heads
        self.beta, self.alpha, self.threshold, self.protect = beta, alpha, threshold, protect
        self._sinks: dict[int, Tensor] = {}
        self._keys: dict[int, int] = {}  # of each layer, up to the last row that was read

    def of(self, heads: Mapping[int, Sequence[int]]) -> ACT:
        """The same calibration of other heads."""
        return ACT(heads, beta=self.beta, alpha=self.alpha, threshold=self.threshold, protect=self.protect)

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> Tensor | None:
        keys = weights.shape[-1]
        if first == 0 or layer not in self._sinks:
            self._sinks[layer] = self.sinks(weights, visible, first)
        elif first != self._keys[layer]:
            raise ValueError(
                f"ACT needs a cache that keeps all tokens in order, got {keys} keys in layer {layer} after "
                f"{self._keys[layer]}; leave layers with a sliding window out of heads"
            )
        self._keys[layer] = keys
        sinks = self._sinks[layer]
        sinks = pad(sinks, (0, keys - sinks.shape[-1]))
        if self.heads is not None:
            chosen = torch.zeros(weights.shape[1], dtype=torch.bool, device=weights.device)
            chosen[list(self.heads[layer])] = True
            sinks = sinks & chosen[:, None]
        sinks = sinks[..., None, :]
        return moved(weights, sinks, ~sinks, 1 - self.beta)

    def sinks(self, weights: Tensor, visible: Tensor, first: int = 0) -> Tensor:
        """The sinks among the keys of a prompt, bool ``(B, H, K)``."""
        real = _real(visible, first)[:, None, :, None]
        received = weights.masked_fill(~real, 0.0).sum(-2) / (visible & real).sum(-2).clamp(min=1)
        there = visible.any(-2)
        low = self.alpha / there.sum(-1, keepdim=True) if self.threshold is None else self.threshold
        start = there.to(torch.uint8).argmax(-1, keepdim=True)  # behind padding on the left
        return (received > low) & (torch.arange(weights.shape[-1], device=weights.device) >= start + self.protect)


class _Later(Reader):
    """Which heads have sinks that `ACT` would calibrate."""

    whole = True

    def __init__(self, act: ACT) -> None:
        self.act = act
        self.heads: dict[int, Tensor] = {}

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> None:
        if first == 0:
            found = self.act.sinks(weights, visible).any(-1).any(0)
            self.heads[layer] = found | self.heads.get(layer, found)


def choose_heads(
    model: Any, score: Callable[[], float], *, act: ACT | None = None, layers: Sequence[int] | None = None
) -> dict[int, list[int]]:
    """The heads whose calibration by `ACT` improves a score.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers.
    score : callable
        Runs the model on a calibration set and returns a number; higher is better.
    act : ACT, optional
        The calibration; its `heads` are not used. ``ACT()`` by default.
    layers : sequence of int, optional
        The layers to try; all by default.

    Returns
    -------
    dict of int to list of int
        For ``ACT(heads)``: the heads that alone beat the model as it is.

    Raises
    ------
    ValueError
        As `attach`; if `score` does not run the model or returns no finite number, or a layer does not exist.

    Notes
    -----
    One call of `score` for the model as it is, and one for each head that has a sink to calibrate; the others cannot
    change it. The best of many heads is better on the set it was chosen on than elsewhere, so evaluate on another set.

    Examples
    --------
    >>> from otkit.attention import ACT, attach, choose_heads
    >>> def calibrate(model, calibration_set, evaluate):
    ...     heads = choose_heads(model, lambda: evaluate(model, calibration_set))
    ...     return attach(model, ACT(heads))
    """
    act = ACT() if act is None else act
    later = _Later(act)
    with attach(model, later):
        base = score()
    if not later.heads or not math.isfinite(base):
        raise ValueError(
            f"score must run the model on prompts and return a finite number, got {base!r}; run it without a cache "
            "that holds tokens, and leave out prompts without a number"
        )
    layers = sorted(later.heads) if layers is None else layers
    if not later.heads.keys() >= set(layers):
        raise ValueError(
            f"layers must be among those that were run, {sorted(later.heads)}, got {list(layers)}; drop the others"
        )
    chosen: dict[int, list[int]] = {}
    for layer in layers:
        for head in later.heads[layer].nonzero().flatten().tolist():
            with attach(model, act.of({layer: [head]})):
                better = score() > base
            if better:
                chosen.setdefault(layer, []).append(head)
    return chosen


class VAR(Reader):
    """Visual attention redistribution: text attends less to sinks among visual tokens, and more to the others.

    Parameters
    ----------
    visual : bool Tensor (B, T)
        The visual tokens of the prompt.
    dims : sequence of int, or Tensor
        The dimensions in which sinks are massive: see `massive_dims`.
    tau : float
        A token is a sink if its `massive_activation` is at least this.
    rho : float
        Heads are calibrated in rows whose visual weight lies outside sinks for at least this share.
    share : float
        The share of the sinks' weight that is moved to the other visual tokens, from 0 to 1. The released code of the
        method has a parameter p that is 1 − share.
    min_mass : float
        The least visual weight of such a row.
    layers : sequence of int, optional
        The layers to calibrate; all by default.

    Raises
    ------
    ValueError, TypeError
        If an option is out of range, or `visual` is no bool tensor (B, T).

    Notes
    -----
    Kang et al. (2025), *See What You Are Told: Visual Attention Sink in Large Multimodal Models*. `tau` does not carry
    over between models: look at `massive_activation` of the model's states first.

    Examples
    --------
    >>> import torch
    >>> from otkit.attention import VAR
    >>> reader = VAR(torch.tensor([[False, True, True, False]]), dims=[1415, 2533])  # attach(model, reader)
    """

    def __init__(
        self,
        visual: Tensor,
        dims: Tensor | Sequence[int],
        *,
        tau: float = 20.0,
        rho: float = 0.5,
        share: float = 0.6,
        min_mass: float = 0.2,
        layers: Sequence[int] | None = None,
    ) -> None:
        for value, name in ((rho, "rho"), (share, "share"), (min_mass, "min_mass")):
            within_unit(value, name)
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}; 20 is usual")
        if not isinstance(visual, Tensor) or visual.dtype != torch.bool:
            raise TypeError(
                f"visual must be a bool tensor, got {getattr(visual, 'dtype', type(visual).__name__)}; "
                "input_ids == image_token_id is one"
            )
        if visual.ndim != 2:
            raise ValueError(
                f"visual must be (B, T), got shape {tuple(visual.shape)}; visual[None] adds a batch of one"
            )
        self.visual, self.dims = visual, [int(d) for d in dims]
        self.tau, self.rho, self.share, self.min_mass = tau, rho, share, min_mass
        self.only = None if layers is None else frozenset(layers)
        self._sinks: dict[int, Tensor] = {}

    def hidden(self, layer: int, states: Tensor) -> None:
        new = massive_activation(states, self.dims) >= self.tau
        if states.shape[1] == self.visual.shape[1]:
            self._sinks[layer] = new
        elif layer in self._sinks:
            self._sinks[layer] = torch.cat([self._sinks[layer], new], -1)
        else:
            raise ValueError(
                f"visual must have the shape of the prompt, got {tuple(self.visual.shape)} for states of shape "
                f"{tuple(states.shape)}; pass one bool for each token, image tokens included"
            )

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> Tensor | None:
        keys, rows = weights.shape[-1], slice(first, first + weights.shape[-2])
        if self._sinks[layer].shape != (self.visual.shape[0], keys):
            raise ValueError(
                f"VAR has seen {tuple(self._sinks[layer].shape)} tokens, and there are {keys} keys; "
                "make a VAR for each prompt, and feed all of its tokens"
            )
        visual = pad(self.visual.to(weights.device), (0, keys - self.visual.shape[-1]))
        after = visual.cumsum(-1) > 0
        text = (~visual & after)[:, None, rows, None]
        sinks, others = ((visual & own)[:, None, None] for own in (self._sinks[layer], ~self._sinks[layer]))
        mass = weights.masked_fill(~visual[:, None, None], 0.0).sum(-1, keepdim=True)
        kept = weights.masked_fill(~others, 0.0).sum(-1, keepdim=True)
        on = text & (mass >= self.min_mass) & (kept >= self.rho * mass)
        return torch.where(on, moved(weights, sinks, others, self.share), weights)
