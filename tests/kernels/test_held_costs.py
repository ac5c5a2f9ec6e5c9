"""Costs of points that are kept in memory, and the memory that they are kept in."""

import gc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import otkit
from otkit import PointCloud, kernels
from otkit.kernels import memory
from otkit.kernels.numba.tiles import filled


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine", "chebyshev"])
@pytest.mark.parametrize("unbalanced", [None, 1.0])
def test_held_costs_are_those_computed_by_tiles(rng, monkeypatch, metric, unbalanced):
    x, y = rng.normal(size=(3, 130, 20)), rng.normal(size=(140, 20))
    options = dict(metric=metric, reg=0.5, unbalanced=unbalanced, tol=1e-10)
    held = otkit.solve_sample(x, y, **options)
    assert held.problem.reduced.held.shape == (3, 130, 140)
    monkeypatch.setattr(kernels, "_HELD", 0)
    wanted = otkit.solve_sample(x, y, **options)
    assert wanted.problem.reduced.held is None
    for name in ("value", "f", "g", "plan", "lower", "upper"):
        assert_allclose(getattr(held, name), getattr(wanted, name), rtol=1e-7, atol=1e-9)
    v, u = rng.normal(size=140), rng.normal(size=130)
    assert_allclose(held.apply(v), wanted.apply(v), atol=1e-9)
    assert_allclose(held.apply_t(u), wanted.apply_t(u), atol=1e-9)


@pytest.mark.parametrize("n", [1, 31, 32, 70, 129])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_costs_of_points_with_themselves_are_those_of_a_copy(rng, metric, n):
    x = rng.normal(size=(3, n, 20)) + 5.0
    x[1, n // 2] = x[1, 0]
    alike, copied = (PointCloud(x, y, metric).flat((3,)) for y in (x, x.copy()))
    assert alike.x is alike.y
    found, wanted = filled(alike), filled(copied)
    assert_allclose(found, found.swapaxes(1, 2), rtol=1e-13)
    assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
    assert not found[:, np.arange(n), np.arange(n)].any()


def test_costs_that_a_function_computes_are_asked_for_once(rng):
    pairs = []

    def metric(x, y):
        pairs.append(x.shape[-2] * y.shape[-2])
        return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)

    x, y = rng.normal(size=(90, 2)), rng.normal(size=(90, 2))
    result = otkit.solve_sample(x, y, metric=metric, reg=0.05)
    assert result.converged
    assert result.value > 0
    assert sum(pairs) < 1.1 * x.shape[0] * y.shape[0]


def test_memory_is_lent_again_once_no_view_refers_to_it():
    memory._idle.clear()
    one = memory.lent((1000, 100))
    row, place = one[3], one.ctypes.data
    row[:] = 7.0
    del one
    gc.collect()
    other = memory.lent((1000, 100))  # a view is left
    other[:] = 0.0
    assert other.ctypes.data != place
    assert_array_equal(row, 7.0)
    del row
    assert memory.lent((100, 1000), np.float64).ctypes.data == place


def test_idle_memory_is_bounded():
    rooms = [memory.lent((2**21 + k,)) for k in range(8)]  # 16 MiB each
    del rooms
    assert 0 < sum(room.size for room in memory._idle.values()) <= memory.NEGLIGIBLE
