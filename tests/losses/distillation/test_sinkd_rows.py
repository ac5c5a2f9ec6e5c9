"""SinKD: the rows of its problems, masks, labels and chunks."""

import pytest
import torch
from logits import draw, gradient, released

from otkit.losses import SinKDLoss


def test_every_position_is_a_point_of_its_sequence_or_of_the_batch():
    student, teacher = draw(3, 5, 4), draw(3, 5, 4, seed=1)
    each = torch.stack([released(s, t) / 5 for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(SinKDLoss("token", reduction="none")(student, teacher), each)
    torch.testing.assert_close(
        SinKDLoss()(student, teacher), released(student.flatten(0, 1), teacher.flatten(0, 1)) / 15
    )
    p, q = ((v / 2).softmax(-1) for v in (student, teacher))
    torch.testing.assert_close(SinKDLoss("vocab", reduction="none")(student, teacher), (p - q).abs().sum(-1))


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
@pytest.mark.parametrize("objective", ["sharp", "divergence"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_padding_changes_neither_value_nor_gradient(level, objective, dtype):
    loss = SinKDLoss(level, objective=objective)
    student, teacher = draw(2, 4, 3).to(dtype), draw(2, 4, 3, seed=1).to(dtype)
    bare = student.clone().requires_grad_()
    wanted = loss(bare, teacher)
    expected = gradient(wanted, bare)
    for side in ("left", "right"):
        for rubbish in (0.0, float("nan"), float("inf")):
            filler = torch.full((2, 3, 3), rubbish, dtype=dtype)
            order = (lambda *v: v) if side == "right" else (lambda *v: v[::-1])
            padded = torch.cat(order(student, filler), 1).requires_grad_()
            mask = torch.cat(order(torch.ones(2, 4), torch.zeros(2, 3)), 1)
            labels = torch.where(mask > 0, 1, -100)
            for given in ({"mask": mask}, {"labels": labels}, {"mask": mask.bool(), "labels": labels}):
                value = loss(padded, torch.cat(order(teacher, filler), 1), **given)
                torch.testing.assert_close(value, wanted)
                found = gradient(value, padded)
                torch.testing.assert_close(found[mask.bool()].reshape(2, 4, 3), expected)
                assert torch.equal(found[~mask.bool()], torch.zeros(6, 3, dtype=dtype))


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
def test_the_causal_shift(level):
    # Tokens: prompt, prompt, answer, answer, padding. Rows 1 and 2 predict the answer.
    labels = torch.tensor([[-100, -100, 5, 6, -100]])
    student, teacher = draw(1, 5, 3), draw(1, 5, 3, seed=1)
    shifted = SinKDLoss(level, shift=True)(student, teacher, labels=labels)
    torch.testing.assert_close(shifted, SinKDLoss(level)(student[:, 1:3], teacher[:, 1:3]))


@pytest.mark.parametrize("level", ["token", "vocab"])
def test_chunks_do_not_change_the_result(level):
    student, teacher = draw(5, 4, 6).requires_grad_(), draw(5, 4, 6, seed=1)
    mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    results = [SinKDLoss(level, chunk_size=size)(student, teacher, mask) for size in (None, 1, 3, 8, 100)]
    wanted = gradient(results[0], student)
    for value in results[1:]:
        torch.testing.assert_close(value, results[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient(value, student), wanted, rtol=1e-11, atol=1e-15)


def test_more_or_fewer_rows_of_the_teacher():
    student, teacher = draw(2, 4, 3), draw(2, 6, 3, seed=1)
    mask, teacher_mask = torch.arange(4) < torch.tensor([[4], [2]]), torch.arange(6) < torch.tensor([[3], [6]])
    found = SinKDLoss("token", reduction="none")(student, teacher, mask, teacher_mask=teacher_mask)
    first, second = SinKDLoss()(student[0], teacher[0, :3]), SinKDLoss()(student[1, :2], teacher[1])
    torch.testing.assert_close(found, torch.stack([first, second]))
    torch.testing.assert_close(SinKDLoss()(student[0], teacher[1]), SinKDLoss("token")(student[:1], teacher[1:])[()])


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
def test_nothing_to_learn_from_is_zero(level):
    student = draw(2, 3, 4).requires_grad_()
    for reduction in ("mean", "sum", "none"):
        value = SinKDLoss(level, reduction=reduction)(student, draw(2, 3, 4), torch.zeros(2, 3)).sum()
        assert float(value.detach()) == 0
        assert torch.equal(gradient(value, student), torch.zeros_like(student))
    partly = SinKDLoss("token", reduction="none")(student, draw(2, 3, 4, seed=1), torch.tensor([[0, 0, 0], [1, 1, 1]]))
    assert float(partly[0].detach()) == 0 < float(partly[1].detach())


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
def test_accumulated_steps_are_one_step(level):
    student, teacher = draw(4, 5, 3).requires_grad_(), draw(4, 5, 3, seed=1)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
    rows = mask.sum()
    loss = SinKDLoss(level)
    total = sum(loss(student[k], teacher[k], mask[k], num_items_in_batch=rows) for k in range(4))
    whole = SinKDLoss("vocab" if level == "vocab" else "token")(student, teacher, mask, num_items_in_batch=int(rows))
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(gradient(total, student), gradient(whole, student))
    with pytest.raises(ValueError, match="num_items_in_batch is what reduction='mean' divides by, got reduction='sum'"):
        SinKDLoss(level, reduction="sum")(student, teacher, num_items_in_batch=3)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "words"),
    [
        (
            torch.ones(3),
            torch.ones(3),
            {},
            r"student_logits must have shape \(rows, V\) or \(batch, length, V\), got \(3,\)",
        ),
        (torch.ones(3, 4), torch.ones(3, 4).long(), {}, "teacher_logits must be of a floating-point dtype"),
        (torch.ones(3, 4), torch.ones(3, 5), {}, "one vocabulary, got 4 and 5 entries; .* or use ULDLoss"),
        (torch.ones(2, 3, 4), torch.ones(3, 4), {}, "as many axes"),
        (torch.ones(3, 4), torch.ones(3, 4), {"mask": torch.ones(4)}, r"mask must have shape \(3,\)"),
        (torch.ones(3, 4), torch.ones(3, 4), {"labels": torch.ones(3)}, "labels must be whole numbers"),
        (torch.ones(3, 4), torch.ones(2, 4), {"mask": torch.ones(3)}, "pass teacher_mask= or teacher_labels= too"),
        (torch.ones(3, 4), torch.ones(2, 4), {"teacher_mask": torch.ones(3)}, r"teacher_mask must have shape \(2,\)"),
    ],
)
def test_bad_input(student, teacher, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        SinKDLoss()(student, teacher, **options)


def test_the_shift_needs_sequences():
    with pytest.raises(ValueError, match="shift=True is for logits"):
        SinKDLoss(shift=True)(torch.ones(3, 4), torch.ones(3, 4))
