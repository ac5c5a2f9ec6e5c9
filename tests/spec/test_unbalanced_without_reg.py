"""KL penalties on the marginals without a regularisation: an interior-point method, closed forms, bounds, gradients."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from checks import torch
from strategies import hard_cases

import otkit
from otkit.arrays import namespace, to_numpy

INF = np.inf
RTOL = 1e-6


def optimum(C, a, b, rho_a, rho_b):
    """The optimal value, by a logarithmic barrier on the constraints f + g ≤ C of the dual, which Newton steps climb.

    A side that is free has the potential 0. At the barrier μ the value is at most μ times the number of arcs below.
    """
    with np.errstate(all="ignore"):
        return climb(C, a, b, rho_a, rho_b)


def climb(C, a, b, rho_a, rho_b):
    i, j = np.nonzero(np.isfinite(C) & (a[:, None] > 0) & (b > 0))
    idle = sum(
        rho * w[np.setdiff1d(np.arange(w.size), k)].sum() for rho, w, k in ((rho_a, a, i), (rho_b, b, j)) if rho < INF
    )
    rows, i = np.unique(i, return_inverse=True)
    cols, j = np.unique(j, return_inverse=True)
    C, a, b = C[np.ix_(rows, cols)][i, j], a[rows], b[cols]
    w, rho = np.concatenate([a, b]), np.repeat([rho_a, rho_b], [a.size, b.size])
    scale = min(v for v in (abs(C).max(), rho_a, rho_b) if 0 < v < INF)
    arcs = np.zeros((C.size, w.size))
    arcs[np.arange(C.size), i] = arcs[np.arange(C.size), a.size + j] = 1
    arcs, moves = arcs[:, rho > 0], rho > 0
    w, rho = w[moves], rho[moves]
    finite = np.where(rho < INF, rho, 1.0)
    z = np.full(w.size, min(C.min(), 0.0) / (1 if 0 in (rho_a, rho_b) else 2) - 0.1 * scale)

    def earned(z):
        return np.where(rho < INF, -w * finite * np.expm1(-z / finite), w * z).sum()

    def climbed(z):
        return earned(z) + barrier * np.log(C - arcs @ z).sum()

    barrier, end = scale * w.sum(), 1e-12 * scale * w.sum() / C.size
    while barrier > end:
        barrier = max(barrier / 20, end)
        for _ in range(100):
            slack, mass = C - arcs @ z, w * np.where(rho < INF, np.exp(-z / finite), 1.0)
            slope = mass - arcs.T @ (barrier / slack)
            curvature = np.diag(np.where(rho < INF, mass / finite, 0.0)) + arcs.T @ (
                arcs * (barrier / slack**2)[:, None]
            )
            step, here, length = np.linalg.solve(curvature, slope), climbed(z), 1.0
            rise = step @ slope
            while length > 1e-9 and not climbed(z + length * step) >= here + 0.1 * length * rise:
                length /= 2
            if length <= 1e-9:  # rounding
                break
            z = z + length * step
            if rise <= 1e-3 * barrier:
                break
    return earned(z) + idle


def divergence(p, w):
    some = p > 0
    return (p[some] * np.log(p[some] / w[some])).sum() - p.sum() + w.sum()


def objective(C, a, b, rho_a, rho_b, P):
    """The objective of a plan; an exact side costs nothing."""
    sides = ((P.sum(1), a, rho_a), (P.sum(0), b, rho_b))
    return (P[P > 0] * C[P > 0]).sum() + sum(rho * divergence(p, w) for p, w, rho in sides if 0 < rho < INF)


def drawn(seed):
    """Costs, weights and penalties: ties, negative costs, forbidden arcs, zero and tiny weights, any totals and units."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 13, 2)
    C = [rng.random((n, m)), rng.integers(0, 4, (n, m)) / 2.0, rng.lognormal(0, 2, (n, m))][seed % 3]
    a, b = rng.random(n), rng.random(m) * rng.choice([0.1, 1, 10])
    if seed % 4 == 0:
        a[rng.random(n) < 0.3], b[rng.random(m) < 0.3] = 0, 1e-13
        a[0] = b[0] = 0.5
    if seed % 7 == 0:
        C[rng.random((n, m)) < 0.4] = np.inf
        C[0, 0] = 1.0
    rho_a, rho_b = rng.choice([0.03, 0.3, 1.0, 30.0], 2)
    rho_b = rng.choice([rho_a, rho_b])
    if seed % 5 == 0:
        C = C - 0.7
    elif seed % 5 == 1:
        rho_a = 0.0
    elif seed % 5 == 2 and np.isfinite(C).all():
        rho_b = INF
    unit = [1.0, 1e-6, 1e6][seed % 11 % 3]
    return C * unit, a, b, rho_a * unit, rho_b * unit


