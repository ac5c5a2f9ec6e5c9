"""The bounds contain the optimum, whatever the solver had reached, and are as narrow as they should be."""

from fractions import Fraction

import numpy as np
import ot
import pytest
from checks import entropy
from scipy.optimize import linear_sum_assignment
from strategies import hard_cases, random_case

import otkit

RANDOM = range(200)


def optimum(C, a, b):
    return ot.emd2(a / a.sum(), b / b.sum(), C, numItermax=10**7)


def contains(result, exact, slack):
    return result.lower - slack <= exact <= result.upper + slack


@pytest.mark.sampled(4)
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("seed", RANDOM)
def test_the_bounds_contain_the_optimum_at_any_time(seed):
    case = random_case(seed)
    C, a, b = case.C, case.a, case.b
    exact, slack = optimum(C, a, b), 1e-12 * case.span
    reg = case.span * [1.0, 0.1, 0.01, 1e-3][seed % 4]
    for iterations in (1, 5, 10_000):
        result = otkit.solve_sample(case.x, case.y, a, b, metric=case.metric, reg=reg, max_iter=iterations)
        assert contains(result, exact, slack)
    assert result.converged
    # At the solution the gap is at most the entropy of the plan; what the error adds travels at most the span.
    assert result.gap <= reg * (entropy(a) + entropy(b)) + result.error * 2 * case.span + 1e-11 * case.span
    cold = otkit.solve(C, a, b, reg=reg, method=otkit.Sinkhorn(factor=np.inf, max_iter=1))
    assert contains(cold, exact, slack)


@pytest.mark.parametrize("seed", RANDOM[::5])
def test_unregularised_answers_are_within_rtol_and_their_plan_pays_for_the_upper_bound(seed):
    case = random_case(seed)
    result = otkit.solve(case.C, case.a, case.b, rtol=1e-3)
    exact, slack = optimum(case.C, case.a, case.b), 1e-12 * case.span
    assert result.converged
    assert contains(result, exact, slack)
    assert result.gap <= max(1e-3 * result.upper, 1e-9 * case.span)
    P = result.plan
    assert (P >= 0).all()
    assert abs(P.sum(1) - case.a).sum() + abs(P.sum(0) - case.b).sum() < 1e-13
    assert abs((P * case.C).sum() - result.value) < 1e-13 * case.span
    assert result.lower - slack <= result.value <= result.upper
    f, g = result.potentials
    assert (f[:, None] + g <= case.C + slack).all()
    assert abs(f @ case.a + g @ case.b - result.lower) < 1e-11 * case.span


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(20))
def test_integer_costs_against_the_exact_rational_optimum(seed):
    rng = np.random.default_rng(seed)
    n, m, units = 8, 6, 30
    counts_a = rng.multinomial(units, np.ones(n) / n)
    counts_b = rng.multinomial(units, np.ones(m) / m)
    C = rng.integers(-3, 5, (n, m))
    # Each unit of mass is a point of its own: an assignment of integer costs, exact in float64.
    expanded = C[np.repeat(np.arange(n), counts_a)][:, np.repeat(np.arange(m), counts_b)]
    exact = Fraction(int(expanded[linear_sum_assignment(expanded)].sum()), units)
    for options in ({"reg": 0.05}, {"reg": 0.5, "max_iter": 1}, {"rtol": 1e-6}):
        result = otkit.solve(C, counts_a, counts_b, **options)
        assert Fraction(float(result.lower)) <= exact * units <= Fraction(float(result.upper))


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("relative", [1e2, 1e-2, 1e-6])
@pytest.mark.parametrize("iterations", [1, 1000])
def test_hard_cases_are_bounded_too(name, relative, iterations):
    case = hard_cases()[name]
    with_detours = np.where(np.isfinite(case.C), case.C, 1e4)
    result = otkit.solve(case.C, case.a, case.b, reg=relative * case.span, max_iter=iterations)
    slack = 1e-11 * abs(case.C[np.isfinite(case.C)]).max()
    assert contains(result, optimum(with_detours, case.a, case.b), slack)
    assert np.isfinite(result.lower)


def test_a_lower_bound_is_not_negative_where_costs_are_not():
    x = np.linspace(0, 1, 30)[:, None] * np.ones(2)
    with pytest.warns(otkit.ConvergenceWarning):
        assert otkit.solve_sample(x, x + 1e-3, reg=10.0, max_iter=1).lower >= 0


def test_forbidden_arcs_without_a_feasible_rounding_give_an_infinite_upper_bound():
    C = np.array([[0.0, np.inf, 1.0], [1.0, 0.0, np.inf], [np.inf, 1.0, 0.0]])
    with pytest.warns(otkit.ConvergenceWarning):
        early = otkit.solve(C, [0.6, 0.2, 0.2], [0.2, 0.2, 0.6], reg=5.0, max_iter=1)
    assert early.upper == np.inf or early.upper >= 0.4
    late = otkit.solve(C, [0.6, 0.2, 0.2], [0.2, 0.2, 0.6], rtol=1e-9)
    assert late.lower == pytest.approx(0.4)
    assert late.upper == pytest.approx(0.4)


