"""`otkit.pot.emd`, `emd2` and the solvers on a line, beside POT."""

import numpy as np
import ot as theirs
import pytest
from scipy.sparse import coo_array
from scipy.stats import wasserstein_distance

import otkit
import otkit.pot as ot


def problem(seed, n=13, m=9, zeros=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n), rng.random(m)
    a[:zeros] = b[:zeros] = 0
    return a / a.sum(), b / b.sum(), rng.random((n, m))


@pytest.mark.parametrize("seed", range(5))
def test_emd_returns_what_pot_returns(seed):
    a, b, M = problem(seed)
    plan, log = ot.emd(a, b, M, log=True)
    plan_2, log_2 = theirs.emd(a, b, M, log=True)
    np.testing.assert_allclose(plan, plan_2, atol=1e-15)
    assert log.keys() == log_2.keys()
    for name in ("cost", "u", "v"):
        np.testing.assert_allclose(log[name], log_2[name], atol=1e-13)
    assert (log["warning"], log["result_code"]) == (log_2["warning"], log_2["result_code"]) == (None, 1)


def test_emd2_has_the_cost_the_log_and_the_plan():
    a, b, M = problem(0)
    cost, log = ot.emd2(a, b, M, return_matrix=True)
    assert float(cost) == pytest.approx(float(theirs.emd2(a, b, M)), rel=1e-14)
    assert float(ot.emd2(a, b, M)) == float(cost) == float(log["cost"])
    np.testing.assert_array_equal(log["G"], ot.emd(a, b, M))


def test_histograms_in_columns_are_solved_one_by_one():
    a, b, M = problem(1)
    columns = np.stack([b, b[::-1]], axis=1)
    costs = ot.emd2(a, columns, M)
    assert costs == pytest.approx([float(ot.emd2(a, column, M)) for column in columns.T], rel=1e-14)
    for (cost, log), column in zip(ot.emd2(a, columns, M, return_matrix=True), columns.T, strict=True):
        assert float(cost) == pytest.approx(float((log["G"] * M).sum()))
        np.testing.assert_allclose(log["G"].sum(0), column)
        assert a @ log["u"] + column @ log["v"] == pytest.approx(float(cost))


def test_lists_and_empty_weights_are_taken():
    assert ot.emd([], [], [[0.0, 1.0], [1.0, 0.0]]).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert float(ot.emd2([0.5, 0.5], [], [[0, 1], [1, 0]])) == 0


def test_dual_variables_are_feasible_where_there_is_no_mass():
    a, b, M = problem(2, zeros=3)
    _, log = ot.emd(a, b, M, log=True)
    assert (log["u"][:, None] + log["v"] - M).max() < 1e-14
    assert a @ log["u"] + b @ log["v"] == pytest.approx(log["cost"])
    several = ot.emd2(a, np.stack([b, b], axis=1), M, log=True)
    np.testing.assert_allclose(several[1][1]["u"], log["u"])


def test_totals_within_six_decimals_are_taken_and_others_refused():
    a, b, M = problem(3)
    plan = ot.emd(a, b * (1 + 1e-6), M)
    np.testing.assert_allclose(plan, ot.emd(a, b, M), atol=1e-15)
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match=r"same total to 6 decimals, got totals that differ by 0\.01; divide each"):
            ot.emd(a, b * 1.01, M)
    np.testing.assert_allclose(ot.emd(a, b * 1.01, M, check_marginals=False).sum(0), b)
    np.testing.assert_allclose(ot.emd(2 * a, [], M, check_marginals=False).sum(0), np.full(9, 2 / 9))
    with pytest.raises(ot.MarginalsError, match="b must have 9 weights, one for each column of M, got 13; pass M of"):
        ot.emd(a, a, M)


def test_sparse_costs_have_a_sparse_plan():
    a, b, M = problem(4)
    plan, log = ot.emd(a, b, coo_array(M), log=True)
    assert isinstance(plan, coo_array)
    np.testing.assert_allclose(plan.toarray(), ot.emd(a, b, M), atol=1e-15)
    assert log["cost"] == pytest.approx(float(ot.emd2(a, b, coo_array(M))))


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
@pytest.mark.parametrize("d", [1, 2])
def test_points_without_a_matrix_have_the_cost_and_the_log_of_pot(metric, d):
    rng = np.random.default_rng(7)
    x, y, (a, b, _) = rng.random((13, d)), rng.random((9, d)), problem(7)
    cost, log = ot.emd2_lazy(x, y, a, b, metric)
    expected, log_2 = theirs.lp.emd2_lazy(x, y, a, b, metric)
    assert float(cost) == float(ot.emd2_lazy(x, y, a, b, metric, return_matrix=False)) == pytest.approx(float(expected))
    assert log.keys() == log_2.keys()
    assert (log["G"].toarray() * ot.dist(x, y, metric)).sum() == pytest.approx(float(cost))
    assert a @ log["u"] + b @ log["v"] == pytest.approx(float(cost))
    warm = ot.emd2_lazy(x, y, a, b, metric, potentials_init=(log["u"], log["v"]), return_matrix=False)
    assert float(warm) == pytest.approx(float(cost))
    with pytest.raises(ValueError, match="metric must be one of sqeuclidean, euclidean, cityblock, cosine, got 'yule'"):
        ot.emd2_lazy(x, y, metric="yule")


