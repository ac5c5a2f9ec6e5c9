import numpy as np
import pytest
from scipy.sparse import csr_array

from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA
from otkit.linalg import cg
from otkit.linalg.cg import solve_coupled
from otkit.linalg.sparse import Sparse, compressed


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


def test_a_system_without_connection_is_solved():
    # Nothing but the diagonal of a matching: the Schur complement is the shift alone.
    n = 30
    arcs = np.arange(n), np.arange(n), np.ones(n)
    found = solve_coupled(compressed(arcs, (n, n)), np.linspace(-1, 1, n), 1e-12, 0.1)
    assert np.isfinite(found.y).all()


def test_slow_conjugate_gradients_are_noticed(monkeypatch):
    monkeypatch.setattr("otkit.linalg.cg._FEW", 3)
    rng = np.random.default_rng(0)
    T = rng.random((40, 30)) * (rng.random((40, 30)) < 0.2)
    T *= 0.999 / np.linalg.norm(T, 2)
    rows, cols = np.nonzero(T)
    sparse = compressed((rows, cols, T[rows, cols]), (40, 30))
    rhs = rng.standard_normal(30)
    wanted = np.linalg.solve((1 + 1e-6) ** 2 * np.eye(30) - T.T @ T, rhs * (1 + 1e-6))
    found = solve_coupled(sparse, rhs, 1e-6, 1e-12)
    assert found.steps == 3
    assert found.accurate  # by a factorisation
    assert np.allclose(found.y, wanted, rtol=1e-9)
    monkeypatch.setattr("otkit.linalg.cg._FILL", 0)
    monkeypatch.setattr("otkit.linalg.cg._MANY", 4)
    cut = solve_coupled(sparse, rhs, 1e-6, 1e-12)
    assert not cut.accurate
    assert cut.steps == 7
    transposed = solve_coupled(Sparse(*sparse[::-1]), rng.standard_normal(40), 1e-6, 1e-12)
    assert np.isfinite(transposed.y).all()


def test_both_sides_give_the_same_solution():
    rng = np.random.default_rng(1)
    for shape in ((40, 25), (25, 40)):
        T = rng.random(shape) * (rng.random(shape) < 0.3)
        T *= 0.9 / np.linalg.norm(T, 2)
        rhs, one = rng.standard_normal(shape[1]), 1.001
        full = np.block([[one * np.eye(shape[0]), T], [T.T, one * np.eye(shape[1])]])
        wanted = np.linalg.solve(full, np.concatenate([np.zeros(shape[0]), rhs]))[shape[0] :]
        found = solve_coupled(compressed((*np.nonzero(T), T[np.nonzero(T)]), shape), rhs, 0.001, 1e-12)
        assert np.allclose(found.y, wanted)
