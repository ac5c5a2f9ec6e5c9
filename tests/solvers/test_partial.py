"""Partial transport: linear programs, plans and potentials of the problem as given, and finite differences."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from checks import torch
from scipy.optimize import linprog

import otkit
from otkit import Status

EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def by_linprog(C, a, b, mass):
    """The optimal value by HiGHS; None if there is no plan."""
    n, m = C.shape
    i, j = np.nonzero(np.isfinite(C))
    A = sp.coo_array((np.ones(2 * i.size), (np.r_[i, n + j], np.r_[: i.size, : i.size])), shape=(n + m, i.size))
    found = linprog(C[i, j], A_ub=A, b_ub=np.r_[a, b], A_eq=np.ones((1, i.size)), b_eq=[mass], options=EXACT)
    return found.fun if found.status == 0 else None


def drawn(seed):
    """Costs, weights and a mass: ties, negative costs, offsets, forbidden arcs, zero and tiny weights, any totals."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 16, 2)
    C = [rng.random((n, m)), rng.integers(-3, 4, (n, m)).astype(float), rng.lognormal(0, 2, (n, m))][seed % 3]
    C = C + [0, 0, 0, 1e3, -1e3][seed % 5]
    a, b = rng.random(n), rng.random(m) * rng.choice([0.3, 1, 4])
    if seed % 4 == 0:
        a[rng.random(n) < 0.3], b[rng.random(m) < 0.3] = 0, 1e-13
        a[0] = b[0] = 0.5
    if seed % 7 == 0:
        C[rng.random((n, m)) < 0.4] = np.inf
        C[0, 0] = 1.0
    return C, a, b, min(a.sum(), b.sum()) * rng.choice([1e-6, 0.1, 0.5, 0.9, 1.0])


def assert_optimal(C, a, b, mass, result):
    """Feasible plans and potentials of one value, that of the linear program."""
    finite = np.isfinite(C)
    most = abs(C[finite]).max()
    wanted, P = by_linprog(C, a, b, mass), result.plan
    assert abs(result.value - wanted) <= 1e-9 * most * mass + 1e-12 * most
    assert result.lower <= result.value <= result.upper
    assert result.upper - result.lower <= 1e-8 * most * (a.sum() + b.sum())
    tiny = 1e-12 * (a.sum() + b.sum())
    assert (P >= 0).all()
    assert (P[~finite] == 0).all()
    assert (P.sum(1) <= a + tiny).all()
    assert (P.sum(0) <= b + tiny).all()
    assert abs(P.sum() - mass) <= tiny
    f, g, price = result.f, result.g, result.price
    assert f.max() <= 0
    assert g.max() <= 0
    with_mass = (a[:, None] > 0) & (b > 0)
    assert (f[:, None] + g + price - C)[with_mass].max() <= 1e-9 * most
    assert abs(a @ f + b @ g + mass * price - wanted) <= 1e-9 * most * (a.sum() + b.sum())


def check_seeds(seeds):
    solved = 0
    for seed in seeds:
        C, a, b, mass = drawn(seed)
        if by_linprog(C, a, b, mass) is None:
            with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
                assert otkit.solve(C, a, b, mass=mass).upper == np.inf
        else:
            assert_optimal(C, a, b, mass, otkit.solve(C, a, b, mass=mass))
            solved += 1
    return solved


def test_it_is_the_linear_program():
    assert check_seeds(range(60)) > 50


@pytest.mark.slow
def test_it_is_the_linear_program_300_times():
    assert check_seeds(range(60, 360)) > 280


@pytest.fixture
def clouds(rng):
    x, y = rng.standard_normal((12, 2)), rng.standard_normal((9, 2)) + 0.5
    return x, y, rng.random(12), rng.random(9)


