import numpy as np
import ot
import pytest
from checks import check_entropic, marginal_error, objective, solved_by
from strategies import hard_cases, random_case

import otkit

solve, solve_sample = solved_by("sinkhorn")


@pytest.mark.parametrize("seed", range(24))
def test_the_plan_and_the_value_are_those_of_pot(seed):
    case = random_case(seed)
    span = np.ptp(case.C) or 1.0
    reg = span * (0.01 if seed % 2 else 0.1)
    result = solve_sample(case.x, case.y, case.a, case.b, metric=case.metric, reg=reg, tol=1e-12)
    wanted = ot.bregman.sinkhorn_log(case.a, case.b, case.C, reg, stopThr=1e-13, numItermax=200_000, warn=False)
    # POT's own stopping rule is an L2 norm; where it still stops short, its answer is no oracle.
    assert marginal_error(wanted, case.a, case.b) < 1e-11
    assert abs(result.plan - wanted).sum() < 1e-7
    assert abs(result.value - objective(case.C, case.a, case.b, reg, wanted)) < 1e-8 * span
    assert abs(result.value_linear - (wanted * case.C).sum()) < 1e-8 * span
    assert abs(result.value - result.value_linear - result.value_reg) < 1e-12 * span
    assert result.value_marginal is None


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("relative", [1e3, 1.0, 0.1, 0.01])
@pytest.mark.parametrize("method", ["sinkhorn", "sns"])
def test_every_valid_case_converges(name, relative, method):
    case = hard_cases()[name]
    reg = relative * case.span
    result = otkit.solve(case.C, case.a, case.b, reg=reg, tol=1e-8, method=method)
    assert result.method == method
    assert result.converged
    assert result.tol <= 1.0001e-8
    P = check_entropic(result, case.C, case.a, case.b, reg)
    slack = 1e-11 * max(1, abs(case.C[np.isfinite(case.C)]).max(), reg)
    with np.errstate(invalid="ignore"):
        C = np.where(np.isfinite(case.C), case.C, 0)
    assert abs(float(result.value) - objective(C, case.a, case.b, reg, P)) < slack + 1e-9 * case.span


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("relative", [1e-3, 1e-4, 1e-6])
def test_smaller_regularisations_converge_or_say_so(name, relative):
    case = hard_cases()[name]
    reg = relative * case.span
    result = solve(case.C, case.a, case.b, reg=reg, tol=1e-8, max_iter=1000, method="sinkhorn")
    check_entropic(result, case.C, case.a, case.b, reg)
    assert result.converged == (result.error <= result.tol)
    assert result.status in (otkit.Status.CONVERGED, otkit.Status.MAX_ITER, otkit.Status.STALLED)


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_the_status_says_what_happened(rng):
    C = rng.random((30, 30))
    assert solve(C, reg=1e-3, max_iter=3).status is otkit.Status.MAX_ITER
    assert solve(C, reg=1e-3, max_iter=3).n_iter == 3
    stopped = solve(C, reg=1e-3, callback=lambda progress: progress.n_iter[0] >= 20)
    assert stopped.status is otkit.Status.STOPPED
    # Far clusters whose masses differ, without the annealing that would bridge them.
    x = np.array([[0.0], [1.0], [1000.0], [1001.0]])
    a, b = [0.3, 0.2, 0.2, 0.3], [0.2, 0.2, 0.3, 0.3]
    apart = solve_sample(x, x, a, b, reg=0.1, method=otkit.Sinkhorn(factor=np.inf))
    assert apart.status is otkit.Status.STALLED
    assert apart.error > 0.2 * (1 - 1e-3)  # what the masses differ by; how much more is a matter of rounding
    missed = abs(apart.plan.sum(1) - a).sum() + abs(apart.plan.sum(0) - b).sum()
    assert apart.error == pytest.approx(missed, rel=1e-9)
    assert solve_sample(x, x, a, b, reg=0.1).converged


def test_the_tolerance_is_never_below_rounding_and_is_reported():
    C = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 1.0, 0.0]])
    result = solve(C, reg=1e-9, tol=1e-12)
    assert result.tol == pytest.approx(8 * 2.0**-53 * result.problem.span[0] / 1e-9)
    narrow = solve(C.astype(np.float32), reg=1e-4)  # exponents are formed in float64 there too
    assert narrow.tol == 1e-4
    assert narrow.converged
    assert solve(C, reg=0.1).tol == 1e-6
    assert solve(C.astype(np.float32), reg=1.0).tol == 1e-4
    assert solve(C, reg=0.1, tol=1e-9).tol == 1e-9


