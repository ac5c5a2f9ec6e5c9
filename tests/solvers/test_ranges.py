"""Random problems over up to 300 orders of magnitude: never a wrong number, a warning of NumPy, or a wide "converged"."""

import warnings
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from strategies import first, told

import otkit

ORDERS = (1.0, 1.5, 2.0, 3.0, 7.0, 20.0, 36.0, 100.0, 540.0, float("inf"))


def random_costs(rng, n, m, span):
    family = rng.choice(["spread", "levels", "fill"])
    if family == "spread":
        C = 10.0 ** rng.uniform(-span / 2, span / 2, (n, m))
    elif family == "levels":
        C = 10.0 ** (rng.integers(-3, 4, (n, m)) * span / 6) * (1 + rng.random((n, m)))
    else:
        C = np.where(rng.random((n, m)) < rng.uniform(0, 0.9), 10.0 ** rng.uniform(0, span), rng.random((n, m)))
    return np.clip(C, 1e-300, 1e300)


def random_points(rng, n, m, span):
    family, d = rng.choice(["unit", "fill", "rays"]), rng.integers(1, 4)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    if family == "unit":
        return (v * 10.0 ** rng.uniform(-span / 2, span / 2) for v in (x, y))
    if family == "rays":
        return (v * 10.0 ** rng.uniform(-span / 2, span / 2, (len(v), 1)) for v in (x, y))
    fill, share = 10.0 ** rng.uniform(0, span), rng.uniform(0, 0.6)
    return (np.where(rng.random((len(v), 1)) < share, fill, v) for v in (x, y))


def random_weights(rng, n, family):
    if family == "uniform":
        return np.ones(n)
    if family == "tenths":
        return rng.integers(1, 10, n) / 10
    return rng.dirichlet(np.ones(n)) if family == "dirichlet" else 10.0 ** rng.uniform(-20, 0, n)


def drawn(seed):
    """The call of a random problem: costs or points, and weights of equal total."""
    rng = np.random.default_rng(seed)
    n, m = (int(k) for k in rng.integers(1, 26, 2))
    m = n if rng.random() < 0.5 else m
    span, family = 10.0 ** rng.uniform(0, 2.47), rng.choice(["uniform", "tenths", "dirichlet", "skew"])
    a, b = (random_weights(rng, k, family) for k in (n, m))
    a, b = a / a.sum(), b / b.sum()
    if rng.random() < 0.5:
        return otkit.solve, (random_costs(rng, n, m, span), a, b), {}
    metric = rng.choice(["euclidean", "cityblock", "cosine"], p=[0.6, 0.3, 0.1])
    return otkit.wasserstein, (*random_points(rng, n, m, span), a, b), {"p": rng.choice(ORDERS), "metric": str(metric)}


@pytest.mark.parametrize("part", first(2, range(20)))
def test_a_result_is_right_or_says_that_it_is_not(part):
    for seed in range(50 * part, 50 * (part + 1)):
        with told(seed), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            solve, given, options = drawn(seed)
            result = solve(*given, **options)
            value = float(result.value) if solve is otkit.solve else result.distance
            assert result.lower <= value <= result.upper
            assert 0 <= value < np.inf
            width = result.upper - result.lower
            assert result.status in (otkit.Status.CONVERGED, otkit.Status.IMPRECISE)
            assert result.converged or width > 1e-9 * result.upper
            if solve is otkit.wasserstein:
                # Equal measures up to rounding are at a distance that is negligible relative to all others.
                equal = options["metric"] == "cosine" and result.upper <= 1e-7
                assert not result.converged or width <= 1.01e-9 * result.upper or equal
            elif result.converged and width > 1e-9 * result.upper:
                # The other measure of an exact answer is a mean of the costs, which those that matter dominate.
                C = given[0] - given[0].min(1, keepdims=True)
                C = np.where(C - C.min(0) > 0, C - C.min(0), given[0])
                size = np.mean(C[C > 0] ** -0.5) ** -2
                assert width <= 1e-9 * size or C.max() <= 2**20 * size