def squares(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


@pytest.mark.parametrize("options", [{}, {"reg": 0.1}, {"rtol": 1e-3}], ids=str)
def test_points_and_sparse_costs_are_the_matrix(options, clouds, rng):
    x, y, a, b = clouds
    C, mass = squares(x, y), 0.6 * min(a.sum(), b.sum())
    one = otkit.solve(C, a, b, mass=mass, **options)
    other = otkit.solve_sample(x, y, a, b, mass=mass, **options)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-3 if "rtol" in options else 1e-9)
    np.testing.assert_allclose(other.plan.sum(), mass, rtol=1e-5)
    if "rtol" not in options:
        C[rng.random(C.shape) < 0.4] = np.inf
        stored = sp.csr_array(np.where(np.isfinite(C), C, 0))
        one, other = (
            otkit.solve(v, a, b, mass=0.8 * mass, tol=1e-9 if options else None, **options) for v in (C, stored)
        )
        np.testing.assert_allclose(other.value, one.value, rtol=1e-9 if not options else 1e-7)
        np.testing.assert_allclose(other.plan, one.plan, atol=1e-7 if options else 1e-13)
        assert other.plan_sparse().mass.size <= np.isfinite(C).sum()


@pytest.mark.parametrize("metric", ["sqeuclidean", "cityblock", ("axiswise", 1.5)], ids=str)
@pytest.mark.parametrize(
    "options", [{"mass": 0.4}, {"mass": 0.4, "reg": 0.5}, {"unbalanced": 2.0, "penalty": "tv"}], ids=str
)
def test_cells_of_a_grid_are_points(metric, options, rng):
    a, b = rng.random((2, 4, 5)) / 10, rng.random((4, 5)) / 5
    cells = np.argwhere(np.ones((4, 5))) * (1.0, 0.5)
    power = {"sqeuclidean": 2, "cityblock": 1}.get(metric, 1.5)
    C = (abs(cells[:, None] - cells) ** power).sum(-1)
    result = otkit.solve_grid(a, b, spacing=(1.0, 0.5), metric=metric, **options)
    matrix = otkit.solve(C, a.reshape(2, -1), b.ravel(), **options)
    np.testing.assert_allclose(result.value, matrix.value, rtol=1e-6 if "reg" in options else 1e-12)
    assert result.plan.shape == (2, 20, 20)
    if "mass" in options:
        np.testing.assert_allclose(result.plan.sum((-2, -1)), 0.4, rtol=1e-5)
    if torch is not None:
        a, b = (torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in (a, b))
        tensor = otkit.solve_grid(a, b, spacing=(1.0, 0.5), metric=metric, **options)
        assert tensor.value.dtype == torch.float32
        np.testing.assert_allclose(tensor.value.detach(), matrix.value, rtol=1e-3)
        tensor.value.sum().backward()
        assert a.grad.isfinite().all()


def test_many_cells_of_a_grid_are_refused_and_the_advice_works():
    a, b = np.zeros((2, 129, 128))
    a[3, 4:7], b[100, 60:63] = 0.3, 0.3
    for options in ({"mass": 0.4}, {"unbalanced": 1.0, "penalty": "tv"}):
        with pytest.raises(
            ValueError, match="at most 16384 cells of a grid, as points, got 16512; sum blocks of cells"
        ):
            otkit.solve_grid(a, b, **options)
    x, y = (np.argwhere(w) for w in (a, b))
    assert otkit.solve_sample(x, y, a[a > 0], b[b > 0], mass=0.4).converged


def test_a_large_problem_forms_no_matrix_of_points():
    rng = np.random.default_rng(0)
    x, y = rng.random((300, 2)), rng.random((4000, 2))
    result = otkit.solve_sample(x, y, mass=0.4)
    assert result.method == "exact"
    assert result.converged
    C = squares(x, y)
    assert (result.f[:, None] + result.g + result.price - C).max() <= 1e-9
    np.testing.assert_allclose(result.f.mean() + result.g.mean() + 0.4 * result.price, result.value, rtol=1e-9)


def test_items_of_a_batch_have_their_own_masses(clouds):
    x, y, a, b = clouds
    masses = np.array([0.1, 0.5, 1.0]) * min(a.sum(), b.sum())
    for reg in (None, 0.5):
        batch = otkit.solve_sample(x, y, a, b, mass=masses, reg=reg, tol=reg and 1e-10)
        np.testing.assert_allclose(batch.plan.sum((1, 2)), masses, rtol=1e-14, atol=1e-10 * (a.sum() + b.sum()))
        for k, mass in enumerate(masses):
            one = otkit.solve_sample(x, y, a, b, mass=mass, reg=reg, tol=reg and 1e-10)
            np.testing.assert_allclose(batch.value[k], one.value, rtol=1e-9)
            np.testing.assert_allclose(batch.price[k], one.price, rtol=1e-6)
    both = otkit.solve_sample(np.stack([x, 2 * x]), y, np.stack([a, a[::-1]]), b, mass=masses[:2, None])
    assert both.plan.shape == (2, 2, 12, 9)
    np.testing.assert_allclose(both.plan.sum((2, 3)), np.repeat(masses[:2, None], 2, 1))


