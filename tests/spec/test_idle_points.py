"""Points that no arc reaches: they stay empty where their marginal is penalised or free."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

import otkit
from otkit.arrays import to_numpy

INF = np.inf
PAIRS = [(0.7, 0.7), (0.4, 2.0), (0.0, 0.5), (INF, 0.5), (INF, 0.0)]


def kl(p, w):
    return p * np.log(p / w) - p + w if p > 0 else w


@pytest.mark.parametrize("rho", [(0.3, 1.2), (2.0, 0.0), (0.5, INF)])
def test_one_arc_beside_points_without_any(rho):
    a, b, c, reg = np.array([0.6, 0.9]), np.array([0.5, 0.7]), 0.3, 0.2
    if rho[1] == INF:
        a, b = a, np.array([0.5, 0.0])

    def objective(p):  # the mass on the arc; all else is empty
        total = c * p + reg * (p * np.log(p / (a[0] * b[0])) - p + a.sum() * b.sum())
        sides = ((rho[0], [(p, a[0]), (0, a[1])]), (rho[1], [(p, b[0]), (0, b[1])]))
        return total + sum(r * sum(kl(*pair) for pair in side) for r, side in sides if 0 < r < INF)

    C = np.array([[c, INF], [INF, INF]])
    result = otkit.solve(C, a, b, reg=reg, unbalanced=rho, tol=1e-12)
    if rho[1] == INF:
        best, value = 0.5, objective(0.5)
    else:
        found = minimize_scalar(objective, bounds=(1e-9, 3), method="bounded", options={"xatol": 1e-12})
        best, value = found.x, found.fun
    assert_allclose(result.plan, [[best, 0], [0, 0]], atol=1e-6)
    assert float(result.value) == pytest.approx(value, abs=1e-10)
    assert float(result.value_dual) == pytest.approx(value, abs=1e-9)
    parts = result.value_linear + result.value_reg + result.value_marginal
    assert float(parts) == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("rho", PAIRS, ids=str)
def test_the_objective_is_that_of_the_other_points_and_their_penalty(any_xp, rho, rng):
    C, a, b, reg = rng.random((7, 6)), rng.random(7), rng.random(6), 0.1
    rows = [] if rho[0] == INF else [2, 5]
    cols = [4]
    C[rows], C[:, cols] = INF, INF
    kept = np.setdiff1d(np.arange(7), rows), np.setdiff1d(np.arange(6), cols)
    options = dict(reg=reg, unbalanced=rho, tol=1e-10)
    if rho[0] == INF and rho[1] == INF:
        b *= a.sum() / b.sum()
    found = otkit.solve(*map(any_xp.asarray, (C, a, b)), **options)
    rest = otkit.solve(C[np.ix_(*kept)], a[kept[0]], b[kept[1]], **options)
    lost = sum((0 if r == INF else r) * w[k].sum() for r, w, k in ((rho[0], a, rows), (rho[1], b, cols)))
    constant = reg * (a.sum() * b.sum() - a[kept[0]].sum() * b[kept[1]].sum())
    assert float(found.value) == pytest.approx(float(rest.value) + lost + constant, abs=1e-9)
    assert float(found.value_marginal) == pytest.approx(float(rest.value_marginal) + lost, abs=1e-7)
    assert found.lower == pytest.approx(rest.lower + lost, abs=1e-9)
    assert found.upper == pytest.approx(rest.upper + lost, abs=1e-9)
    plan = np.zeros((7, 6))
    plan[np.ix_(*kept)] = rest.plan
    assert_allclose(to_numpy(found.plan), plan, atol=1e-9)
    assert np.isfinite(to_numpy(found.f)).all()


def test_rectangular_causal_masks(rng):
    n, m, reg = 5, 9, 0.2
    C = np.where(np.arange(m) <= np.arange(n)[:, None], rng.random((n, m)), INF)  # key j after query i is forbidden
    a, b = rng.dirichlet(np.ones(n)), rng.random(m) + 0.1
    result = otkit.solve(C, a, b, reg=reg, unbalanced=(INF, 0))
    weights = b * np.exp(-C / reg)
    assert_allclose(result.plan, a[:, None] * weights / weights.sum(-1, keepdims=True), rtol=1e-12)
    assert result.converged


def test_items_of_a_batch_differ(rng):
    C, a, b = rng.random((2, 5, 5)), np.full(5, 0.2), np.full(5, 0.2)
    C[1, 3] = INF
    rho = np.array([INF, 0.5])
    found = otkit.solve(C, a, b, reg=0.1, unbalanced=rho, tol=1e-10)
    alone = [otkit.solve(C[k], a, b, reg=0.1, unbalanced=float(rho[k]), tol=1e-10) for k in range(2)]
    assert_allclose(found.value, [r.value for r in alone], rtol=1e-12)
    assert_allclose(found.plan[1], alone[1].plan, atol=1e-12)


@pytest.mark.parametrize("field", ["value", "value_linear", "value_reg", "value_marginal"])
def test_gradients_by_their_weights_and_penalties(field, rng):
    C, a, b = rng.random((5, 4)), rng.random(5) + 0.1, rng.random(4) + 0.1
    C[1], C[:, 2] = INF, INF

    def value(a, b, rho_a, rho_b, reg):
        return float(getattr(otkit.solve(C, a, b, reg=reg, unbalanced=(rho_a, rho_b), tol=1e-13), field))

    given = [a, b, np.array(0.7), np.array(0.4), np.array(0.2)]
    result = otkit.solve(C, a, b, reg=0.2, unbalanced=(0.7, 0.4), tol=1e-13)
    found = otkit.vjp(result, **{field: 1.0})
    for k, name in enumerate(("a", "b", "rho_a", "rho_b", "reg")):
        slope = np.zeros(given[k].shape)
        for at in np.ndindex(slope.shape):
            ends = []
            for sign in (1, -1):
                moved = [v.copy() for v in given]
                moved[k][at] += sign * 1e-5
                ends.append(value(*moved[:2], *map(float, moved[2:])))
            slope[at] = (ends[0] - ends[1]) / 2e-5
        assert_allclose(getattr(found, name), slope, rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_exact_side_must_be_reached_and_the_advice_works(rng):
    C = rng.random((4, 4))
    C[2] = INF
    with pytest.raises(ValueError, match=r"row 2 .* or let it stay empty by unbalanced=") as told:
        otkit.solve(C)
    assert otkit.solve(C, unbalanced=1.0).converged, told.value
    with pytest.raises(ValueError, match="row 2"):
        otkit.solve(C, reg=0.1, unbalanced=(INF, 1.0))
    for options in ({}, {"reg": 0.1}, {"reg": 0.1, "unbalanced": 1.0}):
        with pytest.raises(ValueError, match=r"some costs .* must be finite, got only infinite"):
            otkit.solve(np.full((3, 3), INF), **options)
    with pytest.raises(ValueError, match="range overflows; divide the data by a constant"):
        otkit.solve([[1e308, -1e308], [0.0, 1.0]])


def test_calls_without_unbalanced_do_not_offer_it():
    x, y = [[0.0], [1.0]], [[2.0], [3.0]]

    def infinite(x, y):
        gap = x[..., :, None, 0] - y[..., None, :, 0]
        return np.where((gap > -1.5)[..., :1], np.inf, abs(gap))

    for call in (
        lambda: otkit.wasserstein(x, y, [1.0, 1.0], [1.0, 2.0]),
        lambda: otkit.pairwise([(x, [1.0, 1.0]), (y, [1.0, 2.0])]),
        lambda: otkit.wasserstein(x, y, metric=infinite),
    ):
        with pytest.raises(ValueError, match="; ") as told:
            call()
        assert "unbalanced" not in str(told.value)
    with pytest.raises(ValueError, match="divide each by its sum, or pass unbalanced="):
        otkit.solve_sample(x, y, [1.0, 1.0], [1.0, 2.0])
    assert otkit.solve_sample(x, y, [1.0, 1.0], [1.0, 2.0], unbalanced=1.0).converged
