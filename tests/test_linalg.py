import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA
from otkit.kernels.numba.coarse import coarse_correction
from otkit.linalg import cg
from otkit.linalg.sparse import Scaling, Sparse
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
    rows, cols = components(finite)
    assert rows[0] == rows[1] == cols[0]
    assert rows[2] == cols[1] == cols[2] != rows[0]
    assert rows[3] not in (rows[0], rows[2])


@pytest.mark.parametrize("table", [NUMBA, REFERENCE], ids=lambda table: table.name)
def test_conjugate_gradients(table):
    rng = np.random.default_rng(0)
    T = rng.random((50, 30)) * (rng.random((50, 30)) < 0.2)
    T *= 0.99 / np.linalg.norm(T, 2)
    matrix, rhs = cg.Schur.of(csr_array(T), csr_array(T.T), 1.01), rng.standard_normal(30)
    wanted = np.linalg.solve(1.01 * np.eye(30) - T.T @ T, rhs)
    found = table.conjugate_gradients(matrix, rhs, np.zeros(30), 1e-12, 100)
    assert found.accurate
    assert 0 < found.steps <= 40
    np.testing.assert_allclose(found.y, wanted, rtol=1e-9)
    again = table.conjugate_gradients(matrix, rhs, wanted, 1e-9, 100)
    assert again.steps == 0
    cut = table.conjugate_gradients(matrix, rhs, np.zeros(30), 1e-12, 3)
    assert (cut.steps, cut.accurate) == (3, False)


def grid(size, far, cut=None, strength=1.0):
    """A coupling T of the points of a grid with those within `far`, as a plan between equal masses has it.

    Points on both sides of column `cut` are tied by `strength` alone.
    """
    x = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2).astype(float)
    P = np.exp(-((x[:, None] - x) ** 2).sum(-1) / far**2)
    P[P < 1e-6] = 0
    if cut is not None:
        side = x[:, 0] < cut
        P[side[:, None] != side] *= strength
    r, c = P.sum(1) ** 0.5, P.sum(0) ** 0.5
    return P / np.outer(r, c), r, c


def schur(T, square, smooth=None):
    return cg.Schur.of(csr_array(T), csr_array(T.T), square, smooth)


class TestCoarseCorrection:
    SQUARE = 1 + 1e-7

    def solve(self, T, smooth, rhs, memory=None):
        matrix = schur(T, self.SQUARE, smooth)
        found = NUMBA.conjugate_gradients(matrix, rhs, np.zeros(rhs.size), 1e-9, 5000, memory)
        assert found.accurate
        np.testing.assert_allclose(matrix @ found.y, rhs, rtol=0, atol=1.1e-9 * np.linalg.norm(rhs))
        return found.steps

    def test_spares_most_iterations(self, rng):
        T, _, c = grid(24, 1.5)
        rhs = c * rng.standard_normal(c.size)
        rhs -= c * (c @ rhs) / (c @ c)
        plain = self.solve(T, None, rhs)
        memory = cg.Memory()
        helped = self.solve(T, c, rhs, memory)
        assert helped < 0.75 * plain
        # It is there for the next matrix, and nothing is done without it.
        assert self.solve(T, c, rhs, memory) < 0.5 * plain

    def test_sees_parts_that_hardly_hang_together(self, rng):
        T, _, c = grid(16, 1.5, cut=8, strength=1e-6)
        rhs = c * np.where(np.arange(256) % 16 < 8, 1.0, -1.0)
        memory = cg.Memory()
        self.solve(T, c, c * rng.standard_normal(256), memory)
        assert self.solve(T, c, rhs, memory) <= 60

    def test_is_the_inverse_on_the_aggregates(self):
        T, _, c = grid(12, 1.5)
        rows = [(m.indptr.astype(np.uint64), m.indices.astype(np.uint32), m.data) for m in map(csr_array, (T, T.T))]
        label, weight, inverse = coarse_correction(c, self.SQUARE, *rows)
        K = len(inverse)
        assert 4 <= K <= 40
        Z = np.zeros((144, K))
        Z[np.arange(144), label] = weight
        np.testing.assert_allclose((Z**2).sum(0), 1.0)
        wanted = self.SQUARE * np.eye(K) - (T @ Z).T @ (T @ Z)
        np.testing.assert_allclose(inverse[:, :K] @ wanted, np.eye(K), atol=1e-5)
        assert not inverse[:, K:].any()

    def test_leaves_out_what_is_tied_to_nothing(self, rng):
        # Columns without entries, and a matching, in which there is nothing to aggregate.
        T, _, c = grid(12, 1.5)
        T[:, ::5] = 0.0
        self.solve(T, np.where(np.arange(144) % 5, c, 0.0), rng.standard_normal(144))
        self.solve(np.eye(200) * np.linspace(0.1, 0.99, 200), np.ones(200), rng.standard_normal(200))


