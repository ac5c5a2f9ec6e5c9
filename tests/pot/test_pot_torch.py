"""`otkit.pot` on tensors: library, dtype and gradients as POT gives them."""

import numpy as np
import ot as theirs
import pytest

import otkit.pot as ot

torch = pytest.importorskip("torch")


def problem(seed, n=7, m=5, grad=True):
    rng = np.random.default_rng(seed)
    arrays = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m)), rng.random((n, m))
    return [torch.tensor(v, requires_grad=grad) for v in arrays]


def gradients(value, *leaves):
    return [by.numpy() for by in torch.autograd.grad(value, leaves)]


def mean_free(v):
    return v - v.mean()


def test_gradients_of_emd2_are_those_of_pot():
    for seed in range(3):
        a, b, M = problem(seed)
        ours, expected = (gradients(module.emd2(a, b, M), a, b, M) for module in (ot, theirs))
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def test_gradients_of_sinkhorn2_and_solve_are_those_of_pot():
    a, b, M = problem(3)
    options = {"stopThr": 1e-13, "numItermax": 5000}
    ours, expected = (gradients(module.sinkhorn2(a, b, M, 0.1, **options), a, b, M) for module in (ot, theirs))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(
            mean_free(one) if one.ndim == 1 else one, mean_free(other) if one.ndim == 1 else other, atol=1e-8
        )
    for name in ("value", "value_linear"):
        ours, expected = (
            gradients(getattr(module.solve(M, a, b, reg=0.1, tol=1e-13, max_iter=5000), name), a, b, M)
            for module in (ot, theirs)
        )
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(
                mean_free(one) if one.ndim == 1 else one, mean_free(other) if one.ndim == 1 else other, atol=1e-8
            )


def test_gradients_of_an_entropic_reference_follow_differences():
    a, b, M = problem(4)
    value = ot.solve(M, a, b, reg=0.1, reg_type="entropy", unbalanced=1.0).value
    by_a, by_b, by_M = gradients(value, a, b, M)

    def at(a, b, M):
        return float(ot.solve(M, a, b, reg=0.1, reg_type="entropy", unbalanced=1.0, grad="detach", tol=1e-12).value)

    for k, by, where in ((0, by_a, (2,)), (1, by_b, (1,)), (2, by_M, (3, 2))):
        values = []
        for step in (1e-5, -1e-5):
            moved = [v.detach().clone() for v in (a, b, M)]
            moved[k][where] += step
            values.append(at(*moved))
        assert by[where] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_modes_of_gradients():
    a, b, M = problem(5)
    detached = ot.solve(M, a, b, reg=0.1, grad="detach")
    assert not any(v.requires_grad for v in (detached.value, detached.plan, detached.value_linear))
    envelope = ot.solve(M, a, b, reg=0.1, grad="envelope")
    assert envelope.value.requires_grad
    assert not any(
        v.requires_grad for v in (envelope.plan, envelope.value_linear, *envelope.potentials, *envelope.marginals)
    )
    whole = ot.solve(M, a, b, reg=0.1)
    assert all(v.requires_grad for v in (whole.plan, whole.value_linear, *whole.potentials, *whole.marginals))
    assert not ot.emd(a, b, M).requires_grad


def test_sparse_tensors_have_a_sparse_plan_and_gradient():
    a, b, M = problem(6)
    sparse = M.detach().to_sparse().requires_grad_()
    by_a, by_M = torch.autograd.grad(ot.emd2(a, b, sparse), (a, sparse))
    np.testing.assert_allclose(by_M.to_dense(), ot.emd(a, b, M))
    np.testing.assert_allclose(by_a, gradients(ot.emd2(a, b, M), a)[0])
    plan = ot.emd(a, b, sparse)
    assert plan.is_sparse
    np.testing.assert_allclose(plan.to_dense(), ot.emd(a, b, M))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_come_back_with_their_dtype(dtype):
    a, b, M = (v.to(dtype) for v in problem(7, grad=False))
    x, y = torch.rand(7, 2, dtype=dtype), torch.rand(5, 2, dtype=dtype)
    plan, log = ot.sinkhorn(a, b, M, 0.1, log=True)
    solved = ot.solve_sample(x, y, a, b, reg=0.1)
    found = [ot.emd(a, b, M), ot.emd2(a, b, M), plan, log["u"], log["alpha"], solved.plan, solved.value, ot.dist(x, y),
             ot.wasserstein_1d(a, b), ot.unif(3, a), ot.unbalanced.sinkhorn_unbalanced2(a, b, M, 0.1, 1.0),
             ot.bregman.empirical_sinkhorn_divergence(x, y, 0.1)]  # fmt: skip
    assert all(isinstance(v, torch.Tensor) and v.dtype == dtype for v in found)
    for metric in ("euclidean", "cosine", "correlation", "minkowski"):
        ours = ot.dist(x, y, metric, p=3)
        np.testing.assert_allclose(ours, theirs.dist(x, y, metric, p=3), rtol=1e-5, atol=1e-6)


def test_distances_have_gradients_and_that_of_0_is_0():
    x = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    for metric in ("sqeuclidean", "euclidean", "cityblock", "minkowski"):
        (by,) = torch.autograd.grad((ot.dist(x, x.detach(), metric, p=3) * torch.rand(6, 6)).sum(), x)
        assert torch.isfinite(by).all()
        assert (by != 0).any()
    value = ot.emd2([], [], ot.dist(x, torch.zeros(4, 2, dtype=torch.float64)))
    by = gradients(value, x)[0]
    np.testing.assert_allclose(by, 2 * x.detach() / 6)
    with pytest.raises(NotImplementedError, match=r"metric must be one of .*, for arrays of torch, got 'canberra'"):
        ot.dist(x, metric="canberra")
