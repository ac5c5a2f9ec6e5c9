"""Gaussians, slices and barycenters of `otkit.pot` beside POT."""

from types import SimpleNamespace

import numpy as np
import ot as theirs
import pytest

import otkit
import otkit.pot as ot


def gaussians(seed, n, d=3):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(n, d, d))
    return rng.normal(size=(n, d)), roots @ np.swapaxes(roots, 1, 2)


def test_distances_of_gaussians_are_those_of_pot():
    (ms, Cs), (mt, Ct) = gaussians(0, 4), gaussians(1, 4)
    for options in ({}, {"paired": True}):
        ours, log = ot.gaussian.bures_wasserstein_distance(ms, mt, Cs, Ct, **options, log=True)
        expected, log_2 = theirs.gaussian.bures_wasserstein_distance(ms, mt, Cs, Ct, **options, log=True)
        np.testing.assert_allclose(ours, expected)
        np.testing.assert_allclose(log["Cs12"], log_2["Cs12"])
        np.testing.assert_allclose(
            ot.gaussian.bures_distance(Cs, Ct, **options), theirs.gaussian.bures_distance(Cs, Ct, **options)
        )
    single = ot.gaussian.bures_wasserstein_distance(ms[0], mt[1], Cs[0], Ct[1])
    assert isinstance(single, np.ndarray)
    assert float(single) == pytest.approx(theirs.gaussian.bures_wasserstein_distance(ms[0], mt[1], Cs[0], Ct[1]))
    with pytest.raises(
        AssertionError, match=r"means must be \(d,\) and covariances \(d, d\) on both sides, or a batch"
    ):
        ot.gaussian.bures_wasserstein_distance(ms[0], mt, Cs[0], Ct)
    with pytest.raises(ValueError, match="nx must be None"):
        ot.gaussian.bures_distance(Cs, Ct, nx=1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_moments_of_points_are_those_of_pot(bias, weighted):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(20, 3)) + 1
    ws, wt = (rng.random((30, 1)), rng.random((20, 1))) if weighted else (None, None)
    ours, log = ot.gaussian.empirical_bures_wasserstein_distance(x, y, 1e-6, ws, wt, bias, log=True)
    expected, log_2 = theirs.gaussian.empirical_bures_wasserstein_distance(x, y, 1e-6, ws, wt, bias, log=True)
    assert float(ours) == pytest.approx(float(expected))
    assert log.keys() == log_2.keys()
    for name in log:
        np.testing.assert_allclose(log[name], log_2[name])
    if bias and not weighted:
        values = [module.solve_sample(x, y, method="gaussian").value for module in (ot, theirs)]
        assert float(values[0]) == pytest.approx(float(values[1]))
        assert float(values[0]) == pytest.approx(float(ours) ** 2)
    with pytest.raises(ValueError, match=r"ws and wt must have shape \(30, 1\), got \(30,\)"):
        ot.gaussian.empirical_bures_wasserstein_distance(x, y, ws=np.ones(30))
    with pytest.raises(NotImplementedError, match="method='gaussian' takes metric='sqeuclidean', got 'euclidean'"):
        ot.solve_sample(x, y, method="gaussian", metric="euclidean")


@pytest.mark.parametrize("name", ["sliced_wasserstein_distance", "max_sliced_wasserstein_distance"])
@pytest.mark.parametrize("p", [1, 2])
def test_slices_have_the_numbers_of_pot_for_its_seed(name, p):
    rng = np.random.default_rng(3)
    x, y, a = rng.normal(size=(30, 3)), rng.normal(size=(20, 3)) + 1, rng.dirichlet(np.ones(30))
    ours, log = getattr(ot, name)(x, y, a, seed=5, p=p, log=True)
    expected, log_2 = getattr(theirs, name)(x, y, a, seed=5, p=p, log=True)
    assert float(ours) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_array_equal(log["projections"], log_2["projections"])
    np.testing.assert_allclose(log["projected_emds"], log_2["projected_emds"])
    given = getattr(ot, name)(x, y, a, projections=log["projections"], p=p)
    assert float(given) == float(ours)
    assert float(getattr(ot, name)(x, x, seed=0)) == 0
    with pytest.raises(ValueError, match=r"projections must have shape \(3, k\), one direction in each column"):
        getattr(ot, name)(x, y, projections=log["projections"].T)
    half = type("Half", (), {"transform": staticmethod(lambda v: v / 2)})()
    for scaler in (half, half.transform):
        assert float(getattr(ot, name)(x, y, a, seed=5, p=p, scaler=scaler)) == pytest.approx(
            float(getattr(ot, name)(x / 2, y / 2, a, seed=5, p=p))
        )
    with pytest.raises(ValueError, match="scaler must be callable or have a method transform, got int"):
        getattr(ot, name)(x, y, scaler=42)


