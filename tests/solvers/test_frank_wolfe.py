"""Exact problems with moved weights: how few they are, how narrow intervals get at any penalty, and what is left."""

import warnings

import numpy as np
import pytest
from checks import torch

import otkit
from otkit.certificates.width import narrow
from otkit.geometry.dense import Dense
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import divergence

KINDS = ("uniform", "points", "log-normal", "integers", "line")


def drawn(kind, n=40, m=30, seed=0):
    """Costs and weights of equal totals."""
    rng = np.random.default_rng(seed)
    if kind == "points":
        C = ((rng.normal(size=(n, 1, 3)) - rng.normal(size=(m, 3)) - 0.5) ** 2).sum(-1)
    elif kind == "line":
        C = abs(np.sort(rng.random(n))[:, None] - np.sort(rng.random(m))) ** 1.5
    else:
        draw = {"uniform": rng.random, "log-normal": lambda shape: rng.lognormal(0, 2, shape)}
        C = draw.get(kind, lambda shape: rng.integers(1, 10, shape).astype(float))((n, m))
    return C, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


@pytest.mark.parametrize("ratio", [1.0, 1.3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_is_narrow_at_any_penalty_above_the_costs(kind, ratio):
    C, a, b = drawn(kind)
    b, before = b * ratio, -np.inf
    most = float(otkit.solve(C, a, b).value) if ratio == 1 else np.inf
    for rho in C.max() * 10.0 ** np.arange(0, 17):
        found = otkit.solve(C, a, b, unbalanced=rho)
        assert found.converged
        assert found.upper - found.lower <= max(1e-6 * found.upper, 1e-9 * C.max())
        assert before <= found.upper  # the optimum grows with the penalty
        assert found.lower <= most
        before = found.lower
    if ratio == 1:
        assert found.lower == pytest.approx(most, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_few_exact_problems_reach_rounding_where_penalties_are_above_the_costs(kind):
    C, a, b = drawn(kind, seed=1)
    rho = 100 * C.max()
    found = otkit.solve(C, a, b, unbalanced=rho, method=otkit.FrankWolfe(rtol=1e-12, atol=1e-15))
    assert found.n_iter <= 4
    # Optimal: the marginals are those that the potentials ask for, and the costs equal the potentials on all arcs.
    arcs = found.plan_sparse()
    assert arcs.mass.size <= sum(C.shape) - 1
    np.testing.assert_allclose(found.plan.sum(1), a * np.exp(-found.f / rho), rtol=1e-10)
    np.testing.assert_allclose(found.plan.sum(0), b * np.exp(-found.g / rho), rtol=1e-10)
    np.testing.assert_allclose(found.f[arcs.row] + found.g[arcs.col], C[arcs.row, arcs.col], atol=1e-10 * C.max())
    assert (found.f[:, None] + found.g <= C + 1e-10 * C.max()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1e-3, 0.1, 0.5])
def test_annealing_goes_on_where_the_steps_are_slow(kind, share):
    C, a, b = drawn(kind, 60, 50, seed=2)
    rho = share * C.max()
    found, other = (otkit.solve(C, a, b, unbalanced=rho, method=method) for method in ("frank-wolfe", "annealing"))
    assert found.converged
    assert found.lower <= other.upper
    assert other.lower <= found.upper
    assert found.upper - found.lower <= max(1e-6 * found.upper, 1e-9 * C.max())


def test_items_of_a_batch_go_their_own_way():
    C, a, b = drawn("uniform", 30, 30, seed=3)
    rho = np.array([np.inf, 100.0, 0.05, 1e9, 0.0])
    pairs = rho, np.where(rho == 0, 1.0, rho)
    found = otkit.solve(C, a, b, unbalanced=pairs, rtol=1e-7)
    for k in range(rho.size):
        one = otkit.solve(C, a, b, unbalanced=(pairs[0][k], pairs[1][k]), rtol=1e-7)
        assert found.value[k] == pytest.approx(float(one.value), rel=1e-6)
        np.testing.assert_allclose(found.plan[k].sum(), one.plan.sum(), rtol=1e-4)
    assert (found.upper - found.lower <= 1e-7 * found.upper).all()


def test_one_side_may_be_exact():
    C, a, b = drawn("points", seed=4)
    found = otkit.solve(C, a, 2 * b, unbalanced=(np.inf, 10 * C.max()), rtol=1e-10)
    assert found.n_iter <= 4
    np.testing.assert_allclose(found.plan.sum(1), a, rtol=1e-9)
    np.testing.assert_allclose(found.plan.sum(0), 2 * b * np.exp(-found.g / (10 * C.max())), rtol=1e-9)


def test_forbidden_arcs_that_leave_no_exact_problem_are_left_to_annealing():
    C = np.array([[1.0, np.inf], [np.inf, 2.0]])
    found = otkit.solve(C, [0.7, 0.3], [0.2, 0.8], unbalanced=5.0)
    assert found.converged
    assert found.plan[0, 1] == found.plan[1, 0] == 0
    # Each pair is a problem of its own, of one arc.
    mass = np.sqrt([0.7 * 0.2, 0.3 * 0.8]) * np.exp(-np.array([1.0, 2.0]) / 10)
    np.testing.assert_allclose(np.diag(found.plan), mass, rtol=1e-3)


def test_it_stops_when_told_with_the_bounds_of_the_last_step():
    C, a, b = drawn("uniform", seed=5)
    with pytest.warns(otkit.ConvergenceWarning, match="max_iter"):
        first = otkit.solve(C, a, b, unbalanced=2.0, max_iter=1, rtol=1e-12)
    best = otkit.solve(C, a, b, unbalanced=2.0)
    assert first.n_iter == 1
    assert first.lower <= best.upper
    assert best.lower <= first.upper < np.inf
    told = []
    with pytest.warns(otkit.ConvergenceWarning, match="callback"):
        otkit.solve(C, a, b, unbalanced=2.0, rtol=1e-12, callback=lambda progress: bool(told.append(progress)) or True)
    assert len(told) == 1
    assert 0 < told[0].gap[0] < np.inf


def test_it_starts_from_potentials_of_an_earlier_result():
    C, a, b = drawn("uniform", seed=6)
    first = otkit.solve(C, a, b, unbalanced=20.0)
    again = otkit.solve(C, a, b, unbalanced=20.0, init=first)
    assert again.n_iter == 1
    assert again.value == pytest.approx(float(first.value), rel=1e-12)


def test_values_have_gradients():
    C, a, b = (torch.tensor(v) for v in drawn("points", 12, 10, seed=7))
    rho = torch.tensor(50.0, dtype=torch.float64)

    def value(C, a, b, rho):
        return otkit.solve(C, a, b, unbalanced=rho).value

    inputs = tuple(v.requires_grad_() for v in (C, a, b, rho))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-6)


def test_a_penalty_close_to_the_weights_keeps_its_digits():
    w = np.array([[0.3, 0.7]])
    for delta in (1e-3, 1e-7, 1e-12):
        p = w * (1 + delta)
        exact = ((p - w) ** 2 / (2 * w) - (p - w) ** 3 / (6 * w**2)).sum(-1)
        np.testing.assert_allclose(divergence(p, w), exact, rtol=max(delta**2, 1e-15 / delta))
    np.testing.assert_array_equal(divergence(np.array([[0.0, 0.0]]), w), [1.0])
    tiny = divergence(np.array([[1e-300, 0.7]]), w)
    np.testing.assert_allclose(tiny, [0.3])


def test_an_interval_without_an_upper_end_is_not_narrow():
    problem = LinearProblem.build(Dense(np.eye(2)), None, None, None, 1.0)
    assert not narrow(problem, np.array([-1e50]), np.array([np.inf]), 1e-6, 1e-9).any()


def test_options_are_checked():
    with pytest.raises(ValueError, match="steps must be"):
        otkit.FrankWolfe(steps=0)
    with pytest.raises(ValueError, match="drop reg= or method="):
        otkit.solve(np.eye(2), reg=1.0, unbalanced=1.0, method="frank-wolfe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balanced = otkit.solve(np.eye(2), method="frank-wolfe")
    assert float(balanced.value) == pytest.approx(0.0, abs=1e-6)
