import numpy as np
import ot
import pytest
from scipy.stats import wasserstein_distance_nd

import otkit


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "cosine"])
def test_wasserstein_is_the_root_of_the_optimum(p, metric, rng):
    x, y = rng.standard_normal((25, 3)), rng.standard_normal((20, 3)) + 0.5
    found = otkit.wasserstein(x, y, p=p, metric=metric, rtol=1e-3)
    D = ot.dist(x, y, metric)
    exact = ot.emd2([], [], D**p) ** (1 / p)
    assert found.lower - 1e-12 <= exact <= found.upper + 1e-12
    assert found.upper - found.lower <= 1e-3 * found.upper
    assert found.lower <= found.distance <= found.upper
    assert float(found) == found.distance
    assert found.converged
    assert found.p == p
    P = found.result.plan
    assert (P * D**p).sum() ** (1 / p) == pytest.approx(found.distance, rel=1e-12)


def test_wasserstein_takes_a_callable_and_agrees_with_scipy(rng):
    x, y = rng.random((12, 2)), rng.random((10, 2))

    def largest(x, y):
        return abs(x[..., :, None, :] - y[..., None, :, :]).max(-1)

    found = otkit.wasserstein(x, y, p=1, metric=largest, rtol=1e-6)
    assert found.distance == pytest.approx(ot.emd2([], [], ot.dist(x, y, "chebyshev")), rel=1e-6)
    found = otkit.wasserstein(x, y, p=1, rtol=1e-6)
    assert found.distance == pytest.approx(wasserstein_distance_nd(x, y), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool])
@pytest.mark.parametrize("p", [2, 20, 540, np.inf])
@pytest.mark.parametrize("d", [1, 2])
def test_whole_numbers_are_points_like_others(dtype, p, d, rng):
    x, y = (rng.integers(0, 2 if dtype is bool else 100, (n, d)).astype(dtype) for n in (7, 5))
    wanted = otkit.wasserstein(x.astype(float), y.astype(float), p=p)
    for points in ((x, y), (x.tolist(), y.tolist()), (x, y.astype(float))):
        assert otkit.wasserstein(*points, p=p).distance == pytest.approx(wanted.distance, rel=1e-13)
    x, y = x[:, :1], y[:, :1]
    wanted = otkit.wasserstein(x.astype(float), y.astype(float), p=p, period=24)
    assert otkit.wasserstein(x, y, p=p, period=24).distance == pytest.approx(wanted.distance, rel=1e-13)


def test_whole_numbers_far_beyond_those_of_floats():
    found = otkit.wasserstein([[0, 0], [10**18, 1]], [[0, 1], [2 * 10**18, 3]], p=9)
    assert found.distance == pytest.approx(10**18 * 0.5 ** (1 / 9), rel=1e-12)


def test_only_one_distance_is_a_float(rng):
    found = otkit.wasserstein(rng.random((2, 5, 2)), rng.random((4, 2)))
    assert found.distance.shape == (2,)
    assert (found.lower <= found.distance).all()
    assert (found.distance <= found.upper).all()
    with pytest.raises(TypeError):
        float(found)


def test_close_measures_have_a_certified_small_distance(rng):
    x = rng.random((20, 2))
    for shift in (1e-3, 1e-7):
        found = otkit.wasserstein(x, x + [shift, 0])
        assert found.distance == pytest.approx(shift, rel=1e-2)
        assert found.converged


def test_a_distance_is_that_of_normalised_measures(rng):
    x, y, a, b = rng.random((9, 2)), rng.random((7, 2)), rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(7))
    one, other = otkit.wasserstein(x, y, a, b), otkit.wasserstein(x, y, 5 * a, 5 * b)
    assert other.distance == pytest.approx(one.distance, rel=1e-12)
    assert other.upper == pytest.approx(one.upper, rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-400, 2.0**-60, 2.0**-10, 1.0, 2.0**60, 2.0**400])
@pytest.mark.parametrize("p", [2, 4, 20, 100, 1000])
@pytest.mark.parametrize(
    ("metric", "order"),
    [("chebyshev", np.inf), (("minkowski", 3.0), 3.0), (("minkowski", 1.5), 1.5), ("euclidean", 2.0)],
)
def test_powers_neither_overflow_nor_underflow(metric, order, p, scale, rng):
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(10, 3))
    D = np.linalg.norm(x[:, None] - y, order, axis=-1)
    unit = otkit.wasserstein(x, y, p=np.inf, metric=metric).distance
    costs = np.minimum(D / unit, 1000 ** (1 / p)) ** p  # dearer arcs move nothing: a plan of less costs at most 1
    wanted = unit * ot.emd2([], [], costs) ** (1 / p)
    found = otkit.wasserstein(x * scale, y * scale, p=p, metric=metric)
    assert found.converged
    assert found.distance / scale == pytest.approx(wanted, rel=1e-9)
    assert found.lower <= found.distance <= found.upper <= found.lower * (1 + 1e-9)
