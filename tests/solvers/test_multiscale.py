"""Cells from coarse to fine: exact answers, intervals on all pairs, and plans between cells."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import otkit
from otkit.geometry.costs import parse_cost
from otkit.plans import CellPlan
from otkit.problems.linear import LinearProblem
from otkit.results import Status
from otkit.solvers import choose_solver
from otkit.solvers.multiscale import pairs, solver

METRICS = ["sqeuclidean", "euclidean", "cityblock", "chebyshev", "cosine", ("power", 1.5), ("power", 3.0)]


def uniform(rng, n, m, d):
    return rng.random((n, d)), rng.random((m, d)), None, None


def gaussian(rng, n, m, d):
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * np.linspace(0.5, 1.5, d) + 2.0, None, None


def clusters(rng, n, m, d):
    def side(k):
        at, width = rng.random((8, d)), 10.0 ** rng.uniform(-3, -1, 8)
        of = rng.integers(8, size=k)
        w = rng.exponential(size=k) ** 2
        return at[of] + width[of, None] * rng.normal(size=(k, d)), w / w.sum()

    (x, a), (y, b) = side(n), side(m)
    return x, y, a, b


def lattice(rng, n, m, d):
    x, y, a, b = uniform(rng, n, m, d)
    return np.round(6 * x) + 0.25, np.round(6 * y) + 0.75, a, b


def coinciding(rng, n, m, d):
    x, y, _, b = clusters(rng, n, m, d)
    a = rng.random(n)
    return x[rng.integers(12, size=n)], y[rng.integers(9, size=m)], a / a.sum(), b


def sparse(rng, n, m, d):
    x, y, a, b = clusters(rng, n, m, d)
    a[::3], b[1::2] = 0, 0
    return x, y, a / a.sum(), b / b.sum()


def steep(rng, n, m, d):
    x, y, _, _ = uniform(rng, n, m, d)
    a, b = (10.0 ** -np.linspace(0, 300, k) for k in (n, m))
    return x, y, a / a.sum(), b[::-1] / b.sum()


def outlying(rng, n, m, d):
    x, y, a, b = gaussian(rng, n, m, d)
    x[0], y[3] = 1e4, -1e5
    return x, y, a, b


def shifted(rng, n, m, d):
    x, y, a, b = uniform(rng, n, m, d)
    return x + 1e6, y + 1e6, a, b


def same(rng, n, m, d):
    x = rng.random((n, d))
    return x, x[::-1].copy(), None, None


def on_a_line(rng, n, m, d):
    return rng.random((n, 1)) * np.arange(1.0, d + 1), rng.random((m, 1)) * np.arange(1.0, d + 1), None, None


FAMILIES = [uniform, gaussian, clusters, lattice, coinciding, sparse, steep, outlying, shifted, same, on_a_line]


def solved(points, metric="sqeuclidean", rtol=None, **options):
    return otkit.solve_sample(*points, metric=metric, method=otkit.Multiscale(rtol=rtol), **options)


def check_plan(result, points):
    """The plan has the weights as marginals, and costs what the result says or less."""
    x, y, a, b = points
    P = result.plan
    assert (P >= 0).all()
    for sums, w, n in ((P.sum(1), a, len(x)), (P.sum(0), b, len(y))):
        assert_allclose(sums, np.full(n, 1 / n) if w is None else w, atol=1e-14)
    return P


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_the_optimum_is_exact(family):
    for d, sizes in ((2, (150, 150)), (3, (90, 170))):
        points = family(np.random.default_rng(d), sizes[0], sizes[0] if family is same else sizes[1], d)
        result = solved(points)
        known = otkit.solve_sample(*points, method="exact")
        assert result.converged
        size = max(abs(known.upper), 1e-12 * float(abs(points[0]).max()) ** 2)
        assert result.lower <= known.upper + 1e-10 * size
        assert known.lower <= result.upper + 1e-10 * size
        assert_allclose(result.value, known.value, rtol=1e-10, atol=1e-10 * size)
        P = check_plan(result, points)
        C = parse_cost("sqeuclidean")(points[0], points[1])
        assert_allclose((P * C).sum(), result.value, rtol=1e-9, atol=1e-10 * size)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_the_optimum_is_exact_for_metrics_of_power_at_least_one(metric):
    for k, family in enumerate((uniform, clusters, lattice)):
        points = family(np.random.default_rng(10 + k), 120, 100, 2 + k % 2)
        known = otkit.solve_sample(*points, metric=metric, method="exact")
        assert_allclose(solved(points, metric).value, known.value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_intervals_contain_the_optimum(metric):
    for k, family in enumerate((gaussian, clusters, sparse)):
        points = family(np.random.default_rng(20 + k), 400, 300, 2 + k % 2)
        known = otkit.solve_sample(*points, metric=metric, method="exact")
        result = solved(points, metric, rtol=0.3)
        assert result.converged
        assert result.tol == 0.3
        assert result.lower <= known.upper
        assert result.upper >= known.lower
        assert result.gap <= 0.3 * result.upper
        P = check_plan(result, points)
        C = result.problem.geometry.block(slice(0, 1), slice(None))[0]
        assert known.lower <= (P * C).sum() <= result.upper * (1 + 1e-12)


def test_cells_alone_are_no_bound():
    """Of a = b, with cells of one side only, the optimum between cells is 1 and that of the points 0 (Jensen)."""
    x = np.array([[-1.0, 0.0], [1.0, 0.0]])
    a, b = np.repeat(0.5, 2), np.repeat(0.25, 4)
    y = np.concatenate([x, x])
    for rtol in (None, 0.5, 0.9):
        result = solved((x, y, a, b), rtol=rtol)
        assert result.lower == 0
        assert result.value <= 1e-15


@pytest.mark.parametrize("seed", range(5))
def test_an_exact_plan_of_points_that_coincide_has_no_more_entries_than_a_vertex(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(9, size=(600, 2)).astype(float), rng.integers(12, size=(500, 2)) * 0.7
    a, b = rng.pareto(1.5, 600), rng.exponential(size=500) * (rng.random(500) < 0.7)
    a, b = a / a.sum(), b / b.sum()
    result = solved((x, y, a, b))
    arcs = result.plan_sparse()
    assert arcs.mass.size <= 600 + np.count_nonzero(b) - 1
    assert (arcs.mass >= 0).all()
    assert_allclose(np.bincount(arcs.row, arcs.mass, 600), a, atol=1e-15)
    assert_allclose(np.bincount(arcs.col, arcs.mass, 500), b, atol=1e-15)
    assert_allclose(((x[arcs.row] - y[arcs.col]) ** 2).sum(-1) @ arcs.mass, result.value, rtol=1e-13)
    assert_allclose(result.value, otkit.solve_sample(x, y, a, b, method="exact").value, rtol=1e-12)


def test_plans_between_cells_are_read_without_their_matrix():
    rng = np.random.default_rng(3)
    points = sparse(rng, 500, 400, 2)
    result = solved(points, rtol=0.2)
    (plan,) = result.outcome.plan
    assert isinstance(plan, CellPlan)
    assert plan.mass.size < 1000
    P = result.plan
    u, v = rng.normal(size=(500, 2)), rng.normal(size=400)
    assert_allclose(result.apply(v), P @ v, atol=1e-14)
    assert_allclose(result.apply_t(u), P.T @ u, atol=1e-14)
    arcs = result.plan_sparse()
    again = np.zeros_like(P)
    again[arcs.row, arcs.col] = arcs.mass
    assert_allclose(again, P, atol=1e-17)
    some = plan.of_rows(np.array([7, 1, 400]))
    assert_allclose(np.bincount(some.row, some.mass, 500)[[7, 1, 400]], points[2][[7, 1, 400]], atol=1e-15)
    assert some.row.size == (P[[7, 1, 400]] > 0).sum()
    assert_allclose(P[some.row, some.col], some.mass, rtol=1e-15)
    moved = P[1] @ points[1] / points[2][1]
    assert_allclose(result.barycentric()[1], moved, rtol=1e-12)


def test_units_do_not_matter():
    points = clusters(np.random.default_rng(4), 200, 150, 2)
    known = solved(points)
    for scale in (2.0**-27, 2.0**27):
        x, y, a, b = points
        assert_allclose(solved((scale * x, scale * y, a, b)).value, scale**2 * known.value, rtol=1e-12)


def test_items_of_a_batch_are_solved_one_by_one():
    rng = np.random.default_rng(5)
    x, y = rng.random((3, 80, 2)), rng.random((3, 90, 2)) + np.array([0.0, 1.0, 30.0])[:, None, None]
    for rtol in (None, 0.1):
        result = solved((x, y, None, None), rtol=rtol)
        assert result.converged.all()
        for k in range(3):
            one = solved((x[k], y[k], None, None), rtol=rtol)
            assert_allclose(result.value[k], one.value, rtol=1e-12)
            assert_allclose(result.plan[k], one.plan, atol=1e-15)


def heavy(seed, n, m):
    """Points of a law with heavy tails, whose plans at the scales of cells are nearly vertices."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_t(2, (n, 2)), rng.standard_t(2, (m, 2)) + 5
    a, b = rng.pareto(1.5, n), rng.pareto(1.5, m)
    return x, y, a / a.sum(), b / b.sum()


