"""Small random models of transformers, and what differs between its versions."""

from __future__ import annotations

import inspect

import torch
import transformers
from transformers import AutoModelForCausalLM

_SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def small(kind: str = "Llama", **changes) -> torch.nn.Module:
    """A model of a kind with weights of seed 0, ready to be evaluated."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(_SMALL | changes))
    return AutoModelForCausalLM.from_config(config).eval()


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 60, shape, generator=torch.Generator().manual_seed(seed))


def cached(cache: object) -> dict[str, object]:
    """The argument of a forward pass for a cache, by its name in this version."""
    takes = inspect.signature(transformers.LlamaForCausalLM.forward).parameters
    return {"cache" if "cache" in takes else "past_key_values": cache}


@torch.no_grad()
def streamed(model: torch.nn.Module, ids: torch.Tensor, cache: object, step: int = 1) -> torch.Tensor:
    """Logits of tokens that come `step` at a time."""
    parts = [model(ids[:, t : t + step], **cached(cache)).logits for t in range(0, ids.shape[1], step)]
    return torch.cat(parts, 1)


def maps(model: torch.nn.Module, ids: torch.Tensor, **options) -> torch.Tensor:
    """All attention weights, (layers, B, H, T, T), by the model's own eager attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = torch.stack(model(ids, output_attentions=True, **options).attentions)
    model.set_attn_implementation(before)
    return found


def llava() -> torch.nn.Module:
    """A model of images and text, whose image takes 4 tokens of id 59."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, image_size=8, patch_size=4),
        text_config=transformers.LlamaConfig(**_SMALL),
        image_token_index=59,
        vision_feature_layer=-1,
    )
    return transformers.LlavaForConditionalGeneration(config).eval()
