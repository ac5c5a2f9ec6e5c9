"""`otkit.pot.solve`, `solve_sample`, `dist` and `unif` beside POT, and the signatures of all functions."""

import inspect
import pickle
import warnings

import numpy as np
import ot as theirs
import pytest
from scipy.spatial.distance import cdist

import otkit
import otkit.pot as ot

FUNCTIONS = [
    *(
        "emd",
        "emd2",
        "emd2_lazy",
        "emd_1d",
        "emd2_1d",
        "emd_1d_dual_backprop",
        "wasserstein_1d",
        "sinkhorn",
        "sinkhorn2",
    ),
    *("solve", "solve_sample", "dist", "unif", "lp.emd", "lp.wasserstein_1d"),
    *("bregman.empirical_sinkhorn", "bregman.empirical_sinkhorn2", "bregman.empirical_sinkhorn_divergence"),
    *("gaussian.bures_wasserstein_distance", "gaussian.bures_distance"),
    *("gaussian.empirical_bures_wasserstein_distance", "sliced.get_random_projections"),
    *("sliced_wasserstein_distance", "max_sliced_wasserstein_distance", "barycenter", "bregman.barycenter"),
    *("unbalanced.sinkhorn_unbalanced", "unbalanced.sinkhorn_unbalanced2", "sinkhorn_unbalanced2"),
    *("unbalanced.lbfgsb_unbalanced", "unbalanced.lbfgsb_unbalanced2"),
]


def problem(seed, n=13, m=9):
    rng = np.random.default_rng(seed)
    return rng.random((n, m)), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def found(module, path):
    for name in path.split("."):
        module = getattr(module, name)
    return module


@pytest.mark.parametrize("path", FUNCTIONS)
def test_parameters_and_defaults_are_those_of_pot(path):
    ours, expected = (inspect.signature(found(module, path)).parameters.values() for module in (ot, theirs))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in expected]


def test_every_public_name_is_documented_and_of_pot():
    for name in ot.__all__:
        assert found(ot, name).__doc__
        assert hasattr(theirs, name) or hasattr(theirs.utils, name) or name == "MarginalsError"
    with pytest.raises(AttributeError, match="no attribute 'gromov_wasserstein', which otkit does not solve"):
        _ = ot.gromov_wasserstein


@pytest.mark.parametrize("options", [{}, {"reg": 0.1}, {"reg": 0.1, "reg_type": "entropy"}, {"reg": 0}])
def test_solve_has_the_names_and_values_of_pot(options):
    M, a, b = problem(0)
    ours, expected = ot.solve(M, a, b, **options), theirs.solve(M, a, b, **options, tol=1e-12)
    for name in ("value", "value_linear", "plan", "marginal_a", "marginal_b"):
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), atol=1e-9)
    both = zip(ours.potentials, expected.potentials, strict=True)
    assert all(np.ptp(one - other) < 1e-7 for one, other in both)
    np.testing.assert_allclose(ours.potential_a[:, None] + ours.potential_b, sum(np.ix_(*ours.potentials)))
    np.testing.assert_allclose(ours.sparse_plan.toarray(), ours.plan, atol=1e-9)
    assert ours.status == "Converged"
    assert ours.result.lower <= ours.value_linear + 1e-12
    assert ours.value_quad is ours.lazy_plan is None
    assert {name for name in dir(theirs.utils.OTResult) if not name.startswith("_")} - {"citation"} <= set(dir(ours))
    for name in ("a_to_b", "b_to_a"):
        with pytest.raises(NotImplementedError, match=f"{name} is not implemented"):
            getattr(ours, name)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).plan, ours.plan)
    assert "value=" in repr(ours)


def test_values_of_other_totals_are_those_of_pot():
    M, a, b = problem(1)
    for reg_type in ("KL", "entropy"):
        ours = ot.solve(M, 3 * a, 3 * b, reg=0.1, reg_type=reg_type)
        expected = theirs.solve(M, 3 * a, 3 * b, reg=0.1, reg_type=reg_type, tol=1e-12)
        np.testing.assert_allclose(ours.value, expected.value)
        u, v = ours.potentials
        np.testing.assert_allclose(np.exp(u[:, None] + v - M / 0.1), ours.plan)


