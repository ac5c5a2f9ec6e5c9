"""An item's answer does not depend on its neighbours, and padding is giving zero weight."""

import numpy as np
import pytest
from strategies import random_case

import otkit


@pytest.fixture(autouse=True)
def compiled_at_once(monkeypatch):
    """Loops of single small problems are compiled from the first call on, as those of batches are."""
    monkeypatch.setattr("otkit.kernels.numba.sweep._calls", 10**6)


def same(one, other, k=()):
    for name in ("value", "value_linear", "f", "g", "plan"):
        np.testing.assert_allclose(getattr(one, name)[k], getattr(other, name), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("options", [{}, {"max_iter": 40}], ids=["converged", "cut off"])
def test_items_are_solved_as_if_alone(options, rng):
    C = rng.random((6, 17, 13)) * np.array([1, 10, 0.1, 1, 1, 1e6])[:, None, None]
    a, b = rng.dirichlet(np.ones(17), 6), rng.dirichlet(np.full(13, 0.2), 6)
    reg = np.array([0.1, 0.05, 0.1, 1e-3, 2e-3, 1e4])
    together = otkit.solve(C, a, b, reg=reg, tol=1e-9, **options)
    for k in range(6):
        alone = otkit.solve(C[k], a[k], b[k], reg=reg[k], tol=1e-9, **options)
        assert together.n_iter[k] == alone.n_iter
        assert together.status[k] is alone.status
        same(together, alone, k)
        assert together.lower[k] == pytest.approx(alone.lower, rel=1e-12)
        assert together.upper[k] == pytest.approx(alone.upper, rel=1e-12)


def test_order_and_company_change_nothing(rng):
    C = rng.random((5, 12, 9))
    order = np.array([3, 0, 4])
    all_of_them, some = otkit.solve(C, reg=0.02), otkit.solve(C[order], reg=0.02)
    np.testing.assert_array_equal(some.n_iter, all_of_them.n_iter[order])
    np.testing.assert_array_equal(some.f, all_of_them.f[order])


def test_axes_broadcast(rng):
    C, a = rng.random((4, 1, 8, 6)), rng.dirichlet(np.ones(8), 3)
    reg = np.array([[0.1], [0.2], [0.3], [0.4]])
    result = otkit.solve(C, a, reg=reg)
    assert result.plan.shape == (4, 3, 8, 6)
    assert result.value.shape == result.error.shape == result.n_iter.shape == (4, 3)
    assert result.errors.shape[1:] == (4, 3)
    for i, j in np.ndindex(4, 3):
        same(result, otkit.solve(C[i, 0], a[j], reg=reg[i, 0]), (i, j))
    v = rng.random((4, 3, 6, 2))
    np.testing.assert_allclose(result.apply(v), result.plan @ v, rtol=1e-12)
    np.testing.assert_allclose(result.apply(v[..., 0]), (result.plan @ v)[..., 0], rtol=1e-12)
    np.testing.assert_allclose(result.apply(v[0, 0]), result.plan @ v[0, 0], rtol=1e-12)
    arcs = result.plan_sparse()
    dense = np.zeros((12, 8, 6))
    dense[arcs.item, arcs.row, arcs.col] = arcs.mass
    np.testing.assert_allclose(dense.reshape(4, 3, 8, 6), result.plan, atol=1e-9)


def test_one_cost_serves_many_weights_without_a_copy(rng):
    C, b = rng.random((30, 20)), rng.dirichlet(np.ones(20), 7)
    result = otkit.solve(C, None, b, reg=0.1)
    assert result.problem.geometry.C.shape == (1, 30, 20)
    for k in range(7):
        same(result, otkit.solve(C, None, b[k], reg=0.1), k)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{"reg": 0.3, "tol": 1e-10}, {"rtol": 1e-3}], ids=["entropic", "unregularised"])
def test_padding_with_zero_weights_changes_nothing(seed, options, rng):
    case = random_case(seed, n=20, m=15)
    bare = otkit.solve(case.C, case.a, case.b, **options)
    C = np.pad(case.C, ((0, 5), (0, 3)), constant_values=1e3)
    C[3:6, -2:], C[-1, 2] = np.inf, -50.0
    order_a, order_b = rng.permutation(25), rng.permutation(18)
    padded = otkit.solve(
        C[np.ix_(order_a, order_b)], np.pad(case.a, (0, 5))[order_a], np.pad(case.b, (0, 3))[order_b], **options
    )
    P = np.zeros_like(C)
    P[np.ix_(order_a, order_b)] = padded.plan
    assert (P[20:] == 0).all()
    assert (P[:, 15:] == 0).all()
    span = case.span
    # An unregularised answer is one of many within its interval, of which rounding chooses.
    assert padded.value == pytest.approx(bare.value, abs=(1e-12 if "reg" in options else 1e-8) * span)
    if "reg" in options:
        np.testing.assert_allclose(P[:20, :15], bare.plan, atol=1e-12)
    assert np.isfinite(padded.f).all()
    assert np.isfinite(padded.g).all()
    assert padded.lower == pytest.approx(bare.lower, abs=1e-12 * span)
    assert padded.upper == pytest.approx(bare.upper, abs=1e-12 * span)


def test_clouds_of_different_sizes_are_padded(rng):
    sizes = [5, 9, 12]
    x, y = [rng.random((k, 2)) for k in sizes], rng.random((7, 2))
    padded, weights = np.zeros((3, 12, 2)), np.zeros((3, 12))
    for k, cloud in enumerate(x):
        padded[k, : len(cloud)], weights[k, : len(cloud)] = cloud, 1 / len(cloud)
    together = otkit.wasserstein(padded, y, weights, rtol=1e-6)
    for k, cloud in enumerate(x):
        assert together.distance[k] == pytest.approx(otkit.wasserstein(cloud, y, rtol=1e-6).distance, rel=1e-6)
