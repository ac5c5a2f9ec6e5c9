import pickle

import numpy as np
import pytest
from checks import torch

import otkit


@pytest.fixture
def cloud(rng):
    x, y = rng.standard_normal((30, 3)), rng.standard_normal((20, 3))
    return x, y, rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(20))


@pytest.fixture(params=[{"reg": 0.3}, {"rtol": 1e-3}], ids=["entropic", "unregularised"])
def solved(request, cloud):
    x, y, a, b = cloud
    return otkit.solve_sample(x, y, 3 * a, 3 * b, **request.param)


def test_everything_scales_with_the_mass(solved, cloud):
    x, y, a, b = cloud
    options = {"reg": 0.3} if solved.value_reg is not None else {"rtol": 1e-3}
    one = otkit.solve_sample(x, y, a, b, **options)
    for name in ("value", "value_linear", "lower", "upper", "plan"):
        np.testing.assert_allclose(getattr(solved, name), 3 * getattr(one, name), rtol=1e-10, atol=1e-14)
    for name in ("f", "g", "error", "n_iter"):
        np.testing.assert_allclose(getattr(solved, name), getattr(one, name), rtol=1e-9, atol=1e-12)


def test_apply_and_marginals_are_those_of_the_plan(solved, rng):
    P = solved.plan
    v, u = rng.random((20, 2)), rng.random((30, 2))
    np.testing.assert_allclose(solved.apply(v), P @ v, rtol=1e-12)
    np.testing.assert_allclose(solved.apply(v[:, 0]), P @ v[:, 0], rtol=1e-12)
    np.testing.assert_allclose(solved.apply_t(u), P.T @ u, rtol=1e-12)
    np.testing.assert_allclose(solved.apply_t(u[:, 0]), P.T @ u[:, 0], rtol=1e-12)
    np.testing.assert_allclose(solved.marginals[0], P.sum(1), rtol=1e-12)
    np.testing.assert_allclose(solved.marginals[1], P.sum(0), rtol=1e-12)


def test_the_sparse_plan_drops_no_more_than_it_says(solved):
    for drop in (1e-9, 1e-2):
        arcs = solved.plan_sparse(drop)
        P = np.zeros((30, 20))
        P[arcs.row, arcs.col] = arcs.mass
        assert (arcs.mass > 0).all()
        assert (arcs.item == 0).all()
        left_out = solved.plan - P
        assert (left_out >= -1e-14).all()  # the precision of exp in the kernels
        assert (left_out.sum(1) <= drop * solved.plan.sum(1) * 1.01 + 1e-16).all()


def test_barycentric_is_the_conditional_mean(solved, cloud):
    y = cloud[1]
    P = solved.plan
    np.testing.assert_allclose(solved.barycentric(), P @ y / P.sum(1, keepdims=True), atol=1e-6)
    values = np.arange(20.0)
    np.testing.assert_allclose(solved.barycentric(values), P @ values / P.sum(1), atol=1e-5)


def test_transport_continues_the_map_of_the_points(solved, cloud):
    x, y, *_ = cloud
    sent = solved.transport(x)
    if solved.value_reg is not None:
        np.testing.assert_allclose(sent, solved.barycentric(), atol=1e-10)
    else:  # each point goes to a y that it may send mass to
        nearest = abs(sent[:, None] - y).sum(-1).argmin(1)
        C = ((x[:, None] - y) ** 2).sum(-1)
        np.testing.assert_allclose((C - solved.g).min(1), (C - solved.g)[np.arange(30), nearest], atol=1e-9)
    near = solved.transport(x[:1] + 1e-9)
    np.testing.assert_allclose(near, sent[:1], atol=1e-5)


def test_rows_without_mass_have_a_finite_image(cloud):
    x, y, a, b = cloud
    a = np.where(np.arange(30) == 4, 0, a)
    for options in ({"reg": 0.3}, {"rtol": 1e-3}):
        result = otkit.solve_sample(x, y, a / a.sum(), b, **options)
        assert np.isfinite(result.barycentric()).all()
        assert np.isfinite(result.f).all()


def test_a_map_needs_points():
    result = otkit.solve([[0.0, 1.0]], reg=1.0)
    with pytest.raises(ValueError, match="given as a cost matrix; pass y=, or use otkit"):
        result.barycentric()
    with pytest.raises(ValueError, match=r"use otkit\.solve_sample"):
        result.transport([[0.0]])
    np.testing.assert_allclose(result.barycentric([0.0, 1.0]), [0.5])


