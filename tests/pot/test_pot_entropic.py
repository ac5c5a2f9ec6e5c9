"""`otkit.pot.sinkhorn`, the functions of points and the unbalanced ones, beside POT."""

import warnings

import numpy as np
import ot as theirs
import pytest

import otkit
import otkit.pot as ot
from otkit.pot.bregman import METHODS
from otkit.pot.unbalanced import METHODS as UNBALANCED

LOG = {"sinkhorn": {"err", "niter", "u", "v"}, "sinkhorn_log": {"err", "niter", "log_u", "log_v", "u", "v"},
       "greenkhorn": {"u", "v", "n_iter"}, "sinkhorn_epsilon_scaling": {"err", "alpha", "beta", "warmstart", "niter"},
       "sinkhorn_stabilized": {"err", "n_iter", "logu", "logv", "alpha", "beta", "warmstart"}}  # fmt: skip


def problem(seed, n=13, m=9, mass=1.0):
    rng = np.random.default_rng(seed)
    return mass * rng.dirichlet(np.ones(n)), mass * rng.dirichlet(np.ones(m)), rng.random((n, m))


@pytest.mark.parametrize("mass", [1.0, 2.5])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_plan_the_cost_and_the_log_of_pot(method, mass):
    a, b, M = problem(0, mass=mass)
    plan, log = ot.sinkhorn(a, b, M, 0.1, method=method, log=True)
    plan_2, log_2 = theirs.sinkhorn(a, b, M, 0.1, method="sinkhorn_log", stopThr=1e-12, numItermax=10000, log=True)
    np.testing.assert_allclose(plan, plan_2, atol=1e-9)
    assert LOG[method] <= log.keys()
    np.testing.assert_allclose(log["u"][:, None] * np.exp(-M / 0.1) * log["v"], plan)
    assert np.ptp(log["log_u"] - log_2["log_u"]) < 1e-7
    np.testing.assert_allclose(log["alpha"], 0.1 * log["logu"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, log_2 = theirs.sinkhorn(a, b, M, 0.1, method=method, log=True)
    assert log_2.keys() == LOG[method] <= log.keys()


def test_sinkhorn2_and_histograms_in_columns():
    a, b, M = problem(1)
    columns = np.stack([b, b[::-1]], axis=1)
    for method in ("sinkhorn", "sinkhorn_log", "sinkhorn_stabilized"):
        costs, log = ot.sinkhorn2(a, columns, M, 0.1, method=method, log=True)
        np.testing.assert_allclose(costs, theirs.sinkhorn2(a, columns, M, 0.1, stopThr=1e-12), rtol=1e-7)
        np.testing.assert_allclose(costs, [ot.sinkhorn2(a, column, M, 0.1) for column in columns.T])
        assert log["u"].shape == (13, 2)
        assert log["v"].shape == (9, 2)
    np.testing.assert_allclose(ot.sinkhorn(a, columns, M, 0.1), costs)
    with pytest.raises(ValueError, match="method must be one of sinkhorn, sinkhorn_log, sinkhorn_stabilized, got 'gr"):
        ot.sinkhorn2(a, b, M, 0.1, method="greenkhorn")


def test_a_small_reg_has_finite_logarithms_and_an_honest_plan():
    a, b, M = problem(2)
    plan, log = ot.sinkhorn(a, b, M, 1e-5, log=True)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-9)
    assert np.isfinite(log["log_u"]).all()
    np.testing.assert_allclose(np.exp(log["log_u"][:, None] + log["log_v"] - M / 1e-5), plan, atol=1e-9)


def test_weights_of_zero_have_scalings_of_zero():
    a, b, M = problem(3)
    a[0] = b[-1] = 0
    a, b = a / a.sum(), b / b.sum()
    plan, log = ot.sinkhorn(a, b, M, 0.1, log=True)
    assert log["u"][0] == log["v"][-1] == plan[0].sum() == 0
    again = ot.sinkhorn(a, b, M, 0.1, warmstart=(log["log_u"], log["log_v"]))
    np.testing.assert_allclose(again, plan, atol=1e-9)


def test_a_threshold_of_0_runs_so_many_iterations_of_pot():
    _, b, M = problem(4)
    a = np.full(13, 1 / 13)
    with pytest.warns(otkit.ConvergenceWarning, match="stopThr=0 stops after numItermax iterations, at an error of"):
        plan = ot.sinkhorn(a, b, M, 0.05, stopThr=0, numItermax=3)
    expected = theirs.sinkhorn(a, b, M, 0.05, stopThr=0, numItermax=3, warn=False)
    np.testing.assert_allclose(plan, expected, rtol=1e-12)


def test_the_limit_is_passed_on_and_warn_is_heard():
    a, b, M = problem(5)
    with pytest.warns(otkit.ConvergenceWarning, match="raise numItermax or the tolerance.*larger reg"):
        ot.sinkhorn(a, b, M, 1e-3, numItermax=1)
    ot.sinkhorn(a, b, M, 1e-3, numItermax=1, warn=False)  # warnings are errors in tests
    ot.sinkhorn2(a, b, M, 1e-3, numItermax=1)


@pytest.mark.parametrize("method", METHODS)
def test_dual_vectors_of_another_solve_start_one(method):
    a, b, M = problem(6)
    _, log = ot.sinkhorn(a, b, M, 0.01, log=True, method=method)
    start = log["warmstart"] if method in METHODS[3:] else (log["log_u"], log["log_v"])
    plan, again = ot.sinkhorn(a, b, M, 0.01, method=method, warmstart=start, log=True)
    np.testing.assert_allclose(plan, ot.sinkhorn(a, b, M, 0.01), atol=1e-9)
    assert again["niter"] <= 2
    with pytest.raises(ValueError, match="warmstart must be a pair of dual vectors, got ndarray"):
        ot.sinkhorn(a, b, M, 0.1, warmstart=log["log_u"])


@pytest.mark.parametrize("options", [{"tau": 10}, {"epsilon0": 1.0, "numInnerItermax": 5}])
def test_options_of_stabilised_iterations_have_no_effect_and_others_are_refused(options):
    a, b, M = problem(7)
    for function in (ot.sinkhorn, ot.sinkhorn2, lambda *x, **y: ot.unbalanced.sinkhorn_unbalanced(*x, 1.0, **y)):
        np.testing.assert_allclose(function(a, b, M, 0.1, **options), function(a, b, M, 0.1), rtol=1e-9)
        with pytest.raises(TypeError, match="momentum= does not apply: otkit works in the log domain"):
            function(a, b, M, 0.1, momentum=0.5, **options)


def test_bad_arguments_are_refused():
    a, b, M = problem(8)
    with pytest.raises(ValueError, match="reg must be positive, got 0"):
        ot.sinkhorn(a, b, M, 0)
    with pytest.raises(ValueError, match=r"method must be one of sinkhorn, .*, got 'foo'"):
        ot.sinkhorn(a, b, M, 1, method="foo")
    with pytest.raises(ValueError, match="same total mass"):
        ot.sinkhorn(a, 2 * b, M, 1)
    with pytest.raises(ValueError, match=r"b must be weights \(n,\) or histograms \(n, K\)"):
        ot.sinkhorn(a, np.ones((9, 1, 1)), M, 1)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "canberra"])
