"""Total-variation penalties: linear programs, plans and potentials of the problem as given, and gradients."""

import numpy as np
import pytest
import scipy.sparse as sp
from checks import torch
from scipy.optimize import linprog
from strategies import first

import otkit

EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def by_linprog(C, a, b, rho_a, rho_b):
    """The optimal value by HiGHS, in costs of about 1, with what is above and below the weights as variables."""
    n, m = C.shape
    i, j = np.nonzero(np.isfinite(C))
    arcs = sp.coo_array((np.ones(2 * i.size), (np.r_[i, n + j], np.r_[: i.size, : i.size])), shape=(n + m, i.size))
    one = sp.eye_array(n + m)
    rho = np.r_[np.full(n, rho_a), np.full(m, rho_b)]
    cost = np.r_[C[i, j], rho, rho]
    scale = max(abs(cost).max(), 1e-300)
    found = linprog(cost / scale, A_eq=sp.hstack([arcs, one, -one]), b_eq=np.r_[a, b], options=EXACT)
    assert found.status == 0
    return found.fun * scale


def drawn(seed):
    """Costs, weights and penalties: ties, negative costs, forbidden arcs, zero and tiny weights, any totals."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 16, 2)
    C = [rng.random((n, m)), rng.integers(0, 4, (n, m)) / 2.0, rng.lognormal(0, 2, (n, m))][seed % 3]
    a, b = rng.random(n), rng.random(m) * rng.choice([0.3, 1, 4])
    if seed % 4 == 0:
        a[rng.random(n) < 0.3], b[rng.random(m) < 0.3] = 0, 1e-13
        a[0] = b[0] = 0.5
    if seed % 7 == 0:
        C[rng.random((n, m)) < 0.4] = np.inf
    rho_a = rng.choice([0.0, 0.1, 0.3, 1.0, 100.0])
    rho_b = rng.choice([rho_a, 0.0, 0.2, 0.7, 50.0])
    if seed % 5 == 0:
        C = C - 0.9 * min(rho_a + rho_b + C.min(), 1e3) if np.isfinite(C.min()) else C
    return C, a, b, rho_a, rho_b


def assert_optimal(C, a, b, rho_a, rho_b, result):
    """Plans and potentials of one value, that of the linear program."""
    finite = np.isfinite(C)
    most = max(abs(C[finite]).max(initial=0), rho_a, rho_b)
    total = a.sum() + b.sum()
    near = 1e-9 * most * total
    wanted, P = by_linprog(C, a, b, rho_a, rho_b), result.plan
    assert abs(result.value - wanted) <= near
    assert result.lower <= result.value <= result.upper
    assert result.upper - result.lower <= 1e-8 * most * total
    assert (P >= 0).all()
    assert (P[~finite] == 0).all()
    linear = (P[finite] * C[finite]).sum()
    paid = rho_a * abs(P.sum(1) - a).sum() + rho_b * abs(P.sum(0) - b).sum()
    assert abs(linear + paid - wanted) <= near
    assert abs(result.value_linear - linear) <= near
    assert abs(result.value_marginal - paid) <= near
    np.testing.assert_allclose(result.marginals[0], P.sum(1), rtol=1e-12, atol=1e-15)
    f, g = result.f, result.g
    assert abs(f).max() <= rho_a + 1e-9 * most
    assert abs(g).max() <= rho_b + 1e-9 * most
    with_mass = (a[:, None] > 0) & (b > 0)
    assert (f[:, None] + g - C)[with_mass].max(initial=0) <= 1e-9 * most
    assert abs(a @ f + b @ g - wanted) <= near
    assert result.price is None


@pytest.mark.parametrize("seed", first(40, range(300)))
def test_it_is_the_linear_program(seed):
    C, a, b, *rho = drawn(seed)
    assert_optimal(C, a, b, *rho, otkit.solve(C, a, b, unbalanced=tuple(rho), penalty="tv"))


def test_marginals_exceed_their_weights_where_that_costs_less():
    result = otkit.solve([[0.5, 3.0]], [1.0], [2.0, 1.0], unbalanced=(0.1, 1.0), penalty="tv")
    np.testing.assert_allclose(result.plan, [[2.0, 0.0]])  # one beyond the weight of the row
    np.testing.assert_allclose(result.value, 2 * 0.5 + 0.1 + 1.0)
    other = otkit.solve([[0.5], [3.0]], [2.0, 1.0], [1.0], unbalanced=(1.0, 0.1), penalty="tv")
    np.testing.assert_allclose(other.plan, [[2.0], [0.0]])
    assert sum(_exceeds(*drawn(seed)) for seed in range(40)) >= 5


def _exceeds(C, a, b, *rho):
    P = otkit.solve(C, a, b, unbalanced=tuple(rho), penalty="tv").plan
    return (P.sum(1) > a + 1e-9).any() or (P.sum(0) > b + 1e-9).any()


@pytest.fixture
def clouds(rng):
    x, y = rng.standard_normal((12, 2)), rng.standard_normal((9, 2)) + 0.5
    return x, y, rng.random(12), rng.random(9)


def squares(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


@pytest.mark.parametrize("rho", [0.5, (0.1, 2.0), (2.0, 0.1)], ids=str)
def test_points_sparse_costs_and_batches_are_the_matrix(rho, clouds, rng):
    x, y, a, b = clouds
    C, options = squares(x, y), {"unbalanced": rho, "penalty": "tv"}
    one = otkit.solve(C, a, b, **options)
    other = otkit.solve_sample(x, y, a, b, **options)
    np.testing.assert_allclose(other.plan, one.plan, atol=1e-12)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-12)
    again = otkit.solve(C, a, b, init=one, **options)
    np.testing.assert_allclose(again.value, one.value, rtol=1e-12)
    assert "total variation" in repr(one)
    np.testing.assert_allclose(one.apply(y), one.plan @ y, rtol=1e-12)
    np.testing.assert_allclose(one.apply_t(x), one.plan.T @ x, rtol=1e-12)
    near = otkit.solve(C, a, b, rtol=1e-3, **options)
    assert near.lower <= one.value * (1 + 1e-9)
    assert near.upper >= one.value * (1 - 1e-9)
    batch = otkit.solve_sample(np.stack([x, 2 * x]), y, np.stack([a, a[::-1]]), b, **options)
    for k, (points, weights) in enumerate([(x, a), (2 * x, a[::-1])]):
        single = otkit.solve_sample(points, y, weights, b, **options)
        np.testing.assert_allclose(batch.plan[k], single.plan, atol=1e-12)
        np.testing.assert_allclose(batch.value[k], single.value, rtol=1e-12)
        np.testing.assert_allclose(batch.value_marginal[k], single.value_marginal, rtol=1e-9)
    listed = otkit.solve_sample([x, x[:5]], y, [a, a[:5]], b, **options)
    np.testing.assert_allclose(listed[0].value, one.value, rtol=1e-12)
    C[rng.random(C.shape) < 0.4] = np.inf
    stored = otkit.solve(sp.csr_array(np.where(np.isfinite(C), C, 0)), a, b, **options)
    np.testing.assert_allclose(stored.value, otkit.solve(C, a, b, **options).value, rtol=1e-12)
    pair = rho if isinstance(rho, tuple) else (rho, rho)
    assert_optimal(C, a, b, *pair, stored)


def test_many_penalties_at_once(clouds):
    x, y, a, b = clouds
    C, rho = squares(x, y), np.array([0.0, 0.1, 1.0, 10.0])
    batch = otkit.solve(C, a, b, unbalanced=rho, penalty="tv")
    for k, one in enumerate(rho):
        np.testing.assert_allclose(batch.value[k], by_linprog(C, a, b, one, one), rtol=1e-9, atol=1e-15)
    assert batch.plan[0].sum() <= 1e-14
    np.testing.assert_allclose(batch.plan[-1].sum(), min(a.sum(), b.sum()))


def test_a_large_penalty_is_the_balanced_problem(clouds):
    x, y, a, b = clouds
    a, b = a / a.sum(), b / b.sum()
    whole, result = otkit.solve_sample(x, y, a, b), otkit.solve_sample(x, y, a, b, unbalanced=100.0, penalty="tv")
    np.testing.assert_allclose(result.plan, whole.plan, atol=1e-12)
    np.testing.assert_allclose(result.value, whole.value, rtol=1e-9)
    with pytest.warns(otkit.ConvergenceWarning, match="rounding errors"):
        far = otkit.solve_sample(x, y, a, b, unbalanced=1e9, penalty="tv")
    np.testing.assert_allclose(far.value_linear, whole.value, rtol=1e-9)
    assert far.lower <= whole.value <= far.upper


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
def test_gradients_are_finite_differences(clouds):
    x, y, a, b = (torch.tensor(v[:5], requires_grad=True) for v in clouds)

    def value(x, y, a, b):
        return otkit.solve_sample(x, y, a, b, unbalanced=0.7, penalty="tv").value

    assert torch.autograd.gradcheck(value, (x, y, a, b), atol=1e-6)
    result = otkit.solve_sample(x, y, a, b, unbalanced=0.7, penalty="tv")
    with pytest.raises(ValueError, match="f has no gradient with penalty='tv'"):
        result.f  # noqa: B018
    with pytest.raises(ValueError, match="costs have no gradient where a marginal may exceed"):
        otkit.solve_sample(x, y, a, b, unbalanced=(0.0, 0.7), penalty="tv")
    with pytest.raises(ValueError, match="unbalanced has no gradient"):
        otkit.solve_sample(x, y, a, b, unbalanced=torch.tensor(0.7, requires_grad=True), penalty="tv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unbalanced": 1.0, "penalty": "l2"}, "penalty must be 'kl' or 'tv', got 'l2'"),
        ({"penalty": "tv"}, "needs unbalanced=.*got no unbalanced="),
        ({"unbalanced": 1.0, "penalty": "tv", "reg": 1.0}, "got a reg"),
        ({"unbalanced": 1.0, "penalty": "tv", "mass": 0.5}, "got a mass"),
        ({"unbalanced": -1.0, "penalty": "tv"}, "unbalanced must be non-negative"),
        ({"unbalanced": np.nan, "penalty": "tv"}, "unbalanced must be non-negative"),
        ({"unbalanced": (1.0, np.inf), "penalty": "tv"}, "unbalanced must be finite"),
        ({"unbalanced": (1.0, 2.0, 3.0), "penalty": "tv"}, "one penalty or a pair"),
        ({"unbalanced": 1.0, "penalty": "tv", "a": [1.0, 2.0]}, "a must have 3 weights"),
        ({"unbalanced": 1.0, "penalty": "tv", "a": [1.0, -2.0, 0.0]}, "a must be"),
        ({"unbalanced": 1.0, "penalty": "tv", "tol": 1e-3}, "tol does not apply"),
        ({"unbalanced": 1.0, "penalty": "tv", "init": (np.zeros(3), np.zeros(3))}, "init must be a result"),
        ({"unbalanced": (0.0, 1.0), "penalty": "tv", "method": "annealing"}, "use method='exact'"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        otkit.solve(np.eye(3), **options)


def test_bad_costs():
    with pytest.raises(ValueError, match="costs must be at least"):
        otkit.solve([[-3.0]], unbalanced=1.0, penalty="tv")
    with pytest.raises(ValueError, match="costs must be numbers"):
        otkit.solve([[np.nan]], unbalanced=1.0, penalty="tv")
    with pytest.raises(ValueError, match="unbalanced must be a number, or a pair of them, for a sparse matrix"):
        otkit.solve(sp.csr_array([[1.0]]), unbalanced=[1.0, 2.0], penalty="tv")
    result = otkit.solve([[np.inf, np.inf]], unbalanced=1.0, penalty="tv")  # everything stays where it is
    assert result.value == 2.0
    assert result.plan.sum() == 0


def test_a_changed_matrix_is_seen():
    C = np.array([[0.5, 3.0]])
    result = otkit.solve(C, [1.0], [2.0, 1.0], unbalanced=(0.1, 1.0), penalty="tv")
    C += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        result.plan  # noqa: B018
