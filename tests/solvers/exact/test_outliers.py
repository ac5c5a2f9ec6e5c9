"""Costs over many orders of magnitude: right, or not called converged."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from checks import solved_by
from scipy.optimize import linear_sum_assignment
from strategies import told

import otkit
from otkit.certificates.width import ordinary
from otkit.problems.linear import LinearProblem
from otkit.solvers.exact import outliers, solver

solve, solve_sample = solved_by("exact")


def assignment(C):
    """The cost of SciPy's assignment, in exact arithmetic."""
    rows, cols = linear_sum_assignment(C)
    return sum(Fraction(float(c)) for c in C[rows, cols]) / len(C)


def filled(rng, n=30, fill=1e8):
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 1
    return x, y, *(np.vstack([v, [[fill, fill]]]) for v in (x, y))


@pytest.mark.parametrize("fill", [1e5, 1e8, 1e30, 1e140])
@pytest.mark.parametrize("method", ["exact", "auto"])
def test_a_fill_value_in_both_clouds_moves_no_mass(fill, method):
    x, y, filled_x, filled_y = filled(np.random.default_rng(0), fill=fill)
    plain, found = solve_sample(x, y, method=method), solve_sample(filled_x, filled_y, method=method)
    assert found.converged
    assert found.gap <= 1e-9 * found.upper
    assert float(found.value) == pytest.approx(30 / 31 * float(plain.value), rel=1e-12)
    assert found.plan[30, 30] == pytest.approx(1 / 31, rel=1e-15)


@pytest.mark.parametrize("rtol", [1e-2, 1e-6])
def test_an_interval_that_is_asked_for_is_found_by_the_exact_method(rtol):
    x, y, filled_x, filled_y = filled(np.random.default_rng(0))
    found = otkit.wasserstein(filled_x, filled_y, rtol=rtol)
    assert found.result.method == "exact"
    assert found.converged
    assert found.distance == pytest.approx((30 / 31) ** 0.5 * otkit.wasserstein(x, y).distance, rel=rtol)


@pytest.mark.parametrize("seed", range(5))
def test_costs_over_35_orders_of_magnitude(seed):
    rng = np.random.default_rng(seed)
    C = 10.0 ** rng.uniform(-3, 32, (40, 40))
    found = solve(C)
    assert found.converged
    assert found.gap <= 1e-9 * found.upper
    wanted = assignment(np.minimum(C, 41 * float(found.upper)))  # more than the whole plan pays for its smallest mass
    assert found.lower <= wanted <= found.upper
    a, b = rng.dirichlet(np.ones(40)), rng.dirichlet(np.ones(40))
    weighted = solve(C, a, b)
    assert weighted.converged == (weighted.gap <= 1e-9 * weighted.upper)
    assert weighted.converged
    # Arcs that cost more than a plan for the smallest mass, here at least 1e-9, may as well be forbidden.
    bounded = np.where(1e9 * weighted.upper < C, np.inf, C)
    assert solve(bounded, a, b).lower <= weighted.upper
    assert weighted.lower <= solve(bounded, a, b).upper


def clusters(rng, d, apart, weights):
    """Clusters far from each other, each of which keeps its mass: both sides, and the optimal cost."""
    k, size = 10, 50
    centres = np.zeros((k, d))
    centres[:, 0] = apart * np.arange(k)
    y = np.repeat(centres, size, axis=0) + rng.normal(size=(k * size, d))
    w = rng.integers(1, 20, k * size).astype(float) if weights == "whole" else np.ones(k * size)
    each = w.reshape(k, size).sum(1)
    cost = w @ ((y - np.repeat(centres, size, axis=0)) ** 2).sum(1) / w.sum()
    if weights == "none":
        return (centres, y, None, None), cost
    return (centres, y, each, w) if weights == "whole" else (centres, y, each / w.sum(), w / w.sum()), cost


