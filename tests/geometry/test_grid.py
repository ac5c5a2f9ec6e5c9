"""Grids: the same problems as points at the places of the cells, in every library, and what is refused."""

import numpy as np
import pytest
from checks import torch
from numpy.testing import assert_allclose

import otkit
from otkit import Grid


def points(shape, spacing=1.0):
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return places.reshape(-1, len(shape)) * np.asarray(spacing, dtype=float)


def images(rng, *shape, holes=0.2):
    a, b = rng.random((2, *shape)) * (rng.random((2, *shape)) > holes)
    a.flat[0] = b.flat[-1] = 1.0
    return a / a.sum(), b / b.sum()


CASES = [((12,), 0.5, "cityblock"), ((5, 6), (1.0, 0.3), "sqeuclidean"), ((3, 4, 3), 2.0, "sqeuclidean")]


@pytest.mark.parametrize(("shape", "spacing", "metric"), CASES)
def test_a_grid_is_its_cells_as_points(shape, spacing, metric, rng):
    a, b = images(rng, *shape)
    x = points(shape, spacing)
    for options in (dict(reg=0.3, tol=1e-10), dict(reg=0.3, tol=1e-10, unbalanced=2.0), {}):
        found = otkit.solve_grid(a, b, spacing=spacing, metric=metric, **options)
        wanted = otkit.solve_sample(x, x, a.ravel(), b.ravel(), metric=metric, **options)
        assert_allclose(found.value, wanted.value, rtol=1e-9)
        assert found.lower <= found.upper
        assert found.lower <= wanted.upper
        assert wanted.lower <= found.upper
        if options:
            assert_allclose(found.f, wanted.f, atol=1e-7)
            assert_allclose(found.plan, wanted.plan, atol=1e-9)
            assert_allclose(found.apply(x), wanted.apply(x), atol=1e-7)


def test_leading_axes_are_a_batch(rng):
    a, b = rng.random((2, 3, 4, 5))
    b *= (a.sum((1, 2)) / b.sum((1, 2)))[:, None, None]
    found = otkit.solve_grid(a, b, spacing=(1.0, 1.0), reg=0.5)
    assert found.value.shape == (3,)
    assert found.f.shape == (3, 20)
    for k in range(3):
        assert_allclose(found.value[k], otkit.solve_grid(a[k], b[k], reg=0.5).value, rtol=1e-12)


def test_results_are_in_the_library_and_dtype_of_the_images(rng):
    a, b = images(rng, 5, 4)
    wanted = otkit.solve_grid(a, b, reg=0.2)
    found = otkit.solve_grid(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32), reg=0.2)
    assert found.f.dtype == torch.float32
    assert wanted.f.dtype == np.float64
    assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-4)
    assert found.kernel == "grid (torch)"
    assert wanted.kernel == "grid (numpy)"


@pytest.mark.parametrize("reg", [0.3, None])
def test_gradients_by_the_images(reg, rng):
    a, b = images(rng, 4, 3, holes=0.0)
    x, tol = torch.tensor(points((4, 3))), reg and 1e-9
    by = []
    for solve in (
        lambda a, b: otkit.solve_grid(a, b, reg=reg, tol=tol),
        lambda a, b: otkit.solve_sample(x, x, a.reshape(-1), b.reshape(-1), reg=reg, tol=tol),
    ):
        a_, b_ = (torch.tensor(w, requires_grad=True) for w in (a, b))
        solve(a_, b_).value.backward()
        by.append((a_.grad - a_.grad.mean(), b_.grad - b_.grad.mean()))
    (a_1, b_1), (a_2, b_2) = by
    assert_allclose(a_1, a_2, atol=1e-5)
    assert_allclose(b_1, b_2, atol=1e-5)


