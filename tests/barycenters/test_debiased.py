"""Debiased barycenters: what the tolerance promises, on problems of many kinds."""

import warnings

import numpy as np
import pytest

import otkit

pytestmark = pytest.mark.filterwarnings("error::otkit.ConvergenceWarning")


def on_points(x, power=2):
    C = np.linalg.norm(x[:, None] - x, axis=-1) ** power
    return C / C.max()


LINE, GRID = np.linspace(0.0, 1.0, 50)[:, None], np.argwhere(np.ones((8, 8))).astype(float)


def bumps(*pairs):
    return np.stack([np.exp(-((LINE[:, 0] - c) ** 2) / (2 * s**2)) for c, s in pairs])


def sparse(rng, shape, share):
    a = np.where(rng.random(shape) < share, rng.random(shape), 0.0)
    a[:, 0] += 0.1
    return a


def shapes():
    a = np.zeros((3, 8, 8))
    a[0, 1:3, 1:3] = a[1, 5:7, 2:4] = a[2, 3:6, 6] = 1.0
    return a.reshape(3, -1)


def random_costs(rng):
    C = rng.random((20, 20))
    C = C + C.T
    np.fill_diagonal(C, 0.0)
    return C / C.max()


KINDS = {
    "few points": lambda rng: (rng.random((2, 8)) + 0.02, on_points(rng.normal(size=(8, 2))), None),
    "bumps on a line": lambda _: (bumps((0.3, 0.05), (0.6, 0.1)), on_points(LINE), [0.3, 0.7]),
    "three bumps": lambda _: (bumps((0.2, 0.03), (0.5, 0.05), (0.8, 0.1)), on_points(LINE), [1.0, 2.0, 3.0]),
    "spikes on a line": lambda rng: (sparse(rng, (3, 50), 0.1), on_points(LINE), None),
    "rough on a line, distances": lambda rng: (rng.random((3, 50)) ** 4, on_points(LINE, 1), None),
    "rough images": lambda rng: (rng.random((5, 64)), on_points(GRID), rng.random(5)),
    "spiky images": lambda rng: (sparse(rng, (2, 64), 0.3), on_points(GRID), [0.9, 0.1]),
    "shapes": lambda _: (shapes(), on_points(GRID), None),
    "random costs": lambda rng: (rng.random((4, 20)), random_costs(rng), rng.random(4)),
    "two spikes": lambda _: (np.eye(50)[[10, 39]], on_points(LINE), [0.4, 0.6]),
}


def problem(kind, rng):
    a, C, w = KINDS[kind](rng)
    return a / a.sum(1, keepdims=True), C, np.full(len(a), 1 / len(a)) if w is None else np.array(w) / np.sum(w)


def divergences(a, C, w, reg, b):
    """The mean Sinkhorn divergence at masses ``(N, m)``, in units of `reg` and less the part of the measures."""
    options = dict(reg=reg, tol=1e-9, strict=True)
    across = np.stack([otkit.solve(C, np.broadcast_to(ak, b.shape), b, **options).value_dual for ak in a])
    return (w @ across - otkit.solve(C, b, b, **options).value_dual / 2) / reg


