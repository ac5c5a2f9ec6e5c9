"""MultiLevelOT."""

import pytest
import torch
from logits import draw

from otkit.losses import MultiLevelOTLoss


def test_multilevel_with_loops():
    student, teacher = draw(2, 4, 7), draw(2, 5, 9, seed=1)
    mask, teacher_mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]]), torch.ones(2, 5)
    value, stats = MultiLevelOTLoss(topk=3, sl=0.2, sd=0.3)(
        student, teacher, mask, teacher_mask=teacher_mask, return_stats=True
    )
    wanted = []
    for k in range(2):
        rows = mask[k].nonzero()[:, 0]
        pair = []
        for v in (student[k, rows], teacher[k, : len(rows)]):
            p = (v / v.std(-1, keepdim=True, correction=0)).softmax(-1)
            pair.append(p[:, p.sum(0).argsort(descending=True)[:3]])
        p, q = pair
        C = (p[:, None] - q[None]).abs().sum(-1)
        P = torch.exp(-C / 0.1)
        for _ in range(10):
            P = P / P.sum(1, keepdim=True)
            P = P / P.sum(0, keepdim=True)
        wanted.append([(p - q).abs().sum(-1).mean(), -(q * p.log()).sum(-1).mean(), (P * C).sum() / len(rows)])
    had, sl, sd = torch.tensor(wanted).double().mean(0)
    torch.testing.assert_close(value, had + 0.2 * sl + 0.3 * sd)
    assert [float(stats[name]) for name in ("had", "sl", "sd")] == pytest.approx([float(v) for v in (had, sl, sd)])
    assert int(stats["rows"]) == 5


def test_multilevel_sequences_do_not_see_each_other():
    student, teacher = draw(2, 4, 7), draw(2, 4, 7, seed=1)
    alone = [MultiLevelOTLoss(topk=3)(student[k], teacher[k]) for k in range(2)]
    torch.testing.assert_close(MultiLevelOTLoss(topk=3, reduction="none")(student, teacher), torch.stack(alone))
    assert "topk=3, had=1" in repr(MultiLevelOTLoss(topk=3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MultiLevelOTLoss(had=-1.0), "had must be a factor of at least 0, got -1.0"),
        (lambda: MultiLevelOTLoss(topk=0), "topk must be"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
