"""The interval of potentials from anywhere contains the optimum, however bad they are."""

from fractions import Fraction

import numpy as np
import ot
import pytest
from checks import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from strategies import random_case

import otkit


@pytest.fixture
def cloud(rng):
    x, y = rng.random((40, 2)), rng.random((50, 2)) + 0.5
    return x, y, ((x[:, None] - y) ** 2).sum(-1)


def optimum(case):
    return ot.emd2(case.a / case.a.sum(), case.b / case.b.sum(), case.C, numItermax=10**7)


@pytest.mark.parametrize("seed", range(36))
def test_random_potentials_prove_an_interval_that_contains_the_optimum(seed):
    case, rng = random_case(seed), np.random.default_rng(seed)
    size = case.span * 10.0 ** rng.integers(-6, 7)
    f, g = (size * rng.standard_normal(w.size) for w in (case.a, case.b))
    exact, slack = optimum(case), 1e-12 * case.span
    sides = [{"f": f}, {"g": g}, {"f": f, "g": g}, {"f": f, "g": g, "reg": 0.01 * case.span}]
    for given in sides[seed % 2 :: 2]:
        found = otkit.certify(case.x, case.y, case.a, case.b, metric=case.metric, **given)
        assert found.lower - slack <= exact <= found.upper + slack
        assert found.upper <= case.C.max() * (1 + 1e-9)
        P, u, v = found.plan, *found.potentials
        assert abs(P.sum(1) - case.a).sum() + abs(P.sum(0) - case.b).sum() < 1e-12
        assert (u[:, None] + v <= case.C + slack + 1e-14 * size).all()


@pytest.mark.parametrize("seed", range(8))
def test_integer_costs_against_the_exact_rational_optimum(seed):
    rng = np.random.default_rng(seed)
    n, m, units = 8, 6, 30
    counts = [rng.multinomial(units, np.ones(k) / k) for k in (n, m)]
    C = rng.integers(-3, 5, (n, m))
    expanded = C[np.repeat(np.arange(n), counts[0])][:, np.repeat(np.arange(m), counts[1])]
    exact = int(expanded[linear_sum_assignment(expanded)].sum())
    for scale in (0, 1, 1e3, 1e160):
        found = otkit.certify(C, a=counts[0], b=counts[1], f=scale * rng.standard_normal(n))
        assert Fraction(float(found.lower)) <= exact <= Fraction(float(found.upper))


def test_optimal_potentials_of_either_side_prove_the_optimum(cloud):
    x, y, C = cloud
    solved = otkit.solve(C)
    for f, g in ((solved.f, None), (None, solved.g), (solved.f + 7, solved.g - 9), (0 * solved.f, solved.g)):
        found = otkit.certify(x, y, f=f, g=g)
        assert found.status is otkit.Status.CONVERGED
        assert found.gap <= 1e-9 * solved.value
        assert found.method == "certify"


def test_potentials_of_a_known_reg_give_the_bounds_of_that_solve(cloud, rng):
    x, y, C = cloud
    a, b = rng.dirichlet(np.ones(40)), rng.dirichlet(np.ones(50))
    solved = otkit.solve(C, a, b, reg=0.01)
    found = otkit.certify(x, y, a, b, f=solved.f, g=solved.g, reg=0.01)
    np.testing.assert_allclose(found.upper, solved.upper, rtol=1e-6)
    assert solved.lower - 1e-3 <= found.lower <= solved.lower  # of a small problem, the solve has the exact bound
    assert found.status is otkit.Status.COMPLETED
    assert found.success
    one = otkit.certify(C, a=a, b=b, g=solved.g, reg=0.01)
    np.testing.assert_allclose([one.lower, one.upper], [found.lower, found.upper], rtol=1e-5)


def test_a_given_plan_pays_for_the_upper_bound(cloud):
    x, y, C = cloud
    solved = otkit.solve(C)
    P = np.outer(np.full(40, 1 / 40), np.full(50, 1 / 50))
    paid = (P * C).sum()
    for plan in (P, coo_array(P), P.tolist()):
        found = otkit.certify(x, y, f=solved.f, plan=plan)
        np.testing.assert_allclose([found.lower, found.upper, found.value], [solved.value, paid, paid], rtol=1e-9)
    arcs = otkit.certify(C, f=solved.f, plan=solved.plan_sparse())
    assert arcs.status is otkit.Status.CONVERGED
    np.testing.assert_array_equal(arcs.plan, solved.plan)


def test_mass_that_a_plan_misses_is_paid_for(cloud):
    x, y, C = cloud
    solved = otkit.solve(C)
    for plan in (0.9 * solved.plan, 0 * solved.plan, 2 * solved.plan):
        assert otkit.certify(x, y, f=solved.f, plan=plan).upper >= solved.value


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_units(cloud, unit, rng):
    x, y, C = cloud
    f = rng.random(40)
    one, scaled = otkit.certify(C, f=f), otkit.certify(unit * C, f=unit * f, a=np.full(40, 3.0), b=np.full(50, 2.4))
    np.testing.assert_allclose(
        [scaled.lower, scaled.upper], [120 * unit * one.lower, 120 * unit * one.upper], rtol=1e-9
    )
    points = otkit.certify(unit * x, unit * y, f=unit**2 * f)
    np.testing.assert_allclose([points.lower, points.upper], [unit**2 * one.lower, unit**2 * one.upper], rtol=1e-9)


