"""Losses of a head's logits: those of the logits, with the gradients by all that made them, in little memory."""

import pytest
import torch
from measure import of_process
from torch.autograd import gradcheck, gradgradcheck

from otkit.losses import (
    DistillationObjective,
    Head,
    MultiLevelOTLoss,
    SinKDLoss,
    SoftTargetLoss,
    TopK,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

V, D = 7, 4
LOSSES = {
    **{name: lambda name=name, **o: SoftTargetLoss(name, 2.0, **o) for name in ("kl", "reverse_kl", "js", "tv", "cross_entropy")},
    "uld": ULDLoss,
    "uld topk": lambda **o: ULDLoss(topk=3, **o),
    "vocab ot": lambda **o: VocabOTLoss(VocabularyCost.dense(1 - torch.eye(V).double()), 0.5, 50, **o),
    "vocab": lambda **o: SinKDLoss("vocab", **o),
    "token": lambda **o: SinKDLoss("token", **o),
    "batch": lambda **o: SinKDLoss("batch", **o),
    "regularized": lambda **o: SinKDLoss("batch", objective="regularized", **o),
    "tol": lambda **o: SinKDLoss("batch", tol=1e-9, **o),
    "multilevel": lambda chunk_size=None, **o: MultiLevelOTLoss(topk=4, n_iters=5, **o),
}  # fmt: skip


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parts(seed=0, shape=(2, 3), bias=True):
    made = [draw(*shape, D, seed=seed), draw(V, D, seed=seed + 1), *([draw(V, seed=seed + 2)] if bias else [])]
    return [v.requires_grad_() for v in made]


def known(tail, *shape):
    top = torch.log_softmax(draw(*shape, V, seed=9), -1).topk(3, -1)
    return TopK(top.indices, top.values, tail, V)


TEACHERS = {
    "logits": lambda: draw(2, 3, V, seed=8),
    "head": lambda: Head(*parts(seed=20)),
    "topk": lambda: known("uniform", 2, 3),
}


def plain(v):
    return torch.nn.functional.linear(v.hidden, v.weight, v.bias) if isinstance(v, Head) else v


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_loss_of_the_logits(name, teacher):
    given = TEACHERS[teacher]()
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    for chunk_size in (None, 1, 2):
        loss = LOSSES[name](reduction="none", chunk_size=chunk_size)
        student = Head(*parts())
        if teacher == "head" and name in ("batch", "regularized", "tol"):
            with pytest.raises(ValueError, match="pass a TopK or a tensor of the teacher"):
                loss(student, given, mask)
            return
        found, wanted = loss(student, given, mask), loss(plain(student), plain(given), mask)
        torch.testing.assert_close(found, wanted)
        weights = draw(*found.shape, seed=5)
        inputs = [student.hidden, student.weight, student.bias]
        by = [torch.autograd.grad((weights * v).sum(), inputs) for v in (found, wanted)]
        for mine, theirs in zip(*by, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        if teacher == "head":
            assert torch.autograd.grad(loss(student, given, mask).sum(), given.hidden, allow_unused=True)[0] is None


@pytest.mark.parametrize("name", ["kl", "js", "uld", "vocab", "batch"])
def test_finite_differences(name):
    loss, given = LOSSES[name](reduction="none", chunk_size=2), known("renormalise", 2, 3)
    assert gradcheck(lambda *v: loss(Head(*v), given), parts(), atol=1e-6, rtol=1e-4, fast_mode=True)


def test_second_derivatives():
    loss, given = SoftTargetLoss(chunk_size=2), draw(2, 3, V, seed=8)
    assert gradgradcheck(lambda *v: loss(Head(*v), given), parts(), atol=1e-6, rtol=1e-4)
    (first,) = torch.autograd.grad(
        SinKDLoss(chunk_size=2)(Head(*parts(bias=False)), given),
        (h := parts(bias=False))[0],
        create_graph=True,
        allow_unused=True,
    )
    assert first is None  # of other tensors
    loss = SinKDLoss(chunk_size=2)(Head(*h), given)
    (first,) = torch.autograd.grad(loss, h[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives of .* are not available"):
        first.square().sum().backward()


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_what_needs_a_gradient(needed):
    made = [v.detach().requires_grad_(there) for v, there in zip(parts(bias=False), needed, strict=True)]
    loss, teacher = SoftTargetLoss(chunk_size=2), draw(2, 3, V, seed=8)
    loss(Head(*made), teacher).backward()
    assert [v.grad is not None for v in made] == list(needed)
    with torch.no_grad():
        assert not loss(Head(*made), teacher).requires_grad
    frozen = Head(*(v.detach() for v in made))
    assert not frozen.requires_grad
    torch.testing.assert_close(loss(frozen, teacher), SoftTargetLoss()(plain(frozen), teacher))


def test_nothing_takes_part():
    for make in (SoftTargetLoss, SinKDLoss):
        student = Head(*parts())
        value = make()(student, draw(2, 3, V), torch.zeros(2, 3))
        value.backward()
        assert float(value.detach()) == 0
        assert student.weight.grad is None or not student.weight.grad.any()


def test_the_objective():
    student, teacher = Head(*parts()), Head(*parts(seed=20))
    labels = torch.tensor([[1, 2, 3], [-100, 5, 0]])
    objective = DistillationObjective(ULDLoss(shift=True), shift=True)
    by = []
    for logits in (student, plain(student)):
        value = objective(logits, teacher if logits is student else plain(teacher), labels)
        by.append((value, *torch.autograd.grad(value, [student.hidden, student.weight, student.bias])))
    torch.testing.assert_close(*by)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_terms_of_many_chunks(dtype):
    hidden, weight = draw(600, 8, dtype=dtype).requires_grad_(), draw(V, 8, seed=1, dtype=dtype).requires_grad_()
    teacher = draw(600, V, seed=8)
    SoftTargetLoss(reduction="sum", chunk_size=1)(Head(hidden, weight), teacher).backward()
    exact = [v.detach().double().requires_grad_() for v in (hidden, weight)]
    SoftTargetLoss(reduction="sum")(Head(*exact), teacher).backward()
    for found, wanted in zip((hidden, weight), exact, strict=True):
        assert found.grad.dtype == dtype
        # Logits and their gradients are rounded; sums of 600 terms with the digits of `dtype` alone are off by more.
        assert float((found.grad.double() - wanted.grad).norm() / wanted.grad.norm()) < 2 * torch.finfo(dtype).eps


def test_autocast_computes_in_the_dtype_of_hidden_states():
    hidden, weight = (
        draw(4, D, dtype=torch.bfloat16).requires_grad_(),
        draw(V, D, seed=1, dtype=torch.float32).requires_grad_(),
    )
    teacher = draw(4, V, seed=8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SoftTargetLoss(chunk_size=2)(Head(hidden, weight), teacher)
        wanted = SoftTargetLoss()(torch.nn.functional.linear(hidden, weight), teacher)
    torch.testing.assert_close(value, wanted)
    value.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("given", "error", "told"), [
    ((torch.ones(2, 3), torch.ones(4, 2)), ValueError, r"\(\.\.\., rows, d\), \(V, d\) and \(V,\), got \(2, 3\), \(4, 2\)"),
    ((torch.ones(3), torch.ones(4, 3)), ValueError, "must have shapes"),
    ((torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), ValueError, "must have shapes"),
    ((torch.ones(2, 3).long(), torch.ones(4, 3)), TypeError, "hidden must be of a floating-point dtype"),
    ((torch.ones(2, 3), [1.0]), TypeError, "weight must be a tensor"),
    ((torch.ones(2, 3), torch.ones(4, 3, device="meta")), ValueError, "weight must hold numbers"),
], ids=str)  # fmt: skip
def test_bad_heads(given, error, told):
    with pytest.raises(error, match=told):
        Head(*given)


def test_losses_that_cannot_take_it():
    student = Head(*parts())
    for loss, teacher, told in (
        (SinKDLoss(objective="divergence"), draw(2, 3, V), "another objective than 'divergence'"),
        (SinKDLoss(gather=True), draw(2, 3, V), "gather=False"),
        (SoftTargetLoss(), draw(2, 3, V + 1), "one vocabulary, got 7 and 8"),
        (SoftTargetLoss(), draw(6, V), "as many axes"),
    ):
        with pytest.raises(ValueError, match=told):
            loss(student, teacher)


SCRIPT = """
    import torch
    from otkit.losses import Head, SinKDLoss, SoftTargetLoss, TopK, chunks
    chunks._ENTRIES_OF_HEAD = 2**20
    loss = {"kl": SoftTargetLoss("kl"), "batch": SinKDLoss(n_iters=2)}[sys.argv[1]]
    weight = torch.randn(2**16, 16).bfloat16().mul_(0.25).requires_grad_()
    for rows in map(int, sys.argv[2:]):
        hidden = torch.randn(rows, 16).bfloat16().requires_grad_()
        top = torch.log_softmax(torch.randn(rows, 64), -1).topk(16, -1)
        loss(Head(hidden, weight), TopK(top.indices, top.values)).backward()
        assert torch.isfinite(weight.grad).all() and hidden.grad.any()
        print(peak())
"""


@pytest.mark.parametrize("name", ["kl", pytest.param("batch", marks=pytest.mark.slow)])
def test_memory_does_not_grow_like_the_logits(name):
    # Logits of the larger one are 64 MiB more in float32, and twice that with their gradient.
    few, many = of_process(SCRIPT, name, 64, 320)
    assert many < few + 48 * 2**20