def test_gradients_by_the_images_through_the_solution(rng):
    a, b = images(rng, 4, 3, holes=0.0)
    v = rng.random(12)

    def moved(a, b):
        result = otkit.solve_grid(a, b, reg=0.5, tol=1e-12)
        return result.f @ torch.tensor(v) + result.value_linear

    a_, b_ = (torch.tensor(w, requires_grad=True) for w in (a, b))
    moved(a_, b_).backward()
    d = rng.standard_normal((4, 3))
    d -= d.mean()
    step = 1e-6
    ends = [float(moved(torch.tensor(a + s * step * d), torch.tensor(b))) for s in (1, -1)]
    assert float((a_.grad * torch.tensor(d)).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shape=(2, 2, 2, 2)), "one to three axes"),
        (dict(shape=(0, 2)), "one to three axes"),
        (dict(shape=(2, 2), spacing=-1.0), "spacing must be a positive number"),
        (dict(shape=(2, 2), spacing=(1.0, 1.0, 1.0)), "spacing must be a positive number, or 2"),
        (dict(shape=(2, 2), metric="euclidean"), "pass the cells with mass as points to otkit.solve_sample"),
        (dict(shape=(2, 2), metric=("axiswise", 0.5)), "must have a p from 1"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(**arguments)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"one grid of 2 axes, got shapes \(2, 3\) and \(3, 2\)"):
        otkit.solve_grid(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="non-negative"):
        otkit.solve_grid(-np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="costs of a grid must be from 1e-280"):
        otkit.solve_grid(np.ones((2, 2)), np.ones((2, 2)), spacing=1e-200)


def test_wasserstein_distances_of_images(rng):
    a, b = images(rng, 6, 5)
    x = points((6, 5), 0.5)
    for p, metric, cost in ((2, "euclidean", "sqeuclidean"), (1, "cityblock", "cityblock")):
        grid = Grid((6, 5), 0.5, cost)
        found = otkit.wasserstein(grid, grid, a, b, p=p, metric=metric)
        wanted = otkit.wasserstein(x, x, a.ravel(), b.ravel(), p=p, metric=metric)
        assert found.distance == pytest.approx(wanted.distance, rel=1e-10)
        assert found.lower <= wanted.upper
        assert wanted.lower <= found.upper
    line = Grid((30,), 0.5, ("axiswise", 3))
    found = otkit.wasserstein(line, line, a.ravel(), b.ravel(), p=3)
    assert found.result.method == "univariate"
    x = points((30,), 0.5)
    assert found.distance == pytest.approx(otkit.wasserstein(x, x, a.ravel(), b.ravel(), p=3).distance, rel=1e-12)


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (Grid((3, 2)), {}, "must be one grid"),
        (np.zeros((6, 2)), {}, "must be one grid"),
        (Grid((2, 3)), dict(p=1), "with the same cost in the Grid, got p=1"),
        (Grid((2, 3)), dict(p=3), "with the same cost in the Grid, got p=3"),
        (Grid((2, 3)), dict(metric="cityblock"), "with the same cost in the Grid"),
        (Grid((2, 3)), dict(p=np.inf), "with the same cost in the Grid, got p=inf"),
        (Grid((2, 3)), dict(a=np.ones(5)), r"a must have the shape of the grid, \(..., \(2, 3\)\), got \(5,\)"),
    ],
)
def test_distances_that_a_grid_does_not_have_are_refused(other, options, message):
    with pytest.raises(ValueError, match=message):
        otkit.wasserstein(Grid((2, 3)), other, **options)


@pytest.mark.parametrize(
    ("shape", "metric", "method"),
    [
        ((150, 150), "sqeuclidean", "coarse-to-fine"),
        ((130, 130), "sqeuclidean", "multiscale"),
        ((100, 90), "sqeuclidean", "multiscale"),
        ((20, 10, 9), "sqeuclidean", "exact"),
        ((130, 130), "cityblock", "flow"),
        ((6, 5), "cityblock", "flow"),
        ((70, 70), ("axiswise", 1.5), "coarse-to-fine"),
        ((70, 70), ("axiswise", 3), "annealing"),
        ((30, 30), ("axiswise", 3), "exact"),
        ((10_000,), ("axiswise", 1.5), "univariate"),
    ],
)
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_the_method_that_is_chosen(rng, shape, metric, method):
    a, b = images(rng, *shape)
    assert otkit.solve_grid(a, b, metric=metric, time_limit=1e-3).method == method
