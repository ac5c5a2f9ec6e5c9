"""Barycenters: linear programs, closed forms, an independent library, invariances and bad input."""

import functools
import warnings

import numpy as np
import pytest
import scipy.optimize as so
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import otkit

seeds = st.integers(0, 10_000)


def optimum(a, C, w):
    """The least Σ_k w_k·OT(a_k, b) over b, and OT(a_k, b) at given columns, by linear programming."""
    (K, n), m = a.shape, C.shape[1]
    rows = [sp.kron(sp.eye(n), np.ones((1, m))) for _ in range(K)]
    sums = [sp.kron(np.ones((1, n)), sp.eye(m)) for _ in range(K)]
    common = sp.hstack([sp.block_diag(sums), sp.vstack([-sp.eye(m)] * K)])
    fixed = sp.hstack([sp.block_diag(rows), sp.csr_matrix((K * n, m))])
    unit = C.max()  # HiGHS has absolute tolerances
    cost = np.concatenate([*(wk * C.ravel() / unit for wk in w), np.zeros(m)])
    right = np.concatenate([a.ravel(), np.zeros(K * m)])
    found = so.linprog(cost, A_eq=sp.vstack([fixed, common]), b_eq=right, method="highs")
    assert found.status == 0
    return found.fun * unit


def histograms(seed, K=3, n=12, m=10):
    rng = np.random.default_rng(seed)
    a = rng.dirichlet(np.full(n, rng.choice([0.3, 5.0])), K)
    a[:, rng.random(n) < 0.2] = 0.0
    a[:, 0] += 0.1
    w = rng.dirichlet(np.ones(K))
    C = rng.random((n, m)) ** rng.choice([1, 4]) * 10.0 ** rng.integers(-6, 6)
    return a / a.sum(1, keepdims=True), C, w


@settings(max_examples=25)
@given(seeds)
def test_bounds_hold_and_meet(seed):
    a, C, w = histograms(seed)
    best = optimum(a, C, w)
    found = otkit.barycenter(a, w, C=C, rtol=1e-2)
    assert found.converged
    assert found.lower <= best + 1e-8 * C.max()
    assert best - 1e-8 * C.max() <= found.upper
    assert found.upper - found.lower <= 1e-2 * found.upper + 1e-12 * C.max()
    np.testing.assert_allclose(found.masses.sum(), 1.0, rtol=1e-12)
    paid = sum(wk * float(otkit.solve(C, ak, found.masses).value) for wk, ak in zip(w, a, strict=True))
    assert best - 1e-8 * C.max() <= paid <= found.upper + 1e-12 * C.max()


@settings(max_examples=15)
@given(seeds, st.sampled_from([0.3, 0.03]))
def test_regularised_value_and_excess(seed, scale):
    """The objective at the masses, with each plan of its own, is between the value and the value plus the excess."""
    a, C, w = histograms(seed)
    reg = scale * C.max()
    loose = otkit.barycenter(a, w, C=C, reg=reg, tol=1e-3)
    tight = otkit.barycenter(a, w, C=C, reg=reg, tol=1e-10)
    assert tight.error <= 1e-10
    assert 0 <= tight.excess <= 1e-7 * C.max()
    assert loose.value <= tight.value + tight.excess
    assert tight.value <= loose.value + loose.excess
    m, b = C.shape[1], tight.masses
    parts = otkit.solve(C, a, np.tile(b, (len(a), 1)), reg=reg, tol=1e-11)
    divergence = np.sum(b * np.log(np.maximum(b, 1e-300) * m))
    at_b = (w * parts.value).sum() + reg * divergence  # KL(P | a⊗r) = KL(P | a⊗b) + KL(b | r)
    np.testing.assert_allclose(tight.value, at_b, atol=1e-7 * C.max())
    assert tight.lower <= optimum(a, C, w) + 1e-8 * C.max()