def test_functions_of_points_are_those_of_matrices(metric):
    rng = np.random.default_rng(9)
    x, y, a, b = rng.random((13, 2)), rng.random((9, 2)), *problem(9)[:2]
    M = ot.dist(x, y, metric)
    plan, log = ot.bregman.empirical_sinkhorn(x, y, 0.1, a, b, metric, log=True)
    np.testing.assert_allclose(plan, ot.sinkhorn(a, b, M, 0.1), atol=1e-9)
    f, g, log_2 = ot.bregman.empirical_sinkhorn(x, y, 0.1, a, b, metric, isLazy=True, log=True)
    np.testing.assert_allclose(np.exp(f[:, None] + g - M / 0.1), plan)
    np.testing.assert_array_equal(log_2["u"], log["log_u"])
    np.testing.assert_allclose(log_2["lazy_plan"][2:5, :4], plan[2:5, :4])
    np.testing.assert_allclose(log_2["lazy_plan"][-1], plan[-1:])
    cost, log_3 = ot.bregman.empirical_sinkhorn2(x, y, 0.1, a, b, metric, isLazy=True, log=True)
    assert float(cost) == pytest.approx(float(ot.sinkhorn2(a, b, M, 0.1)))
    np.testing.assert_allclose(log_3["lazy_plan"][:], plan)


def test_the_divergence_is_that_of_pot():
    rng = np.random.default_rng(10)
    x, y, a, b = rng.random((13, 2)), rng.random((9, 2)), *problem(10)[:2]
    ours, log = ot.bregman.empirical_sinkhorn_divergence(x, y, 0.1, a, b, log=True)
    expected, log_2 = theirs.bregman.empirical_sinkhorn_divergence(x, y, 0.1, a, b, log=True)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
    assert log.keys() == log_2.keys()
    u, v = log["log_sinkhorn_ab"]["log_u"], log["log_sinkhorn_ab"]["log_v"]
    warm = ot.bregman.empirical_sinkhorn_divergence(x, y, 0.1, a, b, warmstart=(u, v), isLazy=True)
    assert float(warm) == pytest.approx(float(ours), rel=1e-6)
    assert float(ot.bregman.empirical_sinkhorn_divergence(x, x, 0.1)) == 0


