"""Distillation between vocabularies, and within one at costs that know what is alike."""

import copy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import otkit
from otkit.losses import MultiLevelOTLoss, SinKDLoss, ULDLoss, VocabOTLoss, VocabularyCost, vocabulary_cost


def draw(*shape, seed=0, dtype=torch.float64, size=2.0):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(value, student):
    return torch.autograd.grad(value, student)[0]


def costs(size=6, seed=3):
    """Distances of points in the plane, as a matrix."""
    x = draw(size, 2, seed=seed, size=0.5)
    C = torch.cdist(x, x)
    return ((C + C.T) / 2).fill_diagonal_(0.0)


# ULD


def naive_uld(student, teacher, rows):
    """With loops, as it is written: sequences of rows, which are paired from the first on."""
    total = []
    for k, (mine, theirs) in enumerate(rows):
        for i, j in zip(mine, theirs, strict=False):
            p, q = (np.sort(v.softmax(-1).numpy())[::-1] for v in (student[k, i], teacher[k, j]))
            size = max(len(p), len(q))
            total.append(np.abs(np.pad(p, (0, size - len(p))) - np.pad(q, (0, size - len(q)))).sum())
    return np.mean(total)


def test_uld_golden():
    student, teacher = (
        torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log(),
        torch.tensor([[0.5, 0.3, 0.1, 0.1]], dtype=torch.float64).log(),
    )
    assert float(ULDLoss()(student, teacher)) == pytest.approx(0.4, abs=1e-14)


def test_uld_is_the_formula_with_loops():
    student, teacher = draw(2, 5, 7), draw(2, 6, 9, seed=1)
    mask, teacher_mask = (
        torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
        torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]),
    )
    value, stats = ULDLoss()(student, teacher, mask, teacher_mask=teacher_mask, return_stats=True)
    wanted = naive_uld(student, teacher, [([1, 2, 3], [0, 1]), ([0, 1], [2, 3, 4, 5])])
    assert float(value) == pytest.approx(wanted, rel=1e-13)
    assert int(stats["rows"]) == 4
    assert float(stats["mean"]) == pytest.approx(wanted)
    assert float(stats["max"]) > wanted
    each = ULDLoss(reduction="none")(student, teacher, mask, teacher_mask=teacher_mask)
    assert each.shape == (2, 5)
    assert (each != 0).int().tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]]


def test_uld_does_not_see_the_order_of_a_vocabulary():
    student, teacher = draw(4, 7), draw(4, 9, seed=1)
    order, other = torch.randperm(7, generator=torch.Generator().manual_seed(0)), torch.arange(8, -1, -1)
    torch.testing.assert_close(ULDLoss()(student[:, order], teacher[:, other]), ULDLoss()(student, teacher))


def test_uld_of_the_largest():
    student, teacher = draw(4, 7), draw(4, 9, seed=1)
    whole = ULDLoss()(student, teacher)
    torch.testing.assert_close(ULDLoss(topk=9)(student, teacher), whole)
    torch.testing.assert_close(ULDLoss(topk=50)(student, teacher), whole)
    values = [float(ULDLoss(topk=k)(student, teacher)) for k in (1, 2, 3, 5, 9)]
    assert values == sorted(values)
    none = torch.full((4, 5), -200.0).double()  # a tail without probability
    torch.testing.assert_close(ULDLoss(topk=9)(torch.cat([student, none], 1), torch.cat([none, teacher], 1)), whole)


def test_uld_temperatures():
    student, teacher = draw(4, 7), draw(4, 9, seed=1)
    found = ULDLoss(student_temperature=2.0, teacher_temperature=0.5)(student, teacher)
    torch.testing.assert_close(found, ULDLoss()(student / 2, teacher * 2))


