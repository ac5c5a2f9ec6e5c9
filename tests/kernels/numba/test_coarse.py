import numpy as np
from scipy.sparse import csr_array

from otkit.kernels.numba import NUMBA
from otkit.kernels.numba.coarse import Rows, coarse_correction
from otkit.linalg import cg


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
        rows = [Rows(m.indptr.astype(np.uint64), m.indices.astype(np.uint32), m.data) for m in map(csr_array, (T, T.T))]
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
