"""Losses between two vocabularies, and within one at costs by the similarity of entries."""

import numpy as np
import pytest
import torch
from logits import costs, draw, gradient

import otkit
from otkit.losses import SinKDLoss, ULDLoss, VocabOTLoss, VocabularyCost

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


def test_uld_is_the_vocabulary_level_where_orders_agree():
    ordered = [draw(5, 8, seed=seed).sort(-1, descending=True).values for seed in (0, 1)]
    torch.testing.assert_close(ULDLoss()(*ordered), SinKDLoss("vocab", tau=1.0)(*ordered))


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


def test_the_gradient_needs_the_cross_problem_to_converge_only():
    # Alternating iterations of the prediction with itself would shift its two potentials for long.
    x = draw(30, 8, size=1.0)
    C = (x[:, None] - x).norm(dim=-1)
    loss = VocabOTLoss(VocabularyCost.dense(C / C.max()), reg=0.1, n_iters=60, tau=1.0)
    student, teacher, step = draw(1, 30).requires_grad_(), draw(1, 30, seed=1), 1e-5
    along = draw(1, 30, seed=2)
    with torch.no_grad():
        ends = [float(loss(student + t * along, teacher)) for t in (step, -step)]
    slope = float((gradient(loss(student, teacher), student) * along).sum())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("unbalanced", [None, 0.5])
@pytest.mark.parametrize(("n_iters", "slack"), [(10, 1e-6), (50, 1e-12)])
def test_equal_predictions_cost_nothing(unbalanced, n_iters, slack):
    for cost in (VocabularyCost.dense(costs()), VocabularyCost.nearest(draw(6, 3), k=2)):
        student = draw(4, 6).requires_grad_()
        loss = VocabOTLoss(cost, reg=1e-3, n_iters=n_iters, unbalanced=unbalanced)
        value = loss(student, student.detach().clone())
        assert abs(float(value.detach())) < slack
        assert float(gradient(value, student).abs().max()) < slack


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
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_average_of_the_released_code():
    student, teacher = draw(3, 4, 6).requires_grad_(), draw(3, 4, 7, seed=1)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    rows = ULDLoss(reduction="none")(student, teacher, mask, teacher_mask=mask)
    loss = ULDLoss(average="sequences", chunk_size=2)
    wanted = (rows[0].mean() + rows[1, 1]) / 3
    torch.testing.assert_close(loss(student, teacher, mask, teacher_mask=mask), wanted)
    # Steps of a divisor that counts rows: every sequence by its rows.
    torch.testing.assert_close(loss(student, teacher, mask, teacher_mask=mask, num_items_in_batch=10), rows.sum() / 10)
    with pytest.raises(ValueError, match="is of reduction='mean'"):
        ULDLoss(average="sequences", reduction="sum")