# What all losses of logits have in common

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
    monkeypatch.setattr(vocabulary_cost, "_HELD", 40)
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
    import resource, sys, torch
    from otkit.losses import SinKDLoss, SoftTargetLoss, ULDLoss
    rows, entries, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    loss = {"uld": ULDLoss(), "vocab": SinKDLoss("vocab"), "kl": SoftTargetLoss("kl")}[name]
    loss(torch.randn(64, 99, requires_grad=True), torch.randn(64, 99)).backward()
    student, teacher = (torch.randn(rows // 64, entries).to(torch.bfloat16).repeat(64, 1) for _ in range(2))
    student.requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss(student, teacher).backward()
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert torch.isfinite(student.grad).all()
    print(extra / (2 * student.nbytes))
"""


@pytest.mark.parametrize("name", ["uld", "vocab", "kl"])
def test_memory(name):
    # A quarter of the vocabulary of a large model: beside the logits no more than their size, gradient included.
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), "1024", "37984", name]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 1.0


# Transport over one vocabulary


def test_the_divergence_is_that_of_solve():
    C = costs().float().double()
    p, q = ((draw(3, 6, seed=seed) / 2).softmax(-1) for seed in (0, 1))
    for unbalanced in (None, 0.3):
        loss = VocabOTLoss(VocabularyCost.dense(C), reg=0.2, n_iters=300, unbalanced=unbalanced, reduction="none")
        found = loss(2 * p.log(), 2 * q.log())
        for k in range(3):
            one, *own = (
                otkit.solve(C, *pair, reg=0.2, unbalanced=unbalanced, tol=1e-12).value
                for pair in ((p[k], q[k]), (p[k], p[k]), (q[k], q[k]))
            )
            assert float(found[k]) == pytest.approx(float(one - sum(own) / 2), abs=1e-9)


def test_the_gradient_is_the_difference_of_potentials():
    C, tau = costs().float().double(), 2.0
    student, teacher = draw(1, 6).requires_grad_(), draw(1, 6, seed=1)
    value = VocabOTLoss(VocabularyCost.dense(C), reg=0.2, n_iters=1000, tau=tau)(student, teacher)
    p, q = ((v.detach() / tau).softmax(-1)[0] for v in (student, teacher))
    slope = otkit.solve(C, p, q, reg=0.2, tol=1e-12).f - otkit.solve(C, p, p, reg=0.2, tol=1e-12).f
    torch.testing.assert_close(gradient(value, student)[0], p * (slope - p @ slope) / tau, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("unbalanced", [None, 0.5])
@pytest.mark.parametrize("n_iters", [1, 10])
def test_equal_predictions_cost_nothing(unbalanced, n_iters):
    for cost in (VocabularyCost.dense(costs()), VocabularyCost.nearest(draw(6, 3), k=2)):
        student = draw(4, 6).requires_grad_()
        loss = VocabOTLoss(cost, reg=1e-3, n_iters=n_iters, unbalanced=unbalanced)
        value = loss(student, student.detach().clone())
        assert abs(float(value.detach())) < 1e-12
        assert float(gradient(value, student).abs().max()) < 1e-12


def test_all_neighbours_are_all_costs():
    e = draw(7, 3)
    unit = e / e.norm(dim=-1, keepdim=True)
    C = (1 - unit @ unit.T).fill_diagonal_(0.0)
    nearest, dense = VocabularyCost.nearest(e, k=6), VocabularyCost.dense(((C + C.T) / 2).clamp_min(0))
    assert torch.equal(nearest.first, dense.first)
    assert torch.equal(nearest.column, dense.column)
    torch.testing.assert_close(nearest.cost, dense.cost, rtol=0, atol=1e-6)
    student, teacher = draw(3, 7), draw(3, 7, seed=1)
    values = [VocabOTLoss(cost, reg=0.1, n_iters=50)(student, teacher) for cost in (nearest, dense)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-5)


def test_neighbours_are_the_nearest_both_ways(monkeypatch):
    monkeypatch.setattr(vocabulary_cost, "_HELD", 60)  # some rows at a time
    e = draw(20, 4)
    cost = VocabularyCost.nearest(e, k=3)
    unit = (e / e.norm(dim=-1, keepdim=True)).numpy()
    wanted = set()
    for i, row in enumerate(1 - unit @ unit.T):
        near = [j for j in np.argsort(row) if j != i][:3]
        wanted |= {(i, i)} | {(i, int(j)) for j in near} | {(int(j), i) for j in near}
    rows = torch.arange(20).repeat_interleave(cost.first.diff())
    assert set(zip(rows.tolist(), cost.column.tolist(), strict=True)) == wanted
    matrix = torch.zeros(20, 20)
    matrix[rows, cost.column] = cost.cost
    assert torch.equal(matrix, matrix.T)
    assert not matrix.diagonal().any()


def test_small_regularisations_and_confident_predictions_give_numbers():
    cost = VocabularyCost.nearest(draw(30, 4), k=3)
    for size in (1.0, 30.0, 300.0):
        student = draw(5, 30, size=size, dtype=torch.float32).requires_grad_()
        value = VocabOTLoss(cost, reg=1e-3, n_iters=10, unbalanced=0.5)(student, draw(5, 30, seed=1, size=size).float())
        assert torch.isfinite(value)
        assert torch.isfinite(gradient(value, student)).all()


def test_a_near_miss_costs_less_than_a_far_one():
    e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    loss = VocabOTLoss(VocabularyCost.nearest(e, k=2), reg=0.05, n_iters=50, tau=1.0)
    teacher, near, far = (torch.tensor([p]).log() for p in ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]))
    assert float(loss(near, teacher)) < 0.1 * float(loss(far, teacher))


def test_costs_follow_the_module():
    loss = VocabOTLoss(VocabularyCost.dense(costs())).to(torch.float64)
    assert loss.cost.cost.dtype == torch.float64
    assert "unbalanced=None, tau=2" in repr(loss)


# MultiLevelOT


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


# Bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ULDLoss(topk=0), "topk must be"),
        (lambda: ULDLoss(student_temperature=-1.0), "student_temperature must be a positive number"),
        (lambda: ULDLoss(reduction="max"), "reduction must be one of"),
        (lambda: ULDLoss()(torch.ones(2, 3), torch.ones(3, 2, 3)), "as many axes"),
        (lambda: VocabOTLoss(torch.eye(3)), r"cost must be a VocabularyCost, got Tensor; VocabularyCost.dense\(matrix\)"),
        (lambda: VocabOTLoss(VocabularyCost.dense(costs()), reg=0.0), "reg must be a positive number"),
        (lambda: VocabOTLoss(VocabularyCost.dense(costs()))(torch.ones(2, 3), torch.ones(2, 3)), "must have 6 entries, as many as the cost, got 3"),
        (lambda: VocabularyCost.dense(torch.ones(2, 3)), r"C must be of shape \(V, V\)"),
        (lambda: VocabularyCost.dense(torch.ones(2, 2)), "0 on the diagonal"),
        (lambda: VocabularyCost.dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "C must be symmetric"),
        (lambda: VocabularyCost.nearest(torch.ones(3)), "embeddings must be finite and of shape"),
        (lambda: VocabularyCost.nearest(torch.zeros(3, 2), k=1), "embeddings must not be zero"),
        (lambda: VocabularyCost.nearest(torch.ones(3, 2), k=3), "k must be below the number of entries, 3, got 3"),
        (lambda: MultiLevelOTLoss(had=-1.0), "had must be a factor of at least 0, got -1.0"),
        (lambda: MultiLevelOTLoss(topk=0), "topk must be"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_uld_is_the_vocabulary_level_where_orders_agree():
    ordered = [draw(5, 8, seed=seed).sort(-1, descending=True).values for seed in (0, 1)]
    torch.testing.assert_close(ULDLoss()(*ordered), SinKDLoss("vocab", tau=1.0)(*ordered))