def test_the_whole_mass_is_the_balanced_problem(clouds):
    x, y, a, b = clouds
    a, b = a / a.sum(), b / b.sum()
    for reg in (None, 0.1):
        part, whole = otkit.solve_sample(x, y, a, b, mass=1.0, reg=reg), otkit.solve_sample(x, y, a, b, reg=reg)
        np.testing.assert_allclose(part.value, whole.value, rtol=1e-6)
        np.testing.assert_allclose(part.plan, whole.plan, atol=1e-6 if reg else 1e-12)


def entropic_objective(P, C, a, b, mass, reg):
    """The documented objective: that of the plan with one more row and column."""
    whole = np.zeros((P.shape[0] + 1, P.shape[1] + 1))
    whole[:-1, :-1], whole[:-1, -1], whole[-1, :-1] = P, a - P.sum(1), b - P.sum(0)
    left, right = np.append(a, b.sum() - mass), np.append(b, a.sum() - mass)
    Q = left[:, None] * right / left.sum()
    some = whole > 0
    return (P * C).sum() + reg * (whole[some] * np.log((whole / np.where(Q > 0, Q, 1))[some])).sum()


@pytest.mark.parametrize("reg", [10.0, 1.0, 0.1])
def test_the_entropic_plan_minimises_its_objective(reg, clouds, rng):
    x, y, a, b = clouds
    C, mass = squares(x, y), 0.6 * min(a.sum(), b.sum())
    result = otkit.solve(C, a, b, mass=mass, reg=reg, tol=1e-11)
    P = result.plan
    best = entropic_objective(P, C, a, b, mass, reg)
    np.testing.assert_allclose(result.value, best, rtol=1e-8)
    np.testing.assert_allclose(result.value_dual, best, rtol=1e-8)
    np.testing.assert_allclose(result.value_linear, (P * C).sum(), rtol=1e-8)
    for _ in range(20):  # moves that keep the mass, within the weights
        i, k, j, q = *rng.integers(0, 12, 2), *rng.integers(0, 9, 2)
        moved = P.copy()
        step = 1e-3 * P[i, j]
        moved[i, j] -= step
        moved[k, q] += step
        if (moved.sum(1) < a).all() and (moved.sum(0) < b).all():
            assert entropic_objective(moved, C, a, b, mass, reg) >= best - 1e-9


@pytest.mark.parametrize("reg", [1e-2, 1e-4, 1e-6])
def test_a_small_regularisation_stays_finite_and_tends_to_the_optimum(reg, clouds):
    x, y, a, b = clouds
    C, mass = squares(x, y), 0.7 * min(a.sum(), b.sum())
    result = otkit.solve(C, a, b, mass=mass, reg=reg * C.max())
    wanted = by_linprog(C, a, b, mass)
    assert result.converged
    assert np.isfinite(result.plan).all()
    assert result.lower <= wanted <= result.upper
    np.testing.assert_allclose(result.plan.sum(), mass, rtol=1e-5)
    np.testing.assert_allclose(result.value_linear, wanted, atol=5 * reg * C.max() + 1e-5)


def test_views_of_the_plan_agree(clouds):
    x, y, a, b = clouds
    mass = 0.6 * min(a.sum(), b.sum())
    for reg in (None, 0.3):
        result = otkit.solve_sample(x, y, a, b, mass=mass, reg=reg)
        P, rng = result.plan, np.random.default_rng(0)
        u, v = rng.random(12), rng.random((9, 2))
        np.testing.assert_allclose(result.apply(v), P @ v, rtol=1e-12)
        np.testing.assert_allclose(result.apply_t(u), P.T @ u, rtol=1e-12)
        np.testing.assert_allclose(result.marginals[0], P.sum(1), rtol=1e-12, atol=1e-15)
        some = P.sum(1) > 1e-9
        np.testing.assert_allclose(result.barycentric()[some], (P @ y)[some] / P.sum(1)[some, None], atol=1e-6)
        assert np.isfinite(result.barycentric()).all()
        assert result.transport(x[:3] + 0.1).shape == (3, 2)
        i, j = result.sample(500, 0)
        assert (P[i, j] > 0).all()
        assert "partial" in repr(result)
        again = otkit.solve_sample(x, y, a, b, mass=mass, reg=reg, init=result)
        np.testing.assert_allclose(again.value, result.value, rtol=1e-6)


