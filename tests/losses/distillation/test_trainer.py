"""Distillation in a plain loop and in the Trainer of Hugging Face."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pages import block_with

from otkit.losses import (
    AlignedCollator,
    Alignment,
    DistillationObjective,
    DistillationTrainerMixin,
    Head,
    SinKDLoss,
    ULDLoss,
    VocabularyMap,
    align,
)


class Outputs(dict):
    """What models return."""

    __getattr__ = dict.__getitem__


class Model(torch.nn.Module):
    """Tokens to logits."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(7, 7, generator=generator))

    def forward(self, input_ids, position_ids=None):
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


@pytest.mark.parametrize(("together", "gpus", "processes", "alike", "factor"), [
    (True, 1, 4, 2, 2), (True, 1, 3, 1, 3), (True, 2, 1, 1, 1), (False, 2, 1, 1, 0.5), (False, 0, 3, 1, 1),
])  # fmt: skip
def test_items_of_all_processes(together, gpus, processes, alike, factor):
    # The Trainer averages gradients over processes, and multiplies its own loss by their number.
    tokens = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "labels": tokens.clone()}
    trainer = LoopWithTeacher(Model(0), 20, teacher=Model(1), objective=DistillationObjective(shift=True))
    alone = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=16)
    trainer.args = SimpleNamespace(average_tokens_across_devices=together, n_gpu=gpus)
    trainer.accelerator, trainer.get_tp_size = SimpleNamespace(num_processes=processes), lambda: alike
    for items in (16, torch.tensor(16), torch.tensor([16, 16])):
        found = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=items)
        torch.testing.assert_close(found, factor * alone)


