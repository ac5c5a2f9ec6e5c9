"""Attention of a transformers model, read or replaced while the model stays what it is."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from otkit.attention.maps import causal

_NAME = "otkit"
_HELD = 2**24  # weights held at a time

_ATTACHED: weakref.WeakKeyDictionary[nn.Module, Attachment] = weakref.WeakKeyDictionary()


class Reader:
    """What sees the attention weights of a model, layer by layer, and may give others back.

    Override `read`, and `hidden` if hidden states are wanted.

    Attributes
    ----------
    whole : bool
        True to see all rows of a layer in one call. By default they come in blocks, so that memory stays bounded.
    only : collection of int, or None
        The layers to see; all by default. Layers that no reader sees run as fast as without readers.

    Examples
    --------
    Print how much the last token attends to the first one:

    >>> from otkit.attention import Reader
    >>> class First(Reader):
    ...     def read(self, layer, weights, visible, first, last):
    ...         if last:
    ...             print(layer, weights[0, :, -1, 0].tolist())
    """

    whole = False
    only: Collection[int] | None = None

    def read(self, layer: int, weights: Tensor, visible: Tensor, first: int, last: bool) -> Tensor | None:
        """See a block of rows.

        Parameters
        ----------
        layer : int
            The index of the layer.
        weights : Tensor (B, H, rows, K)
            In float32 or wider.
        visible : bool Tensor (B or 1, H or 1, rows, K)
            Which query sees which key.
        first : int
            The index of the first row's token among the keys: 0 where a forward pass starts a sequence.
        last : bool
            Whether this is the last block of the layer.

        Returns
        -------
        Tensor (B, H, rows, K) or None
            The weights to use in place of these.
        """
        raise NotImplementedError

    def hidden(self, layer: int, states: Tensor) -> None:
        """See the hidden states ``(B, T, D)`` that enter a layer, before its weights."""


class Attachment:
    """A model with readers or another attention, until `close`; also a context manager.

    Attributes
    ----------
    model : PreTrainedModel
        The model.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from otkit.attention import SinkMeter, attach
    >>> sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> attachment = attach(LlamaForCausalLM(LlamaConfig(**sizes)), SinkMeter())
    >>> attachment.close()
    >>> attachment.model.config._attn_implementation  # its own again
    'sdpa'
    """

    def __init__(self, model: Any, readers: tuple[Reader, ...], attention: Callable[..., Tensor] | None) -> None:
        self.model, self.readers = model, readers
        self.function = None if attention is None else _Function(attention)
        text = text_config(model)
        self._modules = list(attentions(model))
        if not self._modules or not model._can_set_attn_implementation():
            raise ValueError(
                f"model must use the AttentionInterface of transformers, got {type(model).__name__}, which does not; a "
                "newer transformers may, else apply the functions of otkit.attention to its weights"
            )
        if any(module in _ATTACHED for module in self._modules):
            raise ValueError("the model is attached already; close that first, or pass all readers to one attach")
        layers = {module.layer_idx for module in self._modules}
        for reader in readers:
            if reader.only is not None and not layers >= set(reader.only):
                raise ValueError(
                    f"{type(reader).__name__} must be for layers of the model, {min(layers)} to {max(layers)}, got "
                    f"{sorted(reader.only)}; name layers by their indices in the model"
                )
        # The language model of a model of several: its other parts keep their attention.
        parts = (name for name in model.config.sub_configs if getattr(model.config, name, None) is text)
        self._part = next(parts, None)
        self._before = text._attn_implementation
        self._hooks: list[Any] = []
        try:
            for module in self._modules:
                _ATTACHED[module] = self
            self._set(_NAME)
            self._watch()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the model its own attention back. A second call does nothing."""
        attached = [module for module in self._modules if _ATTACHED.get(module) is self]
        if not attached:
            return
        for hook in self._hooks:
            hook.remove()
        for module in attached:
            del _ATTACHED[module]
        self._set(self._before)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, name: str) -> None:
        self.model.set_attn_implementation(name if self._part is None else {self._part: name})

    def reading(self, layer: int) -> list[Reader]:
        """The readers that see a layer."""
        return [reader for reader in self.readers if reader.only is None or layer in reader.only]

    def leaves(self, layer: int, sliding: bool, own: bool) -> bool:
        """Whether a layer runs as it is: `own` if it has what PyTorch's kernels have not."""
        if self.function is not None:
            return sliding and not self.function.takes_mask
        return not own and not self.reading(layer)

    def _watch(self) -> None:
        """Show readers the states that enter their layers."""
        for block in self.model.modules():
            layer = next((child.layer_idx for child in block.children() if child in self._modules), None)
            readers = [] if layer is None else self.reading(layer)
            readers = [reader for reader in readers if type(reader).hidden is not Reader.hidden]
            if readers:

                def before(_: nn.Module, args: Any, kwargs: Any, layer: Any = layer, readers: Any = readers) -> None:
                    for reader in readers:
                        reader.hidden(layer, args[0] if args else kwargs["hidden_states"])

                self._hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))