def test_masses_are_those_of_pot():
    import ot

    x = np.linspace(0, 1, 60)
    a = np.stack([np.exp(-((x - c) ** 2) / (2 * s**2)) for c, s in ((0.3, 0.05), (0.6, 0.1))])
    a /= a.sum(1, keepdims=True)
    C = (x[:, None] - x) ** 2
    w = np.array([0.2, 0.8])  # POT's other methods are right for equal weights only
    theirs = ot.bregman.barycenter(a.T, C, 2e-3, w, method="sinkhorn_log", numItermax=20_000, stopThr=1e-13)
    ours = otkit.barycenter(a, w, C=C, reg=2e-3, tol=1e-10)
    np.testing.assert_allclose(ours.masses, theirs, atol=1e-8)


@pytest.mark.parametrize("w", [None, (0.2, 0.8), (1.0, 0.0)])
def test_gaussians_on_a_line(w):
    """The barycenter of Gaussians has the mean of their means, and of their deviations."""
    x = np.arange(100.0)
    means, deviations = np.array([30.0, 55.0]), np.array([4.0, 7.0])
    a = np.exp(-((x - means[:, None]) ** 2) / (2 * deviations[:, None] ** 2))
    a /= a.sum(1, keepdims=True)
    found = otkit.barycenter(a, w, spacing=1.0, rtol=1e-4)
    share = np.array([0.5, 0.5]) if w is None else np.array(w)
    mean = found.masses @ x
    np.testing.assert_allclose(mean, share @ means, atol=0.05)
    np.testing.assert_allclose(np.sqrt(found.masses @ (x - mean) ** 2), share @ deviations, atol=0.1)
    spread = share @ (means - share @ means) ** 2 + share @ (deviations - share @ deviations) ** 2
    np.testing.assert_allclose(found.value, spread, atol=0.3)


def test_debiased_gaussians_keep_their_width():
    x = np.arange(100.0)
    a = np.exp(-((x - np.array([30.0, 60.0])[:, None]) ** 2) / (2 * 5.0**2))
    a /= a.sum(1, keepdims=True)
    width = {}
    for debias in (False, True):
        found = otkit.barycenter(a, spacing=1.0, reg=20.0, debias=debias)
        mean = found.masses @ x
        np.testing.assert_allclose(mean, 45.0, atol=1e-3)
        width[debias] = found.masses @ (x - mean) ** 2
    np.testing.assert_allclose(width[True], 25.0, rtol=1e-3)
    assert width[False] > 30.0  # the blur that debiasing removes
    assert found.excess is None
    expected = sum(_divergence(ak, found.masses, x, 20.0) for ak in a) / 2
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)


def _divergence(a, b, x, reg):
    return float(otkit.sinkhorn_divergence(x[:, None], x[:, None], a, b, reg=reg))


def test_translated_images_meet_halfway():
    image = np.zeros((16, 16))
    image[3:7, 2:7] = np.random.default_rng(0).random((4, 5))
    moved = np.roll(image, (6, 8), (0, 1))
    found = otkit.barycenter(np.stack([image, moved]), spacing=1.0, rtol=1e-3)
    np.testing.assert_allclose(found.value, (3**2 + 4**2) * image.sum(), rtol=1e-3)
    np.testing.assert_allclose(found.masses.sum(), image.sum(), rtol=1e-12)
    assert found.masses.shape == image.shape
    places = np.indices(image.shape).reshape(2, -1)
    centres = [places @ v.ravel() / image.sum() for v in (image, moved, found.masses)]
    np.testing.assert_allclose(centres[2], (centres[0] + centres[1]) / 2, atol=0.05)


