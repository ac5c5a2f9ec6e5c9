"""All pairs: the distances of `wasserstein`, in any number of blocks, threads and lists."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import squareform

import otkit
from otkit.pairs import blocks
from otkit.pairs.results import Layout
from otkit.solvers.exact import packed


@pytest.fixture
def measures(rng):
    """Clouds of different sizes, some with weights."""
    sizes = (5, 9, 1, 12, 7)
    return [
        (rng.random((n, 2)), rng.dirichlet(np.ones(n))) if k % 2 else rng.random((n, 2)) for k, n in enumerate(sizes)
    ]


def parts(measure):
    return measure if isinstance(measure, tuple) else (measure, None)


def by_first_coordinate(x, y):
    return abs(x[..., :, None, 0] - y[..., None, :, 0])


def fields(result):
    return result.distance, result.lower, result.upper, result.status


def same(one, other):
    for a, b in zip(fields(one), fields(other), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("p", [1, 2.5])
@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "cosine", by_first_coordinate])
def test_the_distances_are_those_of_the_pairs(measures, p, metric):
    result = otkit.pairwise(measures, p=p, metric=metric)
    assert result.converged.all()
    for i, j in itertools.combinations(range(5), 2):
        (x, a), (y, b) = parts(measures[i]), parts(measures[j])
        pair = otkit.wasserstein(x, y, a, b, p=p, metric=metric)
        assert_allclose(result.distance[i, j], pair.distance, rtol=1e-10)
        assert result.lower[i, j] <= pair.upper
        assert pair.lower <= result.upper[i, j]
        assert result.status[i, j] is pair.status
    for matrix in (result.distance, result.lower, result.upper):
        assert_array_equal(matrix, matrix.T)
        assert_array_equal(np.diag(matrix), 0)
    assert (result.lower <= result.distance).all()
    assert (result.distance <= result.upper).all()


def test_large_pairs_and_options_go_to_the_solvers_of_a_pair(measures, monkeypatch):
    compiled, single, measured = otkit.pairwise(measures), [], blocks.measured

    def counted(points, *arguments):
        single.append(tuple(map(len, points)))
        return measured(points, *arguments)

    monkeypatch.setattr(blocks, "measured", counted)
    monkeypatch.setattr(blocks, "_SMALL", 60)
    assert_allclose(otkit.pairwise(measures, workers=1).distance, compiled.distance, rtol=1e-12)
    assert single == [(9, 12), (9, 7), (12, 7)]
    assert_allclose(otkit.pairwise(measures, max_iter=10**5).distance, compiled.distance, rtol=1e-12)
    assert len(single) == 3 + 10


def test_points_on_a_line_are_sorted(rng):
    line = rng.normal(size=(7, 40, 1))
    found = otkit.pairwise(line, p=3)
    ordered = np.sort(line[..., 0], axis=-1)
    expected = (abs(ordered[:, None] - ordered[None]) ** 3).mean(-1) ** (1 / 3)
    assert_allclose(found.distance, expected, rtol=1e-13)
    assert (found.lower <= expected * (1 + 1e-14)).all()
    assert (expected <= found.upper * (1 + 1e-14)).all()


def test_two_lists_give_a_rectangle(measures):
    square = otkit.pairwise(measures)
    found = otkit.pairwise(measures[:2], measures[2:])
    for matrix, whole in zip(fields(found), fields(square), strict=True):
        assert matrix.shape == (2, 3)
        assert_array_equal(matrix, whole[:2, 2:])
    assert repr(found) == "PairwiseResult(W2 of 6 pairs of 2 measures with 3 others; all converged)"
    assert otkit.pairwise(measures[:1], measures[:1]).distance == pytest.approx(0, abs=1e-7)


def test_the_condensed_arrays_are_those_of_scipy(measures):
    found = otkit.pairwise(measures)
    assert_array_equal(squareform(found.condensed.distance), found.distance)
    assert len(found.condensed) == 10
    same(found, pickle.loads(pickle.dumps(found)))


@pytest.mark.parametrize("layout", [Layout(2), Layout(7), Layout(40), Layout(3, 5)])
def test_places_and_pairs_belong_together(layout):
    rows, cols = layout.shape
    all_of_them = [(i, j) for i in range(rows) for j in range(cols) if layout.cols is not None or i < j]
    i, j = np.transpose(all_of_them)
    assert_array_equal(layout.places(i, j), np.arange(layout.pairs))
    assert [layout.pair(k) for k in range(layout.pairs)] == all_of_them


@pytest.mark.parametrize("side", [1, 2, 3, 8])
@pytest.mark.parametrize("cols", [None, 4])
def test_blocks_cover_each_pair_once(side, cols):
    grid = blocks.Grid(Layout(7, cols), side)
    found = np.concatenate([grid.places(block) for block in grid.blocks])
    assert_array_equal(np.sort(found), np.arange(grid.layout.pairs))
    assert [grid.size(block) for block in grid.blocks] == [len(grid.places(block)) for block in grid.blocks]
    assert min(map(grid.size, grid.blocks)) > 0


@pytest.mark.parametrize(("count", "n", "d", "least", "most"), [
    (10_000, 5, 1, 2000, 50_000), (10_000, 2000, 2, 2000, 6000), (500, 20, 2, 100, 400), (60, 20, 2, 6, 20),
    (20, 3000, 2, 190, 190),
])  # fmt: skip
def test_the_number_of_blocks_suits_the_measures(count, n, d, least, most):
    class Sizes:
        sizes, points = np.full(count, n), np.empty((1, d))

    options = blocks.Options(blocks.Cost("euclidean", 2.0), None, None, None)
    grid = blocks.Grid(Layout(count), blocks.side_for(Sizes, Layout(count), options))
    high = -(-count // grid.side)
    assert least <= high * (high + 1) / 2 - (grid.side == 1) * count <= most


def test_neither_workers_nor_blocks_change_anything(rng, monkeypatch):
    monkeypatch.setattr("otkit.kernels.numba.sweep._calls", 10**6)  # loops are compiled from the first call on
    clouds = rng.random((6, 300, 2))  # large enough for annealing, and threads inside
    results = []
    for workers, side in ((1, 1), (3, 1), (2, 4)):
        monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_, side=side: side)
        results.append(otkit.pairwise(clouds, workers=workers))
    same(results[0], results[1])
    same(results[0], results[2])


def test_other_libraries(xp, measures):
    given = [tuple(xp.asarray(v) for v in m) if isinstance(m, tuple) else xp.asarray(m) for m in measures]
    found = otkit.pairwise(given)
    assert isinstance(found.distance, np.ndarray)
    assert_allclose(found.distance, otkit.pairwise(measures).distance, rtol=1e-12)


def test_a_callable_is_called_with_arrays_of_the_library(xp, measures):
    given = [tuple(xp.asarray(v) for v in m) if isinstance(m, tuple) else xp.asarray(m) for m in measures]
    met = set()

    def metric(x, y):
        met.add(type(x))
        return abs(x[..., :, None, 0] - y[..., None, :, 0])

    found = otkit.pairwise(given, metric=metric)
    assert type(xp.asarray(measures[0])) in met
    rtol = 1e-6 if "jax" in xp.__name__ else 1e-12  # in other threads than this one, JAX has float32
    assert_allclose(found.distance, otkit.pairwise(measures, metric=by_first_coordinate).distance, rtol=rtol)


def test_single_precision_has_its_own_tolerance_of_masses(rng):
    weights = rng.dirichlet(np.ones(9), size=3).astype(np.float32)
    clouds = [(x, a) for x, a in zip(rng.random((3, 9, 2), dtype=np.float32), weights, strict=True)]
    off = [clouds[0], (clouds[1][0], clouds[1][1] * np.float32(1 + 1e-4)), clouds[2]]
    for given in (clouds, off, [*off, clouds[0][0]]):
        found = otkit.pairwise(given)
        (x, a), (y, b) = given[0], given[1]
        assert found.distance[0, 1] == otkit.wasserstein(x, y, a, b).distance
    with pytest.raises(ValueError, match=r"measures 0 and 1, as a and b: .*same total mass"):
        otkit.pairwise([off[0], (off[1][0], off[1][1] * np.float32(1 + 1e-3))])


def test_a_regularisation_gives_the_cost_of_entropic_plans(measures):
    result = otkit.pairwise(measures, reg=0.1)
    (x, a), (y, b) = parts(measures[0]), parts(measures[1])
    one = otkit.solve_sample(x, y, a, b, metric="sqeuclidean", reg=0.1)
    # Distances are clipped to their intervals, and the plan has the weights up to its tolerance.
    assert result.distance[0, 1] == pytest.approx(float(one.value_linear) ** 0.5, rel=1e-6)
    exact = otkit.pairwise(measures)
    assert (result.lower <= exact.upper).all()
    assert (exact.lower <= result.upper).all()


@pytest.mark.parametrize("reg", [1e-4, 1e-2])
def test_distances_with_a_regularisation_are_in_their_intervals(reg, rng):
    """A plan that misses its marginals by the tolerance may cost less than the optimum."""
    clouds = [rng.normal(size=(rng.integers(3, 30), 2)) for _ in range(20)]
    found = otkit.pairwise(clouds, reg=reg)
    assert (found.lower <= found.distance).all()
    assert (found.distance <= found.upper).all()


def test_an_interval_of_the_width_that_is_asked_for(rng):
    clouds = rng.random((4, 40, 2))
    found, exact = otkit.pairwise(clouds, rtol=0.1), otkit.pairwise(clouds)
    assert found.converged.all()
    assert (found.upper - found.lower <= 0.1 * found.upper).all()
    assert (found.lower <= exact.upper).all()
    assert (exact.lower <= found.upper).all()


def test_memory_beyond_the_result_is_bounded(rng):
    clouds = list(rng.random((150, 3, 1)))
    otkit.pairwise(clouds[:3])  # compiles
    tracemalloc.start()
    try:
        found = otkit.pairwise(clouds)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    result = sum(v.nbytes for v in found.condensed.arrays.values())
    assert peak - result < 100 * len(found.condensed)


def test_an_exception_ends_the_solves_under_way(measures, monkeypatch):
    def endless(points, weights, cost, rtol, max_iter, stopped):
        if len(points[0]) == 5:
            raise MemoryError("no room")
        while not stopped(None):
            pass
        return otkit.wasserstein([[0.0]], [[0.0]])

    monkeypatch.setattr(blocks, "measured", endless)
    monkeypatch.setattr(blocks, "_SMALL", 0)
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 1)
    with pytest.raises(MemoryError, match="no room"):
        otkit.pairwise(measures, workers=8)


def test_pairs_that_do_not_converge_are_named(measures, tmp_path):
    options = dict(max_iter=2, names=list("abcde"), folder=tmp_path / "pairs")
    for _ in range(2):  # the second run has it from the folder
        with pytest.warns(
            otkit.ConvergenceWarning, match=r"of 10 pairs did not converge; a and b: .*The distance lies"
        ):
            result = otkit.pairwise(measures, **options)
        assert result.status[0, 1] is otkit.Status.MAX_ITER
        assert "did not converge" in repr(result)
    with pytest.raises(otkit.NotConverged) as caught:
        otkit.pairwise(measures, strict=True, **options)
    assert_array_equal(caught.value.result.distance, result.distance)
    with pytest.warns(otkit.ConvergenceWarning, match=r"of 6 pairs did not converge; a and d: "):
        otkit.pairwise(measures[:2], measures[2:], max_iter=2, names=list("abcde"))


TINY = 1e-200 * np.eye(2)


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([np.zeros((2, 2))], {}, ValueError, "measures must be at least two, got 1"),
        ([], {"others": [np.eye(2)]}, ValueError, "measures must be at least one, got 0"),
        ([np.eye(2)], {"others": []}, ValueError, "others must be at least one measure, got 0"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], {}, ValueError, "measure 1: .*same dimension"),
        ([np.zeros((2, 2))], {"others": [np.zeros((2, 3))]}, ValueError, "measure 1: .*same dimension"),
        ([np.zeros((2, 2)), np.full((2, 2), np.nan)], {}, ValueError, "measure 1: .*finite"),
        ([np.eye(2), (np.eye(2), [1.0, 2.0])], {}, ValueError, "measures 0 and 1, as a and b: .*same total mass"),
        ([(np.eye(2), [0.5, 0.5]), (np.eye(2), [1, -1])], {}, ValueError, "measure 1: .*non-negative"),
        ([np.eye(2), (np.eye(2), [1.0])], {}, ValueError, "measure 1: a must have 2 weights"),
        ([np.eye(2), np.ones(3)], {}, ValueError, r"measure 1: x must have shape .* pass x\[:, None\]"),
        ([np.eye(2), np.ones((3, 2, 2))], {}, ValueError, r"measure 1: .* of points \(n, d\) and weights"),
        ([np.eye(2), (np.eye(2), np.eye(2))], {}, ValueError, r"measure 1: .* of points \(n, d\) and weights"),
        ([np.eye(2), ["a", "b"]], {}, TypeError, "measure 1: .*real numbers"),
        ([np.eye(2), np.zeros((0, 2))], {}, ValueError, "measure 1: .*must not be empty"),
        ([np.eye(2), np.zeros((1, 2))], {"metric": "cosine"}, ValueError, "measure 1: .*positive length"),
        ([np.eye(2), 1e200 * np.eye(2)], {}, ValueError, "costs must be finite in float64"),
        ([np.eye(2), TINY, np.zeros((1, 2))], {}, ValueError, "measures 2 and 1, as x and y: .*underflow"),
        ([np.eye(2)] * 2, {"p": 0.5}, ValueError, "p must be"),
        ([np.eye(2)] * 2, {"rtol": 2}, ValueError, "rtol must be"),
        ([np.eye(2)] * 2, {"reg": 0}, ValueError, "reg must be positive, got 0"),
        ([np.eye(2)] * 2, {"reg": [1.0, 2.0]}, ValueError, "reg must be one number for all pairs"),
        ([np.eye(2)] * 2, {"rtol": 0.1, "reg": 0.1}, ValueError, "rtol bounds .* pass one of them"),
        ([np.eye(2)] * 2, {"workers": 0}, ValueError, "workers must be a positive number"),
        ([np.eye(2)] * 2, {"workers": True}, ValueError, "workers must be a positive number, got True"),
        ([np.eye(2)] * 2, {"max_iter": -1}, ValueError, "max_iter must be a positive number"),
        ([np.eye(2)] * 2, {"names": ["a"]}, ValueError, "names must be one for each of the 2 measures, got 1"),
        ([np.eye(2)] * 2, {"block": (1, 2)}, ValueError, "block= is a share .* pass folder="),
        ([np.eye(2)] * 2, {"block": (3, 2), "folder": "f"}, ValueError, r"block must be \(i, N\)"),
        ([np.eye(2)] * 2, {"block": 3, "folder": "f"}, ValueError, r"block must be \(i, N\)"),
        ([np.eye(2)] * 2, {"block": (0.5, 2), "folder": "f"}, ValueError, r"block must be \(i, N\)"),
        ([np.eye(2)] * 2, {"folder": 5}, TypeError, "folder must be the name of a folder, got 5"),
        ([np.eye(2)] * 2, {"folder": "a/b"}, FileNotFoundError, "must be in a folder that exists, got no a; make it"),
        ([np.eye(2)] * 2, {"folder": ""}, TypeError, "folder must be the name of a folder, got ''"),
        ([np.eye(2)] * 2, {"neighbours": True}, ValueError, "neighbours must be a whole number from 1 to 1, got True"),
        ([np.eye(2)] * 2, {"neighbours": 2}, ValueError, "neighbours must be a whole number from 1 to 1, got 2"),
        ([np.eye(2)] * 2, {"neighbours": 1, "folder": "f"}, ValueError, "folder= and block= keep all pairs"),
        ([np.eye(2)] * 2, {"metric": by_first_coordinate, "folder": "f"}, ValueError, "needs a metric with a name"),
    ],
)
def test_bad_input(given, options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        otkit.pairwise(given, **options)
    assert not list(tmp_path.iterdir())


def test_gradients_are_refused(measures):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"measure 1: x requires gradients, .* call otkit.wasserstein for each pair"):
        otkit.pairwise([torch.eye(2), torch.eye(2, requires_grad=True)])


def test_numbers_of_pairs_that_the_compiled_loop_leaves_are_not_read(measures, monkeypatch):
    expected = otkit.pairwise(measures)

    def leaving(*given, solve=packed.solve):
        found = solve(*given)
        found.flag[0] = packed.LEFT
        for numbers in found[:3]:
            numbers[0] = np.inf  # what was in memory
        return found

    monkeypatch.setattr(packed, "solve", leaving)
    assert_allclose(otkit.pairwise(measures).distance, expected.distance, rtol=1e-12)


def test_measures_of_any_iterable():
    clouds = [[[0.0]], [[1.0]], [[3.0]]]
    wanted = otkit.pairwise(clouds, p=1).distance
    np.testing.assert_array_equal(otkit.pairwise((v for v in clouds), p=1).distance, wanted)
    np.testing.assert_array_equal(otkit.pairwise(np.array(clouds), iter(clouds), p=1).distance, wanted)
    with pytest.raises(
        TypeError, match=r"measures must be a sequence of arrays of points, .* got NoneType; pass a list"
    ):
        otkit.pairwise(None)
