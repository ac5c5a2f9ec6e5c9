"""SinKD: the loss of the released code, its objectives, gradients and options."""

import copy
import io
import pickle

import pytest
import torch
from logits import draw, gradient, released
from parallel import run_at_once
from torch.autograd import gradcheck

import otkit
from otkit.losses import SinKDLoss

STUDENT = [[2, 0.5, -1], [0.1, 0.2, 0.3], [-1.5, 1, 3], [0, 2, -2]]


TEACHER = [[3, -1, 0], [0.5, 1.5, -0.5], [-2, 0, 2.5], [1, 1, -3]]


GOLDEN = 1.3309012202156218


@pytest.fixture
def logits():
    """Those of the golden numbers."""
    return torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True), torch.tensor(TEACHER, dtype=torch.float64)


# The released code


@pytest.mark.parametrize(("n_iters", "wanted"), [
    (1, 1.2295490433), (5, 1.3142642412), (10, 1.3318975657), (20, GOLDEN), (100, 1.3234219396), (1000, 1.3219352703),
])  # fmt: skip
def test_the_golden_sequence(logits, n_iters, wanted):
    value = SinKDLoss(n_iters=n_iters, mass="batch")(*logits).detach()
    assert float(value) == pytest.approx(wanted, abs=1e-10)
    torch.testing.assert_close(value, released(*logits, n_iters).detach(), rtol=1e-13, atol=0)


def test_paper_is_the_released_loss(logits):
    assert float(SinKDLoss.paper()(*logits).detach()) == pytest.approx(1e-3 * GOLDEN, rel=1e-14)
    assert "n_iters=20, objective='sharp', mass='batch', plan='unrolled', reduction='sum', scale=0.001" in repr(
        SinKDLoss.paper()
    )
    for size, vocabulary in ((16, 2), (32, 3), (7, 500)):
        student, teacher = draw(size, vocabulary).requires_grad_(), draw(size, vocabulary, seed=1)
        mine, plain = 1000 * SinKDLoss.paper()(student, teacher), released(student, teacher)
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(mine, student), gradient(plain, student), rtol=1e-10, atol=1e-14)
        single = 1000 * SinKDLoss.paper()(student.float(), teacher.float())
        assert float(single.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)


def test_golden_gradients(logits):
    student, teacher = logits
    unrolled = gradient(SinKDLoss(mass="batch")(student, teacher), student)
    detached = gradient(SinKDLoss(mass="batch", plan="detached")(student, teacher), student)
    torch.testing.assert_close(
        unrolled[0], torch.tensor([-0.1849837, 0.2242406, -0.0392569]).double(), rtol=0, atol=5e-8
    )
    torch.testing.assert_close(
        detached[0], torch.tensor([-0.1228131, 0.1507360, -0.0279229]).double(), rtol=0, atol=5e-8
    )
    assert float((unrolled * detached).sum() / unrolled.norm() / detached.norm()) == pytest.approx(0.97835, abs=5e-6)
    assert float(unrolled.norm() / detached.norm()) == pytest.approx(1.171, abs=5e-4)


def test_the_bias_of_the_sharp_value_and_that_the_divergence_has_none(logits):
    _, teacher = logits
    assert float(SinKDLoss(mass="batch")(teacher, teacher)) == pytest.approx(0.025978520684561884, rel=1e-12)
    for until in ({}, {"tol": 1e-9}):
        assert abs(float(SinKDLoss(objective="divergence", **until)(teacher, teacher))) < 1e-12
        for seed in range(10):
            pair = draw(6, 4, seed=seed), draw(6, 4, seed=seed + 100)
            assert float(SinKDLoss(objective="divergence", **until)(*pair)) > 0


def test_one_row_and_one_class(logits):
    student, teacher = logits
    one = SinKDLoss(mass="batch")(student[:1], teacher[:1])
    assert float(one.detach()) == pytest.approx(0.3579540822679094, rel=1e-14)
    single = draw(5, 1).requires_grad_()
    for objective in ("sharp", "regularized", "divergence"):
        value = SinKDLoss(objective=objective)(single, draw(5, 1, seed=1))
        assert abs(float(value.detach())) < 1e-12
        assert torch.equal(gradient(value, single), torch.zeros_like(single))


def test_the_order_of_the_students_rows_does_not_matter(logits):
    student, teacher = logits
    loss = SinKDLoss()
    torch.testing.assert_close(loss(student[[2, 0, 3, 1]], teacher), loss(student, teacher))


