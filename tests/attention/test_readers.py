"""The sink metric, ACT and VAR against closed forms and full maps."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from otkit.attention import (
    ACT,
    VAR,
    SinkCache,
    SinkMeter,
    attach,
    choose_heads,
    importance,
    models,
    redistribute,
    sink_rate,
)
from tests.attention.models import cached, llava, maps, small, streamed, tokens


@torch.no_grad()
def metered(model, *batches, eps=0.15):
    meter = SinkMeter(eps)
    with attach(model, meter):
        for batch in batches:
            model(**(batch if isinstance(batch, dict) else {"input_ids": batch}))
    return meter


@pytest.mark.parametrize("held", [2**24, 1])
def test_the_meter_is_the_mean_of_full_maps(held, monkeypatch):
    monkeypatch.setattr(models, "_HELD", held)
    model, ids = small(), tokens(3, 12)
    meter, weights = metered(model, ids), maps(model, ids)
    assert_close(meter.importance.float(), importance(weights).mean(1), rtol=0, atol=5e-7)
    assert 0 < meter.rate() < 1
    assert_close(meter.rate(), sink_rate(weights, 0.15).item(), rtol=0, atol=1e-6)
    assert_close(meter.rate(2), sink_rate(weights, 0.15, 2).item(), rtol=0, atol=1e-6)
    assert meter.samples == 3


def test_batches_of_unequal_lengths_add_up():
    model, long, short = small(), tokens(2, 12), tokens(3, 7, seed=2)
    both, alone = metered(model, long, short), metered(model, short, long)
    assert_close(both.importance, alone.importance, rtol=0, atol=1e-15)
    means = [importance(maps(model, ids)) for ids in (long, short)]
    expected = (means[0].sum(1)[..., :7] + means[1].sum(1)) / 5
    assert_close(both.importance[..., :7].float(), expected, rtol=0, atol=5e-7)
    assert_close(both.importance[..., 7:].float(), means[0].mean(1)[..., 7:], rtol=0, atol=5e-7)
    assert both.samples == 5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("held", [2**24, 1])
def test_padding_takes_no_part(side, held, monkeypatch):
    monkeypatch.setattr(models, "_HELD", held)
    model, long, short = small(), tokens(1, 11), tokens(1, 7, seed=2)
    filler = torch.full((1, 4), 3)
    parts = [filler, short] if side == "left" else [short, filler]
    ids, mask = torch.cat([long, torch.cat(parts, 1)]), torch.ones(2, 11, dtype=torch.int64)
    mask[1, :4] = 0
    mask[1] = mask[1] if side == "left" else mask[1].flip(0)
    found, expected = metered(model, {"input_ids": ids, "attention_mask": mask}), metered(model, long, short)
    assert_close(found.importance, expected.importance, rtol=0, atol=2e-6)
    assert_close(found.rates, expected.rates)


def test_the_meter_with_sink_logits_and_windows():
    model = small("GptOss", head_dim=8, sliding_window=6, num_local_experts=2, num_experts_per_tok=1)
    weights, at = maps(model, tokens(2, 10)), torch.arange(10)
    band = (at[:, None] >= at) & (at[:, None] - at < 6)
    expected = torch.stack([importance(weights[0], band), importance(weights[1])])
    assert_close(metered(model, tokens(2, 10)).importance.float(), expected.mean(1), rtol=0, atol=5e-7)


def test_the_meter_wants_whole_sequences():
    model, cache = small(), DynamicCache(config=small().config)
    streamed(model, tokens(1, 4), cache, 4)
    with attach(model, SinkMeter()), pytest.raises(ValueError, match="whole sequences"):
        model(tokens(1, 1), **cached(cache))
    with pytest.raises(ValueError, match="read nothing yet"):
        SinkMeter().rate()
    with pytest.raises(ValueError, match="eps"):
        SinkMeter(2)


class Keep(models.Reader):
    def __init__(self):
        self.weights = {}

    def read(self, layer, weights, visible, first, last):
        self.weights[layer] = weights.detach().clone()


def before_and_after(model, reader, **inputs):
    before, after = Keep(), Keep()
    with torch.no_grad(), attach(model, before, reader, after):
        model(**inputs)
    return before.weights, after.weights


def test_act_scales_later_sinks_and_their_rows_stay_whole():
    model, ids = small(), tokens(2, 16)
    act = ACT({0: [1, 3]}, beta=0.4, threshold=0.12)
    before, after = before_and_after(model, act, input_ids=ids)
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0][:, [0, 2]], after[0][:, [0, 2]])
    old, new = (w[0][:, [1, 3]].double() for w in (before, after))
    received = importance(old)
    sinks = received > 0.12
    sinks[..., 0] = False
    assert sinks.any()
    assert not sinks.all()
    mass = old.masked_fill(~sinks[..., None, :], 0).sum(-1, keepdim=True)
    expected = torch.where(sinks[..., None, :], 0.4 * old, old * (1 - 0.4 * mass) / (1 - mass))
    exact = (mass < 0.9).expand_as(old)  # beyond, 1 − mass has lost its digits in this formula
    assert_close(new[exact], expected[exact], rtol=0, atol=2e-6)
    assert (exact & (mass > 0.1)).any()
    assert_close(new.sum(-1), torch.ones_like(new.sum(-1)), rtol=0, atol=1e-6)


def test_act_keeps_the_sinks_of_the_prompt():
    model, ids = small(), tokens(1, 12)
    act, cache = ACT(threshold=0.12), DynamicCache(config=model.config)
    with attach(model, act):
        streamed(model, ids[:, :10], cache, 10)
        prompt = {layer: sinks.clone() for layer, sinks in act._sinks.items()}
        streamed(model, ids[:, 10:], cache)
    for layer, sinks in act._sinks.items():
        assert torch.equal(sinks, prompt[layer])


def test_decoded_tokens_are_calibrated():
    model, ids = small(), tokens(1, 12)
    act, before, after, cache = ACT(threshold=0.12), Keep(), Keep(), DynamicCache(config=small().config)
    with torch.no_grad(), attach(model, before, act, after):
        model(ids[:, :11], **cached(cache))
        sinks = torch.nn.functional.pad(act._sinks[0], (0, 1))[:, :, None]
        model(ids[:, 11:], **cached(cache))
    assert sinks.any()
    assert_close(after.weights[0], redistribute(before.weights[0], sinks, ~sinks, 0.6))


def test_act_on_padding_is_act_on_each_sequence():
    """Padding is no prompt: not counted in alpha / N, and not the first key, which is no sink."""
    model, ids = small(), tokens(2, 16)
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, :5] = 0
    with torch.no_grad():
        plain = model(ids, attention_mask=mask).logits
        with attach(model, ACT(alpha=2.0)):
            both = model(ids, attention_mask=mask).logits
            alone = [model(ids[:1, 5:]).logits, model(ids[1:]).logits]
            right = model(ids.flip(0), attention_mask=mask.flip(1).flip(0)).logits
            ended = model(ids[:1, :11]).logits
    assert_close(both[0, 5:], alone[0][0], rtol=0, atol=1e-4)
    assert_close(both[1], alone[1][0], rtol=0, atol=1e-4)
    assert_close(right[1, :11], ended[0], rtol=0, atol=1e-4)
    assert (both - plain)[:, 5:].abs().max() > 0.1


def test_act_in_a_static_cache_and_in_one_that_forgets():
    model, ids, found = small(), tokens(2, 12), []
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    for cache in ({}, {"cache_implementation": "static"}):
        act = ACT(alpha=2.0)
        with attach(model, act):
            for _ in range(2):
                text = model.generate(ids, **options, **cache)
        found.append(text)
    assert torch.equal(*found)
    with attach(model, ACT(alpha=2.0)), pytest.raises(ValueError, match="a cache that keeps all tokens"):
        streamed(model, ids, SinkCache(model, sinks=1, window=4), 6)


def test_choose_heads_skips_heads_without_sinks_and_finds_a_planted_one():
    model, ids, act, runs = small(), tokens(2, 16), ACT(threshold=0.12), []

    def score():
        """Higher where head 1 of layer 0 attends less to its later sinks."""
        keep = Keep()
        runs.append(None)
        attached = models._ATTACHED[model.model.layers[0].self_attn]
        attached.readers = (*attached.readers, keep)
        model(ids)
        received = importance(keep.weights[0])[:, 1]
        return -float(torch.where(sinks[:, 1], received, 0.0).sum())

    first = before_and_after(model, act, input_ids=ids)[0]
    sinks = importance(first[0]) > 0.12
    sinks[..., 0] = False
    with torch.no_grad():
        chosen = choose_heads(model, score, act=act, layers=[0])
    assert chosen == {0: [1]}
    assert len(runs) == 1 + int(sinks.any(-1).any(0).sum())
    with torch.no_grad(), pytest.raises(ValueError, match="those that were run"):
        choose_heads(model, score, act=act, layers=[7])
    assert choose_heads(model, lambda: 0.0 * float(model(ids).logits.detach().sum()), act=act) == {}
    for score in (lambda: 0.0, lambda: float("nan") * float(model(ids).logits.detach().sum())):
        with pytest.raises(ValueError, match="score must run the model on prompts and return a finite number"):
            choose_heads(model, score, act=act)


def planted_llava():
    """Image tokens of which one has a massive entry in dimension 5, and what is visual."""
    model = llava()
    ids = tokens(2, 10).clamp(max=58)
    ids[:, 2:6] = 59
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return model, {"input_ids": ids, "pixel_values": images}, ids == 59


def test_var_moves_weight_of_visual_sinks_to_other_visual_tokens():
    model, inputs, visual = planted_llava()
    var = VAR(visual, [5, 7], tau=1.5, rho=0.3, share=0.6, min_mass=0.05, layers=[0, 1])
    before, after = before_and_after(model, var, **inputs)
    touched = 0
    for layer in (0, 1):
        old, new, sinks = before[layer], after[layer], var._sinks[layer]
        for b in range(2):
            sink, other = visual[b] & sinks[b], visual[b] & ~sinks[b]
            for h in range(4):
                for t in range(10):
                    row, mass = old[b, h, t], old[b, h, t, visual[b]].sum()
                    share = row[other].sum() / mass if mass > 0 else 0.0
                    expected = row
                    if t > 5 and mass >= 0.05 and share >= 0.3:
                        expected = redistribute(row[None], sink, other, 0.6)[0]
                    touched += not torch.equal(expected, row)
                    assert_close(new[b, h, t], expected, rtol=0, atol=1e-6)
    assert touched > 5


def test_var_of_share_zero_changes_nothing_and_is_causal():
    model, inputs, visual = planted_llava()
    options = {"tau": 1.5, "rho": 0.0, "min_mass": 0.0}
    with torch.no_grad():
        plain = model(**inputs).logits
        with attach(model, VAR(visual, [5, 7], share=0.0, **options)):
            assert_close(model(**inputs).logits, plain, rtol=0, atol=5e-5)
        other = inputs | {"input_ids": inputs["input_ids"].clone()}
        other["input_ids"][:, -1] = 1
        with attach(model, VAR(visual, [5, 7], **options)):
            found = [model(**x).logits for x in (inputs, other)]
    assert torch.equal(found[0][:, :-1], found[1][:, :-1])
    assert not torch.allclose(found[0], plain, atol=1e-3)


def test_var_goes_on_with_decoded_tokens():
    model, inputs, visual = planted_llava()
    ids = inputs["input_ids"]
    options = {"tau": 1.5, "rho": 0.3, "min_mass": 0.05}
    with torch.no_grad():
        longer = inputs | {"input_ids": torch.cat([ids, tokens(2, 1, seed=9)], 1)}
        padded = torch.nn.functional.pad(visual, (0, 1))
        with attach(model, VAR(padded, [5, 7], **options)):
            whole = model(**longer).logits[:, -1]
        cache = DynamicCache(config=model.config)
        with attach(model, VAR(visual, [5, 7], **options)):
            model(**inputs, **cached(cache))
            found = model(longer["input_ids"][:, -1:], **cached(cache)).logits[:, -1]
    assert_close(found, whole, rtol=0, atol=1e-4)


def test_refusals():
    visual = torch.ones(1, 4, dtype=torch.bool)
    for call, words in [
        (lambda: ACT(beta=2), "beta"),
        (lambda: ACT(alpha=0), "alpha must be positive"),
        (lambda: ACT(threshold=-1), "threshold"),
        (lambda: ACT(protect=-1), "protect"),
        (lambda: VAR(visual, [0], share=2), "share"),
        (lambda: VAR(visual, [0], tau=0), "tau must be positive"),
        (lambda: VAR(visual[0], [0]), r"visual must be \(B, T\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="bool tensor"):
        VAR(torch.ones(1, 4), [0])
    model = small()
    with attach(model, VAR(visual, [0])), pytest.raises(ValueError, match="visual must have the shape of the prompt"):
        model(tokens(1, 6))
    with attach(model, VAR(visual, [0])):
        model(tokens(1, 4))
        with pytest.raises(ValueError, match="make a VAR for each prompt"):
            model(tokens(1, 6))
