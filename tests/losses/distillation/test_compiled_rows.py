"""Losses of rows that are compiled, against their formulas in PyTorch."""

import pytest
import torch
from logits import draw

from otkit.losses import SinKDLoss, SoftTargetLoss, chunks
from otkit.losses.distillation.soft_targets import DIVERGENCES

LOSSES = {name: lambda name=name, **options: SoftTargetLoss(name, 1.5, **options) for name in DIVERGENCES}
LOSSES["vocab"] = lambda **options: SinKDLoss("vocab", 1.5, **options)


def both(monkeypatch, call):
    """What a call returns with the compiled loop, and without it."""
    found = call()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "_fits", lambda *_: False)
        return found, call()


def step(loss, student, teacher, factor=1.0, **options):
    x = student.clone().requires_grad_()
    value = loss(x, teacher, **options)
    (factor * value).sum().backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_values_and_gradients_are_those_of_the_formula(name, dtype, reduction, monkeypatch):
    student, teacher = draw(3, 4, 2500).to(dtype), draw(3, 4, 2500, seed=1).to(dtype)
    loss, mask = (
        LOSSES[name](reduction=reduction, chunk_size=2),
        torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]]),
    )
    size = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for options in ({}, {"mask": mask}, {"factor": 0.3}):
        found, wanted = both(monkeypatch, lambda options=options: step(loss, student, teacher, **options))
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-13 if dtype == torch.float64 else 1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], wanted[1], rtol=size, atol=size * float(wanted[1].abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(loss(student, teacher), LOSSES[name](reduction=reduction)(student, teacher))


@pytest.mark.parametrize("name", LOSSES)
def test_logits_that_are_not_finite_mean_what_the_formula_says(name, monkeypatch):
    student, teacher = draw(7, 50), draw(7, 50, seed=1)
    student[1, 3], teacher[2, 4], student[3, 5], teacher[4, 6] = -torch.inf, -torch.inf, torch.nan, torch.inf
    student[5, 7] = teacher[5, 7] = -torch.inf
    loss = LOSSES[name](reduction="none")
    found, wanted = both(monkeypatch, lambda: step(loss, student, teacher))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert found[0][3].isnan()
    with torch.no_grad():
        torch.testing.assert_close(loss(student, teacher), wanted[0], equal_nan=True)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_and_equal_logits(name, monkeypatch):
    student = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e-3, 0.0], [3e38, -3e38, 0.0], [1.0, 2.0, 3.0]])
    teacher = torch.tensor([[0.0, 1e4, -1e4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    found, wanted = both(monkeypatch, lambda: step(LOSSES[name](reduction="none"), student, teacher))
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-6, equal_nan=True)
    if name != "cross_entropy":
        assert abs(float(found[0][3])) < 1e-6
        assert float(found[1][3].abs().max()) < 1e-6


def test_a_gradient_that_is_taken_again_is_not_multiplied_again():
    student, teacher = draw(4, 60).requires_grad_(), draw(4, 60, seed=1)
    value = SoftTargetLoss()(student, teacher)
    found = [torch.autograd.grad(k * value, student, retain_graph=True)[0] / k for k in (1.0, 3.0, 1.0)]
    torch.testing.assert_close(found[1], found[0])
    assert torch.equal(found[2], found[0])


def test_threads_do_not_change_a_bit(monkeypatch):
    student, teacher = draw(64, 9000, dtype=torch.float32), draw(64, 9000, dtype=torch.float32, seed=1)
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        found.append(step(SoftTargetLoss("js"), student, teacher))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_batch_of_cotangents():
    student, teacher = draw(3, 40).requires_grad_(), draw(3, 40, seed=1)
    values = SoftTargetLoss(reduction="none")(student, teacher)
    eye = torch.eye(3, dtype=student.dtype)
    (found,) = torch.autograd.grad(values, student, eye, retain_graph=True, is_grads_batched=True)
    for k in range(3):
        torch.testing.assert_close(found[k], torch.autograd.grad(values, student, eye[k], retain_graph=True)[0])
