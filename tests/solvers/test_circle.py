"""Exact transport on a circle, beside linear programming on the matrix of geodesic distances, and closed forms."""

from fractions import Fraction

import numpy as np
import ot
import pytest
from checks import solved_by
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

import otkit
from otkit import PointCloud
from otkit.geometry.costs import parse_cost

_, solve_sample = solved_by("univariate", asked="auto")


def geodesic(x, y, period):
    d = abs(np.mod(x, period)[:, None] - np.mod(y, period))
    return np.minimum(d, period - d)


def points(kind, n, period, rng):
    return {
        "uniform": lambda: rng.random(n) * period,
        "ties": lambda: rng.integers(0, 8, n) * period / 8,
        "outside": lambda: rng.standard_normal(n) * 3 * period,
        "at the end": lambda: (0.97 + 0.06 * rng.random(n)) * period,
        "equal": lambda: np.full(n, 0.3 * period),
    }[kind]()


KINDS = ("uniform", "ties", "outside", "at the end", "equal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("weights", ["uniform", "random", "some zero"])
def test_the_plan_and_the_potentials_are_optimal(kind, p, weights):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n, m = rng.integers(1, 14, 2)
        period = (1.0, 360.0, 2 * np.pi)[seed % 3]
        x, y = points(kind, n, period, rng), points(KINDS[seed], m, period, rng)
        a, b = np.full(n, 1 / n), np.full(m, 1 / m)
        if weights != "uniform":
            a, b = rng.dirichlet(np.full(n, 0.5)), rng.dirichlet(np.full(m, 0.5))
        if weights == "some zero":
            a, b = (np.where(rng.random(w.size) < 0.4, 0, w) + 1e-3 * (w == w.max()) for w in (a, b))
            a, b = a / a.sum(), b / b.sum()
        result = solve_sample(x[:, None], y[:, None], a, b, metric=("power", p), period=period)
        C, largest = geodesic(x, y, period) ** p, (period / 2) ** p
        assert result.method == "univariate"
        exact = ot.emd2(a, b, C)
        assert abs(result.value - exact) < 1e-14 * largest
        assert result.lower - 1e-15 * largest <= exact <= result.upper + 1e-15 * largest
        assert 0 <= result.gap < 1e-11 * largest
        P, (f, g) = result.plan, result.potentials
        assert (P > 0).sum() <= n + m - 1
        assert (P[a == 0] == 0).all()
        assert (P[:, b == 0] == 0).all()
        np.testing.assert_allclose(P.sum(1), a, atol=1e-15)
        np.testing.assert_allclose(P.sum(0), b, atol=1e-15)
        assert (P * C).sum() == pytest.approx(exact, abs=1e-14 * largest)
        assert (f[:, None] + g <= C + 1e-13 * largest).all()
        assert a @ f + b @ g == pytest.approx(exact, abs=1e-13 * largest)


def test_brute_force():
    rng = np.random.default_rng(5)
    for _ in range(20):
        n, m = rng.integers(2, 6, 2)
        x, y, a, b = rng.random(n), rng.random(m), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
        A = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
        wanted = linprog(geodesic(x, y, 1.0).ravel() ** 2, A_eq=A, b_eq=np.concatenate([a, b])).fun
        assert otkit.wasserstein(x[:, None], y[:, None], a, b, period=1).distance ** 2 == pytest.approx(wanted)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_closed_forms(p):
    W = lambda x, y: otkit.wasserstein(np.c_[x], np.c_[y], p=p, period=360.0).distance  # noqa: E731
    assert W([350.0], [10.0]) == pytest.approx(20)
    assert W([-10.0], [370.0]) == pytest.approx(20)
    assert W([0.0], [180.0]) == pytest.approx(180)
    # A rotation of points that divide the circle evenly moves each by the same angle, up to half of their distance.
    marks = np.arange(0, 360, 10.0)
    for angle, moved in ((3, 3), (8, 2), (365, 5), (-21, 1)):
        assert W(marks, marks + angle) == pytest.approx(moved, abs=1e-9)
    assert W(marks, np.random.default_rng(0).permutation(marks)) == 0


def test_peers_and_many_points():
    rng = np.random.default_rng(0)
    x, y = rng.random(800), rng.beta(2, 5, 700) - 0.2
    for p in (1, 2):
        found = otkit.wasserstein(x[:, None], y[:, None], p=p, period=1.0)
        assert found.distance**p == pytest.approx(ot.wasserstein_circle(x, np.mod(y, 1.0), p=p)[0], rel=1e-6)
        assert found.upper - found.lower < 1e-9
    matrix = otkit.solve(geodesic(x, y, 1.0) ** 2)
    assert found.distance**2 == pytest.approx(float(matrix.value), rel=1e-12)


def test_a_narrow_arc_is_a_line():
    rng = np.random.default_rng(1)
    x, y, a = rng.random((40, 1)) / 4, rng.random((30, 1)) / 4, rng.dirichlet(np.ones(40))
    line = otkit.wasserstein(x, y, a, p=1.5)
    circle = otkit.wasserstein(x + 0.9, y + 0.9, a, p=1.5, period=1.0)
    assert circle.distance == pytest.approx(line.distance, rel=1e-12)


def test_the_bounds_hold_exactly():
    x, y = [Fraction(1, 64), Fraction(3, 8), Fraction(5, 8)], [Fraction(31, 32), Fraction(1, 4), Fraction(3, 4)]
    wanted = Fraction(3, 64) + Fraction(1, 8) + Fraction(1, 8)  # each to its neighbour
    found = solve_sample(*(np.array(v, dtype=float)[:, None] for v in (x, y)), metric="euclidean", period=1)
    assert Fraction(float(found.lower)) <= wanted / 3 <= Fraction(float(found.upper))


def test_batches_and_libraries():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x, y, a = rng.random((3, 2, 8, 1)), rng.random((2, 5, 1)), rng.dirichlet(np.ones(8), (3, 2))
    found = otkit.wasserstein(x, y, a, period=1.0)
    same = otkit.wasserstein(*map(torch.as_tensor, (x, y, a)), period=1.0)
    assert found.result.method == same.result.method == "univariate"
    np.testing.assert_array_equal(found.distance, same.distance.numpy())
    for k in np.ndindex(3, 2):
        one = otkit.wasserstein(x[k], y[k[1]], a[k], period=1.0)
        assert found.distance[k] == pytest.approx(one.distance, rel=1e-14)
        np.testing.assert_allclose(found.result.plan[k], one.result.plan, atol=1e-16)


@pytest.mark.parametrize("options", [{"reg": 0.02, "tol": 1e-11}, {"metric": ("power", 0.75)}])
def test_other_solvers_take_the_same_costs(options):
    rng = np.random.default_rng(3)
    x, y = rng.random((9, 1)) * 5, rng.random((7, 1))
    metric = options.pop("metric", "euclidean")
    found = otkit.solve_sample(x, y, metric=metric, period=1.0, **options)
    power = 0.75 if isinstance(metric, tuple) else 1
    matrix = otkit.solve(geodesic(x[:, 0], y[:, 0], 1.0) ** power, **options)
    assert found.value == pytest.approx(float(matrix.value), rel=1e-9)
    assert found.lower <= matrix.upper
    assert matrix.lower <= found.upper


@pytest.mark.parametrize("period", [1.0, 360.0, 2 * np.pi, 0.1])
def test_distances_are_exact_to_a_few_units_in_the_last_place(period, rng):
    x = np.concatenate([rng.standard_normal(30), 1e-9 * rng.standard_normal(9), 0.5 + 1e-9 * rng.standard_normal(9)])
    x = np.concatenate([x, [0.0, 0.5, -0.5, 1.0, 7.0, 1e-300, -1e-300]]) * period
    T = Fraction(period)
    C = PointCloud(x[:, None], x[:, None], parse_cost("euclidean", 1.0, period)).flat(()).block(slice(1), slice(None))
    for i, j in np.ndindex(x.size, x.size):
        wanted = (Fraction(x[i]) - Fraction(x[j])) % T
        wanted = min(wanted, T - wanted)
        assert abs(Fraction(C[0, i, j]) - wanted) <= wanted * Fraction(2) ** -52


@pytest.mark.parametrize("power", [0.5, 1, 2, 3.5])
@pytest.mark.parametrize("moved", [2.0**-12, 2.0**-30])
def test_close_measures_are_told_apart(power, moved, rng):
    """Most points are moved by little, some of them across the end of the circle; all sums of coordinates are exact."""
    x = rng.permutation(512)[:100] / 512 * rng.choice([1, -1], 100)
    found = otkit.solve_sample(x[:, None], x[:, None] + moved, metric=("power", power), period=1)
    assert found.status is otkit.Status.CONVERGED
    assert found.lower <= moved**power * (1 + 1e-15)
    assert moved**power * (1 - 1e-15) <= found.upper
    assert found.upper - found.lower <= 1e-9 * moved**power


def test_many_points_are_exact():
    n = 2**17
    marks = np.arange(n)[:, None] / n
    for p in (1, 2, 3):
        found = otkit.wasserstein(marks, marks + 2.0**-19, p=p, period=1)
        assert found.converged
        assert found.distance == pytest.approx(2.0**-19, rel=1e-10)
        assert found.lower <= 2.0**-19 <= found.upper


@pytest.mark.parametrize("unit", [2.0**650, 2.0**-650])
@pytest.mark.parametrize("p", [1, 2, 3.5, 40])
def test_circles_of_any_size_are_measured(unit, p, rng):
    x, y, a = rng.standard_normal((7, 1)), rng.random((5, 1)), rng.dirichlet(np.ones(7))
    circle, plain = (otkit.wasserstein(x * u, y * u, a, p=p, period=u) for u in (unit, 1.0))
    assert circle.converged
    assert circle.distance / unit == pytest.approx(plain.distance, rel=1e-13)
    batch = otkit.wasserstein(np.stack([x, y[[0, 1, 2, 3, 4, 0, 1]]]) * unit, y * unit, p=p, period=unit)
    assert batch.distance[0] / unit == pytest.approx(otkit.wasserstein(x, y, p=p, period=1).distance, rel=1e-13)
    with pytest.raises(ValueError, match="drop points that are far from all others"):
        otkit.wasserstein([[0.0]], [[1e-300]], p=p, period=1e300)


@pytest.mark.parametrize("p", [1, 2, 40, float("inf")])
def test_all_orders_beside_assignments(p):
    rng = np.random.default_rng(6)
    for n, m in ((1, 4), (7, 7), (9, 5)):
        x, y = rng.standard_normal((n, 1)) * 9, rng.random((m, 1)) * 24
        found = otkit.wasserstein(x, y, p=p, period=24)
        C = np.repeat(np.repeat(geodesic(x[:, 0], y[:, 0], 24), m, axis=0), n, axis=1)  # points of equal mass
        if p == float("inf"):
            within = [
                r for r in np.unique(C) if C.shape[0] == (maximum_bipartite_matching(csr_array(r >= C)) >= 0).sum()
            ]
            wanted = within[0]
        else:
            shares = (C / 24) ** p
            wanted = 24 * shares[linear_sum_assignment(shares)].mean() ** (1 / p)
        assert found.distance == pytest.approx(wanted, rel=1e-12)
        assert found.lower <= found.distance <= found.upper


def test_weights_have_gradients_and_points_do_not():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    x, y, a = (torch.as_tensor(v) for v in (rng.random((4, 1)), rng.random((3, 1)), rng.dirichlet(np.ones(4))))
    a.requires_grad_()
    result = otkit.solve_sample(x, y, a, period=1.0)
    result.value.backward()
    f = result.f.detach() - result.f.detach().mean()
    np.testing.assert_allclose(a.grad - a.grad.mean(), f, atol=1e-12)
    with pytest.raises(ValueError, match="no gradient by the points"):
        otkit.solve_sample(x.requires_grad_(), y, period=1.0)


def test_means_on_a_circle_are_refused():
    x = np.array([[0.1], [0.9]])
    exact, entropic = (otkit.solve_sample(x, x, period=1.0, reg=reg) for reg in (None, 0.1))
    for call in (exact.barycentric, lambda: entropic.transport(x)):
        with pytest.raises(ValueError, match="circle"):
            call()
    np.testing.assert_array_equal(exact.barycentric(np.eye(2)), np.eye(2))
    new = np.array([[0.3], [-0.2]])
    nearest = (geodesic(new[:, 0], x[:, 0], 1.0) ** 2 - exact.g).argmin(1)
    np.testing.assert_allclose(exact.transport(new), x[nearest], atol=1e-5)


@pytest.mark.parametrize("p", [2, 36, np.inf])
def test_any_number_is_taken_modulo_the_period(p):
    found = otkit.wasserstein([[-(2.0**-600)]], [[2.0**1000]], p=p, period=1.0)
    assert found.distance == 2.0**-600
    assert found.converged


@pytest.mark.parametrize("period", [0, -1.0, np.inf, np.nan, "1", True])
def test_bad_periods_are_refused(period):
    with pytest.raises(ValueError, match="period must be a positive number"):
        otkit.wasserstein([[0.0]], [[1.0]], period=period)


@pytest.mark.parametrize("metric", ["cosine", lambda x, y: abs(x - y[..., 0])])
def test_other_metrics_are_refused(metric):
    with pytest.raises(ValueError, match="period= takes metric"):
        otkit.wasserstein([[0.5]], [[1.0]], metric=metric, period=1.0)


def test_points_of_a_plane_are_refused():
    with pytest.raises(ValueError, match="points on a circle, which have one coordinate, got d = 2"):
        otkit.wasserstein([[0.0, 1.0]], [[1.0, 0.0]], period=1.0)
