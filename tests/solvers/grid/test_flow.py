"""Exact city-block distances between images, as flows along the edges of the grid."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import otkit
from otkit import GridFlow, Status


def random_case(rng):
    d = rng.integers(1, 4)
    shape = tuple(int(n) for n in rng.integers(1, (200, 30, 10)[d - 1], size=d))
    spacing = tuple(float(h) for h in rng.choice([1e-6, 0.3, 1.0, 2.0], d))
    a, b = rng.random((2, *shape)) ** rng.choice([0.5, 3, 20]) * (rng.random((2, *shape)) > rng.choice([0, 0.3, 0.9]))
    if rng.random() < 0.3:  # ties
        a, b = (rng.integers(0, 3, shape).astype(float) for _ in range(2))
    a.flat[rng.integers(a.size)] = b.flat[rng.integers(b.size)] = 1.0
    return a / a.sum(), b / b.sum(), spacing


def check_flow(seed):
    a, b, spacing = random_case(np.random.default_rng(seed))
    found = otkit.solve_grid(a, b, spacing=spacing, metric="cityblock", method=GridFlow())
    exact = otkit.solve_grid(a, b, spacing=spacing, metric="cityblock", method="exact")
    assert found.status is Status.CONVERGED
    assert float(found.value) == pytest.approx(float(exact.value), rel=1e-11, abs=1e-14)
    assert found.lower <= exact.upper
    assert exact.lower <= found.upper
    assert found.error <= 1e-14
    arcs = found.plan_sparse()
    assert (arcs.mass > 0).all()
    assert arcs.mass.size <= 3 * a.size
    rows, cols = (np.bincount(index, arcs.mass, a.size) for index in (arcs.row, arcs.col))
    assert_allclose(rows, a.ravel(), atol=1e-15)
    assert_allclose(cols, b.ravel(), atol=1e-15)


@pytest.mark.parametrize("seed", range(60))
def test_flows_are_optimal(seed):
    check_flow(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 1000))
def test_more_flows_are_optimal(seed):
    check_flow(seed)


def test_one_dimension_is_the_area_between_distributions(rng):
    a, b = rng.dirichlet(np.ones(500), 2)
    result = otkit.solve_grid(a, b, spacing=0.5, metric="cityblock", method="flow")
    assert float(result.value) == pytest.approx(0.5 * abs(np.cumsum(a - b)).sum(), rel=1e-12)


def test_images_moved_by_whole_pixels_and_equal_ones(rng):
    a = np.zeros((150, 140))
    a[5:40, 10:50] = rng.random((35, 40))
    a /= a.sum()
    moved = otkit.solve_grid(a, np.roll(a, (100, 25), (0, 1)), metric="cityblock")
    assert moved.method == "flow"
    assert float(moved.value) == pytest.approx(125, rel=1e-12)
    assert moved.upper - moved.lower <= 1e-9 * moved.upper
    same = otkit.solve_grid(a, a, metric="cityblock")
    assert same.value == 0
    assert same.upper <= 1e-11
    assert same.n_iter == 0


@pytest.mark.parametrize("shape", [(1,), (2,), (300, 300), (7, 1, 9)])
@pytest.mark.parametrize("spacing", [1e-6, 1.0, 1e6])
def test_one_cell_is_sure_to_stay(shape, spacing):
    a = np.eye(1, np.prod(shape), np.prod(shape) // 2).reshape(shape)
    found = otkit.solve_grid(a, a, spacing=spacing, metric="cityblock", method="flow")
    assert found.status is Status.CONVERGED
    assert found.value == 0


def test_batches_and_pivots_that_run_out(rng):
    a, b = rng.dirichlet(np.ones(1200), (2, 3)).reshape(2, 3, 40, 30)
    whole = otkit.solve_grid(a, b, spacing=(1.0, 2.0), metric="cityblock")
    for k in range(3):
        one = otkit.solve_grid(a[k], b[k], spacing=(1.0, 2.0), metric="cityblock")
        assert whole.value[k] == one.value
    with pytest.warns(otkit.ConvergenceWarning):
        short = otkit.solve_grid(a[0], b[0], spacing=(1.0, 2.0), metric="cityblock", max_iter=100)
    assert short.status is Status.MAX_ITER
    assert short.lower <= whole.lower[0] <= whole.upper[0] <= short.upper
    assert short.error <= 1e-14
