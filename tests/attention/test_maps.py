"""Importance, sink rate and redistribution against closed forms and the solver."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import otkit
from otkit.attention import importance, massive_activation, massive_dims, redistribute, sink_rate

inf = float("inf")


def softmax_map(*shape, seed=0, causal=True):
    logits = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen = torch.ones(shape[-2:], dtype=torch.bool).tril(shape[-1] - shape[-2]) if causal else True
    return logits.masked_fill(~torch.as_tensor(seen), -inf).softmax(-1)


def test_uniform_attention_gives_the_first_key_a_harmonic_number():
    size = 64
    weights = torch.ones(size, size, dtype=torch.float64).tril() / torch.arange(1, size + 1)[:, None]
    assert_close(importance(weights)[0].item(), sum(1 / k for k in range(1, size + 1)) / size, rtol=0, atol=1e-15)


def test_the_identity_gives_each_key_its_share_of_rows():
    assert_close(importance(torch.eye(5)), 1 / torch.arange(5, 0, -1))


def test_queries_after_cached_keys_see_all_of_them():
    weights = softmax_map(2, 3, 7)
    count = torch.tensor([3, 3, 3, 3, 3, 2, 1])
    assert_close(importance(weights), weights.sum(-2) / count)


def test_invisible_weights_do_not_count_and_unseen_keys_get_zero():
    weights = torch.full((2, 3), 9.0)
    visible = torch.tensor([[True, False, False], [True, True, False]])
    assert importance(weights, visible).tolist() == [9.0, 9.0, 0.0]


def test_importance_is_the_mass_of_free_columns_of_a_plan():
    logits = np.random.default_rng(0).normal(size=(6, 6))
    logits[~np.tri(6, dtype=bool)] = -inf
    plan = otkit.solve(-logits, np.ones(6), np.ones(6), reg=1.0, unbalanced=(inf, 0)).plan
    weights = torch.tensor(logits).softmax(-1)
    assert_close(torch.tensor(plan), weights, rtol=0, atol=2e-15)
    assert_close(importance(weights), torch.tensor(plan.sum(0) / np.arange(6, 0, -1)), rtol=0, atol=2e-15)


def test_half_precision_is_summed_in_float32():
    weights = torch.full((4096, 1), 0.1, dtype=torch.bfloat16)
    found = importance(weights, torch.ones(1, 1, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert_close(found.item(), float(weights[0, 0]), rtol=1e-6, atol=0)


def test_a_key_at_the_threshold_is_no_sink():
    weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5]]])
    assert sink_rate(weights, eps=0.5).item() == 0.5
    assert sink_rate(weights, eps=0.49).item() == 1.0
    assert sink_rate(weights, eps=0.5, key=-1).item() == 0.5


def test_redistribution_keeps_row_sums_and_other_keys():
    weights = softmax_map(3, 4, 9, 9)
    source = torch.zeros(9, dtype=torch.bool)
    source[[0, 4]] = True
    target = torch.zeros(9, dtype=torch.bool)
    target[[1, 2, 6]] = True
    moved = redistribute(weights, source, target, 0.3)
    assert_close(moved.sum(-1), weights.sum(-1), rtol=0, atol=4e-16)
    others = ~(source | target)
    assert torch.equal(moved[..., others], weights[..., others])
    has_target = (weights[..., target].sum(-1) > 0)[..., None]
    assert_close(moved[..., source], (1 - 0.3 * has_target.double()) * weights[..., source], rtol=0, atol=2e-16)


def test_redistribution_keeps_proportions_where_the_source_has_nearly_all():
    weights = torch.tensor([[1 - 3e-7, 1e-7, 2e-7]])  # 1 less the first would lose half of the digits in float32
    source = torch.tensor([True, False, False])
    moved = redistribute(weights, source, ~source, 0.6)
    assert_close(moved, torch.tensor([[0.4, 0.2, 0.4]]), rtol=1e-6, atol=0)


def test_a_row_without_target_weight_stays():
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    source = torch.tensor([True, False])
    assert redistribute(weights, source, ~source).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_redistribution_is_a_transport_plan_onto_the_masses_of_groups():
    weights = softmax_map(6, 6, causal=False)
    source = torch.tensor([True, True, False, False, False, False])
    moved = redistribute(weights, source, ~source, 0.6)
    for row, new in zip(weights.numpy(), moved, strict=True):
        mass = row[:2].sum()
        groups = np.array([0.4 * mass, 1 - 0.4 * mass])
        cost = np.where(np.array([source.numpy(), ~source.numpy()]), 0.0, inf)
        plan = otkit.solve(cost, groups, row, reg=1.0, unbalanced=(inf, 0)).plan
        assert_close(torch.tensor(plan.sum(0)), new, rtol=0, atol=5e-16)


def test_redistribution_has_right_gradients():
    weights = softmax_map(2, 4, 4, causal=False).requires_grad_()
    source = torch.tensor([True, False, False, False])
    assert torch.autograd.gradcheck(lambda w: redistribute(w, source, ~source, 0.6), weights)


def test_massive_activation_of_one_large_entry_is_the_root_of_the_size():
    states = torch.zeros(2, 16)
    states[0, 3], states[1] = -7.0, 1.0
    assert_close(massive_activation(states, [3]), torch.tensor([4.0, 1.0]))
    assert massive_activation(torch.zeros(1, 4), [0]).item() == 0.0


def test_massive_dims_are_those_of_planted_entries():
    states = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0))
    states[0, 0, 11], states[1, 7, 30] = 500.0, -90.0
    assert massive_dims(states, 2).tolist() == [11, 30]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: importance(torch.ones(3)), ValueError, r"\(\.\.\., Q, K\)"),
        (lambda: importance(torch.ones(3, 3, dtype=torch.int64)), TypeError, "tensor of floats, got torch.int64"),
        (lambda: importance(torch.ones(3, 3), torch.ones(3, 3)), TypeError, "tensor of bool"),
        (lambda: importance(torch.ones(3, 3), torch.ones(2, 3, dtype=torch.bool)), ValueError, "broadcast"),
        (lambda: sink_rate(torch.ones(3, 3), eps=1.5), ValueError, "eps must be a number from 0 to 1"),
        (lambda: sink_rate(torch.ones(3, 3), key=3), ValueError, "one of the 3 keys"),
        (lambda: redistribute(torch.ones(3, 3), *torch.ones(2, 3).bool()), ValueError, "target & ~source"),
        (lambda: redistribute(torch.ones(3, 3), torch.eye(3).bool(), ~torch.eye(3).bool(), 2), ValueError, "share"),
        (lambda: massive_activation(torch.ones(3), [3]), ValueError, "some of the 3 dimensions"),
        (lambda: massive_activation(torch.ones(3), []), ValueError, "some of the 3 dimensions"),
        (lambda: massive_dims(torch.ones(2, 3), 4), ValueError, "top must be 1 to 3"),
    ],
)
def test_bad_input_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
