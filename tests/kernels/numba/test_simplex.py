import numpy as np
import ot
import pytest

from otkit.kernels.numba import pricing, simplex

ROUNDING = 2.0**-48


def begin(C, supply, arcs):
    """A basis of artificial arcs only, each of cost 10."""
    nodes = supply.size
    tree, nothing = simplex.Tree.empty(nodes, arcs.rows.size), np.empty(0, dtype=np.int64)
    simplex.start(supply, C.shape[0], nothing, nothing, np.empty(0), tree)
    tree.cost[:nodes] = 10.0
    return tree


def every_arc(C):
    rows, cols = (v.ravel().astype(np.int32) for v in np.indices(C.shape))
    return pricing.Arcs(rows, cols, C.ravel())


def no_arc():
    return pricing.Arcs(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32), np.empty(0))


def check_tree(tree, supply):
    """Flows meet the supplies, arcs without flow point up, and the threads, sizes and last nodes are those of the tree."""
    nodes = supply.size
    net, size = np.zeros(nodes + 1, dtype=np.int64), np.ones(nodes + 1, dtype=np.int64)
    for node in range(nodes):
        out, into = (node, tree.parent[node]) if tree.up[node] else (tree.parent[node], node)
        net[out] += tree.flow[node]
        net[into] -= tree.flow[node]
        assert tree.flow[node] > 0 or (tree.flow[node] == 0 and tree.up[node])
    assert (net[:nodes] == supply).all()
    assert net[nodes] == 0
    order = [nodes]
    while tree.thread[order[-1]] != nodes:
        order.append(int(tree.thread[order[-1]]))
        assert tree.reverse[order[-1]] == order[-2]
    assert sorted(order) == list(range(nodes + 1))
    assert tree.reverse[nodes] == order[-1]
    for node in reversed(order[1:]):
        size[tree.parent[node]] += size[node]
    assert (tree.size == size).all()
    for k, node in enumerate(order):
        assert tree.last[node] == order[k + size[node] - 1]
        assert node == nodes or tree.parent[node] in order[:k]


@pytest.mark.parametrize("way", ["rows", "list", "both"])
def test_the_basis_stays_a_strongly_feasible_tree(way):
    rng = np.random.default_rng(0)
    C = rng.integers(0, 3, (15, 15)).astype(float)
    supply = np.concatenate([np.full(15, 4), np.full(15, -4)])
    matrix, arcs = C if way != "list" else np.empty((0, 15)), no_arc() if way == "rows" else every_arc(C)
    tree = begin(C, supply, arcs)
    pivots, optimal = 0, False
    while not optimal:
        done, optimal = pricing.solve(matrix, arcs, tree, 15, 1, ROUNDING, 3.0, 1)
        pivots += done
        assert pivots < 1000
        check_tree(tree, supply)
    assert pivots > 10
    real = tree.parent[:30] != 30
    assert (tree.cost[:30] * tree.flow[:30])[real].sum() / 60 == pytest.approx(ot.emd2([], [], C), abs=1e-15)


def test_interrupted_pivots_go_on_as_if_they_had_not_been():
    rng = np.random.default_rng(1)
    C = rng.random((40, 30))
    supply = np.concatenate([np.full(40, 3), np.full(30, -4)])
    whole, parts = (begin(C, supply, no_arc()) for _ in range(2))
    wanted, _ = pricing.solve(C, no_arc(), whole, 40, 1, ROUNDING, 1.0, 10**6)
    optimal, pivots = False, 0
    while not optimal:
        done, optimal = pricing.solve(C, no_arc(), parts, 40, 1, ROUNDING, 1.0, 7)
        assert done <= 7
        pivots += done
    assert abs(pivots - wanted) <= 0.05 * wanted  # prices are set anew at each call, so that ties may fall otherwise
    real = whole.parent[:-1] != 70
    assert (whole.flow * whole.cost)[:-1][real].sum() == pytest.approx((parts.flow * parts.cost)[:-1].sum(), rel=1e-14)
