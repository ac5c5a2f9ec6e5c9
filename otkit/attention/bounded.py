"""What bounded caches share: layers that forget, and a look at what the decoder is given."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from otkit.attention.rotation import decoder_of


class Layer(DynamicLayer):
    """A layer that forgets, and counts the tokens that it has seen."""

    is_croppable = False
    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.cache: Any = None  # weak reference to the cache

    def also(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change what belongs to the items of a batch beside keys and values."""
        raise NotImplementedError

    @property
    def held(self) -> int:
        """The number of tokens in the cache."""
        return self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0

    @property
    def behind(self) -> int:
        """The number of tokens in the cache that the next one sees."""
        return self.held

    def follow(self, count: int) -> None:
        """Refuse tokens of which the cache was not told, since positions and checks would be missing."""
        cache = self.cache()
        if cache.due != self.seen + count:
            kind = type(cache).__name__
            raise RuntimeError(
                f"{kind} serves whole passes of the model that it was made for; make a {kind} of the model that runs, "
                "or call reset() if a pass broke off"
            )

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        count = query_length.shape[0] if isinstance(query_length, Tensor) and query_length.ndim else int(query_length)
        return self.behind + count, self.seen - self.behind

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before

    def reset(self) -> None:
        super().reset()
        self.keys = self.values = None
        self.is_initialized, self.seen = False, 0

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self.also(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.also(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.also(lambda x: x[indices])

    def crop(self, *_: Any) -> None:
        raise ValueError("this cache has forgotten what a crop needs; assisted decoding does not work with it")


class Bounded(Cache):
    """A cache that replaces layers of full attention and watches what the decoder is given."""

    def __init__(self, model: Any, replacement: type[Layer], **options: Any) -> None:
        decoder = decoder_of(model)
        plain = DynamicCache(config=model.config).layers
        layers = [replacement(**options) if type(layer) is DynamicLayer else layer for layer in plain]
        super().__init__(layers=layers)
        self._decoder = weakref.ref(decoder)
        self._watch()
        if not self.bounded:
            raise ValueError(
                f"model must have a layer of full attention, got {type(model).__name__}, which has none: its own cache "
                "is bounded already; use that"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = copy.copy(self)
        memo[id(self)] = new
        new.layers = copy.deepcopy(self.layers, memo)
        new._watch()
        return new

    def _watch(self) -> None:
        """See what the decoder is given, for as long as this cache lives."""
        own = weakref.ref(self)

        def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            cache = own()
            if cache is None or not any(value is cache for value in (*args, *kwargs.values())):
                return None
            tokens = next(x for x in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
            return args, cache._before(tokens.shape[1], tokens.device, kwargs)

        self.due = -1  # the number of tokens seen after the pass that runs
        self.bounded: Sequence[Any] = [layer for layer in self.layers if isinstance(layer, Layer)]
        for layer in self.bounded:
            layer.cache = own
        decoder: Any = self._decoder()
        handle = decoder.register_forward_pre_hook(before, with_kwargs=True)
        weakref.finalize(self, handle.remove)

    def _before(self, count: int, device: torch.device, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Check what a forward pass is given."""
        seen, mask, at = self.bounded[0].seen, kwargs.get("attention_mask"), kwargs.get("position_ids")
        if not count:
            raise ValueError(
                f"{type(self).__name__} got no tokens after {seen} of its stream; call reset() for a new text"
            )
        if count > 1 or not seen:  # a look at numbers makes a GPU wait, so not at every token
            if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()):
                raise ValueError(
                    f"{type(self).__name__} cannot leave out tokens, got an attention_mask with padding; "
                    "stream sequences of one length, or one by one"
                )
            if at is not None and not bool((at == seen + torch.arange(count, device=device)).all()):
                raise ValueError(
                    f"{type(self).__name__} needs position_ids from {seen} on, got shape "
                    f"{tuple(at.shape)} with {at.flatten()[:4].tolist()}…; pass the tokens of one stream in order, "
                    "without position_ids"
                )
        self.due = seen + count
        return kwargs
