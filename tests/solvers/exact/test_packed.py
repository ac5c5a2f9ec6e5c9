import itertools

import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

import otkit
from otkit.distance import distance_cost
from otkit.solvers.exact import packed

CASES = [
    *[(d, p, metric) for d in (2, 3) for p in (1, 2, 3.5) for metric in ("euclidean", "cityblock")],
    (20, 2, "euclidean"),
    *[(4, p, "cosine") for p in (1, 2)],
    *[(1, p, metric) for p in (1, 2, 3) for metric in ("euclidean", "cityblock")],
]


def clouds(rng, d, sizes):
    """Random clouds with ties and points without mass, packed: points, weights, start."""
    start = np.concatenate([[0], np.cumsum(sizes)])
    x = rng.normal(size=(start[-1], d))
    x[::7] = x[0]
    w = np.concatenate([rng.dirichlet(np.ones(k)) * (rng.random(k) < 0.8) + (np.arange(k) == 0) for k in sizes])
    w /= np.repeat(np.add.reduceat(w, start[:-1]), sizes)
    return x, w, start


def pairs(count):
    return (np.array(v) for v in zip(*itertools.combinations(range(count), 2), strict=True))


@pytest.mark.parametrize(("d", "p", "metric"), CASES)
def test_pairs_are_solved_as_one_by_one(rng, d, p, metric):
    sizes = rng.integers(1, 12, 9)
    x, w, start = clouds(rng, d, sizes)
    first, second = pairs(9)
    found = packed.solve(packed.pack(x, w, start, distance_cost(p, metric)), first, second)
    assert (found.flag == 0).all()
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        one, other = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
        alone = otkit.wasserstein(x[one], x[other], w[one], w[other], p=p, metric=metric).result
        value, scale = float(alone.value), float(alone.problem.high[0])
        assert abs(found.value[k] - value) <= 1e-14 * scale
        assert found.lower[k] <= value + 1e-15 * scale
        assert found.upper[k] >= value - 1e-15 * scale
        assert found.upper[k] - found.lower[k] <= 2 * alone.gap + 1e-13 * scale
        if metric != "cosine":
            C = cdist(x[one], x[other], metric) ** p
            assert abs(found.value[k] - ot.emd2(w[one], w[other], C)) <= 1e-13 * scale


@pytest.mark.parametrize("d", [1, 2])
def test_results_depend_on_neither_threads_nor_calls(rng, d, monkeypatch):
    packing = packed.pack(*clouds(rng, d, rng.integers(1, 30, 60)), distance_cost(2, "euclidean"))
    first, second = pairs(60)
    monkeypatch.setattr(packed, "_RUN", 20_000)
    monkeypatch.setattr("otkit.kernels.threads._WORTH", 1)
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", threads)
        found.append(packed.solve(packing, first, second))
    parts = [packed.solve(packing, first[k : k + 100], second[k : k + 100]) for k in range(0, first.size, 100)]
    found.append([np.concatenate(v) for v in zip(*parts, strict=True)])
    for other in found[1:]:
        assert all((one == two).all() for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("d", [1, 2])
def test_pairs_that_are_not_ordinary_are_left_to_the_general_way(d):
    x = np.arange(8.0 * d).reshape(8, d)
    w = np.array([0.5, 0.5, 0.5, 0.5, 1.0, 1.5, -1.0, 2.0])
    packing = packed.pack(x, w, np.array([0, 2, 4, 6, 8]), distance_cost(2, "euclidean"))
    found = packed.solve(packing, np.array([0, 0, 0]), np.array([1, 2, 3]))
    assert (found.flag == 0).tolist() == [True, False, False]
    mass, some = np.repeat([0.5, 0.25], 4), np.where(x > 6 * d, 1e200, x)
    packing = packed.pack(some, mass, np.array([0, 2, 4, 8]), distance_cost(2, "euclidean"))
    assert (packed.solve(packing, np.array([0, 0]), np.array([1, 2])).flag == 0).tolist() == [True, False]
    far = packed.pack(x * 1e200, w, np.array([0, 4, 8]), distance_cost(2, "euclidean"))
    assert packed.solve(far, np.array([0]), np.array([1])).flag[0] != 0
    near = packed.pack(x * 1e-300, w, np.array([0, 4, 8]), distance_cost(2, "euclidean"))
    assert packed.solve(near, np.array([0]), np.array([1])).flag[0] != 0
    assert packed.pack(np.where(x > 6, np.inf, x), w, np.array([0, 8]), distance_cost(2, "euclidean")) is None
    assert packed.pack(x, w, np.array([0, 8]), distance_cost(2, np.subtract)) is None


def test_a_fill_value_is_left_to_the_general_way(rng):
    x = np.concatenate([rng.normal(size=(30, 2)), [[1e8, 1e8]], rng.normal(size=(30, 2)) + 1, [[1e8, 1e8]]])
    packing = packed.pack(x, np.full(62, 1 / 31), np.array([0, 31, 62]), distance_cost(2, "euclidean"))
    assert packed.solve(packing, np.array([0]), np.array([1])).flag[0] != 0


@pytest.mark.parametrize("d", [1, 2])
def test_a_call_can_be_stopped(rng, d, monkeypatch):
    monkeypatch.setattr(packed, "_RUN", 20_000)
    monkeypatch.setenv("OTKIT_NUM_THREADS", "1")
    packing = packed.pack(*clouds(rng, d, np.full(30, 9)), distance_cost(2, "euclidean"))
    asked = []
    found = packed.solve(packing, *pairs(30), lambda: asked.append(True) or len(asked) > 2)
    assert 0 < (found.flag == packed.LEFT).sum() < 435
    assert set(found.flag) == {0, packed.LEFT}
    left = packed.solve(packing, *pairs(30), lambda: True)
    assert (left.flag == packed.LEFT).all()