def test_a_changed_matrix_is_seen():
    C = np.random.default_rng(0).random((5, 5))
    result = otkit.solve(C, mass=0.5, reg=0.1)
    C += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        result.plan  # noqa: B018


def test_distances_are_means_over_the_mass_that_moves(clouds, rng):
    x, y, a, b = clouds
    mass = 0.6 * min(a.sum(), b.sum())
    for p in (1, 2):
        found = otkit.wasserstein(x, y, a, b, p=p, mass=mass)
        wanted = (by_linprog(np.sqrt(squares(x, y)) ** p, a, b, mass) / mass) ** (1 / p)
        np.testing.assert_allclose(found.distance, wanted, rtol=1e-9)
        assert found.lower <= wanted * (1 + 1e-9)
        assert found.upper >= wanted * (1 - 1e-9)
        rough = otkit.wasserstein(x, y, a, b, p=p, mass=mass, rtol=0.05)
        assert rough.lower <= wanted <= rough.upper
        assert rough.upper - rough.lower <= 0.05 * rough.upper


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("reg", [None, 0.5])
def test_gradients_are_finite_differences(reg, clouds):
    x, y, a, b = (v[:4] for v in clouds)
    given = [torch.tensor(v, requires_grad=True) for v in (x, y, a, b, 0.6 * min(a.sum(), b.sum()))]
    options = {} if reg is None else {"reg": reg, "tol": 1e-12}

    def value(x, y, a, b, mass):
        return otkit.solve_sample(x, y, a, b, mass=mass, **options).value

    def of_matrix(C, a, b, mass):
        return otkit.solve(C, a, b, mass=mass, **options).value

    C = torch.tensor(squares(x, y), requires_grad=True)
    assert torch.autograd.gradcheck(value, given, atol=1e-6)
    assert torch.autograd.gradcheck(of_matrix, (C, *given[2:]), atol=1e-6)
    distance = lambda *v: otkit.wasserstein(*v[:4], mass=v[4]).distance  # noqa: E731
    assert torch.autograd.gradcheck(distance, given, atol=1e-6)


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_gradients_of_plans_and_potentials_are_finite_differences(clouds):
    x, y, a, b = (v[:4] for v in clouds)
    C, left, mass = (torch.tensor(v, requires_grad=True) for v in (squares(x, y), a, 0.6 * min(a.sum(), b.sum())))
    v = torch.tensor(np.random.default_rng(0).random(4), requires_grad=True)

    def fields(C, a, mass, v):
        result = otkit.solve(C, a, torch.tensor(b), mass=mass, reg=0.5, tol=1e-12)
        return result.plan, result.f, result.g, result.price, result.marginals[1], result.apply(v), result.value_linear

    assert torch.autograd.gradcheck(fields, (C, left, mass, v), atol=1e-5)


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_tensors_in_single_precision(clouds):
    x, y = (torch.tensor(v, dtype=torch.float32) for v in clouds[:2])
    result = otkit.solve_sample(x, y, mass=0.5)
    assert result.plan.dtype == result.f.dtype == torch.float32
    np.testing.assert_allclose(float(result.value), otkit.solve_sample(*clouds[:2], mass=0.5).value, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mass": 0.0}, "mass must be above 0 and at most the smaller total"),
        ({"mass": -1.0}, "mass must be above 0"),
        ({"mass": np.nan}, "mass must be above 0"),
        ({"mass": 1.5}, r"got 1\.5 and the totals 1 and 1; pass a part of it, such as 0\.9"),
        ({"mass": [0.5, 1.5]}, r"got 1\.5"),
        ({"mass": 0.5, "unbalanced": 1.0, "reg": 1.0}, "pass one of them"),
        ({"mass": 0.5, "a": [1.0, 2.0]}, "a must have 3 weights"),
        (
            {"mass": 0.5, "init": (np.zeros(3), np.zeros(3))},
            "init must be a result with mass= or penalty='tv', got tuple",
        ),
        ({"mass": 0.5, "method": "multiscale"}, "multiscale"),
        ({"mass": 0.5, "tol": 1e-3}, "tol does not apply"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        otkit.solve(np.eye(3), **options)


def test_bad_costs():
    with pytest.raises(ValueError, match="costs must be numbers"):
        otkit.solve([[np.nan, 1.0]], mass=0.5)
    with pytest.raises(ValueError, match="some costs between points with mass must be finite"):
        otkit.solve([[np.inf, np.inf]], mass=0.5)
    with pytest.raises(ValueError, match="mass= needs a finite order"):
        otkit.wasserstein([[0.0]], [[1.0]], p=np.inf, mass=0.5)
    with pytest.raises(ValueError, match="vjp does not apply to partial transport"):
        otkit.vjp(otkit.solve(np.eye(3), mass=0.5), value=1.0)


def test_too_few_arcs_are_infeasible():
    C = np.full((3, 3), np.inf)
    C[0, 0] = 1.0
    with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
        result = otkit.solve(C, mass=0.5)
    assert result.status is Status.INFEASIBLE
    assert otkit.solve(C, mass=0.3).value == pytest.approx(0.3)


@pytest.mark.parametrize("metric", [None, "euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("asked", [{"mass": 0.3}, {"unbalanced": 0.2, "penalty": "tv"}, {"mass": 0.3, "reg": 0.5}])
def test_small_problems_take_one_pass_with_the_answer_of_the_general_way(monkeypatch, clouds, metric, asked):
    x, y, a, b = clouds
    a, b = np.stack([a, a[::-1]]).astype(np.float32), np.where(np.arange(len(b)) == 2, 0, b)

    def solve(**options):
        call = {**asked, **({"tol": 1e-10} if "reg" in asked else {}), **options}
        return otkit.solve(squares(x, y), a, b, **call) if metric is None else otkit.solve_sample(
            x, y, a, b, metric=metric, **call
        )  # fmt: skip

    general = solve(callback=lambda progress: None)
    monkeypatch.setattr("otkit.solving.run", None)
    quick = solve()
    near = 1e-8 if "reg" in asked else 1e-12
    assert quick.value.dtype == general.value.dtype
    for name in ("value",) if "reg" in asked else ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(quick, name), getattr(general, name), rtol=max(near, 1e-7), atol=near)
    assert (quick.lower >= general.lower - near).all()  # with a reg it is the optimum
    assert (quick.lower <= general.upper + near).all()
    np.testing.assert_allclose(quick.plan, general.plan, atol=max(near, 1e-7))
    assert quick.method == general.method
    if "reg" not in asked:
        assert (quick.upper - quick.lower <= 1e-11).all()


@pytest.mark.parametrize("kind", ["weights", "negative costs", "equal costs", "a view", "all that fits"])
def test_ordinary_arrays_go_straight_to_the_pass(monkeypatch, kind, rng):
    monkeypatch.setattr("otkit.solving.partial_problem", None)
    a, b, C = rng.random(6), rng.random(9), rng.random((6, 9)) - (kind == "negative costs") / 2
    mass = min(a.sum(), b.sum()) if kind == "all that fits" else 0.4
    C = {"equal costs": np.full((6, 9), -2.0), "a view": rng.random((18, 6))[::2].T}.get(kind, C)
    result = otkit.solve(C, a, b, mass=mass)
    assert_optimal(C, a, b, mass, result)
    assert (result.status, result.method) == (Status.CONVERGED, "exact")
    np.testing.assert_array_equal(result.plan, pickle.loads(pickle.dumps(result)).plan)
    assert otkit.solve(np.eye(3), mass=1).value == 0


def test_costs_out_of_reach_go_the_general_way():
    assert otkit.solve([[1.0, 2.0], [0.5, np.inf]], mass=0.75).value == pytest.approx(0.25 + 0.5)
    assert otkit.solve([[1.0], [1e300]], [1.0, 0.0], [1.0], mass=0.5).value == 0.5
    with pytest.raises(ValueError, match="finite"):
        otkit.solve([[-1e308, 1e308]], mass=0.5)
