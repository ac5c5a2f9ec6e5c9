"""Temperatures that are tensors, and learned."""

import pytest
import torch
from logits import draw
from torch.autograd import gradcheck

from otkit.losses import (
    DistillationObjective,
    SinKDLoss,
    SoftTargetLoss,
    TopK,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

AT = draw(6, 2, seed=2)
COST = VocabularyCost.dense(torch.cdist(AT, AT))

LOSSES = {
    "KL": lambda t: SoftTargetLoss("kl", t, chunk_size=2),
    "JS": lambda t: SoftTargetLoss("js", t, squared=False, chunk_size=2),
    "ULD": lambda t: ULDLoss(t, 1.5, chunk_size=2),
    "ULD, teacher": lambda t: ULDLoss(1.5, t, chunk_size=2),
    "SinKD": lambda t: SinKDLoss("batch", t, n_iters=5),
    "SinKD, tokens": lambda t: SinKDLoss("token", t, n_iters=5, chunk_size=3),
    "SinKD, divergence": lambda t: SinKDLoss("token", t, n_iters=5, objective="divergence"),
    "SinKD, entries": lambda t: SinKDLoss("vocab", t, chunk_size=2),
    "VocabOT": lambda t: VocabOTLoss(COST, 2.0, 30, tau=t, chunk_size=2),
    "VocabOT, unbalanced": lambda t: VocabOTLoss(COST, 2.0, 30, 1.0, t, chunk_size=2),
    "objective": lambda t: DistillationObjective(ULDLoss(), ce=0.0, temperature=t, final_temperature=1.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_a_temperature(name):
    # Rows have nothing in common in VocabOT, and take long.
    shape = (1, 3, 6) if "VocabOT" in name else (2, 3, 6)
    student, teacher = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    given = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v, t: LOSSES[name](t)(v, teacher), (student, given), atol=1e-6, rtol=1e-5)
    parameter = torch.nn.Parameter(given.detach().clone())
    loss = LOSSES[name](parameter)
    assert any(p is parameter for p in loss.parameters())
    assert "=1.3" in repr(loss)
    assert "=tensor (1,)" in repr(LOSSES[name](given.detach()[None]))
    value = loss(student, teacher)
    torch.testing.assert_close(value, LOSSES[name](1.3)(student, teacher))
    value.backward()
    assert parameter.grad != 0
    with torch.no_grad():
        parameter.fill_(-1.0)
    with pytest.raises(ValueError, match="learn its logarithm"):
        loss(student, teacher)


def test_known_entries_and_a_learned_temperature():
    student, given = draw(4, 6).requires_grad_(), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    known = TopK(*reversed(draw(4, 6, seed=1).log_softmax(-1).topk(3, -1)), "one bucket")
    assert gradcheck(lambda t: SoftTargetLoss("kl", t, chunk_size=2)(student, known), given)
    with pytest.raises(ValueError, match="pass a number as tau"):
        SinKDLoss("batch", given)(student, known)
