"""The nearest measures, and the bounds by which the others are not solved."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import ortho_group
from strategies import told

import otkit
from otkit.distance import distance_cost
from otkit.pairs import bounds
from otkit.pairs.clouds import checked as clouds_of

METRICS = ["euclidean", "cityblock", "cosine"]


def family(name, rng, count=16):
    """Measures of one kind: sizes, weights, spreads, ties and offsets differ between kinds."""
    d = {"line": 1, "space": 9, "tall": 70}.get(name, 2)
    found = []
    for _ in range(count):
        n = int(rng.integers(1, 12))
        x, a = rng.normal(size=(n, d)), rng.dirichlet(np.full(n, 0.5))
        if name == "shifted":
            x += rng.normal(size=d) * 10
        elif name == "far":
            x += 1e7
        elif name == "huge":
            x *= 1e120
        elif name == "small":
            x *= 1e-90
        elif name == "ties":
            x = np.round(x)
        elif name == "thin":
            x = x * [1.0, 1e-6] @ [[0.6, 0.8], [-0.8, 0.6]]
        elif name == "sparse":
            a = np.where(rng.random(n) < 0.5, 0.0, a) + (np.arange(n) == 0) * 1e-30
            a /= a.sum()
        elif name == "tailed":
            x *= rng.lognormal(sigma=3)
        found.append((x, a) if rng.random() < 0.7 else x + 0.0)
    return found


FAMILIES = [
    *("plain", "line", "space", "tall", "shifted", "far", "huge", "small", "ties", "thin", "sparse", "tailed"),
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")  # cosines of nearly equal directions
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", FAMILIES)
def test_bounds_are_below_the_distances(name, metric, p, monkeypatch):
    monkeypatch.setattr(bounds, "_WORTH", -np.inf)
    if name == "huge" and p > 2:
        pytest.skip("costs overflow")
    rng = np.random.default_rng(FAMILIES.index(name))
    measures = [
        m if not isinstance(m, tuple) else (m[0] + (metric == "cosine") * 1e-3, m[1]) for m in family(name, rng)
    ]
    if metric == "cosine":
        measures = [(m if isinstance(m, np.ndarray) else m[0]) for m in measures]
        measures = [np.where(abs(x).sum(-1, keepdims=True) > 0, x, 1.0) for x in measures]
    cost = distance_cost(p, metric)
    sketches = bounds.sketches(clouds_of(measures, cost), cost)
    count = len(measures)
    below = sketches.below(np.arange(count), slice(0, count))
    by_moments = np.stack([sketches.of_moments(row, np.arange(count)) for row in range(count)])
    assert by_moments.any() == (metric == "cosine" or (metric == "euclidean" and p >= 2))
    found = otkit.pairwise(measures, p=p, metric=metric)
    with told((name, metric, p)):
        for bound in (below, by_moments):
            assert (bound <= found.upper).all()
            assert np.isfinite(bound).all()
        if name in ("line", "shifted", "tailed") and metric != "cosine":
            assert np.median(below[found.distance > 0] / found.distance[found.distance > 0]) > 0.7


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")  # cosines of nearly equal directions
@pytest.mark.parametrize(
    ("name", "metric"),
    [(name, metric) for name in FAMILIES for metric in METRICS if (name, metric) != ("ties", "cosine")]
    + [("plain", distance_cost(1, "euclidean"))],
)
def test_the_nearest_are_those_of_all_pairs(name, metric, monkeypatch):
    monkeypatch.setattr(bounds, "_WORTH", -np.inf)
    rng = np.random.default_rng(100 + FAMILIES.index(name))
    measures = family(name, rng, 20)
    found = otkit.pairwise(measures, metric=metric, neighbours=3)
    every = otkit.pairwise(measures, metric=metric)
    distance = every.distance + np.diag(np.full(20, np.inf))
    nearest = np.sort(distance, axis=1)[:, :3]
    assert_array_equal(found.distance, nearest)
    rows = np.arange(20)[:, None]
    assert_array_equal(distance[rows, found.indices], nearest)
    assert_array_equal(every.lower[rows, found.indices], found.lower)
    assert_array_equal(every.upper[rows, found.indices], found.upper)
    assert_array_equal(found.converged, every.converged[rows, found.indices])
    for row in range(20):
        others = np.setdiff1d(np.arange(20), [row, *found.indices[row]])
        proven = found.upper[row] <= every.lower[row, others].min()
        assert (found.certified[row] <= proven).all()
        assert (proven <= found.certified[row]).all() or not found.certified[row].all()
    assert found.pairs == 190
    if callable(metric):
        assert found.solved == 190


def test_few_pairs_are_solved(rng):
    clouds = [rng.normal(size=(6, 3)) + 8 * rng.normal(size=3) for _ in range(120)]
    found = otkit.pairwise(clouds, neighbours=2)
    assert found.certified.all()
    assert found.solved < 0.15 * found.pairs
    assert repr(found) == (
        f"NeighboursResult(W2 to the 2 nearest of 120 measures; {found.solved} of 7140 pairs solved; all certified)"
    )


@pytest.mark.parametrize("d", [2, 3, 10])
def test_moments_tell_shapes_apart_that_have_equal_projections(rng, monkeypatch, d):
    """Clouds whose longest axes differ, of one mean if the axes are few."""
    turns, shift = ortho_group.rvs(d, size=40, random_state=0), (d > 8) * rng.normal(size=(40, d))
    clouds = list(rng.normal(size=(40, 60, d)) * np.geomspace(1, 0.1, d) @ turns + shift[:, None])
    found = otkit.pairwise(clouds, neighbours=2)
    monkeypatch.setattr(bounds, "_WORTH", np.inf)
    other = otkit.pairwise(clouds, neighbours=2)
    for name in ("indices", "distance", "lower", "upper", "certified"):
        assert_array_equal(getattr(found, name), getattr(other, name))
    assert found.certified.all()
    assert found.solved < 0.8 * other.solved
    cost = distance_cost(2, "euclidean")
    monkeypatch.setattr(bounds, "_WORTH", 0)
    sketches = bounds.sketches(clouds_of(clouds, cost), cost)
    exact = [
        otkit.gaussian_wasserstein(x.mean(0), clouds[0].mean(0), np.cov(x.T, bias=True), np.cov(clouds[0].T, bias=True))
        for x in clouds
    ]
    by_moments = sketches.of_moments(0, np.arange(40))
    assert (by_moments <= np.array(exact) + 1e-12).all()
    if d <= 8:
        np.testing.assert_allclose(by_moments, exact, atol=1e-6)


def test_two_lists(rng):
    x, y = ([rng.normal(size=(4, 2)) for _ in range(count)] for count in (7, 11))
    found, every = otkit.pairwise(x, y, neighbours=4), otkit.pairwise(x, y)
    assert_array_equal(found.indices, np.argsort(every.distance, axis=1)[:, :4])
    assert_array_equal(otkit.pairwise(x, y, neighbours=11).distance, np.sort(every.distance, axis=1))


def test_neither_workers_nor_rounds_change_anything(rng, monkeypatch):
    clouds = list(rng.normal(size=(30, 5, 2)))
    one = otkit.pairwise(clouds, neighbours=3, workers=1)
    monkeypatch.setattr("otkit.pairs.neighbours._ROWS", 7)
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 1)
    other = otkit.pairwise(clouds, neighbours=3, workers=3)
    for name in ("indices", "distance", "lower", "upper", "certified", "solved"):
        assert_array_equal(getattr(one, name), getattr(other, name))


def test_equal_distances_are_not_certified():
    """Any two of the three that are equally far may be the nearest; the one that is nearer is certain."""
    clouds = [[[0.0]], [[1.0]], [[-2.0]], [[2.0]], [[0.0], [4.0]], [[50.0]]]
    found = otkit.pairwise(clouds, p=1, neighbours=2)
    assert_array_equal(found.indices[0], [1, 2])
    assert_array_equal(found.distance[0], [1, 2])
    assert_array_equal(found.certified[0], [True, False])
    assert "are not certified" in repr(found)


def test_wide_intervals_are_not_certified(rng):
    clouds = list(rng.normal(size=(12, 6, 2)))
    found = otkit.pairwise(clouds, reg=5.0, neighbours=2)
    assert not found.certified.all()
    every = otkit.pairwise(clouds).distance + np.diag(np.full(12, np.inf))
    for row in range(12):
        true = np.argsort(every[row])[:2]
        assert set(found.indices[row][found.certified[row]]) <= set(true)


def test_pairs_that_do_not_converge_are_told(rng):
    clouds = list(rng.normal(size=(8, 12, 2)))
    with pytest.warns(otkit.ConvergenceWarning, match=r"pairs did not converge; \d and \d: .*The distance lies"):
        found = otkit.pairwise(clouds, neighbours=2, max_iter=1)
    assert not found.converged.all()
    with pytest.raises(otkit.NotConverged):
        otkit.pairwise(clouds, neighbours=2, max_iter=1, strict=True)
