import warnings
from fractions import Fraction

import numpy as np
import ot
import pytest
from checks import solved_by
from scipy.stats import wasserstein_distance

import otkit

_, solve_sample = solved_by("univariate", asked="auto")


@pytest.mark.parametrize("p", [1, 1.5, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_the_sorted_plan_is_optimal(p, seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 40, 2)
    x, y = rng.integers(0, 30, n) / 8.0, rng.standard_normal(m)
    a, b = rng.dirichlet(np.full(n, 0.3)), rng.dirichlet(np.full(m, 0.3))
    a[rng.random(n) < 0.2] = 0
    a = a / a.sum() if a.sum() else np.full(n, 1 / n)
    result = solve_sample(x[:, None], y[:, None], a, b, metric=("power", p))
    C = abs(x[:, None] - y) ** p
    assert result.method == "univariate"
    assert abs(result.value - ot.emd2(a, b, C)) < 1e-13 * C.max()
    P = result.plan
    assert (P >= 0).all()
    assert (P > 0).sum() <= n + m - 1
    np.testing.assert_allclose(P.sum(1), a, atol=1e-15)
    np.testing.assert_allclose(P.sum(0), b, atol=1e-15)
    f, g = result.potentials
    slack = 1e-13 * C.max()
    assert (f[:, None] + g <= C + slack).all()
    assert abs(((C - f[:, None] - g) * P).sum()) < slack
    assert result.lower <= result.value <= result.upper
    assert result.gap < slack


def test_the_bounds_hold_exactly():
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.random(9)), np.sort(rng.random(9))
    exact = sum(abs(Fraction(p) - Fraction(q)) for p, q in zip(x, y, strict=True)) / 9
    result = solve_sample(x[:, None], y[:, None], metric="euclidean")
    assert Fraction(float(result.lower)) <= exact <= Fraction(float(result.upper))


def test_against_scipy_and_for_many_points():
    rng = np.random.default_rng(0)
    x, y, a = rng.standard_normal(20_000), rng.exponential(size=30_000), rng.random(20_000)
    a /= a.sum()
    found = otkit.wasserstein(x[:, None], y[:, None], a, p=1)
    assert found.result.method == "univariate"
    assert found.distance == pytest.approx(wasserstein_distance(x, y, a), rel=1e-11)
    assert found.upper - found.lower < 1e-9


def test_batches_on_a_line():
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 2, 8, 1)), rng.random((2, 5, 1))
    found = otkit.wasserstein(x, y, p=2)
    assert found.result.method == "univariate"
    assert found.distance.shape == (3, 2)
    for k in np.ndindex(3, 2):
        one = otkit.wasserstein(x[k], y[k[1]], p=2)
        assert found.distance[k] == pytest.approx(one.distance, rel=1e-14)


@pytest.mark.parametrize("p", [1, 1.5, 2, 7])
@pytest.mark.parametrize("data", ["plain", "one side weighted", "crowded", "same array"])
def test_one_pass_from_the_arrays_gives_the_result_of_the_general_way(data, p, rng):
    x, y = rng.integers(0, 50, (40, 1)) / 8, rng.normal(size=(60, 1))
    a, b = 3 * rng.dirichlet(np.ones(40)), None
    if data == "plain":
        a = None
    elif data == "crowded":
        y, b = np.exp(5 * y), 3 * rng.dirichlet(np.ones(60))
    elif data == "same array":
        x, a, b = y, rng.dirichlet(np.ones(60)), rng.dirichlet(np.ones(60))
    else:
        a = a / a.sum()
    quick = otkit.solve_sample(x, y, a, b, metric=("power", p))
    slow = otkit.solve_sample(x, y, a, b, metric=("power", p), method=otkit.Univariate())
    for name in ("value", "f", "g", "plan", "lower", "upper", "error"):
        np.testing.assert_allclose(getattr(quick, name), getattr(slow, name), rtol=1e-12, atol=1e-13, err_msg=name)
    assert quick.lower <= quick.value <= quick.upper
    for name in ("status", "method", "kernel", "n_iter", "tol", "errors"):
        np.testing.assert_array_equal(getattr(quick, name), getattr(slow, name), err_msg=name)
    np.testing.assert_allclose(quick.problem.span, slow.problem.span)
    mean = float(slow.value) / (3 if data == "crowded" else 1)
    assert otkit.wasserstein(x, y, a, b, p=p).distance == pytest.approx(mean ** (1 / p), rel=1e-13)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_points_on_a_line_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ValueError, match="finite"):
        otkit.wasserstein([[0.0], [wrong], [1.0]], [[1.0]])
    with pytest.raises(ValueError, match="non-negative"):
        otkit.wasserstein([[0.0], [2.0]], [[1.0]], [1.5, -0.5])


