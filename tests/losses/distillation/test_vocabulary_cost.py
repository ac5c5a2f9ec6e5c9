"""Costs between the entries of a vocabulary."""

import numpy as np
import pytest
import torch
from logits import draw

from otkit.losses import VocabOTLoss, VocabularyCost
from otkit.losses.distillation import vocabulary_cost


def test_all_neighbours_are_all_costs():
    e = draw(7, 3)
    unit = e / e.norm(dim=-1, keepdim=True)
    C = (1 - unit @ unit.T).fill_diagonal_(0.0)
    nearest, dense = VocabularyCost.nearest(e, k=6), VocabularyCost.dense(((C + C.T) / 2).clamp_min(0))
    assert torch.equal(nearest.first, dense.first)
    assert torch.equal(nearest.column, dense.column)
    torch.testing.assert_close(nearest.cost, dense.cost, rtol=0, atol=1e-6)
    student, teacher = draw(3, 7), draw(3, 7, seed=1)
    values = [VocabOTLoss(cost, reg=0.1, n_iters=50)(student, teacher) for cost in (nearest, dense)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_symmetric_up_to_rounding(dtype):
    E = torch.randn(60, 300, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 3
    distances = torch.cdist(E, E)
    assert not torch.equal(distances, distances.T) or distances.diagonal().any()
    C = VocabularyCost.dense(distances).cost.reshape(60, 60)
    assert torch.equal(C, C.T)
    assert not C.diagonal().any()
    exact = torch.cdist(E.double(), E.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(C.double(), exact, rtol=1e-4, atol=1e-4)


def test_neighbours_are_the_nearest_both_ways(monkeypatch):
    monkeypatch.setattr(vocabulary_cost, "_ENTRIES", 60)  # some rows at a time
    e = draw(20, 4)
    cost = VocabularyCost.nearest(e, k=3)
    unit = (e / e.norm(dim=-1, keepdim=True)).numpy()
    wanted = set()
    for i, row in enumerate(1 - unit @ unit.T):
        near = [j for j in np.argsort(row) if j != i][:3]
        wanted |= {(i, i)} | {(i, int(j)) for j in near} | {(int(j), i) for j in near}
    rows = torch.arange(20).repeat_interleave(cost.first.diff())
    assert set(zip(rows.tolist(), cost.column.tolist(), strict=True)) == wanted
    matrix = torch.zeros(20, 20)
    matrix[rows, cost.column] = cost.cost
    assert torch.equal(matrix, matrix.T)
    assert not matrix.diagonal().any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: VocabularyCost.dense(torch.ones(2, 3)), r"a row and a column for each of V entries, got \(2, 3\)"),
        (lambda: VocabularyCost.dense(torch.ones(2, 2)), "0 on the diagonal"),
        (lambda: VocabularyCost.dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "C must be symmetric"),
        (lambda: VocabularyCost.nearest(torch.ones(3)), "embeddings must be finite and of shape"),
        (lambda: VocabularyCost.nearest(torch.zeros(3, 2), k=1), "embeddings must not be zero"),
        (lambda: VocabularyCost.nearest(torch.ones(3, 2), k=3), "k must be below the number of entries, 3, got 3"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
