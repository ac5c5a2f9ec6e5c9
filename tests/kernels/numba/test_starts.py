import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from otkit.kernels.numba import starts


def ranked(C, f, g, k):
    """The k best columns of each row and rows of each column, found in two parts each."""
    (n, m), by_row, by_col = C.shape, np.full((C.shape[0], k), -1), np.full((C.shape[1], k), -1)
    for low, high in ((0, n // 3), (n // 3, n)):
        starts.best_columns(C, g, low, high, by_row)
    for low, high in ((0, m // 3), (m // 3, m)):
        starts.best_rows(C, f, low, high, by_col)
    return by_row, by_col


@pytest.mark.parametrize("shape", [(40, 30), (3, 600), (600, 3), (300, 200)])
@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arcs_by_rank_are_those_of_least_reduced_cost(shape, order, dtype, rng):
    C, f, g = (rng.random(size).astype(dtype) for size in (shape, shape[0], shape[1]))
    if order != "random":
        C = np.sort(np.sort(C, axis=0), axis=1)
        C, f, g = C if order == "ascending" else C[::-1, ::-1].copy(), 0 * f, 0 * g
    by_row, by_col = ranked(C, f, g, 3)
    assert (by_row == np.argsort(C - g, axis=1, kind="stable")[:, :3]).all()
    assert (by_col == np.argsort(C.T - f, axis=1, kind="stable")[:, :3]).all()


def test_ranks_of_equal_costs_are_some_of_them(rng):
    C = rng.integers(0, 2, (200, 300)).astype(float)
    by_row, by_col = ranked(C, np.zeros(200), np.zeros(300), 5)
    assert (np.take_along_axis(C, by_row, 1) == 0).all()
    assert (np.take_along_axis(C.T, by_col, 1) == 0).all()
    assert all(len(set(places)) == 5 for places in (*by_row.tolist(), *by_col.tolist()))


def test_forbidden_arcs_have_no_rank():
    C = np.full((4, 4), np.inf)
    C[np.diag_indices(4)] = 1.0
    by_row, by_col = ranked(C, np.zeros(4), np.zeros(4), 2)
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


def test_costs_in_single_precision(rng):
    C, out = rng.random((20, 30)), np.zeros((20, 30), dtype=np.float32)
    starts.round_costs(C, out, 0, 7)
    assert (out[:7] == C[:7].astype(np.float32)).all()
    assert (out[7:] == 0).all()
