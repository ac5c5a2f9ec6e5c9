"""Other array libraries give NumPy's answers, in their own arrays."""

import numpy as np
import pytest
from strategies import random_case

import otkit
from otkit.arrays import namespace, to_numpy


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{"reg": 0.2, "tol": 1e-9}, {"rtol": 1e-3}], ids=["entropic", "unregularised"])
def test_the_answer_is_that_of_numpy(xp, seed, options):
    case = random_case(seed, n=13, m=10)
    a = np.where(np.arange(13) == 3, 0, case.a)
    a /= a.sum()
    data = case.x, case.y, a, case.b
    wanted = otkit.solve_sample(*data, metric=case.metric, **options)
    found = otkit.solve_sample(*(xp.asarray(v) for v in data), metric=case.metric, **options)
    assert found.kernel != wanted.kernel
    assert found.status is wanted.status
    span = case.span
    assert found.lower <= wanted.upper + 1e-12 * span
    assert wanted.lower <= found.upper + 1e-12 * span
    P = to_numpy(found.plan)
    np.testing.assert_allclose(to_numpy(found.apply(xp.asarray(case.y))), P @ case.y, atol=1e-12)
    np.testing.assert_allclose(to_numpy(found.apply_t(xp.asarray(case.x))), P.T @ case.x, atol=1e-12)
    assert found.plan_sparse().mass.sum() == pytest.approx(1)
    if "reg" not in options:  # within its interval an unregularised answer is any of many
        assert namespace(found.barycentric()) is namespace(found.f)
        return
    for name in ("value", "value_linear", "f", "g", "plan"):
        ours = getattr(found, name)
        assert namespace(ours) is namespace(xp.asarray(0.0))
        np.testing.assert_allclose(to_numpy(ours), getattr(wanted, name), atol=1e-6 * max(1.0, span))
    assert found.lower <= wanted.lower + 1e-6 * span  # a small problem of NumPy has the bounds of the exact solution
    assert found.upper >= wanted.lower
    np.testing.assert_allclose(to_numpy(found.barycentric()), wanted.barycentric(), atol=1e-4)
    np.testing.assert_allclose(to_numpy(found.transport(xp.asarray(case.x))), wanted.transport(case.x), atol=1e-4)


def test_batches_forbidden_arcs_and_lines(xp, rng):
    C = rng.random((3, 3000, 6))  # small problems of NumPy and of others take different iterations
    C[:, 0, 0] = np.inf
    found, wanted = otkit.solve(xp.asarray(C), reg=0.1), otkit.solve(C, reg=0.1)
    np.testing.assert_allclose(to_numpy(found.f), wanted.f, atol=1e-6)
    np.testing.assert_array_equal(found.n_iter, wanted.n_iter)
    x, y = rng.random((7, 1)), rng.random((2, 5, 1))
    line = otkit.wasserstein(xp.asarray(x), xp.asarray(y))
    np.testing.assert_allclose(to_numpy(line.distance), otkit.wasserstein(x, y).distance, rtol=1e-13)


def test_float32_stays_float32(xp, rng):
    C = xp.asarray(rng.random((8, 6)), dtype=xp.float32)
    result = otkit.solve(C, reg=0.1)
    assert result.plan.dtype == xp.float32
    assert result.tol == 1e-4
    assert otkit.wasserstein(C, C + 1).result.f.dtype == xp.float32


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_no_cost_is_refused(any_xp, bad, rng):
    C = rng.random((5, 4))
    C[2, 3] = bad
    with pytest.raises(ValueError, match="costs must be numbers"):
        otkit.solve(any_xp.asarray(C), reg=0.1)
    with pytest.raises(ValueError, match="costs must be numbers"):  # also where there is no mass
        otkit.solve(any_xp.asarray(C), any_xp.asarray(np.array([0.5, 0.5, 0.0, 0.0, 0.0])), reg=0.1)
