"""Divergences from soft targets."""

import pytest
import torch
from logits import draw
from torch.autograd import gradcheck

from otkit.losses import SoftTargetLoss
from otkit.losses.distillation.soft_targets import DIVERGENCES


def test_soft_targets_are_the_formulas():
    student, teacher, T = draw(5, 4), draw(5, 4, seed=1), 3.0
    p, q = (v / T for v in (student, teacher))
    p, q = p.softmax(-1), q.softmax(-1)
    m = (p + q) / 2
    wanted = {
        "kl": (q * (q / p).log()).sum(-1),
        "reverse_kl": (p * (p / q).log()).sum(-1),
        "js": ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2,
        "tv": (p - q).abs().sum(-1) / 2,
        "cross_entropy": -(q * p.log()).sum(-1),
    }
    assert set(wanted) == set(DIVERGENCES)
    for name, value in wanted.items():
        torch.testing.assert_close(SoftTargetLoss(name, T, squared=False, reduction="none")(student, teacher), value)
        torch.testing.assert_close(SoftTargetLoss(name, T)(student, teacher), 9 * value.mean())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_soft_targets_with_chunks_masks_and_certain_predictions(name):
    student, teacher = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    loss = SoftTargetLoss(name, chunk_size=2)
    assert gradcheck(lambda v: loss(v, teacher, mask), student)
    torch.testing.assert_close(loss(student, teacher, mask), SoftTargetLoss(name)(student, teacher, mask))
    extreme = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    value = loss(extreme, torch.tensor([[0.0, 1e4, -1e4]]))
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, extreme)[0]).all()
    assert repr(loss) == f"SoftTargetLoss('{name}', temperature=1, squared=True)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SoftTargetLoss("kl", temperature=-1.0), "temperature must be a positive number"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
