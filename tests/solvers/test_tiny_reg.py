"""A `reg` at the rounding error of the costs: no answer counts as converged that rounding decided."""

import re
import warnings

import numpy as np
import pytest
from checks import marginal_error
from scipy.optimize import linprog

import otkit

U = 2.0**-53
SOLVERS = {"sns": "sns", "sinkhorn": "sinkhorn", "published": otkit.SparseNewton(keep=0.5, factor=np.inf)}


@pytest.fixture
def costs():
    x, y = np.random.default_rng(0).random((2, 30, 2))
    return ((x[:12, None] - y[None, :14]) ** 2).sum(-1)


def optimum(C):
    n, m = C.shape
    rows, cols = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    weights = np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    return linprog(C.ravel(), A_eq=np.r_[rows, cols], b_eq=weights).fun


def quiet(*given, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = otkit.solve(*given, **options)
    return result, [str(w.message) for w in caught if w.category is otkit.ConvergenceWarning]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("reg", 10.0 ** -np.arange(8, 15.5, 0.5))
def test_converged_says_that_the_marginals_are_right(reg, method, costs):
    span = (costs - costs.min(1, keepdims=True)).max()  # an upper bound on the range of the reduced costs
    most = 200 if method == "published" else 2000  # without stages it gets nowhere, in the time of many sweeps
    result, warned = quiet(costs, reg=reg * span, method=SOLVERS[method], max_iter=most)
    error = marginal_error(result.plan, np.full(12, 1 / 12), np.full(14, 1 / 14))
    if result.converged:
        assert result.tol <= 1e-3
        assert warned == []
        assert error <= 1e-3
        assert abs(result.plan.sum() - 1) <= 1e-3
        assert result.value_linear == pytest.approx(optimum(costs), abs=2e-3 * span)
    else:
        assert len(warned) == 1
    assert f"tol {result.tol:.2g}" in str(result)
    if result.tol > 1e-3:
        assert result.status is not otkit.Status.CONVERGED
        assert result.tol == pytest.approx(8 * U / reg, rel=0.5)
    if result.status is otkit.Status.STALLED and result.tol > 1e-3:
        assert "Rounding at this reg allows no smaller one" in warned[0]


def test_a_reg_that_rounding_decides_is_refused(costs):
    for reg in (1e-16, 1e-17, 1e-30, 1e-300):
        for options in ({}, {"method": "sinkhorn"}, {"method": otkit.Sinkhorn(n_iters=3)}):
            with pytest.raises(ValueError, match="raise reg, or solve without reg") as refused:
                otkit.solve(costs, reg=reg, callback=lambda _: pytest.fail("it worked"), **options)
        least = float(re.search(r"at least (\S+),", str(refused.value))[1])
        result, warned = quiet(costs, reg=1.01 * least)  # the two ways out
        assert result.status is not otkit.Status.CONVERGED
        assert warned
        assert otkit.solve(costs).value == pytest.approx(optimum(costs), rel=1e-8)


def test_an_item_of_a_batch_and_an_unbalanced_problem_are_told(costs):
    with pytest.raises(ValueError, match=r"got 1e-17 \(item 1\); raise reg, or solve without reg$"):
        otkit.solve(costs, reg=[0.1, 1e-17])
    with pytest.raises(ValueError, match=r"got 1e-17; raise reg$"):  # it needs a reg
        otkit.solve(costs, reg=1e-17, unbalanced=1.0)
    batch, warned = quiet(costs, reg=[0.1, 1e-14])
    assert list(batch.converged) == [True, False]
    assert warned[0].startswith("1 of 2 problems did not converge; item 1: Stopped because")
    assert "(tol 0.1)" in str(batch)


def test_a_tolerance_that_was_asked_for_counts(costs):
    result, warned = quiet(costs, reg=1e-14, tol=0.3)
    assert result.converged
    assert result.tol == 0.3
    assert warned == []
    assert quiet(costs, reg=1e-14, tol=1e-2)[0].status is otkit.Status.STALLED


def test_equal_costs_have_no_range():
    assert otkit.solve(np.ones((3, 4)), reg=1e-300).converged
