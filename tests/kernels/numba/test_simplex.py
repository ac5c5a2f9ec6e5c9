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


def single(C):
    """The costs in single precision."""
    return C.astype(np.float32)


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


@pytest.mark.parametrize("way", ["rows", "rows of single precision", "list", "both"])
def test_the_basis_stays_a_strongly_feasible_tree(way):
    rng = np.random.default_rng(0)
    C = rng.integers(0, 3, (15, 15)).astype(float)
    supply = np.concatenate([np.full(15, 4), np.full(15, -4)])
    matrix, arcs = C if way != "list" else np.empty((0, 15)), every_arc(C) if way in ("list", "both") else no_arc()
    rough = single(matrix[: 15 if way in ("rows of single precision", "both") else 0])
    tree = begin(C, supply, arcs)
    pivots, optimal = 0, False
    while not optimal:
        done, optimal = pricing.solve(matrix, rough, arcs, tree, 15, 1, ROUNDING, 3.0, 1)
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
    wanted, _ = pricing.solve(C, single(C), no_arc(), whole, 40, 1, ROUNDING, 1.0, 10**6)
    optimal, pivots = False, 0
    while not optimal:
        done, optimal = pricing.solve(C, single(C), no_arc(), parts, 40, 1, ROUNDING, 1.0, 7)
        assert done <= 7
        pivots += done
    assert abs(pivots - wanted) <= 0.05 * wanted  # prices are set anew at each call, so that ties may fall otherwise
    real = whole.parent[:-1] != 70
    assert (whole.flow * whole.cost)[:-1][real].sum() == pytest.approx((parts.flow * parts.cost)[:-1].sum(), rel=1e-14)


@pytest.mark.parametrize("shape", [(30, 30), (7, 1030), (1, 5), (5, 1)])
@pytest.mark.parametrize("kind", ["clouds", "ties", "below single precision", "beyond single precision"])
def test_single_precision_finds_arcs_and_double_precision_decides(kind, shape):
    rng = np.random.default_rng(2)
    C = rng.random(shape)
    if kind == "ties":
        C = np.rint(3 * C)
    elif kind == "below single precision":
        C = 1 + 1e-9 * C  # all equal in single precision
    elif kind == "beyond single precision":
        C[0, 0] = 1e300
    a, b = rng.integers(1, 50, shape[0]), rng.integers(1, 50, shape[1])
    supply = np.concatenate([a * b.sum(), -b * a.sum()])
    trees = [begin(C, supply, no_arc()) for _ in range(2)]
    with np.errstate(over="ignore"):
        rough = single(C)
    for tree, searched in zip(trees, (rough, rough[:0]), strict=True):
        _, optimal = pricing.solve(C, searched, no_arc(), tree, shape[0], 2, ROUNDING, 1.0, 10**6)
        assert optimal
        check_tree(tree, supply)
        f, g = -tree.pi[: shape[0]], tree.pi[shape[0] : -1]
        assert (C - f[:, None] - g).min() >= -1e-12
    wanted, found = (float(tree.flow[:-1] @ tree.cost[:-1]) for tree in trees)
    assert found == pytest.approx(wanted, rel=1e-13)


def test_an_arc_of_the_tree_does_not_enter():
    # An arc of the tree has no negative reduced cost, unless prices have drifted: here, as its cost has.
    C, supply = np.array([[1.0, 5.0], [5.0, 1.0]]), np.array([2, 2, -2, -2])
    tree = begin(C, supply, no_arc())
    assert pricing.solve(C, single(C), no_arc(), tree, 2, 1, ROUNDING, 5.0, 100)[1]
    node = 0 if tree.parent[0] == 2 else 2
    assert {node, int(tree.parent[node])} == {0, 2}
    tree.cost[node] += 1e-3
    before = [array.copy() for array in tree[:7]]
    assert pricing.solve(C, single(C), no_arc(), tree, 2, 1, ROUNDING, 5.0, 7) == (7, False)
    assert all((now == then).all() for now, then in zip(tree[:7], before, strict=True))
