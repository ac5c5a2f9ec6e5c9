"""Exact solutions between many points, priced through trees: here few points, with limits that are lowered."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

import otkit
from otkit import PointCloud, Status
from otkit.kernels import searches
from otkit.problems import LinearProblem
from otkit.solvers import Exact, run
from otkit.solvers.exact import solver


@pytest.fixture
def _many(monkeypatch):
    """A hundred pairs of points count as many."""
    monkeypatch.setattr(searches, "MANY", 100)
    monkeypatch.setattr(solver, "_FORMED", 100)


def problem(kind, rng):
    """Points and weights of two sides."""
    n, m = 120, 170
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 1
    a, b = rng.random(n), rng.random(m)
    if kind == "lattice":
        x, y = np.round(2 * x), np.round(2 * y)
    if kind == "equal":
        x, y = np.repeat(x[:3], 40, 0), np.repeat(y[:2], 85, 0)
    if kind == "zeros":
        a[::3], b[1::4] = 0, 0
    if kind == "outlier":
        x[0] = 1e5
    scale = {"small": 1e-8, "large": 1e8}.get(kind, 1.0)
    return x * scale, y * scale, a / a.sum(), b / b.sum()


@pytest.mark.usefixtures("_many")
@pytest.mark.parametrize("kind", ["normal", "lattice", "equal", "zeros", "outlier", "small", "large"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "chebyshev", ("power", 3)])
def test_from_potentials_the_optimum_is_that_of_the_matrix(kind, metric):
    rng = np.random.default_rng(3)
    x, y, a, b = problem(kind, rng)
    cloud = PointCloud(x, y, metric)
    wanted = otkit.solve(cloud.flat(()).block(slice(0, 1), slice(None))[0], a, b)
    for noise in (0.0, 0.1):
        part = LinearProblem.build(cloud, a, b)
        assert part.kernels is searches.TREES
        g = np.asarray(wanted.g) + noise * np.ptp(wanted.g) * rng.normal(size=b.size) - part.reduced.col[0]
        found = run(part, Exact(), (0 * part.a, g[None]))
        assert found.status == [Status.CONVERGED]
        scale = abs(float(wanted.value))
        assert_allclose(found.certificate.upper, wanted.value, rtol=1e-9, atol=1e-12 * scale)
        assert found.certificate.lower <= wanted.upper
        assert found.certificate.upper >= wanted.lower


@pytest.mark.usefixtures("_many")
def test_a_batch_of_many_points_is_solved_from_its_potentials():
    rng = np.random.default_rng(4)
    x, y = rng.random((2, 150, 3)), rng.random((2, 150, 3))
    part = LinearProblem.build(PointCloud(x, y))
    g = -part.reduced.col / 2 + 0.05 * rng.random((2, 150))
    found = run(part, Exact(), (0 * part.a, g))
    for k in range(2):
        C = ((x[k][:, None] - y[k]) ** 2).sum(-1)
        assert_allclose(found.certificate.upper[k], C[linear_sum_assignment(C)].mean(), rtol=1e-12)


@pytest.mark.usefixtures("_many")
def test_pricing_adds_arcs_to_fewer_rows_where_very_many_are_cheaper(monkeypatch):
    from otkit.solvers.exact import listed

    monkeypatch.setattr(listed, "_MOST", 1)
    monkeypatch.setattr(listed, "_RANKS", 1)
    rng = np.random.default_rng(5)
    x, y = np.repeat(rng.random((6, 2)), 10, 0), np.repeat(rng.random((5, 2)), 12, 0)
    part = LinearProblem.build(PointCloud(x, y))
    found = run(part, Exact(), (0 * part.a, -part.reduced.col / 2 + 0.2 * rng.random((1, 60))))
    C = ((x[:, None] - y) ** 2).sum(-1)
    assert_allclose(found.certificate.upper, C[linear_sum_assignment(C)].mean(), rtol=1e-12)
