"""Distillation as a whole, in plain loops and in the Trainer of Hugging Face."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from otkit.losses import DistillationObjective, DistillationTrainerMixin, SinKDLoss, SoftTargetLoss, ULDLoss
from otkit.losses.distillation import DIVERGENCES


def draw(*shape, seed=0, dtype=torch.float64):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Soft targets


def test_soft_targets_are_the_formulas():
    student, teacher, T = draw(5, 4), draw(5, 4, seed=1), 3.0
    p, q = (v / T for v in (student, teacher))
    p, q = p.softmax(-1), q.softmax(-1)
    m = (p + q) / 2
    wanted = {
        "kl": (q * (q / p).log()).sum(-1),
        "reverse_kl": (p * (p / q).log()).sum(-1),
        "js": ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2,
        "tv": (p - q).abs().sum(-1) / 2,
        "cross_entropy": -(q * p.log()).sum(-1),
    }
    assert set(wanted) == set(DIVERGENCES)
    for name, value in wanted.items():
        torch.testing.assert_close(SoftTargetLoss(name, T, squared=False, reduction="none")(student, teacher), value)
        torch.testing.assert_close(SoftTargetLoss(name, T)(student, teacher), 9 * value.mean())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_soft_targets_with_chunks_masks_and_certain_predictions(name):
    student, teacher = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    loss = SoftTargetLoss(name, chunk_size=2)
    assert gradcheck(lambda v: loss(v, teacher, mask), student)
    torch.testing.assert_close(loss(student, teacher, mask), SoftTargetLoss(name)(student, teacher, mask))
    extreme = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    value = loss(extreme, torch.tensor([[0.0, 1e4, -1e4]]))
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, extreme)[0]).all()
    assert repr(loss) == f"SoftTargetLoss('{name}', temperature=1, squared=True)"


# The objective


def test_the_parts_and_their_weights():
    student, teacher, labels = draw(6, 4), draw(6, 4, seed=1), torch.tensor([0, 3, 1, -100, 2, 2])
    objective = DistillationObjective(ce=0.3, kd=0.5, ot=0.7, divergence="js", temperature=2.0)
    loss, stats = objective(student, teacher, labels, return_stats=True)
    ce = functional.cross_entropy(student.float(), labels)
    kd = SoftTargetLoss("js", 2.0)(student, teacher, labels=labels)
    ot = SinKDLoss()(student, teacher, labels=labels)
    torch.testing.assert_close(loss, 0.3 * ce + 0.5 * kd + 0.7 * ot, check_dtype=False)
    assert [float(stats[name]) for name in ("ce", "kd", "ot", "loss")] == pytest.approx(
        [float(v) for v in (ce, kd, ot, loss)]
    )
    assert float(stats["temperature"]) == 2
    uld = DistillationObjective(ULDLoss(), ce=1, kd=0, ot=1)(student, teacher, labels)
    torch.testing.assert_close(uld, ce + ULDLoss()(student, teacher, labels=labels), check_dtype=False)
    for weights in ({"ce": 1}, {"kd": 1}, {"ot": 1}):
        only = DistillationObjective(**{"ce": 0, "kd": 0, "ot": 0, **weights})
        _, parts = only(student, teacher, labels, return_stats=True)
        assert set(parts) == {"loss", "temperature", *weights}


def test_the_paper():
    # (1 − α)·CE + α·L_KD + β·0.001·L, L_KD a cross entropy at a temperature that goes from T to 1.
    student, teacher, labels = draw(8, 3), draw(8, 3, seed=1), torch.arange(8) % 3
    objective = DistillationObjective.paper(alpha=0.8, temperature=4.0, beta=0.8, anneal=True)
    for epoch in range(3):
        T = 4 + (1 - 4) * epoch / 2
        soft = -((teacher / T).softmax(-1) * (student / T).log_softmax(-1)).sum(-1).mean()
        wanted = (
            0.2 * functional.cross_entropy(student, labels) + 0.8 * soft + 0.8 * SinKDLoss.paper()(student, teacher)
        )
        found = objective(student, teacher, labels, progress=epoch / 2)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    constant = DistillationObjective.paper(alpha=0.8, temperature=4.0)
    torch.testing.assert_close(constant(student, teacher, labels, progress=1.0), constant(student, teacher, labels))
    assert "ce=0.2, kd=0.8, ot=0.8, divergence='cross_entropy', temperature=4 to 1" in repr(objective)


def test_the_causal_shift_by_hand():
    # Tokens 3 and 1 are the answer: rows 1 and 2 predict them.
    student, teacher = draw(1, 4, 5).requires_grad_(), draw(1, 4, 5, seed=1)
    labels = torch.tensor([[-100, -100, 3, 1]])
    found = DistillationObjective(shift=True)(student, teacher, labels)
    wanted = DistillationObjective()(student[0, 1:3], teacher[0, 1:3], torch.tensor([3, 1]))
    torch.testing.assert_close(found, wanted)
    gradient = torch.autograd.grad(found, student)[0]
    assert not gradient[0, [0, 3]].any()
    assert gradient[0, 1:3].abs().sum(-1).min() > 0


def test_accumulated_steps_are_one_step():
    student, teacher = draw(4, 5, 6).requires_grad_(), draw(4, 5, 6, seed=1)
    labels = torch.where(torch.arange(5) < torch.tensor([[5], [2], [4], [1]]), 3, -100)
    objective = DistillationObjective(SinKDLoss("token"))
    rows = (labels != -100).sum()
    steps = sum(objective(student[[k]], teacher[[k]], labels[[k]], num_items_in_batch=rows) for k in range(4))
    whole = objective(student, teacher, labels, num_items_in_batch=rows)
    torch.testing.assert_close(steps, whole)
    torch.testing.assert_close(torch.autograd.grad(steps, student), torch.autograd.grad(whole, student))


def test_half_precision_and_no_labels():
    student, teacher = draw(6, 4, dtype=torch.bfloat16).requires_grad_(), draw(6, 4, seed=1, dtype=torch.bfloat16)
    loss = DistillationObjective()(student, teacher, torch.arange(6) % 4)
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(student.grad).all()
    none = DistillationObjective()(student, teacher, torch.full((6,), -100))
    assert float(none.detach()) == 0
    assert DistillationObjective(ce=0)(student, teacher).requires_grad


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DistillationObjective(ce=-1.0), "ce must be a weight of at least 0, got -1.0"),
        (lambda: DistillationObjective(ce=0, kd=0, ot=0), "one of ce, kd and ot must be above 0"),
        (lambda: DistillationObjective(divergence="hellinger"), "divergence must be one of kl, reverse_kl"),
        (lambda: DistillationObjective(temperature=0.0), "temperature must be a positive number"),
        (lambda: DistillationObjective(final_temperature=-1.0), "final_temperature must be a positive number"),
        (lambda: DistillationObjective(SinKDLoss(), shift=True), "shift must be the same for all parts, got True and False in ot_loss"),
        (lambda: DistillationObjective()(torch.ones(2, 3), torch.ones(2, 3)), "labels must be given for the cross entropy"),
        (lambda: DistillationObjective(ce=0)(torch.ones(2, 3), torch.ones(2, 3), progress=2.0), "progress must lie between 0 and 1"),
        (lambda: SoftTargetLoss("kl", temperature=-1.0), "temperature must be a positive number"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# The Trainer


class Outputs(dict):
    """What models return."""

    __getattr__ = dict.__getitem__


class Model(torch.nn.Module):
    """Tokens to logits."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(7, 7, generator=generator))

    def forward(self, input_ids):
        return Outputs(logits=self.weight[input_ids])


