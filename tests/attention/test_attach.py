"""Attention of models, read and replaced, beside their own eager attention."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertModel, DynamicCache, StaticCache

from otkit.attention import Reader, attach, grouped_attention, models, sink_attention
from tests.attention.models import cached, llava, maps, small, streamed, tokens


class Keep(Reader):
    """Keeps all weights, and what it was shown beside them."""

    def __init__(self):
        self.blocks, self.states = [], []

    def read(self, layer, weights, visible, first, last):
        self.blocks.append((layer, first, weights.shape[-2], last, weights))

    def hidden(self, layer, states):
        self.states.append((layer, states))

    def maps(self):
        layers = sorted({layer for layer, *_ in self.blocks})
        return torch.stack([torch.cat([b[-1] for b in self.blocks if b[0] == layer], 2) for layer in layers])


@torch.no_grad()
def read(model, *readers, **inputs):
    with attach(model, *readers):
        return model(**inputs).logits


KINDS = {
    "llama": {},
    "gemma2": {"kind": "Gemma2", "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "gpt_oss": {"kind": "GptOss", "head_dim": 8, "sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt_neox": {"kind": "GPTNeoX"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, 1])
def test_readers_see_the_weights_of_eager_attention(kind, rows, monkeypatch):
    model, ids, reader = small(**KINDS[kind]), tokens(2, 12), Keep()
    if rows:
        monkeypatch.setattr(models, "_HELD", rows)
    model.set_attn_implementation("eager")
    expected, logits = maps(model, ids), model(ids).logits.detach()
    found = read(model, reader, input_ids=ids)
    assert_close(found, logits, rtol=0, atol=5e-5)
    assert_close(reader.maps(), expected, rtol=0, atol=5e-6)
    if rows:
        assert [(first, n, last) for layer, first, n, last, _ in reader.blocks if layer == 1] == [
            (t, 1, t == 11) for t in range(12)
        ]


def test_rows_after_a_cache_are_counted_among_the_keys():
    model, ids, reader = small(), tokens(1, 9), Keep()
    cache = DynamicCache(config=model.config)
    streamed(model, ids[:, :6], cache, 6)
    read(model, reader, input_ids=ids[:, 6:], **cached(cache))
    assert [(first, n, w.shape[-1]) for _, first, n, _, w in reader.blocks] == [(6, 3, 9)] * 2
    assert_close(reader.maps(), maps(model, ids)[..., 6:, :], rtol=0, atol=5e-6)


def test_padding_takes_no_part():
    model, ids, reader = small(), tokens(2, 9), Keep()
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :4] = 0
    read(model, reader, input_ids=ids, attention_mask=mask)
    assert_close(reader.maps()[:, 0, :, 4:, 4:], maps(model, ids[:1, 4:])[:, 0], rtol=0, atol=5e-6)


def test_a_static_cache_has_more_slots_than_tokens():
    model, ids, reader = small(), tokens(1, 6), Keep()
    with attach(model, reader):
        found = model.generate(ids, cache_implementation="static", max_new_tokens=4, do_sample=False)
    assert torch.equal(found, model.generate(ids, max_new_tokens=4, do_sample=False))


def test_slots_of_a_static_cache_behind_the_tokens_are_no_keys():
    model, ids, reader = small(), tokens(2, 6), Keep()
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, :2] = 0
    with torch.no_grad(), attach(model, reader):
        model(ids, attention_mask=mask, **cached(StaticCache(config=model.config, max_cache_len=20)))
    assert [(first, n, w.shape[-1]) for _, first, n, _, w in reader.blocks] == [(0, 6, 6)] * 2
    assert_close(reader.maps()[:, 0, :, 2:, 2:], maps(model, ids[:1, 2:])[:, 0], rtol=0, atol=5e-6)


def test_an_encoder_sees_both_sides():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model, ids = BertModel(BertConfig(vocab_size=60, **shape)).eval(), tokens(2, 9)
    expected, reader = model(ids).last_hidden_state.detach(), Keep()
    with torch.no_grad(), attach(model, reader):
        assert_close(model(ids).last_hidden_state, expected, rtol=0, atol=1e-5)
    assert_close(reader.maps(), maps(model, ids), rtol=0, atol=5e-6)
    with attach(model, attention=partial(grouped_attention, group=4)), pytest.raises(ValueError, match="is causal"):
        model(ids)


def test_a_model_under_gradient_checkpointing():
    model, ids = small().train(), tokens(2, 12)
    leaf = model.model.layers[0].self_attn.q_proj.weight
    found = []
    for enabled in (False, True):
        if enabled:
            name = "activation_checkpointing_enable"  # since transformers 5.24
            getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
        with attach(model, attention=partial(grouped_attention, group=4, sinks=1)):
            found.append(torch.autograd.grad(model(ids, use_cache=False).logits.square().mean(), leaf)[0])
    assert_close(*found)


def test_readers_give_weights_to_each_other_in_order():
    class Double(Reader):
        def read(self, layer, weights, visible, first, last):
            return 2 * weights

    model, ids, after = small(), tokens(1, 5), Keep()
    read(model, Double(), after, input_ids=ids)
    assert_close(after.maps()[0], 2 * maps(model, ids)[0])
    with attach(model, Double()):
        doubled = model.model.layers[0].self_attn
        states = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
        turns = model.model.rotary_emb(states, torch.arange(5)[None])
        twice = doubled(states, position_embeddings=turns, attention_mask=None)[0]
    once = model.model.layers[0].self_attn(states, position_embeddings=turns, attention_mask=None)[0]
    assert_close(twice, 2 * once)


@pytest.mark.parametrize("kind", ["Llama", "GPTNeoX"])
def test_hidden_states_are_those_that_enter_a_layer(kind):
    model, ids, reader = small(kind), tokens(1, 5), Keep()
    read(model, reader, input_ids=ids)
    expected = model(ids, output_hidden_states=True).hidden_states
    assert [layer for layer, _ in reader.states] == [0, 1]
    for layer, states in reader.states:
        assert_close(states, expected[layer], rtol=0, atol=5e-5)


def test_gradients_flow_through_read_weights():
    model, ids = small(), tokens(1, 6)
    leaf = model.model.layers[0].self_attn.q_proj.weight
    expected = torch.autograd.grad(model(ids).logits.square().mean(), leaf)[0]
    with attach(model, Keep()):
        found = torch.autograd.grad(model(ids).logits.square().mean(), leaf)[0]
    assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_model_is_restored_also_after_an_exception():
    model, ids = small(), tokens(1, 5)
    before, logits = model.config._attn_implementation, model(ids).logits

    class Fails(Reader):
        def read(self, *_):
            raise KeyError

        def hidden(self, *_):
            pass

    with pytest.raises(KeyError), attach(model, Fails()):
        model(ids)
    assert model.config._attn_implementation == before
    assert not models._ATTACHED
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids).logits, logits)
    attached = attach(model, Keep())
    attached.close()
    attached.close()
    assert model.config._attn_implementation == before


def test_closing_twice_leaves_a_later_attachment():
    model = small()
    first = attach(model, Keep())
    first.close()
    with attach(model, Keep()):
        first.close()
        assert model.config._attn_implementation == "otkit"


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_a_reader_of_some_layers(kind):
    """Layers that nobody reads run as they are, and those with sink logits by their weights all the same."""
    model, ids = small(**KINDS[kind]), tokens(2, 12)
    first, every = Keep(), Keep()
    first.only = {1}
    expected = model(ids).logits.detach()
    assert_close(read(model, first, input_ids=ids), expected, rtol=0, atol=5e-5)
    assert {layer for layer, *_ in first.blocks} == {layer for layer, _ in first.states} == {1}
    first.blocks.clear()
    read(model, first, every, input_ids=ids)
    assert {layer for layer, *_ in first.blocks} == {1}
    assert {layer for layer, *_ in every.blocks} == {0, 1}
    first.only = {1, 2}
    with pytest.raises(ValueError, match=r"Keep must be for layers of the model, 0 to 1, got \[1, 2\]"):
        attach(model, first)
    assert model.config._attn_implementation != "otkit"


def test_only_the_language_model_of_several_is_touched():
    model = llava()
    vision = model.config.vision_config._attn_implementation
    with attach(model, Keep()):
        assert model.config.text_config._attn_implementation == "otkit"
        assert model.config.vision_config._attn_implementation == vision != "otkit"


def test_sink_logits_of_gpt_oss_on_fast_kernels():
    model, ids = small(**KINDS["gpt_oss"]), tokens(2, 14)
    leaf = model.model.layers[0].self_attn.sinks
    expected = model(ids)
    gradient = torch.autograd.grad(expected.logits.square().mean(), leaf)[0]
    with attach(model, attention=sink_attention):
        found = model(ids)
        assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
        assert_close(torch.autograd.grad(found.logits.square().mean(), leaf)[0], gradient, rtol=1e-4, atol=1e-4)
        stream = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(stream, model.generate(ids, max_new_tokens=8, do_sample=False))


def test_grouped_attention_trains_a_model_with_padding_on_the_right():
    model, ids = small(), tokens(2, 20)
    mask = torch.ones(2, 20, dtype=torch.int64)
    mask[1, 15:] = 0
    with attach(model, attention=partial(grouped_attention, group=8)):
        logits = model(ids, attention_mask=mask, use_cache=False).logits
        assert_close(logits[1:, :15], model(ids[1:, :15], use_cache=False).logits, rtol=0, atol=1e-4)
        logits.square().mean().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_layers_with_a_window_keep_their_attention():
    model, ids = small("Gemma3Text", head_dim=8, sliding_window=5, layer_types=["sliding_attention"] * 2), tokens(1, 12)
    expected = model(ids).logits
    with attach(model, attention=partial(grouped_attention, group=2, sinks=0)):
        assert_close(model(ids, use_cache=False).logits, expected, rtol=0, atol=1e-5)


def test_a_function_with_a_mask_runs_everywhere():
    def plain(query, key, value, *, scale, mask=None):
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        causal = mask is None and query.shape[2] > 1
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale)

    model, ids = small("Gemma3Text", head_dim=8, sliding_window=5), tokens(2, 12)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :4] = 0
    expected = model(ids, attention_mask=mask).logits
    with attach(model, attention=plain):
        found = model(ids, attention_mask=mask).logits
        assert_close(found[1], expected[1], rtol=0, atol=1e-5)
        assert_close(found[0, 4:], expected[0, 4:], rtol=0, atol=1e-5)
        model.generate(ids, max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize(
    "attention", [sink_attention, partial(grouped_attention, group=8)], ids=["sink_attention", "grouped_attention"]
)
def test_no_mass_above_the_diagonal(attention):
    kind = "gpt_oss" if attention is sink_attention else "llama"
    model, ids = small(**KINDS[kind]), tokens(1, 20)
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 60
    with torch.no_grad(), attach(model, attention=attention):
        before, after = (model(x, use_cache=False).logits[:, :12] for x in (ids, other))
    assert torch.equal(before, after)


def test_refusals():
    model, ids = small(), tokens(1, 6)
    grouped = partial(grouped_attention, group=4, sinks=1)
    with pytest.raises(ValueError, match="either readers or attention=, got neither"):
        attach(model)
    with pytest.raises(ValueError, match="either readers or attention=, got both"):
        attach(model, Keep(), attention=grouped)
    with pytest.raises(ValueError, match="pass a function as attention="):
        attach(model, grouped)
    with pytest.raises(TypeError, match="model must be a model of transformers, got Linear"):
        attach(torch.nn.Linear(2, 2), Keep())
    with pytest.raises(ValueError, match="has no signature; wrap it in a function"):
        attach(model, attention=torch.nn.functional.scaled_dot_product_attention)
    with attach(model, Keep()), pytest.raises(ValueError, match="attached already"):
        attach(model, Keep())
    with pytest.raises(ValueError, match="does not"):
        attach(small("Falcon", num_kv_heads=2), Keep())
    with attach(model, attention=grouped):
        cache = DynamicCache(config=model.config)
        model(ids, **cached(cache))
        with pytest.raises(ValueError, match="for whole sequences, got 1 tokens after 6"):
            model(ids[:, :1], **cached(cache))
        with pytest.raises(ValueError, match="pad on the right"):
            model(ids, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]), use_cache=False)
        with pytest.raises(ValueError, match="on the left or in between"):
            model(ids, attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1]]), use_cache=False)
        with pytest.raises(ValueError, match="nor pack sequences"):
            model(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), use_cache=False)
    with attach(model, attention=sink_attention), pytest.raises(ValueError, match="bind them"):
        model(ids)
    with attach(model, attention=partial(sink_attention, sink=torch.zeros(4))):
        model(ids)
    oss = small(**KINDS["gpt_oss"])
    with attach(oss, attention=grouped), pytest.raises(ValueError, match="attach sink_attention"):
        oss(ids)
    gemma = small(**KINDS["gemma2"])
    with attach(gemma, attention=partial(sink_attention, sink=torch.zeros(4))), pytest.raises(ValueError, match="caps"):
        gemma(ids)
    dropped = small(attention_dropout=0.5).train()
    with attach(dropped, Keep()), pytest.raises(ValueError, match=r"model\.eval"):
        dropped(ids)
    with attach(dropped, attention=grouped), pytest.raises(ValueError, match="attention_dropout"):
        dropped(ids)
    with pytest.raises(NotImplementedError):
        Reader().read(0, None, None, 0, True)