@pytest.mark.parametrize("level", ["batch", "token"])
def test_masses_and_reductions(level):
    student, teacher = draw(3, 5, 4), draw(3, 5, 4, seed=1)
    each, unit, total, batch = (
        SinKDLoss(level, reduction=how, mass=mass)(student, teacher)
        for how, mass in (("none", "unit"), ("mean", "unit"), ("sum", "unit"), ("sum", "batch"))
    )
    problems, rows = (1, 15) if level == "batch" else (3, 5)
    assert each.shape == (problems,)
    torch.testing.assert_close(unit, each.mean())
    torch.testing.assert_close(total, problems * unit)
    torch.testing.assert_close(batch, rows * total)
    torch.testing.assert_close(SinKDLoss(level, scale=3.0)(student, teacher), 3 * unit)


# Objectives, plans and their gradients


@pytest.mark.parametrize("objective", ["sharp", "regularized", "divergence"])
@pytest.mark.parametrize(("level", "until"), [
    ("batch", {"n_iters": 7}), ("token", {"n_iters": 7}), ("vocab", {}),
    ("batch", {"n_iters": 7, "reg": 0.005}), ("token", {"n_iters": 7, "reg": 0.005}), ("token", {"tol": 1e-12}),
])  # fmt: skip
def test_finite_differences(objective, level, until):
    loss = SinKDLoss(level, objective=objective, reduction="none", chunk_size=4, **until)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    teacher = draw(2, 4, 3, seed=1, size=0.6)
    student = draw(2, 4, 3, size=0.6).requires_grad_()
    assert gradcheck(lambda v: loss(v, teacher, mask), student, eps=1e-6, atol=2e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("objective", ["sharp", "regularized", "divergence"])
def test_the_implicit_gradient_is_where_unrolling_leads(objective):
    student, teacher = draw(6, 4).requires_grad_(), draw(6, 4, seed=1)
    implicit = SinKDLoss(objective=objective, tol=1e-12)(student, teacher)
    unrolled = SinKDLoss(objective=objective, n_iters=2000)(student, teacher)
    torch.testing.assert_close(implicit, unrolled, rtol=1e-7, atol=1e-12)
    wanted = gradient(unrolled, student)
    torch.testing.assert_close(gradient(implicit, student), wanted, rtol=0, atol=1e-7)
    if objective != "sharp":  # the plan is optimal: detaching it changes nothing
        detached = SinKDLoss(objective=objective, tol=1e-12, plan="detached")(student, teacher)
        torch.testing.assert_close(detached, unrolled, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(gradient(detached, student), wanted, rtol=0, atol=1e-7)


def test_small_regularisations_give_numbers():
    student, teacher = draw(8, 5, size=20.0).requires_grad_(), draw(8, 5, seed=1, size=20.0)
    for reg in (0.1, 0.03, 0.01, 1e-3):
        for dtype in (torch.float32, torch.float64):
            value = SinKDLoss(reg=reg)(student.to(dtype), teacher.to(dtype))
            assert torch.isfinite(value)
            assert torch.isfinite(gradient(value, student)).all()


# Training loops


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(level, dtype):
    student, teacher = draw(3, 6, 40, dtype=torch.float32), draw(3, 6, 40, seed=1, dtype=torch.float32)
    loss, found = SinKDLoss(level, chunk_size=6), []
    assert float(loss(student.to(dtype), teacher.to(dtype))) == pytest.approx(float(loss(student, teacher)), rel=1e-2)
    for kind in (torch.float32, dtype):  # of the same numbers: signs of differences may flip when logits are rounded
        logits = student.to(dtype).to(kind).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(logits, teacher.to(dtype).to(kind))
        (2**10 * value).backward()
        assert value.dtype == torch.float32
        assert logits.grad.dtype == kind
        found.append((value.detach(), logits.grad.float()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    assert float((found[1][1] - found[0][1]).norm() / found[0][1].norm()) < 1e-2


@pytest.mark.parametrize("level", ["batch", "token", "vocab"])
def test_the_teacher_gets_no_gradient_and_nothing_is_changed(level):
    student, teacher = draw(3, 5, 4).requires_grad_(), draw(3, 5, 4, seed=1).requires_grad_()
    before = student.detach().clone(), teacher.detach().clone()
    value = SinKDLoss(level, chunk_size=5)(student, teacher)
    value.backward()
    assert teacher.grad is None
    assert torch.equal(student.detach(), before[0])
    assert torch.equal(teacher.detach(), before[1])
    with torch.no_grad():
        alone = SinKDLoss(level, chunk_size=5)(student, teacher)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, value.detach())


def test_two_backward_passes_and_weights_of_each_value():
    student, teacher = draw(3, 5, 4).requires_grad_(), draw(3, 5, 4, seed=1)
    values = SinKDLoss("token", reduction="none", chunk_size=5)(student, teacher)
    weights = torch.tensor([1.0, -2.0, 0.5]).double()
    first = torch.autograd.grad(values, student, weights, retain_graph=True)[0]
    second = torch.autograd.grad(values, student, 2 * weights)[0]
    torch.testing.assert_close(second, 2 * first)
    one = SinKDLoss()(student[1], teacher[1])
    torch.testing.assert_close(first[1], -2 * gradient(one, student)[1])


def test_statistics():
    student, teacher = draw(4, 3), draw(4, 3, seed=1)
    value, stats = SinKDLoss(n_iters=500)(student, teacher, return_stats=True)
    torch.testing.assert_close(value, SinKDLoss(n_iters=500)(student, teacher))
    p, q = ((v / 2).softmax(-1) for v in (student, teacher))
    C = (p[:, None] - q[None]).abs().sum(-1)
    P = otkit.solve(C, reg=0.1, tol=1e-12).plan
    assert (float(stats["rows"]), float(stats["n_iter"])) == (4, 500)
    assert float(stats["cost"]) == pytest.approx(float(C.mean()) / 0.1)
    assert float(stats["entropy"]) == pytest.approx(float(-(P * P.log()).sum()), rel=1e-6)
    assert 0 <= float(stats["error"]) < 1e-8
    _, coarse = SinKDLoss(n_iters=1)(student, teacher, return_stats=True)
    assert float(coarse["error"]) > 1e-3
    _, until = SinKDLoss("token", tol=1e-6)(student[None], teacher[None], return_stats=True)
    assert 0 < float(until["n_iter"]) < 500
    assert set(SinKDLoss("vocab")(student, teacher, return_stats=True)[1]) == {"rows"}


def test_modules_copy_pickle_and_have_no_state(logits):
    loss = SinKDLoss("token", tol=1e-6, scale=2.0)
    assert loss.state_dict() == {}
    buffer = io.BytesIO()
    torch.save(loss, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(twin(*logits), loss(*logits))
        assert repr(twin) == repr(loss)


@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_a_compiled_step(logits):
    loss = SinKDLoss()
    step = torch.compile(lambda x: loss(torch.tanh(x), logits[1]) * 2, backend="aot_eager")
    torch.testing.assert_close(step(logits[0]), loss(torch.tanh(logits[0]), logits[1]) * 2)


# Several processes

ROWS = 3, 5  # of each process


def share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
    model = torch.nn.Linear(6, 4).double()
    with torch.no_grad():
        model.weight.copy_(draw(4, 6, seed=7))
        model.bias.zero_()
    model = torch.nn.parallel.DistributedDataParallel(model)
    own = slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
    x, teacher = draw(sum(ROWS), 6, seed=8)[own], draw(sum(ROWS), 4, seed=9)[own]
    value = SinKDLoss(gather=True, mass="batch")(model(x), teacher)
    value.backward()
    torch.save((value.detach(), model.module.weight.grad), f"{folder}/{rank}")
    del model, value
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    run_at_once(share, (str(tmp_path),), 2)
    weight = draw(4, 6, seed=7).requires_grad_()
    value = SinKDLoss(mass="batch")(draw(sum(ROWS), 6, seed=8) @ weight.T, draw(sum(ROWS), 4, seed=9))
    value.backward()
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found, (value.detach(), weight.grad))
    torch.testing.assert_close(SinKDLoss(gather=True, mass="batch")(draw(3, 4), draw(3, 4, seed=1)), SinKDLoss(mass="batch")(draw(3, 4), draw(3, 4, seed=1)))  # fmt: skip


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "sample"}, "level must be one of batch, token, vocab, got 'sample'"),
        ({"objective": "debiased"}, "objective must be one of"),
        ({"mass": "one"}, "mass must be one of unit, batch"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none"),
        ({"tau": 0.0}, "tau must be a positive number"),
        ({"reg": -1.0}, "reg must be a positive number"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"n_iters": 2.5}, "n_iters must be a whole number"),
        ({"n_iters": 5, "tol": 1e-6}, "without tol=, got n_iters=5 and tol=1e-06"),
        ({"plan": "implicit"}, "plan must be one of unrolled, detached with n_iters=, got 'implicit'"),
        ({"plan": "unrolled", "tol": 1e-6}, "plan must be one of implicit, detached with tol="),
        ({"level": "token", "gather": True}, "gather=True is for level='batch'"),
        ({"level": "vocab", "n_iters": 5}, "closed form.*n_iters=5, tol=None and plan=None; leave them out"),
        ({"level": "vocab", "tol": 1e-6}, "level='vocab' has a closed form"),
        ({"level": "vocab", "plan": "detached"}, "level='vocab' has a closed form"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        SinKDLoss(**options)