def test_batches_equal_single_calls():
    rng = np.random.default_rng(1)
    a = rng.dirichlet(np.ones(15), (2, 3))
    C = rng.random((15, 9))
    w = rng.dirichlet(np.ones(3), 2)
    for options in (dict(reg=0.02), dict(reg=np.array([0.5, 0.02])), dict(rtol=1e-2)):
        both = otkit.barycenter(a, w, C=C, **options)
        assert both.masses.shape == (2, 9)
        assert both.converged.all()
        for k in range(2):
            own = {name: v[k] if np.ndim(v) else v for name, v in options.items()}
            one = otkit.barycenter(a[k], w[k], C=C, **own)
            np.testing.assert_allclose(one.masses, both.masses[k], atol=1e-6)
            np.testing.assert_allclose([one.value, one.lower], [both.value[k], both.lower[k]], rtol=1e-4)
            assert one.result.plan.shape == (3, 15, 9)
            np.testing.assert_allclose(one.result.plan.sum(-1), a[k], atol=1e-6)


def test_units_offsets_masses_and_order_do_not_matter():
    a, C, w = histograms(3)
    C = C / C.max()
    one = otkit.barycenter(a, w, C=C, reg=0.05, tol=1e-9)
    order = [2, 0, 1]
    for found, scale in (
        (otkit.barycenter(7 * a, w, C=C, reg=0.05, tol=1e-9), 7.0),
        (otkit.barycenter(a, 3 * w, C=1e8 * C, reg=5e6, tol=1e-9), 1.0),
        (otkit.barycenter(a[order], w[order], C=C + 5.0, reg=0.05, tol=1e-9), 1.0),
    ):
        np.testing.assert_allclose(found.masses, scale * one.masses, atol=1e-7)
    np.testing.assert_allclose(found.value, one.value + 5.0, rtol=1e-9)


def test_one_measure_is_its_own_barycenter():
    image = np.random.default_rng(0).random((6, 7))
    found = otkit.barycenter(image[None], spacing=0.5)
    np.testing.assert_allclose(found.masses, image, atol=1e-2 * image.sum())
    assert found.upper <= 1e-9 * 36 or found.gap <= 1e-2 * found.upper


def test_libraries_and_dtypes():
    torch = pytest.importorskip("torch")
    a, C, w = histograms(5)
    want = otkit.barycenter(a, w, C=C, reg=0.05 * C.max())
    found = otkit.barycenter(torch.tensor(a), w, C=torch.tensor(C), reg=0.05 * C.max())
    assert isinstance(found.masses, torch.Tensor)
    np.testing.assert_allclose(found.masses.numpy(), want.masses, atol=1e-9)
    single = otkit.barycenter(a.astype(np.float32), w, C=C.astype(np.float32), reg=0.05 * C.max())
    assert single.masses.dtype == np.float32
    np.testing.assert_allclose(single.masses, want.masses, atol=1e-3)
    clouds = [np.arange(k, k + 6.0).reshape(3, 2) for k in range(2)]
    tensors = [torch.tensor(x) for x in clouds]
    for support, start in ((2, 2), (clouds[0], tensors[0])):
        cloud, tensor = otkit.barycenter(clouds, support=support), otkit.barycenter(tensors, support=start)
        for name in ("points", "masses"):
            assert isinstance(getattr(tensor, name), torch.Tensor)
            np.testing.assert_array_equal(getattr(tensor, name), getattr(cloud, name))
    with pytest.raises(ValueError, match="support requires gradients"):
        otkit.barycenter(tensors, support=tensors[0].clone().requires_grad_())
    with pytest.raises(ValueError, match="measures must be at least one cloud"):
        otkit.barycenter([])


def test_it_can_be_stopped_and_warns():
    a, C, w = histograms(2)
    with pytest.warns(otkit.ConvergenceWarning, match="least mean cost lies in"):
        found = otkit.barycenter(a, w, C=C, rtol=1e-3, callback=lambda progress: True)
    assert found.status is otkit.Status.STOPPED
    assert found.lower <= optimum(a, C, w) <= found.upper * (1 + 1e-9)
    with pytest.raises(otkit.NotConverged):
        otkit.barycenter(a, w, C=C, reg=1e-3 * C.max(), max_iter=3, strict=True)


