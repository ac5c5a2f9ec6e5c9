"""Distances by name and functions of the caller, against their definitions in a wider precision."""

from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from strategies import first

import otkit
from otkit import PointCloud
from otkit.geometry.costs import parse_cost
from otkit.geometry.metrics import NAMES, SETS

L = np.longdouble
WIDER = np.finfo(L).eps < np.finfo(float).eps
NAMED = [*NAMES, ("minkowski", 1.3), ("minkowski", 3), ("minkowski", 40.0)]


def points_for(metric, rng, n, d=4):
    """Points between which the distance is defined, some of them nearly equal or equal."""
    if metric in SETS:
        x = (rng.random((n, d)) < 0.5).astype(float)
        x[:, 0] = 1
        return x
    if metric == "haversine":
        x = rng.uniform(-1, 1, (n, 2)) * [np.pi / 2, np.pi]
        x[:4] = [[np.pi / 2, 1], [-np.pi / 2, 0], [0.3, np.pi], [0.3, -np.pi + 1e-9]]
    elif metric in ("jensenshannon", "braycurtis"):
        x = rng.random((n, d)) * 10.0 ** rng.integers(-3, 4, (n, 1))
    elif metric == "hamming":
        return rng.integers(0, 3, (n, d)).astype(float)
    else:
        x = rng.standard_normal((n, d)) * 10.0 ** rng.integers(-6, 7, (n, 1))
    x[-1] = x[-2] * (1 + 1e-13)
    return x


def _decimal(x):
    return Decimal(x.numerator) / x.denominator


