import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from otkit.kernels.numba import starts


@pytest.mark.parametrize("shape", [(40, 30), (3, 50), (50, 3)])
def test_arcs_by_rank_are_those_of_least_reduced_cost(shape, rng):
    C, f, g = rng.random(shape), rng.random(shape[0]), rng.random(shape[1])
    by_row, by_col = starts.ranked(C, f, g, 3)
    assert (by_row == np.argsort(C - g, axis=1)[:, :3]).all()
    assert (by_col == np.argsort(C.T - f, axis=1)[:, :3]).all()


def test_forbidden_arcs_have_no_rank():
    C = np.full((4, 4), np.inf)
    C[np.diag_indices(4)] = 1.0
    by_row, by_col = starts.ranked(C, np.zeros(4), np.zeros(4), 2)
    wanted = np.stack([np.arange(4), np.full(4, -1)], axis=1)
    assert (by_row == wanted).all()
    assert (by_col == wanted).all()


def test_masses_go_greedily():
    rows, cols = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    supply = np.array([3, 2, -4, -1])
    assert starts.greedy(np.array([1, 0, 2, 3]), rows, cols, supply, 2).tolist() == [1, 0, 2]
    assert starts.greedy(np.array([2, 0, 1, 3]), rows, cols, supply, 2).tolist() == [2, 0, 1]


def test_widths_are_numbers_of_entries(rng):
    C, h, reg = rng.random((20, 30)), rng.random(30), 0.05
    C[3, 5:] = np.inf
    wanted = np.exp([entropy(softmax((h - row) / reg)) for row in C])
    np.testing.assert_allclose(starts.widths(C, h, reg), wanted, rtol=1e-10)


def test_reduced_costs_and_c_transforms(rng):
    C, row, col = rng.random((20, 30)), rng.random(20), rng.random(30)
    out = np.empty(C.shape)
    starts.reduce_costs(C, row, col, False, out)
    assert (out == C - row[:, None] - col).all()
    assert (starts.c_transform(C, col) == (C - col).min(1)).all()