@pytest.mark.parametrize("rho", [5.0, 30.0, 1e3])
def test_penalties_far_above_the_costs_are_resolved(rho):
    rng = np.random.default_rng(42)
    x, y = rng.normal(size=(2, 100, 2))
    C, w = ((x[:, None] - y) ** 2).sum(-1), np.full(100, 0.01)
    C /= C.max()
    result = otkit.solve(C, w, w, unbalanced=rho)
    assert result.converged
    assert result.upper - result.lower <= RTOL * result.upper
    assert objective(C, w, w, rho, rho, result.plan) == pytest.approx(result.value, rel=1e-9)
    slack = np.maximum(result.f[:, None] + result.g - C, 0).max()
    earned = sum(-w @ np.expm1(-(v - slack) / rho) * rho for v in (result.f, result.g))
    assert earned == pytest.approx(result.lower, rel=1e-8)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("method", "seed"), [*(("frank-wolfe", k) for k in range(100)), *(("annealing", k) for k in range(0, 100, 3))]
)
def test_it_is_the_optimum_of_an_interior_point_method(method, seed):
    C, a, b, *rho = drawn(seed)
    result, wanted = otkit.solve(C, a, b, unbalanced=tuple(rho), method=method), optimum(C, a, b, *rho)
    most = min(
        sum(r * w.sum() for r, w in zip(rho, (a, b), strict=True)), abs(C[np.isfinite(C)]).max() * (a.sum() + b.sum())
    )
    near = 1e-9 * most + 1e-12 * sum(r * w.sum() for r, w in zip(rho, (a, b), strict=True) if r < INF)
    assert result.converged
    assert result.upper - result.lower <= max(RTOL * abs(result.upper), near)
    assert result.lower - near <= wanted <= result.upper + near
    P = result.plan
    assert (P >= 0).all()
    assert (P[~np.isfinite(C)] == 0).all()
    assert abs(objective(C, a, b, *rho, P) - result.value) <= near
    assert abs(result.value_linear + result.value_marginal - result.value) <= near
    assert result.value_reg is None
    with_mass = (a[:, None] > 0) & (b > 0)
    assert (result.f[:, None] + result.g - C)[with_mass].max() <= near / min(a.sum(), b.sum())


def one_arc(c, a, b, rho_a, rho_b):
    """The mass on the only arc, and the value."""
    if INF in (rho_a, rho_b):
        p = a if rho_a == INF else b
    else:
        p = np.exp((rho_a * np.log(a) + rho_b * np.log(b) - c) / (rho_a + rho_b))
    return p, objective(np.array([[c]]), np.array([a]), np.array([b]), rho_a, rho_b, np.array([[p]]))


@pytest.mark.parametrize("rho", [(0.5, 0.5), (0.01, 3.0), (0.0, 0.7), (INF, 0.3), (1e3, 1e3), (0.02, INF)], ids=str)
@pytest.mark.parametrize("c", [0.0, 1.0, -0.3])
def test_one_point_on_each_side(c, rho):
    for a, b in ((1.0, 1.0), (2.0, 3.0), (1e-9, 1e6)):
        mass, value = one_arc(c, a, b, *rho)
        result = otkit.solve([[c]], [a], [b], unbalanced=rho, rtol=1e-9)
        near = 1e-9 * (abs(c) + sum(r for r in rho if r < INF)) * (a + b)
        assert result.converged
        assert abs(result.value - value) <= near
        assert result.lower - 1e-12 * near <= value + near
        if a < 1 < b:
            continue  # so little moves that the value hardly depends on it
        np.testing.assert_allclose(result.plan, [[mass]], rtol=1e-4)


