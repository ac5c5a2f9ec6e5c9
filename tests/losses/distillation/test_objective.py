"""The objective of distillation: its parts, weights and temperature."""

import pytest
import torch
from logits import draw
from torch.nn import functional

from otkit.losses import DistillationObjective, SinKDLoss, SoftTargetLoss, ULDLoss


def test_the_parts_and_their_weights():
    student, teacher, labels = draw(6, 4), draw(6, 4, seed=1), torch.tensor([0, 3, 1, -100, 2, 2])
    objective = DistillationObjective(ce=0.3, kd=0.5, ot=0.7, divergence="js", temperature=2.0)
    loss, stats = objective(student, teacher, labels, return_stats=True)
    ce = functional.cross_entropy(student.float(), labels)
    kd = SoftTargetLoss("js", 2.0)(student, teacher, labels=labels)
    ot = SinKDLoss()(student, teacher, labels=labels)
    torch.testing.assert_close(loss, 0.3 * ce + 0.5 * kd + 0.7 * ot, check_dtype=False)
    assert [float(stats[name]) for name in ("ce", "kd", "ot", "loss")] == pytest.approx(
        [float(v) for v in (ce, kd, ot, loss)]
    )
    assert float(stats["temperature"]) == 2
    uld = DistillationObjective(ULDLoss(), ce=1, kd=0, ot=1)(student, teacher, labels)
    torch.testing.assert_close(uld, ce + ULDLoss()(student, teacher, labels=labels), check_dtype=False)
    for weights in ({"ce": 1}, {"kd": 1}, {"ot": 1}):
        only = DistillationObjective(**{"ce": 0, "kd": 0, "ot": 0, **weights})
        _, parts = only(student, teacher, labels, return_stats=True)
        assert set(parts) == {"loss", "temperature", *weights}


def test_the_paper():
    # (1 − α)·CE + α·L_KD + β·0.001·L, L_KD a cross entropy at a temperature that goes from T to 1.
    student, teacher, labels = draw(8, 3), draw(8, 3, seed=1), torch.arange(8) % 3
    objective = DistillationObjective.paper(alpha=0.8, temperature=4.0, beta=0.8, anneal=True)
    for epoch in range(3):
        T = 4 + (1 - 4) * epoch / 2
        soft = -((teacher / T).softmax(-1) * (student / T).log_softmax(-1)).sum(-1).mean()
        wanted = (
            0.2 * functional.cross_entropy(student, labels) + 0.8 * soft + 0.8 * SinKDLoss.paper()(student, teacher)
        )
        found = objective(student, teacher, labels, progress=epoch / 2)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    constant = DistillationObjective.paper(alpha=0.8, temperature=4.0)
    torch.testing.assert_close(constant(student, teacher, labels, progress=1.0), constant(student, teacher, labels))
    assert "ce=0.2, kd=0.8, ot=0.8, divergence='cross_entropy', temperature=4 to 1" in repr(objective)


def test_a_sum_is_summed_over_the_steps_of_an_update():
    student, teacher, labels = draw(8, 3), draw(8, 3, seed=1), torch.arange(8) % 3
    objective = DistillationObjective.paper(alpha=0.8, temperature=4.0)
    part = slice(0, 4), slice(4, 8)
    steps = sum(objective(student[k], teacher[k], labels[k], num_items_in_batch=8) for k in part)
    means = DistillationObjective(ce=0.2, kd=0.8, ot=0, divergence="cross_entropy", temperature=4.0, squared=False)
    transport = sum(SinKDLoss.paper()(student[k], teacher[k]) for k in part)
    torch.testing.assert_close(steps, means(student, teacher, labels) + 0.8 * transport, rtol=1e-6, atol=0)


def test_the_causal_shift_by_hand():
    # Tokens 3 and 1 are the answer: rows 1 and 2 predict them.
    student, teacher = draw(1, 4, 5).requires_grad_(), draw(1, 4, 5, seed=1)
    labels = torch.tensor([[-100, -100, 3, 1]])
    found = DistillationObjective(shift=True)(student, teacher, labels)
    wanted = DistillationObjective()(student[0, 1:3], teacher[0, 1:3], torch.tensor([3, 1]))
    torch.testing.assert_close(found, wanted)
    gradient = torch.autograd.grad(found, student)[0]
    assert not gradient[0, [0, 3]].any()
    assert gradient[0, 1:3].abs().sum(-1).min() > 0


def test_accumulated_steps_are_one_step():
    student, teacher = draw(4, 5, 6).requires_grad_(), draw(4, 5, 6, seed=1)
    labels = torch.where(torch.arange(5) < torch.tensor([[5], [2], [4], [1]]), 3, -100)
    objective = DistillationObjective(SinKDLoss("token"))
    rows = (labels != -100).sum()
    steps = sum(objective(student[[k]], teacher[[k]], labels[[k]], num_items_in_batch=rows) for k in range(4))
    whole = objective(student, teacher, labels, num_items_in_batch=rows)
    torch.testing.assert_close(steps, whole)
    torch.testing.assert_close(torch.autograd.grad(steps, student), torch.autograd.grad(whole, student))


def test_half_precision_and_no_labels():
    student, teacher = draw(6, 4, dtype=torch.bfloat16).requires_grad_(), draw(6, 4, seed=1, dtype=torch.bfloat16)
    loss = DistillationObjective()(student, teacher, torch.arange(6) % 4)
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(student.grad).all()
    none = DistillationObjective()(student, teacher, torch.full((6,), -100))
    assert float(none.detach()) == 0
    assert DistillationObjective(ce=0)(student, teacher).requires_grad


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DistillationObjective(ce=-1.0), "ce must be a weight of at least 0, got -1.0"),
        (lambda: DistillationObjective(ce=0, kd=0, ot=0), "one of ce, kd and ot must be above 0"),
        (lambda: DistillationObjective(divergence="hellinger"), "divergence must be one of kl, reverse_kl"),
        (lambda: DistillationObjective(temperature=0.0), "temperature must be a positive number"),
        (lambda: DistillationObjective(final_temperature=-1.0), "final_temperature must be a positive number"),
        (lambda: DistillationObjective(SinKDLoss(), shift=True), "shift must be the same for all parts, got True and False in ot_loss"),
        (lambda: DistillationObjective()(torch.ones(2, 3), torch.ones(2, 3)), "labels must be given for the cross entropy"),
        (lambda: DistillationObjective(ce=0)(torch.ones(2, 3), torch.ones(2, 3), progress=2.0), "progress must lie between 0 and 1"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
