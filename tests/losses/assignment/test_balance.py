"""Sinkhorn iterations between samples and prototypes."""

import math

import pytest
import torch
from scores import cosines

from otkit.kernels.numba.shares import assigned
from otkit.losses import assign
from otkit.losses.assignment import balance


def test_blocks_do_not_matter(monkeypatch):
    scores = cosines(lead=(2,))
    whole = assign(scores, n_iters=5, mass=0.8)
    monkeypatch.setitem(balance.BLOCK, "cpu", 500)
    torch.testing.assert_close(assign(scores, n_iters=5, mass=0.8), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n_iters", [1, 2, 7])
@pytest.mark.parametrize(("n", "k", "lead"), [(1, 1, ()), (70, 9, (3,)), (130, 30, ()), (700, 800, ())])
def test_one_compiled_call_is_the_general_way(dtype, n_iters, n, k, lead):
    scores = cosines(n, k, lead=lead).to(dtype)
    general = assign(scores, n_iters=n_iters, prior=torch.ones(k))
    found = assign(scores, n_iters=n_iters)
    assert found.dtype == general.dtype
    eps = torch.finfo(found.dtype).eps
    torch.testing.assert_close(found, general, rtol=200 * eps, atol=20 * eps)
    labels = assign(scores, n_iters=n_iters, hard=True)
    torch.testing.assert_close(found.gather(-1, labels[..., None])[..., 0], found.amax(-1), rtol=20 * eps, atol=0)


def test_the_compiled_call_declines_what_it_cannot_do():
    scores = cosines(40, 5, lead=(2,))
    assert assigned(scores.numpy(), 20.0, 3, False) is not None
    assert assigned(scores.numpy(), 1e4, 3, False) is None  # exponentials would underflow
    for value in (math.inf, -math.inf, math.nan):
        bad = scores.clone()
        bad[1, 3, 2] = value
        assert assigned(bad.numpy(), 20.0, 3, False) is None


def test_assignments_do_not_depend_on_the_number_of_threads(monkeypatch):
    scores, found = cosines(900, 700).float(), []
    for count in ("1", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        found.append(assign(scores, n_iters=4))
    assert torch.equal(*found)
