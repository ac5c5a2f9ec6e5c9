"""L1 distances between rows."""

from functools import partial

import logits
import pytest
import torch
from torch.autograd import gradcheck

from otkit.losses.distillation import l1
from otkit.losses.distillation.l1 import l1_cost

draw = partial(logits.draw, size=1.0)


def naive(x, y):
    return (x[..., :, None, :] - y[..., None, :, :]).abs().sum(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("batch", "n", "m", "d"), [
    ((), 1, 1, 1), ((), 4, 3, 2), ((2,), 5, 70, 7), ((), 70, 5, 1300), ((2, 3), 3, 4, 513), ((2,), 5, 64, 64),
    ((), 3, 65, 65), ((), 3, 63, 2), ((3,), 70, 100, 3),
])  # fmt: skip
def test_both_passes_equal_the_plain_formula(dtype, batch, n, m, d):
    x, y = draw(*batch, n, d, dtype=dtype).requires_grad_(), draw(*batch, m, d, dtype=dtype, seed=1).requires_grad_()
    weight = draw(*batch, n, m, dtype=dtype, seed=2)
    found, wanted = l1_cost(x, y), naive(x, y)
    size = float(wanted.detach().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=size * 8 * torch.finfo(dtype).eps * d**0.5)
    for mine, plain in zip(*(torch.autograd.grad((v * weight).sum(), (x, y)) for v in (found, wanted)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=max(n, m) * 8 * torch.finfo(dtype).eps)


def test_other_devices_take_the_same_steps(monkeypatch):
    # What runs elsewhere is plain torch, and runs here too; a small bound makes it take several chunks.
    monkeypatch.setattr(l1, "_DIFFERENCES", 50)
    x, y, c = draw(2, 4, 9), draw(2, 3, 9, seed=1), draw(2, 4, 3, seed=2)
    wanted = l1._distances(x, y), l1._gradient(x, y, c)
    monkeypatch.setattr(l1, "_compiled", lambda v: False)
    torch.testing.assert_close(l1._distances(x, y), wanted[0])
    torch.testing.assert_close(l1._gradient(x, y, c), wanted[1])


def test_finite_differences():
    assert gradcheck(l1_cost, (draw(3, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_()))


def test_equal_entries_have_no_slope():
    x = draw(4, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(l1_cost(x, x.detach()).diagonal().sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_the_layout_in_memory_does_not_matter():
    x, y = draw(6, 4).T, draw(5, 12)[:, ::2]
    torch.testing.assert_close(l1_cost(x, y), naive(x, y))


def test_threads_do_not_change_a_bit(monkeypatch):
    x, y = draw(300, 700, dtype=torch.float32), draw(250, 700, dtype=torch.float32, seed=1)
    c = draw(300, 250, dtype=torch.float32, seed=2)
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        found.append((l1_cost(x, y), l1._gradient(x[None], y[None], c[None])))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_second_derivative_is_refused():
    x = draw(3, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(l1_cost(x, draw(2, 2)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of the L1 cost are not available"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.ones(2), torch.ones(2), "must have shapes"),
        (torch.ones(2, 3), torch.ones(2, 4), r"got \(2, 3\) and \(2, 4\)"),
        (torch.ones(1, 2, 3), torch.ones(2, 2, 3), "must have shapes"),
        (torch.ones(2, 3), torch.ones(2, 3).double(), "of one dtype"),
        (torch.ones(2, 3).half(), torch.ones(2, 3).half(), r"convert them with .float\(\)"),
    ],
)
def test_bad_input(x, y, words):
    with pytest.raises(ValueError, match=words):
        l1_cost(x, y)