def test_masses_far_below_one_are_not_lost():
    a = np.array([1.0, 1e-18, 1e-30])
    result = solve_sample([[0.0], [5.0], [9.0]], [[0.0], [1.0]], a, [0.5, 0.5], metric="euclidean")
    np.testing.assert_allclose(result.plan.sum(1), a / a.sum(), rtol=1e-12)


@pytest.mark.parametrize("far", [1e5, 1e14])
def test_bounds_that_may_be_wide_are_computed_with_the_answer(far):
    """Beside a far point, the rounding of masses is more than a part of the distance; the status says where."""
    rng = np.random.default_rng(7)
    x, y, a = rng.random((30, 1)), rng.random((20, 1)), rng.dirichlet(np.ones(30))
    near = otkit.wasserstein(x, y, a, p=1)
    clouds, weights = [np.vstack([v, [[far]]]) for v in (x, y)], [np.append(a, 0.3), np.append(np.full(20, 0.05), 0.3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = otkit.wasserstein(*clouds, *weights, p=1)
    wanted = near.distance / 1.3
    assert found.lower <= wanted <= found.upper
    assert found.converged == (far == 1e5) == (not caught)
    assert found.upper - found.lower < 1e-13 * far


def test_far_points_of_hardly_any_mass_do_not_blur_the_distance():
    """Rounding of the masses, times the distance of the far points, is a part of the answer here."""
    b = np.array([1e-13, 0.3, 0.7])
    found = otkit.wasserstein([[1e6], [1e6]], [[-3.0], [1e6], [1e6]], [0.1, 0.9], b, p=1)
    assert found.converged
    assert found.upper - found.lower <= 1e-9 * found.upper
    wanted = Fraction(b[0]) / sum(map(Fraction, b.tolist())) * 1000003
    assert found.lower <= wanted <= found.upper


@pytest.mark.parametrize("period", [None, 2.0])
def test_points_without_weight_get_no_mass(period, rng):
    for _ in range(300):
        n, m = rng.integers(1, 8, 2)
        a, b = (np.append(rng.integers(0, 5, k), 1) * rng.permutation(np.append(np.ones(k), 0)) for k in (n, m))
        if a.sum() == 0 or b.sum() == 0:
            continue
        a, b = a / a.sum(), b / b.sum()
        x, y = rng.normal(size=(n + 1, 1)), rng.normal(size=(m + 1, 1))
        found = otkit.solve_sample(x, y, a, b, period=period)
        assert (found.plan[a == 0] == 0).all()
        assert (found.plan[:, b == 0] == 0).all()
        np.testing.assert_allclose(found.plan.sum(1), a, rtol=0, atol=1e-15)
        np.testing.assert_allclose(found.plan.sum(0), b, rtol=0, atol=1e-15)
        some = otkit.solve_sample(x[a > 0], y[b > 0], a[a > 0], b[b > 0], period=period)
        assert float(found.value) == pytest.approx(float(some.value), rel=1e-12)
        assert found.lower <= some.upper
        assert some.lower <= found.upper


def test_concave_costs_are_not_sorted():
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    result = otkit.solve_sample(x, y, metric=("power", 0.5), rtol=1e-9)
    assert result.method == "exact"
    assert result.value == pytest.approx(2**0.5 / 2)
    with pytest.raises(ValueError, match="one dimension and a convex cost"):
        otkit.solve_sample(x, y, metric=("power", 0.5), method="univariate")


@pytest.mark.parametrize("options", [{}, {"metric": "euclidean", "period": 5.0}], ids=["line", "circle"])
@pytest.mark.parametrize("method", ["auto", "univariate"])
def test_an_rtol_is_what_the_interval_is_held_to(options, method):
    result = otkit.solve_sample([[0.0], [2.0]], [[1.0], [4.0]], method=method, rtol=1e-2, **options)
    assert result.method == "univariate"
    assert result.converged
    assert float(result.outcome.tol[0]) == 1e-2
