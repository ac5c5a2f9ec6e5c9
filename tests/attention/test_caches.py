"""Streams through bounded caches, beside one parallel pass and beside full attention."""

import copy
import gc
from functools import partial

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import DynamicCache

from otkit.attention import HeavyHitterCache, Rotation, SinkCache, attach, streaming_attention
from tests.attention.models import cached, llava, maps, small, streamed, tokens

# Half-split, interleaved, partial and scaled rotations; one kind of layer and two.
FAMILIES = {
    "llama": {},
    "mistral": {"kind": "Mistral", "sliding_window": None},
    "qwen2": {"kind": "Qwen2"},
    "qwen3": {"kind": "Qwen3", "head_dim": 8},
    "phi": {"kind": "Phi", "partial_rotary_factor": 0.5},
    "phi3": {"kind": "Phi3"},
    "glm": {"kind": "Glm", "head_dim": 8},
    "glm4": {"kind": "Glm4", "head_dim": 8},
    "cohere": {"kind": "Cohere"},
    "gemma": {"kind": "Gemma", "head_dim": 8},
    "olmo2": {"kind": "Olmo2"},
    "stablelm": {"kind": "StableLm"},
    "starcoder2": {"kind": "Starcoder2", "sliding_window": None},
    "smollm3": {"kind": "SmolLM3"},
    "ernie4_5": {"kind": "Ernie4_5"},
    "granite": {"kind": "Granite"},
    "gpt_neox": {"kind": "GPTNeoX"},
    "qwen3_moe": {
        "kind": "Qwen3Moe", "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16
    },
    "mixtral": {"kind": "Mixtral", "num_local_experts": 4, "sliding_window": None},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64
        }
    },
    "gemma3": {
        "kind": "Gemma3Text", "head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]
    },
    "gemma3 full": {"kind": "Gemma3Text", "head_dim": 8, "layer_types": ["full_attention"] * 2},
}  # fmt: skip


@torch.no_grad()
def parallel(model, ids, sinks, window):
    turn = Rotation(model).rows
    attention = partial(streaming_attention, sinks=sinks, window=window, turn=turn)
    with attach(model, attention=attention):
        return model(ids, use_cache=False).logits


@torch.no_grad()
def full(model, ids):
    return model(ids, use_cache=False).logits


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_stream_of_single_tokens_is_one_parallel_pass(name):
    model, ids = small(**FAMILIES[name]), tokens(2, 60)
    found = streamed(model, ids, SinkCache(model, sinks=4, window=9))
    assert_close(found, parallel(model, ids, 4, 9), rtol=0, atol=1e-3)
    if name != "cohere":  # which scales its logits down
        assert (found - full(model, ids))[:, 13:].abs().max() > 1e-2
    moving = SinkCache(model, sinks=4, window=9)
    moving.far = None if moving.far is None else 24
    assert_close(streamed(model, ids, moving), found, rtol=0, atol=1e-3)
    assert moving.base > 0 or name == "gemma3"


@pytest.mark.parametrize(("sinks", "window"), [(0, 5), (1, 1), (12, 3), (1, 40)])
def test_sizes(sinks, window):
    model, ids = small(), tokens(2, 60)
    cache = SinkCache(model, sinks=sinks, window=window)
    assert_close(streamed(model, ids, cache), parallel(model, ids, sinks, window), rtol=0, atol=3e-4)
    assert cache.layers[0].keys.shape[2] == min(60, sinks + window)
    assert cache.get_seq_length() == 60


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "gemma2", "falcon"])
def test_without_eviction_it_is_full_attention(name):
    kinds = FAMILIES | {
        "gpt_oss": {
            "kind": "GptOss", "head_dim": 8, "sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1
        },
        "gemma2": {"kind": "Gemma2", "head_dim": 8, "sliding_window": 5},
        "falcon": {"kind": "Falcon", "alibi": False, "new_decoder_architecture": False, "multi_query": False},
    }  # fmt: skip
    model, ids = small(**kinds[name]), tokens(1, 30)
    cache = SinkCache(model, sinks=2, window=40)
    assert_close(streamed(model, ids, cache), full(model, ids), rtol=0, atol=5e-4)
    plain = [type(layer) for layer in DynamicCache(config=model.config).layers]
    for layer, own in zip(cache.layers, plain, strict=True):
        assert (type(layer) is own) == (own is not transformers.cache_utils.DynamicLayer)


@pytest.mark.parametrize("step", [2, 3, 5, 9, 30, 60])
def test_chunks_leave_the_same_first_layer(step):
    model, ids = small(), tokens(2, 60)
    single, chunks = (SinkCache(model, sinks=4, window=9) for _ in range(2))
    streamed(model, ids, single)
    streamed(model, ids, chunks, step)
    keys = []
    for cache in (single, chunks):
        layer = cache.layers[0]
        ring = layer.keys[:, :, 4:].roll(-layer.oldest, 2)
        at = layer.seen - layer.held  # sinks are where the last chunk saw them
        keys.append((cache.rotation(layer.first, at), ring))
    assert_close(keys[0], keys[1], rtol=0, atol=1e-5)


