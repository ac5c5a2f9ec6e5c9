"""Settings of the caller's libraries change no answer: NumPy's treatment of errors, and transforms of PyTorch."""

import numpy as np
import pytest
from checks import torch

import otkit

ASKED = {
    "exact": {},
    "annealed": {"rtol": 1e-3},
    "small reg": {"reg": 1e-3},
    "sinkhorn": {"reg": 1e-2, "method": "sinkhorn"},
    "counted": {"reg": 1e-2, "method": otkit.Sinkhorn(n_iters=7)},
    "published": {"reg": 1e-2, "method": otkit.SparseNewton(keep=0.2, factor=np.inf)},
    "unbalanced": {"reg": 0.1, "unbalanced": 1e-4},
    "half free": {"reg": 1e-2, "unbalanced": (np.inf, 0.0)},
}
FIELDS = (
    "value",
    "value_linear",
    "value_reg",
    "value_marginal",
    "value_dual",
    "f",
    "g",
    "plan",
    "lower",
    "upper",
    "gap",
)


def everything(solve, given, options):
    """All that can be read from a result, as text."""
    result = solve(*given, **options)
    n, m = given[0].shape[-2], result.problem.reduced.m
    read = [getattr(result, name) for name in FIELDS] + [*result.marginals, result.errors, repr(result)]
    read += [result.plan_sparse().mass, result.apply(np.ones(m)), result.apply_t(np.ones(n))]
    read += [result.barycentric(np.arange(m, dtype=float))]
    if solve is otkit.solve_sample:
        read += [result.transport(given[0] + 0.1)]
    for name in ("value", "value_linear", "value_dual", "plan", "f"):
        try:
            gradients = otkit.vjp(result, **{name: 1.0})
        except ValueError as refused:
            read.append(str(refused))
        else:
            read += [gradients.C, gradients.x, gradients.a, gradients.reg]
    return read


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", ["matrix", "forbidden", "points", "line", "tiny units"])
def test_no_floating_point_error_reaches_the_caller(asked, kind, rng):
    x, y = rng.random((20, 2)), rng.random((22, 2))
    a, b = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(22))
    a[3], b[2] = 0.0, 1e-200
    a, b = a / a.sum(), b / b.sum()
    C, options = rng.random((20, 22)), dict(ASKED[asked])
    if kind == "forbidden":
        C[rng.random(C.shape) < 0.2] = np.inf
    if kind == "tiny units":
        C = C * 1e-200
        options |= {name: options[name] * 1e-200 for name in ("reg",) if name in options}
        if asked == "unbalanced":
            options["unbalanced"] *= 1e-200
    solve, given = {
        "points": (otkit.solve_sample, (x, y, a, b)),
        "line": (otkit.solve_sample, (x[:, :1], y[:, :1], a, b)),
    }.get(kind, (otkit.solve, (C, a, b)))
    with np.errstate(all="raise"):
        before = np.geterr()
        strict = everything(solve, given, options)
        assert np.geterr() == before
    assert len(strict) == len(everything(solve, given, options))
    for found in strict[:8]:
        assert found is None or np.isfinite(np.asarray(found)).all()


def test_divergences_distances_and_pairs_too(rng):
    x, y, a, b = rng.random((20, 2)), rng.random((22, 2)), rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(22))
    for call in (
        lambda: otkit.sinkhorn_divergence(x, y, a, b, reg=0.02).value,
        lambda: otkit.sinkhorn_divergence(x, y, a, b, reg=0.02, unbalanced=1e-3).f,
        lambda: otkit.wasserstein(x, y, a, b, p=20).distance,
        lambda: repr(otkit.wasserstein(x, y, a, b, rtol=1e-2)),
        lambda: otkit.pairwise([(x, a), (y, b), x]).distance,
    ):
        with np.errstate(all="raise"):
            strict = call()
        assert isinstance(strict, str) or np.allclose(strict, call(), rtol=1e-6)


def test_a_backward_pass_too(rng):
    found = []
    for how in ("raise", "ignore"):
        x, y = (torch.tensor(np.random.default_rng(k).random((20, 2)), requires_grad=True) for k in (1, 2))
        with np.errstate(all=how):
            result = otkit.solve_sample(x, y, reg=1e-3)
            (result.value_linear + result.f[0]).backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


def transforms():
    func, batched = torch.func, torch.autograd.functional
    x, y = torch.rand(5, 2, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)

    def value(x):
        return otkit.solve_sample(x, y, reg=0.1).value

    def forward_mode(call):
        with torch.autograd.forward_ad.dual_level():
            return call(torch.autograd.forward_ad.make_dual(x, x))

    yield lambda: func.grad(value)(x)
    yield lambda: func.grad(lambda x: otkit.solve(torch.cdist(x, y), reg=0.1).plan.sum())(x)
    yield lambda: func.grad(lambda a: otkit.solve_sample(x, y, a, reg=0.1).value)(torch.full((5,), 0.2).double())
    yield lambda: func.grad(lambda reg: otkit.solve_sample(x, y, reg=reg).value)(torch.tensor(0.1))
    yield lambda: func.grad(lambda v: otkit.solve_sample(x, y, reg=0.1).apply(v).sum())(y[:, 0])
    yield lambda: func.grad(lambda x: otkit.wasserstein(x, y).distance)(x)
    yield lambda: func.grad(lambda x: otkit.sinkhorn_divergence(x, y, reg=0.1).value)(x)
    yield lambda: func.vmap(value)(x[None])
    yield lambda: func.jacrev(lambda x: otkit.solve_sample(x, y, reg=0.1).f)(x)
    yield lambda: func.jvp(value, (x,), (x,))
    yield lambda: batched.jacobian(lambda x: otkit.solve_sample(x, y, reg=0.1).f, x, vectorize=True)
    yield lambda: forward_mode(value)
    yield lambda: func.grad(lambda s: otkit.losses.SinKDLoss()(s, x))(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own, in forward mode
def test_transforms_of_torch_are_refused_with_the_way_out():
    import otkit.losses

    for call in transforms():
        with pytest.raises(TypeError, match=r"torch\.func .* does not support; use backward"):
            call()
    x, y = torch.rand(3, 5, 2, dtype=torch.float64, requires_grad=True), torch.rand(6, 2, dtype=torch.float64)
    values = otkit.solve_sample(x, y, reg=0.1).value  # the way out: a batch, and one output at a time
    (slope,) = torch.autograd.grad(values.sum(), x)
    for k in range(3):
        (alone,) = torch.autograd.grad(otkit.solve_sample(x[k], y, reg=0.1).value, x)
        torch.testing.assert_close(slope[k], alone[k], rtol=1e-5, atol=1e-8)
