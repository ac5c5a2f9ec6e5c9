"""Sinkhorn iterations between samples and prototypes."""

import math

import numpy as np
import pytest
import torch
from scores import cosines, exact

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


def hard_scores(kind, n, k):
    """Scores with outliers, with samples and prototypes far from others, in unequal groups, or on a line."""
    random = np.random.default_rng(n + k)
    noise = random.normal(size=(n, k))
    if kind == "normal":
        return noise
    if kind == "heavy tails":
        return random.standard_t(1.5, size=(n, k))
    if kind == "far samples":
        return noise + 3 * random.normal(size=(n, 1))
    if kind == "dead prototypes":
        return noise / 10 - 5 * (np.arange(k) < k // 3)
    if kind == "groups":
        return -np.abs(np.minimum(random.geometric(0.5, n), 4)[:, None] - random.integers(1, 5, k))
    return -np.abs(np.sort(random.random(n))[:, None] ** 3 - np.sort(random.random(k)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "far samples", "dead prototypes", "groups", "line"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e3), (torch.float64, 2e4)])
@pytest.mark.parametrize(("n", "k"), [(1, 40), (40, 1), (9, 130), (130, 30), (700, 800)])
def test_the_compiled_call_is_right_or_declines(kind, dtype, most, n, k):
    scores, found = torch.from_numpy(hard_scores(kind, n, k)).to(dtype), []
    spread = float(scores.max() - scores.min())
    for scale in np.geomspace(min(0.5, 20 / spread), most / spread, 3 if n == 700 else 12):
        for n_iters in (1, 10):
            rows = assigned(scores.numpy()[None], scale, n_iters, False)
            found.append(rows is not None)
            wanted = exact(scores, 1 / scale, n_iters)
            # The scores times `scale` are rounded, here or above, where the largest may be far from 0.
            error = 20 * torch.finfo(dtype).eps * max(scale * spread, scale * float(scores.abs().max()), n_iters)
            if rows is not None:
                assert np.abs(rows[0] - wanted.numpy()).max() <= error
            labels = assigned(scores.numpy()[None], scale, n_iters, True)
            if labels is not None:
                chosen = wanted.gather(1, torch.from_numpy(labels[0])[:, None])[:, 0]
                assert float((wanted.amax(1) - chosen).max()) <= error
    assert found[0]


@pytest.mark.parametrize("n", [60, 3000])
def test_wide_scores_take_the_compiled_call(n):
    scores = torch.randn(n, 300, generator=torch.Generator().manual_seed(0))
    scores[3] -= 10
    scores[:, 7] -= 40
    assert assigned(scores.numpy()[None], 1 / 0.05, 3, False) is not None


def test_the_compiled_call_declines_what_it_cannot_do():
    scores = cosines(40, 5, lead=(2,))
    assert assigned(scores.numpy(), 20.0, 3, False) is not None
    for value in (math.inf, -math.inf, math.nan):
        bad = scores.clone()
        bad[1, 3, 2] = value
        assert assigned(bad.numpy(), 20.0, 3, False) is None
    # Differences of such numbers overflow, though the range is a few times the regularisation.
    for large, unit in ((1e38, np.float32), (8e307, np.float64)):
        for hard in (False, True):
            assert assigned(np.array([[[2, -2], [-1, 1]]]).astype(unit) * unit(large), 1 / large, 3, hard) is None
    columns = np.array([[[2.3e38, -3.0e38, 2.4e38], [2.2e38, -3.0e38, 2.2e38]]], dtype=np.float32)
    assert assigned(columns, 1 / 3e36, 1, True) is None
    wide = np.random.default_rng(0).normal(size=(1, 40, 5))
    assert assigned(wide, 100.0, 3, False) is not None
    assert assigned(wide, 1e4, 3, False) is None  # sums of entries that are not normal numbers


def test_assignments_do_not_depend_on_the_number_of_threads(monkeypatch):
    scores, found = cosines(900, 700).float(), []
    for count in ("1", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        found.append(assign(scores, n_iters=4))
    assert torch.equal(*found)