@pytest.mark.sampled(2)
@pytest.mark.parametrize("reg", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_least(kind, reg, rng):
    a, C, w = problem(kind, rng)
    # exp(−C/reg) of random costs has negative eigenvalues at a small reg: the divergence is not convex.
    for tol in (1e-4,) if (kind, reg) == ("random costs", 0.01) else (1e-4, 1e-6):
        found = otkit.barycenter(a, w, C=C, reg=reg, debias=True, tol=tol, strict=True)
        assert found.converged
        assert found.error <= tol
        assert found.n_iter < 500
        blurred = otkit.barycenter(a, w, C=C, reg=reg).masses
        others = np.stack([w @ a, blurred, rng.dirichlet(np.ones(len(C))), np.full(len(C), 1 / len(C))])
        share = np.array([0.0, 1e-3, 1e-2, 1e-1, 1.0])[:, None, None]
        moved = ((1 - share) * found.masses + share * others).reshape(-1, len(C))
        values = divergences(a, C, w, reg, moved / moved.sum(1, keepdims=True))
        assert values[0] <= values.min() + tol**2 + 1e-13 / reg


def test_the_masses_are_known_to_the_tolerance_where_the_blur_is_small(rng):
    a, C, w = problem("random costs", rng)
    loose, tight = (otkit.barycenter(a, w, C=C, reg=0.1, debias=True, tol=tol) for tol in (1e-4, 1e-10))
    assert tight.error <= 1e-10
    np.testing.assert_allclose(loose.masses, tight.masses, atol=1e-4)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tol", [None, 1e-6])
@pytest.mark.parametrize("reg", [0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["few points", "spikes on a line", "rough images"])
def test_the_barycenter_of_equal_measures_is_that_measure(kind, reg, tol, rng):
    a, C, _ = problem(kind, rng)
    for measures, w in ((a[:1], None), (np.stack([a[0]] * 3), [1.0, 2.0, 3.0]), (a[:2], [1.0, 0.0])):
        found = otkit.barycenter(measures, w, C=C, reg=reg, debias=True, tol=tol, strict=True)
        assert found.converged
        np.testing.assert_allclose(found.masses, a[0], atol=1e-6 if tol is None else tol)


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log"])
def test_the_divergence_is_no_larger_than_at_the_masses_of_pot(method, rng):
    import ot

    for kind, reg in (("few points", 0.1), ("bumps on a line", 0.1), ("rough images", 0.1)):
        a, C, w = problem(kind, rng)
        theirs = ot.bregman.barycenter_debiased(a.T.copy(), C, reg, w, method=method, numItermax=500, warn=False)
        ours = otkit.barycenter(a, w, C=C, reg=reg, debias=True, tol=1e-6).masses
        values = divergences(a, C, w, reg, np.stack([ours, theirs / theirs.sum()]))
        assert values[0] <= values[1] + 1e-12


@pytest.mark.parametrize(
    ("size", "tol", "limit"), [(40, 1e-4, 10_000), (300, 1e-3, 10_000), (40, 1e-15, 60), (300, 1e-9, 60)]
)
def test_the_error_that_is_reported_decides(size, tol, limit, rng):
    a = rng.random((2, size)) ** 4
    options = dict(C=on_points(np.linspace(0.0, 1.0, size)[:, None]), reg=0.3, debias=True, tol=tol, max_iter=limit)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = otkit.barycenter(a / a.sum(1, keepdims=True), **options)
    tol = found.result.outcome.tol.max()  # no less than rounding allows
    assert found.n_iter <= limit
    assert found.converged == (found.error <= tol)
    assert found.converged == (limit == 10_000) == (not said)
    assert all(f"Error {found.error:.2g}, tolerance {tol:.2g}" in str(one.message) for one in said)


def test_items_libraries_and_support(rng):
    torch = pytest.importorskip("torch")
    a, C, w = problem("few points", rng)
    batch = np.stack([a, a[::-1] ** 2 / (a[::-1] ** 2).sum(1, keepdims=True)])
    reg = np.array([0.1, 0.5])
    found = otkit.barycenter(batch, w, C=C, reg=reg, debias=True, tol=1e-8)
    tensors = otkit.barycenter(torch.tensor(batch), w, C=torch.tensor(C), reg=reg, debias=True, tol=1e-8)
    assert isinstance(tensors.masses, torch.Tensor)
    np.testing.assert_allclose(tensors.masses.numpy(), found.masses, atol=1e-9)
    for k in range(2):
        one = otkit.barycenter(batch[k], w, C=C, reg=reg[k], debias=True, tol=1e-8)
        np.testing.assert_allclose(found.masses[k], one.masses, atol=1e-6)
        np.testing.assert_allclose(found.value[k], one.value, atol=1e-12)
    x, y = rng.random((8, 2)), rng.random((6, 2))
    apart = otkit.barycenter(a, w, C=otkit.PointCloud(x, y), reg=0.05, debias=True, tol=1e-6, strict=True)
    assert apart.masses.shape == (6,)
    np.testing.assert_allclose(apart.result.plan.sum(1), np.tile(apart.masses, (2, 1)), atol=1e-6)


@pytest.mark.parametrize("clouds", ["shared", "each"])
@pytest.mark.parametrize("size", [8, 6])
def test_the_value_is_the_mean_divergence_between_other_points(size, clouds, rng):
    x, y, a = rng.random((2, 1, 8, 2)), rng.random((2, 1, size, 2)), 3.0 * rng.dirichlet(np.ones(8), (2, 4))
    if clouds == "shared":
        x, y = x[0, 0], y[0, 0]
    w, reg = np.array([0.4, 0.1, 0.2, 0.3]), np.array([0.05, 0.2])
    found = otkit.barycenter(a, w, C=otkit.PointCloud(x, y), reg=reg, debias=True, tol=1e-6)
    for k in range(2):
        xk, yk = (v if clouds == "shared" else v[k, 0] for v in (x, y))
        apart = [otkit.sinkhorn_divergence(xk, yk, one, found.masses[k], reg=reg[k], tol=1e-9).value for one in a[k]]
        assert found.value[k] == pytest.approx(w @ apart, rel=1e-6)