@pytest.mark.parametrize("apart", [1e4, 1e6, 1e8, 1e10])
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("weights", ["whole", "none", "shares"])
def test_tight_clusters_far_from_each_other(weights, d, apart, rng):
    """Each point of a cluster is at the least cost of its row or column: no other reduced cost is small."""
    given, cost = clusters(rng, d, apart, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)
        found = solve_sample(*given)
        distance = otkit.wasserstein(*given)
    mass = 1.0 if given[2] is None else given[2].sum()
    assert found.lower <= mass * cost <= found.upper
    if weights == "shares":  # their sums differ by rounding, and what is left must cross
        assert not found.converged or found.gap <= 1e-6 * found.upper
    else:
        assert found.converged
        assert found.gap <= 1e-12 * found.upper
    assert found.value == pytest.approx(mass * cost, rel=1e-12 if found.converged else 1e-6)
    assert distance.converged == found.converged
    assert distance.lower <= cost**0.5 <= distance.upper


@pytest.mark.parametrize("jitter", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("n", [8, 50, 300])
def test_nearly_equal_measures_pay_for_the_mass_that_crosses(n, jitter, rng):
    """The cost of the points that hardly move is negligible beside, and no measure of precision."""
    x, a = rng.normal(size=(n, 2)), rng.dirichlet(np.ones(n))
    b = a * (1 + 1e-6 * rng.normal(size=n))
    found = solve_sample(x, x + jitter * rng.normal(size=x.shape), a, b / b.sum())
    assert found.converged
    assert found.gap <= 1e-13
    copy = x.astype(np.float32).astype(float)
    assert solve_sample(x, copy, a, a.astype(np.float32) / a.astype(np.float32).sum(dtype=float)).converged


def test_one_side_of_whole_numbers_is_not_enough():
    """Bounds are those of the weights of both sides in one sense: the mass that differs by rounding is large here."""
    C = np.where(np.eye(3) > 0, 1.0, 1e16)
    a, b = np.array([22.0, 28.0, 26.0]), np.array([22.0, 28.000000000000004, 26.0])
    with pytest.warns(otkit.ConvergenceWarning, match="rounding"):
        found = solve(C, a, b)
    shares = [[Fraction(float(v)) for v in w / w.sum()] for w in (a, b)]
    missing = sum(max(p / sum(shares[0]) - q / sum(shares[1]), 0) for p, q in zip(*shares, strict=True))
    assert found.lower <= 76 * (1 + missing * (10**16 - 1)) <= found.upper


@pytest.mark.parametrize("period", [2, 4, 8, 9, 16])
def test_the_order_of_points_does_not_hide_tight_clusters(period):
    rng = np.random.default_rng(0)
    n = 801 if period == 9 else 1024
    x = rng.normal(size=(n, 2)) * 1e8
    x[np.arange(n) % period != 0] = rng.normal(size=(np.count_nonzero(np.arange(n) % period), 2))
    problem = LinearProblem.build(otkit.PointCloud(x, x.copy()), None, None)
    assert ordinary(problem, 0) <= 1e6


@pytest.mark.parametrize("scale", [1.0, 1e-100, 1e100])
def test_costs_of_zero_reduced_are_no_smaller_than_they_are(scale):
    found = otkit.solve(scale * np.array([[0, 1, 1e16], [1e16, 1e16, 0]]), [5.0, 7], [2.0, 3, 7])
    assert found.converged
    assert found.value == pytest.approx(3 * scale, rel=1e-14)
    assert found.gap <= 1e-13 * found.upper


@pytest.mark.parametrize("n", [12, 700])
def test_the_way_down_and_listed_arcs_end_in_the_same_optimum(n, monkeypatch):
    rng = np.random.default_rng(1)
    x, y, filled_x, filled_y = filled(rng, n)
    wanted = n / (n + 1) * float(solve_sample(x, y).value)
    monkeypatch.setattr(solver, "_ALL", 0)
    assert float(solve_sample(filled_x, filled_y).value) == pytest.approx(wanted, rel=1e-11)
    C = ((filled_x[:, None] - filled_y) ** 2).sum(-1)
    found = solve(C)
    assert float(found.value) == pytest.approx(wanted, rel=1e-11)
    assert found.converged
    monkeypatch.setattr(solver, "has_rows", lambda problem: False)
    assert float(solve(C).value) == pytest.approx(wanted, rel=1e-11)


def test_the_limit_rises_until_the_masses_have_a_way():
    # Two blocks exchange an eighth of the mass at a cost that is far larger than those inside.
    rng = np.random.default_rng(2)
    blocks = np.add.outer(np.arange(16) // 8, np.arange(16) // 8) % 2
    C = np.where(blocks == 1, 1e30 * (1 + rng.random((16, 16))), rng.random((16, 16)))
    a = np.where(np.arange(16) < 8, 5, 3) / 64
    found = solve(C, a)
    assert found.converged
    assert found.lower <= 1e30 / 8 * 2
    assert found.upper >= 1e30 / 8
    assert found.gap <= 1e-9 * found.upper


def test_what_rounding_hides_is_not_called_converged():
    # The mass that must cross, 2⁻⁶⁰, pays as much as all other mass: the prices of both scales do not fit in a float.
    rng = np.random.default_rng(3)
    blocks = np.add.outer(np.arange(8) // 4, np.arange(8) // 4) % 2
    C = np.where(blocks == 1, 2.0**60 * (1 + rng.random((8, 8))), rng.random((8, 8)))
    a = np.full(8, 1 / 8)
    a[0] += 2.0**-55
    with pytest.warns(otkit.ConvergenceWarning, match="rounding"):
        found = solve(C, a)
    assert found.status is otkit.Status.IMPRECISE
    assert found.gap > 1e-9 * found.upper
    assert otkit.solve(C, a, method=otkit.Exact(rtol=0.999)).converged


@pytest.mark.parametrize("seed", range(20))
def test_masses_are_those_of_exact_arithmetic(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12, 2)
    tenths = rng.multinomial(1000 - n, np.ones(n) / n) + 1, rng.multinomial(1000 - m, np.ones(m) / m) + 1
    a, b = (w / w.sum() for w in tenths)  # sums that are equal in decimals differ by rounding
    problem = LinearProblem.build(otkit.Dense(rng.random((n, m))), a, b)
    costs = problem.reduced.to_numpy()
    state = otkit.Exact().init(problem, None)
    while state.running.size:
        state = otkit.Exact().step(problem, state)
    with told(seed):
        plain = state.bases[0].vertex(problem.a[0], problem.b[0])
        exact = outliers.vertex(costs, 0, state.bases[0], problem.a[0], problem.b[0], problem.mass[0])
        assert (exact.mass >= 0).all()
        assert exact.defect == 0
        assert exact.mass @ exact.cost == pytest.approx(plain.mass @ plain.cost, rel=1e-12)
        given = LinearProblem.build(otkit.Dense(rng.random((n, m))), *(w.astype(float) for w in tenths))
        ones = LinearProblem.build(otkit.Dense(rng.random((n, m))))
        for side, w in zip((given.a[0], given.b[0]), tenths, strict=True):
            assert outliers._given(side, given.mass[0]) == w.tolist()
            assert outliers._given(ones.a[0], 1.0) == [1] * n
        whole = [Fraction(float(w)) for w in problem.a[0]], [Fraction(float(w)) for w in problem.b[0]]
        for w, at, size in zip(whole, (exact.rows, exact.cols), (n, m), strict=True):
            sums = [sum(Fraction(float(t)) for t in exact.mass[at == k]) for k in range(size)]
            assert all(abs(s - t / sum(w)) <= t / sum(w) * 2**-52 for s, t in zip(sums, w, strict=True))


def test_the_size_of_ordinary_costs_ignores_outliers(rng):
    x = rng.random((200, 2))
    plain = LinearProblem.build(otkit.PointCloud(x, x + 0.1), None, None)
    x[5:60] = 1e9
    some = LinearProblem.build(otkit.PointCloud(x, x + 0.1), None, None)
    assert ordinary(plain, 0) / 8 <= ordinary(some, 0) <= 8 * ordinary(plain, 0)
    assert plain.span[0] / 8 <= ordinary(plain, 0) * 8


def test_offsets_are_no_outliers(rng):
    C = rng.integers(0, 3, (20, 20)) + 1e7 * rng.normal(size=(20, 1)) + 1e7 * rng.normal(size=20)
    assert solve(C).converged
    assert solve(C - C.mean()).converged
