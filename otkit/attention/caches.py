"""Caches of bounded size for streams of any length: sinks and a window, or the keys that received most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from otkit.attention.bounded import Bounded, Layer
from otkit.attention.maps import at_least
from otkit.attention.models import Reader
from otkit.attention.rotation import Rotation

_FAR = 2**15  # positions of a stream stay about below this, where angles in float32 are exact enough


class _SinkLayer(Layer):
    """Slots for the sinks, and a ring of the latest tokens behind them."""

    def __init__(self, sinks: int, window: int) -> None:
        super().__init__()
        self.sinks, self.window = sinks, window
        self.oldest = 0  # in the ring
        self.turns = True  # whether keys carry positions
        self.first: Tensor | None = None  # the sinks' keys as they came: turning them anew adds up no rounding

    @property
    def size(self) -> int:
        return self.sinks + self.window

    @property
    def behind(self) -> int:
        return min(self.seen, self.size - 1)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache, count = self.cache(), key_states.shape[-2]
        self.follow(count)
        shift = self.seen - self.behind - cache.base
        graph = key_states.requires_grad or value_states.requires_grad  # which writing in place would break
        if count == 1 and self.held == self.size and not graph:
            at, self.oldest = self.sinks + self.oldest, (self.oldest + 1) % self.window
            self.seen += 1
            self.keys.narrow(2, at, 1).copy_(key_states)
            self.values.narrow(2, at, 1).copy_(value_states)
            if self.sinks and self.turns:
                self.keys.narrow(2, 0, self.sinks).copy_(cache.turned(self, shift))
            return self.keys, self.values
        keys, values = self._extended(key_states, value_states)
        if self.sinks and self.turns:
            if self.first is None or self.first.shape[-2] < self.sinks:
                self._set_first(keys[:, :, : self.sinks].detach().clone())
            if shift + cache.base > 0:
                keys[:, :, : self.sinks] = cache.turned(self, shift)
        self.seen += count
        self.keys, self.values = (self._cut(x, x.shape[-2] - self.size).detach() for x in (keys, values))
        return keys, values

    def _extended(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Keys and values in order: what the next token sees, and the new ones."""
        held = [self.keys, self.values] if self.held else [x[:, :, :0] for x in new]
        if self.oldest:
            held = [torch.cat([x[:, :, : self.sinks], x[:, :, self.sinks :].roll(-self.oldest, -2)], -2) for x in held]
            self.oldest = 0
        return tuple(torch.cat([self._cut(x, self.held - self.behind), y], -2) for x, y in zip(held, new, strict=True))

    def _cut(self, x: Tensor, gone: int) -> Tensor:
        """Without the first tokens behind the sinks."""
        return x if gone <= 0 else torch.cat([x[:, :, : self.sinks], x[:, :, self.sinks + gone :]], -2)

    def _set_first(self, first: Tensor | None) -> None:
        self.first = first
        self.cache().changed()

    def rebase(self, shift: int, rotation: Rotation) -> None:
        """Count positions from `shift` later on."""
        if self.turns and self.held > self.sinks:
            self.keys[:, :, self.sinks :] = rotation(self.keys[:, :, self.sinks :], -shift)

    def reset(self) -> None:
        super().reset()
        self.oldest = 0
        self._set_first(None)

    def also(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.first is not None:
            self._set_first(change(self.first))


class SinkCache(Bounded):
    """The keys and values of the first tokens and of a window of the latest ones, for a stream of any length.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers with a rotary embedding.
    sinks : int
        The number of first tokens that stay.
    window : int
        The number of latest tokens, with the current one, as in `sliding_window` of transformers.

    Raises
    ------
    ValueError, TypeError
        If an option is out of range, or the model has no layer of full attention, no rotary embedding, or one that does
        not compose (see `Rotation`). In a forward pass: padding, positions that do not follow the stream's, and a crop.
    RuntimeError
        If another model is called with it, or the former pass broke off.

    Notes
    -----
    StreamingLLM (Xiao et al., 2024). Pass it as any cache: ``model.generate(..., cache=SinkCache(model))``, named
    ``past_key_values=`` before transformers 5.24. Time and memory of a token do not grow with the stream. What left the
    window is forgotten.

    Logits depend on differences of positions only. So the few sinks are turned to where they stand in the cache, and
    the window stays. A decoded token is written into one slot. Positions count from a base that moves up, which turns
    the window once in 32,768 tokens. A model with layers of another kind keeps absolute positions, good for about a
    million tokens in float32.

    The tokens of a chunk see all of the chunk before them, and what its first token sees: more than in a stream of
    single tokens, whose attention is `streaming_attention`.

    What is kept has no gradients: a backward pass goes through the tokens of one call. A copy by `copy.deepcopy` is a
    stream of its own, so that one prompt may have several continuations.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from otkit.attention import SinkCache
    >>> model = LlamaForCausalLM(
    ...     LlamaConfig(
    ...         vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    ...     )
    ... ).eval()
    >>> cache = SinkCache(model, sinks=1, window=7)
    >>> with torch.no_grad():
    ...     for token in range(100):
    ...         logits = model(torch.tensor([[token % 8]]), cache=cache).logits
    >>> cache.get_seq_length(), cache.layers[0].keys.shape
    (100, torch.Size([1, 2, 8, 4]))
    """

    def __init__(self, model: Any, *, sinks: int = 4, window: int = 1020) -> None:
        at_least(sinks, 0, "sinks")
        at_least(window, 1, "window")
        super().__init__(model, _SinkLayer, sinks=sinks, window=window)
        self.rotation = Rotation(model)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, _SinkLayer):
                layer.turns = index not in self.rotation.still
        self.base = 0  # the position from which those in the cache count
        self.far = _FAR if len(self.bounded) == len(self.layers) else None  # others need absolute positions
        self.changed()

    def __deepcopy__(self, memo: dict[int, Any]) -> SinkCache:
        new: SinkCache = super().__deepcopy__(memo)
        new.changed()
        return new

    def changed(self) -> None:
        """Forget turned sinks, of which some changed."""
        self._together: dict[Any, tuple[list[_SinkLayer], Tensor]] = {}
        self._turned: dict[Any, tuple[int, tuple[Tensor, ...]]] = {}

    def turned(self, layer: _SinkLayer, shift: int) -> Tensor:
        """The sinks' keys of a layer, turned by `shift`: those of all layers are turned at once."""
        first: Any = layer.first
        key = (first.shape, first.dtype, first.device)
        if key not in self._together:
            ready = [x for x in self.bounded if x.first is not None]
            same = [x for x in ready if (x.first.shape, x.first.dtype, x.first.device) == key]
            self._together[key] = same, torch.cat([x.first for x in same])
        layers, stacked = self._together[key]
        if key not in self._turned or self._turned[key][0] != shift:
            self._turned[key] = shift, self.rotation(stacked, shift).split(first.shape[0])
        return self._turned[key][1][layers.index(layer)]

    def reset(self) -> None:
        super().reset()
        self.base = 0

    def _before(self, count: int, device: torch.device, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = super()._before(count, device, kwargs)
        lead = self.bounded[0]
        if self.far is not None and lead.seen - self.base >= self.far:
            shift = lead.seen - self.base - min(lead.seen, lead.size)
            for layer in self.bounded:
                layer.rebase(shift, self.rotation)
            self.base += shift
            self._turned = {}
        if self.base:
            at = kwargs.get("position_ids")
            at = lead.seen + torch.arange(count, device=device)[None] if at is None else at
            kwargs["position_ids"] = at - self.base
        return kwargs


class _HeavyLayer(Layer):
    """Keys with what each has received so far."""

    def __init__(self, heavy: int, recent: int) -> None:
        super().__init__()
        self.heavy, self.recent = heavy, recent
        self.read_up_to = 0
        self.received: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.read_up_to != self.seen:
            raise RuntimeError("HeavyHitterCache reads attention weights; call the model inside attach(model, cache)")
        self.follow(key_states.shape[-2])
        self.seen += key_states.shape[-2]
        return super().update(key_states, value_states)

    def read(self, weights: Tensor, last: bool) -> None:
        """Add what keys receive (B, H, rows, K), and after the last rows forget those that received least."""
        if self.read_up_to == self.seen:  # a pass without this cache
            return
        new = weights.detach().unflatten(1, (self.keys.shape[1], -1)).sum((2, 3))
        if self.received is not None:
            new = new + pad(self.received, (0, new.shape[-1] - self.received.shape[-1]))
        self.received = new
        if not last:
            return
        self.read_up_to = self.seen
        self.keys, self.values = self.keys.detach(), self.values.detach()
        old = self.held - self.recent
        if self.held <= self.heavy + self.recent:
            return
        top = new[..., :old].topk(self.heavy, -1).indices.sort(-1).values
        latest = torch.arange(old, self.held, device=top.device).expand(*top.shape[:-1], -1)
        keep = torch.cat([top, latest], -1)
        self.received = new.gather(-1, keep)
        self.keys, self.values = (
            x.gather(-2, keep[..., None].expand(*keep.shape, x.shape[-1])) for x in (self.keys, self.values)
        )

    def reset(self) -> None:
        super().reset()
        self.read_up_to, self.received = 0, None

    def also(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.received is not None:
            self.received = change(self.received)


class HeavyHitterCache(Bounded, Reader):
    """The keys and values that received most so far, and those of the latest tokens.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers with a rotary embedding.
    heavy : int
        The number of keys that stay because of what they received, in each group of heads that share keys.
    recent : int
        The number of latest tokens that stay.

    Raises
    ------
    ValueError
        If an option is out of range, or the model has no layer of full attention or no rotary embedding. In a forward
        pass: padding, positions that do not follow the stream's, and a crop.
    RuntimeError
        If the model is called outside ``attach(model, cache)``, another model is called with it, or the former pass
        broke off.

    Notes
    -----
    H2O (Zhang et al., 2023). It is a reader too, since it sees the weights of each step:
    ``with attach(model, cache): model.generate(..., cache=cache)``. Positions are absolute. Tokens of one chunk see all
    of it; what received least leaves after the chunk.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from otkit.attention import HeavyHitterCache, attach
    >>> model = LlamaForCausalLM(
    ...     LlamaConfig(
    ...         vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    ...     )
    ... ).eval()
    >>> cache = HeavyHitterCache(model, heavy=2, recent=2)
    >>> with torch.no_grad(), attach(model, cache):
    ...     logits = model(torch.tensor([[0, 1, 2, 3, 4, 5]]), cache=cache).logits
    >>> cache.layers[0].keys.shape
    torch.Size([1, 2, 4, 4])
    """

    def __init__(self, model: Any, *, heavy: int = 512, recent: int = 512) -> None:
        at_least(heavy, 0, "heavy")
        at_least(recent, 1, "recent")
        super().__init__(model, _HeavyLayer, heavy=heavy, recent=recent)
        self.only = frozenset(i for i, layer in enumerate(self.layers) if isinstance(layer, _HeavyLayer))

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> None:
        own: Any = self.layers[layer]
        own.read(weights, last)
