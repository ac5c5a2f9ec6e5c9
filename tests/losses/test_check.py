"""NaN in a batch: a loss of NaN, or with `check` an error before any work."""

import pytest
import torch

from otkit.losses import (
    DistillationObjective,
    GaussianFeatureLoss,
    Head,
    MultiLevelOTLoss,
    SinKDLoss,
    SoftTargetLoss,
    TopK,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

COST = VocabularyCost.dense((torch.arange(6)[:, None] - torch.arange(6)).abs() / 6)
LOSSES = {
    "KL": SoftTargetLoss,
    "ULD": ULDLoss,
    "VocabOT": lambda **options: VocabOTLoss(COST, **options),
    "SinKD batch": SinKDLoss,
    "SinKD token": lambda **options: SinKDLoss("token", **options),
    "SinKD vocab": lambda **options: SinKDLoss("vocab", **options),
    "multi-level": lambda **options: MultiLevelOTLoss(topk=3, **options),
    "features": GaussianFeatureLoss,
    "features, full": lambda **options: GaussianFeatureLoss("full", **options),
    "objective": lambda **options: DistillationObjective(ce=0.0, **options),
}


def pair(value=0.0):
    student, teacher = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    student[1, 2, 3] = value
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_no_number(name):
    mask = torch.ones(2, 4)
    mask[1, 2] = 0
    for value in (torch.nan, torch.inf):
        student, teacher = pair(value)
        assert bool(LOSSES[name]()(student, teacher).isnan())
        for logits, side in (((student, teacher), "student"), ((teacher, student.detach()), "teacher")):
            with pytest.raises(ValueError, match=f"{side}.*got NaN or inf"):
                LOSSES[name](check=True)(*logits)
        # A row that takes no part may hold anything.
        masked = [LOSSES[name](check=check)(student, teacher, mask=mask) for check in (True, False)]
        assert masked[0] == masked[1] == LOSSES[name]()(pair()[0], teacher, mask=mask)


def test_excluded_entries_pass():
    student, teacher = pair(-torch.inf)
    assert SoftTargetLoss("tv", check=True)(student, teacher).isfinite()


def test_labels_heads_and_known_entries():
    student, teacher = pair(torch.nan)
    objective = DistillationObjective(kd=0.0, ot=0.0, check=True)
    with pytest.raises(ValueError, match="student_logits must be numbers"):
        objective(student, teacher, torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="in 1 rows"):
        SoftTargetLoss(check=True)(Head(student, torch.eye(6)), teacher)
    known = TopK(*reversed(teacher.log_softmax(-1).topk(3, -1)))
    assert SoftTargetLoss(check=True)(pair()[0], known).isfinite()
