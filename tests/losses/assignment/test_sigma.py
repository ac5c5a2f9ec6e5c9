"""Losses that predict assignments."""

import math

import pytest
import torch
from scores import S1, S2, VIEWS, double, features, prototypes
from torch.autograd import gradcheck
from torch.nn import functional

from otkit.losses import PRESETS, Prototypes, SigmaLoss, SwappedPredictionLoss, assign, prototype_usage


@pytest.mark.parametrize(("n_iters", "soft", "hard"), [
    (3, 0.9073417893, 1.2093876135), (10, 1.2804280551, 2.3760542802),
])  # fmt: skip
def test_golden_losses(n_iters, soft, hard):
    options = dict(reg=0.05, n_iters=n_iters)
    assert float(SwappedPredictionLoss(**options)(VIEWS)) == pytest.approx(soft, abs=1e-10)
    assert 2 * float(SwappedPredictionLoss(hard=True, **options)(VIEWS)) == pytest.approx(hard, abs=1e-10)


def test_golden_labels():
    assert assign(VIEWS, **PRESETS["sigma"]).tolist() == [[0, 0, 2, 1, 2, 1]] * 2


def of_scores(loss, first, second):
    """The loss of SIGMA for given scores: features whose cosines with the unit vectors they are, but for one more."""
    loss.prototypes.weight.data = torch.eye(4, dtype=torch.float64)[:3]
    spare = [(1 - (s / 2).square().sum(1, keepdim=True)).sqrt() for s in (first, second)]
    return loss(*(torch.cat([s / 2, rest], 1) for s, rest in zip((first, second), spare, strict=True)))


def test_golden_loss_of_sigma():
    # Scores, temperature and regularisation are half as large.
    for n_iters, soft, hard in ((3, 1.8146835786, 1.2093876135), (10, 2.5608561102, 2.3760542802)):
        for is_hard, wanted in ((False, soft), (True, hard)):
            options = dict(temperature=0.05, reg=0.025, n_iters=n_iters, hard=is_hard)
            loss = SigmaLoss(prototypes(3), **options)
            assert float(of_scores(loss, S1, S2).detach()) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("n_targets", [None, 2])
