"""Cells and grids beside exact answers, on many random families: slow tests of what others show on a few."""

import warnings

import numpy as np
import pytest

import otkit
from otkit.solvers.exact import solver

pytestmark = pytest.mark.slow

METRICS = ("sqeuclidean", "euclidean", "cityblock", ("power", 1.5), ("power", 3.0))


def cloud(rng, n, d):
    """Points of a random family: shape, ties, duplicates, units and offset."""
    kind = rng.integers(7)
    x = {
        0: lambda: rng.random((n, d)),
        1: lambda: rng.normal(size=(n, d)) * rng.uniform(0.1, 3, d),
        2: lambda: rng.standard_t(2, (n, d)),
        3: lambda: rng.normal(size=(5, d))[rng.integers(5, size=n)] + 1e-2 * rng.normal(size=(n, d)),
        4: lambda: np.round(rng.normal(size=(n, d)), 1),
        5: lambda: rng.normal(size=(max(1, n // 3), d))[rng.integers(max(1, n // 3), size=n)],
        6: lambda: np.sort(rng.exponential(size=(n, d)), 0),
    }[int(kind)]()
    return x + rng.choice([0.0, 1.0, 100.0])


def weights(rng, n):
    kind = rng.integers(4)
    if kind == 0:
        return np.full(n, 1 / n)
    w = rng.pareto(1.5, n) + 1e-3 if kind == 1 else rng.random(n)
    if kind == 2:
        w[rng.random(n) < 0.4] = 0.0
        w[0] = 1.0
    return w / w.sum()


@pytest.mark.parametrize("seed", range(50))
def test_exact_cells_are_exact(monkeypatch, seed):
    monkeypatch.setattr(solver, "_FORMED", 2**28)  # the simplex reads a matrix, whatever its size
    rng = np.random.default_rng([seed, 17])
    d = int(rng.integers(2, 4))
    n, m = (2000 * 10 ** rng.random(2) ** 2).astype(int)
    x, y, metric = cloud(rng, n, d), cloud(rng, m, d), METRICS[seed % len(METRICS)]
    a, b = weights(rng, n), weights(rng, m)
    unit = 10.0 ** rng.integers(-8, 9)
    ours = otkit.solve_sample(unit * x, unit * y, a, b, metric=metric, method="multiscale")
    exact = otkit.solve_sample(unit * x, unit * y, a, b, metric=metric, method="exact")
    scale = float(np.max(exact.problem.high))
    assert ours.converged
    assert abs(float(ours.value) - float(exact.value)) <= 1e-10 * scale
    assert ours.plan_sparse().mass.size <= np.count_nonzero(a) + np.count_nonzero(b) - 1


@pytest.mark.parametrize("block", range(20))
def test_bounds_of_cells_hold(block):
    for seed in range(100):
        rng = np.random.default_rng([block, seed, 2])
        d = int(rng.integers(1, 4))
        n, m = rng.integers(1, 60, 2)
        x, y, a, b = cloud(rng, n, d), cloud(rng, m, d), weights(rng, n), weights(rng, m)
        metric = METRICS[int(rng.integers(len(METRICS)))]
        exact = float(otkit.solve_sample(x, y, a, b, metric=metric, method="exact").value)
        found = otkit.solve_sample(x, y, a, b, metric=metric, method=otkit.Multiscale(rtol=10.0 ** -rng.integers(1, 4)))
        slack = 1e-12 * float(np.max(found.problem.high))
        assert found.lower <= exact + slack, (block, seed)
        assert exact <= found.upper + slack, (block, seed)


@pytest.mark.parametrize("block", range(10))
def test_bounds_of_grids_hold(block):
    for seed in range(100):
        rng = np.random.default_rng([block, seed, 3])
        shape = tuple(rng.integers(2, {1: 60, 2: 14, 3: 6}[axes := int(rng.integers(1, 4))], axes))
        a, b = (weights(rng, int(np.prod(shape))).reshape(shape) for _ in range(2))
        metric = ("sqeuclidean", "cityblock", ("axiswise", 1.5))[int(rng.integers(3))]
        spacing = tuple(10.0 ** rng.uniform(-2, 2, axes))
        exact = float(otkit.solve_grid(a, b, spacing=spacing, metric=metric, method="exact").value)
        way = "flow" if metric == "cityblock" else "coarse-to-fine"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)  # an interval may be wide: it must hold
            found = otkit.solve_grid(a, b, spacing=spacing, metric=metric, method=way)
        slack = 1e-12 * float(np.max(found.problem.high))
        assert found.lower <= exact + slack, (block, seed)
        assert exact <= found.upper + slack, (block, seed)
