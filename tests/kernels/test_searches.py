"""Trees over points: their nodes and cells, and their operations against those on tiles, bit for bit."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from otkit import PointCloud
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose, searches
from otkit.kernels.numba import NUMBA
from otkit.kernels.searches import MANY, TREES, Search
from otkit.kernels.trees import Tree, tree_of

METRICS = [
    *("sqeuclidean", "euclidean", "cityblock", "chebyshev", "cosine"),
    *(("power", p) for p in (1.5, 3.0, 4.0, 20.0)),
]
CLOUDS = ["normal", "lattice", "line", "small", "far", "outliers", "one", "equal", "few"]


def cloud(kind, d, rng):
    """Points of two sides, adversarial for a tree."""
    n, m = {"one": (1, 150), "few": (130, 1)}.get(kind, (150, 210))
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 2 + 1
    if kind == "lattice":
        return np.round(2 * x) / 2 + 0.25, np.round(2 * y) / 2 + 0.25  # ties and duplicates, none at the origin
    if kind == "line":
        return x[:, :1] * np.arange(1, d + 1.0), y[:, :1] * np.arange(1, d + 1.0)
    if kind == "outliers":
        x[0], y[:2] = -1e8, 1e6
    if kind == "equal":
        return np.ones((n, d)), np.ones((m, d))
    scale, shift = {"small": (1e-8, 0.0), "far": (1e8, 1e11)}.get(kind, (1.0, 0.0))
    return x * scale + shift, y * scale + shift


def reduced(kind, metric, d, seed=0):
    """Reduced costs of two items, with potentials of the columns, some −inf."""
    rng = np.random.default_rng(seed)
    x, y = cloud(kind, d, rng)
    base = PointCloud(np.stack([x, x[::-1] + x.std()]), y, metric).flat((2,))
    scale = float(np.median(base.block(slice(0, 1), slice(None)))) or 1.0
    row, col, g = (rng.normal(size=(2, k)) * s * scale for k, s in ((len(x), 1.0), (len(y), 1.0), (len(y), 0.1)))
    g[1, ::3] = -np.inf
    return Reduced(base, row, col), g


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_transforms_are_those_of_all_pairs(metric, kind):
    for d in (1, 2, 3):
        costs, g = reduced(kind, metric, d)
        f = TREES.c_transform(costs, g)
        assert_array_equal(f, NUMBA.c_transform(costs, g))
        f = np.where(f < np.inf, f, -np.inf)
        assert_array_equal(TREES.c_transform(costs.T, f), NUMBA.c_transform(costs.T, f))
        assert_array_equal(TREES.c_transform(costs.base, g), NUMBA.c_transform(costs.base, g))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_selected_entries_are_those_of_all_pairs(metric, kind, monkeypatch):
    monkeypatch.setattr(searches, "_SHARE", 1.0)  # no matter how many
    rng = np.random.default_rng(4)
    for d in (1, 2, 3):
        costs, g = reduced(kind, metric, d)
        f = NUMBA.c_transform(costs, np.where(g > -np.inf, g, 0.0)) * 0.9
        log_a, log_b = (np.log(rng.random(v.shape)) - np.where(rng.random(v.shape) < 0.2, np.inf, 0.0) for v in (f, g))
        reg = np.array([1e-3, 1e-1]) * (abs(f).max() or 1.0)
        at = Potentials(f, np.where(g > -np.inf, g, 0.0), log_a, log_b, reg)
        rows, cols = (rng.choice([-5.0, -20.0, -np.inf, np.inf, 2.0], size=v.shape) for v in (f, g))
        never = np.full(cols.shape, np.inf)
        for geometry, here, of_rows, of_cols in (
            (costs, at, rows, cols),
            (costs.T, at.T, cols, rows),
            (costs, at, np.full(rows.shape, -3.0), never),
        ):
            wanted = NUMBA.select(geometry, here, of_rows, of_cols, np.inf)
            found = TREES.select(geometry, here, of_rows, of_cols, wanted.row.size)
            for one, other in zip(found, wanted, strict=True):
                assert_array_equal(one, other)
            if wanted.row.size:
                assert TREES.select(geometry, here, of_rows, of_cols, wanted.row.size - 1) is None


def test_a_large_share_of_all_entries_is_selected_by_tiles(monkeypatch):
    costs, g = reduced("normal", "sqeuclidean", 2)
    at = Potentials(
        np.zeros((2, costs.n)), np.maximum(g, -1.0), np.zeros((2, costs.n)), 0 * np.maximum(g, 0), np.ones(2)
    )
    asked = []
    monkeypatch.setattr(
        searches, "NUMBA", replace(NUMBA, select=lambda *given: asked.append(given) or NUMBA.select(*given))
    )
    every = NUMBA.select(costs, at, np.full_like(at.f, -np.inf), np.full_like(g, np.inf), np.inf)
    for share, by_tiles in ((0.9, True), (0.01, False)):
        threshold = np.quantile(every.log_plan, 1 - share)
        asked.clear()
        given = costs, at, np.full_like(at.f, threshold), np.full_like(g, np.inf), np.inf
        for one, other in zip(TREES.select(*given), NUMBA.select(*given), strict=True):
            assert_array_equal(one, other)
        assert len(asked) == by_tiles


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_ranges_are_those_of_all_pairs(metric, kind):
    rng = np.random.default_rng(5)
    for d in (1, 2, 3):
        costs, _ = reduced(kind, metric, d)
        has_a, has_b = (rng.random((2, k)) < 0.7 for k in (costs.n, costs.m))
        has_a[:, 0] = has_b[:, 0] = True
        found, wanted = (kernels.cost_range(costs.base, has_a, has_b) for kernels in (TREES, NUMBA))
        for name, one, other in zip(found._fields, found, wanted, strict=True):
            if name in ("span", "high"):  # powers may differ in the last place
                assert_allclose(one, other, rtol=2.0**-50, atol=2.0**-50 * wanted.high.max())
            else:
                assert_array_equal(one, other, name)


def test_ranges_of_costs_that_overflow_say_which_arcs_are_forbidden():
    costs = PointCloud(np.array([[[0.0], [1e200]]]), np.array([[[0.0], [1.0]]])).flat((1,))
    every = np.ones((1, 2), dtype=bool)
    for one, other in zip(TREES.cost_range(costs, every, every), NUMBA.cost_range(costs, every, every), strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_nearest_columns_are_those_of_least_cost(metric):
    costs, g = reduced("normal", metric, 2)
    for item in range(2):
        of = Search.of(costs, item)
        found = of.nearest(g[item, of.cols.order], 5)
        C = costs.block(slice(item, item + 1), slice(None))[0] + costs.row[item][:, None] - g[item]
        values = np.take_along_axis(C[of.rows.order], of.cols.order[found], axis=1)
        assert_allclose(
            values, np.sort(C[of.rows.order], axis=1)[:, :5], rtol=1e-12, atol=1e-12 * abs(C[np.inf > C]).max()
        )
    few = Search.of(costs, 1).nearest(np.full(costs.m, -np.inf), 3)
    assert (few == -1).all()


def test_rows_without_columns_have_no_least_cost():
    costs, g = reduced("normal", "sqeuclidean", 2)
    assert (TREES.c_transform(costs, np.full_like(g, -np.inf)) == np.inf).all()


def test_a_tree_has_every_point_once_and_its_boxes_are_tight():
    points = np.random.default_rng(0).normal(size=(1000, 3)).round(1)
    tree = Tree.over(points)
    assert_array_equal(np.sort(tree.order), np.arange(1000))
    assert_array_equal(tree.points, points[tree.order])
    for v in range(tree.start.size):
        inside = tree.points[tree.start[v] : tree.stop[v]]
        assert_array_equal(tree.low[v], inside.min(0))
        assert_array_equal(tree.high[v], inside.max(0))
    left, right = 2 * np.arange(tree.leaves) + 1, 2 * np.arange(tree.leaves) + 2
    assert_array_equal(tree.start[left], tree.start[: tree.leaves])
    assert_array_equal(tree.stop[left], tree.start[right])
    assert_array_equal(tree.stop[right], tree.stop[: tree.leaves])


def test_moments_are_those_of_the_points_of_a_node():
    rng = np.random.default_rng(1)
    points, weights = rng.normal(size=(300, 2)) + 1e6, rng.random(300)
    weights[rng.random(300) < 0.7] = 0
    tree = Tree.over(points)
    found = tree.moments(weights)
    assert_array_equal(found.weights, weights[tree.order])
    for v in range(tree.start.size):
        part = slice(tree.start[v], tree.stop[v])
        w, x = found.weights[part], tree.points[part]
        assert_allclose(found.mass[v], w.sum(), rtol=1e-14)
        share = w / w.sum() if w.any() else np.full(w.size, 1 / w.size)
        mean = share @ x
        assert_allclose(found.mean[v], mean, rtol=1e-15)
        assert_allclose(found.variance[v], w.any() * (share @ ((x - mean) ** 2).sum(-1)), atol=1e-9)


def test_cells_partition_the_points_by_variance():
    rng = np.random.default_rng(2)
    points, weights = rng.normal(size=(2000, 2)), rng.random(2000) * (rng.random(2000) < 0.8)
    tree = Tree.over(points)
    of = tree.moments(weights)
    for bound in (0.0, 1e-3, 0.1, 100.0):
        cells = tree.cells(of, bound)
        label = cells.labels(tree)
        assert label.size == 2000
        assert label.max() == cells.first.size - 1
        assert_allclose(cells.mass, np.bincount(label, weights), atol=1e-15)
        assert (cells.variance <= bound * (1 + 1e-9)).all()
        some = cells.mass > 0
        mean = np.stack([np.bincount(label, weights * x)[some] / cells.mass[some] for x in points.T], axis=-1)
        assert_allclose(cells.mean[some], mean, rtol=1e-12, atol=1e-13)
        # The total variance is that within the cells and that between them.
        centre = weights @ points / weights.sum()
        total = weights @ ((points - centre) ** 2).sum(-1)
        between = cells.mass @ ((cells.mean - centre) ** 2).sum(-1)
        assert_allclose(cells.mass @ cells.variance + between, total, rtol=1e-12)
    assert tree.cells(of, 100.0).first.size == 1
    assert tree.cells(of, 0.0).first.size > 1500
    assert tree.cut(of, np.zeros(tree.start.size, dtype=bool)).first.size == 2000


def test_a_tree_lives_as_long_as_its_points():
    points = np.random.default_rng(3).normal(size=(1, 100, 2))
    tree = tree_of(points)
    assert tree_of(points) is tree
    seen = weakref.ref(tree)
    del points, tree
    gc.collect()
    assert seen() is None


def test_many_points_of_few_coordinates_are_searched():
    n = 4097
    for metric in METRICS:
        assert choose(PointCloud(np.ones((n, 3)), np.ones((n, 3)), metric)) is TREES
    plain = [
        PointCloud(np.ones((n - 1, 3)), np.ones((n - 1, 3))),
        PointCloud(np.ones((n, 4)), np.ones((n, 4))),
        PointCloud(np.ones((n, 2)), np.ones((n, 2)), ("power", 0.5)),
        PointCloud(np.ones((n, 2)), np.ones((n, 2)), "canberra"),
        PointCloud(np.ones((n, 2)), np.ones((n, 2)), lambda x, y: abs(x @ y.mT)),
    ]
    assert [choose(geometry) for geometry in plain] == [NUMBA] * len(plain)
    assert MANY == 2**24
