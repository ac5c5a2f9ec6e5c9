"""Spanning trees of the largest entries of plans, whose costs stay in any library, beside those of a scan."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from otkit import Dense, PointCloud
from otkit.arrays import map_arrays
from otkit.entropic import operations
from otkit.entropic.dual import Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import REFERENCE
from otkit.kernels.spanning import spanning_arcs_of_plan
from otkit.linalg.trees import components, maximum_spanning_tree

INF = np.inf
EVERY = slice(None), slice(None)


def entries_of(costs, at):
    return at.log_plan(costs.block(*EVERY), *EVERY)


def case(kind, rng, n, m, items=2):
    C = rng.random((items, n, m))
    if kind == "ties":
        C = np.round(2 * C)
    if kind == "forbidden":
        C[rng.random(C.shape) < 0.7] = INF
    if kind == "apart":
        C[:, : n // 2, : m // 3] = C[:, n // 2 :, m // 3 :] = INF
    flat = Dense(C) if kind != "points" else PointCloud(rng.random((items, n, 5)), rng.random((items, m, 5)))
    costs = Reduced(flat, *(0.1 * rng.random((items, size)) for size in (n, m)))
    logs = [np.log(rng.dirichlet(np.ones(size), items)) for size in (n, m)]
    logs[0][1, 0] = logs[1][0, -1] = -INF  # points without weight
    return costs, Potentials(*(0.1 * rng.random((items, size)) for size in (n, m)), *logs, np.array([0.1, 0.02]))


@pytest.mark.parametrize("kind", ["all", "ties", "forbidden", "apart", "points"])
@pytest.mark.parametrize(("n", "m"), [(1, 6), (23, 31)])
def test_the_tree_is_that_of_a_scan(kind, n, m, inner_xp, rng):
    costs, at = case(kind, rng, n, m)
    found = spanning_arcs_of_plan(REFERENCE, *(map_arrays(inner_xp.asarray, part) for part in (costs, at)))
    for entries, (rows, cols) in zip(entries_of(costs, at), found, strict=True):
        scanned = maximum_spanning_tree(
            n, m, lambda i, e=entries: (e[i], e[i]), lambda j, e=entries: (e[:, j], e[:, j])
        )
        row, col = scanned.arcs(scanned.nodes)
        assert rows.size == row.size
        for one, other in zip(components(n, m, rows, cols), components(n, m, row, col), strict=True):
            assert_array_equal(one, other)
        assert_allclose(np.sort(entries[rows, cols]), np.sort(entries[row, col]), rtol=1e-12)


def test_arcs_that_leave_a_label(inner_xp, rng):
    costs, at = case("forbidden", rng, 9, 7)
    rows, cols = rng.integers(0, 3, (2, 9)), rng.integers(0, 3, (2, 7))
    entries = np.where(rows[:, :, None] == cols[:, None], -INF, entries_of(costs, at))
    given = (map_arrays(inner_xp.asarray, part) for part in (costs, at, rows, cols))
    value, col = (np.asarray(v) for v in operations.leaving(*given))
    assert_allclose(value, entries.max(-1), rtol=1e-14)
    assert_array_equal(col, entries.argmax(-1))