def test_random_directions_have_the_library_that_is_asked():
    torch = pytest.importorskip("torch")
    drawn = ot.sliced.get_random_projections(3, 4, 0, type_as=torch.ones(1))
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn, theirs.sliced.get_random_projections(3, 4, 0), rtol=1e-6)
    backend = SimpleNamespace(from_numpy=lambda x: x.astype(np.float32))
    drawn = ot.sliced.get_random_projections(3, 4, seed=1, backend=backend)
    np.testing.assert_array_equal(drawn, ot.sliced.get_random_projections(3, 4, seed=1).astype(np.float32))
    with pytest.raises(ValueError, match="backend must be one of POT, got int"):
        ot.sliced.get_random_projections(3, 4, backend=1)
    x = torch.rand(8, 3, dtype=torch.float64, requires_grad=True)
    ot.sliced_wasserstein_distance(x, x.detach() + 1, seed=0).backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad < 0).any()


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_stabilized", "sinkhorn_log"])
def test_barycenters_are_those_of_pot(method):
    rng = np.random.default_rng(4)
    A, M = rng.dirichlet(np.ones(12), size=3).T, rng.random((12, 12))
    weights = np.array([0.2, 0.5, 0.3])
    expected = theirs.bregman.barycenter(A, M, 0.05, weights, "sinkhorn_log", stopThr=1e-13, numItermax=50000)
    ours, log = ot.barycenter(A, M, 0.05, weights, method=method, stopThr=1e-9, log=True)
    np.testing.assert_allclose(ours, expected, atol=1e-7)
    assert log["niter"] > 0
    assert len(log["err"]) > 0
    with pytest.warns(otkit.ConvergenceWarning, match="raise numItermax|no longer falls"):
        ot.barycenter(A, M, 0.05, method=method, stopThr=0, numItermax=1)
    ot.barycenter(A, M, 0.05, method=method, stopThr=0, numItermax=1, warn=False)


def test_bad_barycenters_are_refused():
    A, M = np.full((4, 2), 0.25), np.eye(4)
    with pytest.raises(
        ValueError, match="method must be one of sinkhorn, sinkhorn_stabilized, sinkhorn_log, got 'foo'"
    ):
        ot.barycenter(A, M, 1.0, method="foo")
    with pytest.raises(ValueError, match=r"A must have shape \(n, K\), one histogram in each column, got \(4,\)"):
        ot.barycenter(A[:, 0], M, 1.0)
    with pytest.raises(TypeError, match="momentum= does not apply"):
        ot.barycenter(A, M, 1.0, tau=3, momentum=3)


def test_directions_may_be_a_tuple():
    x, y = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    for call in (ot.sliced_wasserstein_distance, ot.max_sliced_wasserstein_distance):
        assert call(x, y, projections=((1.0, 0.0), (0.0, 1.0))) == call(x, y, projections=np.eye(2))


def test_debiased_barycenters_are_those_of_otkit_and_undo_the_blur():
    x = np.linspace(-1, 1, 60)[:, None]
    A = np.exp(-((x - np.array([-0.4, 0.4])) ** 2) / 0.02)
    A, M = A / A.sum(0), ot.dist(x)
    for method in ("sinkhorn", "sinkhorn_log"):
        ours, log = ot.bregman.barycenter_debiased(A, M, 0.05, [0.3, 0.7], method=method, log=True)
        expected = otkit.barycenter(A.T, [0.3, 0.7], C=M, reg=0.05, debias=True)
        np.testing.assert_allclose(ours, expected.masses, atol=1e-9)
        assert log.keys() == {"err", "niter"}
    spread = [float(v @ (x[:, 0] - v @ x[:, 0]) ** 2) for v in (ours, ot.barycenter(A, M, 0.05), A[:, 0])]
    assert spread[0] == pytest.approx(spread[2], rel=0.02) != spread[1]
    mean = ot.bregman.barycenter_debiased(A, M, 0.05, stopThr=1e-8)
    expected = theirs.bregman.barycenter_debiased(A, M, 0.05, stopThr=1e-11, numItermax=20000)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    with pytest.raises(ValueError, match="method must be one of sinkhorn, sinkhorn_log, got 'sinkhorn_stabilized'"):
        ot.bregman.barycenter_debiased(A, M, 0.05, method="sinkhorn_stabilized")
    with pytest.raises(ValueError, match="C must be square and symmetric"):
        ot.bregman.barycenter_debiased(A, M[:, :50], 0.05)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_free_supports_are_those_of_pot(library):
    rng = np.random.default_rng(5)
    convert = pytest.importorskip("torch").tensor if library == "torch" else np.asarray
    ys, ws = [rng.normal(size=(n, 2)) for n in (9, 7, 5)], [rng.dirichlet(np.ones(n)) for n in (9, 7, 5)]
    x, b, shares = rng.normal(size=(4, 2)), rng.dirichlet(np.ones(4)), np.array([0.2, 0.5, 0.3])
    ys, ws = ([convert(v) for v in side] for side in (ys, ws))
    for options in ({}, {"b": convert(b), "weights": convert(shares)}, {"numItermax": 1}):
        ours, log = ot.lp.free_support_barycenter(ys, ws, convert(x), log=True, **options)
        expected, known = theirs.lp.free_support_barycenter(ys, ws, convert(x), log=True, **options)
        assert type(ours) is type(expected)
        np.testing.assert_allclose(ours, expected, atol=1e-12)
        assert log.keys() == known.keys()
        np.testing.assert_allclose(log["displacement_square_norms"], known["displacement_square_norms"], atol=1e-12)


def test_bad_free_supports_are_refused():
    y, w = [np.zeros((3, 2))], [np.full(3, 1 / 3)]
    with pytest.raises(ValueError, match=r"X_init must have shape \(k, 2\), got \(4,\)"):
        ot.lp.free_support_barycenter(y, w, np.zeros(4))
    with pytest.raises(ValueError, match="numItermax must be"):
        ot.lp.free_support_barycenter(y, w, np.zeros((4, 2)), numItermax=0)
    with pytest.raises(ValueError, match="b must have 4 weights"):
        ot.lp.free_support_barycenter(y, w, np.zeros((4, 2)), b=np.ones(3) / 3)
    with pytest.raises(ValueError, match="zip"):
        ot.lp.free_support_barycenter(y, w * 2, np.zeros((4, 2)))
