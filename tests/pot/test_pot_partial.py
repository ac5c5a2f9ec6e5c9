"""Partial and unbalanced transport of `otkit.pot` beside POT, linear programming and a convex solver."""

import numpy as np
import ot as theirs
import pytest
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array

import otkit
import otkit.pot as ot


def problem(seed, n=8, m=7, totals=(1.0, 0.8)):
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(n)) * totals[0], rng.dirichlet(np.ones(m)) * totals[1]
    return a, b, rng.random((n, m))


def least(M, a, b, mass):
    """The least cost of moving the mass, by HiGHS."""
    n, m = M.shape
    rows, cols = np.kron(np.eye(n), np.ones((1, m))), np.kron(np.ones((1, n)), np.eye(m))
    A = np.concatenate([rows, cols])
    return linprog(M.ravel(), A_ub=A, b_ub=np.concatenate([a, b]), A_eq=np.ones((1, n * m)), b_eq=[mass]).fun


@pytest.mark.parametrize("totals", [(1.0, 1.0), (1.0, 0.8), (3.0, 5.0)])
def test_partial_plans_have_the_cost_of_a_linear_program_and_the_log_of_pot(totals):
    a, b, M = problem(0, totals=totals)
    mass = 0.6 * min(totals)
    plan, log = ot.partial.partial_wasserstein(a, b, M, mass, log=True)
    assert (plan * M).sum() == pytest.approx(least(M, a, b, mass), rel=1e-9)
    assert (plan.sum(1) <= a * (1 + 1e-14)).all()
    assert (plan.sum(0) <= b * (1 + 1e-14)).all()
    assert plan.sum() == pytest.approx(mass, rel=1e-12)
    expected, known = theirs.partial.partial_wasserstein(a, b, M, mass, log=True)
    assert log.keys() == known.keys()
    np.testing.assert_allclose(plan, expected, atol=1e-12)
    for name in ("u", "v", "cost", "partial_w_dist"):
        np.testing.assert_allclose(log[name], known[name], atol=1e-12)
    value, log = ot.partial.partial_wasserstein2(a, b, M, mass, log=True)
    assert float(value) == pytest.approx(least(M, a, b, mass), rel=1e-9)
    np.testing.assert_array_equal(log["T"], plan)


def test_by_default_the_smaller_total_moves():
    a, b, M = problem(1, totals=(0.7, 0.4))
    for module in (ot, theirs):
        assert module.partial.partial_wasserstein(a, b, M).sum() == pytest.approx(0.4)
    both = [float(module.partial.partial_wasserstein2(a, b, M)) for module in (ot, theirs)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)
    assert ot.partial.partial_wasserstein([], [], M).sum() == pytest.approx(1)
    assert ot.partial.partial_wasserstein([], b, M).sum() == pytest.approx(0.4)
    assert ot.partial.entropic_partial_wasserstein(a, [], M, 0.1).sum() == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reg", [1.0, 0.03])
def test_entropic_partial_plans_are_those_of_a_convex_solver(seed, reg):
    rng = np.random.default_rng(seed)
    a, b, M = rng.dirichlet(np.ones(3)), 2 * rng.dirichlet(np.ones(3)), rng.random((3, 3))
    mass = 0.3 if seed < 2 else 0.8
    plan = ot.partial.entropic_partial_wasserstein(a, b, M, reg, mass)

    def objective(p):
        return p @ M.ravel() + reg * (p * np.log(np.maximum(p, 1e-300))).sum()

    bounds = [(1e-12, 1)] * 9
    ones = [
        {"type": "ineq", "fun": lambda p: a - p.reshape(3, 3).sum(1)},
        {"type": "ineq", "fun": lambda p: b - p.reshape(3, 3).sum(0)},
        {"type": "eq", "fun": lambda p: p.sum() - mass},
    ]
    start = np.outer(a, b).ravel() * mass / np.outer(a, b).sum()
    best = minimize(objective, start, bounds=bounds, constraints=ones, options={"ftol": 1e-15, "maxiter": 1000})
    assert objective(plan.ravel()) <= best.fun + 1e-9
    assert objective(plan.ravel()) == pytest.approx(best.fun, abs=1e-6)
    assert (plan.sum(1) <= a + 1e-9).all()
    assert (plan.sum(0) <= b + 1e-9).all()
    assert plan.sum() == pytest.approx(mass, rel=1e-12)


