"""Unrolled Sinkhorn iterations and their backward pass."""

import pytest
import torch
from logits import draw, gradient

import otkit
from otkit.losses import SinKDLoss
from otkit.losses.distillation import unrolled


@pytest.mark.parametrize("reg", [0.2, 0.05, 0.02, 0.004])
def test_scalings_and_solve_run_the_same_iterations(reg):
    # float32 scalings, float64 scalings, and the log domain, with unequal sizes and a row and a column without mass.
    C = (2 * torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    a = torch.tensor([[1, 1, 0, 1, 1]]).double().expand(2, 5) / 4
    b = torch.tensor([[0, 1, 1, 1, 1, 1]]).double().expand(2, 6) / 5
    result = otkit.solve(C, a, b, reg=reg, method=otkit.Sinkhorn(n_iters=6, last="cols"))
    P, value = unrolled.unrolled_plan(C, a, b, reg, 6, 2.0, value=True)
    weight = draw(2, 5, 6)
    for mine, wanted in ((P, result.plan), (value, result.value)):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)
    mine = gradient((P * weight).sum() + value.sum(), C)
    torch.testing.assert_close(
        mine, gradient((result.plan * weight).sum() + result.value.sum(), C), rtol=1e-7, atol=1e-9
    )
    single = unrolled.unrolled_plan(C.detach().float(), a.float(), b.float(), reg, 6, 2.0, value=True)
    torch.testing.assert_close(single[0].double(), P.detach(), rtol=0, atol=1e-6)
    assert single[1].dtype == torch.float32


def test_compiled_iterations_equal_their_reference():
    K, U, V = draw(2, 4, 5).exp(), draw(2, 3, 4).exp(), draw(2, 4, 5).exp()
    a, b = draw(2, 4, seed=1).softmax(-1), draw(2, 5, seed=2).softmax(-1)
    V[:, 0] = b
    other = U.clone(), V.clone()
    unrolled.compiled_scale(K, a, b, U, V)
    unrolled.scale(K, a, b, *other)
    torch.testing.assert_close((U, V), other)
    bars, found = (draw(2, 4, seed=3), draw(2, 5, seed=4)), []
    for unscale in (unrolled.compiled_unscale, unrolled.unscale):
        W, Z = torch.empty(2, 3, 5).double(), torch.empty(2, 3, 4).double()
        unscale(K, (1 / a, 1 / b), (U, V), tuple(v.clone() for v in bars), (W, Z))
        found.append((W, Z))
    torch.testing.assert_close(*found)


def test_memory_of_the_iterations():
    # The backward pass keeps the scalings and two matrices, for any number of iterations.
    kept = []
    student, teacher = draw(30, 4).requires_grad_(), draw(30, 4, seed=1)
    for n_iters in (10, 200):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda v, s=sizes: s.append(v.numel()) or v, lambda v: v):
            SinKDLoss(n_iters=n_iters)(student, teacher)
        kept.append(sum(sizes))
    assert kept[1] - kept[0] == 190 * 2 * 30