def test_a_free_side_takes_from_the_nearest(rng):
    C, b, rho = rng.random((5, 7)), rng.random(7), 0.4
    C[:, 3] = INF
    result = otkit.solve(C, rng.random(5), b, unbalanced=(0.0, rho), rtol=1e-9)
    least = C.min(0)
    np.testing.assert_allclose(result.value, (rho * b * -np.expm1(-least / rho)).sum(), rtol=1e-6)
    P = np.zeros((5, 7))
    P[C.argmin(0), np.arange(7)] = b * np.exp(-least / rho)
    np.testing.assert_allclose(result.plan, P, atol=1e-3)
    np.testing.assert_allclose(result.marginals[1], P.sum(0), rtol=1e-4)
    exact = otkit.solve(np.delete(C, 3, 1), rng.random(5), np.delete(b, 3), unbalanced=(0.0, INF))
    np.testing.assert_allclose(exact.value, np.delete(b * least, 3).sum(), rtol=1e-6)
    nothing = otkit.solve(rng.random((4, 4)) + 0.1, unbalanced=0.0)
    assert (nothing.value, nothing.plan.sum()) == pytest.approx((0, 0), abs=1e-8)


def test_large_penalties_are_the_balanced_problem_and_infinite_ones_exactly(rng):
    C, a, b = rng.random((8, 9)), rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(9))
    whole = otkit.solve(C, a, b)
    np.testing.assert_allclose(otkit.solve(C, a, b, unbalanced=1e4).value, whole.value, rtol=1e-4)
    exact = otkit.solve(C, a, b, unbalanced=INF)
    assert exact.method == "exact"
    np.testing.assert_allclose(exact.value, whole.value, rtol=1e-14)
    assert exact.value_marginal is None


@pytest.fixture
def clouds(rng):
    return rng.standard_normal((12, 2)), rng.standard_normal((9, 2)) + 0.5, rng.random(12), rng.random(9) * 2


def test_points_sparse_costs_grids_lists_and_starts_are_the_matrix(clouds, rng):
    x, y, a, b = clouds
    C, options = ((x[:, None] - y) ** 2).sum(-1), {"unbalanced": (0.5, 2.0), "rtol": 1e-8}
    one = otkit.solve(C, a, b, **options)
    other = otkit.solve_sample(x, y, a, b, **options)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-8)
    listed = otkit.solve_sample([x, x[:5]], y, [a, a[:5]], b, **options)
    np.testing.assert_allclose(listed[0].value, one.value, rtol=1e-8)
    again = otkit.solve(C, a, b, init=one, **options)
    np.testing.assert_allclose(again.value, one.value, rtol=1e-8)
    np.testing.assert_allclose(one.apply(y), one.plan @ y, rtol=1e-9)
    np.testing.assert_allclose(one.barycentric(y), one.plan @ y / one.plan.sum(1)[:, None], rtol=1e-6)
    rough = otkit.solve_sample(x, y, a, b, **options | {"rtol": 1e-5})  # whose potentials leave no ties
    np.testing.assert_allclose(rough.transport(x[:3]), y[(C - rough.g)[:3].argmin(1)], atol=1e-3)
    i, j = one.sample(50, rng=0)
    assert (one.plan[i, j] > 0).all()
    C[rng.random(C.shape) < 0.4] = INF
    stored = otkit.solve(sp.csr_array(np.where(np.isfinite(C), C, 0)), a, b, **options)
    np.testing.assert_allclose(stored.value, otkit.solve(C, a, b, **options).value, rtol=1e-8)
    image, target = rng.random((5, 6)), rng.random((5, 6)) * 2
    cells = np.argwhere(np.ones((5, 6))).astype(float)
    grid = otkit.solve_grid(image, target, **options)
    points = otkit.solve_sample(cells, cells, image.ravel(), target.ravel(), **options)
    assert grid.kernel.startswith("grid")
    np.testing.assert_allclose(grid.value, points.value, rtol=1e-8)


