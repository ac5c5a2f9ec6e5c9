import numpy as np
import ot
import pytest
from checks import solved_by
from scipy.optimize import linear_sum_assignment
from strategies import hard_cases

import otkit

solve, _ = solved_by("annealing")


@pytest.mark.parametrize("name", hard_cases())
def test_hard_cases_are_certified(name):
    case = hard_cases()[name]
    result = solve(case.C, case.a, case.b)
    assert result.converged
    exact = ot.emd2(case.a, case.b, np.where(np.isfinite(case.C), case.C, 1e4))
    slack = 1e-11 * abs(case.C[np.isfinite(case.C)]).max()
    assert result.lower - slack <= exact <= result.upper + slack
    assert result.gap <= max(1e-2 * abs(result.upper), 1e-8 * case.span) + slack


def test_an_assignment_ends_at_its_vertex():
    C = np.random.default_rng(2).random((80, 80))
    result = solve(C, rtol=1e-12)
    rows, cols = linear_sum_assignment(C)
    assert result.value == pytest.approx(C[rows, cols].mean(), rel=1e-14)
    arcs = result.plan_sparse()
    assert arcs.row.size == 80
    assert (arcs.col[np.argsort(arcs.row)] == cols).all()
    assert result.gap < 1e-12


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_what_was_not_reached_is_said():
    case = hard_cases()["zero weights"]
    result = solve(case.C, case.a, case.b, rtol=1e-6, max_iter=3)
    assert result.status is otkit.Status.MAX_ITER
    assert result.gap > 1e-6 * result.upper
    assert result.n_iter == 3


def test_a_warm_start_is_used():
    C = np.random.default_rng(0).random((60, 50))
    cold = solve(C, rtol=1e-6)
    warm = solve(C, rtol=1e-6, init=cold)
    assert warm.converged
    assert warm.n_iter < cold.n_iter


def test_batches_are_certified_item_by_item():
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 30, 2)), rng.random((4, 20, 2))
    found = otkit.wasserstein(x, y, rtol=1e-3)
    assert found.result.method == "annealing"
    assert found.converged.all()
    for k in range(4):
        one = otkit.wasserstein(x[k], y[k], rtol=1e-3)
        assert found.distance[k] == pytest.approx(one.distance, rel=1e-12)
        assert found.result.n_iter[k] == one.result.n_iter
