"""A step of the Trainer of Hugging Face with the mix-in, in two processes, is that of one."""

import itertools
import os
import socket
import warnings
from importlib.util import find_spec

import pytest
import torch
from parallel import run_at_once

from otkit.losses import DistillationObjective, DistillationTrainerMixin, MultiLevelOTLoss, SinKDLoss, ULDLoss

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
    pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of transformers and accelerate
]
OBJECTIVES = {
    "labels": DistillationObjective(kd=0.0, ot=0.0, shift=True),
    "SinKD": DistillationObjective(SinKDLoss("token", shift=True), shift=True, temperature=2.0),
    "ULD": DistillationObjective(ULDLoss(shift=True), divergence="js", shift=True),
    "multi-level": DistillationObjective(MultiLevelOTLoss(topk=5, shift=True), shift=True),
}


def stepped(folder, name, size, accumulated):
    """The weights after one step of gradient descent on eight sequences; with the name "Trainer" of its own loss."""
    import transformers

    class Distilling(DistillationTrainerMixin, transformers.Trainer):
        """A Trainer that distils."""

    def model(width, seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=23, n_positions=8, n_embd=width, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)  # fmt: skip
        return transformers.GPT2LMHeadModel(config)

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(23, (8, 8), generator=generator)
    labels = torch.where(torch.arange(8) < torch.randint(3, 9, (8, 1), generator=generator), tokens, -100)
    data = [{"input_ids": t, "labels": u} for t, u in zip(tokens, labels, strict=True)]
    options = transformers.TrainingArguments(folder, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, max_steps=1, learning_rate=0.1, lr_scheduler_type="constant", optim="sgd", max_grad_norm=1e9, report_to=[], save_strategy="no", use_cpu=True, ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None, disable_tqdm=True, logging_strategy="no")  # fmt: skip
    student = model(16, 0)
    if name == "Trainer":
        trainer = transformers.Trainer(student, options, train_dataset=data)
    else:
        more = {"teacher": model(32, 1), "objective": OBJECTIVES[name]}
        trainer = Distilling(student, options, train_dataset=data, **more)
    trainer.train()
    assert trainer.accelerator.num_processes * size * accumulated == 8
    return torch.cat([p.detach().flatten() for p in student.parameters()])


def work(rank, folder, port, cases):
    warnings.simplefilter("ignore")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    torch.save({case: stepped(folder, *case) for case in cases}, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


QUICK = [("SinKD", 2, 2)]
ALL = [("Trainer", 4, 1), *itertools.product(OBJECTIVES, (4,), (1,)), ("ULD", 2, 2), ("ULD", 1, 4), ("SinKD", 1, 4)]


@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_step_of_two_processes(tmp_path, cases):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run_at_once(work, (str(tmp_path), port, cases), 2)
    wanted = {name: stepped(str(tmp_path), name, 8, 1) for name, _, _ in cases}
    for rank in range(2):
        for (name, size, accumulated), weights in torch.load(tmp_path / str(rank)).items():
            message = f"{name}, {size}, {accumulated}"
            torch.testing.assert_close(
                weights, wanted[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=message: f"{n}: {m}"
            )
    if "Trainer" in wanted:  # of the cross entropy alone, the step is the Trainer's own
        torch.testing.assert_close(wanted["labels"], wanted["Trainer"], rtol=1e-5, atol=1e-6)


def test_the_step_moves_the_weights(tmp_path):
    """So that equal weights say something: half of a step is told apart."""
    at_first = stepped(str(tmp_path), "SinKD", 8, 1)
    assert float((at_first - stepped(str(tmp_path), "labels", 8, 1)).abs().max()) > 1e-3
