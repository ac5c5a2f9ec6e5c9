"""The rotary embedding of a model, as an operation on its keys."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from otkit.attention.models import attentions, text_config


class _Caught(Exception):
    """Carries the keys that a layer would have stored."""


class _Catch:
    """Stands in for a cache, and ends the pass of a layer where it stores its keys."""

    def update(self, key_states: Tensor, *_: Any, **__: Any) -> Any:
        raise _Caught(key_states)


class Rotation:
    """Turns rotated keys of a model from their position to another, with the model's own functions.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers with a rotary embedding.

    Attributes
    ----------
    still : frozenset of int
        The layers of full attention that do not turn their keys, as some models have them.

    Raises
    ------
    ValueError, TypeError
        If the model has no rotary embedding, or one whose rotations do not compose: those of the types dynamic and
        longrope depend on the length. If a layer turns its keys in another way.

    Notes
    -----
    Rotations by positions p and s compose to p + s. Which part of a head is turned, and in which order, is up to the
    model. At construction, a few rotations are compared with their composition, and the keys of each layer of full
    attention at two positions with their rotation.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from otkit.attention import Rotation
    >>> rotation = Rotation(
    ...     LlamaForCausalLM(
    ...         LlamaConfig(
    ...             vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    ...         )
    ...     )
    ... )
    >>> key = torch.ones(1, 1, 1, 4)
    >>> bool(torch.allclose(rotation(rotation(key, 5), -5), key))
    True
    """

    def __init__(self, model: Any) -> None:
        text = text_config(model)
        owner = decoder_of(model)
        if getattr(text, "qk_rope_head_dim", None):
            raise ValueError("model must rotate its keys; latent attention (MLA) rotates a part of its own beside them")
        self._embedding = owner.rotary_emb
        takes = inspect.signature(self._embedding.forward).parameters
        self._kind = ("full_attention",) if "layer_type" in takes else ()
        self._apply: Any = getattr(sys.modules[type(owner).__module__], "apply_rotary_pos_emb", None)
        if self._apply is None:
            raise ValueError(
                f"{type(model).__name__} rotates its keys in a way of its own, which cannot be repeated; keep its own "
                "cache"
            )
        self._memo: Any = (None, None)  # the shift of the last call, and its factors
        self._check(model, text)
        self.still = self._unturned(model, text)

    def _check(self, model: Any, text: Any) -> None:
        """Refuse rotations that do not compose."""
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        far = 2 * (getattr(text, "max_position_embeddings", None) or 2048)
        reasons = []
        for self._wide in (1, 2):  # 2: cosine and sine hold each frequency once
            try:
                if self._composes(size, far):
                    return
                reasons.append("its rotations depend on the length (types dynamic, longrope)")
            except TypeError:
                reasons.append("its functions take arguments of their own")
            except (RuntimeError, ValueError, IndexError) as error:
                reasons.append(str(error).splitlines()[0])
        raise ValueError(
            f"the rotary embedding of {type(model).__name__} does not turn keys on: {reasons[0]}; keep its own cache"
        )

    def __call__(self, keys: Tensor, shift: int) -> Tensor:
        """Keys ``(..., H, T, d)`` as they are `shift` positions later.

        Parameters
        ----------
        keys : Tensor (B, H, T, d)
            Rotated keys.
        shift : int
            The number of positions, of either sign.

        Returns
        -------
        Tensor (B, H, T, d)
        """
        key = (shift, keys.dtype, keys.device)
        if self._memo[0] != key:
            self._memo = (key, self._factors(torch.tensor([shift], device=keys.device), keys.dtype))
        return self._turned(keys, *self._memo[1])

    def rows(self, x: Tensor, shifts: Tensor) -> Tensor:
        """Each of T rotated queries or keys, turned by a shift of its own.

        Parameters
        ----------
        x : Tensor (B, H, T, d)
            Rotated queries or keys.
        shifts : int64 Tensor (T,)
            The number of positions of each, of either sign.

        Returns
        -------
        Tensor (B, H, T, d)

        Raises
        ------
        ValueError
            If some layers are `still`, whose queries must not be turned.
        """
        if self.still:
            raise ValueError(
                f"the layers {sorted(self.still)} have no rotary embedding, so that their queries must not be turned; "
                "use a SinkCache, which tells layers apart"
            )
        return self._turned(x, *self._factors(shifts, x.dtype))

    def _factors(self, shifts: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine, without the constant by which some models multiply both."""
        like = torch.empty(1, 1, dtype=torch.float32, device=shifts.device)
        cos, sin = self._embedding(like, shifts[None], *self._kind)
        name = "full_attention_attention_scaling" if self._kind else "attention_scaling"
        constant = getattr(self._embedding, name, 1.0)
        return (cos / constant).to(dtype), (sin / constant).to(dtype)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        size = self._wide * cos.shape[-1]
        turned = self._apply(x[:, :, :0, :size] if cos.shape[1] == 1 else x[..., :size], x[..., :size], cos, sin)[1]
        return turned if size == x.shape[-1] else torch.cat([turned, x[..., size:]], -1)

    def _composes(self, size: int, far: int) -> bool:
        """Whether R(5)·R(p) = R(p + 5), nearby and far beyond the trained length."""
        self._memo = (None, None)
        device = next(self._embedding.buffers(), torch.empty(0)).device
        key = torch.linspace(-1.0, 1.0, size, device=device).view(1, 1, 1, size)
        for position in (7, far):
            atol = 1e-4 + 4 * position * 2.0**-24  # angles are products in float32
            if not torch.allclose(self(self(key, position), 5), self(key, position + 5), rtol=0, atol=atol):
                return False
        return True

    def _unturned(self, model: Any, text: Any) -> frozenset[int]:
        """The layers of full attention whose keys are the same at any position."""
        full = [type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers]
        found = set()
        for module in attentions(model):
            layer = module.layer_idx
            if not (layer < len(full) and full[layer]):
                continue
            here, later = self._keys(module, text.hidden_size, model.dtype).split(1)
            near = 32 * torch.finfo(here.dtype).eps * float(here.abs().max())
            if torch.allclose(self(here, 5), later, rtol=0, atol=near):
                continue
            if not torch.allclose(here, later, rtol=0, atol=near):
                raise ValueError(
                    f"layer {layer} of {type(model).__name__} turns its keys in a way of its own; keep its own cache"
                )
            found.add(layer)
        return frozenset(found)

    @torch.no_grad()
    def _keys(self, module: Any, size: int, dtype: torch.dtype) -> Tensor:
        """The keys (2, H, 1, d) that a layer stores of one state, at the positions 0 and 5."""
        device = next((p.device for p in module.parameters() if p.device.type != "meta"), torch.device("cpu"))
        state = torch.linspace(-1.0, 1.0, size, dtype=dtype, device=device).expand(2, 1, -1)
        at = torch.tensor([[0], [5]], device=next(self._embedding.buffers(), state).device)
        turns = self._embedding(state.to(at.device), at, *self._kind)
        given = {"hidden_states": state, "position_embeddings": tuple(x.to(device) for x in turns), "position_ids": at}
        given |= dict.fromkeys(("attention_mask", "alibi")) | dict.fromkeys(
            ("cache", "past_key_values", "layer_past"), _Catch()
        )
        try:
            module.forward(
                **{name: given[name] for name in inspect.signature(module.forward).parameters if name in given}
            )
        except _Caught as caught:
            return caught.args[0]
        raise ValueError(f"layer {module.layer_idx} stores no keys; keep the model's own cache")


def decoder_of(model: Any) -> Any:
    """The module of a model that owns the rotary embedding of its decoder."""
    text = text_config(model)
    for module in model.modules():
        if getattr(module, "rotary_emb", None) is not None and getattr(module, "config", None) is text:
            return module
    raise ValueError(
        f"model must have a rotary embedding, got {type(model).__name__}, which has none; keep its own cache"
    )
