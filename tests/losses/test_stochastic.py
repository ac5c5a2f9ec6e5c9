"""Doubly stochastic matrices by rounds of scalings."""

import pytest
import torch
from torch.testing import assert_close

from otkit.losses import doubly_stochastic
from otkit.losses.stochastic import _ENTRIES, rounds


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def textbook(P, n_iters):
    for _ in range(n_iters):
        P = P / P.sum(-1, keepdim=True)
        P = P / P.sum(-2, keepdim=True)
    return P


@pytest.mark.parametrize("shape", [(4, 4), (3, 1, 1), (2, 3, 5, 5), (16, 3, 3), (300, 4, 4), (2, 33, 33), (0, 4, 4)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("n_iters", "reg"), [(20, 1.0), (1, 0.5), (3, 2.0)])
def test_rounds_and_their_gradient(shape, dtype, atol, n_iters, reg):
    logits, weight = normal(*shape, dtype=dtype).requires_grad_(), normal(*shape, seed=1, dtype=dtype)
    found = doubly_stochastic(logits, n_iters, reg)
    reference, far = rounds(logits.reshape(-1, *shape[-2:]), reg, n_iters)
    assert not far.any()
    exact = logits.detach().double().requires_grad_()
    wanted = textbook((exact / reg).exp(), n_iters)
    (by_exact,) = torch.autograd.grad((wanted * weight).sum(), exact)
    for value in (found, reference.reshape(shape)):
        assert (value.dtype, value.shape) == (dtype, shape)
        assert_close(value.double(), wanted, rtol=0, atol=atol)
        (by,) = torch.autograd.grad((value * weight).sum(), logits)
        assert_close(by.double(), by_exact, rtol=0, atol=8 * atol / reg)


def logarithmic(logits, n_iters):
    for _ in range(n_iters):
        logits = logits - logits.logsumexp(-1, keepdim=True)
        logits = logits - logits.logsumexp(-2, keepdim=True)
    return logits.exp()


def test_wide_ranges_and_excluded_entries():
    # Next to an ordinary matrix: exponentials that under- and overflow, single entries that do, and excluded ones.
    logits = normal(5, 4, 4, dtype=torch.float32)
    logits[1] *= 200
    logits[2, 0] += 1e4  # a constant of a row changes nothing
    logits[3, :, 0] -= 300
    logits[4, [0, 1], [1, 2]] = -torch.inf
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    found, wanted = doubly_stochastic(logits), logarithmic(exact, 20)
    assert_close(found.double(), wanted, rtol=0, atol=2e-4)
    assert (found[4, [0, 1], [1, 2]] == 0).all()
    weight = normal(5, 4, 4, seed=1)
    gradients = [torch.autograd.grad((v * weight).sum(), u)[0] for v, u in ((found, logits), (wanted, exact))]
    kept = torch.tensor([0, 2, 3])
    assert_close(gradients[0].double()[kept], gradients[1][kept], rtol=0, atol=2e-4)
    assert gradients[0].isfinite().all()


def test_rows_and_columns_without_entries():
    logits = normal(4, 3, 3).requires_grad_()
    broken = logits.detach().clone()
    broken[0, 1], broken[1, :, 1], broken[2, 0, 0] = -torch.inf, -torch.inf, torch.inf
    found = doubly_stochastic(broken)
    assert found.isnan().flatten(1).all(1).tolist() == [True, True, True, False]
    assert (found[3] == doubly_stochastic(logits[3])).all()


def test_a_matrix_does_not_depend_on_the_others():
    part = _ENTRIES // 16
    logits = normal(part + 5, 4, 4, dtype=torch.float32)
    together = doubly_stochastic(logits)
    for k in (0, 17, part, part + 4):
        assert (doubly_stochastic(logits[k]) == together[k]).all()
    logits[3, 1, 2] = torch.nan
    broken = doubly_stochastic(logits)
    assert broken[3].isnan().all()
    assert (broken[[2, 4]] == together[[2, 4]]).all()


def test_half_precision_and_one_derivative():
    logits = normal(2, 4, 4).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = doubly_stochastic(logits)
    assert found.dtype == torch.bfloat16
    assert_close(found, doubly_stochastic(logits.float()).bfloat16())
    logits = normal(2, 4, 4).requires_grad_()
    (by,) = torch.autograd.grad(doubly_stochastic(logits).square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="doubly_stochastic"):
        by.sum().backward()


@pytest.mark.parametrize(("logits", "options", "message"), [
    (torch.zeros(3, 4), {}, "square"), (torch.zeros(4), {}, "square"), (torch.zeros(2, 0, 0), {}, "square"),
    (torch.zeros(2, 2), {"n_iters": 0}, "n_iters"), (torch.zeros(2, 2), {"reg": 0.0}, "reg must be a positive"),
])  # fmt: skip
def test_bad_input(logits, options, message):
    with pytest.raises(ValueError, match=message):
        doubly_stochastic(logits, **options)