def test_single_tokens_after_chunks_go_on_with_the_stream():
    model, ids = small(), tokens(1, 40)
    cache = SinkCache(model, sinks=3, window=50)
    found = torch.cat([streamed(model, ids[:, :25], cache, 7), streamed(model, ids[:, 25:], cache)], 1)
    assert_close(found, full(model, ids), rtol=0, atol=1e-4)


def test_sinks_stand_before_the_window():
    """Moved sinks see a distance that does not depend on the length of the stream."""
    model = small()
    period = tokens(1, 10).repeat(1, 12)
    logits = streamed(model, period, SinkCache(model, sinks=1, window=10))
    assert_close(logits[:, 50:60], logits[:, 100:110], rtol=0, atol=2e-4)


def test_generation_is_the_loop_by_hand():
    model, ids = small(), tokens(2, 20)
    text = ids
    with torch.no_grad():
        cache = SinkCache(model, sinks=2, window=10)
        logits = model(ids, **cached(cache)).logits
        for _ in range(30):
            text = torch.cat([text, logits[:, -1:].argmax(-1)], 1)
            logits = model(text[:, -1:], **cached(cache)).logits
    found = generate(model, ids, SinkCache(model, sinks=2, window=10), 30)
    assert torch.equal(found, text)
    alone = generate(model, ids[:1], SinkCache(model, sinks=2, window=10), 30)
    assert torch.equal(found[:1], alone)


def generate(model, ids, cache, count, **options):
    return model.generate(ids, **cached(cache), max_new_tokens=count, do_sample=False, **options)


def test_a_second_round_goes_on_with_one_cache():
    model, ids = small(), tokens(1, 12)
    cache = SinkCache(model, sinks=2, window=10)
    first = generate(model, ids, cache, 10)
    second = generate(model, torch.cat([first, tokens(1, 6, seed=4)], 1), cache, 10)
    assert cache.get_seq_length() == 12 + 10 + 6 + 10 - 1
    assert second.shape == (1, 38)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(generate(model, ids, cache, 10), first)


@pytest.mark.parametrize("kind", [SinkCache, HeavyHitterCache])
def test_beams_are_reordered(kind):
    """With room for all tokens, beams are those of a cache that forgets nothing."""
    model, ids = small(), tokens(1, 6)
    cache = SinkCache(model, sinks=2, window=40) if kind is SinkCache else kind(model, heavy=30, recent=30)
    expected = generate(model, ids, DynamicCache(config=model.config), 12, num_beams=3)
    if kind is HeavyHitterCache:
        with attach(model, cache):
            found = generate(model, ids, cache, 12, num_beams=3)
    else:
        found = generate(model, ids, cache, 12, num_beams=3)
    assert torch.equal(found, expected)


def test_beams_beyond_the_window():
    model, ids = small(), tokens(1, 30)
    one = generate(model, ids, SinkCache(model, sinks=2, window=8), 12)
    two = generate(model, ids, SinkCache(model, sinks=2, window=8), 12, num_beams=2, num_return_sequences=2)
    assert two.shape == (2, 42)
    ranks = []
    for text in (one, two[:1]):
        with torch.no_grad():
            logits = streamed(model, text, SinkCache(model, sinks=2, window=8), 30)
        ranks.append(logits[0, 29:-1].log_softmax(-1).gather(-1, text[0, 30:, None]).sum())
    assert ranks[1] >= ranks[0] - 1e-3  # a wider search finds no worse text


def test_padding_positions_and_crops_are_refused():
    model, ids = small(), tokens(2, 8)
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[0, :3] = 0
    cache = SinkCache(model)
    with pytest.raises(ValueError, match="attention_mask with padding"):
        model(ids, attention_mask=mask, **cached(cache))
    with pytest.raises(ValueError, match="attention_mask with padding"):
        model.generate(ids, attention_mask=mask, **cached(cache), max_new_tokens=2)
    with pytest.raises(ValueError, match=r"from 0 on, got shape \(1, 8\) with \[3, 4, 5, 6\]"):
        model(ids, position_ids=torch.arange(3, 11)[None], **cached(cache))
    with torch.no_grad():
        model(ids, **cached(cache))
        with pytest.raises(ValueError, match="from 8 on"):
            model(ids, position_ids=torch.arange(8)[None], **cached(cache))
    with pytest.raises(ValueError, match="forgotten what a crop needs"):
        cache.crop(-2)
    assert not any(layer.is_croppable for layer in cache.layers)
    for options, words in [({"sinks": -1}, "sinks"), ({"window": 0}, "window"), ({"window": 2.5}, "whole number")]:
        with pytest.raises(ValueError, match=words):
            SinkCache(model, **options)


LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
UNFIT = {
    "gpt2": ({"kind": "GPT2", "n_embd": 32, "n_layer": 2, "n_head": 4}, "must have a rotary embedding"),
    "dynamic": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic, longrope"
    ),
    "longrope": (
        {
            "kind": "Phi3", "max_position_embeddings": 128, "original_max_position_embeddings": 32,
            "rope_parameters": LONG,
        },
        "dynamic, longrope",
    ),
    "mla": (
        {
            "kind": "DeepseekV2", "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
        },
        "MLA",
    ),
    "windows": (
        {"kind": "Gemma3Text", "head_dim": 8, "layer_types": ["sliding_attention"] * 2}, "layer of full attention"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_models_that_cannot_be_streamed(name):
    options, words = UNFIT[name]
    with pytest.raises(ValueError, match=words):
        SinkCache(small(**options))


def test_text_of_a_model_with_three_positions_streams_and_images_are_refused():
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={
            "vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids = transformers.Qwen2_5_VLForConditionalGeneration(config).eval(), tokens(2, 40)
    moving = SinkCache(model, sinks=4, window=9)
    moving.far = 24
    assert_close(streamed(model, ids, moving), parallel(model, ids, 4, 9), rtol=0, atol=1e-3)
    assert moving.base > 0
    expected = generate(model, ids[:, :6], DynamicCache(config=model.config), 8)
    assert torch.equal(generate(model, ids[:, :6], SinkCache(model, sinks=4, window=9), 8), expected)
    positions = torch.stack([torch.arange(6), torch.arange(6) // 2, torch.arange(6) % 2])[:, None]
    with pytest.raises(ValueError, match="needs position_ids from 0 on"):
        model(tokens(1, 6), position_ids=positions, **cached(SinkCache(model)))


def test_a_model_with_images_streams_its_text():
    model = llava()
    ids = tokens(1, 10).clamp(max=58)
    ids[:, 2:6] = 59
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    found = generate(model, ids, SinkCache(model, sinks=2, window=40), 8, pixel_values=images)
    assert torch.equal(found, generate(model, ids, DynamicCache(config=model.config), 8, pixel_values=images))


def test_a_dead_cache_leaves_the_model_alone():
    model = small()
    before = sum(len(module._forward_pre_hooks) for module in model.modules())
    cache = SinkCache(model)
    streamed(model, tokens(1, 3), cache)
    del cache
    gc.collect()
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == before


def test_two_caches_of_one_model_do_not_meet():
    model, ids = small(), tokens(1, 40)
    first, second = (SinkCache(model, sinks=2, window=8) for _ in range(2))
    found = []
    with torch.no_grad():
        for t in range(40):
            found.append(model(ids[:, t : t + 1], **cached(first)).logits)
            model(ids[:, 39 - t : 40 - t], **cached(second))
    assert_close(torch.cat(found, 1), parallel(model, ids, 2, 8), rtol=0, atol=3e-4)


@pytest.mark.parametrize("step", [1, 7])
def test_heavy_hitters_with_room_for_all_are_full_attention(step):
    model, ids = small(), tokens(2, 42)
    cache = HeavyHitterCache(model, heavy=21, recent=21)
    with attach(model, cache):
        assert_close(streamed(model, ids, cache, step), full(model, ids), rtol=0, atol=1e-4)


def test_heavy_hitters_are_those_that_received_most():
    """The first layer's kept keys, by a replay of its weights over growing sets of keys."""
    model, ids = small(num_hidden_layers=1), tokens(1, 40)
    cache = HeavyHitterCache(model, heavy=3, recent=4)
    with attach(model, cache):
        streamed(model, ids, cache)
    weights = maps(model, ids)[0, 0]  # (H, T, T), where queries and keys of one layer do not depend on what is kept
    kept = [[] for _ in range(2)]
    received = torch.zeros(2, 40)
    for t in range(40):
        for group in range(2):
            own = kept[group] = [*kept[group], t]
            for head in (2 * group, 2 * group + 1):
                row = weights[head, t, own]
                received[group, own] += row / row.sum()
            if len(own) > 7:
                old = sorted(own[:-4], key=lambda k, g=group: -float(received[g, k]))[:3]
                kept[group] = sorted(old) + own[-4:]
    layer = cache.layers[0]
    every = DynamicCache(config=model.config)
    streamed(model, ids, every, 40)
    for group in range(2):
        assert_close(layer.received[0, group], received[group, kept[group]], rtol=0, atol=1e-4)
        assert_close(layer.keys[0, group], every.layers[0].keys[0, group, kept[group]], rtol=0, atol=1e-5)
    assert kept[0] != kept[1]
    assert layer.keys.shape == (1, 2, 7, 8)


def test_heavy_hitters_outside_attach_are_refused():
    model, ids = small(), tokens(1, 5)
    cache = HeavyHitterCache(model, heavy=2, recent=2)
    with torch.no_grad():
        model(ids, **cached(cache))
        with pytest.raises(RuntimeError, match="inside attach"):
            model(ids[:, :1], **cached(cache))
    for options in ({"heavy": -1}, {"recent": 0}):
        with pytest.raises(ValueError, match="whole number"):
            HeavyHitterCache(model, **options)


def test_a_cache_can_be_reset_and_a_model_copied_beside_it():
    model, ids = small(), tokens(1, 9)
    cache = HeavyHitterCache(model, heavy=2, recent=2)
    with attach(model, cache):
        first = streamed(model, ids, cache)
        cache.reset()
        assert torch.equal(streamed(model, ids, cache), first)
    assert torch.equal(full(copy.deepcopy(model), ids), full(model, ids))
