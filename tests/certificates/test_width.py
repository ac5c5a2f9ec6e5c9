"""Which intervals count as exact where all costs are equal, so that all plans are optimal."""

import numpy as np
import pytest

import otkit
from otkit import Status


@pytest.mark.parametrize("method", ["exact", "multiscale", "annealing"])
@pytest.mark.parametrize("metric", ["cosine", "cityblock", ("power", 1.5), ("power", 3)])
@pytest.mark.parametrize("d", [2, 3])
def test_one_point_stays_where_it_is(method, metric, d, rng):
    x = rng.normal(size=(1, d))
    found = otkit.solve_sample(x, x.copy(), metric=metric, method=method)
    assert found.status is Status.CONVERGED
    assert found.value == 0
    assert found.upper <= 1e-14


def test_points_at_one_place_are_at_one_cost(rng):
    x, y = np.repeat(rng.normal(size=(2, 1, 64)), 5, axis=1)
    a, b = rng.dirichlet(np.ones(5), 2)
    found = otkit.solve_sample(x, y, a, b, metric="cosine", method="exact")
    cost = 1 - x[0] @ y[0] / np.linalg.norm(x[0]) / np.linalg.norm(y[0])
    assert found.status is Status.CONVERGED
    assert float(found.value) == pytest.approx(cost, rel=1e-12)


def test_potentials_that_round_too_much_leave_a_wide_interval():
    found = otkit.certify([[-1.0]], f=[1e20])
    assert found.status is not Status.CONVERGED
    assert found.lower < -1.0 <= found.upper


@pytest.mark.parametrize("d", [3, 5000])
@pytest.mark.parametrize("n", [1, 4])
def test_an_interval_of_rounding_errors_is_not_called_exact(n, d, rng):
    """Also of one point, which has one plan: its costs are positive, and known to no digit."""
    x, y = 1e8 + rng.normal(size=(n, d)), 1e8 + rng.normal(size=(5, d))
    with pytest.warns(otkit.ConvergenceWarning):
        found = otkit.solve_sample(x, y, metric="cosine")
    assert found.status is Status.IMPRECISE
    assert found.value > 0
    assert found.lower == 0 or found.upper > 1.01 * found.lower