def attach(model: Any, *readers: Reader, attention: Callable[..., Tensor] | None = None) -> Attachment:
    """Read the attention weights of a transformers model, or compute its attention by another function.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers, or a model with one in it: then only the language model is touched.
    *readers : Reader
        What sees the weights of each layer, in this order, such as a `SinkMeter`.
    attention : callable, optional
        ``attention(query, key, value, *, scale)`` in place of the model's, such as
        ``partial(grouped_attention, group=2048)``. Shapes are those of `sink_attention`. If it takes `mask`, it gets a
        bool mask, or None for causal attention, and runs everywhere. If not, it replaces the attention of layers
        without a sliding window, for whole sequences. If it takes `sink`, it gets the model's own sink logits.

    Returns
    -------
    Attachment
        A context manager, which gives the model its own attention back, also after an exception; or call `close`.

    Raises
    ------
    ValueError, TypeError
        If neither or both of readers and `attention` are given; if `model` is not one of transformers, does not use the
        AttentionInterface, is attached already, or lacks a layer that a reader is for. In a forward pass: if weights
        are read under dropout, if the function cannot take the model's mask or sink logits, or if it is for whole
        sequences and gets some other.

    Notes
    -----
    Readers cost the memory of some rows of weights at a time, never of a (T, T) map. Under gradient checkpointing the
    backward pass runs layers again, so it has to be inside too, and readers see each sequence twice.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from otkit.attention import SinkMeter, attach
    >>> sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    >>> meter = SinkMeter()
    >>> with attach(model, meter):
    ...     logits = model(model.dummy_inputs["input_ids"] % 8).logits
    >>> meter.importance.shape  # layers, heads, tokens
    torch.Size([2, 2, 5])
    """
    if (attention is None) == (not readers):
        raise ValueError("attach takes either readers or attention=, got " + ("both" if readers else "neither"))
    for reader in readers:
        if not isinstance(reader, Reader):
            raise ValueError(
                f"readers must derive from otkit.attention.Reader, got {reader!r}; pass a function as attention="
            )
    return Attachment(model, readers, attention)