def test_swapped_predictions_are_the_loop_of_swav(hard, n_targets):
    scores = functional.normalize(features(5, 12, 4), dim=-1) @ functional.normalize(features(7, 4, seed=1), dim=-1).mT
    total, pairs = 0.0, 0
    for target in range(n_targets or 5):
        q = assign(scores[target])
        q = functional.one_hot(q.argmax(1), 7).double() if hard else q
        for view in range(5):
            if view != target:
                total -= (q * torch.log_softmax(scores[view] / 0.2, 1)).sum(1).mean()
                pairs += 1
    found = SwappedPredictionLoss(0.2, n_targets=n_targets, hard=hard)(scores)
    torch.testing.assert_close(found, total / pairs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_are_those_with_constant_targets(hard):
    scores = VIEWS.clone().requires_grad_()
    loss = SwappedPredictionLoss(hard=hard)
    (found,) = torch.autograd.grad(loss(scores), scores)
    q = assign(VIEWS, hard=hard)
    q = functional.one_hot(q, 3).double() if hard else q
    wanted = ((VIEWS / 0.1).softmax(-1) - q.flip(0)) / 0.1 / 12
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_gradients_of_the_features():
    video, target = features(2, 6, 4).requires_grad_(), features(2, 6, 4, seed=1).requires_grad_()
    loss = SigmaLoss(prototypes())
    weight = loss.prototypes.weight
    labels = [
        assign(loss.prototypes(x.detach()).reshape(-1, 5).detach(), n_iters=10, hard=True) for x in (video, target)
    ]

    def wanted(video, target, weight):
        directions = functional.normalize(weight, dim=1)
        one, two = (functional.normalize(x.reshape(-1, 4), dim=1) for x in (video, target))
        return functional.cross_entropy(two @ directions.T / 0.1, labels[0]) + functional.cross_entropy(
            one @ directions.detach().T / 0.1, labels[1]
        )

    assert gradcheck(lambda v: loss(v, target.detach()), video)  # the labels stay, and weights do not ask
    given = (video, target, weight)
    found = torch.autograd.grad(loss(video, target), given)
    torch.testing.assert_close(found, torch.autograd.grad(wanted(*given), given))


def test_what_learns_from_which_term():
    video, target = features(2, 6, 4).requires_grad_(), features(2, 6, 4, seed=1).requires_grad_()
    loss = SigmaLoss(prototypes())
    loss(video, target.detach()).backward()  # a frozen network
    assert video.grad.abs().sum() > 0
    with_video = loss.prototypes.weight.grad.clone()
    loss.prototypes.weight.grad = None
    loss(video.detach(), target).backward()
    assert target.grad.abs().sum() > 0
    torch.testing.assert_close(loss.prototypes.weight.grad, with_video)  # of the term of the targets, both times
    loss.prototypes.requires_grad_(False)
    term = loss.prototypes(video, detach=True).log_softmax(-1).sum()
    assert term.requires_grad
    loss.prototypes.requires_grad_(True)
    assert not loss.prototypes(video.detach(), detach=True).requires_grad


def test_masked_tokens_change_nothing():
    video, target = features(3, 6, 4).requires_grad_(), features(3, 6, 4, seed=1)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    loss = SigmaLoss(prototypes())
    alone = loss(video[mask], target[mask])
    (wanted,) = torch.autograd.grad(alone, video)
    padded = torch.where(mask[..., None], video, math.nan)
    value = loss(padded, torch.where(mask[..., None], target, math.nan), mask=mask)
    torch.testing.assert_close(value, alone)
    torch.testing.assert_close(torch.autograd.grad(value, video)[0], wanted)
    there = torch.tensor([True, False, True, True, True, True])
    swapped = SwappedPredictionLoss()
    rubbish = torch.where(there[:, None], VIEWS, math.nan)
    torch.testing.assert_close(swapped(rubbish, mask=there), swapped(VIEWS[:, there]))


@pytest.mark.parametrize("hard", [False, True])
def test_collapse_is_at_ln_k(hard):
    for count in (3000, 4000):
        scores = torch.full((2, 8, count), 0.3, dtype=torch.float64)
        found = SwappedPredictionLoss(hard=hard)(scores)
        assert float(found) == pytest.approx(math.log(count), abs=1e-10)
        usage = prototype_usage(assign(scores))
        assert usage.entropy == pytest.approx(math.log(count), abs=1e-10)
        assert usage.gain(found) == pytest.approx(0, abs=1e-10)
        assert usage.dead == count - 1  # of ties the first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    module = prototypes(30, 16, torch.float32)
    video, target = features(4, 9, 16, dtype=dtype).requires_grad_(), features(4, 9, 16, seed=1, dtype=dtype)
    loss = SigmaLoss(module, reg=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(video, target)
        assert module(video).dtype == torch.float32
    value.backward()
    assert value.dtype == torch.float32
    assert video.grad.dtype == dtype
    torch.testing.assert_close(value, loss(video.float(), target.float()))


def test_queued_samples_are_balanced_with_the_batch():
    others = functional.normalize(features(2, 40, 3, seed=3), dim=-1)
    loss = SwappedPredictionLoss()
    scores = VIEWS.clone().requires_grad_()
    found = loss(scores, queued=others)
    q = [assign(torch.cat([others[k], VIEWS[k]]))[40:] for k in range(2)]
    logs = (VIEWS / 0.1).log_softmax(-1)
    wanted = -((q[0] * logs[1]).sum(1) + (q[1] * logs[0]).sum(1)).mean() / 2
    torch.testing.assert_close(found, wanted)
    assert abs(float(found.detach() - loss(VIEWS))) > 1e-3
    torch.testing.assert_close(loss(VIEWS, queued=others[:, :0]), loss(VIEWS))


def test_a_prior_moves_with_the_module():
    loss = SwappedPredictionLoss(prior=double([0.6, 0.25, 0.15]), n_iters=200)
    assert loss.state_dict() == {}
    assert "n_iters=200" in repr(loss)
    assert loss.float().prior.dtype == torch.float32
    found = loss.double()(VIEWS)
    q = assign(VIEWS, prior=double([0.6, 0.25, 0.15]), n_iters=200)
    torch.testing.assert_close(found, -(q.flip(0) * (VIEWS / 0.1).log_softmax(-1)).sum(-1).mean(), rtol=1e-6, atol=0)


def test_training_with_assignments_uses_the_prototypes():
    torch.manual_seed(0)
    centres = torch.randn(8, 6)
    network, loss = torch.nn.Linear(6, 6), SigmaLoss(Prototypes(8, 6))
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=0.02)
    for _ in range(60):
        clean = centres[torch.randint(8, (64,))] + 0.1 * torch.randn(64, 6)
        optimizer.zero_grad()
        value = loss(network(clean + 0.1 * torch.randn(64, 6)), clean)
        value.backward()
        optimizer.step()
    usage = prototype_usage((loss.prototypes(clean) / 0.1).softmax(-1))
    assert usage.gain(value.detach() / 2) > 1.0
    assert usage.dead <= 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SwappedPredictionLoss(0.0), "temperature must be a positive number"),
        (lambda: SwappedPredictionLoss(n_targets=0), "n_targets must be a positive number"),
        (lambda: SwappedPredictionLoss(reg=-1.0), "reg must be a positive number"),
        (lambda: SwappedPredictionLoss()(S1), r"scores must have shape \(V, N, K\), of 2 views or more, got \(6, 3\)"),
        (lambda: SwappedPredictionLoss(n_targets=3)(VIEWS), "scores must be of n_targets=3 views or more, got 2"),
        (lambda: SwappedPredictionLoss()(VIEWS, queued=S1), r"queued must have shape \(2, M, 3\)"),
        (lambda: SwappedPredictionLoss()(VIEWS, mask=torch.ones(5)), r"mask must be of shape \(6,\)"),
        (lambda: SigmaLoss(prototypes())(S1, S2), r"one shape, \(..., 4\), got \(6, 3\) and \(6, 3\)"),
        (lambda: SigmaLoss(prototypes())(features(6, 4), features(5, 4)), "video and target must have one shape"),
        (
            lambda: SigmaLoss(prototypes())(features(6, 4), features(6, 4), mask=torch.ones(5, dtype=torch.bool)),
            r"of shape \(6,\), got \(5,\)",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
