"""Distillation of features by the Gaussians fitted to them."""

from functools import partial

import logits
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck

from otkit.losses import GaussianFeatureLoss

draw = partial(logits.draw, size=1.0)


@pytest.mark.parametrize(("n", "m", "d"), [(6, 6, 3), (4, 9, 5), (3, 3, 7), (1, 2, 2)])
def test_it_is_the_formula(n, m, d):
    x, y = draw(2, n, d), 2 * draw(2, m, d, seed=1) + 0.5
    for covariance in ("diagonal", "full"):
        found, stats = GaussianFeatureLoss(covariance, gamma=0.7, reduction="none")(x, y), None
        _, stats = GaussianFeatureLoss(covariance, gamma=0.7)(x, y, return_stats=True)
        parts = []
        for u, v in zip(x.numpy(), y.numpy(), strict=True):
            means = np.linalg.norm(u.mean(0) - v.mean(0))
            if covariance == "diagonal":
                spread = np.linalg.norm(u.std(0) - v.std(0))
            else:
                A, B = (np.atleast_2d(np.cov(w.T, bias=True)) for w in (u, v))
                root = np.real(scipy.linalg.sqrtm(A + 1e-14 * np.eye(d)))
                cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ B @ root), 0)).sum()
                spread = np.sqrt(max(np.trace(A) + np.trace(B) - 2 * cross, 0))
            parts.append((means, spread))
        wanted = torch.tensor(parts)
        torch.testing.assert_close(found, 0.7 * wanted[:, 0] + wanted[:, 1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            torch.stack([stats["mean"], stats["covariance"]]), wanted.mean(0), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_gradients(covariance):
    loss, mask = GaussianFeatureLoss(covariance, reduction="none"), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert gradcheck(lambda v: loss(v, draw(2, 4, 3, seed=1), mask), draw(2, 4, 3).requires_grad_())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_features_have_no_distance_and_no_gradient(covariance, dtype):
    for x in (draw(2, 5, 3, dtype=dtype), torch.ones(2, 5, 3, dtype=dtype), 1e4 + draw(2, 1, 3, dtype=dtype)):
        x = x.requires_grad_()
        value = GaussianFeatureLoss(covariance)(x, x.detach())
        (gradient,) = torch.autograd.grad(value, x)
        assert float(value.detach()) == 0
        assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_masked_positions_change_nothing(covariance):
    x, y = draw(2, 4, 3), draw(2, 5, 3, seed=1)
    bare = x.clone().requires_grad_()
    wanted = GaussianFeatureLoss(covariance)(bare, y)
    (expected,) = torch.autograd.grad(wanted, bare)
    for rubbish in (0.0, 1e9, float("nan")):
        padded = torch.cat([torch.full((2, 2, 3), rubbish).double(), x], 1).requires_grad_()
        mask = torch.arange(6).expand(2, 6) >= 2
        value = GaussianFeatureLoss(covariance)(padded, y, mask)
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(torch.autograd.grad(value, padded)[0][:, 2:], expected)
    empty = torch.tensor([[False] * 6, [True] * 6])
    each = GaussianFeatureLoss(covariance, reduction="none")(padded.nan_to_num(), y, empty)
    assert float(each[0].detach()) == 0 < float(each[1].detach())


def test_training_loops():
    x, y = draw(3, 6, 4, dtype=torch.float32), draw(3, 6, 4, seed=1, dtype=torch.float32).requires_grad_()
    loss, found = GaussianFeatureLoss(), []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        v = x.detach().to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(v, y.to(dtype))
        value.backward()
        assert (value.dtype, v.grad.dtype, y.grad) == (torch.float32, dtype, None)
        found.append(float(value.detach()))
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-2)
    each = GaussianFeatureLoss(reduction="none")(x, y)
    torch.testing.assert_close(loss(x, y, num_items_in_batch=12), each.sum() / 12)
    torch.testing.assert_close(GaussianFeatureLoss(reduction="sum")(x, y), each.sum())
    assert repr(loss) == "GaussianFeatureLoss(covariance='diagonal', gamma=1, reduction='mean')"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GaussianFeatureLoss("bures"), "covariance must be one of diagonal, full, got 'bures'"),
        (lambda: GaussianFeatureLoss(gamma=0.0), "gamma must be a positive number"),
        (lambda: GaussianFeatureLoss()(torch.ones(2, 3), torch.ones(2, 3)), "must have shapes"),
        (lambda: GaussianFeatureLoss()(torch.ones(2, 3, 4), torch.ones(2, 3, 5)), "a linear layer brings the student to d"),
        (lambda: GaussianFeatureLoss()(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(3)), r"mask must have shape \(2, 3\)"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_maps_of_features_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"pass map.flatten\(2\).mT"):
        GaussianFeatureLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