@pytest.mark.parametrize("table", [NUMBA, REFERENCE], ids=lambda table: table.name)
def test_sparsified(table, rng):
    R = rng.random((40, 30)) * (rng.random((40, 30)) < 0.3)
    R[3], R[:, 4] = 0, 0
    left, right, half_row, half_col = (rng.random(k) + 0.1 for k in (40, 30, 40, 30))
    least_row, least_col = rng.random(40), rng.random(30)
    by = Scaling(left, right, least_row, least_col, half_row, half_col)
    found, mass = table.sparsified(Sparse(csr_array(R), csr_array(R).T), by)
    P = left[:, None] * R * right
    kept = (R > 0) & (np.minimum.outer(least_row, least_col) <= P)
    assert 0 < kept.sum() < (R > 0).sum()
    wanted = np.where(kept, half_row[:, None] * P * half_col, 0.0)
    assert mass == pytest.approx(P[kept].sum())
    for half, full in ((found.T, wanted), (found.turned, wanted.T)):
        assert half.has_sorted_indices
        np.testing.assert_allclose(half.toarray(), full, rtol=1e-14)


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


def coupled(rng, n, m, share=0.3):
    """A sparse T whose largest singular value is below 1, and its entries."""
    T = rng.random((n, m)) * (rng.random((n, m)) < share)
    T *= 0.999 / np.linalg.norm(T, 2)
    rows, cols = np.nonzero(T)
    return T, (rows, cols, T[rows, cols])


@pytest.mark.parametrize("dense", [0, 10**4])
def test_the_preconditioner_is_the_inverse(rng, monkeypatch, dense):
    monkeypatch.setattr(cg, "_DENSE", dense)
    T, entries = coupled(rng, 40, 30)
    inverse = cg.coupled_preconditioner(entries, (40, 30), 0.9)
    v = rng.standard_normal(30)
    np.testing.assert_allclose(inverse(v), np.linalg.solve(np.eye(30) - 0.9 * T.T @ T, v), rtol=1e-6)
    monkeypatch.setattr(cg, "_DENSE", 0)
    monkeypatch.setattr(cg, "_FILL", 10)
    assert cg.coupled_preconditioner(entries, (40, 30), 0.9) is None


@pytest.mark.parametrize("few", [0, 3, 1000])
def test_conjugate_gradients_of_a_batch(rng, few):
    T = np.stack([coupled(rng, 40, 30)[0] for _ in range(4)])
    matrices = np.eye(30) - T.transpose(0, 2, 1) @ T
    rhs = rng.standard_normal((4, 30)) * np.array([[1.0], [1e-200], [1e200], [0.0]])
    made = [lambda v, k=k: np.linalg.solve(matrices[k], v) if k else v for k in range(3)] + [None]
    found = cg.batched_conjugate_gradients(
        lambda v: (matrices @ v[:, :, None])[:, :, 0], rhs, lambda: made, 1e-11, (few, 1000)
    )
    np.testing.assert_allclose(found.y, np.linalg.solve(matrices, rhs[:, :, None])[:, :, 0], rtol=1e-7, atol=1e-12)
    assert (found.residual <= 1e-10).all()
    assert found.steps[3] == 0
    if few < 1000:
        assert found.steps[1] <= few + 2 < found.steps[0]