def test_items_of_a_batch_differ_also_in_what_is_exact(rng):
    C, a, b = rng.random((4, 6, 7)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(7))
    rho = np.array([0.3, INF, 2.0, INF]), np.array([0.3, INF, INF, INF])
    together = otkit.solve(C, a, b, unbalanced=rho, rtol=1e-7)
    assert together.converged.all()
    for k in range(4):
        pair = tuple(float(r[k]) for r in rho)
        alone = otkit.solve(C[k], a, b, unbalanced=pair, rtol=1e-7, method="annealing")
        np.testing.assert_allclose(together.value[k], alone.value, rtol=1e-12)
        np.testing.assert_allclose(together.plan[k], alone.plan, atol=1e-12)
        np.testing.assert_allclose(together.marginals[0][k], alone.marginals[0], atol=1e-12)
    images = rng.dirichlet(np.ones(36), 2).reshape(2, 6, 6)
    grids = otkit.solve_grid(images, images[::-1], spacing=(1.0, 1.0), unbalanced=np.array([2.0, INF]), rtol=0.05)
    assert grids.converged.all()
    np.testing.assert_allclose(grids.plan[1].sum(1), images[1].ravel(), atol=1e-12)
    np.testing.assert_allclose(grids.plan[1].sum(0), images[0].ravel(), atol=1e-12)


@pytest.mark.parametrize("rho", [(0.5, 0.5), (INF, 0.2), (3.0, 0.0)], ids=str)
def test_other_libraries_give_the_answer_of_numpy(any_xp, rho, rng):
    C, a, b = rng.random((5, 4)), rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(4))
    wanted = otkit.solve(C, a, b, unbalanced=rho, rtol=1e-2)
    found = otkit.solve(*(any_xp.asarray(v) for v in (C, a, b)), unbalanced=rho, rtol=1e-2)
    for name in ("value", "value_linear", "value_marginal", "f", "g", "plan"):
        ours = getattr(found, name)
        assert namespace(ours) is namespace(any_xp.asarray(0.0))
        np.testing.assert_allclose(to_numpy(ours), getattr(wanted, name), atol=2e-2)
    assert wanted.lower <= found.upper
    assert found.lower <= wanted.upper


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("pair", [False, True])
def test_gradients_are_finite_differences(pair, clouds):
    x, y, a, b = (torch.tensor(v[:3], requires_grad=True) for v in clouds)
    rho = torch.tensor([0.7, 1.2], dtype=torch.float64, requires_grad=True)

    def value(x, y, a, b, rho):
        price = (rho[0], rho[1]) if pair else rho[0]
        return otkit.solve_sample(x, y, a, b, unbalanced=price, rtol=1e-9).value

    assert torch.autograd.gradcheck(value, (x, y, a, b, rho), eps=1e-4, atol=1e-5)
    result = otkit.solve_sample(x, y, a, b, unbalanced=0.7)
    for name in ("value_linear", "value_marginal", "plan"):
        with pytest.raises(ValueError, match=f"no useful gradient of {name} without a reg: that of value alone"):
            getattr(result, name).sum().backward()


