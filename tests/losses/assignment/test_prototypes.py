"""Prototypes, their queue and KoLeo."""

import copy
import math

import pytest
import torch
from scores import S1, double, features, prototypes
from torch.autograd import gradcheck
from torch.nn import functional

from otkit.losses import AssignmentQueue, Prototypes, koleo


def test_prototypes_are_cosines_of_any_length():
    module, x = prototypes(), features(2, 6, 4)
    scores = module(x)
    torch.testing.assert_close(
        scores,
        functional.cosine_similarity(x[..., None, :], module.weight.detach(), dim=-1).detach(),
        check_dtype=False,
    )
    module.weight.data *= torch.arange(1, 6)[:, None]
    torch.testing.assert_close(module(3 * x), scores)
    assert gradcheck(module, features(3, 4).requires_grad_())
    assert repr(module) == "Prototypes(5, 4)"
    assert (module(torch.zeros(1, 4, dtype=torch.float64)) == 0).all()


def test_a_queue_keeps_the_last_samples():
    queue = AssignmentQueue(5, 2)
    assert queue.features.shape == (2, 0, 2)
    batches = [features(2, n, 2, seed=n, dtype=torch.float32).requires_grad_() for n in (3, 1, 4, 7)]
    pushed = torch.zeros(2, 0, 2)
    for batch in batches:
        queue.push(batch)
        pushed = torch.cat([batch.detach(), pushed], 1)[:, :5]
        assert torch.equal(queue.features, pushed)
        assert not queue.features.requires_grad
    twin = AssignmentQueue(5, 2)
    twin.load_state_dict(copy.deepcopy(queue.state_dict()))
    assert torch.equal(twin.features, queue.features)


def test_koleo_is_that_of_dinov2():
    x = features(12, 3).requires_grad_()
    y = functional.normalize(x, dim=-1)
    near = torch.cdist(y, y).fill_diagonal_(9).sort(-1).values
    torch.testing.assert_close(koleo(x), -(near[:, 0] + 1e-8).log().mean())
    torch.testing.assert_close(koleo(x, topk=3), -(near[:, :3] + 1e-8).log().mean())
    assert gradcheck(koleo, x)
    assert koleo(double([[1, 0], [-1, 0]])) == pytest.approx(-math.log(2))
    twice = torch.cat([x, x]).detach().requires_grad_()
    value = koleo(twice)
    value.backward()
    assert float(value.detach()) == pytest.approx(8 * math.log(10))
    assert (twice.grad == 0).all()
    assert koleo(x.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Prototypes(0, 3), "n_prototypes must be 1 or more, got 0"),
        (lambda: prototypes()(features(2, 3)), r"features must have shape \(..., 4\)"),
        (lambda: AssignmentQueue(3, 0), "dim must be 1 or more"),
        (lambda: AssignmentQueue(3, 2).push(torch.zeros(1, 4, 2)), r"features must have shape \(2, N, 2\)"),
        (lambda: koleo(S1, topk=6), "x must hold more than topk=6 samples"),
        (lambda: koleo(S1[:1]), "x must hold more than topk=1 samples"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
