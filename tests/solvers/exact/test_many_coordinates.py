import itertools
import warnings

import numpy as np
import pytest
from strategies import distances, told

import otkit
from otkit.geometry.costs import UNIT, Cost, cancelled
from otkit.solvers.exact import small, solver

CASES = [
    ("cosine", 768),
    ("sqeuclidean", 1536),
    ("euclidean", 4096),
    (("power", 3), 1536),
    (("power", 0.5), 17),
    ("cityblock", 1536),
    ("sqeuclidean", 64 * 64 * 3),
]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "general"])
@pytest.mark.parametrize(("metric", "d"), CASES, ids=str)
def test_embeddings_and_images_are_solved_exactly(metric, d, compiled, rng, monkeypatch):
    if not compiled:
        monkeypatch.setattr(small, "LARGEST", 0)
    x, y = rng.normal(size=(30, d)), rng.normal(size=(25, d))
    y[:5] = x[:5] + 1e-3 * rng.normal(size=(5, d))  # cancels in products of matrices
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = otkit.solve_sample(x, y, metric=metric)
        matrix = otkit.solve(distances(x, y, metric))
    assert result.converged
    assert result.upper - result.lower <= 1e-9 * result.upper
    assert result.lower <= float(matrix.value) <= result.upper


def test_distances_between_clouds_of_many_coordinates_do_not_warn(rng):
    clouds = list(rng.normal(size=(4, 20, 1536)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = otkit.pairwise(clouds)
        alone = otkit.wasserstein(clouds[0], clouds[1])
    assert pairs.distance[0, 1] == pytest.approx(float(alone.distance), rel=1e-12)


@pytest.mark.parametrize("scale", [1e6, 1e12])
def test_a_batch_has_the_bounds_of_its_items(scale, rng):
    x, y = rng.normal(size=(2, 10, 20)), rng.normal(size=(12, 20))
    alone = otkit.solve_sample(x[0], y)
    x[1] *= scale
    both = otkit.solve_sample(x, y)
    assert both.converged.all()
    assert both.upper[0] - both.lower[0] <= 2 * (alone.upper - alone.lower)


@pytest.mark.parametrize("d", [17, 300, 5000])
def test_products_of_matrices_lose_no_more_digits_than_stated(d, rng):
    """Distances just above the part of the lengths below which they are formed from differences."""
    x = rng.normal(size=(40, d))
    y = x + (2.1 * cancelled(d)) ** 0.5 * rng.normal(size=(40, d))
    geometry = otkit.PointCloud(x, y).flat(())
    found = np.diag(geometry.block(slice(0, 1), slice(None))[0])
    wanted = ((x.astype(np.longdouble) - y) ** 2).sum(-1)
    relative, absolute = geometry.rounding
    assert (abs(found - wanted) <= relative * wanted + absolute).all()
    assert relative <= 2.0**-33.9
    assert Cost("euclidean", 2.0, by_products=False).rounding(d, 1.0, 1.0)[0] <= 2 * (d + 7) * UNIT


@pytest.mark.parametrize("whole", [True, False], ids=["whole numbers", "normal"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_costs_that_differ_from_those_of_a_pass_end_too(metric, whole, monkeypatch):
    """Passes multiply matrices, and listed arcs have costs from differences: both round, each in its way."""
    monkeypatch.setattr(small, "LARGEST", 0)
    monkeypatch.setattr(solver, "_ALL", 0)
    monkeypatch.setattr(solver, "_FORMED", 0)
    for seed in range(8):
        rng, steps = np.random.default_rng(seed), itertools.count()
        x, y = rng.normal(size=(5 + seed, 1500)), rng.normal(size=(7, 1500))
        if whole:
            x, y = np.rint(3 * x), np.rint(3 * y)
        a, b = rng.dirichlet(np.ones(5 + seed)), rng.dirichlet(np.ones(7))
        with told(seed):
            result = otkit.solve_sample(
                x, y, a, b, metric=metric, strict=True, callback=lambda _, steps=steps: next(steps) > 200
            )
            wanted = otkit.solve(distances(x, y, metric), a, b)
            assert float(result.value) == pytest.approx(float(wanted.value), rel=1e-12)