@pytest.mark.parametrize("method", UNBALANCED)
@pytest.mark.parametrize("reg_m", [1.0, (0.5, 2.0), [3.0], (np.inf, 0.2)])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_unbalanced_plans_and_logs_are_those_of_pot(reg_type, reg_m, method):
    a, b, M = problem(11)
    b = 1.5 * b
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, log_2 = theirs.unbalanced.sinkhorn_unbalanced(
            a, b, M, 0.1, reg_m, reg_type=reg_type, stopThr=1e-13, numItermax=20000, log=True
        )
    plan, log = ot.unbalanced.sinkhorn_unbalanced(a, b, M, 0.1, reg_m, method, reg_type, stopThr=1e-10, log=True)
    np.testing.assert_allclose(plan, expected, atol=1e-9)
    assert log.keys() == log_2.keys()
    for name in ("logu", "logv"):
        np.testing.assert_allclose(log[name], log_2[name], atol=1e-7)
    assert float(log["cost"]) == pytest.approx(float(log_2["cost"]))


def kl(p, q):
    return (p * np.log(p / q) - p + q).sum()


@pytest.mark.parametrize("reference", ["kl", "entropy", "given"])
def test_the_total_cost_is_the_objective_with_all_mass_terms(reference):
    a, b, M = problem(12)
    b, c = 1.5 * b, {"kl": None, "entropy": None, "given": np.random.default_rng(0).random(M.shape)}[reference]
    reg_type = "entropy" if reference == "entropy" else "kl"
    asked = (a, b, M, 0.1, (1.0, 0.5), "sinkhorn", reg_type, c)
    total, log = ot.unbalanced.sinkhorn_unbalanced2(*asked, returnCost="total", log=True, stopThr=1e-10)
    plan = ot.unbalanced.sinkhorn_unbalanced(*asked, stopThr=1e-10)
    q = {"kl": a[:, None] * b, "entropy": np.ones_like(M), "given": c}[reference]
    objective = (plan * M).sum() + 0.1 * kl(plan, q) + kl(plan.sum(1), a) + 0.5 * kl(plan.sum(0), b)
    assert float(total) == float(log["total_cost"]) == pytest.approx(objective)
    for scale in (0.99, 1.01):  # it is the least one
        q_plan = scale * plan
        other = (q_plan * M).sum() + 0.1 * kl(q_plan, q) + kl(q_plan.sum(1), a) + 0.5 * kl(q_plan.sum(0), b)
        assert other > objective


def test_several_unbalanced_histograms_have_the_type_that_is_asked():
    a, b, M = problem(13)
    columns = np.stack([1.5 * b, b[::-1]], axis=1)
    for reg_type in ("kl", "entropy"):
        costs, log = ot.unbalanced.sinkhorn_unbalanced2(a, columns, M, 0.1, 1.0, reg_type=reg_type, log=True)
        single = [ot.unbalanced.sinkhorn_unbalanced2(a, column, M, 0.1, 1.0, reg_type=reg_type) for column in columns.T]
        np.testing.assert_allclose(costs, single, rtol=1e-6)
        assert log.keys() == {"err", "logu", "logv"}
        assert log["logv"].shape == (9, 2)


def test_bad_references_are_refused():
    a, b, M = problem(14)
    solve = ot.unbalanced.sinkhorn_unbalanced
    with pytest.raises(ValueError, match="c must be a non-negative matrix of the shape"):
        solve(a, b, M, 0.1, 1.0, c=-M)
    with pytest.raises(ValueError, match="c must be None for reg_type='entropy', whose reference is 1"):
        solve(a, b, M, 0.1, 1.0, reg_type="entropy", c=M)
    with pytest.raises(ValueError, match="reg_type must be one of kl, entropy, got 'l2'"):
        solve(a, b, M, 0.1, 1.0, reg_type="l2")
    with pytest.raises(ValueError, match="returnCost must be one of linear, total"):
        ot.unbalanced.sinkhorn_unbalanced2(a, b, M, 0.1, 1.0, returnCost="all")
    with pytest.raises(ValueError, match="a penalty must be 1 or 2 numbers, got 3"):
        solve(a, b, M, 0.1, [1.0, 2.0, 3.0])
    zero = np.where(M > 0.5, M, 0)
    assert (solve(a, b, M, 0.1, 1.0, c=zero)[zero == 0] == 0).all()
