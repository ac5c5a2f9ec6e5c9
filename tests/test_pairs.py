"""All pairs: the distances of `wasserstein`, kept in a file that an interrupted run goes on from."""

import csv
import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import otkit
from otkit import pairs


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


def lines(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def interrupted(measures, tmp_path, monkeypatch):
    """Where a run that came to two answers has left them, and how often a pair was solved since."""
    path, solved, measured = tmp_path / "pairs.csv", [], pairs.measured

    def twice(points, *arguments):
        if len(solved) == 2:
            raise KeyboardInterrupt
        solved.append(points)
        return measured(points, *arguments)

    monkeypatch.setattr(pairs, "measured", twice)
    with pytest.raises(KeyboardInterrupt):
        otkit.pairwise(measures, file=path, workers=1)
    solved.clear()

    def count(points, *arguments):
        solved.append(points)
        return measured(points, *arguments)

    monkeypatch.setattr(pairs, "measured", count)
    return path, solved


@pytest.mark.parametrize("p", [1, 2.5])
@pytest.mark.parametrize("metric", ["euclidean", "cityblock"])
def test_the_distances_are_those_of_the_pairs(measures, p, metric):
    result = otkit.pairwise(measures, p=p, metric=metric)
    assert result.converged.all()
    for i, j in itertools.combinations(range(5), 2):
        (x, a), (y, b) = parts(measures[i]), parts(measures[j])
        pair = otkit.wasserstein(x, y, a, b, p=p, metric=metric)
        for matrix, value in zip(fields(result), (pair.distance, pair.lower, pair.upper, pair.status), strict=True):
            assert matrix[i, j] == matrix[j, i] == value
    for matrix in (result.distance, result.lower, result.upper):
        assert_array_equal(np.diag(matrix), 0)


def test_the_number_of_workers_changes_nothing(rng, monkeypatch):
    monkeypatch.setattr("otkit.kernels.numba.sweep._calls", 10**6)  # loops are compiled from the first call on
    clouds = rng.random((6, 300, 2))  # large enough for annealing, and threads inside
    results = [otkit.pairwise(clouds, workers=k) for k in (1, 3)]
    for one, other in zip(*map(fields, results), strict=True):
        assert_array_equal(one, other)


def test_other_libraries(xp, measures):
    given = [tuple(xp.asarray(v) for v in m) if isinstance(m, tuple) else xp.asarray(m) for m in measures]
    found = otkit.pairwise(given)
    assert isinstance(found.distance, np.ndarray)
    np.testing.assert_allclose(found.distance, otkit.pairwise(measures).distance, rtol=1e-12)


def test_a_regularisation_gives_the_cost_of_entropic_plans(measures):
    result = otkit.pairwise(measures, reg=0.1)
    (x, a), (y, b) = parts(measures[0]), parts(measures[1])
    one = otkit.solve_sample(x, y, a, b, metric="sqeuclidean", reg=0.1)
    assert result.distance[0, 1] == pytest.approx(float(one.value_linear) ** 0.5, rel=1e-12)
    exact = otkit.pairwise(measures)
    assert (result.lower <= exact.upper).all()
    assert (exact.lower <= result.upper).all()


def test_the_file_has_a_line_for_each_pair(measures, tmp_path):
    path = tmp_path / "pairs.csv"
    result = otkit.pairwise(measures, names=list("abcde"), file=path)
    header, *rows = lines(path)
    assert header == ["x", "y", "distance", "lower", "upper", "status", "question"]
    assert {(row[0], row[1]) for row in rows} == set(itertools.combinations("abcde", 2))
    for x, y, *numbers, status, _ in rows:
        at = "abcde".index(x), "abcde".index(y)
        assert [float(v) for v in numbers] == [v[at] for v in fields(result)[:3]]
        assert status == "CONVERGED"


def test_an_interrupted_run_goes_on(measures, interrupted):
    path, solved = interrupted
    assert len(lines(path)) == 3
    result = otkit.pairwise(measures, file=path)
    assert len(solved) == 8
    assert len(lines(path)) == 11
    for one, other in zip(fields(result), fields(otkit.pairwise(measures)), strict=True):
        assert_array_equal(one, other)
    solved.clear()
    again = otkit.pairwise(measures, file=path)
    assert not solved
    for one, other in zip(fields(result), fields(again), strict=True):
        assert_array_equal(one, other)


def test_more_measures_keep_the_pairs_of_the_others(measures, interrupted, rng):
    path, solved = interrupted
    otkit.pairwise(measures, file=path)
    solved.clear()
    otkit.pairwise([*measures, rng.random((4, 2))], file=path)
    assert len(solved) == 5


def test_half_a_line_is_solved_again(measures, interrupted):
    path, solved = interrupted
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    result = otkit.pairwise(measures, file=path)
    assert len(solved) == 9
    assert {len(row) for row in lines(path)} == {7}
    assert_array_equal(result.distance, otkit.pairwise(measures).distance)


@pytest.mark.parametrize("change", ["points", "weights", "p", "metric", "rtol", "max_iter"])
def test_answers_to_another_question_are_refused(measures, interrupted, change):
    path, solved = interrupted
    content, options = path.read_bytes(), {}
    if change == "points":
        measures[0] = measures[0] + 1e-9
    elif change == "weights":
        measures[1] = measures[1][0], measures[1][1][::-1].copy()
    else:
        options = {change: {"p": 1, "metric": "cityblock", "rtol": 0.1, "max_iter": 10}[change]}
    with pytest.raises(ValueError, match="answer for 0 and 1 with other data or options; give the name of a new file"):
        otkit.pairwise(measures, file=path, **options)
    assert path.read_bytes() == content
    assert not solved


def test_a_file_of_something_else_is_refused(measures, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="not a file of pairwise answers; give the name of a new file"):
        otkit.pairwise(measures, file=path)
    assert path.read_text() == "x,y\n1,2\n"


def test_an_exception_ends_the_solves_under_way(measures, monkeypatch):
    def endless(points, weights, cost, rtol, max_iter, stopped):
        if points[0] is measures[0]:
            raise MemoryError("no room")
        while not stopped(None):
            pass
        return otkit.wasserstein([[0.0]], [[0.0]])

    monkeypatch.setattr(pairs, "measured", endless)
    with pytest.raises(MemoryError, match="no room"):
        otkit.pairwise(measures, workers=8)


def test_pairs_that_do_not_converge_are_named(measures, tmp_path):
    options = dict(max_iter=2, names=list("abcde"), file=tmp_path / "pairs.csv")
    for _ in range(2):  # the second run has it from the file
        with pytest.warns(
            otkit.ConvergenceWarning, match=r"of 10 pairs did not converge; a and b: .*The distance lies"
        ):
            result = otkit.pairwise(measures, **options)
        assert result.status[0, 1] is otkit.Status.MAX_ITER
        assert "did not converge" in repr(result)
    with pytest.raises(otkit.NotConverged) as caught:
        otkit.pairwise(measures, strict=True, **options)
    assert_array_equal(caught.value.result.distance, result.distance)


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([np.zeros((2, 2))], {}, ValueError, "measures must be at least two, got 1"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], {}, ValueError, "measures 0 and 1, as x and y: .*same dimension"),
        ([np.zeros((2, 2)), np.full((2, 2), np.nan)], {}, ValueError, "measures 0 and 1, as x and y: .*finite"),
        ([np.eye(2), (np.eye(2), [1.0, 2.0])], {}, ValueError, "measures 0 and 1, as x and y: .*same total mass"),
        ([np.eye(2), np.ones((3, 2, 2))], {}, ValueError, r"measure 1 must be of points \(n, d\)"),
        ([np.eye(2), ["a", "b"]], {}, TypeError, "measures 0 and 1, as x and y: .*real numbers"),
        ([np.eye(2)] * 2, {"p": 0.5}, ValueError, "p must be"),
        ([np.eye(2)] * 2, {"rtol": 2}, ValueError, "rtol must be"),
        ([np.eye(2)] * 2, {"rtol": 0.1, "reg": 0.1}, ValueError, "rtol bounds .* pass one of them"),
        ([np.eye(2)] * 2, {"workers": 0}, ValueError, "workers must be a positive number"),
        ([np.eye(2)] * 2, {"max_iter": -1}, ValueError, "max_iter must be a positive number"),
        ([np.eye(2)] * 2, {"names": ["a"]}, ValueError, "names must be one for each of the 2 measures, got 1"),
        ([np.eye(2)] * 2, {"names": ["a", "a"], "file": "f.csv"}, ValueError, "names must differ .* got 'a' twice"),
        ([np.eye(2)] * 2, {"metric": by_first_coordinate, "file": "f.csv"}, ValueError, "needs a metric with a name"),
    ],
)
def test_bad_input(given, options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        otkit.pairwise(given, **options)
    assert not list(tmp_path.iterdir())
