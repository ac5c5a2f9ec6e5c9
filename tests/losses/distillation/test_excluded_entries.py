"""Logits of −inf exclude entries: values are those of the definition, with 0·log 0 = 0, and gradients are finite."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch.nn import functional

from otkit.losses import (
    DistillationObjective,
    MultiLevelOTLoss,
    SinKDLoss,
    SoftTargetLoss,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

NAMES = ("kl", "reverse_kl", "js", "tv", "cross_entropy")
ROWS, V, UNUSED = 7, 9, [2, 5, 8]
USED = [k for k in range(V) if k not in UNUSED]
LABELS = torch.tensor([0, 1, 3, 4, 6, 7, 0])


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(ROWS, V, generator=generator, dtype=torch.float64) for _ in range(2))


def without(v, entries=UNUSED):
    v = v.clone()
    v[:, entries] = -torch.inf
    return v


def top(v, k):
    """Logits of which only the largest k of each row are known."""
    return torch.where(v >= v.topk(k, -1).values[:, -1:], v, -torch.inf)


def costs(entries):
    points = torch.arange(V, dtype=torch.float64).sin()[entries]
    return VocabularyCost.dense((points[:, None] - points).abs())


EVERY = {name: lambda _, name=name: SoftTargetLoss(name, temperature=2.0, chunk_size=2) for name in NAMES} | {
    "uld": lambda _: ULDLoss(chunk_size=3),
    "uld of some": lambda _: ULDLoss(topk=3),
    "multilevel": lambda _: MultiLevelOTLoss(topk=4),
    "multilevel of all": lambda _: MultiLevelOTLoss(topk=100, sl=1.0),
    "sinkd": lambda _: SinKDLoss(),
    "sinkd to a tolerance": lambda _: SinKDLoss(tol=1e-9, objective="divergence"),
    "sinkd of tokens": lambda _: SinKDLoss("token"),
    "sinkd of rows": lambda _: SinKDLoss("vocab"),
    "vocabulary": lambda entries: VocabOTLoss(costs(entries)),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("masked", [False, True])
def test_an_unused_part_of_the_vocabulary_changes_nothing(name, masked, logits):
    student, teacher = logits
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 1]) if masked else None
    whole, part = without(student).requires_grad_(), student[:, USED].clone().requires_grad_()
    value = EVERY[name](list(range(V)))(whole, without(teacher), mask)
    wanted = EVERY[name](USED)(part, teacher[:, USED], mask)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    (by_whole,), (by_part,) = torch.autograd.grad(value, whole), torch.autograd.grad(wanted, part)
    torch.testing.assert_close(by_whole[:, USED], by_part, rtol=1e-10, atol=1e-13)
    assert (by_whole[:, UNUSED] == 0).all()


@pytest.mark.parametrize("options", [{"ce": 1.0}, {"ce": 0.5, "divergence": "cross_entropy"}, {"divergence": "js"}])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_the_objective_too(options, temperature, logits):
    objective = DistillationObjective(temperature=temperature, final_temperature=1.0, **options)
    found = []
    for student, teacher, labels in (
        (without(logits[0]), without(logits[1]), LABELS),
        (logits[0][:, USED], logits[1][:, USED], torch.tensor([USED.index(k) for k in LABELS])),
    ):
        student = student.clone().requires_grad_()
        value = objective(student, teacher, labels, progress=0.5)
        found.append((value, torch.autograd.grad(value, student)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)  # its cross entropy is in float32
    torch.testing.assert_close(found[0][1][:, USED], found[1][1], rtol=1e-5, atol=1e-6)
    assert (found[0][1][:, UNUSED] == 0).all()


def definition(name, p, q):
    """The divergence of two distributions, by SciPy."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore"):
        return {
            "kl": rel_entr(q, p),
            "reverse_kl": rel_entr(p, q),
            "js": (rel_entr(p, middle) + rel_entr(q, middle)) / 2,
            "tv": abs(p - q) / 2,
            "cross_entropy": np.where(q > 0, -q * np.log(np.where(q > 0, p, 1.0)), 0.0),
        }[name].sum(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", ["student", "teacher", "both"])
def test_values_are_those_of_the_definition(name, hidden, logits):
    student, teacher = logits
    student = top(student, 4) if hidden != "teacher" else student
    teacher = top(teacher, 3) if hidden != "student" else teacher
    student.requires_grad_()
    temperature = 2.0
    values = SoftTargetLoss(name, temperature, squared=False, reduction="none", chunk_size=3)(student, teacher)
    p, q = (functional.softmax(v.detach() / temperature, -1).numpy() for v in (student, teacher))
    np.testing.assert_allclose(values.detach(), definition(name, p, q), rtol=1e-12, atol=1e-14)
    infinite = values.isinf()
    expected = {"kl": "student both", "cross_entropy": "student both", "reverse_kl": "teacher both"}.get(name, "")
    assert bool(infinite.any()) == (hidden in expected)
    (by_student,) = torch.autograd.grad(values.sum(), student)
    assert by_student.isfinite().all()  # also in the rows of infinite values
    for row in (~infinite).nonzero()[:, 0]:
        for k in student[row].isfinite().nonzero()[:, 0]:
            step = torch.zeros_like(student)
            step[row, k] = 1e-5
            ends = [
                SoftTargetLoss(name, temperature, squared=False, reduction="none")(student.detach() + s * step, teacher)
                for s in (1, -1)
            ]
            slope = (ends[0] - ends[1])[row] / 2e-5
            torch.testing.assert_close(by_student[row, k], slope, rtol=1e-6, atol=1e-9)


def test_kl_is_that_of_torch_where_torch_defines_it(logits):
    student, teacher = logits[0].requires_grad_(), top(logits[1], 3)
    log_p, log_q = functional.log_softmax(student, -1), functional.log_softmax(teacher, -1)
    for found, wanted in (
        (SoftTargetLoss("kl"), functional.kl_div(log_p, log_q.exp(), reduction="batchmean")),
        (SoftTargetLoss("cross_entropy"), functional.cross_entropy(student, log_q.exp())),
    ):
        value = found(student, teacher)
        torch.testing.assert_close(value, wanted)
        gradients = [torch.autograd.grad(v, student, retain_graph=True)[0] for v in (value, wanted)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["kl", "cross_entropy"])
def test_a_probability_that_underflows_is_still_above_zero(name):
    teacher, student = torch.tensor([[0.0, -300.0]]), torch.tensor([[0.0, -torch.inf]])
    assert SoftTargetLoss(name)(student, teacher) == torch.inf
    assert SoftTargetLoss(name)(teacher, student).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_dtypes(name, dtype, logits):
    student, teacher = (without(v).to(dtype) for v in logits)
    student.requires_grad_()
    value = SoftTargetLoss(name, chunk_size=2)(student, teacher)
    wanted = SoftTargetLoss(name)(student.detach()[:, USED].double(), teacher[:, USED].double())
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
    value.backward()
    assert student.grad.isfinite().all()


def test_a_teacher_of_its_top_entries_in_the_multilevel_loss(logits):
    student, teacher = logits[0].requires_grad_(), top(logits[1], 3)
    value, stats = MultiLevelOTLoss(topk=V)(student, teacher, return_stats=True)
    finite = teacher.isfinite()
    q = torch.stack([
        functional.softmax(row[known] / row[known].std(correction=0), -1).new_zeros(V).masked_scatter(
            known, functional.softmax(row[known] / row[known].std(correction=0), -1)
        )
        for row, known in zip(teacher, finite, strict=True)
    ])  # fmt: skip
    log_p = functional.log_softmax(student / student.std(-1, keepdim=True, correction=0), -1)
    order_p, order_q = (v.sum(0).argsort(descending=True) for v in (log_p.exp(), q))
    torch.testing.assert_close(stats["sl"], -(q[:, order_q] * log_p[:, order_p]).sum(-1).mean().detach())
    torch.testing.assert_close(stats["had"], (q[:, order_q] - log_p.exp()[:, order_p]).abs().sum(-1).mean().detach())
    assert torch.autograd.grad(value, student)[0].isfinite().all()
    # A student without an entry that the teacher has: infinite, and finite without that part.
    few = without(logits[0].detach(), list(range(6)))
    assert MultiLevelOTLoss(topk=V)(few, logits[1]) == torch.inf
    assert MultiLevelOTLoss(topk=V, sl=0.0)(few, logits[1]).isfinite()
    assert MultiLevelOTLoss(topk=V, had=0.0, sl=0.0, sd=0.0)(few, logits[1]) == 0.0


def test_numbers_that_are_none_are_not_hidden(logits):
    student = logits[0].clone()
    student[3, 4] = torch.nan
    for name in NAMES:
        values = SoftTargetLoss(name, reduction="none")(student, without(logits[1], [4]))
        assert values[3].isnan()
    assert MultiLevelOTLoss()(student, logits[1]).isnan()
