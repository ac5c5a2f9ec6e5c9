"""Attention with sink logits, in groups and as a stream, against dense masks and concatenated softmax."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.testing import assert_close

from otkit.attention import grouped_attention, grouped_mask, sink_attention, streaming_attention


def inputs(length=50, heads=4, shared=2, size=8, wide=8, batch=2, dtype=torch.float64):
    make = torch.Generator().manual_seed(0)
    shapes = (batch, heads, length, size), (batch, shared, length, size), (batch, shared, length, wide)
    return [torch.randn(shape, generator=make, dtype=dtype).requires_grad_() for shape in shapes]


def dense_with_sink(query, key, value, sink, visible=None, scale=None):
    shared = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
    queries, keys = query.shape[2], key.shape[2]
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if visible is None else visible
    logits = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits.masked_fill(~visible, -torch.inf)
    column = sink.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
    return torch.cat([logits, column], -1).softmax(-1)[..., :-1] @ value


def assert_same_gradients(found, expected, leaves, atol):
    assert_close(found, expected, rtol=0, atol=atol)
    weight = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    for new, old in zip(*(torch.autograd.grad((x * weight).sum(), leaves) for x in (found, expected)), strict=True):
        assert_close(new, old, rtol=0, atol=atol * (1 + float(old.abs().max())))


@pytest.mark.parametrize("wide", [8, 5, 24])
def test_sink_logits_are_a_column_of_the_softmax(wide):
    qkv = inputs(wide=wide)
    sink = torch.tensor([0.0, 2.0, -3.0, 20.0], dtype=torch.float64, requires_grad=True)
    assert_same_gradients(sink_attention(*qkv, sink), dense_with_sink(*qkv, sink), [*qkv, sink], 2e-14)


def test_sink_logits_with_a_mask_and_a_scale():
    qkv, sink = inputs(), torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = torch.arange(50)
    band = (at[:, None] >= at) & (at[:, None] - at < 7)
    found = sink_attention(*qkv, sink, mask=band, scale=0.7)
    assert_close(found, dense_with_sink(*qkv, sink, band, 0.7), rtol=0, atol=2e-15)
    column = band.any(1)[None, None, :, None]  # a mask of one column broadcasts
    assert_close(
        sink_attention(*qkv, sink, mask=column),
        dense_with_sink(*qkv, sink, column.expand(1, 1, 50, 50)),
        rtol=0,
        atol=2e-15,
    )


@pytest.mark.parametrize("queries", [1, 3])
def test_queries_after_cached_keys(queries):
    query, key, value = inputs()
    query, sink = query[:, :, -queries:], torch.zeros(4, dtype=torch.float64)
    found = sink_attention(query, key, value, sink)
    assert_close(found, dense_with_sink(query, key, value, sink), rtol=0, atol=2e-15)


def test_a_sink_of_zero_is_softmax_one_and_of_minus_infinity_is_none():
    query, key, value = inputs(shared=4)
    logits = (query @ key.mT) / 8**0.5
    seen = torch.ones(50, 50, dtype=torch.bool).tril()
    exp = logits.exp().masked_fill(~seen, 0.0)
    one = exp / (1 + exp.sum(-1, keepdim=True)) @ value
    assert_close(sink_attention(query, key, value, torch.zeros(4, dtype=torch.float64)), one, rtol=0, atol=2e-15)
    plain = sdpa(query, key, value, is_causal=True)
    for none in (-1e4, -torch.inf):
        sink = torch.full((4,), none, dtype=torch.float64, requires_grad=True)
        gone = sink_attention(query, key, value, sink)
        assert_close(gone, plain, rtol=0, atol=2e-15)
        leaves = [query, sink]
        gradients = (
            torch.autograd.grad(gone.square().sum(), leaves),
            torch.autograd.grad(plain.square().sum() + 0 * sink.clamp(min=-1).sum(), leaves, retain_graph=True),
        )
        for new, old in zip(*gradients, strict=True):
            assert_close(new, old, rtol=0, atol=1e-13)


def test_a_large_logit_in_half_precision_keeps_its_digits():
    query, key, value = (torch.zeros(1, 1, 4, 64, dtype=torch.bfloat16) for _ in range(3))
    key[..., 0] = query[..., 0] = 28.375  # logits of 100.64
    value += 1.0
    sink = torch.tensor([100.3])  # rounds to 100.5 in bfloat16
    found = sink_attention(query, key, value, sink)[0, 0, 0, 0]
    expected = 1 / (1 + torch.exp(sink - 28.375**2 / 8))
    assert_close(found.float(), expected[0], rtol=0.02, atol=0)


def test_sink_attention_holds_no_map():
    qkv = inputs(length=2048, heads=4, size=64, wide=64, batch=1, dtype=torch.float32)
    sink = torch.zeros(4, requires_grad=True)
    peaks = [peak(lambda f=f: f(*qkv, sink).sum().backward()) for f in (sink_attention, dense_with_sink)]
    assert peaks[0] < peaks[1] / 3


def peak(call):
    """The most bytes of tensors held at a time, above those of the beginning."""
    held = most = 0
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("group", "shifted", "sinks"),
    [(8, 0.25, 4), (16, 0.5, 0), (16, 0, 4), (10, 0.25, 5), (64, 0.5, 4), (2, 1, 1), (50, 0.5, 25)],
)
def test_groups_are_a_dense_mask(group, shifted, sinks):
    query, key, value = inputs()
    options = {"group": group, "shifted": shifted, "sinks": sinks}
    mask = grouped_mask(50, 4, **options)
    dense = sdpa(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=mask, scale=0.6)
    found = grouped_attention(query, key, value, scale=0.6, **options)
    assert_same_gradients(found, dense, (query, key, value), 2e-14)


@pytest.mark.parametrize("length", [1, 3, 8, 9, 17])
def test_groups_of_any_length(length):
    query, key, value = inputs(length=length, shared=4)
    mask = grouped_mask(length, 4, group=8, shifted=0.5, sinks=3)
    dense = sdpa(query, key, value, attn_mask=mask)
    assert_close(grouped_attention(query, key, value, group=8, shifted=0.5, sinks=3), dense, rtol=0, atol=2e-15)


def test_the_mask_of_groups_by_its_definition():
    mask = grouped_mask(23, 4, group=6, shifted=0.5, sinks=2)
    for head, delta in enumerate((0, 0, 3, 3)):
        for i in range(23):
            for j in range(23):
                same = (i + delta) // 6 == (j + delta) // 6
                assert bool(mask[head, i, j]) == (j <= i and (same or j < 2))


@pytest.mark.parametrize(("sinks", "window"), [(4, 9), (0, 5), (1, 1), (12, 3), (4, 100)])
@pytest.mark.parametrize("block", [None, 7])
def test_a_stream_without_turns_is_a_band_with_first_columns(sinks, window, block):
    query, key, value = inputs()
    at = torch.arange(50)
    mask = (at[:, None] >= at) & ((at[:, None] - at < window) | (at < sinks))
    dense = sdpa(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=mask)
    found = streaming_attention(query, key, value, sinks=sinks, window=window, block=block)
    assert_same_gradients(found, dense, (query, key, value), 2e-14)


def test_queries_of_a_stream_are_turned_by_what_left():
    query, key, value = inputs(length=20)
    shifts = []

    def turn(x, shift):
        shifts.extend(shift.tolist())
        return x

    streaming_attention(query, key, value, sinks=2, window=5, turn=turn, block=4)
    assert shifts == [-max(0, t - 6) for t in range(20)]


@pytest.mark.parametrize("function", [sink_attention, grouped_attention, streaming_attention])
def test_later_tokens_change_nothing_before_them(function):
    options = {
        sink_attention: {"sink": torch.zeros(4, dtype=torch.float64)},
        grouped_attention: {"group": 8},
        streaming_attention: {"sinks": 2, "window": 6},
    }[function]
    query, key, value = (x.detach() for x in inputs())
    before = function(query, key, value, **options)
    for x in (query, key, value):
        x[:, :, 30:] += 1.0
    assert torch.equal(function(query, key, value, **options)[:, :, :30], before[:, :, :30])


q = torch.zeros(1, 4, 6, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sink_attention(q, q, q, torch.zeros(3)), "one logit for each of the 4 heads"),
        (lambda: sink_attention(q[0], q, q, torch.zeros(4)), r"\(batch, heads, tokens, size\)"),
        (lambda: sink_attention(q, q[:, :3], q[:, :3], torch.zeros(4)), "multiple of those of key, got 4 and 3"),
        (lambda: sink_attention(q, q, q[:, :, :5], torch.zeros(4)), "must agree"),
        (lambda: grouped_attention(q, q, q, group=3), "group must be even"),
        (lambda: grouped_attention(q, q, q, group=1), "group must be a whole number, at least 2"),
        (lambda: grouped_attention(q, q, q, group=4, sinks=3), "at most half a group of 4"),
        (lambda: grouped_attention(q, q, q, group=8, shifted=1.5), "shifted"),
        (lambda: grouped_attention(q[:, :, :1], q, q, group=8), "as many keys as queries"),
        (lambda: streaming_attention(q[:, :, :1], q, q, sinks=1, window=2), "as many keys as queries"),
        (lambda: streaming_attention(q, q, q, sinks=-1, window=2), "sinks must be a whole number"),
        (lambda: streaming_attention(q, q, q, sinks=1, window=0), "window must be a whole number"),
        (lambda: grouped_mask(4, 4, group=3), "group must be even"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(TypeError, match="mask must be a tensor of bool"):
        sink_attention(q, q, q, torch.zeros(4), mask=torch.zeros(6, 6))


def test_advice_about_sinks_and_masks_works():
    seen = torch.ones(6, 6).tril()
    right = sink_attention(q, q, q, torch.zeros(4))
    with pytest.raises(ValueError, match=r"sink\.expand\(4\) repeats one"):
        sink_attention(q, q, q, torch.zeros(1))
    torch.testing.assert_close(sink_attention(q, q, q, torch.zeros(1).expand(4)), right)
    additive = torch.zeros(6, 6).masked_fill(seen == 0, -torch.inf)
    for mask, advised in ((additive, additive == 0), (seen, seen != 0)):
        with pytest.raises(TypeError, match="mask == 0 makes one of an additive mask, mask != 0 one of ones and zeros"):
            sink_attention(q, q, q, torch.zeros(4), mask=mask)
        torch.testing.assert_close(sink_attention(q, q, q, torch.zeros(4), mask=advised), right)