@pytest.mark.parametrize("pairs", [0, 2**27])
def test_plans_that_do_not_settle_are_left_to_the_simplex(monkeypatch, pairs):
    monkeypatch.setattr(solver, "_MATRIX", pairs)
    points = heavy(0, 400, 300)
    result = solved(points, metric=("power", 3.0))
    exact = otkit.solve_sample(*points, metric=("power", 3.0), method="exact")
    assert result.converged
    assert_allclose(result.value, exact.value, rtol=1e-10)
    assert result.plan_sparse().mass.size <= 699
    ended = [stage.error for stage in result.stages]
    assert ended[-1] > 1e-3 or not pairs


def test_the_simplex_that_took_over_stops_with_an_interval():
    points = heavy(0, 400, 300)
    exact = otkit.solve_sample(*points, metric=("power", 3.0), method="exact").value
    with pytest.warns(otkit.ConvergenceWarning):
        result = otkit.solve_sample(*points, metric=("power", 3.0), method=otkit.Multiscale(max_iter=400))
    assert result.status is otkit.Status.MAX_ITER
    assert result.lower <= exact <= result.upper < np.inf


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_where_most_arcs_tie_a_part_of_them_is_listed(monkeypatch, shift):
    rng, listed = np.random.default_rng(0), []
    x, y = rng.random((700, 2)), rng.random((600, 2)) + shift
    whole = pairs._listed

    def watched(*args):
        found = whole(*args)
        listed.append(0 if found is None else found.cols.size)
        return found

    monkeypatch.setattr(pairs, "_listed", watched)
    monkeypatch.setattr(pairs, "_CROWD", 32)
    result = solved((x, y, None, None), metric="cityblock")
    assert_allclose(result.value, otkit.solve_sample(x, y, metric="cityblock", method="exact").value, rtol=1e-12)
    assert 0 in listed  # there were too many
    assert max(listed) <= 32 * 1300


