import numpy as np
import ot
import pytest
from checks import solved_by
from scipy.optimize import linear_sum_assignment
from strategies import hard_cases

import otkit
from otkit.geometry import Dense
from otkit.problems import LinearProblem

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
    found = otkit.solve_sample(x, y, metric="sqeuclidean", rtol=1e-3, method="annealing")
    assert found.converged.all()
    for k in range(4):
        one = otkit.solve_sample(x[k], y[k], metric="sqeuclidean", rtol=1e-3, method="annealing")
        assert float(found.value[k]) == pytest.approx(float(one.value), rel=1e-12)
        assert found.n_iter[k] == one.n_iter


def test_the_bounds_are_the_best_of_all_certificates():
    rng = np.random.default_rng(2)
    a, b, C = rng.random(30), rng.random(25), rng.integers(0, 4, (30, 25)).astype(float)
    problem, solver = LinearProblem.build(Dense(C), a, b, None, (np.inf, 1.0)), otkit.Annealing(rtol=1e-14)
    state = solver.init(problem, None)
    widths = []
    while state.running.size:
        state = solver.step(problem, state)
        widths.append((state.upper - state.lower)[0])
    assert (np.diff(np.array(widths)[np.isfinite(widths)]) <= 0).all()
    found = solver.finish(problem, state, np.zeros((1, 1))).certificate
    np.testing.assert_array_equal([found.lower, found.upper], [state.lower, state.upper])


def test_the_accuracy_is_the_same_by_name(rng):
    C, a = rng.random((6, 5)), rng.random(6)
    auto, named = (otkit.solve(C, a, unbalanced=0.3, method=method) for method in ("auto", "annealing"))
    assert auto.tol == named.tol == 1e-6
    assert max(auto.lower, named.lower) <= min(auto.upper, named.upper)
    assert otkit.solve(C, method="annealing").tol == 1e-2


def test_the_advice_names_no_reg_where_there_is_none(rng):
    with pytest.warns(otkit.ConvergenceWarning, match=r"raise max_iter or the tolerance\. The optimum lies in"):
        otkit.solve(rng.random((9, 8)), unbalanced=1.0, max_iter=3)


@pytest.mark.parametrize("rho", [1e17, 1e300, (np.inf, 1e100)])
def test_penalties_that_no_plan_can_pay_are_exact_marginals(rho):
    rng = np.random.default_rng(0)
    C, a, b = rng.random((30, 25)), rng.random(30), rng.random(25)
    b *= a.sum() / b.sum()
    exact, found = otkit.solve(C, a, b), otkit.solve(C, a, b, unbalanced=rho)
    assert found.status is otkit.Status.CONVERGED
    assert float(found.value) == pytest.approx(float(exact.value), rel=1e-12)
    assert found.gap <= 1e-12 * found.upper
    assert found.lower <= exact.value
    # In a batch the others keep their penalties, and unequal totals are paid for.
    pairs = np.array([1e300, 0.3]) if not isinstance(rho, tuple) else (np.inf, np.array([1e300, 0.3]))
    both = otkit.solve(C, a, b, unbalanced=pairs, rtol=1e-9)
    assert float(both.value[0]) == pytest.approx(float(exact.value), rel=1e-9)
    assert both.value[1] < exact.value
    short = otkit.solve(C, 0.5 * a, b, unbalanced=1e17)
    assert float(short.value) == pytest.approx(1e17 * a.sum() * (1 - np.sqrt(0.5)) ** 2, rel=1e-6)


def test_large_penalties_keep_their_gradients_and_forbidden_arcs():
    torch = pytest.importorskip("torch")
    C, rho = torch.rand((4, 4), dtype=torch.float64), torch.tensor(1e17, dtype=torch.float64, requires_grad=True)
    value = otkit.solve(C, unbalanced=rho).value
    assert torch.isfinite(torch.autograd.grad(value, rho)[0])
    # No plan has these marginals: the penalties are paid.
    walls = np.array([[1.0, np.inf], [1.0, np.inf]])
    found = otkit.solve(walls, [0.5, 0.5], [0.5, 0.5], unbalanced=1e17)
    assert float(found.value) > 1e15


def test_items_of_a_batch_keep_their_own_arcs(rng):
    C, a, b = rng.random((5, 9, 8)), rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(8))
    rho = np.array([np.inf, 1.0, 1e-4, 1e4, 0.1])
    found = otkit.solve(C, a, b, unbalanced=rho, rtol=1e-9)
    for k in range(5):
        one = otkit.solve(C[k], a, b, unbalanced=rho[k], rtol=1e-9)
        np.testing.assert_allclose(found.value[k], one.value, rtol=1e-9)
        np.testing.assert_allclose(found.plan[k], one.plan, atol=1e-7)


@pytest.mark.parametrize("unit", [1e-200, 1e-74, 1e-10, 1.0, 1e50])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
def test_bounds_of_equal_costs_are_in_their_units(unit, rtol, rng):
    from_one_point = np.zeros(7)
    from_one_point[3] = 1.0
    for C, a in ((np.full((7, 5), 3.0), None), (rng.random((7, 5)), from_one_point), (rng.random((1, 5)), None)):
        found = otkit.solve(C * unit, a, rtol=rtol, strict=True)
        wanted = (C[3] if a is not None else C[0]).mean() * unit
        assert found.lower * (1 - 1e-12) <= wanted <= found.upper * (1 + 1e-12)
        assert found.gap <= rtol * found.upper
