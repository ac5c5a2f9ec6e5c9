"""Gradients against finite differences, for every output by every input."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import otkit

PENALTIES = {
    "balanced": None,
    "rows exact": (np.inf, 0.8),
    "columns exact": (1.3, np.inf),
    "unbalanced": (0.7, 1.9),
    "rows free": (0.0, np.inf),
    "columns free": (0.9, 0.0),
}
METHODS = {
    "tolerance": {"tol": 1e-13},
    "3, columns last": {"method": otkit.Sinkhorn(n_iters=3)},
    "2, rows last": {"method": otkit.Sinkhorn(n_iters=2, last="rows")},
}
FIELDS = (
    "value",
    "value_linear",
    "value_reg",
    "value_marginal",
    "value_dual",
    "plan",
    "f",
    "g",
    "marginals",
    "apply",
    "apply_t",
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def leaf(x):
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def outputs(result, names, v=None, u=None):
    found = []
    for name in names:
        if name == "marginals":
            found += result.marginals
        elif name in ("apply", "apply_t"):
            found.append(getattr(result, name)(v if name == "apply" else u))
        else:
            found.append(getattr(result, name))
    return tuple(x for x in found if x is not None)


def check(solve, inputs, **options):
    """All outputs of `solve` by all of its inputs: each entry, or random combinations of them in the fast mode."""
    assert gradcheck(solve, inputs, atol=2e-7, rtol=1e-5, **options)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_costs_weights_reg_and_prices(rng, how, penalty):
    rho = PENALTIES[penalty]
    C, v, u = leaf(rng.random((4, 3))), leaf(rng.random((3, 2))), leaf(rng.random(4))
    la, lb, reg = leaf(rng.standard_normal(4)), leaf(rng.standard_normal(3)), leaf(0.3)
    prices = [] if rho is None else [leaf(r) for r in rho if 0 < r < np.inf]
    names = [name for name in FIELDS if rho or name != "value_marginal"]

    def solve(C, la, lb, reg, v, u, *prices):
        left = list(prices)
        pair = None if rho is None else tuple(left.pop(0) if 0 < r < np.inf else r for r in rho)
        a, b = (la.softmax(0), 2 * lb.softmax(0)) if pair else (3 * la.softmax(0), 3 * lb.softmax(0))
        result = otkit.solve(C, a, b, reg=reg, unbalanced=pair, **METHODS[how])
        return outputs(result, names, v, u)

    check(solve, (C, la, lb, reg, v, u, *prices), fast_mode=how != "tolerance")


@pytest.mark.parametrize(("metric", "d"), [
    ("sqeuclidean", 2), ("euclidean", 3), ("cityblock", 2), ("cosine", 3), (("power", 1.5), 2), ("sqeuclidean", 20), ("euclidean", 17),
])  # fmt: skip
def test_points(rng, metric, d):
    x, y = leaf(rng.random((4, d)) + 0.1), leaf(rng.random((3, d)))
    la, reg = leaf(rng.standard_normal(4)), leaf(0.2)
    v = torch.tensor(rng.random(3))

    def solve(x, y, la, reg):
        result = otkit.solve_sample(x, y, la.softmax(0), reg=reg, metric=metric, tol=1e-13)
        return outputs(result, ("value", "value_linear", "plan", "f", "g", "apply"), v)

    check(solve, (x, y, la, reg), fast_mode=d > 3)


@pytest.mark.parametrize("penalty", ["balanced", "unbalanced"])
def test_points_without_mass(rng, penalty):
    a, b = torch.tensor([0.4, 0.0, 0.6], dtype=torch.float64), torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    x, y, C = leaf(rng.random((3, 2))), leaf(rng.random((4, 2))), leaf(rng.random((3, 4)))
    options = dict(reg=0.2, unbalanced=PENALTIES[penalty], tol=1e-13)
    names = ("value", "value_linear", "plan", "f", "g")
    check(lambda x, y: outputs(otkit.solve_sample(x, y, a, b, **options), names), (x, y))
    check(lambda C: outputs(otkit.solve(C, a, b, **options), names), (C,))


def test_batches_that_share_and_do_not(rng):
    C, reg = leaf(rng.random((3, 4))), leaf(rng.random((2, 1)) + 0.2)
    la, lb = leaf(rng.standard_normal((5, 3))), leaf(rng.standard_normal((2, 1, 4)))

    def solve(C, la, lb, reg):
        result = otkit.solve(C, la.softmax(-1), lb.softmax(-1), reg=reg, tol=1e-13)
        return outputs(result, ("value", "plan", "f"))

    check(solve, (C, la, lb, reg), fast_mode=True)
    x, y = leaf(rng.random((5, 3, 2))), leaf(rng.random((2, 1, 4, 2)))

    def solve_sample(x, y):
        result = otkit.solve_sample(x, y, reg=0.3, tol=1e-13, metric="cosine")
        return outputs(result, ("value", "value_linear", "g"))

    check(solve_sample, (x, y), fast_mode=True)


def test_a_price_of_both_sides(rng):
    C, rho = leaf(rng.random((3, 4))), leaf(0.7)
    names = ("value", "value_linear", "value_marginal", "plan", "f")
    check(lambda C, rho: outputs(otkit.solve(C, reg=0.3, unbalanced=rho, tol=1e-13), names), (C, rho))


def test_forbidden_arcs_and_parts_with_a_gauge_each(rng):
    C = rng.random((4, 5))
    C[:2, 2:] = C[2:, :2] = np.inf
    a, b = np.array([0.3, 0.2, 0.4, 0.1]), np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    finite = torch.tensor(np.isfinite(C))
    entries, w = leaf(C[np.isfinite(C)]), leaf(a)
    move = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64)

    def solve(entries, t):
        costs = torch.full(finite.shape, np.inf, dtype=torch.float64).masked_scatter(finite, entries)
        result = otkit.solve(costs, torch.tensor(a) + t * move, torch.tensor(b), reg=0.3, tol=1e-13)
        return outputs(result, ("value", "value_linear", "plan", "f", "g"))

    check(solve, (entries, leaf(0.0)))
    assert w.requires_grad


@pytest.mark.parametrize("p", [1, 2, 3])
def test_wasserstein(rng, p):
    x, y, la = leaf(rng.random((6, 2))), leaf(rng.random((5, 2))), leaf(rng.standard_normal(6))
    assert gradcheck(lambda x, y, la: otkit.wasserstein(x, y, la.softmax(0), p=p).distance, (x, y, la), atol=1e-7)
    line = leaf(rng.random((6, 1)))
    assert gradcheck(lambda x: otkit.wasserstein(x, torch.zeros(2, 1, dtype=torch.float64), p=p).distance, (line,))


@pytest.mark.parametrize("unbalanced", [None, 0.8])
def test_divergence(rng, unbalanced):
    x, y = leaf(rng.random((4, 2))), leaf(rng.random((3, 2)))
    la, lb, reg = leaf(rng.standard_normal(4)), leaf(rng.standard_normal(3)), leaf(0.2)

    def divergence(x, y, la, lb, reg):
        b = lb.softmax(0) * (2 if unbalanced else 1)
        return otkit.sinkhorn_divergence(x, y, la.softmax(0), b, reg=reg, unbalanced=unbalanced, tol=1e-13).value

    assert gradcheck(divergence, (x, y, la, lb, reg), atol=1e-7)
    assert gradgradcheck(divergence, (x, y, la, lb, reg), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("unbalanced", [None, 0.8])
def test_the_potentials_of_a_divergence_at_a_small_reg(rng, unbalanced):
    # The modes that converge slowly make the potentials of a cloud with itself differ, and are no part of their mean.
    x, y, w = rng.random((30, 2)), rng.random((25, 2)), torch.tensor(rng.standard_normal(30))
    along, step = torch.tensor(rng.standard_normal(x.shape)), 1e-5

    def of(x):
        options = dict(reg=0.01, unbalanced=unbalanced, tol=1e-12)
        return ((w - w.mean()) * otkit.sinkhorn_divergence(x, torch.tensor(y), **options).f).sum()

    start = leaf(x)
    (by_x,) = torch.autograd.grad(of(start), start)
    ends = [float(of(torch.tensor(x) + t * along)) for t in (step, -step)]
    assert float((by_x * along).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("unbalanced", [None, 0.8])
@pytest.mark.parametrize("how", [otkit.Sinkhorn(n_iters=3, last="rows"), otkit.Sinkhorn(n_iters=3), "auto"], ids=str)
def test_the_fields_of_a_divergence(rng, unbalanced, how):
    x, y, reg = leaf(rng.random((4, 2))), leaf(rng.random((3, 2))), leaf(0.2)
    prices = [] if unbalanced is None else [leaf(unbalanced)]
    tol = 1e-13 if how == "auto" else None

    def fields(x, y, reg, *prices):
        rho = prices[0] if prices else None
        found = otkit.sinkhorn_divergence(x, y, reg=reg, unbalanced=rho, method=how, tol=tol)
        return found.value, found.f, found.g

    check(fields, (x, y, reg, *prices))


@pytest.mark.parametrize("penalty", ["balanced", "rows exact", "unbalanced"])
def test_second_derivatives_of_the_value(rng, penalty):
    rho = PENALTIES[penalty]
    C, la, lb, reg = leaf(rng.random((4, 3))), leaf(rng.standard_normal(4)), leaf(rng.standard_normal(3)), leaf(0.3)
    prices = [] if rho is None else [leaf(r) for r in rho if r < np.inf]

    def value(C, la, lb, reg, *prices):
        left = list(prices)
        pair = None if rho is None else tuple(left.pop(0) if r < np.inf else r for r in rho)
        a, b = (la.softmax(0), 2 * lb.softmax(0)) if pair else (3 * la.softmax(0), 3 * lb.softmax(0))
        return otkit.solve(C, a, b, reg=reg, unbalanced=pair, tol=1e-13).value

    assert gradgradcheck(value, (C, la, lb, reg, *prices), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine", ("power", 1.5)], ids=str)
def test_second_derivatives_by_points(rng, metric):
    x, y, la = leaf(rng.random((2, 4, 3)) + 0.1), leaf(rng.random((3, 3))), leaf(rng.standard_normal(4))
    options = dict(reg=0.2, metric=metric, tol=1e-13)
    value = lambda x, y, la: otkit.solve_sample(x, y, la.softmax(0), **options).value  # noqa: E731
    assert gradgradcheck(value, (x, y, la), atol=1e-6, rtol=1e-4, fast_mode=True)


@pytest.mark.filterwarnings("error::otkit.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("draw", "reg"), [("random", 0.01), ("standard_normal", 0.05), ("standard_normal", 0.2)])
def test_second_derivatives_of_a_divergence_are_accurate_and_not_called_approximate(draw, reg, dtype):
    """Points that are far from each other in units of `reg` make the systems of the problems with themselves singular.

    Their cotangents are equal up to rounding, of which the systems make nothing.
    """
    for seed in range(10):
        x, y, v = (torch.tensor(z, dtype=dtype) for z in getattr(np.random.default_rng(seed), draw)((3, 10, 2)))

        def slope(x, y=y, create_graph=False):
            value = otkit.sinkhorn_divergence(x, y, reg=reg, tol=1e-12 if dtype == torch.float64 else None, strict=True)
            return torch.autograd.grad(value.value, x, create_graph=create_graph)[0]

        x.requires_grad_()
        found = torch.autograd.grad((slope(x, create_graph=True) * v).sum(), x)[0]
        if dtype == torch.float64:
            h = 1e-5
            ends = [slope((x.detach() + step * v).requires_grad_()) for step in (h, -h)]
            wanted = (ends[0] - ends[1]) / (2 * h)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("method", [otkit.SparseNewton(sweeps=5), otkit.Sinkhorn()], ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["value", "value_linear", "value_reg", "f", "g", "plan"])
def test_a_small_regularisation(method, name):
    # Along a random direction of all input at once: entries of the gradient differ by orders of magnitude.
    rng = np.random.default_rng(5)
    x, y, la, lb = rng.random((40, 2)), rng.random((30, 2)), rng.standard_normal(40) / 4, rng.standard_normal(30) / 4
    weights = rng.standard_normal({"f": 40, "g": 30, "plan": (40, 30)}.get(name, ()))
    base = (x, y, la, lb, np.array(2e-3))
    along = [rng.standard_normal(v.shape) * scale for v, scale in zip(base, (1, 1, 1, 1, 1e-3), strict=True)]

    def function(x, y, la, lb, reg):
        a, b = la.softmax(0), lb.softmax(0)
        result = otkit.solve_sample(x, y, a, b, reg=reg, method=method, tol=1e-12, max_iter=100_000)
        return (torch.as_tensor(weights) * getattr(result, name)).sum(), result

    inputs = [leaf(v) for v in base]
    value, result = function(*inputs)
    if method.name == "sns":
        assert sum(stage.newton_steps for stage in result.stages) > 0
    found = sum(
        float((v * torch.as_tensor(d)).sum()) for v, d in zip(torch.autograd.grad(value, inputs), along, strict=True)
    )
    step = 1e-5
    with torch.no_grad():
        ends = [
            function(*(torch.as_tensor(v + s * step * d) for v, d in zip(base, along, strict=True)))[0] for s in (1, -1)
        ]
    assert found == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=2e-4)