def definition(metric, x, y):
    """The distance of two points from its definition, in long double."""
    x, y = x.astype(L), y.astype(L)
    gap = abs(x - y)
    if metric[0] == "minkowski":
        return (gap ** L(metric[1])).sum() ** (1 / L(metric[1]))
    if metric == "chebyshev":
        return gap.max()
    if metric == "hamming":
        return (x != y).sum() / L(x.size)
    if metric == "canberra":
        size = abs(x) + abs(y)
        return (gap / np.where(size > 0, size, 1)).sum()
    if metric == "braycurtis":
        return gap.sum() / abs(x + y).sum()
    if metric == "correlation":
        x, y = x - x.mean(), y - y.mean()
        return 1 - (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    if metric == "jensenshannon":  # the difference of two sums, which are as large where it is small
        p, q = (np.array([Fraction(float(c)) for c in v]) for v in (x, y))
        p, q = p / p.sum(), q / q.sum()
        with localcontext(Context(prec=60)):
            parts = [
                _decimal(c) * (_decimal(c) / _decimal((s + t) / 2)).ln()
                for v in (p, q)
                for c, s, t in zip(v, p, q, strict=True)
                if c
            ]
            return L(str((sum(parts) / 2).sqrt()))
    if metric == "haversine":  # by the vectors, of which no small angle is left to the arc cosine
        u, v = (np.array([np.cos(t) * np.cos(s), np.cos(t) * np.sin(s), np.sin(t)]) for t, s in (x, y))
        return 2 * np.arctan2(np.sqrt(((u - v) ** 2).sum()), np.sqrt(((u + v) ** 2).sum()))
    tt, tf = ((x > 0) & (y > 0)).sum(), ((x > 0) != (y > 0)).sum()
    ff, half = x.size - tt - tf, ((x > 0) & (y == 0)).sum() * ((x == 0) & (y > 0)).sum()
    return {
        "dice": tf / L(2 * tt + tf),
        "jaccard": tf / L(max(tt + tf, 1)),
        "rogerstanimoto": 2 * tf / L(tt + ff + 2 * tf),
        "russellrao": (x.size - tt) / L(x.size),
        "sokalsneath": 2 * tf / L(tt + 2 * tf),
        "yule": 2 * half / L(max(tt * ff + half, 1)),
    }[metric]


@pytest.mark.skipif(not WIDER, reason="long double is no wider than double here")
@pytest.mark.parametrize("seed", first(1, range(6)))
@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("metric", NAMED, ids=str)
def test_distances_are_their_definition_within_the_stated_rounding(metric, power, seed):
    rng = np.random.default_rng(seed)
    x, y = points_for(metric, rng, 15), points_for(metric, rng, 12)
    y[:2], y[2:4] = x[:2], x[-2:]
    geometry = PointCloud(x, y, parse_cost(metric, power)).flat(())
    found = geometry.block(slice(0, 1), slice(None))[0]
    wanted = np.array([[definition(metric, p, q) for q in y] for p in x]) ** L(power)
    relative, absolute = geometry.rounding
    slack = 1e-16 if metric in ("haversine", "correlation", "jensenshannon") else 0  # the definition's own rounding
    assert (abs(found - wanted) <= relative * abs(wanted) + absolute + L(slack) ** L(min(power, 1))).all()
    assert (found >= 0).all()
    assert relative < (1e-13 if absolute < 1e-300 or power <= 1 else 1e-10)
    assert absolute < {"correlation": 1e-8}.get(metric, 1e-13) ** min(power, 1.0) * 8


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")  # roots of rounding errors are wide
@pytest.mark.parametrize("metric", NAMED, ids=str)
def test_optima_are_those_of_the_matrix(metric, rng):
    x, y = points_for(metric, rng, 12), points_for(metric, rng, 12)
    C = np.array([[definition(metric, p, q) for q in y] for p in x]).astype(float)
    result = otkit.wasserstein(x, y, p=1, metric=metric)
    optimum = C[linear_sum_assignment(C)].mean()
    slack = 1e-14 * C.max()
    assert result.lower - slack <= optimum <= result.upper + slack
    assert float(result) == pytest.approx(optimum, rel=1e-9, abs=2e-7)
    entropic = otkit.solve_sample(x, y, metric=metric, reg=0.1 * C.max() or 1.0)
    assert float(entropic.value) == pytest.approx(float(otkit.solve(C, reg=0.1 * C.max() or 1.0).value), rel=1e-5)


@pytest.mark.skipif(not WIDER, reason="long double is no wider than double here")
@pytest.mark.parametrize("power", [1, 2, 4, 50])
@pytest.mark.parametrize("metric", ["jensenshannon", "correlation", "haversine"])
def test_distances_with_an_absolute_error_are_precise(metric, power, rng):
    """Between ordinary points, at high orders too; and between similar histograms, whose distance is 1e-3."""
    x, y = (rng.random((8, 30)) * (np.pi / 2 if metric == "haversine" else 1) for _ in range(2))
    if metric == "haversine":
        x, y = x[:, :2], y[:, :2]
    elif metric == "jensenshannon":
        y = x * (1 + 0.004 * rng.random((8, 30)))
    D = np.array([[definition(metric, p, q) for q in y] for p in x])
    D = (D / D.max()) ** L(power)
    wanted = float(D[linear_sum_assignment(D.astype(float))].mean() ** (1 / L(power)))
    found = otkit.wasserstein(x, y, p=power, metric=metric)
    assert found.status is otkit.Status.CONVERGED
    scale = float(max(definition(metric, p, q) for p in x for q in y))
    assert found.distance == pytest.approx(wanted * scale, rel=1e-11)
    assert found.lower <= wanted * scale * (1 + 1e-14)
    assert wanted * scale * (1 - 1e-14) <= found.upper


def test_batches_and_swapped_sides(rng):
    x, y = rng.random((3, 7, 2)), rng.random((1, 5, 2))
    found = otkit.solve_sample(x, y, metric="canberra")
    assert_allclose(found.value, [otkit.solve(cdist(v, y[0], "canberra")).value for v in x], rtol=1e-13)
    geometry = PointCloud(x, y, "canberra").flat((3,))
    assert_allclose(geometry.T.block(slice(0, 3), slice(1, 3))[2], cdist(x[2], y[0], "canberra").T[1:3])


def test_minkowski_has_the_compiled_special_cases():
    assert parse_cost(("minkowski", 1)) == parse_cost("cityblock")
    assert parse_cost(("minkowski", 2)) == parse_cost("euclidean")
    assert parse_cost(("minkowski", np.inf)) == parse_cost("chebyshev")
    one = np.array([[1e200, 1e200]])
    assert parse_cost(("minkowski", 4))(one[None], 0 * one[None])[0, 0, 0] == pytest.approx(2**0.25 * 1e200)
    assert parse_cost(("minkowski", 4))(one[None] * 1e-400, 0 * one[None])[0, 0, 0] == 0


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")  # roots of rounding errors are wide
@pytest.mark.parametrize(
    ("x", "y", "angle"),
    [
        ([0, 0], [0, np.pi / 2], np.pi / 2),
        ([np.pi / 2, 0.3], [-np.pi / 2, 2], np.pi),
        ([0, 0], [0, np.pi], np.pi),
        ([0.2, np.pi], [0.2, -np.pi], 0),
        ([0.5, 1.0], [0.5 + 1e-12, 1.0], 1e-12),
        ([np.pi / 4, 0], [np.pi / 4, np.pi], np.pi / 2),
    ],
)
def test_known_angles(x, y, angle):
    found = otkit.solve_sample([x], [y], metric="haversine")
    assert float(found.value) == pytest.approx(angle, rel=2e-4 if angle == 1e-12 else 1e-14, abs=2e-15)
    assert found.lower <= angle <= found.upper


def test_distances_by_name_of_other_libraries(any_xp, rng):
    x, y, a, options = rng.random((8, 3)), rng.random((6, 3)), rng.dirichlet(np.ones(8)), dict(reg=0.2, tol=1e-12)
    found = otkit.solve_sample(*map(any_xp.asarray, (x, y, a)), metric="canberra", **options)
    wanted = otkit.solve(cdist(x, y, "canberra"), a, **options)
    assert type(found.plan) is type(any_xp.asarray(x))
    assert_allclose(np.asarray(found.plan), wanted.plan, atol=1e-8)
    assert_allclose(
        np.asarray(found.transport(any_xp.asarray(x))),
        otkit.solve_sample(x, y, a, metric="canberra", **options).transport(x),
    )


def sklearn_distances(x, y):
    from sklearn.metrics import pairwise_distances

    return pairwise_distances(x, y, metric="canberra")


def tiles(x, y):
    gap, size = abs(x[..., :, None, :] - y[..., None, :, :]), abs(x)[..., :, None, :] + abs(y)[..., None, :, :]
    return (gap / size).sum(-1)


FORMS = {
    "SciPy": lambda x, y: cdist(x, y, "canberra"),
    "scikit-learn": sklearn_distances,
    "tiles": tiles,
    "points": lambda x, y: tiles(x[None], y[None])[0] if x.ndim == 2 else 1 / 0,
    "a list": lambda x, y: tiles(x, y).tolist(),
    "in single precision": lambda x, y: tiles(x, y).astype(np.float32).astype(float),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_callables_take_points_or_tiles(form, batch, rng):
    x, y = rng.random((*batch, 9, 3)), rng.random((5, 3))
    rtol = 1e-6 if "single" in form else 1e-13
    for n in (9, 1):
        found = otkit.solve_sample(x[..., :n, :], y, metric=FORMS[form])
        assert_allclose(found.value, otkit.solve_sample(x[..., :n, :], y, metric="canberra").value, rtol=rtol)


def test_callables_of_tensors(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(rng.random((9, 3))), torch.tensor(rng.random((5, 3)))
    for metric in (lambda x, y: torch.cdist(x, y, p=1), lambda x, y: cdist(x, y, "cityblock")):
        found = otkit.solve_sample(x, y, metric=metric, reg=0.1)
        assert isinstance(found.plan, torch.Tensor)
        assert_allclose(found.plan, otkit.solve_sample(x, y, metric="cityblock", reg=0.1).plan, atol=1e-7)


NAN = float("nan")
REFUSED = {
    "a number": (lambda x, y: 1.0, r"of shape \(k, r, m\) .* or \(r, m\) .*, got shape"),
    "a shape": (lambda x, y: np.zeros((4, 4)), r"must return costs of shape .* got shape \(1, 4, 4\)"),
    "what it raises": (lambda x, y: x["cost"], "must return costs of shape .* got IndexError"),
    "words": (lambda x, y: "far", "got TypeError: what the metric returns must hold real numbers"),
    "complex": (lambda x, y: tiles(x, y) * 1j, "got TypeError: what the metric returns must hold real numbers"),
    "nan": (lambda x, y: tiles(x, y) * NAN, r"metric must return numbers or \+inf .* got NaN"),
    "all infinite": (lambda x, y: tiles(x, y) * np.inf, "must be finite, got only infinite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_callables_return_is_checked(name, rng):
    metric, words = REFUSED[name]
    for reg in (None, 0.1):
        with pytest.raises((TypeError, ValueError), match=words):
            otkit.solve_sample(rng.random((5, 2)), rng.random((6, 2)), metric=metric, reg=reg)


def test_a_callable_that_changes_its_shape_is_told(rng):
    def metric(x, y):
        return tiles(x, y)[..., : min(y.shape[-2], 3)]

    with pytest.raises(
        ValueError, match=r"of shape \(k, r, m\) .*, got shape \(1, 5, 3\) for x \(1, 5, 2\) and y \(1, 6, 2\)"
    ):
        otkit.solve_sample(rng.random((5, 2)), rng.random((6, 2)), metric=metric)


P = [[0.5, 0.25], [1.0, 0.5]]
DOMAINS = {
    "degrees": ("haversine", [[48.2, 16.4]], "latitudes up to π/2 .* np.radians"),
    "longitudes first": ("haversine", [[2.0, 0.1]], "latitudes first"),
    "three coordinates": ("haversine", [[1.0, 2.0, 3.0]], "needs points .latitude, longitude., got 3"),
    "no sets": ("jaccard", [[0.5, 1.0]], "coordinates 0 and 1, got 0.5 in x; pass x != 0"),
    "empty sets": ("dice", [[0.0, 0.0]], "not between two empty sets; drop"),
    "a negative histogram": ("jensenshannon", [[-0.5, 1.0]], "non-negative and not all 0"),
    "an empty histogram": ("jensenshannon", [[0.0, 0.0]], "non-negative and not all 0"),
    "no variation": ("correlation", [[2.0, 2.0]], "coordinates differ, got one with equal coordinates in x"),
    "the origin twice": ("braycurtis", [[0.0, 0.0]], "not between points whose coordinates cancel"),
    "opposite points": ("braycurtis", [[1.0, 0.0], [-1.0, 0.0]], "coordinates cancel"),
    "large": ("canberra", [[1e305, 0.0]], "at most 1e.300 .* divide the points"),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_points_without_a_distance_are_refused(name):
    metric, x, words = DOMAINS[name]
    with pytest.raises(ValueError, match=words):
        otkit.solve_sample(x, x, metric=metric)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("minkowski", r"pass \('minkowski', p\)"),
        (("minkowski", 0.5), "p of at least 1, got p=0.5"),
        (("minkowski", "2"), "p of at least 1"),
        ("mahalanobis", "Cholesky factor L .* pass 'euclidean'"),
        ("seuclidean", "divide the coordinates by their standard deviations and pass 'euclidean'"),
        (np.ones(3), "metric must be one of"),
    ],
    ids=str,
)
def test_names_that_need_more_are_refused_with_what_to_do(metric, words):
    with pytest.raises(ValueError, match=words):
        otkit.solve_sample(P, P, metric=metric)


def test_the_advice_for_names_that_need_more(rng):
    x, y = rng.random((9, 3)), rng.random((7, 3))
    VI = np.linalg.inv(np.cov(np.concatenate([x, y]).T))
    factor = np.linalg.cholesky(VI)
    found = otkit.solve_sample(x @ factor, y @ factor, metric="euclidean").value
    assert_allclose(found, otkit.solve(cdist(x, y, "mahalanobis", VI=VI)).value, rtol=1e-12)
    V = np.var(np.concatenate([x, y]), axis=0, ddof=1)
    found = otkit.solve_sample(x / V**0.5, y / V**0.5, metric="euclidean").value
    assert_allclose(found, otkit.solve(cdist(x, y, "seuclidean", V=V)).value, rtol=1e-12)


def test_gradients_by_points_are_refused_with_what_to_do(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(rng.random((5, 2)), requires_grad=True), torch.tensor(rng.random((4, 2)))
    with pytest.raises(ValueError, match="no gradient by the points of metric 'chebyshev'; form the costs with it"):
        otkit.solve_sample(x, y, metric="chebyshev", reg=0.1)
    C = (x[:, None] - y).abs().amax(-1)
    otkit.solve(C, reg=0.1).value.backward()
    assert x.grad.isfinite().all()
