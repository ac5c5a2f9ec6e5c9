"""Couplings of minibatches: the pairs of optimal plans, their shares, labels, and bad input."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import otkit
from otkit.losses import coupled


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_exact_pairs_are_those_of_the_assignment(shape):
    x0, x1 = draw(20, *shape), draw(20, *shape, seed=1).requires_grad_()
    pairs = coupled(x0, x1, size=200, rng=0)
    C = torch.cdist(x0.flatten(1), x1.detach().flatten(1)) ** 2
    partner = torch.tensor(linear_sum_assignment(C)[1])
    assert torch.equal(partner[pairs.i], pairs.j)
    assert torch.equal(pairs.x0, x0[pairs.i])
    assert torch.equal(pairs.x1, x1[pairs.j])
    (by,) = torch.autograd.grad(pairs.x1.sum(), x1)
    assert torch.equal(by.flatten(1)[:, 0], torch.bincount(pairs.j, minlength=20).float())
    assert len(coupled(x0, draw(7, *shape)).i) == 7


@pytest.mark.parametrize("entries", [2, 40])
@pytest.mark.parametrize("options", [{"reg": 2.0}, {"reg": 2.0, "unbalanced": 1.0}, {"metric": "euclidean"}])
def test_pairs_are_drawn_in_proportion_to_the_plan(options, entries):
    scale, size = (2 / entries) ** 0.5, 20_000
    x0, x1 = scale * draw(4, entries) + 0.1, scale * draw(3, entries, seed=1)
    pairs = coupled(x0, x1, size=size, rng=0, **options)
    P = otkit.solve_sample(x0, x1, **options).plan
    P = P / P.sum()
    shares = torch.bincount(3 * pairs.i + pairs.j, minlength=12).reshape(4, 3) / size
    assert bool(((shares - P).abs() <= 5 * (P * (1 - P) / size).sqrt() + 1e-9).all())


@pytest.mark.parametrize("entries", [2, 40])
def test_a_share_of_the_samples_is_paired_and_the_farthest_are_left_out(entries):
    x0, x1 = draw(20, entries), draw(20, entries, seed=1)
    x0[3], x1[5] = 100.0, -100.0
    C = torch.cdist(x0, x1) ** 2
    # A partner that costs nothing takes what is left out, and the two of them cost too much.
    wide = torch.zeros(25, 25)
    wide[:20, :20], wide[20:, 20:] = C, 1e6
    partner = linear_sum_assignment(wide)[1][:20]
    wanted = {(i, j) for i, j in enumerate(partner.tolist()) if j < 20}
    pairs = coupled(x0, x1, mass=0.75, size=2000, rng=0)
    assert set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == wanted
    soft = coupled(x0, x1, mass=0.75, reg=float(C.median()) / 50, size=2000, rng=0)
    assert not bool(((soft.i == 3) | (soft.j == 5)).any())
    with pytest.raises(ValueError, match="mass"):
        coupled(x0, x1, mass=1.5)


def test_labels_are_kept_apart_and_have_their_shares():
    x0, x1 = draw(60, 2), draw(40, 2, seed=1)
    labels = torch.arange(60) % 3, (torch.arange(40) % 4).clamp_max(2)
    pairs = coupled(x0, x1, labels, size=4000, rng=0)
    classes = labels[1][pairs.j]
    assert torch.equal(labels[0][pairs.i], classes)
    shares = torch.bincount(classes) / 4000
    assert shares.tolist() == pytest.approx([0.25, 0.25, 0.5], abs=0.04)
    # The plan of a class is that of its samples alone.
    one = coupled(x0[labels[0] == 2], x1[labels[1] == 2], size=4000, rng=1)
    apart = [v.nonzero()[:, 0] for v in (labels[0] == 2, labels[1] == 2)]
    inside = classes == 2
    assert set(zip(apart[0][one.i].tolist(), apart[1][one.j].tolist(), strict=True)) >= set(
        zip(pairs.i[inside].tolist(), pairs.j[inside].tolist(), strict=True)
    )


def test_one_generator_for_all_steps():
    x0, x1 = draw(9, 2), draw(9, 2, seed=1)
    labels = torch.arange(9) % 2, torch.arange(9) % 2
    for given in (None, labels):
        same = [coupled(x0, x1, given, reg=1.0, rng=3) for _ in range(2)]
        assert torch.equal(same[0].i, same[1].i)
        generator = np.random.default_rng(3)
        steps = [coupled(x0, x1, given, reg=1.0, rng=generator) for _ in range(2)]
        assert torch.equal(steps[0].i, same[0].i)
        assert not torch.equal(steps[1].i, same[0].i)


def test_half_precision_and_rows_that_no_class_draws():
    x0, x1 = draw(5, 2).half(), draw(5, 2, seed=1).half()
    pairs = coupled(x0, x1, (torch.arange(5), torch.arange(5)), size=2, rng=0)
    assert torch.equal(pairs.i, pairs.j)
    assert pairs.x0.dtype == torch.float16


ONES = torch.ones(4, 2)


@pytest.mark.parametrize(("given", "error", "told"), [
    ((ONES[:, 0], ONES), ValueError, r"x0 must have shape \(samples, \.\.\.\), got \(4,\)"),
    ((ONES, ONES[:0]), ValueError, "x1 must have shape"),
    ((ONES, torch.ones(4, 3)), ValueError, r"one shape.*\(4, 2\) on cpu and \(4, 3\)"),
    ((ONES.long(), ONES), TypeError, "x0 must be of a floating-point dtype"),
    ((ONES, ONES, (torch.zeros(4).long(), torch.zeros(3).long())), ValueError, r"labels of x1 must be 4 whole numbers, got \(3,\)"),
    ((ONES, ONES, (torch.zeros(4), torch.zeros(4))), ValueError, "labels of x0 must be 4 whole numbers"),
    ((ONES, ONES, (torch.zeros(4).long(), torch.arange(4) // 2)), ValueError, "got none of 1 on one"),
], ids=str)  # fmt: skip
def test_bad_samples(given, error, told):
    with pytest.raises(error, match=told):
        coupled(*given)
    with pytest.raises(ValueError, match="size"):
        coupled(ONES, ONES, size=0)
