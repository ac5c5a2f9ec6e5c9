"""What losses between vocabularies have in common: masks, chunks, reductions, dtypes and memory."""

import copy
import weakref

import pytest
import torch
from logits import costs, draw, gradient
from measure import of_process
from torch.autograd import gradcheck, gradgradcheck

from otkit.losses import MultiLevelOTLoss, SinKDLoss, SoftTargetLoss, ULDLoss, VocabOTLoss, VocabularyCost
from otkit.losses.distillation import vocabulary_cost

LOSSES = {
    "uld": lambda **options: ULDLoss(**options),
    "uld topk": lambda **options: ULDLoss(topk=3, **options),
    "vocab": lambda **options: VocabOTLoss(VocabularyCost.dense(costs()), reg=0.5, n_iters=100, **options),
    "vocab sparse": lambda **options: VocabOTLoss(
        VocabularyCost.nearest(draw(6, 3), k=2), reg=0.5, n_iters=50, unbalanced=0.5, **options
    ),
    "multilevel": lambda **options: MultiLevelOTLoss(topk=4, n_iters=5, **options),
}


@pytest.mark.parametrize("name", LOSSES)
def test_finite_differences(name):
    loss, teacher = LOSSES[name](reduction="none"), draw(2, 3, 6, seed=1)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    student = draw(2, 3, 6).requires_grad_()
    assert gradcheck(lambda v: loss(v, teacher, mask), student, atol=1e-6, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("make", [
    lambda **options: SoftTargetLoss(**options), lambda **options: SinKDLoss("vocab", **options), LOSSES["uld topk"],
], ids=["kl", "vocab", "uld"])  # fmt: skip
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_second_derivatives(make, chunk_size):
    student, teacher = draw(2, 3, 6).requires_grad_(), draw(2, 3, 6, seed=1)
    loss = make(chunk_size=chunk_size)
    assert gradgradcheck(lambda v: loss(v, teacher), student, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", [
    SinKDLoss(), SinKDLoss("token"), SinKDLoss(tol=1e-6), SinKDLoss(plan="detached"), LOSSES["vocab"](),
    LOSSES["multilevel"](),
], ids=str)  # fmt: skip
def test_a_second_derivative_that_is_not_given_is_refused_and_never_zero(loss):
    student, teacher = draw(2, 3, 6).requires_grad_(), draw(2, 3, 6, seed=1)
    (first,) = torch.autograd.grad(loss(student, teacher), student, create_graph=True)
    # A penalty beside another loss: without the path to the student its part of the gradient would be 0.
    with pytest.raises(RuntimeError, match=r"second derivatives of .* are not available: .*differences of gradients"):
        (first.square().sum() + student.square().sum()).backward()


@pytest.mark.parametrize("make", [SoftTargetLoss, ULDLoss], ids=["kl", "uld"])
def test_a_loss_that_is_dropped_is_freed(make):
    loss, teacher = make(chunk_size=2), draw(3, 6, seed=1)
    alive = []
    for _ in range(3):
        student = draw(3, 6).requires_grad_()
        alive.append(weakref.ref(student))
        value = loss(student, teacher)
        del student, value
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_padding_and_the_shift_change_nothing(name, dtype):
    student, teacher = draw(2, 4, 6).to(dtype), draw(2, 4, 6, seed=1).to(dtype)
    bare = student.clone().requires_grad_()
    wanted = LOSSES[name]()(bare, teacher)
    expected = gradient(wanted, bare)
    for left in (False, True):
        for rubbish in (0.0, float("nan"), float("inf")):
            parts = [torch.full((2, 2, 6), rubbish, dtype=dtype)] * 2
            parts.insert(left, student)
            padded = torch.cat(parts[::-1] if not left else parts, 1).requires_grad_()
            there = torch.cat(
                [torch.full((2, v.shape[1]), float(v is student)) for v in (parts[::-1] if not left else parts)], 1
            )
            others = torch.cat([teacher if v is student else v for v in (parts[::-1] if not left else parts)], 1)
            labels = torch.where(there.roll(1, 1) > 0, 7, -100)
            shifted = there[:, -1].any()  # the last row predicts nothing
            for shift, given in ((False, {"mask": there}), (True, {"labels": labels})):
                if shift and shifted:
                    continue
                value = LOSSES[name](shift=shift)(padded, others, **given)
                torch.testing.assert_close(value, wanted)
                found = gradient(value, padded)
                torch.testing.assert_close(found[there > 0].reshape(2, 4, 6), expected)
                assert torch.equal(found[there == 0], torch.zeros(8, 6, dtype=dtype))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "multilevel"])
