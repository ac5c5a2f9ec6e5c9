from fractions import Fraction

import numpy as np
import ot
import pytest
from checks import solved_by
from forms import in_groups
from measure import without_matrix
from scipy.optimize import linear_sum_assignment
from strategies import blocks, distances, first, hard_cases, random_problem, small_reg_cases, told

import otkit
from otkit.solvers.exact import approach, small, solver

solve, solve_sample = solved_by("exact")


def large(monkeypatch):
    """Small problems are solved as large ones are."""
    monkeypatch.setattr(small, "LARGEST", 0)
    monkeypatch.setattr(solver, "_ALL", 0)


FORMS = ["compiled", "all arcs", "few arcs", "warm", "declined", "listed"]


@pytest.fixture(params=FORMS)
def arcs(request, monkeypatch):
    """Small problems as they are solved, by one compiled pass, and as large ones are.

    These start from masses, or from sweeps if they help, always or never. Or the simplex knows only listed arcs, as
    where the costs are not a matrix in memory: annealed first, and priced in rounds.
    """
    if request.param == "all arcs":
        monkeypatch.setattr(small, "LARGEST", 0)
    elif request.param != "compiled":
        large(monkeypatch)
    if request.param in ("warm", "declined"):
        monkeypatch.setattr(approach, "_NARROW", np.inf if request.param == "warm" else 0.0)
    if request.param == "listed":
        monkeypatch.setattr(solver, "has_rows", lambda problem: False)
    return request.param