def test_the_log_of_the_stages_adds_up(rng):
    result = solve(rng.random((20, 20)), reg=0.01)
    regs = [stage.reg for stage in result.stages]
    assert regs == sorted(regs, reverse=True)
    assert regs[-1] == 0.01
    assert sum(stage.n_iter for stage in result.stages) == result.n_iter
    assert all(stage.error <= 1e-2 for stage in result.stages)
    assert len(result.errors) >= len(regs)


def test_stopping_on_the_way_down_gives_an_answer_at_the_reg_that_was_asked_for(rng):
    C = rng.random((30, 30))
    with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
        result = solve(C, reg=1e-4, max_iter=5)
    check_entropic(result, C, np.full(30, 1 / 30), np.full(30, 1 / 30), 1e-4)
    assert np.allclose(result.marginals[0], 1 / 30)


def test_stopping_between_two_stages_is_no_worse_than_beside_it(rng):
    C = rng.random((30, 30))
    stages = solve(C, reg=1e-3).stages
    for last in range(1, len(stages)):
        cut = sum(stage.n_iter for stage in stages[:last])
        with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
            result = solve(C, reg=1e-3, max_iter=cut)
        np.testing.assert_allclose(result.marginals[0], 1 / 30, rtol=1e-9)
        assert result.error <= 2


def test_a_warm_start_is_used(rng):
    C = rng.random((60, 50))
    cold = solve(C, reg=0.01, tol=1e-9)
    for start in (cold, cold.potentials):
        warm = solve(C, reg=0.01, tol=1e-9, init=start)
        assert warm.n_iter <= 2 < cold.n_iter
    other = solve(C, reg=0.01, tol=1e-9, init=(100 * rng.standard_normal(60), 100 * rng.standard_normal(50)))
    assert other.converged
    assert abs(other.plan - cold.plan).sum() < 1e-6


def test_weakly_coupled_blocks_are_balanced_by_extrapolation(rng):
    # Two clusters whose masses differ by 5e-4: that much must cross, against exp(−140).
    x = np.concatenate([rng.random((20, 2)) * 0.1, rng.random((20, 2)) * 0.1 + 1])
    a = np.full(40, 1 / 40)
    a[:20] *= 1.001
    a /= a.sum()
    result = solve_sample(x, x[::-1] + 0.01, a, metric="euclidean", reg=0.014, tol=1e-8)
    assert result.converged
    assert result.plan[:20, :20].sum() == pytest.approx(a[:20].sum() - 0.5, rel=1e-3)


def test_the_log_of_a_batch_is_made_when_it_is_read(rng):
    """A hundred thousand entries take as long as the solve of small problems on a GPU."""
    found = otkit.solve(rng.random((4, 9, 12)), reg=0.1, method="sinkhorn")
    assert type(vars(found.outcome)["stages"]) is not tuple
    assert [stage.item for stage in found.stages] == [0, 1, 2, 3]
    assert [stage.n_iter for stage in found.stages] == found.n_iter.tolist()
    assert {type(value) for stage in found.stages for value in vars(stage).values()} == {int, float}


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize(("far", "accuracy"), [(8.0, 1e-6), (12.0, 1e-12)], ids=["single", "double"])
def test_single_precision_ends_where_column_sums_underflow(far, accuracy, rng, monkeypatch):
    x, y = rng.random((2, 70, 1)), rng.random((2, 70, 1))
    x[:, -1], y[:, -1] = far, far
    a, b = np.ones((2, 70)), np.full((2, 70), 1 / 70)
    a[:, -1] = 1e-35  # alone near the last column
    options = dict(reg=1.0, tol=1e-3, max_iter=2, method=otkit.Sinkhorn(factor=np.inf))
    found = otkit.solve_sample(x, y, a / a.sum(-1, keepdims=True), b, **options)
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    wanted = otkit.solve_sample(x, y, a / a.sum(-1, keepdims=True), b, **options)
    assert wanted.kernel.startswith("reference")
    np.testing.assert_array_equal(found.n_iter, wanted.n_iter)
    for name in ("f", "g"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=accuracy, atol=accuracy)
