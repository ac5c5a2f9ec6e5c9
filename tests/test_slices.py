"""Sliced distances: POT on the same directions, closed forms, and finite differences."""

import numpy as np
import pytest
from checks import torch

import otkit

ot = pytest.importorskip("ot")


@pytest.fixture
def clouds(rng):
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((21, 4)) + 0.5
    return x, y, rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(21))


def directions(rng, k, d):
    drawn = rng.standard_normal((k, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("p", [1, 1.5, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_that_of_pot_along_the_same_directions(p, weighted, clouds, rng):
    x, y, a, b = clouds
    a[:5] = 0  # and ties
    x[7], y[3] = x[8], x[8]
    weights, theta = ((a / a.sum(), b) if weighted else (None, None)), directions(rng, 40, 4)
    ours = otkit.sliced_wasserstein(x, y, *weights, p=p, projections=theta)
    theirs = ot.sliced_wasserstein_distance(x, y, *weights, p=p, projections=theta.T)
    np.testing.assert_allclose(ours.distance, theirs, rtol=1e-12)
    assert ours.lower <= ours.distance <= ours.upper
    assert ours.upper - ours.lower <= 1e-9 * ours.upper


def test_a_shift_has_its_length_over_the_root_of_the_dimension(clouds):
    x, shift = clouds[0], np.array([3.0, 0.0, 4.0, 0.0])
    sliced = otkit.sliced_wasserstein(x, x + shift, projections=4000, rng=1)
    assert abs(sliced.distance - 5 / 4**0.5) < 4 * sliced.error
    assert 0.005 < sliced.error < 0.05
    assert otkit.sliced_wasserstein(x, x + shift, projections=1).error == np.inf


def test_the_standard_error_is_the_spread_over_seeds(clouds):
    x, y, a, b = clouds
    for p in (1, 2, 3):
        runs = [otkit.sliced_wasserstein(x, y, a, b, p=p, projections=50, rng=seed) for seed in range(60)]
        spread = np.std([run.distance for run in runs], ddof=1)
        assert 0.6 < np.mean([run.error for run in runs]) / spread < 1.6


def test_the_largest_is_not_below_any_direction_and_finds_a_shift(clouds, rng):
    x, y, a, b = clouds
    for p in (1, 2, 4):
        found = otkit.sliced_wasserstein(x, y, a, b, p=p, largest=True, projections=20, rng=0)
        every = otkit.sliced_wasserstein(x, y, a, b, p=p, projections=directions(rng, 3000, 4))
        assert found.projections.shape == (1, 4)
        np.testing.assert_allclose(np.linalg.norm(found.projections), 1, rtol=1e-12)
        assert found.distance >= every.projected.distance.max() * (1 - 1e-3)
        assert found.distance <= otkit.wasserstein(x, y, a, b, p=p).upper
    shift = np.array([3.0, 0.0, 4.0, 0.0])
    np.testing.assert_allclose(float(otkit.sliced_wasserstein(x, x + shift, largest=True, rng=0)), 5, rtol=1e-9)
    assert float(otkit.sliced_wasserstein(x, x, largest=True, rng=0)) == 0


def test_items_of_a_batch_are_single_calls(rng):
    x, y, a = rng.random((2, 1, 9, 3)), rng.random((3, 7, 3)), rng.dirichlet(np.ones(9), (2, 1))
    for options in ({}, {"largest": True}):
        batch = otkit.sliced_wasserstein(x, y, a, projections=8, rng=0, **options)
        assert batch.distance.shape == batch.error.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                one = otkit.sliced_wasserstein(x[i, 0], y[j], a[i, 0], projections=8, rng=0, **options)
                np.testing.assert_allclose(batch.distance[i, j], one.distance, rtol=1e-12)


def test_units_do_not_matter(clouds, rng):
    x, y, a, b = clouds
    theta = directions(rng, 9, 4)
    one = otkit.sliced_wasserstein(x, y, a, b, p=8, projections=theta)
    for unit in (2.0**-200, 2.0**200):
        scaled = otkit.sliced_wasserstein(unit * x, unit * y, a, b, p=8, projections=theta)
        np.testing.assert_allclose(scaled.distance, unit * one.distance, rtol=1e-12)
        np.testing.assert_allclose(scaled.error, unit * one.error, rtol=1e-12)


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("largest", [False, True])
def test_gradients_are_finite_differences(largest, clouds):
    x, y, a, b = (torch.tensor(v, requires_grad=True) for v in clouds)
    theta = torch.tensor(directions(np.random.default_rng(1), 5, 4), requires_grad=not largest)
    if largest:
        theta = otkit.sliced_wasserstein(x, y, largest=True, rng=0).projections

    def distance(x, y, a, b, theta):
        return otkit.sliced_wasserstein(x, y, a / a.sum(), b / b.sum(), p=3, projections=theta).distance

    assert torch.autograd.gradcheck(distance, (x, y, a, b, theta), atol=1e-6)
    same = otkit.sliced_wasserstein(x, x.detach(), rng=0).distance
    same.backward()
    assert same == 0
    assert (x.grad == 0).all()


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_the_gradient_of_the_largest_moves_the_clouds_apart(clouds):
    x, y = (torch.tensor(v, requires_grad=True) for v in clouds[:2])
    found = otkit.sliced_wasserstein(x, y, largest=True, rng=0)
    found.distance.backward()
    theta = torch.as_tensor(found.projections)[0]
    assert torch.linalg.norm(x.grad - (x.grad @ theta)[:, None] * theta) < 1e-12  # along the direction
    with torch.no_grad():
        further = otkit.sliced_wasserstein(x + 0.1 * x.grad, y, largest=True, rng=0)
    assert float(further) > float(found)


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_single_precision_stays(clouds):
    x, y = (torch.tensor(v, dtype=torch.float32) for v in clouds[:2])
    distance = otkit.sliced_wasserstein(x.requires_grad_(), y, rng=0).distance
    assert distance.dtype == torch.float32
    np.testing.assert_allclose(distance.item(), otkit.sliced_wasserstein(*clouds[:2], rng=0).distance, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros(3)}, r"pass x\[:, None\]"),
        ({"y": np.zeros((5, 3))}, "same dimension, got 4 and 3"),
        ({"a": np.ones(4)}, "a must have 30 weights"),
        ({"a": np.full(30, 2.0)}, "same total mass"),
        ({"p": 0.5}, "p must be from 1 to 1024"),
        ({"projections": 0}, "projections must be a positive whole number"),
        ({"projections": np.ones((4, 7))}, r"directions of shape \(..., k, 4\), got shape \(4, 7\); each row is one"),
        ({"projections": np.full((2, 4), np.nan)}, "projections must be finite"),
        ({"projections": np.ones((2, 4)), "rng": 0}, "drop one of them"),
        ({"y": np.full((5, 4), np.inf)}, "y must be finite"),
    ],
)
def test_bad_input(change, words, clouds):
    x, y, _, _ = clouds
    with pytest.raises(ValueError, match=words):
        otkit.sliced_wasserstein(**{"x": x, "y": y, **change})


def test_it_prints_as_one_line(clouds):
    assert "SW2 = " in repr(otkit.sliced_wasserstein(*clouds, rng=0))
    assert "(2,) problems" in repr(otkit.sliced_wasserstein(np.stack([clouds[0]] * 2), clouds[1]))