class Loop:
    """The part of a Trainer that the mix-in uses: a state, and steps that go through `compute_loss`."""

    def __init__(self, model, max_steps):
        self.model = model
        self.state = type("State", (), {"global_step": 0, "max_steps": max_steps})()

    def train(self, inputs):
        optimizer, losses = torch.optim.SGD(self.model.parameters(), lr=0.5), []
        for _ in range(self.state.max_steps):
            loss, outputs = self.compute_loss(self.model, inputs, return_outputs=True)
            assert outputs.logits.shape == (2, 5, 7)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.state.global_step += 1
            losses.append(float(loss.detach()))
        return losses


class LoopWithTeacher(DistillationTrainerMixin, Loop):
    """A loop that distils."""


def test_the_mix_in_in_a_loop():
    tokens = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "labels": tokens.clone()}
    seen = []
    objective = DistillationObjective(shift=True, temperature=3.0, final_temperature=1.0)
    objective.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["progress"]), with_kwargs=True)
    teacher = Model(1)
    trainer = LoopWithTeacher(Model(0), 20, teacher=teacher.train(), objective=objective)
    first = float(objective(Model(0)(tokens).logits, teacher(tokens).logits, tokens, progress=0.0).detach())
    losses = trainer.train(inputs)
    assert losses[0] == pytest.approx(first)
    assert losses[-1] < 0.6 * losses[0]
    assert seen == [0.0] + [k / 20 for k in range(20)]
    assert not teacher.training
    assert teacher.weight.grad is None
    assert set(inputs) == {"input_ids", "labels"}


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_the_mix_in_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    def model(width, seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=23, n_positions=8, n_embd=width, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)  # fmt: skip
        return transformers.GPT2LMHeadModel(config)

    class Trainer(DistillationTrainerMixin, transformers.Trainer):
        """A Trainer that distils."""

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(23, (8, 8), generator=generator)
    labels = torch.where(torch.arange(8) < torch.randint(3, 9, (8, 1), generator=generator), tokens, -100)
    data = [{"input_ids": t, "labels": u} for t, u in zip(tokens, labels, strict=True)]
    teacher, weights = model(32, 1), []
    for size, steps in ((8, 1), (2, 4)):  # in one go, and accumulated
        student = model(16, 0)
        options = transformers.TrainingArguments(str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=steps, num_train_epochs=3, learning_rate=0.01, lr_scheduler_type="constant", optim="sgd", max_grad_norm=1e9, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no")  # fmt: skip
        objective = DistillationObjective(SinKDLoss("token", shift=True), shift=True, final_temperature=2.0)
        trainer = Trainer(student, options, train_dataset=data, teacher=teacher, objective=objective)
        before = trainer.compute_loss(student.eval(), {"input_ids": tokens, "labels": labels})
        trainer.train()
        assert trainer.compute_loss(student.eval(), {"input_ids": tokens, "labels": labels}) < before
        weights.append(student.transformer.wte.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    assert all(v.grad is None for v in teacher.parameters())


def test_the_example_with_a_trainer():
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    example = Path(__file__).parents[2] / "examples" / "distil_trainer.py"
    run = subprocess.run(
        [sys.executable, example, "--steps", "4"], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert [line.partition(":")[0] for line in run.stdout.splitlines()] == [
        "teacher", "student alone", "student with KL", "student with KL and SinKD"
    ]  # fmt: skip