def text_config(model: Any) -> Any:
    """The configuration of the decoder of a model."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        raise TypeError(
            f"model must be a model of transformers, got {type(model).__name__}; pass the model that it wraps"
        )
    return config.get_text_config(decoder=True)


def attentions(model: Any) -> Iterator[Any]:
    """The modules of self-attention of the decoder of a model."""
    text = text_config(model)
    for module in model.modules():
        own = getattr(module, "config", None) is text and getattr(module, "layer_idx", None) is not None
        if own and hasattr(module, "is_causal") and not getattr(module, "is_cross_attention", False):
            yield module


class _Function:
    """A function of tensors in place of a model's attention, by what it takes."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        try:
            takes = inspect.signature(attention).parameters
        except ValueError:
            raise ValueError(
                f"attention must say what it takes, got {attention!r}, which has no signature; wrap it in a function"
            ) from None
        self.call, self.takes_mask, self.takes_sink = attention, "mask" in takes, "sink" in takes
        self.has_sink = self.takes_sink and takes["sink"].default is not inspect.Parameter.empty
        self.name = getattr(getattr(attention, "func", attention), "__name__", repr(attention))

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, sink: Tensor | None
    ) -> Tensor:
        given: dict[str, Any] = {"scale": scale}
        if self.takes_mask:
            given["mask"] = mask
        elif query.shape[2] != key.shape[2]:
            raise ValueError(
                f"{self.name} is for whole sequences, got {query.shape[2]} tokens after "
                f"{key.shape[2] - query.shape[2]} in a cache; call the model with use_cache=False"
            )
        elif mask is not None and not _padded_on_the_right(mask):
            raise ValueError(
                f"{self.name} is causal: it cannot leave out tokens on the left or in between, nor pack sequences; "
                "pad on the right"
            )
        if sink is not None:
            if not self.takes_sink:
                raise ValueError(f"the model has sink logits, which {self.name} does not take; attach sink_attention")
            given["sink"] = sink
        elif self.takes_sink and not self.has_sink:
            raise ValueError(f"{self.name} takes sink logits, and the model has none; bind them: partial(…, sink=…)")
        return self.call(query, key, value, **given)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention of transformers under our name."""
    attached = _ATTACHED.get(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    sink, softcap = kwargs.get("s_aux"), kwargs.get("softcap")
    own = sink is not None or softcap is not None
    if attached is None or attached.leaves(module.layer_idx, bool(kwargs.get("sliding_window")), own):
        if sink is not None:
            raise ValueError("the model has sink logits, which this attention does not take; attach sink_attention")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if attention_mask is None and query.shape[2] > 1:
        is_causal = kwargs.get("is_causal")
        if getattr(module, "is_causal", True) if is_causal is None else is_causal:
            key, value = (x[:, :, : query.shape[2]] for x in (key, value))  # an empty static cache has more slots
        else:
            attention_mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device)
    function = attached.function
    if function is not None:
        if softcap is not None:
            raise ValueError(
                f"the model caps its logits, which {function.name} does not; attach a function that takes softcap="
            )
        if dropout:
            raise ValueError(f"{function.name} has no attention dropout; set attention_dropout of the model to 0")
        out = function(query, key, value, scale, attention_mask, sink)
    else:
        if dropout:
            raise ValueError("weights cannot be read under attention dropout; call model.eval()")

        def weigh(rows: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
            return _weights(rows, keys, visible, scale, sink, softcap)

        out = _read(attached.reading(layer := module.layer_idx), layer, query, key, value, attention_mask, weigh)
    return out.transpose(1, 2).contiguous(), None


def _read(
    readers: list[Reader],
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    weigh: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Attention by weights that go through the readers, in blocks of rows."""
    batch, heads, queries, _ = query.shape
    if mask is not None and key.shape[2] > queries:
        filled = _filled(mask)
        key, value, mask = key[:, :, :filled], value[:, :, :filled], mask[..., :filled]
    keys, shared = key.shape[2], key.shape[1]
    whole = any(reader.whole for reader in readers)
    step = queries if whole else max(1, min(queries, _HELD // (batch * heads * keys)))
    at, out = torch.arange(keys, device=key.device), []
    for start in range(0, queries, step):
        stop, first = min(start + step, queries), start + keys - queries
        rows = at[first : first + stop - start, None]
        seen = (at <= rows)[None, None] if mask is None else mask[:, :, start:stop]
        weights = weigh(query[:, :, start:stop], key, seen)
        for reader in readers:
            changed = reader.read(layer, weights, seen, first, stop == queries)
            weights = weights if changed is None else changed
        grouped = weights.to(value.dtype).unflatten(1, (shared, -1))
        out.append((grouped @ value[:, :, None]).flatten(1, 2))
    return torch.cat(out, 2)


def _padded_on_the_right(mask: Tensor) -> bool:
    """Whether a mask is causal but for the last keys of each sequence."""
    queries, keys = mask.shape[-2:]
    real = mask[..., -1:, :]
    ends = bool((real[..., 1:] <= real[..., :-1]).all())
    return ends and bool((mask == (causal(queries, keys, mask.device) & real)).all())


def _filled(mask: Tensor) -> int:
    """How many keys there are: behind them, a cache of a fixed size has slots that no query sees."""
    queries, keys = mask.shape[-2:]
    if bool(mask[..., -1].any()):
        return keys
    empty = int(mask.flatten(0, -2).any(0).flip(0).to(torch.uint8).argmax())
    return max(queries, keys - empty)


def _weights(
    query: Tensor, key: Tensor, visible: Tensor, scale: float, sink: Tensor | None, softcap: float | None
) -> Tensor:
    """Softmax weights (B, H, rows, K) of some queries, 0 in a row that sees nothing."""
    logits = (query.unflatten(1, (key.shape[1], -1)) @ key[:, :, None].mT).flatten(1, 2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~visible, -torch.inf)
    if sink is not None:
        column = sink.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        return torch.softmax(torch.cat([logits, column], -1), -1)[..., :-1]
    return torch.softmax(logits, -1).nan_to_num(0.0)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)  # without it a model loses its causal mask