def test_batches_and_points_without_mass(rng):
    C, f = rng.random((3, 5, 6)), rng.random((3, 5))
    a, b = rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(6), 3)
    a[1, 2], f[1, 2] = 0.0, 1e9
    a[1] /= a[1].sum()
    found = otkit.certify(C, a=a, b=b, f=f)
    for k in range(3):
        alone = otkit.certify(C[k], a=a[k], b=b[k], f=f[k])
        np.testing.assert_allclose([found.lower[k], found.upper[k]], [alone.lower, alone.upper], rtol=1e-12)
    plans = np.stack([otkit.solve(C[k], a[k], b[k]).plan for k in range(3)])
    known = otkit.certify(C, a=a, b=b, f=f, plan=plans)
    np.testing.assert_allclose(known.value, (plans * C).sum((1, 2)), rtol=1e-12)


def test_forbidden_arcs_and_sparse_costs(rng):
    C = np.where(rng.random((8, 8)) < 0.4, np.inf, rng.random((8, 8)))
    np.fill_diagonal(C, 1.0)
    solved = otkit.solve(C)
    assert otkit.certify(C, f=solved.f).status is otkit.Status.CONVERGED
    assert otkit.certify(C, f=solved.f, plan=np.full((8, 8), 1 / 64)).upper == np.inf
    i, j = np.nonzero(np.isfinite(C))
    stored = coo_array((C[i, j], (i, j)), shape=C.shape)
    found = otkit.certify(stored, f=solved.f, plan=solved.plan)
    np.testing.assert_allclose([found.lower, found.upper], [solved.value] * 2, rtol=1e-9)
    assert otkit.certify(stored, f=solved.f, plan=np.full((8, 8), 1 / 64)).upper == np.inf


def test_potentials_that_prove_that_there_is_no_plan():
    # Two rows must share one column.
    C = [[1.0, np.inf], [1.0, np.inf], [1.0, 1.0]]
    found = otkit.certify(C, f=[100.0, 100.0, 0.0])
    assert found.status is otkit.Status.INFEASIBLE
    assert found.upper == np.inf


def test_callable_and_named_metrics(rng):
    x, y = rng.random((5, 3)), rng.random((6, 3))
    for metric in ("chebyshev", lambda x, y: abs(x[:, None] - y).max(-1), "cosine", ("power", 3.0)):
        solved = otkit.solve_sample(x, y, metric=metric)
        found = otkit.certify(x, y, g=solved.g, plan=solved.plan, metric=metric)
        np.testing.assert_allclose([found.lower, found.upper], [solved.value] * 2, rtol=1e-9)
    solved = otkit.solve_sample(x[:, :1], y[:, :1], period=0.5)
    found = otkit.certify(x[:, :1], y[:, :1], f=solved.f, plan=solved.plan, period=0.5)
    np.testing.assert_allclose(found.upper, solved.value, rtol=1e-9)


def test_high_dimensions_pay_for_their_plans(rng):
    x, y = rng.random((30, 40)), rng.random((30, 40))
    solved = otkit.solve_sample(x, y)
    found = otkit.certify(x, y, f=solved.f, plan=solved.plan_sparse())
    assert found.lower <= solved.value <= found.upper
    assert found.gap <= 1e-9 * found.upper


def test_tensors_and_their_graph(cloud):
    x, y, C = cloud
    network = torch.nn.Linear(2, 1, dtype=torch.float64)
    points = torch.tensor(x, requires_grad=True), torch.tensor(y)
    f = network(points[0])[:, 0]
    found = otkit.certify(*points, f=f)
    same = otkit.certify(C, f=f.detach().numpy())
    np.testing.assert_allclose([found.lower, found.upper], [same.lower, same.upper], rtol=1e-9)
    assert isinstance(found.f, torch.Tensor)
    assert not found.value.requires_grad


def test_bad_input_is_refused(cloud):
    x, y, C = cloud
    f = np.zeros(40)
    cases = [
        (lambda: otkit.certify(x, y), "neither f nor g"),
        (lambda: otkit.certify(x, y, f=np.append(f[:-1], np.nan)), "f must be finite"),
        (lambda: otkit.certify(x, y, g=f), r"g must have shape \(..., 50\)"),
        (lambda: otkit.certify(x, y, f=f, plan=np.full((40, 50), np.nan)), "finite, non-negative"),
        (lambda: otkit.certify(x, y, f=f, plan=-np.ones((40, 50))), "finite, non-negative"),
        (lambda: otkit.certify(x, y, f=f, plan=np.ones((50, 40))), r"plan must have shape \(40, 50\)"),
        (lambda: otkit.certify(x, y, f=f, plan=coo_array(np.ones((50, 40)))), "plan must have shape"),
        (lambda: otkit.certify(x, y, f=f, plan=C, reg=0.1), "drop one"),
        (lambda: otkit.certify(C, f=f, metric="euclidean"), "pass y"),
        (lambda: otkit.certify(C, f, f=f), "a= and b="),
        (lambda: otkit.certify(x, y, f, f=f, b=np.ones(50)), "a must have positive total mass"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    arcs = otkit.SparseArcs(*(np.array(v) for v in ([40], [0], [1.0], [0])))
    with pytest.raises(ValueError, match=r"plan\.row must be from 0 to 39"):
        otkit.certify(x, y, f=f, plan=arcs)