@pytest.mark.parametrize("seed", [1154, 6049, 6483, 6889])
def test_a_defect_of_the_plan_takes_no_value_below_its_bound(seed):
    solve, given, options = drawn(seed)
    result = solve(*given, **options)
    assert result.lower <= float(result.value) <= result.upper


@pytest.mark.parametrize("part", first(2, range(10)))
def test_the_optimum_of_fractions(part):
    """Uniform weights: the optimum is that of a permutation, in exact arithmetic over all of them."""
    for seed in range(20 * part, 20 * (part + 1)):
        rng = np.random.default_rng(seed)
        n, span = int(rng.integers(2, 7)), 10.0 ** rng.uniform(0, 2.47)
        C = random_costs(rng, n, n, span)
        exact = [[Fraction(float(c)) for c in row] for row in C]
        wanted = min(sum(exact[i][j] for i, j in enumerate(order)) for order in permutations(range(n))) / n
        with told(seed):
            result = otkit.solve(C)
            assert result.lower <= wanted <= result.upper
            assert result.converged
            assert result.gap <= 1e-9 * result.upper


@pytest.mark.parametrize("part", first(1, range(10)))
@pytest.mark.parametrize("p", [2, 20, 36])
def test_the_optimum_of_fractions_of_distances(part, p):
    for seed in range(10 * part, 10 * (part + 1)):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 6))
        x, y = random_points(rng, n, n, 10.0 ** rng.uniform(0, 2.0))
        square = [
            [sum((Fraction(float(s)) - Fraction(float(t))) ** 2 for s, t in zip(u, v, strict=True)) for v in y]
            for u in x
        ]
        costs = [[s ** (p // 2) for s in row] for row in square]
        wanted = min(sum(costs[i][j] for i, j in enumerate(order)) for order in permutations(range(n))) / n
        with told(seed):
            result = otkit.wasserstein(x, y, p=p)
            assert result.converged
            assert Fraction(result.lower) ** p <= wanted <= Fraction(result.upper) ** p


def test_golden_distances():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 1
    plain = otkit.wasserstein(x, y)
    found = otkit.wasserstein(*(np.vstack([v, [[1e8, 1e8]]]) for v in (x, y)))
    assert found.distance == pytest.approx((30 / 31) ** 0.5 * plain.distance, rel=1e-13)
    assert found.distance == pytest.approx(1.57888, rel=5e-6)
    x, y = np.random.default_rng(0).random((2, 30, 2))
    for p, wanted in ((20, 0.396914), (36, 0.420401)):
        found = otkit.wasserstein(x, y, p=p)
        assert found.distance == pytest.approx(wanted, rel=2e-6)
        assert found.upper - found.lower <= 1e-12 * found.upper
        assert found.converged


def test_persistence_diagrams():
    """Points that never die have a huge value; the diagonal is a point of the other diagram."""
    rng = np.random.default_rng(0)
    birth = rng.random((2, 20))
    x, y = (np.column_stack([b, b + rng.random(20) ** 4]) for b in birth)
    never = [[0.1, 1e10], [0.3, 1e10]]
    to_never = otkit.wasserstein(*(np.vstack([v, never]) for v in (x, y)), p=2)
    assert to_never.converged
    assert to_never.distance == pytest.approx((20 / 22) ** 0.5 * otkit.wasserstein(x, y).distance, rel=1e-12)
    (wrong,) = {otkit.wasserstein(np.vstack([x, never]), np.vstack([y, np.add(never, 1e-6)]), p=float("inf")).status}
    assert wrong is otkit.Status.CONVERGED


def test_a_distance_that_overflows_is_infinite_with_a_finite_lower_bound():
    found = otkit.wasserstein([[1e308]], [[-1e308]], p=1)
    assert found.distance == found.upper == np.inf
    assert found.lower == np.finfo(float).max
    assert otkit.wasserstein([[1e308], [-1e308]], [[-1e308], [1e308]]).distance == 0
    assert otkit.wasserstein([[1e308]], [[-7e307]]).distance == pytest.approx(1.7e308)
