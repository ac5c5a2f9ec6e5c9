"""A step of several processes, with accumulation and unequal batches, is that of one."""

import datetime
import itertools
import pickle
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from pages import block_with
from parallel import run_at_once
from torch.nn.parallel import DistributedDataParallel

from otkit.losses import (
    DistillationObjective,
    GaussianFeatureLoss,
    MultiLevelOTLoss,
    SinKDLoss,
    SinkhornLoss,
    SoftTargetLoss,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
)

LENGTH, WIDTH, VOCABULARY = 5, 4, 9
COST = VocabularyCost.dense((torch.arange(VOCABULARY)[:, None] - torch.arange(VOCABULARY)).abs() / VOCABULARY)
LOSSES = {
    "KL": SoftTargetLoss(shift=True),
    "JS": SoftTargetLoss("js", shift=True),
    "ULD": ULDLoss(shift=True),
    "SinKD": SinKDLoss("token", shift=True),
    "multi-level": MultiLevelOTLoss(topk=4, shift=True),
    "VocabOT": VocabOTLoss(COST, reg=0.1, shift=True),
    "features": GaussianFeatureLoss(),
    "objective": DistillationObjective(SinKDLoss("token", shift=True), shift=True),
    "Sinkhorn": SinkhornLoss(0.5, reduction="sum", tol=1e-10),
}
# Sequences of the micro-batches of each process, for one step and for two.
SHARES = {1: [(0, 5), (5, 7), (7, 8)], 2: [(0, 3, 5), (5, 6, 7), (7, 8, 8)]}


def data():
    """Inputs, teacher's logits and labels of eight sequences, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    teacher = torch.randn(8, LENGTH, VOCABULARY, generator=generator, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (8, LENGTH), generator=generator)
    labels[torch.arange(LENGTH) >= torch.randint(2, LENGTH + 1, (8, 1), generator=generator)] = -100
    return x, teacher, labels


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, VOCABULARY).double()


def loss_of(name, logits, teacher, labels, items):
    """The share of some sequences in the loss of a step, of `items` rows in all."""
    if name == "Sinkhorn":
        return LOSSES[name](logits, teacher) / items
    if name == "features":
        return LOSSES[name](logits, teacher, labels != -100, num_items_in_batch=items)
    return LOSSES[name](logits, teacher, labels=labels, num_items_in_batch=items)


def items_of(name, labels):
    return len(labels) if name in ("Sinkhorn", "features") else int((labels[:, 1:] != -100).sum())


def gradients(net, name, cuts, count):
    """The gradients of a step, over the micro-batches between the cuts; `count` is that of the processes."""
    x, teacher, labels = data()
    net.zero_grad()
    pairs = list(pairwise(cuts))
    for low, high in pairs:
        rows, last = slice(low, high), (low, high) == pairs[-1]
        if isinstance(net, DistributedDataParallel):
            net.require_backward_grad_sync = last  # as no_sync() does
        elif count > 1:
            net.set_requires_gradient_sync(last)
        loss = loss_of(name, net(x[rows]), teacher[rows], labels[rows], items_of(name, labels))
        (loss * count).backward()
    whole = [getattr(p.grad, "full_tensor", p.grad.clone)() for p in net.parameters()]
    return [v.clone() for v in whole]


def step_of_the_page(net, rows):
    """The gradients of the step that the page shows, for some sequences of this process."""
    x, teacher, labels = data()
    names = {"torch": torch, "kd": SoftTargetLoss(), "model": net}
    names.update(tokens=x[rows], teacher=teacher[rows], mask=labels[rows] != -100)
    net.zero_grad()
    exec(block_with("all_reduce"), names)
    names["loss"].backward()
    return [p.grad.clone() for p in net.parameters()]


def work(rank, folder, count):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    options = dict(rank=rank, world_size=count, timeout=datetime.timedelta(seconds=60))
    dist.init_process_group("gloo", f"file://{folder}/store", **options)
    nets = {
        "DDP": DistributedDataParallel(model()),
        "FSDP2": fully_shard(model(), mesh=init_device_mesh("cpu", (count,))),
    }
    found = {}
    for (kind, net), (steps, shares) in itertools.product(nets.items(), SHARES.items()):
        ends = shares[rank]
        cuts = ends if count == 3 else (ends if rank == 0 else (shares[1][0], *shares[2][1:]))
        found.update({(name, kind, steps): gradients(net, name, cuts, count) for name in LOSSES})
    found["page", "DDP", 1] = step_of_the_page(nets["DDP"], slice(cuts[0], cuts[-1]))
    with open(f"{folder}/{rank}", "wb") as file:
        pickle.dump(found, file)
    dist.destroy_process_group()


@pytest.mark.parametrize("count", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_step_is_that_of_one_process(tmp_path, count):
    run_at_once(work, (str(tmp_path), count), count)
    wanted = {name: gradients(model(), name, (0, 8), 1) for name in LOSSES}
    x, teacher, labels = data()
    net = model()
    wanted["page"] = torch.autograd.grad(SoftTargetLoss()(net(x), teacher, labels != -100), [*net.parameters()])
    for rank in range(count):
        with open(tmp_path / str(rank), "rb") as file:
            found = pickle.load(file)
        assert len(found) == len(LOSSES) * 4 + 1
        for (name, kind, steps), gradient in found.items():
            for one, other in zip(gradient, wanted[name], strict=True):
                torch.testing.assert_close(
                    one, other, rtol=1e-6, atol=1e-7, msg=lambda m, n=(name, kind, steps): f"{n}: {m}"
                )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_accumulated_step_is_one_large_step(name, steps):
    cuts = [0, 1, 4, 5, 8] if steps == 4 else [0, 6, 8] if steps == 2 else [0, 8]
    wanted = gradients(model(), name, (0, 8), 1)
    for one, other in zip(gradients(model(), name, cuts, 1), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