def test_it_prints_as_a_line():
    a, C, w = histograms(2)
    assert "of 3 measures; CONVERGED" in repr(otkit.barycenter(a, w, C=C, reg=C.max()))


# Points that are sought


def test_points_of_one_cloud_and_of_translated_ones():
    x = np.random.default_rng(0).normal(size=(20, 2))
    shift = np.array([3.0, -1.0])
    found = otkit.barycenter([x, x + shift], [0.75, 0.25])
    np.testing.assert_allclose(np.sort(found.points, 0), np.sort(x + 0.25 * shift, 0), atol=1e-9)
    np.testing.assert_allclose(found.value, 0.75 * 0.25 * shift @ shift, rtol=1e-9)
    assert found.lower is None
    assert found.upper >= found.value


def test_points_on_a_line_are_means_of_quantiles():
    rng = np.random.default_rng(1)
    clouds = [np.sort(rng.normal(k, 1 + k, (30, 1)), 0) for k in range(3)]
    found = otkit.barycenter(clouds, [0.5, 0.3, 0.2], support=30)
    np.testing.assert_allclose(np.sort(found.points, 0), 0.5 * clouds[0] + 0.3 * clouds[1] + 0.2 * clouds[2], atol=1e-9)


def test_a_single_point_is_the_mean_the_geometric_median_or_the_median():
    rng = np.random.default_rng(2)
    clouds = [rng.normal(size=(15, 2)), rng.normal(size=(6, 2)) + 1]
    weights = np.concatenate([np.full(15, 0.6 / 15), np.full(6, 0.4 / 6)])
    pooled = np.concatenate(clouds)
    for metric, norm in (
        ("sqeuclidean", lambda d: (d**2).sum(-1)),
        ("euclidean", lambda d: np.sqrt((d**2).sum(-1))),
        ("cityblock", lambda d: abs(d).sum(-1)),
        (("power", 1.5), lambda d: (d**2).sum(-1) ** 0.75),
    ):
        found = otkit.barycenter(clouds, [0.6, 0.4], support=1, metric=metric, rtol=1e-12, max_iter=1000)
        objective = functools.partial(lambda z, norm: weights @ norm(pooled - z), norm=norm)
        best = so.minimize(objective, pooled.mean(0), method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-13))
        np.testing.assert_allclose(found.value, best.fun, rtol=1e-7)


@settings(max_examples=10)
@given(seeds)
def test_updates_never_raise_the_objective(seed):
    rng = np.random.default_rng(seed)
    clouds = [(rng.normal(size=(n, 3)), rng.dirichlet(np.ones(n))) for n in rng.integers(3, 12, 3)]
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)
        for limit in (1, 2, 4, 8):
            values.append(otkit.barycenter(clouds, support=5, max_iter=limit, rtol=1e-15).value)
    assert np.all(np.diff(values) <= 1e-12 * values[0])


def test_entropic_points():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) + 2]
    sharp, soft = (otkit.barycenter(clouds, support=8, reg=reg) for reg in (None, 5.0))
    assert soft.points.std(0).max() < sharp.points.std(0).max()


def divergence(p, w):
    return (np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / w), 0.0) - p + w).sum()


@pytest.mark.parametrize("rho", [0.01, 0.7, 100.0])
@pytest.mark.parametrize("c", [0.0, 0.3])
def test_unbalanced_points_have_the_squared_mean_of_roots(c, rho):
    m, w = np.array([1.0, 4.0, 0.5]), np.array([0.2, 0.5, 0.3])
    kept = np.exp(-c / (2 * rho))
    b = ((w * np.sqrt(m)).sum() * kept) ** 2
    found = otkit.barycenter(m[:, None], w, C=[[c]], unbalanced=rho, rtol=1e-6)
    value = rho * (w * (m + b - 2 * np.sqrt(m * b) * kept)).sum()
    assert found.converged
    np.testing.assert_allclose(found.masses, [b], rtol=1e-2, atol=1e-8)
    assert found.lower <= value * (1 + 1e-9)
    assert value <= found.upper * (1 + 1e-9)
    np.testing.assert_allclose(found.value, value, rtol=2e-6)


