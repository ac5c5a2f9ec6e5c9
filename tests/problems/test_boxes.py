"""Bounds of the costs of many points, which are not reduced where cells solve the problem."""

import numpy as np
import pytest

import otkit
from otkit import PointCloud, Status
from otkit.problems.boxes import boxes_range
from otkit.problems.linear import LinearProblem


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "chebyshev", "cosine", ("power", 3.0)])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_no_cost_is_above_that_of_boxes(metric, d, rng):
    x, y = rng.normal(size=(3, 50, d)), rng.normal(size=(1, 40, d)) * 2 + 5
    cloud = PointCloud(x, y, metric).flat((3,))
    found = boxes_range(cloud, np.ones((3, 50), dtype=bool), np.ones((3, 40), dtype=bool))
    largest = cloud.block(slice(0, 3), slice(None)).max((1, 2))
    assert found.high.shape == (3,)
    assert (found.high >= largest).all()
    assert (found.high <= 9 * largest + 8).all()
    assert not found.row.any()


def test_costs_whose_bound_overflows_are_reduced():
    x = np.zeros((5000, 2))
    x[0], x[1] = (1.2e154, 0), (0, 1.2e154)  # no pair is as far as the corners of the box
    problem = LinearProblem.build(PointCloud(x, np.zeros((5000, 2))), reduces=False)
    assert np.isfinite(problem.span).all()


def test_far_clouds_are_as_exact_as_near_ones(rng):
    x, y = rng.random((2, 5000, 2))
    near = otkit.solve_sample(x, y)
    away = np.array([2.0**14, -(2.0**15)])
    far = otkit.solve_sample(x, y + away)
    assert near.method == far.method == "multiscale"
    assert far.status is near.status is Status.CONVERGED
    between = 2 * away @ (y.mean(0) - x.mean(0)) + away @ away
    assert float(far.value) == pytest.approx(float(near.value + between), rel=1e-12)