@pytest.mark.parametrize(
    ("argument", "words"), [(np.zeros(7), r"v must have shape \(..., 20\)"), (1.0, "v must have shape")]
)
def test_apply_refuses_wrong_shapes(solved, argument, words):
    with pytest.raises(ValueError, match=words):
        solved.apply(argument)


@pytest.mark.parametrize("options", [{"reg": 0.2}, {}, {"method": "univariate"}], ids=str)
def test_results_pickle(options, rng):
    x = rng.random((9, 1))
    result = otkit.solve_sample(x, x + 1, **options)
    again = pickle.loads(pickle.dumps(result))
    assert again.value == result.value
    assert again.status is result.status
    assert again.upper == result.upper
    assert repr(again) == repr(result)


def test_a_result_prints_as_one_line_to_act_on(cloud):
    x, y, a, b = cloud
    line = repr(otkit.solve_sample(x, y, a, b, reg=0.3))
    assert "\n" not in line
    for part in ("30 × 20", "reg = 0.3", "value = ", "error = ", "sns", "numba (numpy)", "Converged"):
        assert part in line
    line = repr(otkit.solve_sample(x, y, a, b))
    assert "in [" in line
    assert "unregularised" in line
    line = repr(otkit.solve_sample(x, y, a, b, reg=[0.3, 0.4]))
    assert "(2,) problems" in line
    assert "2 CONVERGED" in line
    line = repr(otkit.wasserstein(x, y, a, b))
    assert line.startswith("WassersteinResult(W2 = ")
    assert "(2,) problems" in repr(otkit.wasserstein(np.stack([x, x]), y))


def test_a_plan_that_does_not_fit_in_memory_is_refused_with_the_way_out(monkeypatch, cloud):
    x, y, a, b = cloud
    result = otkit.solve_sample(x, y, a, b, reg=0.3)
    monkeypatch.setattr("otkit.kernels.memory.NEGLIGIBLE", 0)
    monkeypatch.setattr("otkit.kernels.memory.free_memory", lambda: 4000)
    with pytest.raises(MemoryError, match=r"30 × 20 needs .* use plan_sparse\(\), apply\(\) or transport\(\)"):
        _ = result.plan
    assert result.plan_sparse().mass.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16"),
     ("int32", "float64"), ("bool", "float64")],
)  # fmt: skip
def test_arrays_come_back_as_they_went_in(dtype, wanted):
    dtype, wanted = getattr(torch, dtype), getattr(torch, wanted)
    C = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    result = otkit.solve(C, reg=0.5)
    exact = otkit.solve([[0, 1], [1, 0]], reg=0.5)
    unit = torch.finfo(wanted).eps
    for name in ("value", "value_linear", "value_reg", "f", "g", "plan"):
        found = getattr(result, name)
        assert found.dtype == wanted
        assert found.device == C.device
        np.testing.assert_allclose(found.double().numpy(), getattr(exact, name), atol=2 * unit)
    assert result.value.ndim == 0
    assert isinstance(result.status, otkit.Status)
    assert isinstance(float(result.error), float)
    assert otkit.solve(C, reg=0.5).converged
    assert otkit.solve(C).value == 0


def test_weights_of_integers_do_not_widen_the_answer():
    result = otkit.solve(np.float32([[0, 1], [1, 0]]), [1, 3], [2, 2], reg=0.5)
    assert result.plan.dtype == np.float32
    assert result.plan.sum() == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "reg"), [(70, 90, 0.05), (100, 80, 0.5), (800, 700, 0.05)])
def test_the_error_of_a_loose_tolerance_is_that_of_the_final_potentials(rng, n, m, reg):
    a, b = rng.random(n), rng.random(m)
    a[::7] = 0
    result = otkit.solve(rng.random((n, m)), a / a.sum(), b / b.sum(), reg=reg, tol=1e-2)
    assert 1e-9 < result.error <= 1e-2
    rows, cols = result.plan.sum(1), result.plan.sum(0)
    np.testing.assert_allclose(abs(rows - a / a.sum()).sum() + abs(cols - b / b.sum()).sum(), result.error, atol=1e-6)
    dual = result.f @ a / a.sum() + result.g @ b / b.sum() - reg * (rows.sum() - 1)
    np.testing.assert_allclose(result.value_dual, dual, rtol=1e-6)
