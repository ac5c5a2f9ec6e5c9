"""Squared distances in high dimension: the start from a sample, and pricing in single precision with its proof."""

import tracemalloc

import numpy as np
import ot
import pytest

import otkit
from otkit.geometry.costs import Cost
from otkit.geometry.points import PointCloud
from otkit.problems.linear import LinearProblem
from otkit.problems.squares import multiplies
from otkit.solvers.exact import products, solver


@pytest.fixture
def few(monkeypatch):
    """Problems of any size go this way, from samples of 60 points."""
    monkeypatch.setattr("otkit.problems.squares.MANY", 0)
    monkeypatch.setattr(products, "_SAMPLE", 60)


def clouds(rng, n=150, m=200, d=20, scale=1.0, shift=0.0):
    spectrum = np.arange(1.0, d + 1) ** -0.5
    return scale * (rng.normal(size=(n, d)) * spectrum + shift), scale * (
        rng.normal(size=(m, d)) * spectrum[::-1] + shift
    )


def costs(x, y):
    return ((x[:, None].astype(np.longdouble) - y) ** 2).sum(-1).astype(float)


FAMILIES = {
    "gauss": lambda r: clouds(r),
    "64 dimensions": lambda r: clouds(r, d=64),
    "4 dimensions": lambda r: clouds(r, d=4),
    "large units": lambda r: clouds(r, scale=1e12),
    "small units": lambda r: clouds(r, scale=1e-12),
    "far from the origin": lambda r: clouds(r, shift=1e4),
    "few columns": lambda r: clouds(r, m=3),
    "duplicates": lambda r: tuple(np.repeat(v[:50], 3, axis=0) for v in clouds(r)),
    "ties": lambda r: tuple(r.integers(0, 2, (120, 8)).astype(float) for _ in "xy"),
    "clusters": lambda r: tuple(v + 100 * r.integers(0, 3, (len(v), 1)) for v in clouds(r, n=200)),
    "outlier": lambda r: (np.concatenate([clouds(r)[0], np.full((1, 20), 1e3)]), clouds(r)[1]),
    "one value": lambda r: (np.ones((150, 5)), np.zeros((200, 5))),
    "equal": lambda r: (clouds(r)[0],) * 2,
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimum_is_found_and_proven(family, weighted, rng):
    x, y = FAMILIES[family](rng)
    a, b = (rng.dirichlet(np.full(len(v), 0.5)) if weighted else np.full(len(v), 1 / len(v)) for v in (x, y))
    if weighted:
        a[::7], b[2::11] = 0, 0
        a, b = a / a.sum(), b / b.sum()
    C = costs(x, y)
    exact = C.max() * ot.emd2(a, b, C / C.max(), numItermax=10**7)
    seen = []
    found = otkit.solve_sample(x, y, a, b, method="exact", callback=lambda p: seen.append(p.reg[0]))
    assert seen[0] > 0  # the sample has a regularisation
    assert found.status is otkit.Status.CONVERGED
    assert found.lower - 1e-13 * C.max() <= exact <= found.upper + 1e-13 * C.max()
    assert found.gap <= 1e-9 * C.max()
    f, g = found.potentials
    some = (a[:, None] > 0) | (b > 0)
    assert (f[:, None] + g <= C + 1e-12 * C.max())[some].all()
    rows, cols = found.marginals
    assert abs(rows - a).sum() + abs(cols - b).sum() < 1e-12


@pytest.mark.usefixtures("few")
def test_the_range_of_many_points_is_bounded_without_a_pass(rng):
    for name in ("gauss", "far from the origin", "4 dimensions", "outlier"):
        x, y = FAMILIES[name](rng)
        C = costs(x, y)
        problem = LinearProblem.build(PointCloud(x, y))
        assert C.max() <= problem.high[0] <= 8 * C.max()
        found = otkit.solve_sample(x, y, method="exact", callback=lambda p: None)
        assert found.converged
        np.testing.assert_allclose(float(found.value), ot.emd2([], [], C), rtol=1e-9, atol=1e-12 * C.max())


@pytest.mark.parametrize("d", [4, 33, 300])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_best_arcs_have_lower_bounds_close_to_their_costs(d, scale, rng):
    x, y = clouds(rng, 130, 700, d, scale)
    x[0] *= 1e3  # an outlier costs only its own arcs their digits
    g = scale**2 * rng.normal(size=700)
    C = costs(x, y)
    R = C - g
    of = products.Products.of(PointCloud(x, y).flat(()), np.arange(130), np.arange(700))
    cols, bounds = of.best(g, 7)
    true = np.take_along_axis(R, cols.astype(int), 1)
    size = ((x - x.mean(0)) ** 2).sum(-1)[:, None] + ((y - y.mean(0)) ** 2).sum(-1).max() + abs(g).max()
    assert (bounds <= true).all()
    assert (true - bounds <= 4e-7 * (d + 8) * size).all()
    others = R.copy()
    np.put_along_axis(others, cols.astype(int), np.inf, axis=1)
    assert (bounds[:, -1] <= others.min(1)).all()
    reg = 0.05 * np.median(R)
    soft = -reg * np.log(np.exp((R.min(1, keepdims=True) - R) / reg).sum(1)) + R.min(1)
    np.testing.assert_allclose(of.softmin(g, reg)[1:], soft[1:], rtol=1e-4, atol=1e-2 * reg)
    np.testing.assert_allclose(of.mean(np.full(130, 1 / 130), np.full(700, 1 / 700)), C.mean(), rtol=1e-5)


@pytest.mark.usefixtures("few")
def test_stopping_at_any_step_leaves_a_valid_interval(rng, monkeypatch):
    monkeypatch.setattr(solver, "_PIVOTS", 40)
    x, y = clouds(rng)
    exact = ot.emd2([], [], costs(x, y))
    for most in range(1, 8):
        calls = []
        with pytest.warns(otkit.ConvergenceWarning):
            found = otkit.solve_sample(x, y, callback=lambda p: calls.append(p) or len(calls) >= most)  # noqa: B023
        assert found.status is otkit.Status.STOPPED
        assert found.lower <= exact * (1 + 1e-12)
        assert exact * (1 - 1e-12) <= found.upper < np.inf
    assert found.gap < 0.5 * exact


@pytest.mark.usefixtures("few")
def test_a_start_takes_the_place_of_the_sample(rng):
    x, y = clouds(rng)
    first = otkit.solve_sample(x, y)
    again = otkit.solve_sample(x, y, init=first)
    assert again.converged
    assert int(again.n_iter) < 0.5 * int(first.n_iter)
    np.testing.assert_allclose(float(again.value), float(first.value), rtol=1e-12)


@pytest.mark.usefixtures("few")
def test_other_costs_go_the_usual_way(rng):
    x, y = clouds(rng)
    for cloud in (PointCloud(x, y, "euclidean"), PointCloud(x[:, :3], y[:, :3]), PointCloud(x, y, "cityblock")):
        assert not multiplies(cloud.flat(()))
    assert multiplies(PointCloud(x, y, "cosine").flat(()))
    cosine = otkit.solve_sample(x, y, metric="cosine", callback=lambda p: None)
    C = PointCloud(x, y, Cost("cosine")).flat(()).block(slice(0, 1), slice(0, 150))[0]
    np.testing.assert_allclose(float(cosine.value), ot.emd2([], [], C), rtol=1e-9)


def test_many_points_are_solved_without_a_matrix(rng, monkeypatch):
    monkeypatch.setattr(products, "_SAMPLE", 200)
    x, y = clouds(rng, 4200, 4100, 16)
    otkit.solve_sample(x[:200], y[:200], rtol=1e-3)  # compiles
    tracemalloc.start()
    try:
        found = otkit.solve_sample(x, y, rtol=1e-3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.method == "exact"
    assert found.converged
    assert found.gap < 1e-9 * found.upper
    assert found.plan_sparse().mass.size <= 8300
    assert peak < 2 * 4200 * 4100  # two bytes a pair
