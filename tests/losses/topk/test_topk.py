"""Losses of teachers of which the leading entries are known: those of dense logits, in plain torch, and bad input."""

from types import SimpleNamespace

import pytest
import torch
from measure import of_process
from torch.autograd import gradcheck

from otkit.losses import (
    DistillationObjective,
    MultiLevelOTLoss,
    SinKDLoss,
    SoftTargetLoss,
    TopK,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

V, K = 9, 3


def logits(*shape, seed=0, size=1.5):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def known(tail, *shape, gaps=True, vocab_size=None):
    """Leading entries of a teacher; every second row knows fewer."""
    top = torch.log_softmax(logits(*shape, V, seed=1), -1).topk(K, -1)
    indices, logprobs = top.indices.clone(), top.values.clone()
    if gaps:
        indices[..., ::2, -1] = -1
        logprobs[..., 1::2, 0] = -torch.inf
    return TopK(indices, logprobs, tail, vocab_size)


def dense(teacher, entries=V):
    """The probabilities that `tail` describes, by a loop over rows; the bucket has none."""
    rows = []
    for ids, logprobs in zip(teacher.indices.reshape(-1, K), teacher.logprobs.reshape(-1, K), strict=True):
        pairs = {int(i): float(p.exp()) for i, p in zip(ids, logprobs, strict=True) if i >= 0}
        rest = 1 - sum(pairs.values()) if teacher.tail == "uniform" else 0.0
        row = [pairs.get(v, rest / (entries - len(pairs))) for v in range(entries)]
        rows.append([p / sum(row) for p in row])
    return torch.tensor(rows, dtype=torch.float64).reshape(*teacher.shape[:-1], entries)


def merged(teacher, student):
    """Logits of both for the known entries of a row and one outcome more, row by row."""
    pairs = []
    for ids, logprobs, x in zip(teacher.indices, teacher.logprobs, student, strict=True):
        there = ids >= 0
        mine = x[ids[there]]
        others = x[[v for v in range(len(x)) if v not in ids[there].tolist()]].logsumexp(-1, keepdim=True)
        rest = (1 - logprobs[there].exp().sum(-1, keepdim=True)).log()
        pairs.append((torch.cat([mine, others]), torch.cat([logprobs[there], rest])))
    return pairs


ROWS = {
    "kl": lambda **o: SoftTargetLoss("kl", 2.0, **o),
    "reverse_kl": lambda **o: SoftTargetLoss("reverse_kl", 2.0, **o),
    "js": lambda **o: SoftTargetLoss("js", 2.0, **o),
    "tv": lambda **o: SoftTargetLoss("tv", 0.5, **o),
    "cross_entropy": lambda **o: SoftTargetLoss("cross_entropy", **o),
    "vocab": lambda **o: SinKDLoss("vocab", tau=1.5, **o),
    "uld": lambda **o: ULDLoss(2.0, 1.5, **o),
    "uld topk": lambda **o: ULDLoss(topk=2, **o),
    "vocab ot": lambda **o: VocabOTLoss(VocabularyCost.dense(1 - torch.eye(V).double()), 0.5, 50, **o),
}
COUPLED = {
    "batch": lambda **o: SinKDLoss("batch", **o),
    "regularized": lambda **o: SinKDLoss("batch", objective="regularized", **o),
    "divergence": lambda **o: SinKDLoss("batch", objective="divergence", **o),
    "token": lambda **o: SinKDLoss("token", **o),
    "token divergence": lambda **o: SinKDLoss("token", objective="divergence", **o),
    "multilevel": lambda **o: MultiLevelOTLoss(topk=5, n_iters=5, **o),
}


@pytest.mark.parametrize("tail", ["renormalise", "uniform"])
@pytest.mark.parametrize("name", [*ROWS, *COUPLED])
def test_it_is_the_loss_of_the_dense_teacher(name, tail):
    if (name, tail) == ("reverse_kl", "renormalise"):
        pytest.skip("infinite, and refused")
    # MultiLevelOT divides logits by their standard deviation: it needs the same logits, not the same probabilities, and
    # would see ties between rows of two known entries.
    teacher = known(tail, 2, 4, gaps=name != "multilevel", vocab_size=V)
    expected = dense(teacher).log() if name != "multilevel" else teacher.logits(V)
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]])
    for chunk in ({}, {"chunk_size": 2}):
        options = {} if name == "multilevel" else chunk
        loss = {**ROWS, **COUPLED}[name](reduction="none", **options)
        student = logits(2, 4, V).requires_grad_()
        found, wanted = (loss(student, v, mask) for v in (teacher, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
        weights = logits(*found.shape, seed=5)
        by = [torch.autograd.grad((weights * v).sum(), student)[0] for v in (found, wanted)]
        torch.testing.assert_close(*by, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tail", ["renormalise", "uniform"])
def test_dense_logits_are_the_described_probabilities(tail):
    teacher = known(tail, 2, 4)
    torch.testing.assert_close(torch.softmax(teacher.logits(V), -1), dense(teacher))


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "tv", "cross_entropy", "vocab"])
def test_one_bucket_merges_the_other_entries(name):
    teacher, student = known("one bucket", 6), logits(6, V).requires_grad_()
    loss = ROWS[name](reduction="none")
    found = loss(student, teacher)
    wanted = torch.cat([loss(x[None], y[None]) for x, y in merged(teacher, student)])
    torch.testing.assert_close(found, wanted)
    by = [torch.autograd.grad(v.sum(), student)[0] for v in (found, wanted)]
    torch.testing.assert_close(*by)


def test_one_bucket_of_rows_compared_with_each_other():
    teacher, student = known("one bucket", 6), logits(5, V).requires_grad_()
    C = torch.stack([
        torch.stack([
            (torch.softmax(x / 2, -1) - torch.softmax(y / 2, -1)).abs().sum()
            for x, y in merged(teacher, row.expand(6, V))
        ])
        for row in student
    ])  # fmt: skip
    P = torch.exp(-C / 0.1)
    for _ in range(20):
        P = P / P.sum(1, keepdim=True) / 5
        P = P / P.sum(0, keepdim=True) / 6
    wanted = (P * C).sum()
    found = SinKDLoss("batch")(student[None], teacher[None], teacher_mask=torch.ones(1, 6))
    torch.testing.assert_close(found, wanted)
    by = [torch.autograd.grad(v, student)[0] for v in (found, wanted)]
    torch.testing.assert_close(*by)
    by_token = SinKDLoss("token")(student[None], teacher[None], teacher_mask=torch.ones(1, 6))
    torch.testing.assert_close(by_token, wanted)


@pytest.mark.parametrize("topk", [None, 2, 5])
def test_one_bucket_between_two_vocabularies(topk):
    teacher, student = known("one bucket", 6), logits(6, V - 2).requires_grad_()
    wanted = []
    for logprobs, x in zip(teacher.logprobs, student, strict=True):
        q = logprobs[logprobs > -torch.inf].exp().sort(descending=True).values[: topk or K]
        p = torch.softmax(x, -1).sort(descending=True).values[: len(q)]
        wanted.append((p - q).abs().sum() + (p.sum() - q.sum()).abs())
    found = ULDLoss(topk=topk, reduction="none")(student, teacher)
    torch.testing.assert_close(found, torch.stack(wanted))
    by = [torch.autograd.grad(v.sum(), student)[0] for v in (found, torch.stack(wanted))]
    torch.testing.assert_close(*by)


@pytest.mark.parametrize("name", ["kl", "js", "vocab", "batch", "token", "uld"])
def test_equal_predictions_and_all_entries_known(name):
    student = logits(2, 3, V).requires_grad_()
    every = torch.arange(V).expand(2, 3, V)
    for tail in ("one bucket", "renormalise", "uniform"):
        teacher = TopK(every, torch.log_softmax(student.detach(), -1), tail, V)
        loss = SinKDLoss(name, objective="divergence") if name in ("batch", "token") else ROWS[name]()
        if tail == "one bucket" and name in ("batch", "token"):
            continue
        value = loss(student, teacher) if name != "uld" else ULDLoss()(student, teacher)
        assert abs(float(value.detach())) < 1e-7
        assert bool(torch.autograd.grad(value, student)[0].isfinite().all())


@pytest.mark.parametrize("tail", ["renormalise", "one bucket", "uniform"])
@pytest.mark.parametrize("name", ["kl", "js", "uld", "batch", "token"])
def test_finite_differences(name, tail):
    loss, student = {**ROWS, **COUPLED}[name](reduction="none"), logits(2, 3, V).requires_grad_()
    teacher = known(tail, 2, 3, vocab_size=V)
    assert gradcheck(lambda v: loss(v, teacher), student, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_a_second_derivative_of_costs_is_refused():
    student = logits(4, V).requires_grad_()
    (first,) = torch.autograd.grad(SinKDLoss()(student, known("uniform", 4)), student, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives of .* are not available"):
        first.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    top = torch.log_softmax(logits(4, V, seed=1), -1).topk(K, -1)
    for tail in ("renormalise", "one bucket", "uniform"):
        wide = TopK(top.indices, top.values, tail, V)
        narrow = TopK(top.indices.int(), top.values.to(dtype), tail, V)
        for loss in (SoftTargetLoss("js"), SinKDLoss(), ULDLoss()):
            student = logits(4, V).to(dtype).requires_grad_()
            value = loss(student, narrow)
            value.backward()
            assert (value.dtype, student.grad.dtype) == (torch.float32, dtype)
            assert float(value.detach()) == pytest.approx(float(loss(logits(4, V), wide)), abs=1e-2)


def test_masks_shifts_and_unknown_rows_that_take_no_part():
    teacher = known("renormalise", 2, 4, gaps=False)
    indices, logprobs = teacher.indices.clone(), teacher.logprobs.clone()
    indices[0, 2:], logprobs[1, 0] = -1, -torch.inf
    labels = torch.tensor([[3, 3, 3, -100], [3, -100, 3, 3]])  # after the shift: rows 0 and 1, rows 1 and 2
    student = logits(2, 4, V).requires_grad_()
    partly = TopK(indices, logprobs)
    for make in (SoftTargetLoss, ULDLoss, lambda **o: SinKDLoss("token", **o), lambda **o: SinKDLoss(**o),
                 lambda **o: MultiLevelOTLoss(2, **o)):  # fmt: skip
        value = make(shift=True)(student, partly, labels=labels)
        torch.testing.assert_close(value, make(shift=True)(student, teacher, labels=labels))
        assert bool(torch.autograd.grad(value, student)[0].isfinite().all())
    with pytest.raises(ValueError, match=r"a row that takes part must have at least one known entry.*mask="):
        SoftTargetLoss()(student, partly)


def test_the_objective_takes_it():
    teacher, student = known("one bucket", 2, 4), logits(2, 4, V).requires_grad_()
    labels = torch.randint(V, (2, 4))
    value, parts = DistillationObjective(ULDLoss())(student, teacher, labels, return_stats=True)
    value.backward()
    torch.testing.assert_close(parts["kd"], SoftTargetLoss()(student.detach(), teacher))


def test_what_a_server_returns():
    plain = TopK.from_dicts([None, {11: -0.1, 7: -2.5}, {3: -0.2}], "one bucket", 12)
    assert plain.indices.tolist() == [[-1, -1], [11, 7], [3, -1]]
    torch.testing.assert_close(plain.logprobs[1:], torch.tensor([[-0.1, -2.5], [-0.2, -torch.inf]]))
    assert (plain.tail, plain.vocab_size) == ("one bucket", 12)
    rich = [[{11: SimpleNamespace(logprob=-0.1, rank=1)}], [{"3": {"logprob": -0.2}}, {5: -0.5}]]
    batch = TopK.from_dicts(rich)
    assert batch.indices.tolist() == [[[11], [-1]], [[3], [5]]]
    assert batch.to("cpu")[1].indices.tolist() == [[3], [5]]
    assert len(batch) == 2
    for rows, told in (([{"the": -0.1}], "convert_tokens_to_ids"), ([None], "got none"), ([3.0], "mapping of ids")):
        with pytest.raises(ValueError, match=told):
            TopK.from_dicts(rows)


TWO = torch.tensor([[0, 1]])
HALVES = torch.tensor([[0.5, 0.25]]).log()


@pytest.mark.parametrize(("given", "error", "told"), [
    ((TWO, HALVES, "drop"), ValueError, "tail must be one of renormalise, one bucket, uniform, got 'drop'"),
    ((TWO.tolist(), HALVES), TypeError, "indices must be a tensor, got list"),
    ((TWO.float(), HALVES), TypeError, "indices must be whole numbers.*long"),
    ((TWO, TWO), TypeError, "logprobs must be of a floating-point dtype"),
    ((TWO, HALVES[:, :1]), ValueError, r"one shape.*\(1, 2\) and \(1, 1\); pad rows"),
    ((TWO[0], HALVES[0]), ValueError, "one shape"),
    ((TWO - 2, HALVES), ValueError, "at least 0, or -1.*got -2"),
    ((TWO + 7, HALVES, "uniform", 8), ValueError, "below vocab_size=8, got 8"),
    ((TWO * 0, HALVES), ValueError, "must differ, got 0 twice; keep each once"),
    ((TWO, HALVES * torch.nan), ValueError, "must be numbers, got NaN"),
    ((TWO, HALVES + 0.4), ValueError, r"at most 1, got 1\.11.*log_softmax"),
    ((TWO, torch.tensor([[12.0, 3.0]])), ValueError, "at most 1"),
], ids=str)  # fmt: skip
def test_bad_entries(given, error, told):
    with pytest.raises(error, match=told):
        TopK(*given)


@pytest.mark.parametrize(("loss", "teacher", "told"), [
    (SoftTargetLoss("reverse_kl"), TopK(TWO, HALVES), "infinite.*tail='one bucket' or tail='uniform'"),
    (SoftTargetLoss(), TopK(TWO + 5, HALVES), "below the 6 entries of the student, got 6"),
    (SoftTargetLoss(), TopK(TWO, HALVES, vocab_size=8), "one vocabulary, got 6 and 8"),
    (ULDLoss(), TopK(TWO, HALVES, "uniform"), "pass vocab_size="),
    (MultiLevelOTLoss(), TopK(TWO, HALVES, "one bucket"), "tail='renormalise', or tail='uniform'"),
    (MultiLevelOTLoss(), TopK(TWO, HALVES, "uniform"), "size of the teacher's vocabulary"),
    (SinKDLoss(objective="divergence"), TopK(TWO, HALVES, "one bucket"), "another objective"),
    (SinKDLoss(gather=True), TopK(TWO, HALVES), "gather=False"),
    (VocabOTLoss(VocabularyCost.dense(1 - torch.eye(6))), TopK(TWO, HALVES, "one bucket"), "no cost"),
    (SoftTargetLoss(), TopK(TWO[None], HALVES[None]), "as many axes"),
], ids=str)  # fmt: skip
def test_losses_that_cannot_take_it(loss, teacher, told):
    with pytest.raises(ValueError, match=told):
        loss(torch.zeros(1, 6), teacher)


def test_unchecked_entries_are_taken_as_they_are():
    wrong = TopK(TWO, HALVES + 0.4, check=False)
    assert wrong.logprobs is not HALVES
    assert float(wrong.logprobs.exp().sum()) > 1


SCRIPT = """
    import torch
    from otkit.losses import SinKDLoss, SoftTargetLoss, TopK
    loss = {"kl": SoftTargetLoss("kl"), "batch": SinKDLoss(n_iters=2)}[sys.argv[1]]
    for rows in (16, 256):
        top = torch.log_softmax(torch.randn(rows, 64), -1).topk(16, -1)
        student, teacher = torch.randn(rows, 32000).requires_grad_(), TopK(top.indices, top.values, sys.argv[2], 32000)
        before = peak()
        loss(student, teacher).backward()
    print((peak() - before) / student.nbytes)
"""


@pytest.mark.parametrize(("name", "tail", "most"), [
    pytest.param("kl", "one bucket", 1.5, marks=pytest.mark.slow),  # the gradient
    ("batch", "renormalise", 3.5),  # softened rows and two gradients; a dense teacher would be one more
])  # fmt: skip
def test_no_dense_teacher(name, tail, most):
    (extra,) = of_process(SCRIPT, name, tail)
    assert extra <= most
