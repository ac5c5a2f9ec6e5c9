"""What bounded caches refuse and survive: other models, passes that broke off, copies, gradients."""

import copy
import gc

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from otkit.attention import HeavyHitterCache, SinkCache, attach
from tests.attention.models import cached, small, streamed, tokens


def test_a_copy_goes_on_alone():
    """One prompt, two continuations, also beyond the base that moves, and after the first cache is gone."""
    model, ids = small(), tokens(2, 40)
    cache = SinkCache(model, sinks=2, window=6)
    cache.far = 16
    streamed(model, ids[:, :12], cache)
    other = copy.deepcopy(cache)
    other_text = tokens(2, 28, seed=5)
    whole = SinkCache(model, sinks=2, window=6)
    expected = streamed(model, torch.cat([ids[:, :12], other_text], 1), whole)[:, 12:]
    first = streamed(model, ids[:, 12:], cache)
    del cache
    gc.collect()
    assert_close(streamed(model, other_text, other), expected, rtol=0, atol=1e-4)
    assert other.base > 0
    assert (first - expected).abs().max() > 0.1
    with pytest.raises(ValueError, match="padding"):
        model(ids, attention_mask=torch.zeros_like(ids), **cached(other))


def test_a_copy_of_heavy_hitters_goes_on_alone():
    model, ids = small(), tokens(1, 20)
    cache = HeavyHitterCache(model, heavy=2, recent=3)
    with attach(model, cache):
        streamed(model, ids[:, :10], cache)
    other = copy.deepcopy(cache)
    found = []
    for own in (cache, other):
        with attach(model, own):
            found.append(streamed(model, ids[:, 10:], own))
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [SinkCache, HeavyHitterCache])
def test_another_model_and_a_pass_that_broke_off_are_refused(kind):
    model, other, ids = small(), small("Qwen2"), tokens(1, 6)
    cache = kind(model)
    with torch.no_grad(), attach(model, cache) if kind is HeavyHitterCache else torch.no_grad():
        with pytest.raises(RuntimeError, match="of the model that runs"):
            other(ids, **cached(cache))
        streamed(model, ids, cache)
        handle = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids[:, :1], **cached(cache))
        handle.remove()
        with pytest.raises(RuntimeError, match=r"call reset\(\)"):
            model(ids[:, :1], **cached(cache))
        cache.reset()
        model(ids, **cached(cache))


def test_a_new_text_without_a_reset_is_refused():
    model, ids = small(), tokens(1, 12)
    cache = SinkCache(model, sinks=2, window=6)
    options = {"max_new_tokens": 5, "do_sample": False}
    first = model.generate(ids, **cached(cache), **options)
    with pytest.raises(ValueError, match=r"no tokens after 16 of its stream; call reset\(\)"):
        model.generate(ids[:, :7], **cached(cache), **options)
    cache.reset()
    assert torch.equal(model.generate(ids, **cached(cache), **options), first)


def test_a_cache_passed_by_position_is_seen():
    model, ids = small(), tokens(1, 4)
    cache = SinkCache(model, sinks=1, window=4)
    model.model(ids, None, None, cache)
    assert cache.get_seq_length() == 4


@pytest.mark.parametrize("step", [1, 5])
def test_gradients_go_through_one_call(step):
    """As through a pass over the same tokens after a cache that holds the others without a graph."""
    model, ids = small(), tokens(1, 12)
    cache, plain = SinkCache(model, sinks=2, window=20), DynamicCache(config=model.config)
    small_one = SinkCache(model, sinks=1, window=3)
    streamed(model, ids[:, :7], plain, 7)
    for t in range(0, 7, step):
        model(ids[:, t : min(t + step, 7)], **cached(cache))
        model(ids[:, t : min(t + step, 7)], **cached(small_one)).logits.sum().backward()
    assert not any(layer.keys.requires_grad for layer in (*cache.layers, *small_one.layers))
    model.zero_grad()
    leaf = model.model.layers[0].self_attn.k_proj.weight
    gradients = [
        torch.autograd.grad(model(ids[:, 7:], **cached(own)).logits.square().mean(), leaf)[0] for own in (cache, plain)
    ]
    assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_readers_of_a_pass_without_the_cache_leave_it_alone():
    model, ids = small(), tokens(1, 20)
    cache, alone = (HeavyHitterCache(model, heavy=3, recent=3) for _ in range(2))
    with attach(model, cache), torch.no_grad():
        model(ids, use_cache=False)
        found = streamed(model, ids[:, :10], cache)
        model(ids, use_cache=False)
        found = torch.cat([found, streamed(model, ids[:, 10:], cache)], 1)
    with attach(model, alone):
        assert torch.equal(streamed(model, ids, alone), found)
    assert not cache.layers[0].keys.requires_grad