def test_chunks_do_not_change_the_result(name, monkeypatch):
    student, teacher = draw(3, 4, 6).requires_grad_(), draw(3, 4, 6, seed=1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    wanted = LOSSES[name]()(student, teacher, mask)
    expected = gradient(wanted, student)
    monkeypatch.setattr(vocabulary_cost, "_ENTRIES", 40)
    for size in (1, 2, 5, 12):
        value = LOSSES[name](chunk_size=size)(student, teacher, mask)
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(gradient(value, student), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_training_loops(name):
    loss = LOSSES[name]()
    student, teacher = draw(2, 3, 6, dtype=torch.float32), draw(2, 3, 6, seed=1, dtype=torch.float32).requires_grad_()
    whole = float(loss(student, teacher))
    for half in (torch.bfloat16, torch.float16):
        found = []
        for dtype in (torch.float32, half):  # of the same numbers
            logits = student.to(half).to(dtype).requires_grad_()
            before = logits.detach().clone()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(logits, teacher.to(half).to(dtype))
            (2**12 * value).backward()
            assert teacher.grad is None
            assert torch.equal(logits.detach(), before)
            assert (value.dtype, logits.grad.dtype) == (torch.float32, dtype)
            found.append((float(value.detach()), logits.grad.float()))
        assert [value for value, _ in found] == pytest.approx([whole] * 2, rel=1e-2)
        assert float((found[1][1] - found[0][1]).norm() / found[0][1].norm()) < 1e-2
    assert copy.deepcopy(loss).state_dict() == {}
    with torch.no_grad():
        assert not loss(student.requires_grad_(), teacher).requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_reductions_and_accumulated_steps(name):
    student, teacher = draw(3, 4, 6), draw(3, 4, 6, seed=1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
    each, mean, total = (LOSSES[name](reduction=how)(student, teacher, mask) for how in ("none", "mean", "sum"))
    torch.testing.assert_close(total, each.sum())
    items = mask.sum() if name != "multilevel" else 3
    torch.testing.assert_close(mean, total / items)
    steps = [LOSSES[name]()(student[k], teacher[k], mask[k], num_items_in_batch=mask.sum()) for k in range(3)]
    torch.testing.assert_close(sum(steps), LOSSES[name]()(student, teacher, mask, num_items_in_batch=5))
    nothing = LOSSES[name]()(student.requires_grad_(), teacher, torch.zeros(3, 4))
    assert float(nothing.detach()) == 0
    assert not gradient(nothing, student).any()


SCRIPT = """
    import torch
    from otkit.losses import SinKDLoss, SoftTargetLoss, ULDLoss
    rows, entries, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    loss = {"uld": ULDLoss(), "vocab": SinKDLoss("vocab"), "kl": SoftTargetLoss("kl")}[name]
    loss(torch.randn(64, 99, requires_grad=True), torch.randn(64, 99)).backward()
    student, teacher = (torch.randn(rows // 64, entries).to(torch.bfloat16).repeat(64, 1) for _ in range(2))
    student.requires_grad_()
    before = peak()
    loss(student, teacher).backward()
    extra = peak() - before
    assert torch.isfinite(student.grad).all()
    print(extra / (2 * student.nbytes))
"""


@pytest.mark.parametrize(
    "name", [pytest.param("uld", marks=pytest.mark.slow), pytest.param("vocab", marks=pytest.mark.slow), "kl"]
)
def test_memory(name):
    # A quarter of the vocabulary of a large model: beside the logits no more than their size, gradient included.
    (extra,) = of_process(SCRIPT, 1024, 37984, name)
    assert extra <= 1.0