def by_descent(a, C, w, rho, start):
    """The least objective that a descent from these plans finds; their best barycenter is the mean of their columns."""
    shape = (len(a), *C.shape)

    def objective(x):
        P = x.reshape(shape)
        rows, cols = P.sum(2), P.sum(1)
        b = w @ cols
        value = (w * (P * C).sum((1, 2))).sum() + rho * sum(
            wk * (divergence(p, ak) + divergence(q, b)) for wk, p, ak, q in zip(w, rows, a, cols, strict=True)
        )
        slope = C + rho * np.log(rows / a)[:, :, None] + rho * np.log(cols / b)[:, None, :]
        return value, (w[:, None, None] * slope).ravel()

    start = np.maximum(start, 1e-9).ravel()
    options = dict(maxiter=20_000, maxfun=50_000, ftol=1e-15, gtol=1e-10, maxcor=30)
    return so.minimize(objective, start, jac=True, bounds=[(1e-14, None)] * start.size, options=options).fun


@pytest.mark.parametrize("seed", range(6))
def test_unbalanced_bounds_hold_and_meet(seed):
    rng = np.random.default_rng(seed)
    a, C, w = rng.random((3, 5)) * rng.choice([0.3, 1, 3], (3, 1)), rng.random((5, 4)), rng.dirichlet(np.ones(3))
    rho = [0.1, 0.5, 3.0][seed % 3]
    found = otkit.barycenter(a, w, C=C, unbalanced=rho, rtol=1e-4)
    best = min(by_descent(a, C, w, rho, P) for P in (found.result.plan, a[:, :, None] / np.full(C.shape, 4)))
    assert found.converged
    assert found.upper - found.lower <= 1e-4 * found.upper
    assert found.lower <= best + 1e-9
    assert best <= found.upper * (1 + 1e-5)
    paid = otkit.solve(C, a, np.tile(found.masses, (3, 1)), unbalanced=rho, rtol=1e-8).value @ w
    assert best * (1 - 1e-4) <= paid <= found.upper * (1 + 1e-8)
    np.testing.assert_allclose(found.value, paid, rtol=1e-4)


@pytest.mark.parametrize("rho", [(np.inf, 0.3), (0.3, np.inf), (0.2, 2.0)], ids=str)
def test_penalties_of_each_side(rho, rng):
    a, C, w = rng.dirichlet(np.ones(8), 3), rng.random((8, 6)), np.array([0.2, 0.3, 0.5])
    found = otkit.barycenter(a, w, C=C, unbalanced=rho, rtol=1e-3)
    assert found.converged
    paid = otkit.solve(C, a, np.tile(found.masses, (3, 1)), unbalanced=rho).value @ w
    assert found.lower <= paid * (1 + 1e-6)
    assert paid <= found.upper * (1 + 1e-6)
    for _ in range(3):
        other = np.tile(found.masses * rng.uniform(0.5, 1.5, 6), (3, 1))
        assert found.lower <= otkit.solve(C, a, other, unbalanced=rho).value @ w * (1 + 1e-6)


def test_a_measure_of_weight_zero_does_not_count(rng):
    a, x = rng.random((2, 8)), rng.random((8, 2))
    found = otkit.barycenter(a * [[1.0], [1e3]], [1.0, 0.0], C=((x[:, None] - x) ** 2).sum(-1), unbalanced=1e-3)
    assert found.converged
    np.testing.assert_allclose(found.masses, a[0], rtol=0.05)
    assert -1e-12 <= found.lower <= found.upper <= 1e-6


