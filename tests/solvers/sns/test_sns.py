import warnings
from dataclasses import replace

import numpy as np
import pytest
from checks import check_entropic, solved_by
from forms import few_kept, in_groups
from measure import without_matrix
from scipy.spatial.distance import cdist
from strategies import blocks, first, hard_cases, random_problem, small_reg_cases, told

import otkit
from otkit.solvers import SparseNewton
from otkit.solvers.sns import dual, solver

solve, solve_sample = solved_by("sns", asked="auto")

CASES = small_reg_cases() | hard_cases()


def newton_steps(result):
    return sum(stage.newton_steps for stage in result.stages)


def rounding(result):
    """The error that rounding allows, in the units of `error`."""
    problem = result.problem
    return 8 * 2.0**-53 * problem.span[0] / problem.reg[0]


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("relative", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_hard_cases_are_solved_down_to_rounding(name, relative):
    case = CASES[name]
    reg = relative * case.span
    result = solve(case.C, case.a, case.b, reg=reg, tol=1e-9)
    assert result.method == "sns"
    check_entropic(result, case.C, case.a, case.b, reg)
    assert result.error <= max(1e-9, 2 * rounding(result))


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("imbalance", [0, 1e-4, 2e-4, 1e-8])
@pytest.mark.parametrize(("gap", "count"), [(10, 2), (10, 5), (1e4, 2), (1e4, 5)])
@pytest.mark.parametrize("relative", [1e-3, 1e-5, 1e-6])
def test_a_tiny_mass_that_must_cross_between_blocks_does(gap, count, imbalance, relative):
    case = blocks(gap, imbalance, count)
    result = solve(case.C, case.a, case.b, reg=relative * case.span, tol=1e-9)
    assert result.error <= max(1e-9, 2 * rounding(result))


@pytest.mark.parametrize("part", first(1, range(10)))
def test_random_problems_converge_and_never_claim_it_wrongly(part):
    check_random_problems(range(50 * part, 50 * (part + 1)))


@pytest.mark.parametrize("part", first(1, range(4)))
def test_random_problems_by_the_entries_that_matter(part, monkeypatch):
    few_kept(monkeypatch)  # however small the problem and however many they are
    check_random_problems(range(50 * part, 50 * (part + 1)))


def check_random_problems(seeds):
    short = []
    for seed in seeds:
        given, relative = random_problem(seed)
        with told(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            result = solve(**given, tol=1e-8)
            error = true_error(result, **given)
            assert np.isfinite([error, float(result.value)]).all()
            assert np.isfinite(result.f).all()
            assert np.isfinite(result.g).all()
            assert abs(error - result.error) <= 1e-3 * error + 100 * rounding(result) + 1e-12
            assert result.lower <= result.upper
            if result.converged:
                assert error <= 1.001 * result.tol + 1e-13
                continue
            assert result.status in (otkit.Status.STALLED, otkit.Status.MAX_ITER)
            if relative >= 0.9e-5:
                short.append(seed)
    assert short == []  # of the 1 % of all parts together that would be good enough


def true_error(result, C, a, b, reg, unbalanced):
    """The error from the potentials and the data alone."""
    f, g = result.potentials
    with np.errstate(divide="ignore"):
        P = np.exp((f[:, None] + g - C) / reg + np.log(a)[:, None] + np.log(b))
    rho_a, rho_b = unbalanced or (np.inf, np.inf)
    miss = abs(P.sum(1) - a * np.exp(-f / rho_a)).sum() + abs(P.sum(0) - b * np.exp(-g / rho_b)).sum()
    return miss / ((a.sum() + b.sum()) / 2)


class TestTable1:
    """The linear assignment problem of the paper: n = 500, costs U(0, 1), reg = 1/1200."""

    C = np.random.default_rng(0).random((500, 500))

    def test_few_newton_steps_lead_to_the_limit_of_rounding(self):
        methods = (SparseNewton(tol=1e-13, sweeps=sweeps) for sweeps in (None, 25, 30, 40))
        results = [solve(self.C, reg=1 / 1200, method=method) for method in methods]
        assert all(result.converged and 0 < newton_steps(result) <= 20 for result in results)
        assert min(result.error for result in results) <= 1e-13  # the tolerance is 1.1e-12, for rounding

    @pytest.mark.parametrize(("keep", "most"), [(6 / 500, 10), (4 / 500, 15), (3 / 500, 25)])
    def test_so_does_the_published_method(self, keep, most):
        method = SparseNewton(keep=keep, factor=np.inf, sweeps=20, tol=1e-12)
        result = solve(self.C, reg=1 / 1200, method=method)
        assert result.converged
        (stage,) = result.stages
        assert stage.newton_steps <= most
        assert stage.n_iter == 20 + stage.newton_steps
        assert stage.kept == keep * 500**2

    def test_too_sparse_a_plan_makes_it_linear(self):
        # With two entries a row, 7 % of the mass is left out.
        method = SparseNewton(keep=2 / 500, factor=np.inf, sweeps=20, tol=1e-12)
        result = solve(self.C, reg=1 / 1200, method=method)
        assert result.converged
        assert newton_steps(result) > 30
        assert result.stages[0].dropped > 0.01


def test_it_agrees_with_sinkhorn(rng):
    C = rng.random((4, 60, 50))
    for unbalanced in (None, 0.5, (np.inf, 0.2)):
        options = dict(reg=2e-3, tol=1e-10, unbalanced=unbalanced)
        one = solve(C, **options)
        other = otkit.solve(C, **options, method="sinkhorn")
        assert one.converged.all()
        assert other.converged.all()
        assert np.allclose(one.value, other.value, rtol=1e-9, atol=1e-12)
        assert abs(one.plan - other.plan).sum() < 1e-6


def test_the_items_of_a_batch_are_solved_each_by_itself(rng):
    C = rng.random((6, 200, 200))
    reg = np.array([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    result = solve(C, reg=reg, tol=1e-9)
    assert result.converged.all()
    for k in range(6):
        alone = solve(C[k], reg=reg[k], tol=1e-9)
        assert abs(result.plan[k] - alone.plan).sum() < 1e-6
        log = [stage for stage in result.stages if stage.item == k]
        assert sum(stage.n_iter for stage in log) == result.n_iter[k]
    assert newton_steps(result) > 0


def test_other_libraries_get_the_same_answer(xp, rng):
    C = rng.random((200, 200))
    wanted = solve(C, reg=1e-4, tol=1e-9)
    found = solve(xp.asarray(C), reg=1e-4, tol=1e-9)
    assert newton_steps(found) > 0
    assert found.converged
    assert abs(np.asarray(found.plan) - wanted.plan).sum() < 1e-6


def test_points_are_never_made_a_matrix(rng, monkeypatch):
    x, y = rng.standard_normal((1200, 30)), rng.standard_normal((1000, 30))
    dense = solve(cdist(x, y, "sqeuclidean"), reg=0.02, tol=1e-9)
    monkeypatch.setattr("otkit.kernels.numba.rows.KEPT", 0)
    monkeypatch.setattr("otkit.kernels._HELD", 0)  # as if there were more points
    in_groups(monkeypatch, 2**13, tile=2**13)
    tall = without_matrix(lambda: solve_sample(x, y, reg=0.02, tol=1e-9), 1200, 1000)
    assert newton_steps(tall) > 0
    assert tall.converged
    assert float(tall.value) == pytest.approx(float(dense.value), rel=1e-10)


def test_steps_near_the_last_sweeps_pass_over_no_costs(monkeypatch):
    x = np.random.default_rng(0).random((2, 400, 2))
    C = cdist(*x, "sqeuclidean")
    wanted = otkit.solve(C, reg=5e-4, tol=1e-10, method="sinkhorn")
    descend = solver.descend

    def without(problem, *args):
        return descend(replace(problem, kernels=replace(problem.kernels, select=None, sweep=None)), *args)

    monkeypatch.setattr(solver, "descend", without)
    result = solve(C, reg=5e-4, method=SparseNewton(tol=1e-9, sweeps=60))
    assert newton_steps(result) > 0
    assert result.error <= 1e-9  # by all entries
    assert abs(result.plan - wanted.plan).sum() < 1e-7


def test_stages_are_left_at_larger_errors_far_from_the_last():
    C = np.random.default_rng(0).random((200, 200))
    for stage_tol, most in ((1e-5, 1e-2), (0.1, 0.1)):
        result = solve(C, reg=1e-4, method=SparseNewton(tol=1e-9, stage_tol=stage_tol))
        regs, errors = np.array([(stage.reg, stage.error) for stage in result.stages[:-1]]).T
        allowed = np.minimum(most, stage_tol * (regs / 1e-4) ** 0.5)
        assert (errors <= allowed).all()
        assert (errors > stage_tol / 3).any()


def test_the_log_and_the_callback_tell_what_happened():
    C = np.random.default_rng(0).random((200, 200))
    seen = []
    result = solve(C, reg=1e-4, tol=1e-9, callback=lambda progress: seen.append(int(progress.n_iter[0])))
    last = result.stages[-1]
    assert seen == sorted(seen)
    assert seen[-1] == result.n_iter == sum(stage.n_iter for stage in result.stages)
    assert 0 < last.newton_steps < last.n_iter
    assert last.cg_steps >= last.newton_steps
    assert 200 <= last.kept < 40_000
    assert 0 <= last.dropped < 1e-3


class TestGuards:
    def test_a_dense_plan_is_left_to_sweeps(self, monkeypatch):
        monkeypatch.setattr(dual, "_ALWAYS", 10)
        monkeypatch.setattr(solver, "is_slow", lambda *_: np.array([True]))
        x = np.random.default_rng(0).random((80, 2))
        result = solve_sample(x, x[::-1] ** 2, reg=0.3, tol=1e-10)
        assert result.converged
        assert newton_steps(result) == 0

    def test_units_of_the_cost_change_nothing(self):
        C = np.random.default_rng(3).random((200, 200))
        one, other = (solve(C * unit, reg=1e-4 * unit, tol=1e-9) for unit in (1.0, 2.0**20))
        assert newton_steps(one) > 0
        assert np.array_equal(one.plan, other.plan)

    def test_infeasible_problems_are_still_proven_infeasible(self):
        C = np.where(np.add.outer(np.arange(40) // 20, np.arange(40) // 20) == 1, np.inf, 0.5)
        a = np.concatenate([np.full(20, 0.6), np.full(20, 0.4)]) / 20
        with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
            assert solve(C, a, reg=1e-3).status is otkit.Status.INFEASIBLE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(keep=0.0, factor=np.inf), "keep must be above 0"),
        (dict(keep=1.5, factor=np.inf), "keep must be above 0"),
        (dict(keep=0.1), "pass factor=inf"),
        (dict(factor=1.0), "factor must be above 1"),
        (dict(stage_tol=2.0), "stage_tol must be a positive number and below 1"),
        (dict(sweeps=0), "sweeps must be a positive number"),
        (dict(max_iter=2.5), "max_iter must be a whole number"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SparseNewton(**options)
