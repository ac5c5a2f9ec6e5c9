import numpy as np

from otkit.kernels.numba import simplex


def test_the_basis_stays_a_strongly_feasible_tree():
    # After every pivot: flows meet the supplies, and arcs without flow point up.
    rng = np.random.default_rng(0)
    C = rng.integers(0, 3, (15, 15)).astype(float)
    supply = np.concatenate([np.full(15, 4), np.full(15, -4)])
    tails, heads = (v.ravel() for v in np.meshgrid(np.arange(15), np.arange(15, 30), indexing="ij"))
    tree = simplex.Tree.empty(30)
    simplex.start(supply, tails, heads, np.empty(0, dtype=np.int64), np.zeros(30), tree)
    simplex.price(C.ravel(), 10.0, tree)
    pivots = 0
    while simplex.solve(tails, heads, C.ravel(), 10.0, 1e-12, 1, tree):
        pivots += 1
        net = np.zeros(31, dtype=np.int64)
        for node in range(30):
            out, into = (node, tree.parent[node]) if tree.up[node] else (tree.parent[node], node)
            net[out] += tree.flow[node]
            net[into] -= tree.flow[node]
            assert tree.flow[node] > 0 or (tree.flow[node] == 0 and tree.up[node])
        assert (net[:30] == supply).all()
        assert net[30] == 0
    assert pivots > 10