def test_a_reference_is_honoured_where_pot_drops_it():
    M, a, b = problem(2)
    c = np.random.default_rng(0).random(M.shape)
    plan = ot.solve(M, a, b, reg=0.1, c=c).plan
    np.testing.assert_allclose(plan, ot.solve(M - 0.1 * np.log(c), a, b, reg=0.1, reg_type="entropy").plan, atol=1e-9)
    value = ot.solve(M, a, b, reg=0.1, c=c).value
    assert float(value) == pytest.approx((M * plan).sum() + 0.1 * (plan * np.log(plan / c)).sum())
    with pytest.raises(ValueError, match="c= is the reference of the regularisation, and there is no reg="):
        ot.solve(M, a, b, c=c)


@pytest.mark.parametrize("reg_type", ["KL", "entropy"])
def test_unbalanced_problems_have_the_plan_of_pot_and_an_honest_value(reg_type):
    M, a, b = problem(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.unbalanced.sinkhorn_unbalanced(
            a, 2 * b, M, 0.1, (1.0, 0.5), reg_type=reg_type, stopThr=1e-13, numItermax=9999
        )
    ours = ot.solve(M, a, 2 * b, reg=0.1, unbalanced=(1.0, 0.5), reg_type=reg_type)
    np.testing.assert_allclose(ours.plan, expected, atol=1e-9)
    direct = ot.unbalanced.sinkhorn_unbalanced2(
        a, 2 * b, M, 0.1, (1.0, 0.5), reg_type=reg_type, returnCost="total", stopThr=1e-9
    )
    assert float(ours.value) == pytest.approx(float(direct))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"reg": 1, "reg_type": "L1"}, NotImplementedError, "'L2' or a pair of functions .f, df., got 'L1'"),
     ({"reg": 1, "reg_type": (abs, 1)}, NotImplementedError, "reg_type must be 'KL', 'entropy', 'L2' or a pair"),
     ({"unbalanced": 1, "tol": 2.0}, ValueError, "tol must be a positive number and below 1, got 2.0"),
     ({"unbalanced": 1, "unbalanced_type": "JS"}, NotImplementedError, "must be 'KL', 'L2' or 'TV', got 'JS'"),
     ({"plan_init": np.ones((13, 9))}, NotImplementedError, "plan_init= does not apply.* potentials_init="),
     ({"method": "foo"}, ValueError, "method must be one of sinkhorn, sinkhorn_log, mm, lbfgsb, got 'foo'"),
     ({"grad": "foo"}, ValueError, "grad must be one of autodiff, envelope, last_step, detach, got 'foo'"),
     ({"max_iter": 0}, ValueError, "max_iter must be a positive number, got 0"),
     ({"reg": 1, "tol": -1.0}, ValueError, "tol must be a positive number, got -1.0"),
     ({"reg": -1}, ValueError, "reg must be positive and finite")],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(options, error, message):
    M, a, b = problem(4)
    with pytest.raises(error, match=message):
        ot.solve(M, a, b, **options)


def test_a_limit_that_is_too_low_warns_and_says_so():
    M, a, b = problem(5)
    with pytest.warns(otkit.ConvergenceWarning, match="raise max_iter"):
        ours = ot.solve(M, a, b, reg=1e-3, max_iter=1)
    assert ours.status.startswith("Stopped at max_iter")
    again = ot.solve(M, a, b, reg=1e-3, potentials_init=ot.solve(M, a, b, reg=1e-3).potentials)
    assert again.log["niter"] <= 2
    ot.solve(M, a, b, tol=1e-3, max_iter=10**6)  # an exact solution meets every tolerance


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine", "canberra", "correlation"])
@pytest.mark.parametrize("reg", [None, 0.1])
def test_solve_sample_is_solve_at_the_distances(metric, reg):
    rng = np.random.default_rng(6)
    x, y, (_, a, b) = rng.random((13, 3)), rng.random((9, 3)), problem(6)
    ours, expected = ot.solve_sample(x, y, a, b, metric, reg), ot.solve(ot.dist(x, y, metric), a, b, reg)
    np.testing.assert_allclose(ours.value, expected.value)
    np.testing.assert_allclose(ours.plan, expected.plan, atol=1e-9)
    if metric in ("canberra", "correlation"):
        with pytest.raises(NotImplementedError, match="lazy=True takes reg_type='KL', no c= and a metric among"):
            ot.solve_sample(x, y, a, b, metric, reg, lazy=True)
        return
    lazy = ot.solve_sample(x, y, a, b, metric, reg, lazy=True)
    if reg is None:
        assert lazy.lazy_plan is None
    else:
        np.testing.assert_allclose(lazy.lazy_plan[3:5], expected.plan[3:5], atol=1e-9)
        with pytest.raises(NotImplementedError, match="an index must be integers and slices, at most 2"):
            lazy.lazy_plan[[0, 1]]
        assert repr(lazy.lazy_plan) == "LazyTensor(shape=(13, 9),attributes=(X_a,X_b,log_u,log_v))"


