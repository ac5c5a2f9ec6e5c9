"""Distances of Gaussians: closed forms, POT, hard covariances, and finite differences."""

import numpy as np
import pytest
from checks import torch

import otkit


def covariance(rng, d, rank=None):
    root = rng.standard_normal((d, rank or d))
    return root @ root.T


def test_commuting_covariances_have_the_distance_of_their_deviations(rng):
    Q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    s, t, m, n = rng.random((4, 5)) * [[1], [10], [1], [1]]
    s[0] = t[1] = 0  # singular
    found = otkit.gaussian_wasserstein(m, n, (Q * s**2) @ Q.T, (Q * t**2) @ Q.T)
    np.testing.assert_allclose(found, np.sqrt(((m - n) ** 2).sum() + ((s - t) ** 2).sum()), rtol=1e-8)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_it_is_that_of_pot(d, rng):
    ot = pytest.importorskip("ot")
    m, n, A, B = *rng.standard_normal((2, d)), covariance(rng, d), covariance(rng, d)
    expected = ot.gaussian.bures_wasserstein_distance(m, n, A, B)
    np.testing.assert_allclose(otkit.gaussian_wasserstein(m, n, A, B), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_nearly_equal_covariances_do_not_cancel(scale, rng):
    """Of Σ and (1 + t)² Σ the distance is t·√tr Σ, for a t far below the root of the rounding unit."""
    A, zero = covariance(rng, 6) * scale, np.zeros(6)
    t = 2.0**-30
    found = otkit.gaussian_wasserstein(zero, zero, A, A * (1 + t) ** 2)
    np.testing.assert_allclose(found, t * np.trace(A) ** 0.5, rtol=1e-5)
    assert otkit.gaussian_wasserstein(zero, zero, A, A) <= 1e-14 * np.trace(A) ** 0.5
    singular = covariance(rng, 6, 2) * scale
    assert otkit.gaussian_wasserstein(zero, zero, singular, singular) <= 1e-14 * np.trace(singular) ** 0.5


def test_it_is_a_lower_bound_of_the_distance(rng):
    x, y = rng.random((40, 3)), rng.standard_normal((30, 3))
    moments = [f(v) for f in (lambda v: v.mean(0), lambda v: np.cov(v.T, bias=True)) for v in (x, y)]
    assert 0 < otkit.gaussian_wasserstein(*moments) < otkit.wasserstein(x, y).lower


def test_items_of_a_batch_are_single_calls(rng):
    m, A, B = rng.random((3, 1, 4)), np.stack([covariance(rng, 4) for _ in range(2)]), covariance(rng, 4)
    batch = otkit.gaussian_wasserstein(m, np.zeros(4), A, B)
    assert batch.shape == (3, 2)
    np.testing.assert_allclose(batch[2, 1], otkit.gaussian_wasserstein(m[2, 0], np.zeros(4), A[1], B), rtol=1e-12)
    x, y = rng.random((3, 1, 9, 4)), rng.random((2, 5, 4))
    assert otkit.fid(x, y).shape == (3, 2)
    np.testing.assert_allclose(otkit.fid(x, y)[2, 1], otkit.fid(x[2, 0], y[1]), rtol=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 3), (50, 4, 8), (4, 5, 8), (2, 60, 8)])
def test_fid_is_the_squared_distance_of_the_fitted_gaussians(n, m, d, rng):
    x, y = rng.standard_normal((n, d)) + 1e3, 2 * rng.standard_normal((m, d)) + 1e3
    moments = [f(v) for f in (lambda v: v.mean(0), lambda v: np.cov(v.T)) for v in (x, y)]
    np.testing.assert_allclose(otkit.fid(x, y), otkit.gaussian_wasserstein(*moments) ** 2, rtol=1e-6)
    assert otkit.fid(x, x) <= 1e-20 * n * d


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_gradients_are_finite_differences(rng):
    given = (*rng.standard_normal((2, 4)), covariance(rng, 4), covariance(rng, 4))
    leaves = [torch.tensor(v, requires_grad=True) for v in given]

    def distance(m, n, A, B):
        return otkit.gaussian_wasserstein(m, n, (A + A.T) / 2, (B + B.T) / 2)

    assert torch.autograd.gradcheck(distance, leaves)
    for n, m, d in ((7, 9, 3), (4, 5, 6), (12, 3, 5)):
        x, y = (torch.tensor(rng.standard_normal((k, d)), requires_grad=True) for k in (n, m))
        assert torch.autograd.gradcheck(otkit.fid, (x, y))


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("rank", [2, 4])
def test_gradients_are_finite_where_covariances_coincide_or_are_singular(rank, rng):
    zero, A = torch.zeros(4, dtype=torch.float64), torch.tensor(covariance(rng, 4, rank), requires_grad=True)
    otkit.gaussian_wasserstein(zero, zero, A, A.detach()).backward()
    assert (A.grad == 0).all()
    A.grad = None
    otkit.gaussian_wasserstein(zero, zero, A, torch.eye(4, dtype=torch.float64)).backward()
    assert torch.isfinite(A.grad).all()
    x = torch.tensor(rng.standard_normal((rank + 1, 6)), requires_grad=True)
    otkit.fid(x, x.detach()).backward()
    assert abs(x.grad).max() < 1e-14


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_batches_broadcast_in_the_backward_pass_and_second_derivatives_are_refused(rng):
    x, y = (torch.tensor(rng.standard_normal(s), dtype=torch.float32, requires_grad=True) for s in ((3, 9, 4), (8, 4)))
    found = otkit.fid(x, y)
    assert found.dtype == torch.float32
    by_x, by_y = torch.autograd.grad(found.sum(), (x, y))
    alone = torch.stack([torch.autograd.grad(otkit.fid(v, y), y)[0] for v in x]).sum(0)
    torch.testing.assert_close(by_y, alone)
    assert by_x.shape == x.shape
    (gradient,) = torch.autograd.grad(otkit.fid(x[0], y), y, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of fid are not available"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        ((np.zeros(2), np.zeros(3), np.eye(2), np.eye(3)), r"mean_y must have shape \(..., 2\), got shape \(3,\)"),
        ((np.zeros(2), np.zeros(2), np.ones(2), np.eye(2)), r"cov_x must have shape \(..., 2, 2\)"),
        ((0.0, 0.0, 1.0, 1.0), r"mean_x must have shape \(..., d\)"),
        ((np.zeros(2), np.zeros(2), np.eye(2), np.triu(np.ones((2, 2)))), "cov_y must be symmetric"),
        ((np.zeros(2), np.zeros(2), -np.eye(2), np.eye(2)), "cov_x must be positive semi-definite"),
        ((np.zeros(2), np.full(2, np.nan), np.eye(2), np.eye(2)), "mean_y must be finite"),
        ((np.zeros((2, 2)), np.zeros((3, 2)), np.eye(2), np.eye(2)), "must broadcast"),
    ],
)
def test_moments_of_no_gaussians(moments, words):
    with pytest.raises(ValueError, match=words):
        otkit.gaussian_wasserstein(*moments)


def test_features_without_a_covariance(rng):
    with pytest.raises(ValueError, match="y must have at least two samples"):
        otkit.fid(rng.random((3, 2)), rng.random((1, 2)))
    with pytest.raises(ValueError, match="same dimension"):
        otkit.fid(rng.random((3, 2)), rng.random((4, 3)))