def test_single_points():
    x, y = np.array([[1.0, 2.0]]), np.random.default_rng(6).random((40, 2))
    for pair in ((x, y), (y, x), (x, x + 3)):
        known = otkit.solve_sample(*pair, method="exact").value
        assert_allclose(otkit.solve_sample(*pair, method="multiscale").value, known, rtol=1e-12)


def test_a_stopped_solve_has_valid_bounds():
    points = gaussian(np.random.default_rng(7), 300, 300, 2)
    known = otkit.solve_sample(*points, method="exact")
    with pytest.warns(otkit.ConvergenceWarning):
        result = solved(points, callback=lambda _: True)
    with pytest.warns(otkit.ConvergenceWarning):
        few = otkit.solve_sample(*points, method=otkit.Multiscale(max_iter=20))
    assert result.status is Status.STOPPED
    for one in (result, few):
        assert one.lower <= known.upper
        assert known.lower <= one.upper < np.inf
        check_plan(one, points)
    assert few.status is Status.MAX_ITER


def test_arguments_that_do_not_apply_are_refused():
    rng = np.random.default_rng(8)
    x, y = rng.random((30, 2)), rng.random((20, 2))
    four = rng.random((30, 4)), rng.random((20, 4))
    solve = otkit.solve_sample
    with pytest.raises(ValueError, match="up to 3 coordinates"):
        solve(*four, method="multiscale")
    with pytest.raises(ValueError, match="power ≥ 1"):
        solve(x, y, metric=("power", 0.5), method="multiscale")
    with pytest.raises(ValueError, match="power ≥ 1"):
        otkit.solve(rng.random((30, 20)), method="multiscale")
    with pytest.raises(ValueError, match="drop reg="):
        solve(x, y, reg=0.1, method="multiscale")
    with pytest.raises(ValueError, match="rtol= bounds"):
        solve(x, y, method="multiscale", tol=1e-3)
    with pytest.raises(ValueError, match="drop init="):
        solve(x, y, method="multiscale", init=(np.zeros(30), np.zeros(20)))


def test_many_points_are_solved_by_cells():
    rng = np.random.default_rng(9)
    x, y = rng.random((4200, 2)), rng.random((4000, 2)) + 0.5
    problem = LinearProblem.build(otkit.PointCloud(x, y))
    assert choose_solver(problem, "auto") == otkit.Multiscale()
    assert choose_solver(problem, "auto", bounded=True) == otkit.Multiscale()
    few = LinearProblem.build(otkit.PointCloud(x[:100], y))
    assert choose_solver(few, "auto") == otkit.Exact()
    large = LinearProblem.build(otkit.PointCloud(np.ones((2**18 + 1, 2)), y[:100]))
    assert choose_solver(large, "auto") == otkit.Multiscale(rtol=1e-2)
    result = otkit.wasserstein(x, y, rtol=1e-2)
    assert result.result.method == "multiscale"
    assert result.upper - result.lower <= 1e-2 * result.upper