def test_a_debiased_value_is_that_of_pot():
    rng = np.random.default_rng(7)
    x, y, (_, a, b) = rng.random((13, 3)), rng.random((9, 3)), problem(7)
    ours = ot.solve_sample(x, y, a, b, reg=0.1, debias=True)
    expected = theirs.solve_sample(x, y, a, b, reg=0.1, debias=True)
    np.testing.assert_allclose(ours.value, expected.value, atol=1e-8)
    np.testing.assert_allclose(ours.value, float(otkit.sinkhorn_divergence(x, y, a, b, reg=0.1)))
    np.testing.assert_allclose(ours.value_linear, expected.value_linear, atol=1e-6)
    assert ours.log.keys() == expected.log.keys()
    with pytest.raises(NotImplementedError, match="debias must be True or False, got 'split'"):
        ot.solve_sample(x, y, reg=0.1, debias="split")


def test_methods_of_points_are_mapped_or_refused():
    rng = np.random.default_rng(8)
    x, y = rng.random((13, 3)), rng.random((9, 3))
    for metric in ("sqeuclidean", "cityblock"):
        ours, expected = (module.solve_sample(x, y, metric=metric, method="1d").value for module in (ot, theirs))
        np.testing.assert_allclose(ours, expected)
    assert ot.solve_sample(x, y, method="1d").plan is None
    plan = ot.solve_sample(x, y, reg=0.1).plan
    np.testing.assert_allclose(ot.solve_sample(x, y, reg=0.1, method="geomloss").lazy_plan[:], plan, atol=1e-9)
    with pytest.raises(NotImplementedError, match=r"method must be None, '1d', 'gaussian' or one of .*, got 'lowrank'"):
        ot.solve_sample(x, y, reg=0.1, method="lowrank", rank=5)
    with pytest.raises(NotImplementedError, match="method='1d' takes a metric among"):
        ot.solve_sample(x, y, method="1d", metric="cosine")
    with pytest.raises(TypeError, match="rank=, projections= does not apply: it is of POT's approximate methods"):
        ot.solve_sample(x, y, rank=5, projections=np.ones((2, 3)))


def test_points_on_a_line_take_every_option_of_an_exact_solve():
    x, y = np.arange(5.0)[:, None], np.arange(4.0)[:, None]
    plain = ot.solve_sample(x, y)
    ours = ot.solve_sample(x, y, potentials_init=plain.potentials, max_iter=1000)
    assert float(ours.value) == float(plain.value)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine", "correlation", "canberra"])
def test_dist_is_that_of_scipy(metric):
    rng = np.random.default_rng(9)
    for d in (3, 40):
        x, y = rng.random((13, d)), rng.random((9, d))
        np.testing.assert_allclose(ot.dist(x, y, metric), cdist(x, y, metric), rtol=1e-12)
    w = rng.random(3)
    x, y = rng.random((13, 3)), rng.random((9, 3))
    np.testing.assert_allclose(ot.dist(x, y, metric, w=w), cdist(x, y, metric, w=w), rtol=1e-12)
    np.testing.assert_allclose(ot.dist(x, y, "minkowski", p=3, w=w), cdist(x, y, "minkowski", p=3, w=w))
    np.testing.assert_allclose(ot.dist(x, metric=metric), ot.dist(x, x, metric))
    assert ot.dist(x.astype(np.float32), metric=metric).dtype == np.float32


def test_bad_distances_are_refused():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="nx must be None, got int"):
        ot.dist(x, nx=3)
    with pytest.raises(ValueError, match="Unknown Distance Metric"):
        ot.dist(x, metric="fake")
    with pytest.raises(ValueError, match="x must be finite, got NaN or inf"):
        ot.dist(np.full((3, 2), np.nan))
    assert ot.unif(4, np.ones(1, dtype=np.float32)).dtype == np.float32
    np.testing.assert_array_equal(ot.unif(5), theirs.unif(5))
