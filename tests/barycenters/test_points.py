"""Barycenters of clouds whose points coincide, or whose spread is tiny or large."""

import numpy as np
import pytest

import otkit

METRICS = ["euclidean", ("power", 1.0), ("power", 1.5), "cityblock", "sqeuclidean"]


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("point", [[0.3, 0.2], [0.0, 0.0], [3e200, -2e200]], ids=str)
@pytest.mark.parametrize("K", [1, 3])
def test_the_barycenter_of_equal_points_is_this_point(metric, point, K):
    found = otkit.barycenter([[point]] * K, np.arange(1.0, K + 1), metric=metric)
    assert found.converged
    np.testing.assert_array_equal(found.points, [point])
    assert found.value == 0
    if max(point) < 1:
        found = otkit.barycenter([[point]] * K, np.arange(1.0, K + 1), metric=metric, support=[[1.0, 7.0]])
        np.testing.assert_allclose(found.points, [point], atol=1e-15)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_points_without_mass_do_not_count(metric, rng):
    cloud = rng.normal(size=(5, 2)), np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    for K in (1, 3):
        found = otkit.barycenter([cloud] * K, metric=metric)
        np.testing.assert_allclose(found.points[1], cloud[0][1], rtol=1e-15)
        assert found.value == 0


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("scale", [1e-100, 1e140])
def test_points_scale_with_the_data(metric, scale, rng):
    clouds = [rng.normal(size=(5, 2)), rng.normal(size=(7, 2))]
    for support in (1, 3):
        one = otkit.barycenter(clouds, support=support, metric=metric)
        scaled = otkit.barycenter([scale * x for x in clouds], support=support, metric=metric)
        np.testing.assert_allclose(scaled.points / scale, one.points, rtol=1e-9)


@pytest.mark.parametrize("mass", [1e-300, 1e300])
def test_points_do_not_depend_on_the_unit_of_mass(mass, rng):
    x, y = rng.normal(size=(2, 5, 2))
    one, scaled = (
        otkit.barycenter([(x, np.full(5, w)), (y, np.full(5, w))], support=2, metric="euclidean") for w in (1.0, mass)
    )
    np.testing.assert_allclose(scaled.points, one.points, rtol=1e-9)
