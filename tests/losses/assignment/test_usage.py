"""The use of prototypes."""

import math

import pytest
import torch
from scores import S1, double

from otkit.losses import prototype_usage


def test_usage():
    q = double([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.4, 0.6, 0], [0, 0, 0, 0]])
    usage = prototype_usage(q)
    torch.testing.assert_close(usage.shares, double([0.5, 0.3, 0.2, 0]))
    assert usage.taken.tolist() == [2, 0, 1, 0]
    assert usage.dead == 2
    assert usage.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)))
    assert str(usage) == "2 of 4 prototypes in use, entropy 1.030 of 1.386"
    assert usage.gain(1.0) == pytest.approx(math.log(4) - 1)
    labels = prototype_usage(torch.tensor([[0, 0], [2, -100]]), 4)
    torch.testing.assert_close(labels.shares, double([2 / 3, 0, 1 / 3, 0]))
    assert labels.taken.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prototype_usage(torch.tensor([0])), "n_prototypes must be given with labels"),
        (lambda: prototype_usage(torch.tensor([4]), 4), "labels must be below n_prototypes=4, got 4"),
        (lambda: prototype_usage(S1, 4), "assignments must be to n_prototypes=4"),
        (lambda: prototype_usage(S1[0]), r"assignments must have shape \(..., N, K\)"),
        (lambda: prototype_usage(torch.zeros(2, 3)), "must have a sample that is assigned"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
