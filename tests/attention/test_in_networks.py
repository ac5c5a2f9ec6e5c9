"""Sinkhorn inside networks: one call of the solver beside the loops of the models' own codes."""

import math

import torch
from torch.nn.functional import pad
from torch.testing import assert_close

import otkit
from otkit.losses import assign, doubly_stochastic


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matched(scores, dustbin, rounds):
    """The matching layer of SuperGlue: m + 1 and n + 1 points, of which the last takes what finds no partner."""
    m, n = scores.shape
    logits, total = pad(scores, (0, 1, 0, 1), value=dustbin), math.log(m + n)
    log_a = torch.full((m + 1,), -total, dtype=scores.dtype)
    log_b = torch.full((n + 1,), -total, dtype=scores.dtype)
    log_a[-1], log_b[-1] = math.log(n) - total, math.log(m) - total
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(rounds):
        f = log_a - torch.logsumexp(logits + g, 1)
        g = log_b - torch.logsumexp(logits + f[:, None], 0)
    return (logits + f[:, None] + g + total).exp()


def alternated(weights, rounds):
    """Rows and then columns divided by their sums: the mixing of mHC, and the attention of the Sinkformer."""
    for _ in range(rounds):
        weights = weights / weights.sum(-1, keepdim=True)
        weights = weights / weights.sum(-2, keepdim=True)
    return weights


def test_matching_with_dustbins():
    scores, dustbin = 2 * normal(6, 8), 1.0
    cost = -pad(scores, (0, 1, 0, 1), value=dustbin)
    a, b = (torch.cat([torch.ones(k), torch.tensor([float(other)])]).double() for k, other in ((6, 8), (8, 6)))
    plan = otkit.solve(cost, a, b, reg=1.0, method=otkit.Sinkhorn(n_iters=100, last="cols")).plan
    assert_close(plan, matched(scores, dustbin, 100), rtol=0, atol=2e-14)
    converged = otkit.solve(cost, a, b, reg=1.0, tol=1e-10)
    assert converged.n_iter < 20
    assert_close(converged.plan, matched(scores, dustbin, 1000), rtol=0, atol=1e-9)


def test_mixing_of_residual_streams_and_its_gradient():
    logits, uniform = normal(16, 4, 4, dtype=torch.float32).requires_grad_(), torch.full((4,), 0.25)
    method = otkit.Sinkhorn(n_iters=20, last="cols")
    mixed = 4 * otkit.solve(-logits, uniform, uniform, reg=1.0, method=method).plan
    expected, weight = alternated(logits.exp(), 20), normal(16, 4, 4, seed=1, dtype=torch.float32)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), logits, retain_graph=True)
    for found in (mixed, doubly_stochastic(logits, n_iters=20)):
        assert_close(found, expected, rtol=0, atol=1e-6)
        assert_close(torch.autograd.grad((found * weight).sum(), logits)[0], wanted, rtol=0, atol=1e-6)


def test_a_balanced_router():
    """Tokens to experts, as Megatron's router balances them before it takes the largest."""
    logits = normal(64, 8)
    routed = assign(logits, reg=1.0, n_iters=1000, tol=1e-10)
    expected = alternated(logits.exp().T, 1000).T * 1.0
    assert_close(routed, expected / expected.sum(1, keepdim=True), rtol=0, atol=1e-8)
    assert_close(routed.sum(0), torch.full((8,), 8.0, dtype=torch.float64), rtol=0, atol=1e-7)


def test_doubly_stochastic_attention():
    query, key = normal(2, 5, 4), normal(2, 5, 4, seed=1)
    logits, uniform = query @ key.mT / 2, torch.full((5,), 0.2, dtype=torch.float64)
    method = otkit.Sinkhorn(n_iters=3, last="cols")
    plan = 5 * otkit.solve(-logits, uniform, uniform, reg=1.0, method=method).plan
    for found in (plan, doubly_stochastic(logits, n_iters=3)):
        assert_close(found, alternated(logits.exp(), 3), rtol=0, atol=1e-14)