def test_entropic_partial_plans_are_those_of_pot_where_it_converges():
    a, b, M = problem(2)
    for method in ("sinkhorn", "Sinkhorn_Log"):
        plan, log = ot.partial.entropic_partial_wasserstein(a, b, M, 0.1, 0.5, method=method, log=True)
        expected, known = theirs.partial.entropic_partial_wasserstein(a, b, M, 0.1, 0.5, log=True)
        np.testing.assert_allclose(plan, expected, atol=1e-9)
        assert log.keys() == known.keys()
        assert float(log["partial_w_dist"]) == pytest.approx(float(known["partial_w_dist"]), abs=1e-9)
        assert log["err"][-1] < 1e-9
    whole = ot.partial.entropic_partial_wasserstein(a, b / 0.8, M, 0.05)
    np.testing.assert_allclose(whole, ot.sinkhorn(a, b / 0.8, M, 0.05), atol=1e-8)


def test_entropic_partial_plans_are_finite_at_small_reg_and_tend_to_exact_ones():
    a, b, M = problem(3)
    a[2], b[0] = 0, 1e-12
    M[0, 1:] = np.inf
    plan = ot.partial.entropic_partial_wasserstein(a, b, M, 1e-6, 0.4, stopThr=1e-6)
    assert np.isfinite(plan).all()
    assert (plan[2] == 0).all()
    assert (plan[0, 1:] == 0).all()
    moved = plan * np.where(plan > 0, M, 0.0)
    assert moved.sum() == pytest.approx(float(ot.partial.partial_wasserstein2(a, b, M, 0.4)), abs=2e-5)


def test_what_moves_no_mass_or_too_much_is_refused():
    a, b, M = problem(4)
    for call in (ot.partial.partial_wasserstein, ot.partial.partial_wasserstein2):
        for mass in (-0.1, 0.0, 0.81):
            with pytest.raises(ValueError, match="mass must be above 0 and at most the smaller total"):
                call(a, b, M, mass)
        with pytest.raises(TypeError, match="potentials_init= does not apply"):
            call(a, b, M, 0.5, potentials_init=None)
        with pytest.raises(ValueError, match="nb_dummies must be"):
            call(a, b, M, 0.5, nb_dummies=0)
        call(a, b, M, 0.5, nb_dummies=3, numItermax=10**6, check_marginals=False, center_dual=False)
    entropic = ot.partial.entropic_partial_wasserstein
    with pytest.raises(ValueError, match="mass must be above 0 and at most the smaller total"):
        entropic(a, b, M, 0.1, 2.0)
    with pytest.raises(ValueError, match="method must be one of sinkhorn, sinkhorn_log, got 'foo'"):
        entropic(a, b, M, 0.1, 0.5, method="foo")
    with pytest.raises(ValueError, match="reg must be positive, got 0"):
        entropic(a, b, M, 0, 0.5)
    with pytest.raises(ValueError, match="must be those of one problem"):
        entropic(a, np.stack([b, b]).T, M, 0.1, 0.5)
    with pytest.raises(NotImplementedError, match="M must be dense with a reg"):
        entropic(a, b, csr_array(M), 0.1, 0.5)
    with pytest.warns(otkit.ConvergenceWarning, match="raise numItermax"):
        entropic(a, b, M, 1e-3, 0.5, numItermax=3)


