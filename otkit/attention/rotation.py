"""The rotary embedding of a model, as an operation on its keys."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor

from otkit.attention.models import text_config


class Rotation:
    """Turns rotated keys of a model from their position to another, with the model's own functions.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder of transformers with a rotary embedding.

    Raises
    ------
    ValueError
        If the model has no rotary embedding, or one whose rotations do not compose: those of the types dynamic and
        longrope depend on the length.

    Notes
    -----
    Rotations by positions p and s compose to p + s. Which part of a head is turned, and in which order, is up to the
    model. At construction, a few rotations are compared with their composition.

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
            raise ValueError(f"{type(model).__name__} rotates its keys in a way of its own, which cannot be repeated")
        self._memo: Any = (None, None)  # the shift of the last call, and its factors
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        far = 2 * (getattr(text, "max_position_embeddings", None) or 2048)
        reasons = []
        for self._wide in (1, 2):  # 2: cosine and sine hold each frequency once
            try:
                if self._composes(size, far):
                    return
                reasons.append("its rotations depend on the length (types dynamic, longrope)")
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                reasons.append(str(error).splitlines()[0])
        raise ValueError(f"the rotary embedding of {type(model).__name__} does not turn keys on: {reasons[0]}")

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
        """
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


def decoder_of(model: Any) -> Any:
    """The module of a model that owns the rotary embedding of its decoder."""
    text = text_config(model)
    for module in model.modules():
        if hasattr(module, "rotary_emb") and getattr(module, "config", None) is text:
            return module
    raise ValueError(f"model must have a rotary embedding, got {type(model).__name__}, which has none")
