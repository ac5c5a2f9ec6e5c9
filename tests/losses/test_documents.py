"""Documents that are packed in a sequence, numbered by a mask: the losses of each on its own."""

import pytest
import torch
from torch.testing import assert_close

from otkit.losses import DistillationObjective, Head, MultiLevelOTLoss, SinKDLoss, SoftTargetLoss, TopK, ULDLoss

# Two sequences with documents of 4, 2 and 1 tokens and padding, and of 3 and 5; the numbers need not increase.
MASK = torch.tensor([[1, 1, 1, 1, 3, 3, 2, 0], [7, 7, 7, 2, 2, 2, 2, 2]])
PLACES = [(0, 0, 4), (0, 6, 7), (0, 4, 6), (1, 3, 8), (1, 0, 3)]  # by sequences and by numbers
LOSSES = {
    "SinKD": lambda **options: SinKDLoss("token", **options),
    "SinKD, divergence": lambda **options: SinKDLoss("token", objective="divergence", **options),
    "multi-level": lambda **options: MultiLevelOTLoss(topk=3, **options),
}


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alone(loss, student, teacher, mask=None, **options):
    """The loss of each document, in a batch of its own."""
    found = []
    for k, low, high in PLACES:
        part = slice(k, k + 1), slice(low, high)
        more = {} if mask is None else {"mask": mask[part]}
        found.append(loss(student[part], teacher[part], **more, **options))
    return found


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shift", [False, True])
def test_documents_are_sequences(name, shift):
    student, teacher = logits(2, 8, 6).requires_grad_(), logits(2, 8, 6, seed=1)
    single = torch.cat(alone(LOSSES[name](reduction="none", shift=shift), student, teacher))
    single = single[torch.tensor([0, 2, 3, 4])] if shift else single  # a document of one token has no row then
    for given in (MASK, MASK.int(), 10 * MASK):
        assert_close(LOSSES[name](reduction="none", shift=shift)(student, teacher, given), single)
    found = LOSSES[name](shift=shift)(student, teacher, MASK)
    assert_close(found, single.mean())
    assert_close(*(torch.autograd.grad(v, student, retain_graph=True)[0] for v in (found, single.mean())))
    apart = LOSSES[name](shift=shift)(student, teacher, MASK > 0)
    assert abs(float((found - apart).detach())) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_steps_and_chunks_of_documents(name):
    student, teacher = logits(2, 8, 6).requires_grad_(), logits(2, 8, 6, seed=1)
    labels = torch.where(logits(2, 8, seed=2) > 0.5, -100, 1)
    loss, stats = LOSSES[name]()(student, teacher, MASK, labels, num_items_in_batch=20, return_stats=True)
    each = alone(LOSSES[name](), student, teacher, (labels >= 0) & (MASK > 0))
    counts = [int(((labels >= 0) & (MASK > 0))[k, low:high].sum()) for k, low, high in PLACES]
    assert_close(loss, sum(value * count for value, count in zip(each, counts, strict=True)) / 20)
    assert int(stats["rows"]) == sum(counts)
    if name != "multi-level":
        gradients = []
        for size in (1, 7, 100):
            value = LOSSES[name](chunk_size=size)(student, teacher, MASK, labels)
            gradients.append(torch.autograd.grad(value, student)[0])
            assert_close(gradients[0], gradients[-1])


@pytest.mark.parametrize("shift", [False, True])
def test_rows_of_another_document_are_not_paired(shift):
    # The teacher has two tokens for each of the student's first document, and fewer for its second.
    student, teacher = logits(1, 5, 6).requires_grad_(), logits(1, 7, 9, seed=1)
    mask, teacher_mask = torch.tensor([[1, 1, 1, 2, 2]]), torch.tensor([[1, 1, 1, 1, 1, 1, 2]])
    found = ULDLoss(shift=shift, reduction="sum")(student, teacher, mask, teacher_mask=teacher_mask)
    first = ULDLoss(shift=shift, reduction="sum")(student[:, :3], teacher[:, :3])
    assert_close(found, first if shift else first + ULDLoss()(student[:, 3:4], teacher[:, 6:]))
    averaged = ULDLoss(average="sequences")(student, teacher, mask, teacher_mask=teacher_mask)
    assert_close(averaged, (ULDLoss()(student[0, :3], teacher[0, :3]) + ULDLoss()(student[0, 3:4], teacher[0, 6:])) / 2)
    with pytest.raises(ValueError, match="mask and teacher_mask must both number documents"):
        ULDLoss()(student, teacher, mask, teacher_mask=teacher_mask > 0)


def test_no_row_predicts_a_token_of_the_next_document():
    student, teacher = logits(2, 8, 6).requires_grad_(), logits(2, 8, 6, seed=1)
    labels = torch.arange(16).reshape(2, 8) % 6
    objective = DistillationObjective(SinKDLoss("token", shift=True), shift=True)
    labels_apart = labels.clone()
    labels_apart[torch.cat([0 * MASK[:, :1], MASK[:, :-1]], 1) != MASK] = -100  # as collators that pack have them
    assert_close(objective(student, teacher, labels, MASK), objective(student, teacher, labels_apart, MASK))
    kl = SoftTargetLoss(shift=True, reduction="none")(student, teacher, MASK)
    assert (kl != 0).int().tolist() == [[1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1, 0]]
    # The last token of a prompt, which takes no part, predicts the first of the answer.
    prompts = MASK * torch.tensor([0, 0, 1, 1, 0, 1, 1, 1])
    kl = SoftTargetLoss(shift=True, reduction="none")(student, teacher, prompts)
    assert (kl != 0).int()[0].tolist() == [0, 1, 1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("form", ["head", "known", "both"])
def test_heads_and_known_entries(form):
    weight, hidden = logits(6, 3, seed=2), logits(2, 8, 3).requires_grad_()
    teacher = logits(2, 8, 6, seed=1).log_softmax(-1)
    known = TopK(*reversed(teacher.topk(6, -1)))
    student = Head(hidden, weight) if form != "known" else hidden @ weight.T
    found = SinKDLoss("token")(student, teacher if form == "head" else known, MASK)
    assert_close(found, SinKDLoss("token")(hidden @ weight.T, teacher, MASK))


def test_documents_without_rows():
    student, teacher = logits(2, 8, 6).requires_grad_(), logits(2, 8, 6, seed=1)
    for name in LOSSES:
        loss = LOSSES[name]()(student, teacher, MASK, torch.full((2, 8), -100))
        assert loss == 0
        assert not torch.autograd.grad(loss, student)[0].any()
        # A document that the teacher has not is a loss of 0, as a sequence is.
        missing = torch.where(MASK == 2, 0, MASK)
        values = LOSSES[name](reduction="none")(student, teacher, MASK, teacher_mask=missing)
        assert (values == 0).tolist() == [False, True, False, True, False]


def test_masks_that_are_none():
    student, teacher = logits(2, 3, 6), logits(2, 3, 6, seed=1)
    for mask in (torch.full((2, 3), -100), torch.tensor([[1, torch.nan, 1]] * 2)):
        with pytest.raises(ValueError, match="labels != -100"):
            SinKDLoss()(student, teacher, mask)