@pytest.mark.parametrize("rho", [(0.7, 0.4), (INF, 0.4), (0.0, 0.4)], ids=str)
def test_gradients_by_weights_that_are_0_or_out_of_reach(rho, rng):
    C, a, b = rng.random((5, 4)), rng.random(5), rng.random(4) + 0.1
    C[:, 2] = INF
    if rho[0] < INF:
        C[1] = INF
    if rho[0] > 0:
        a[3] = 0.0

    def value(a, b):
        return float(otkit.solve(C, a, b, unbalanced=rho, rtol=1e-9).value)

    found = otkit.vjp(otkit.solve(C, a, b, unbalanced=rho, rtol=1e-9), value=1.0)
    for name, w in (("a", a), ("b", b)):
        slope = np.empty(w.size)
        for k in range(w.size):
            low, high = w.copy(), w.copy()
            low[k], high[k] = max(w[k] - 1e-5, 0), w[k] + 1e-5
            ends = [value(*((v, b) if name == "a" else (a, v))) for v in (high, low)]
            slope[k] = (ends[0] - ends[1]) / (high[k] - low[k])
        np.testing.assert_allclose(getattr(found, name), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("rho", [1e-3, 1.0, 1e3, (INF, 1.0), (0.1, 0.0)], ids=str)
def test_hard_data_have_an_interval(name, rho):
    case = hard_cases()[name]
    pair = tuple(r * case.span for r in rho) if isinstance(rho, tuple) else (rho * case.span,) * 2
    if rho == 1e-3 and case.C.min() < 0:  # e^500 times the weights move
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            result = otkit.solve(case.C, 3 * case.a, case.b, unbalanced=pair, rtol=1e-3, max_iter=200)
        assert result.lower < result.value <= result.upper < INF
        return
    result = otkit.solve(case.C, 3 * case.a, case.b, unbalanced=pair, rtol=1e-3)
    assert result.converged
    assert np.isfinite([result.lower, result.upper, result.value]).all()
    assert result.lower <= result.value <= result.upper
    assert np.isfinite(result.f).all()
    assert np.isfinite(result.plan).all()


def test_an_early_end_leaves_an_interval(rng):
    C = rng.random((20, 20))
    best = otkit.solve(C, unbalanced=0.1, rtol=1e-8)
    with pytest.warns(otkit.ConvergenceWarning):
        result = otkit.solve(C, unbalanced=0.1, max_iter=3)
    assert result.status is otkit.Status.MAX_ITER
    assert result.lower <= best.value <= result.upper
    assert result.upper - result.lower > 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unbalanced": -1.0}, "unbalanced must be non-negative"),
        ({"unbalanced": np.nan}, "unbalanced must be non-negative"),
        ({"unbalanced": (1.0, 2.0, 3.0)}, "one penalty or a pair"),
        ({"unbalanced": 1.0, "method": "exact"}, "method 'exact' needs exact marginals.*use method='frank-wolfe'"),
        ({"unbalanced": 1.0, "method": "sns"}, "needs a reg"),
        ({"unbalanced": 1.0, "tol": 1e-3}, "tol does not apply"),
        ({"unbalanced": 0.0, "C": [[1.0, -0.5]]}, "costs must be non-negative where both marginals are free.*got -0.5"),
        ({"unbalanced": (INF, 1.0), "C": [[np.inf], [1.0]]}, "row 0"),
        ({"unbalanced": 1.0, "C": [[np.nan]]}, "costs must be numbers"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        otkit.solve(options.pop("C", np.eye(3)), **options)


@pytest.mark.parametrize("rho", [(INF, 1.0), 1.0, (0.3, 2.0), 1e-3, 30.0])
@pytest.mark.parametrize("kind", ["ties", "log-normal", "points", "forbidden"])
def test_arcs_that_carry_mass_make_it_exact(kind, rho):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a, b = rng.random(12), rng.random(9) + 0.1
        x, y = rng.random((12, 1, 2)), rng.random((9, 2))
        C = {
            "ties": rng.integers(0, 4, (12, 9)).astype(float),
            "log-normal": rng.lognormal(0, 2, (12, 9)),
            "points": ((x - y) ** 2).sum(-1),
            "forbidden": np.where(rng.random((12, 9)) < 0.4, INF, rng.random((12, 9))),
        }[kind]
        C[:, 0] = 1.0
        # Beside log-normal costs of up to 400, a value of 0.01 is computed to fewer digits.
        found = otkit.solve(C, a, b, unbalanced=rho, rtol=1e-7 if kind == "log-normal" else 1e-9)
        assert found.status is otkit.Status.CONVERGED
        rho_a, rho_b = rho if isinstance(rho, tuple) else (rho, rho)
        want = optimum(C, a, b, rho_a, rho_b)
        assert found.lower * (1 - 1e-9) <= want <= found.upper * (1 + 1e-9)
        assert (found.f[:, None] + found.g <= C + 1e-9).all()
