"""Memory over many steps: losses that are differentiated, and losses that are computed and dropped, leave nothing."""

import ctypes
import gc
from functools import partial
from pathlib import Path

import logits
import pytest
import torch

from otkit.losses import (
    DistillationObjective,
    GaussianFeatureLoss,
    Head,
    MultiLevelOTLoss,
    Prototypes,
    SigmaLoss,
    SinKDLoss,
    SinkhornLoss,
    SoftTargetLoss,
    SwappedPredictionLoss,
    TopK,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
    assign,
    doubly_stochastic,
    koleo,
)

STATUS = Path("/proc/self/status")
STEPS, MEBIBYTE = 50, 2**20
# The limit on what all steps together leave: a leak of a quarter of 1 MiB a step is far above it.
LIMIT = 8 * MEBIBYTE

LOGITS, POINTS = (2, 32, 1024), (4, 64, 256)  # a quarter of 1 MiB each
LABELS = torch.zeros(LOGITS[:2], dtype=torch.long)


draw = partial(logits.draw, dtype=torch.float32, size=1.0)
COST = VocabularyCost.nearest(draw(1024, 4), k=2)
TEACHER = draw(*LOGITS, seed=1)
KNOWN = TopK(*reversed(TEACHER.log_softmax(-1).topk(8, -1)), "one bucket")
WEIGHTS, OTHERS = draw(1024, 1024, seed=2), draw(*POINTS, seed=3)
SIGMA, FEATURES = SigmaLoss(Prototypes(32, 128)), draw(512, 128, seed=4)

# A loss of one tensor, and the shape of the tensor.
LOSSES = {
    "KL": (lambda x: SoftTargetLoss()(x, TEACHER), LOGITS),
    "KL, chunks": (lambda x: SoftTargetLoss(chunk_size=16)(x, TEACHER), LOGITS),
    "KL, known entries": (lambda x: SoftTargetLoss()(x, KNOWN), LOGITS),
    "KL, a head": (lambda x: SoftTargetLoss(chunk_size=16)(Head(x, WEIGHTS), TEACHER), LOGITS),
    "ULD": (lambda x: ULDLoss(topk=8)(x, TEACHER), LOGITS),
    "multi-level": (lambda x: MultiLevelOTLoss(topk=4)(x, TEACHER), LOGITS),
    **{f"SinKD {k}": (lambda x, k=k: SinKDLoss(k)(x, TEACHER), LOGITS) for k in ("batch", "token", "vocab")},
    "VocabOT": (lambda x: VocabOTLoss(COST, n_iters=1)(x, TEACHER), LOGITS),
    "objective": (lambda x: DistillationObjective()(x, TEACHER, LABELS), LOGITS),
    "features": (lambda x: GaussianFeatureLoss("diagonal")(x, OTHERS), POINTS),
    "Sinkhorn": (lambda x: SinkhornLoss(500.0, tol=0.1)(x, OTHERS), POINTS),
    "assign": (lambda x: -(assign(x) * x.log_softmax(-1)).sum(), (512, 128)),
    "swapped": (lambda x: SwappedPredictionLoss()(x), (2, 256, 128)),
    "SIGMA": (lambda x: SIGMA(x, FEATURES), (512, 128)),
    "koleo": (koleo, (256, 256)),
    "doubly stochastic": (lambda x: doubly_stochastic(x, 3).square().sum(), (1024, 8, 8)),
}


def resident():
    return 1024 * int(STATUS.read_text().partition("VmRSS:")[2].split()[0])


def left(step):
    """The memory in bytes, and the number of tensors, that many steps leave without a collection of cycles."""
    found = []
    gc.collect()
    if STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # free memory of earlier tests would hide a leak
    gc.disable()
    try:
        for steps in (STEPS // 5, STEPS):
            for _ in range(steps):
                step()
            tensors = sum(issubclass(type(v), torch.Tensor) for v in gc.get_objects())
            found.append((resident() if STATUS.exists() else 0, tensors))
    finally:
        gc.enable()
    return found[1][0] - found[0][0], found[1][1] - found[0][1]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backward", [False, True], ids=["dropped", "differentiated"])
@pytest.mark.parametrize("name", LOSSES)
def test_steps_leave_nothing(name, backward):
    loss, shape = LOSSES[name]
    x = draw(*shape).requires_grad_()

    def step():
        value = loss(x)
        if backward:
            x.grad = None
            value.backward()

    memory, tensors = left(step)
    assert tensors <= 0
    assert memory < LIMIT


def test_a_leak_of_a_quarter_of_a_mebibyte_a_step_is_found():
    kept = []
    memory, tensors = left(lambda: kept.append(torch.ones(MEBIBYTE // 16)))
    assert tensors == STEPS
    assert memory > LIMIT or not STATUS.exists()
