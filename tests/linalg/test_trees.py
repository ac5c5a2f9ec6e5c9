import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse.csgraph import minimum_spanning_tree

from otkit.linalg.trees import components, heaviest_forest, maximum_spanning_tree


def tree_of(weights, costs):
    n, m = weights.shape
    return maximum_spanning_tree(n, m, lambda i: (weights[i], costs[i]), lambda j: (weights[:, j], costs[:, j]))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (6, 1), (12, 9)])
def test_the_tree_has_the_largest_weight(n, m, rng):
    weights = rng.random((n, m)) + 1
    tree = tree_of(weights, weights)
    rows, cols = tree.arcs(tree.nodes)
    assert rows.size == n + m - 1
    graph = np.zeros((n + m, n + m))
    graph[:n, n:] = 10 - weights
    lightest = minimum_spanning_tree(graph)
    assert_allclose(weights[rows, cols].sum(), 10 * lightest.nnz - lightest.sum())
    assert_allclose(tree.weight[tree.nodes], weights[rows, cols])


def test_flows_meet_the_supply_and_potentials_the_costs(rng):
    n, m = 12, 9
    weights, costs = rng.random((n, m)), rng.standard_normal((n, m))
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    tree = tree_of(weights, costs)
    flow, excess, error = tree.flows(np.concatenate([a, b]))
    rows, cols = tree.arcs(tree.nodes)
    P = np.zeros((n, m))
    P[rows, cols] = flow[tree.nodes]
    assert excess < 1e-15
    assert abs(P.sum(1) - a).sum() + abs(P.sum(0) - b).sum() <= error + 1e-15
    assert error < 1e-14
    value = tree.potentials()
    assert_allclose(value[rows] + value[n + cols], costs[rows, cols], atol=1e-13)


def test_exact_flows_report_no_error():
    a = np.array([0.1, 0.2, 0.7])
    tree = tree_of(np.eye(3) + 1, np.zeros((3, 3)))
    flow, excess, error = tree.flows(np.concatenate([a, a]))
    assert excess == error == 0
    assert sorted(flow[flow > 0]) == sorted(a)


def test_a_forest_reports_what_its_components_cannot_balance():
    weights = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    tree = tree_of(weights, weights)
    assert (tree.parent < 0).sum() == 2
    _, excess, _ = tree.flows(np.array([0.3, 0.7, 0.5, 0.5]))
    assert_allclose(excess, 0.4)


def test_components():
    finite = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=bool)
    rows, cols = components(*finite.shape, *np.nonzero(finite))
    assert rows[0] == rows[1] == cols[0]
    assert rows[2] == cols[1] == cols[2] != rows[0]
    assert rows[3] not in (rows[0], rows[2])


def test_the_heaviest_forest():
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((6, 7)) < 0.5, rng.standard_normal((6, 7)), -np.inf)
    rows, cols = np.nonzero(weights > -np.inf)
    found = heaviest_forest(6, 7, rows, cols, weights[rows, cols])
    tree = tree_of(weights, weights)
    assert weights[rows[found], cols[found]].sum() == pytest.approx(tree.weight[tree.nodes].sum())
    assert found.size == tree.nodes.size
    nothing = np.empty(0, dtype=int)
    assert heaviest_forest(3, 3, nothing, nothing, np.empty(0)).size == 0