def test_infeasible_problems_are_proven_infeasible():
    C = np.array([[0.0, np.inf], [np.inf, 0.0]])
    for options in ({}, {"reg": 0.1}):
        with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
            result = otkit.solve(C, [0.3, 0.7], [0.5, 0.5], **options)
        assert result.status is otkit.Status.INFEASIBLE
        assert result.upper == np.inf
        assert not result.converged


def test_the_rounding_of_the_costs_is_covered():
    # In float64 the squared distance of these points is 0.1² rounded; the exact one lies beside it.
    x, y = np.array([[0.1, 0.2]]), np.array([[0.3, 0.7]])
    exact = sum((Fraction(float(p)) - Fraction(float(q))) ** 2 for p, q in zip(x[0], y[0], strict=True))
    result = otkit.solve_sample(x, y, reg=1.0)
    assert Fraction(float(result.lower)) < exact < Fraction(float(result.upper))
    assert result.gap < 1e-14


def test_equal_measures_are_at_distance_zero_exactly(rng):
    for d, bound in ((1, 0), (2, 0), (40, 1e-8)):  # where points are centred, their rounding is covered
        x, a = rng.standard_normal((25, d)), rng.dirichlet(np.ones(25))
        found = otkit.wasserstein(x, x.copy(), a, a.copy())
        assert found.distance == found.lower == 0
        assert found.upper <= bound


def test_bounds_of_float32_input_are_those_of_its_exact_values(rng):
    C = rng.random((20, 20)).astype(np.float32)
    w = np.full(20, 1 / 20)
    result = otkit.solve(C, reg=0.05)
    assert contains(result, optimum(C.astype(float), w, w), 1e-13)


@pytest.mark.parametrize(("p", "tiny"), [(1, 1e-165), (2, 1e-165), (4, 1e-100), (1, 1e-300)])
@pytest.mark.parametrize("d", [1, 2])
def test_distances_whose_powers_underflow_are_covered(p, tiny, d):
    x = np.array([[0.0, 0.0], [1e-5 * tiny, 0.0], [1.0, 1.0]])[:, :d]
    y = x.copy()
    y[:2, -1] += tiny  # the large point makes the data as a whole ordinary
    found = otkit.wasserstein(x, y, p=p)
    assert found.lower <= (2 / 3) ** (1 / p) * tiny <= found.upper
    assert found.upper < 1e-60


@pytest.mark.parametrize("scale", [1e160, 1.0, 1e-161, 1e-170])
def test_directions_of_very_long_and_short_vectors(scale, rng):
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    found = otkit.solve_sample(x * scale, y / scale, metric="cosine")
    C = 1 - (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
    assert contains(found, optimum(C, np.ones(4), np.ones(5)), 1e-14)
    assert found.gap < 1e-12


@pytest.mark.parametrize("p", [3, 7])
def test_the_root_of_a_very_small_cost_is_covered(p, rng):
    for distance in rng.uniform(1e-41, 1e-40, 50):
        found = otkit.wasserstein([[0.0, 0.0]], [[distance, 0.0]], p=p)
        assert found.lower <= distance <= found.upper


def test_the_order_of_weights_in_memory_is_of_no_effect(rng):
    n = 50_000
    a, x = rng.random((3, n)), np.zeros((n, 1))
    rows = otkit.solve_sample(x, [[1.0]], a, a.sum(-1, keepdims=True))
    columns = otkit.solve_sample(x, [[1.0]], np.asfortranarray(a), a.sum(-1, keepdims=True))
    np.testing.assert_array_equal(rows.lower, columns.lower)
    np.testing.assert_array_equal(rows.upper, columns.upper)


def test_costs_of_points_without_mass_widen_nothing(rng):
    C = rng.random((6, 6))
    C[5], C[:, 5] = 1e12, 1e12
    a = np.append(np.full(5, 0.2), 0.0)
    assert otkit.solve(C, a, a).gap < 1e-14


@pytest.mark.parametrize("seed", [41, 197, 228, 288, *range(10)])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_clusters_far_apart_are_bounded_by_a_plan_with_the_right_marginals(seed, metric):
    # In the first four potentials once drifted until exponents rounded, and a rounded plan missed its marginals.
    rng = np.random.default_rng(seed)
    n, m, d = rng.integers(4, 50), rng.integers(4, 50), rng.choice([2, 3, 10, 30])
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    x[: n // 2] *= 0.01
    y[: m // 2] *= 0.01
    x[n // 2 :] += rng.choice([1, 10, 100])
    y[m // 2 :] += 10
    a, b = rng.dirichlet(np.full(n, 0.1)), rng.dirichlet(np.full(m, 0.1))
    C = ot.dist(x, y, metric)
    result = otkit.solve_sample(x, y, a, b, metric=metric)
    assert contains(result, optimum(C, a, b), 1e-12 * C.max())
    P = result.plan
    assert abs(P.sum(1) - a).sum() + abs(P.sum(0) - b).sum() < 1e-12