def small_gpt2(**sizes):
    """transformers, a Trainer that distils, and a function that makes a model of some width."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Trainer(DistillationTrainerMixin, transformers.Trainer):
        """A Trainer that distils."""

    def model(width, seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=23, n_embd=width, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **sizes)  # fmt: skip
        return transformers.GPT2LMHeadModel(config)

    return transformers, Trainer, model


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_the_mix_in_in_transformers(tmp_path):
    transformers, Trainer, model = small_gpt2(n_positions=8)
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
    # The lines of the page run as they stand, and begin the same training.
    names = {"DistillationTrainerMixin": DistillationTrainerMixin, "transformers": transformers, "objective": objective}
    names.update(student=(student := model(16, 0)), teacher=teacher, args=options, data=data)
    exec(block_with("transformers.Trainer"), names)
    torch.testing.assert_close(student.transformer.wte.weight.detach(), weights[0], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_packed_documents_in_transformers(tmp_path):
    transformers, Trainer, model = small_gpt2(n_positions=16, initializer_range=0.5)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(23, (size,), generator=generator).tolist() for size in (5, 3, 7)]
    data, collator = [{"input_ids": v, "labels": v} for v in texts], transformers.DataCollatorWithFlattening()
    objective = DistillationObjective(SinKDLoss("token", shift=True), shift=True)
    options = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model(16, 0), options, train_dataset=data, data_collator=collator, teacher=model(32, 1), objective=objective)  # fmt: skip
    packed, *each = (
        trainer.compute_loss(trainer.model.eval(), collator(part), num_items_in_batch=12)
        for part in (data, *([one] for one in data))
    )
    torch.testing.assert_close(packed, sum(each))


class GPTLMHeadModel(Model):
    """A causal model by its name, with a configuration."""

    config = SimpleNamespace(is_encoder_decoder=False, architectures=None)


def test_a_causal_model_is_shifted_with_a_word():
    tokens = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "labels": tokens}

    def loss(objective, student=GPTLMHeadModel):
        trainer = LoopWithTeacher(student(0), 20, teacher=Model(1), objective=objective)
        return trainer.compute_loss(trainer.model, inputs).detach()

    wanted = loss(DistillationObjective(shift=True))
    for objective in (DistillationObjective(), DistillationObjective(SinKDLoss())):
        with pytest.warns(UserWarning, match="GPTLMHeadModel predicts the next token"):
            found = loss(objective)
        assert found == wanted

    class Wrapped(Model):
        config = SimpleNamespace(architectures=["LlamaForCausalLM"])

    class Classifier(Model):
        """Of the files of a causal model."""

        config = SimpleNamespace(architectures=["LlamaForCausalLM"])
        __module__ = "transformers.models.llama"

    with pytest.warns(UserWarning, match="Wrapped predicts"):
        assert loss(DistillationObjective(), Wrapped) == wanted
    as_it_is = loss(DistillationObjective(shift=False))
    assert loss(DistillationObjective(), Classifier) == as_it_is
    assert abs(as_it_is - wanted) > 0.01
    assert loss(DistillationObjective(), Model) == as_it_is
    assert loss(DistillationObjective(SinKDLoss(shift=True))) == wanted


def test_packed_documents_are_kept_apart_by_their_positions():
    tokens = torch.randint(7, (1, 8), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0]])
    student, teacher, objective = Model(0), Model(1), DistillationObjective(SinKDLoss("token", shift=True), shift=True)
    trainer = LoopWithTeacher(student, 20, teacher=teacher, objective=objective)
    inputs = {"input_ids": tokens, "labels": tokens, "position_ids": positions}
    packed = trainer.compute_loss(student, inputs, num_items_in_batch=5)
    parts = [{"input_ids": tokens[:, part], "labels": tokens[:, part]} for part in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(packed, sum(trainer.compute_loss(student, v, num_items_in_batch=5) for v in parts))
    # Positions of one document, and those of padding on the left, change nothing.
    del inputs["position_ids"]
    whole = trainer.compute_loss(student, inputs)
    for one in (torch.arange(8), torch.tensor([1, 1, 0, 1, 2, 3, 4, 5])):
        assert trainer.compute_loss(student, {**inputs, "position_ids": one[None]}) == whole
    assert abs(float((packed - whole).detach())) > 1e-3


def test_a_padded_vocabulary():
    tokens = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    student, teacher = (Model(seed)(tokens).logits.detach() for seed in (0, 1))
    padding = torch.full((2, 5, 3), 2.0)
    wanted = DistillationObjective()(student, teacher, tokens)
    objective = DistillationObjective(vocab_size=7)
    padded = torch.cat([student, padding], -1)
    assert objective(padded, torch.cat([teacher, padding[..., :1]], -1), tokens) == wanted
    head = Head(torch.eye(10).requires_grad_()[tokens], padded_weight := torch.randn(10, 10))
    cut = Head(head.hidden, padded_weight[:7])
    for size in (0, 5.5, True):
        with pytest.raises(ValueError, match="vocab_size must be a positive whole number"):
            DistillationObjective(vocab_size=size)
    for label in (7, -1):
        with pytest.raises(ValueError, match="labels must be below the 7 entries"):
            objective(padded, teacher, torch.full_like(tokens, label))
    options = DistillationObjective(SinKDLoss("token"), vocab_size=7), DistillationObjective(SinKDLoss("token"))
    assert options[0](head, teacher, tokens) == options[1](cut, teacher, tokens)


def test_a_teacher_of_another_tokenizer():
    # The student has one token for each letter, the teacher one for each pair, after a first token.
    letters = torch.randint(7, (1, 8), generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor([[0, 3, 2, 4, 1]])
    found = align([(k, k + 1) for k in range(8)], [(0, 0), *((2 * k, 2 * k + 2) for k in range(4))])
    batch = {
        "input_ids": letters,
        "labels": letters.clone(),
        "teacher_inputs": {"input_ids": pairs},
        "spans": found.spans[None],
        "teacher_spans": found.teacher_spans[None],
    }
    batch["labels"][0, 5] = -100
    objective = DistillationObjective(ULDLoss(shift=True), kd=0.0)
    student, teacher = Model(0), Model(1)
    trainer = LoopWithTeacher(student, 20, teacher=teacher, objective=objective)
    # Of the four spans the first has no row of the student before it, and the third no label.
    rows, theirs = student(letters).logits[0, [1, 5]], teacher(pairs).logits[0, [1, 3]]
    labels = batch["labels"][0, 1:]
    ce = torch.nn.functional.cross_entropy(student(letters).logits[0, :-1], labels)
    torch.testing.assert_close(trainer.compute_loss(student, batch), ce + ULDLoss()(rows, theirs))
    torch.testing.assert_close(
        trainer.compute_loss(student, batch, num_items_in_batch=6), (6 * ce + 2 * ULDLoss()(rows, theirs)) / 6
    )
    with pytest.raises(ValueError, match="one document in each sequence"):
        objective(student(letters).logits, teacher(pairs).logits, letters, 1 + letters, alignment=found)
    del batch["spans"]
    with pytest.raises(ValueError, match="align gives both"):
        trainer.compute_loss(student, batch)
    del batch["teacher_spans"]
    with pytest.raises(ValueError, match="pass teacher_mask"):
        trainer.compute_loss(student, batch)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_two_tokenizers_in_transformers(tmp_path):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    pytest.importorskip("accelerate")
    texts = [f"{a} the {b} of the {a}" for a in ("cat", "dog", "naïve") for b in ("sound", "hat")]

    def tokenizer(size):
        found = tokenizers.Tokenizer(tokenizers.models.BPE())
        found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        options = dict(initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        found.train_from_iterator(
            texts, tokenizers.trainers.BpeTrainer(vocab_size=size, special_tokens=["</s>"], **options)
        )
        return transformers.PreTrainedTokenizerFast(tokenizer_object=found, pad_token="</s>", eos_token="</s>")

    def model(tokens, seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=len(tokens), n_positions=64, n_embd=16, n_layer=1, n_head=2)
        return transformers.GPT2LMHeadModel(config)

    class Trainer(DistillationTrainerMixin, transformers.Trainer):
        """A Trainer that distils."""

    own, other = tokenizer(258), tokenizer(290)
    collator = AlignedCollator(own, other, max_length=16)
    objective = DistillationObjective(ULDLoss(shift=True), vocabulary=VocabularyMap.of(own, other))
    options = transformers.TrainingArguments(str(tmp_path), per_device_train_batch_size=3, max_steps=8, learning_rate=0.01, remove_unused_columns=False, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no")  # fmt: skip
    trainer = Trainer(model(own, 0), options, train_dataset=[{"text": t} for t in texts], data_collator=collator, teacher=model(other, 1), objective=objective)  # fmt: skip
    batch = collator(texts)
    assert batch["input_ids"].shape[1] == 16 < batch["labels"].numel()
    masks = Alignment(batch["spans"], batch["teacher_spans"]).masks(True)
    assert (masks[0].sum(-1) == masks[1].sum(-1)).all()
    # At the first token of a span both have read the same text, and go on with tokens that begin alike.
    for mine, theirs in zip(batch["input_ids"][masks[0]], batch["teacher_inputs"]["input_ids"][masks[1]], strict=True):
        assert other.decode(theirs)[0] == own.decode(mine)[0]
    before = trainer.compute_loss(trainer.model.eval(), batch)
    trainer.train()
    assert trainer.compute_loss(trainer.model.eval(), batch) < before
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        collator([{}])
    for empty in ([], ["", {"text": ""}]):
        with pytest.raises(ValueError, match="empty ones; drop empty texts"):
            collator(empty)
    own.pad_token = None
    with pytest.raises(ValueError, match="token for padding, got none"):
        AlignedCollator(own, other)


@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_the_example_with_a_trainer(monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    example = Path(__file__).parents[3] / "examples" / "distil_trainer.py"
    monkeypatch.setattr(sys, "argv", [str(example), "--steps", "4"])
    runpy.run_path(str(example), run_name="__main__")
    found = [line.partition(":") for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert [name for name, _, _ in found] == [
        "teacher", "student alone", "student with KL", "student with KL and SinKD"
    ]  # fmt: skip
    assert all(0 < float(loss.split()[0]) < 4 for _, _, loss in found)
