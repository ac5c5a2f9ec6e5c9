"""The formulas: golden numbers, other libraries, and the linear systems behind them."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forms import in_groups
from measure import without_matrix
from numpy.testing import assert_allclose

import otkit
from otkit.autograd import adjoint


def by_plan(result, G):
    return otkit.vjp(result, plan=G)


def centred(v):
    return v - v.mean()


def test_two_points_in_closed_form():
    # P_11 = σ(c/reg)/2.
    result = otkit.solve(np.array([[0.0, 1.0], [1.0, 0.0]]), [0.5, 0.5], [0.5, 0.5], reg=0.5, tol=1e-14)
    assert_allclose(result.plan[0, 0], 0.44039853898894116, rtol=1e-12)
    assert_allclose(float(result.value_linear), 0.11920292202211769, rtol=1e-12)
    assert_allclose(result.f, 0.14155479237924318, rtol=1e-12)
    assert_allclose(result.g, 0.14155479237924318, rtol=1e-12)
    assert_allclose(float(result.value), 0.28310958475848635, rtol=1e-12)
    assert_allclose(by_plan(result, np.array([[1.0, 0], [0, 0]])).C[0, 0], -0.05249679270175331, rtol=1e-10)


def test_three_points():
    C = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
    result = otkit.solve(C, [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], reg=0.5, tol=1e-14)
    P = [
        [0.196402758, 0.15, 0.153597242],
        [0.0035129947, 0.1464870053, 0.15],
        [0.0000842473, 0.0035129947, 0.196402758],
    ]
    assert_allclose(result.plan, P, atol=1e-9)
    assert_allclose(float(result.value), 0.7349994505284272, rtol=1e-12)
    assert_allclose(float(result.value_linear), 0.6143889679696731, rtol=1e-12)
    f = [0.7251247735, -0.0313116999, -0.6938130736]
    assert_allclose(centred(result.f), f, atol=1e-9)
    assert_allclose(centred(result.g), f[::-1], atol=1e-9)
    found = by_plan(result, np.diag([1.0, 2.0, 3.0]))
    wanted = [
        [-0.0141209128, 0.143170444, -0.1290495311],
        [0.0133940545, -0.1700590621, 0.1566650076],
        [0.0007268583, 0.0268886181, -0.0276154765],
    ]
    assert_allclose(found.C, wanted, atol=1e-8)
    assert_allclose(centred(found.a), [-1.4306982725, -0.4883909283, 1.9190892008], atol=1e-8)
    assert_allclose(centred(found.b), [0.6236527023, 0.1368363816, -0.7604890839], atol=1e-8)


def test_the_value_has_the_plan_and_the_potentials_for_gradients(rng):
    C, a, b = rng.random((5, 4)), rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(4))
    result = otkit.solve(C, 3 * a, 3 * b, reg=0.1, tol=1e-12)
    found = otkit.vjp(result, value=1.0)
    assert_allclose(found.C, result.plan, rtol=1e-12)
    assert_allclose(centred(found.a), centred(result.f), atol=1e-9)
    assert_allclose(centred(found.b), centred(result.g), atol=1e-9)
    assert_allclose(found.reg, result.value_reg / 0.1, rtol=1e-9)
    assert (found.x, found.y, found.rho) == (None, None, None)


def test_the_optimal_cost_has_the_optimal_plan_for_a_gradient(rng):
    C = rng.random((2, 5, 5))
    result = otkit.solve(C)
    assert_allclose(otkit.vjp(result, value=np.array([1.0, 2.0])).C, result.plan * [[[1.0]], [[2.0]]], rtol=1e-12)


def test_a_second_cost_moves_the_gradient_of_the_sharp_cost_away_from_the_plan(rng):
    # With the plan held, the gradient of ⟨C, P⟩ would be P.
    C = rng.random((6, 6))
    result = otkit.solve(C, reg=0.02, tol=1e-12)
    found = otkit.vjp(result, value_linear=1.0).C
    assert np.linalg.norm(found - result.plan) > 0.02 * np.linalg.norm(found)


def test_an_intermediate_number_of_iterations_comes_close_to_the_limit(rng):
    C = rng.random((6, 6))
    limit = otkit.vjp(otkit.solve(C, reg=0.2, tol=1e-13), value_linear=1.0).C
    off = [
        abs(otkit.vjp(otkit.solve(C, reg=0.2, method=otkit.Sinkhorn(n_iters=k)), value_linear=1.0).C - limit).max()
        for k in (2, 8, 60)
    ]
    assert off[2] < 1e-9 < off[1] < off[0]


def test_the_error_of_a_gradient_follows_the_tolerance(rng):
    C = rng.random((30, 30))
    exact = otkit.vjp(otkit.solve(C, reg=0.02, tol=1e-13), value_linear=1.0).C
    for tol in (1e-3, 1e-5, 1e-7):
        found = otkit.vjp(otkit.solve(C, reg=0.02, tol=tol), value_linear=1.0).C
        assert abs(found - exact).sum() < 1e3 * tol


def test_other_libraries(xp, rng):
    C, a = rng.random((3, 4)), rng.dirichlet(np.ones(3))
    G, x = rng.random((3, 4)), rng.random((3, 2))
    plain = otkit.vjp(otkit.solve(C, a, reg=0.2, tol=1e-12), plan=G, f=a)
    found = otkit.vjp(
        otkit.solve(xp.asarray(C), xp.asarray(a), reg=0.2, tol=1e-12), plan=xp.asarray(G), f=xp.asarray(a)
    )
    assert type(found.C) is type(xp.asarray(C))
    assert_allclose(np.asarray(found.C), plain.C, rtol=1e-8)
    assert_allclose(np.asarray(found.a), plain.a, rtol=1e-8)
    cloud = otkit.vjp(otkit.solve_sample(xp.asarray(x), xp.asarray(x), reg=0.2), value_linear=1.0)
    plain = otkit.vjp(otkit.solve_sample(x, x, reg=0.2), value_linear=1.0)
    assert_allclose(np.asarray(cloud.x), plain.x, rtol=1e-6, atol=1e-9)


def test_large_problems_hold_no_matrix(rng, monkeypatch):
    x, y = rng.random((700, 3)), rng.random((600, 3))
    for given in ({"value_linear": 1.0}, {"f": rng.random(700)}):
        result = otkit.solve_sample(x, y, reg=0.05, tol=1e-11)
        held = otkit.vjp(result, **given)
        monkeypatch.setattr(adjoint, "_HELD", 0)
        in_groups(monkeypatch, 2**13, tile=2**13)
        # The sparse Newton matrix may have an eighth of the entries.
        streamed = without_matrix(partial(otkit.vjp, result, **given), 700, 600, share=0.75)
        monkeypatch.undo()
        for one, other in ((held.x, streamed.x), (held.y, streamed.y)):
            assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("free", "plans"), [(0.0, 0), (32 * 72 - 1, 0), (32 * 72, 1)])
def test_a_quarter_of_the_free_memory_holds_a_plan(free, plans, monkeypatch):
    monkeypatch.setattr(adjoint, "_HELD", 71)
    made, plan = [], otkit.solve(np.eye(8, 9), reg=0.1).outcome.plan[0]
    kernels = replace(plan.kernels, room=lambda like: free, plan=lambda *_: made.append(1) or np.eye(8, 9)[None])
    adjoint._products(SimpleNamespace(items=1, reduced=plan.geometry, kernels=kernels), plan.at)
    assert len(made) == plans


@pytest.mark.parametrize("shape", [(200, 150), (150, 200)])
def test_the_sparse_newton_matrix_spares_iterations(shape, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.random((shape[0], 2)), rng.random((shape[1], 2))
    result = otkit.solve_sample(x, y, reg=1e-3, method=otkit.SparseNewton(sweeps=1, tol=1e-11))
    steps, solve = [], adjoint._solve

    def counted(*arguments):
        found = solve(*arguments)
        steps.append(int(found.steps[0]))
        return found

    monkeypatch.setattr(adjoint, "_solve", counted)
    found = otkit.vjp(result, value_linear=1.0)
    quick = steps[-1]
    monkeypatch.setattr(adjoint, "_preconditioner", lambda problem, *_: [None] * problem.items)
    plain = otkit.vjp(result, value_linear=1.0)
    assert quick <= steps[-1] / 10
    assert_allclose(found.x, plain.x, rtol=1e-6, atol=1e-9)
    # The dense system with its null vector taken out.
    P, p, q = result.plan, result.plan.sum(1), result.plan.sum(0)
    C = ((x[:, None] - y) ** 2).sum(-1)
    system = np.block([[np.diag(p), P], [P.T, np.diag(q)]])
    M = P * C
    u, v = np.split(np.linalg.lstsq(system, np.concatenate([M.sum(1), M.sum(0)]), rcond=1e-13)[0], [shape[0]])
    by_costs = P + P * (u[:, None] + v - C) / 1e-3
    wanted = (2 * by_costs[:, :, None] * (x[:, None] - y)).sum(1)
    assert_allclose(found.x, wanted, atol=1e-7 * abs(wanted).max())


def test_tiny_weights_and_close_points_have_finite_gradients(rng):
    x = rng.random((20, 2))
    x[10:] = x[:10] + 1e-9
    a = rng.dirichlet(np.ones(20))
    a[:3] = [1e-300, 1e-30, 0.0]
    result = otkit.solve_sample(x, rng.random((25, 2)), a / a.sum(), reg=1e-3, tol=1e-9)
    found = otkit.vjp(result, value_linear=1.0, f=rng.random(20), g=rng.random(25))
    for v in (found.x, found.y, found.a):
        assert np.isfinite(v).all()


def test_float32_gets_float32(rng):
    C = rng.random((4, 5)).astype(np.float32)
    result = otkit.solve(C, reg=0.1)
    found = otkit.vjp(result, value_linear=np.float32(1.0), f=np.ones(4, dtype=np.float32))
    assert found.C.dtype == np.float32
    wide = otkit.solve(C.astype(float), reg=0.1, tol=1e-10)
    assert_allclose(found.C, otkit.vjp(wide, value_linear=1.0, f=np.ones(4)).C, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e12])
def test_gradients_of_float32_points_are_accurate_to_float32(rng, offset, scale):
    x, y = ((rng.random((2, n, 20)) + offset).astype(np.float32) * np.float32(scale) for n in (90, 80))
    a, b = np.ones((2, 90), np.float32), np.ones((2, 80), np.float32)
    a[:, :2], b[:, 0], a[:, 2] = 0.0, 0.0, 1e-30
    a, b = (w / w.sum(-1, keepdims=True, dtype=float) for w in (a, b))
    options = dict(reg=0.1 * float(scale) ** 2, tol=1e-10)
    wanted = otkit.vjp(otkit.solve_sample(*(v.astype(float) for v in (x, y)), a, b, **options), value=1.0)
    found = otkit.vjp(otkit.solve_sample(x, y, *(w.astype(np.float32) for w in (a, b)), **options), value=1.0)
    for one, other in ((found.x, wanted.x), (found.y, wanted.y)):
        assert one.dtype == np.float32
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine"])
@pytest.mark.parametrize("shape", [(40,), (2, 70), (200,)], ids=str)
def test_a_measure_with_itself_has_one_gradient(rng, metric, shape):
    x, a = rng.random((*shape, 3)), rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    loose, tight = (otkit.solve_sample(x, x, a, a, metric=metric, reg=0.1, tol=tol) for tol in (1e-2, 1e-12))
    found, wanted = otkit.vjp(loose, value=1.0), otkit.vjp(tight, value=1.0)
    np.testing.assert_array_equal(found.x, found.y)
    apart = otkit.vjp(otkit.solve_sample(x, x.copy(), a, a.copy(), metric=metric, reg=0.1, tol=1e-12), value=1.0)
    assert_allclose(wanted.x, apart.x, atol=1e-10)
    assert_allclose(wanted.y, apart.y, atol=1e-10)
    assert_allclose(found.x, wanted.x, atol=1e-2 * abs(wanted.x).max())


def test_an_approximate_gradient_is_said(rng):
    with pytest.warns(otkit.ConvergenceWarning):
        result = otkit.solve(rng.random((20, 20)), reg=1e-3, max_iter=3)
    with pytest.warns(otkit.ConvergenceWarning, match="gradients are approximate: the solve did not converge"):
        otkit.vjp(result, value=1.0)


def test_a_linear_system_that_is_not_solved_is_said_or_refused(rng, monkeypatch):
    monkeypatch.setattr(adjoint, "_MOST", 3)
    C = torch.tensor(rng.random((20, 20)), requires_grad=True)
    words = "relative residual of .*larger reg"
    warned = partial(pytest.warns, otkit.ConvergenceWarning, match=words)
    for strict, noticed in ((False, warned), (True, partial(pytest.raises, otkit.NotConverged, match=words))):
        result = otkit.solve(C, reg=0.02, tol=1e-9, strict=strict)
        with noticed():
            result.f[0].backward()
        with noticed():
            otkit.vjp(result, strict=strict, f=np.eye(20)[0])


def test_no_cotangent_is_refused_by_name(rng):
    with pytest.raises(TypeError, match="derivative by at least one field, got none; pass one, such as value"):
        otkit.vjp(otkit.solve(rng.random((3, 3)), reg=0.1))


@pytest.mark.parametrize("strict", [False, True])
def test_cotangents_of_a_measure_with_itself_that_no_system_resolves_are_said_or_refused(strict):
    # Two pairs of points without a path between them: where the rows of one go up, its columns go down by as much.
    x = np.array([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0], [9.0, 9.1]])
    result = otkit.solve_sample(x, x, reg=0.5, tol=1e-9)
    noticed = pytest.raises(otkit.NotConverged) if strict else pytest.warns(otkit.ConvergenceWarning, match="residual")
    with noticed:
        otkit.vjp(result, strict=strict, f=np.eye(4)[0])
    otkit.vjp(result, strict=True, f=np.full(4, 0.25), g=np.full(4, 0.25))
    otkit.vjp(result, strict=True, plan=np.eye(4))


def test_equal_cotangents_that_are_not_solved_are_said(rng, monkeypatch):
    x = rng.random((30, 2))
    result, bar = otkit.solve_sample(x, x, reg=0.02), rng.standard_normal(30)
    otkit.vjp(result, strict=True, f=bar, g=bar)
    monkeypatch.setattr(adjoint, "_MOST", 3)
    with pytest.warns(otkit.ConvergenceWarning, match="relative residual"):
        otkit.vjp(result, f=bar, g=bar)
    with pytest.raises(otkit.NotConverged, match="relative residual"):
        otkit.vjp(result, strict=True, f=bar, g=bar)


@pytest.mark.parametrize(
    ("options", "given", "error", "words"),
    [
        ({"reg": 0.1}, {"marginals": 1.0}, TypeError, "cotangents of value, .*, got marginals"),
        ({"reg": 0.1}, {"f": np.ones(3)}, ValueError, r"cotangent of f must have its shape \(2,\), got \(3,\)"),
        ({"reg": 0.1}, {"plan": np.ones((3, 2))}, ValueError, "cotangent of plan must have its shape"),
        ({}, {"plan": np.ones((2, 3))}, ValueError, "no useful gradient of plan without a reg.*pass a reg"),
        ({}, {"f": np.ones(2)}, ValueError, "no useful gradient of f without a reg"),
    ],
)
def test_what_has_no_gradient(options, given, error, words):
    result = otkit.solve(np.arange(6.0).reshape(2, 3), **options)
    with pytest.raises(error, match=words):
        otkit.vjp(result, **given)


def test_points_of_a_callable_metric_have_none():
    result = otkit.solve_sample(
        np.zeros((2, 1)), np.ones((3, 1)), metric=lambda x, y: abs(x - y[..., 0][..., None, :]), reg=1.0
    )
    with pytest.raises(ValueError, match="a metric that is a callable; form the costs with it and pass them"):
        otkit.vjp(result, value=1.0)
