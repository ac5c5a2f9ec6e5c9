"""Which kernels run a whole problem, and that it does not matter for the answer."""

import numpy as np
import pytest
from checks import torch
from numpy.testing import assert_allclose
from parity import chebyshev
from strategies import hard_cases

import otkit


def test_the_result_says_what_ran(monkeypatch, rng):
    import array_api_strict

    x, y = rng.random((6, 2)), rng.random((5, 2))
    C = abs(x[:, None] - y).sum(-1)
    tensor = torch.from_numpy(C)
    assert otkit.solve(C, reg=0.1).kernel == "numba (numpy)"
    assert otkit.solve_sample(x, y, reg=0.1).kernel == "numba (numpy)"
    assert otkit.solve(C, rtol=0.1).kernel == "numba (numpy)"
    assert otkit.solve(tensor, reg=0.1).kernel == "numba (torch)"
    assert otkit.solve(array_api_strict.asarray(C), reg=0.1).kernel == "reference (array_api_strict)"
    assert otkit.solve_sample(x, y, metric=chebyshev, reg=0.1).kernel == "numba (numpy)"
    points = torch.from_numpy(x), torch.from_numpy(y)
    assert otkit.solve_sample(*points, reg=0.1).kernel == "numba (torch)"
    assert otkit.solve_sample(*points, metric=torch.cdist, reg=0.1).kernel == "numba (torch)"
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    assert otkit.solve(C, reg=0.1).kernel == "reference (numpy)"
    assert otkit.solve(tensor, reg=0.1).kernel == "reference (torch)"


@pytest.mark.parametrize("chosen", ["fast", "Numba", ""])
def test_other_kernels_are_refused(chosen, monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", chosen)
    with pytest.raises(ValueError, match="OTKIT_KERNELS must be 'auto', 'numba', 'triton' or 'reference'"):
        otkit.solve([[0.0, 1.0]], reg=1.0)


def test_tensors_of_the_host_need_the_interpreter(monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert otkit.solve([[0.0, 1.0]], reg=1.0).kernel == "numba (numpy)"
    with pytest.raises(ValueError, match="which TRITON_INTERPRET=1 must ask for"):
        otkit.solve(torch.zeros(2, 3), reg=1.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_matrices_in_the_memory_of_the_host_are_not_copied(dtype):
    C = torch.rand(40, 30, dtype=getattr(torch, dtype))
    result = otkit.solve(C, reg=0.1)
    assert np.shares_memory(result.problem.geometry.C, C.numpy())
    assert result.f.dtype == C.dtype


def test_points_are_copied_once():
    x, y = torch.rand(40, 3, dtype=torch.float64), torch.rand(30, 3, dtype=torch.float64)
    problem = otkit.solve_sample(x, y, reg=0.1).problem
    for name, v in (("x", x), ("y", y)):
        own, used = problem.asked.arrays[name].numpy(), problem.geometry.arrays[name]
        assert not np.shares_memory(own, v.numpy())
        assert np.shares_memory(own, used)


def test_a_metric_is_called_with_arrays_of_the_caller(rng):
    seen = set()

    def metric(x, y):
        seen.add(type(x))
        return abs(x[:, :, None] - y[:, None]).sum(-1)

    x, y = rng.random((6, 2)), rng.random((5, 2))
    wanted = otkit.solve_sample(x, y, metric=metric, reg=0.1)
    found = otkit.solve_sample(torch.from_numpy(x), torch.from_numpy(y), metric=metric, reg=0.1)
    assert seen == {np.ndarray, torch.Tensor}
    assert_allclose(found.plan.numpy(), wanted.plan, atol=1e-9)


@pytest.mark.parametrize("name", hard_cases())
def test_the_reference_gives_the_same_answers(name, monkeypatch):
    problem, tol = hard_cases()[name], 1e-8
    options = dict(reg=1e-2 * problem.span, tol=tol)
    monkeypatch.setenv("OTKIT_KERNELS", "numba")
    found = otkit.solve(problem.C, problem.a, problem.b, **options)
    plan = found.plan
    value, linear = float(found.value_dual), float(found.value_linear)
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    wanted = otkit.solve(problem.C, problem.a, problem.b, **options)
    assert found.status is wanted.status
    size = problem.span + 1e-4 * abs(problem.C[np.isfinite(problem.C)]).max()
    assert value == pytest.approx(float(wanted.value_dual), abs=10 * tol * size)
    # Two plans whose marginals are met to tol differ by that times the condition of the problem.
    assert linear == pytest.approx(float(wanted.value_linear), abs=1e3 * tol * size)
    assert abs(plan - wanted.plan).sum() <= 1e4 * tol