def problem(seed):
    """Costs and weights of some family that is hard for exact methods."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 60, 2)
    family = seed % 6
    C = rng.random((n, m))
    if family == 1:
        C = rng.integers(0, 4, (n, m)).astype(float)
    elif family == 2:
        pixels = np.argwhere(np.ones((6, 6)))
        C = distances(pixels, pixels, "cityblock")
    elif family == 3:
        C = np.full((n, m), 2.0)
    elif family == 4:
        x = rng.random((4, 2))[rng.integers(0, 4, n)]
        C = distances(x, rng.random((m, 2)), "sqeuclidean")
    n, m = C.shape
    a, b = (rng.dirichlet(np.full(k, 0.3)) + 1e-18 if seed % 2 else np.full(k, 1 / k) for k in (n, m))
    return C, a / a.sum(), b / b.sum()


def check_optimal(result, C, a, b):
    """An optimal vertex: feasible, few entries, and potentials that are feasible and meet the costs on all of them."""
    finite = C[np.isfinite(C)]
    scale = np.ptp(finite) or 1.0
    plan, P = result.plan_sparse(), np.asarray(result.plan)
    f, g = np.asarray(result.f), np.asarray(result.g)
    assert result.converged
    assert abs(P.sum(1) - a).max() <= 4e-15  # with the rounding of these sums
    assert abs(P.sum(0) - b).max() <= 4e-15
    assert (P >= 0).all()
    assert plan.mass.size <= a.size + b.size - 1
    slack = C - f[:, None] - g
    some = np.outer(a > 0, b > 0)
    assert slack[some].min() >= -1e-12 * scale
    assert abs(slack[plan.row, plan.col]).max() <= 1e-12 * scale
    detours = 1 if finite.size == C.size else a.size + b.size  # along which a defect is repaired
    assert 0 <= result.gap <= 1e-12 * scale * detours + 2e-14 * abs(finite).max()
    assert result.lower <= float(result.value) <= result.upper


@pytest.mark.parametrize("part", first(3, range(10)))
def test_the_optimum_is_that_of_the_network_simplex_of_pot(part, arcs):
    for seed in range(15 * part, 15 * (part + 1)):
        C, a, b = problem(seed)
        with told(seed):
            result = solve(C, a, b, method="exact")
            check_optimal(result, C, a, b)
            wanted = ot.emd2(a, b, C, numItermax=10**7)
            assert abs(float(result.value) - wanted) <= 1e-12 * (np.ptp(C) or 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_random_problems_in_any_units(part, arcs):
    for seed in range(60 * part, 60 * (part + 1)):
        given, _ = random_problem(seed)
        rows, cols = slice(None, None, 1 + seed % 7), slice(None, None, 1 + seed % 11)
        C, (a, b) = given["C"][rows, cols], (w / w.sum() for w in (given["a"][rows], given["b"][cols]))
        if not (a.sum() > 0 and b.sum() > 0):
            continue
        with told(seed):
            result = solve(C, a, b, method="exact")
            check_optimal(result, C, a, b)
            scale = abs(C).max() or 1.0
            wanted = scale * ot.emd2(a, b, C / scale, numItermax=10**7)
            assert abs(float(result.value) - wanted) <= 1e-12 * (np.ptp(C) or 1.0) + 1e-15 * scale


@pytest.mark.parametrize("shape", [(700, 5), (3, 900), (400, 40)])
def test_many_more_points_on_one_side(shape, arcs, rng):
    for C in (rng.random(shape), rng.integers(0, 5, shape).astype(float)):
        a, b = (rng.dirichlet(np.full(k, 0.3)) for k in shape)
        result = solve(C, a, b, method="exact")
        check_optimal(result, C, a, b)
        assert abs(float(result.value) - ot.emd2(a, b, C, numItermax=10**7)) <= 1e-12 * np.ptp(C)


@pytest.mark.parametrize(
    ("name", "arcs"),
    [  # two forms of each case by turns, as all of it takes long
        pytest.param(name, form, marks=() if (k + turn) % 3 == 0 else pytest.mark.slow)
        for k, name in enumerate(hard_cases() | small_reg_cases())
        for turn, form in enumerate(FORMS)
    ],
    indirect=["arcs"],
)
def test_hard_cases(name, arcs):
    case = (hard_cases() | small_reg_cases())[name]
    result = solve(case.C, case.a, case.b, method="exact")
    check_optimal(result, case.C, case.a / case.a.sum(), case.b / case.b.sum())
    wanted = ot.emd2(case.a, case.b, np.where(np.isfinite(case.C), case.C, 1e4), numItermax=10**7)
    oracle = 0 if np.isfinite(case.C).all() else 1e-11  # POT moves a rounding of the mass at 1e4
    assert (
        abs(float(result.value) - wanted) <= 1e-12 * case.span + 1e-15 * abs(case.C[np.isfinite(case.C)]).max() + oracle
    )


def test_whole_numbers_give_the_rational_optimum():
    rng = np.random.default_rng(4)
    for _ in range(20):
        C = rng.integers(0, 9, (12, 10)).astype(float)
        a = np.bincount(rng.integers(0, 12, 64), minlength=12)
        b = np.bincount(rng.integers(0, 10, 64), minlength=10)
        result = solve(C, a / 64, b / 64, method="exact")
        arcs = result.plan_sparse()
        mass = [Fraction(m) for m in arcs.mass.tolist()]
        assert all((64 * m).denominator == 1 for m in mass)
        value = sum(m * int(C[i, j]) for m, i, j in zip(mass, arcs.row, arcs.col, strict=True))
        wanted = Fraction(round(64 * ot.emd2(a / 64, b / 64, C)), 64)
        assert value == wanted


@pytest.mark.parametrize("n", [50, 300])
def test_assignments(n, arcs, rng):
    C = rng.random((n, n))
    result = solve(C, method="exact")
    rows, cols = linear_sum_assignment(C)
    plan = result.plan_sparse()
    assert (plan.row == rows).all()
    assert (plan.col == cols).all()
    assert float(result.value) == pytest.approx(C[rows, cols].mean(), rel=1e-14)


def test_points_are_priced_without_a_matrix(rng, monkeypatch):
    x, y = rng.random((1200, 3)), rng.random((1000, 3))
    dense = solve(distances(x, y, "euclidean"), method="exact")
    monkeypatch.setattr(solver, "_FORMED", 2**18)
    monkeypatch.setattr("otkit.kernels.numba.rows.KEPT", 0)  # on the way down
    in_groups(monkeypatch, 2**13, tile=2**13)
    cloud = without_matrix(lambda: solve_sample(x, y, metric="euclidean", method="exact"), 1200, 1000)
    assert cloud.stages
    assert float(cloud.value) == pytest.approx(float(dense.value), rel=1e-13)
    assert cloud.upper - cloud.lower < 1e-12


@pytest.mark.parametrize(
    "metric", ["euclidean", "cityblock", lambda x, y: abs(x[..., None, :] - y[..., None, :, :]).max(-1)]
)
def test_points_are_few_enough_to_form_their_costs(metric, rng, monkeypatch):
    large(monkeypatch)
    x, y, a, b = rng.random((90, 3)), rng.random((70, 3)), rng.dirichlet(np.ones(90)), rng.dirichlet(np.ones(70))
    a[3], b[5] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    C = metric(x, y) if callable(metric) else distances(x, y, metric)
    result = solve_sample(x, y, a, b, metric=metric, method="exact")
    assert float(result.value) == pytest.approx(ot.emd2(a, b, C), rel=1e-12)
    assert result.stages[0].newton_steps == 0  # sweeps, as for a matrix


def test_equal_costs_take_few_rounds(monkeypatch):
    monkeypatch.setattr(solver, "_FORMED", 0)
    x = np.ones((300, 2))
    result = solve_sample(x, x + 1.0, method="exact")
    assert float(result.value) == pytest.approx(2.0)
    assert len(result.errors) < 20


def test_batches_and_other_libraries(xp, arcs, rng):
    C = rng.random((3, 20, 30))
    a, b = rng.dirichlet(np.ones(20), 3), rng.dirichlet(np.ones(30), 3)
    result = solve(*(xp.asarray(v) for v in (C, a, b)), method="exact")
    for k in range(3):
        assert abs(float(result.value[k]) - ot.emd2(a[k], b[k], C[k])) < 1e-13
    assert result.n_iter.min() > 0


def test_a_warm_start_takes_few_pivots(rng, monkeypatch):
    large(monkeypatch)
    C = rng.random((300, 300))
    cold = solve(C, method="exact")
    warm = solve(C, method="exact", init=cold)
    assert float(warm.value) == pytest.approx(float(cold.value), rel=1e-14)
    assert sum(s.n_iter for s in warm.stages) < sum(s.n_iter for s in cold.stages)


def test_masses_that_forbidden_arcs_keep_apart_are_infeasible(arcs):
    C = np.where(np.add.outer(np.arange(20) // 10, np.arange(20) // 10) == 1, np.inf, 0.5)
    a = np.repeat([0.06, 0.04], 10)
    with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
        result = solve(C, a, method="exact")
    assert result.status is otkit.Status.INFEASIBLE
    assert result.upper == np.inf


def test_a_tiny_mass_crosses_between_blocks(arcs):
    for imbalance in (0, 1e-8, 1e-12):
        case = blocks(1e4, imbalance)
        check_optimal(solve(case.C, case.a, case.b, method="exact"), case.C, case.a, case.b)


def test_stopping_early_leaves_valid_bounds(rng, monkeypatch):
    large(monkeypatch)
    C = rng.random((80, 80))
    wanted = ot.emd2(np.full(80, 1 / 80), np.full(80, 1 / 80), C)
    way_down = sum(stage.n_iter for stage in solve(C, method="exact").stages)
    for most in (1, 5, way_down + 1, way_down + 20):
        with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
            result = solve(C, method="exact", max_iter=most)
        assert result.n_iter == most
        assert np.isfinite(result.upper) or most > way_down
        assert result.lower <= wanted * (1 + 1e-12)
        assert result.upper >= wanted * (1 - 1e-12)


def test_items_that_wait_for_one_that_ran_out_are_not_called_optimal(rng, monkeypatch):
    large(monkeypatch)
    C = rng.random((2, 60, 60))
    C[0] = 1 - np.eye(60)  # comes down at once
    stages = solve(C, method="exact").stages
    down = [sum(stage.n_iter for stage in stages if stage.item == k) for k in (0, 1)]
    assert down[0] + 1 < down[1]
    with pytest.warns(otkit.ConvergenceWarning, match="2 of 2"):
        result = solve(C, method="exact", max_iter=down[0] + 1)
    assert set(result.status) == {otkit.Status.MAX_ITER}


def test_a_callback_sees_the_way_down_and_the_pivots_and_can_stop_both(rng, monkeypatch):
    large(monkeypatch)
    C = rng.random((80, 80))
    seen = []
    whole = solve(C, method="exact", callback=seen.append)
    assert seen[0].reg > 0 == seen[-1].reg
    assert [int(p.n_iter[0]) for p in seen] == sorted(int(p.n_iter[0]) for p in seen)
    assert seen[-1].n_iter[0] == whole.n_iter
    for stop in (0, len(seen) - 2):
        until = [False] * stop + [True]
        with pytest.warns(otkit.ConvergenceWarning, match="callback"):
            result = solve(C, method="exact", callback=lambda _, until=until: until.pop(0))
        assert result.n_iter == seen[stop].n_iter[0]
        assert result.lower <= whole.upper <= result.upper + 1e-12


def test_a_step_has_a_bounded_number_of_pivots(rng, monkeypatch):
    monkeypatch.setattr(solver, "_PIVOTS", 50)
    C = rng.random((2, 80, 70))
    seen = []
    result = solve(C, method="exact", callback=seen.append)
    steps = np.diff([progress.n_iter for progress in seen], axis=0, prepend=0)
    assert len(seen) > 3
    assert steps.max() <= 50
    for k in range(2):
        wanted = ot.emd2(np.full(80, 1 / 80), np.full(70, 1 / 70), C[k])
        assert float(result.value[k]) == pytest.approx(wanted, rel=1e-13)
    with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
        assert (solve(C, method="exact", max_iter=77).n_iter == 77).all()


def test_sweeps_are_declined_where_they_do_not_help(rng, monkeypatch):
    large(monkeypatch)
    ties, clouds = rng.integers(0, 5, (200, 200)).astype(float), distances(*rng.random((2, 200, 8)), "sqeuclidean")
    for C, narrow in ((ties, False), (clouds, True)):
        ends = []
        monkeypatch.setattr(solver, "cold", lambda *given, cold=solver.cold, ends=ends: ends.append(0) or cold(*given))
        result = solve(C, method="exact")
        assert (not ends) == narrow
        assert result.stages[0].newton_steps == 0
        assert result.n_iter > sum(stage.n_iter for stage in result.stages) > 0


def test_a_wide_plan_ends_the_sweeps_at_once(rng, monkeypatch):
    large(monkeypatch)
    C = distances(*rng.random((2, 300, 2)), "sqeuclidean")
    result = solve(C, method="exact")
    assert [stage.n_iter for stage in result.stages] == [approach._LOOK]
    with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
        assert solve(C, method="exact", max_iter=approach._LOOK).status is otkit.Status.MAX_ITER
    monkeypatch.setattr(approach, "_SAVED", 1.0)
    longer = solve(C, method="exact")
    assert len(longer.stages) > 1
    assert float(longer.value) == pytest.approx(float(result.value), rel=1e-13)


def test_points_that_hardly_moved_need_no_sweeps(rng, monkeypatch):
    large(monkeypatch)
    monkeypatch.setattr(approach, "_ENTRIES", 1000)
    x, y = rng.random((2, 200, 2))
    moved = x[rng.permutation(200)] + 1e-3 * rng.standard_normal((200, 2))
    C = np.stack([distances(x, other, "sqeuclidean") for other in (moved, y, moved)])
    a, b = np.full((2, 3, 200), 1 / 200)
    b[2] = np.repeat([0, 0.02, 0], [100, 50, 50])  # no column that is near has room
    result = solve(C, a, b, method="exact")
    assert {stage.item for stage in result.stages} == {1, 2}
    assert result.n_iter[0] < 50
    for k, value in enumerate(result.value):
        assert float(value) == pytest.approx(ot.emd2(a[k], b[k], C[k]), rel=1e-13)


def test_a_given_regularisation_is_where_the_simplex_starts(rng, monkeypatch):
    large(monkeypatch)
    C = rng.random((90, 80))
    result = otkit.solve(C, method=otkit.Exact(reg=0.01))
    assert result.stages[-1].reg == pytest.approx(0.01 * np.ptp(C), rel=0.1)
    check_optimal(result, C, np.full(90, 1 / 90), np.full(80, 1 / 80))


def test_memory_of_a_batch_is_that_of_few_matrices(rng):
    C = rng.random((12, 300, 260))
    result = without_matrix(lambda: solve(C, method="exact"), 12 * 300, 260)
    assert result.converged.all()