def test_the_limit_and_the_start_are_passed_on():
    a, b, M = problem(5, 60, 60)
    with pytest.warns(otkit.ConvergenceWarning, match="raise numItermax"):
        _, log = ot.emd(a, b, M, numItermax=1, log=True)
    assert log["result_code"] == 3
    assert "numItermax" in log["warning"]
    warm = ot.emd(a, b, M, potentials_init=(log["u"], log["v"]))
    np.testing.assert_allclose(warm, ot.emd(a, b, M), atol=1e-15)


def test_infeasible_problems_say_so():
    with pytest.warns(otkit.ConvergenceWarning, match="Infeasible"):
        _, log = ot.emd([0.7, 0.3], [0.5, 0.5], [[0.0, np.inf], [1.0, 1.0]], log=True)
    assert log["result_code"] == 0


def test_arguments_without_effect_warn_as_in_pot_and_wrong_ones_are_refused():
    a, b, M = problem(6)
    for options in ({"numThreads": 2}, {"numThreads": "max"}, {"processes": 4}):
        with pytest.warns(DeprecationWarning, match="has no effect"):
            assert float(ot.emd2(a, b, M, **options)) == float(ot.emd2(a, b, M))
    with pytest.raises(ValueError, match='numThreads must be "max" or a positive integer, got 0'):
        ot.emd(a, b, M, numThreads=0)
    with pytest.raises(ValueError, match="numItermax must be a positive number, got 0"):
        ot.emd(a, b, M, numItermax=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_wasserstein_1d_is_that_of_pot(p, weighted):
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(12, 3)), rng.normal(size=(7, 3))
    pair = (rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(7))) if weighted else ()
    ours, plans = ot.wasserstein_1d(u, v, *pair, p=p, return_plans=True)
    np.testing.assert_allclose(ours, theirs.wasserstein_1d(u, v, *pair, p=p))
    for k, plan in enumerate(plans):
        cost = abs(u[:, k, None] - v[:, k]) ** p
        assert (plan.toarray() * cost).sum() == pytest.approx(ours[k])
    _, tuples = ot.wasserstein_1d(u, v, *pair, p=p, return_plans="coo_tuple")
    np.testing.assert_array_equal(tuples[2].data, plans[2].data)
    f, g, cost = ot.emd_1d_dual_backprop(u, v, *pair, p=p)
    rows, cols = (w[:, None] for w in pair) if weighted else (1 / 12, 1 / 7)
    np.testing.assert_allclose((f * rows).sum(0) + (g * cols).sum(0), cost)


def test_values_of_one_list_have_one_distance():
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=12), rng.normal(size=7)
    assert float(ot.wasserstein_1d(u, v)) == pytest.approx(wasserstein_distance(u, v))
    with pytest.raises(ValueError, match=r"p must be at least 1, got 0\.5"):
        ot.wasserstein_1d(u, v, p=0.5)
    with pytest.raises(ValueError, match=r"values must have shapes \(n,\) and \(m,\)"):
        ot.wasserstein_1d(u, v[:, None])
    with pytest.raises(ValueError, match="return_plans must be True, False"):
        ot.wasserstein_1d(u, v, return_plans="dense")


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "minkowski"])
def test_emd_1d_is_that_of_pot(metric):
    rng = np.random.default_rng(2)
    x, y, a, b = rng.normal(size=12), rng.normal(size=(7, 1)), rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(7))
    plan, log = ot.emd_1d(x, y, a, b, metric, 1.5, log=True)
    plan_2, log_2 = theirs.emd_1d(x, y, a, b, metric, 1.5, log=True)
    np.testing.assert_allclose(plan, plan_2, atol=1e-15)
    assert log.keys() == log_2.keys()
    assert float(log["cost"]) == pytest.approx(float(log_2["cost"]))
    assert plan[log["perms_x_a"], log["perms_x_b"]].sum() == pytest.approx(1)
    sparse = ot.emd_1d(x, y, a, b, metric, 1.5, dense=False)
    np.testing.assert_allclose(sparse.toarray(), plan)
    cost, log = ot.emd2_1d(x, y, a, b, metric, 1.5, log=True)
    assert float(cost) == pytest.approx(float(log_2["cost"]))
    np.testing.assert_array_equal(log["G"], plan)


def test_emd_1d_refuses_other_points_and_metrics():
    with pytest.raises(AssertionError, match="x_b must hold points on a line"):
        ot.emd_1d(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="metric must be one of sqeuclidean, minkowski, cityblock, euclidean, got 'co"):
        ot.emd_1d(np.zeros(3), np.zeros(3), metric="cosine")
    with pytest.raises(AssertionError, match="same total"):
        ot.emd_1d(np.zeros(3), np.zeros(3), [1.0, 1.0, 1.0])
