"""Matchings of predictions and targets, beside SciPy's, and what cannot be matched."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from otkit.losses import match

DRAWS = {
    "normal": lambda rng, *shape: rng.normal(size=shape),
    "ties": lambda rng, *shape: rng.integers(0, 3, shape).astype(float),
    "equal": lambda rng, *shape: np.ones(shape),
    "ranges": lambda rng, *shape: rng.lognormal(0, 8, shape),
    "offset": lambda rng, *shape: 1e8 + rng.normal(size=shape),
    "products": lambda rng, *shape: np.outer(np.arange(shape[0]), np.arange(shape[1])).astype(float),
    "forbidden": lambda rng, *shape: np.where(rng.random(shape) < 0.5, np.inf, rng.normal(size=shape)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_totals_are_those_of_scipy(name):
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (7, 3), (3, 7), (20, 20), (60, 11), (5, 0), (0, 4), (11, 60)]
    matrices = [DRAWS[name](rng, *shape) for shape in shapes]
    if name == "forbidden":
        matrices = [np.where(np.isinf(C), 1e3, C) if not _feasible(C) else C for C in matrices]
    for C, (rows, columns) in zip(matrices, match([torch.tensor(C) for C in matrices]), strict=True):
        wanted = linear_sum_assignment(C)
        assert torch.equal(rows, torch.tensor(wanted[0]))
        assert len(set(columns.tolist())) == min(C.shape)
        assert float(C[rows, columns].sum()) == pytest.approx(float(C[wanted].sum()), rel=1e-12, abs=1e-12)


def _feasible(C):
    try:
        linear_sum_assignment(C)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_costs_of_all_targets_as_matchers_of_detr_have_them(dtype):
    sizes = [3, 0, 12, 5]
    C = torch.randn(4, 8, sum(sizes), generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found = match(C, torch.tensor(sizes))
    for k, part in enumerate(C.detach().double().split(sizes, -1)):
        rows, columns = linear_sum_assignment(part[k])
        assert torch.equal(found[k][0], torch.tensor(rows))
        assert torch.equal(found[k][1], torch.tensor(columns))
        assert found[k][0].dtype == torch.int64


def test_many_items_are_shared_by_threads_and_the_same():
    C = torch.randn(40, 400, 40 * 150, generator=torch.Generator().manual_seed(0))
    pairs = match(C, [150] * 40)
    for k in (0, 17, 39):
        wanted = linear_sum_assignment(C[k, :, 150 * k : 150 * k + 150])
        assert torch.equal(pairs[k][1], torch.tensor(wanted[1]))


def test_nothing():
    assert match([]) == []
    assert [v.tolist() for v in match(torch.zeros(1, 3, 0), [0])[0]] == [[], []]


FORBIDDEN = torch.tensor([[0.0, torch.inf], [1.0, torch.inf]])


@pytest.mark.parametrize(("given", "error", "told"), [
    ((torch.ones(2, 3, 4), [2, 1]), ValueError, r"got \(2, 3, 4\) and sizes=\[2, 1\]"),
    ((torch.ones(2, 3, 4), [5, -1]), ValueError, "a size for each item"),
    ((torch.ones(2, 3, 4),), ValueError, r"sizes=\[\]"),
    ((torch.ones(3, 4), [4]), ValueError, "pass a list of matrices"),
    (([torch.ones(3, 4)], [4]), ValueError, "leave sizes out"),
    (([torch.ones(3)],), ValueError, r"costs\[0\] must have shape \(queries, targets\)"),
    (([np.ones((3, 4))],), TypeError, r"costs\[0\] must be a tensor"),
    (([torch.ones(0, 2), torch.ones(3, 4), torch.tensor([[torch.nan]])],), ValueError, "got nan in item 2"),
    (([torch.tensor([[-torch.inf]])],), ValueError, "got -inf in item 0"),
    (([torch.ones(0, 2), torch.ones(2, 2), FORBIDDEN],), ValueError, "too many inf in item 2"),
], ids=str)  # fmt: skip
def test_bad_costs(given, error, told):
    with pytest.raises(error, match=told):
        match(*given)
