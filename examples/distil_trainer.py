"""
The Trainer of Hugging Face
===========================

A teacher learns the Zen of Python by its characters; then students of a tenth of its size learn from the text and from
it. Run it by ``python examples/distil_trainer.py``; it takes a minute, and needs transformers and accelerate.
"""

import argparse
import codecs
import contextlib
import io
import tempfile

import torch
import transformers

from otkit.losses import DistillationObjective, DistillationTrainerMixin, SinKDLoss

with contextlib.redirect_stdout(io.StringIO()):
    import this

TEXT = codecs.decode(this.s, "rot13")
LETTERS, LENGTH = sorted(set(TEXT)), 32


class DistillationTrainer(DistillationTrainerMixin, transformers.Trainer):
    """A Trainer with a teacher."""


def windows():
    """All pieces of the text, as the Trainer takes them."""
    ids = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    return [{"input_ids": piece, "labels": piece} for piece in ids.unfold(0, LENGTH, 3)]


def model(width, layers):
    """A language model, random but the same each time."""
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(LETTERS),
        n_positions=LENGTH,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def trained(trainer, student, steps, **options):
    """The mean cross entropy of a letter after training."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=3e-3, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True, seed=0,
        )  # fmt: skip
        running = trainer(student, arguments, train_dataset=windows(), **options)
        running.remove_callback(transformers.PrinterCallback)
        running.train()
    batch = torch.stack([piece["input_ids"] for piece in windows()])
    with torch.no_grad():
        return float(student.eval()(input_ids=batch, labels=batch).loss)


def main():
    """Train the teacher, and students in three ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps
    teacher = model(96, 3)
    print(f"teacher: {trained(transformers.Trainer, teacher, 2 * steps):.3f} nats a letter")
    print(f"student alone: {trained(transformers.Trainer, model(32, 1), steps):.3f}")
    for name, ot in (("KL", 0.0), ("KL and SinKD", 0.5)):
        sinkd = SinKDLoss("token", shift=True) if ot else None
        objective = DistillationObjective(sinkd, kd=0.5, ot=ot, shift=True, temperature=2.0)
        loss = trained(DistillationTrainer, model(32, 1), steps, teacher=teacher, objective=objective)
        print(f"student with {name}: {loss:.3f}")


if __name__ == "__main__":
    main()
