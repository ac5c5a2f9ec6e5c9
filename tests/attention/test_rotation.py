"""Rotations of a model's keys, and layers that have none."""

import pytest
import torch
from torch.testing import assert_close

from otkit.attention import Rotation, SinkCache, attach, streaming_attention
from tests.attention.models import small, streamed, tokens

# Every fourth layer of SmolLM3 has no rotary embedding; of Cohere2 and EXAONE 4, those without a window.
MIXED = {
    "SmolLM3": {"no_rope_layers": [1, 0]},
    "Cohere2": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2},
    "Exaone4": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("kind", MIXED)
def test_keys_without_positions_are_not_turned(kind):
    model, ids = small(kind, **MIXED[kind]), tokens(2, 40)
    rotation = Rotation(model)
    assert rotation.still == {1}
    with pytest.raises(ValueError, match=r"the layers \[1\] have no rotary embedding"):
        rotation.rows(torch.zeros(1, 1, 1, 8), torch.zeros(1, dtype=torch.int64))
    cache = SinkCache(model, sinks=2, window=6)
    if cache.far:
        cache.far = 16
    replaced = [1] if kind != "SmolLM3" else [0, 1]  # layers with a window keep their attention
    order = iter(replaced)

    def attention(query, key, value, *, scale):
        turn = None if next(order) in rotation.still else Rotation.rows.__get__(every)
        return streaming_attention(query, key, value, scale=scale, sinks=2, window=6, turn=turn)

    every = Rotation(model)
    every.still = frozenset()
    with torch.no_grad(), attach(model, attention=attention):
        expected = model(ids, use_cache=False).logits
    assert_close(streamed(model, ids, cache), expected, rtol=0, atol=1e-3)
    assert cache.base > 0 or not cache.far


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_with_rotations_are_known_in_any_precision(dtype):
    assert Rotation(small("Qwen3", head_dim=8).to(dtype)).still == frozenset()
    assert Rotation(small("SmolLM3", num_hidden_layers=4).to(dtype)).still == {3}


def test_a_layer_that_turns_in_a_way_of_its_own_is_refused():
    model = small()
    attention = model.model.layers[1].self_attn
    before = attention.forward

    def forward(hidden_states, position_embeddings=None, attention_mask=None, cache=None, past_key_values=None):
        cos, sin = position_embeddings
        return before(hidden_states, (cos, -sin), attention_mask, cache or past_key_values)

    attention.forward = forward
    with pytest.raises(ValueError, match="layer 1 of LlamaForCausalLM turns its keys in a way of its own"):
        SinkCache(model)


@pytest.mark.parametrize("make", [Rotation, SinkCache])
def test_only_models_are_taken(make):
    with pytest.raises(TypeError, match="model must be a model of transformers, got Linear"):
        make(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"take arguments of their own|must have a rotary embedding"):
        make(small("GPTJ", n_embd=32, n_layer=2, n_head=4, rotary_dim=4))


def test_rows_turn_by_shifts_of_their_own():
    rotation = Rotation(small())
    keys = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    shifts = torch.tensor([0, 3, -7, 1000])
    expected = torch.cat([rotation(keys[:, :, i : i + 1], int(s)) for i, s in enumerate(shifts)], 2)
    assert_close(rotation.rows(keys, shifts), expected)