def test_gradients_of_partial_costs_agree_with_finite_differences():
    torch = pytest.importorskip("torch")
    given = [torch.tensor(v, requires_grad=True) for v in (*problem(5, 4, 5), np.array(0.45))]
    exact = ot.partial.partial_wasserstein2
    assert torch.autograd.gradcheck(exact, tuple(given))

    def entropic(a, b, M, m, reg):
        return ot.partial.entropic_partial_wasserstein(a, b, M, reg, m, stopThr=1e-13, log=True)[1]["partial_w_dist"]

    reg = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropic, (*given, reg), atol=1e-6)
    plan = ot.partial.entropic_partial_wasserstein(*(v.detach() for v in given[:3]), 0.1, 0.45)
    assert not plan.requires_grad
    single = [v.detach().float() for v in given[:3]]
    assert ot.partial.entropic_partial_wasserstein(*single, 0.1, 0.45).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp`:DeprecationWarning")  # POT's
@pytest.mark.parametrize("rho", [0.1, 0.4, (0.2, 0.5)])
def test_total_variation_is_minimised(rho):
    a, b, M = problem(6, totals=(1.3, 0.8))
    result = ot.solve(M, a, b, unbalanced=rho, unbalanced_type="TV")
    ra, rb = rho if isinstance(rho, tuple) else (rho, rho)
    plan = result.plan
    value = (plan * M).sum() + ra * abs(plan.sum(1) - a).sum() + rb * abs(plan.sum(0) - b).sum()
    assert float(result.value) == pytest.approx(value, rel=1e-12)
    assert float(result.value_linear) == pytest.approx((plan * M).sum(), rel=1e-12)
    expected = theirs.solve(M, a, b, unbalanced=rho, unbalanced_type="TV")
    assert float(result.value) <= float(expected.value) + 1e-12
    f, g = result.potentials
    assert (f[:, None] + g <= M + 1e-12).all()
    with pytest.raises(NotImplementedError, match="potentials_init= does not apply to this regularisation or penalty"):
        ot.solve(M, a, b, unbalanced=rho, unbalanced_type="TV", potentials_init=(a, b))


def test_the_total_variation_of_clouds_is_that_of_their_matrix_with_gradients():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    x, y = torch.tensor(rng.random((6, 1)), requires_grad=True), torch.tensor(rng.random((4, 1)))
    one = ot.solve_sample(x, y, unbalanced=0.1, unbalanced_type="TV", max_iter=1000)
    two = ot.solve(ot.dist(x, y), unbalanced=0.1, unbalanced_type="TV")
    assert one.value.item() == pytest.approx(two.value.item(), rel=1e-12)
    for result in (one, two):
        assert not result.value_linear.requires_grad
    (slope,) = torch.autograd.grad(one.value, x)
    (other,) = torch.autograd.grad(two.value, x)
    np.testing.assert_allclose(slope, other, atol=1e-12)


@pytest.mark.parametrize("rho", [0.3, (0.5, 0.9)])
def test_without_a_reg_the_penalised_optimum_is_that_of_pot_within_its_interval(rho):
    a, b, M = problem(9, totals=(1.3, 0.8))
    plan, log = ot.unbalanced.mm_unbalanced(a, b, M, rho, log=True)
    expected, known = theirs.unbalanced.mm_unbalanced(a, b, M, rho, log=True, numItermax=100_000)
    np.testing.assert_allclose(plan, expected, atol=2e-3)
    assert log.keys() == known.keys()
    result = ot.solve(M, a, b, unbalanced=rho)
    direct = ot.unbalanced.mm_unbalanced2(a, b, M, rho, returnCost="total")
    assert float(result.value) == pytest.approx(float(direct), rel=1e-6)
    assert float(result.value) == pytest.approx(float(log["total_cost"]), rel=1e-6)
    assert result.result.lower <= float(known["total_cost"]) <= float(result.value) * (1 + 2e-6)
    assert float(log["cost"]) == pytest.approx((plan * M).sum())
    assert float(result.value_linear) == pytest.approx((result.plan * M).sum())
    again = ot.solve(M, a, b, unbalanced=rho, potentials_init=result.potentials, tol=1e-3)
    assert len(again.result.errors) < len(result.result.errors)
    assert again.result.gap <= 1e-3 * float(again.value)


def test_unbalanced_plans_of_mm_are_those_of_sinkhorn_and_of_pot():
    a, b, M = problem(8)
    c = np.full(M.shape, 0.02)
    for options in ({}, {"c": c}):
        plan, log = ot.unbalanced.mm_unbalanced(a, b, M, (0.5, 0.7), reg=0.1, log=True, **options)
        expected, known = theirs.unbalanced.mm_unbalanced(
            a, b, M, (0.5, 0.7), reg=0.1, log=True, numItermax=20000, **options
        )
        np.testing.assert_allclose(plan, expected, atol=1e-6)
        assert log.keys() == known.keys()
        for cost in ("linear", "total"):
            value = ot.unbalanced.mm_unbalanced2(a, b, M, (0.5, 0.7), reg=0.1, returnCost=cost, **options)
            name = "cost" if cost == "linear" else "total_cost"
            assert float(value) == float(log[name]) == pytest.approx(float(known[name]), abs=1e-6)
    with pytest.raises(ValueError, match="stopThr must be a positive number and below 1, got 2"):
        ot.unbalanced.mm_unbalanced2(a, b, M, 1, stopThr=2)
    with pytest.raises(ValueError, match="c= is the reference of the regularisation, and reg is 0"):
        ot.unbalanced.mm_unbalanced(a, b, M, 1, c=c)
    with pytest.raises(ValueError, match="returnCost must be one of linear, total, got 'half'"):
        ot.unbalanced.mm_unbalanced2(a, b, M, 1, reg=1, returnCost="half")
    with pytest.raises(ValueError, match="div must be one of kl, l2, got 'js'"):
        ot.unbalanced.mm_unbalanced(a, b, M, 1, reg=1, div="js")
