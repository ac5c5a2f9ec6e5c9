"""Spanning trees of plans on the host, from a few passes over the entries, beside those of a scan row by row."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import otkit
from otkit import Dense, PointCloud
from otkit.certificates import balanced, rounding
from otkit.certificates.certify import certify
from otkit.entropic.dual import Potentials
from otkit.geometry.bordered import Bordered
from otkit.geometry.reduced import Reduced
from otkit.linalg.trees import components, maximum_spanning_tree
from otkit.problems import LinearProblem

INF = np.inf
EVERY = slice(None), slice(None)
KINDS = ["all", "ties", "equal", "forbidden", "apart", "points", "bordered", "columns", "hubs"]


def case(kind, rng, n, m, items=2):
    C = rng.random((items, n, m))
    if kind == "ties":
        C = np.round(2 * C)
    if kind == "equal":
        C = np.ones_like(C)
    if kind == "forbidden":
        C[rng.random(C.shape) < 0.9] = INF
    if kind == "apart":
        C[:, : n // 2, : m // 3] = C[:, n // 2 :, m // 3 :] = INF
    if kind == "hubs":
        C[:, 1] /= 10
    if kind == "columns":
        C = np.asfortranarray(C[:1])
    flat = PointCloud(rng.random((items, n, 5)), rng.random((items, m, 5))) if kind == "points" else Dense(C)
    if kind == "bordered":
        flat = Bordered(Dense(C[:, 1:, 1:]), (np.full((items, 1), 0.3), np.full((items, 1), 0.3), np.zeros((items, 1))))
    costs = Reduced(flat, *(0.1 * rng.random((items, size)) for size in (n, m)))
    logs = [np.log(rng.dirichlet(np.ones(size), items)) for size in (n, m)]
    logs[0][1, 0] = logs[1][0, -1] = -INF  # points without weight
    return costs, Potentials(*(0.1 * rng.random((items, size)) for size in (n, m)), *logs, np.array([0.1, 0.002]))


def of_scan(costs, at, item):
    C = costs.block(*EVERY)
    entries = at.log_plan(C, *EVERY)[item]
    return maximum_spanning_tree(
        *entries.shape, lambda i: (entries[i], C[item, i]), lambda j: (entries[:, j], C[item, :, j])
    )


@pytest.mark.parametrize("shape", [(3, 90), (80, 60)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_is_that_of_a_scan(kind, shape, rng, monkeypatch):
    monkeypatch.setattr(rounding, "_WHOLE", 0)
    monkeypatch.setattr(rounding, "_RANKS", 2)  # so that there are several passes
    costs, at = case(kind, rng, *shape)
    for item in range(2):
        found, wanted = rounding._scanned(costs, at, item), of_scan(costs, at, item)
        (rows, cols), arcs = found.arcs(found.nodes), wanted.arcs(wanted.nodes)
        assert len(set(zip(rows.tolist(), cols.tolist(), strict=True))) == arcs[0].size == rows.size
        for one, other in zip(components(*shape, rows, cols), components(*shape, *arcs), strict=True):
            assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(set(one.tolist()))
        weights = (np.sort(tree.weight[tree.nodes]) for tree in (found, wanted))
        assert_allclose(*weights, rtol=1e-9)
        assert_allclose(found.cost[found.nodes], costs.block(*EVERY)[item][rows, cols], rtol=1e-12)


def geometries(rng):
    x, y = rng.normal(size=(2, 120, 20))
    return {"matrix": Dense(rng.random((120, 150))), "points": PointCloud(x, y), "few": PointCloud(x[:, :2], y[:, :2])}


@pytest.mark.parametrize("kind", ["matrix", "points", "few"])
def test_certificates_read_costs_in_tiles(kind, rng, monkeypatch):
    problem, read = LinearProblem.build(geometries(rng)[kind]), []
    block = Reduced.block
    monkeypatch.setattr(Reduced, "block", lambda self, items, rows: read.append(rows) or block(self, items, rows))
    found = certify(problem, 0 * problem.a, 0 * problem.b, 0.1 * problem.span)
    assert found.lower <= found.upper < INF
    assert len(read) < 10


def test_a_stopped_exact_solve_rounds_one_plan_and_keeps_no_matrix(rng, monkeypatch):
    x, y = rng.normal(size=(2, 1100, 20))
    calls, round_plan = [], balanced.round_plan
    monkeypatch.setattr(balanced, "round_plan", lambda *given: calls.append(1) or round_plan(*given))
    with pytest.warns(otkit.ConvergenceWarning):
        found = otkit.solve_sample(x, y, time_limit=1e-9, method="exact")
    assert len(calls) == 1
    wanted = otkit.solve_sample(x, y, method="exact").value
    assert found.lower <= wanted <= found.upper
    for sums in found.marginals:
        assert_allclose(sums, 1 / 1100, rtol=1e-9)
    assert all(part.geometry is found.problem.reduced for part in found.outcome.plan if hasattr(part, "geometry"))