def test_high_penalties_are_the_balanced_barycenter_and_items_are_single_calls(rng):
    a, C = rng.dirichlet(np.ones(8), (2, 3)), rng.random((8, 6))
    whole = otkit.barycenter(a[0], C=C, rtol=1e-4)
    far = otkit.barycenter(a[0], C=C, unbalanced=1e4, rtol=1e-4)
    np.testing.assert_allclose(far.value, whole.value, rtol=5e-4)
    batch = otkit.barycenter(a, C=C, unbalanced=np.array([0.3, 2.0]), rtol=1e-3)
    for k, rho in enumerate((0.3, 2.0)):
        one = otkit.barycenter(a[k], C=C, unbalanced=rho, rtol=1e-3)
        np.testing.assert_allclose(batch.value[k], one.value, rtol=1e-9)
        np.testing.assert_allclose(batch.masses[k], one.masses, atol=1e-9)
    images = rng.random((2, 5, 6)) * [[[1.0]], [[3.0]]]
    found = otkit.barycenter(images, spacing=1.0, unbalanced=5.0)
    cells = np.argwhere(np.ones((5, 6)))
    same = otkit.barycenter(images.reshape(2, -1), C=((cells[:, None] - cells) ** 2).sum(-1), unbalanced=5.0)
    assert found.converged
    assert found.masses.shape == (5, 6)
    assert max(found.lower, same.lower) <= min(found.upper, same.upper)


BAD = {
    "C or spacing": (dict(measures=np.ones((2, 3)) / 3, C=np.ones((3, 3)), spacing=1.0), "pass one of them"),
    "unequal masses": (dict(measures=[[0.5, 0.5], [1.0, 1.0]], C=np.ones((2, 2))), "measures .*divide each by its sum"),
    "more than rounding": (dict(measures=[[0.5, 0.5], [0.5, 0.500001]], C=np.ones((2, 2))), "divide each by its sum"),
    "negative weights": (dict(measures=np.ones((2, 3)), weights=[1, -1], C=np.ones((3, 3))), "non-negative"),
    "number of weights": (dict(measures=np.ones((2, 3)), weights=[1, 1, 1], C=np.ones((3, 3))), "each of the 2"),
    "a histogram": (dict(measures=np.ones(3), C=np.ones((3, 3))), "stack K histograms"),
    "a batch of costs": (
        dict(measures=np.ones((2, 3)), C=np.ones((4, 2, 3, 3))),
        r"the costs must broadcast to the batch \(2,\)",
    ),
    "an image": (dict(measures=np.ones((3, 3)), spacing=(1.0, 1.0)), "stack them"),
    "forbidden": (dict(measures=np.ones((2, 2)), C=[[0, np.inf], [1, 0]]), "large finite cost"),
    "debias alone": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), debias=True), "pass reg="),
    "debias a rectangle": (dict(measures=np.ones((2, 2)), C=np.ones((2, 3)), reg=1.0, debias=True), "symmetric"),
    "support": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), support=3), "drop it"),
    "metric": (dict(measures=np.ones((2, 3, 2)), metric="cosine"), "fixed support"),
    "too many points": (dict(measures=np.ones((2, 3, 2)), support=7), "from 1 to 6"),
    "other points": (dict(measures=np.ones((2, 3, 2)), support=np.ones((4, 3))), "pass k points"),
    "unbalanced with reg": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), reg=1.0, unbalanced=1.0), "drop reg="),
    "unbalanced clouds": (dict(measures=np.ones((2, 2, 2)), unbalanced=1.0), "pass C= or spacing="),
    "no penalty": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), unbalanced=0.0), "must be positive"),
    "penalties": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), unbalanced=[1.0, 2.0]), "unbalanced"),
    "rtol with reg": (dict(measures=np.ones((2, 2)), C=np.ones((2, 2)), reg=1.0, rtol=0.1), "rtol"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_advice(options, message):
    with pytest.raises(ValueError, match=message):
        otkit.barycenter(**options)
