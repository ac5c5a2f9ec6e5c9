"""Assignments and losses of several processes are those of one."""

import datetime
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from parallel import run_at_once
from torch.nn import functional

from otkit.losses import Prototypes, SigmaLoss, SwappedPredictionLoss, assign, prototype_usage

SIZES = (4, 2, 0)  # samples of the processes; the last has none
PAIR = slice(0, 6)
CASES = {
    "balanced": {"n_iters": 3},
    "one iteration": {"n_iters": 1},
    "converged": {"n_iters": 500, "tol": 1e-9},
    "Newton": {"n_iters": 50, "tol": 1e-9, "reg": 0.02, "mass": 0.3},
    "partial": {"mass": 0.6, "unbalanced": 0.5, "n_iters": 5},
    "hard": {"hard": True, "n_iters": 10},
    "tiny reg": {"reg": 0.005, "n_iters": 10},
}


def data():
    """Scores (2, 6, 5), features (2, 6, 4), weights and a mask of all samples, and prototypes."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    prototypes = Prototypes(5, 4).double()
    prototypes.weight.data = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, True, True])
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    return prototypes(features).detach(), features, weights, mask, prototypes


def losses(features, prototypes, rows, group=None):
    """Values of both losses and their gradients by the features of some rows and by the prototypes."""
    found = {}
    for name, loss in (("swapped", SwappedPredictionLoss(group=group)), ("sigma", SigmaLoss(prototypes, group=group))):
        own, weight = features[:, rows].clone().requires_grad_(), prototypes.weight
        value = loss(prototypes(own)) if name == "swapped" else loss(own[0], own[1])
        found[name] = value.detach(), *torch.autograd.grad(value, (own, weight))
    return found


def counted(monkey, call):
    """What a call returns, and how many collectives it took."""
    count, true = [0], dist.all_reduce

    def all_reduce(*args, **options):
        count[0] += 1
        return true(*args, **options)

    monkey.setattr(dist, "all_reduce", all_reduce)
    result = call()
    monkey.setattr(dist, "all_reduce", true)
    return result, count[0]


def work(rank, folder):
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=len(SIZES), timeout=datetime.timedelta(seconds=60)
    )
    rows = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    scores, features, weights, mask, prototypes = data()
    pair, alone = dist.new_group([0, 1]), [dist.new_group([k]) for k in range(len(SIZES))][rank]
    found = {"rows": rows}
    with pytest.MonkeyPatch.context() as monkey:
        for name, options in CASES.items():
            found[name] = counted(monkey, lambda options=options: assign(scores[:, rows], **options))
        options = {"sample_weights": weights[rows], "mask": mask[rows]}
        found["weighted"] = counted(monkey, lambda: assign(scores[:, rows], **options))
        found["alone"] = counted(monkey, lambda: assign(scores[:, PAIR], group=alone))
        if rank < 2:
            found["pair"] = counted(monkey, lambda: assign(scores[:, rows], group=pair))
            found["losses"] = losses(features, prototypes, rows, pair)
    found["losses of all"] = losses(features, prototypes, rows)
    usage = prototype_usage(assign(scores[:, rows]))
    found["usage"] = usage.shares, usage.taken
    found["errors"] = errors(rank, scores[:, rows], pair)
    with open(f"{folder}/{rank}", "wb") as file:
        pickle.dump(found, file)
    dist.destroy_process_group()


def errors(rank, scores, pair):
    """What all processes say when the scores of one are bad, or no samples are left, or one is not of the group."""
    words = []
    bad = scores.new_full((2, 1, 5), float("nan")) if rank == 1 else scores
    for call in (
        lambda: assign(bad),
        lambda: assign(scores, mask=torch.zeros(scores.shape[1], dtype=torch.bool)),
        lambda: assign(scores, group=pair),
    ):
        try:
            call()
            words.append("")
        except ValueError as error:
            words.append(str(error))
    return words


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What three processes found."""
    folder = tmp_path_factory.mktemp("processes")
    run_at_once(work, (str(folder),), len(SIZES))
    found = []
    for rank in range(len(SIZES)):
        with open(folder / str(rank), "rb") as file:
            found.append(pickle.load(file))
    return found


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_assignments_are_those_of_one_process(processes, name):
    wanted = assign(data()[0], **CASES[name])
    close(torch.cat([found[name][0] for found in processes], 1), wanted)


def test_there_is_one_collective_an_iteration_and_one_more(processes):
    for found in processes:
        for name in ("one iteration", "balanced", "hard", "tiny reg", "partial"):
            assert found[name][1] == CASES[name]["n_iters"] + 1
        assert 2 < found["converged"][1] == processes[0]["converged"][1] < 400
        assert found["weighted"][1] == 3 + 1
        assert found["alone"][1] == 0


def test_weights_and_masks(processes):
    scores, _, weights, mask, _ = data()
    wanted = assign(scores, sample_weights=weights, mask=mask)
    close(torch.cat([found["weighted"][0] for found in processes], 1), wanted)


def test_groups(processes):
    scores = data()[0]
    close(torch.cat([found["pair"][0] for found in processes[:2]], 1), assign(scores))
    assert processes[0]["pair"][1] == 4
    for found in processes:
        close(found["alone"][0], assign(scores))


@pytest.mark.parametrize("name", ["swapped", "sigma"])
@pytest.mark.parametrize("group", ["losses", "losses of all"])
def test_losses_and_averaged_gradients(processes, name, group):
    _, features, _, _, prototypes = data()
    value, by_features, by_weight = losses(features, prototypes, PAIR)[name]
    members = [found[group][name] for found in processes if group in found]
    for found in members:
        close(found[0], value)
    # DistributedDataParallel takes the average of the gradients of parameters.
    close(torch.stack([found[2] for found in members]).mean(0), by_weight)
    close(torch.cat([found[1] for found in members], 1) / len(members), by_features)
    assert functional.normalize(by_features, dim=-1).abs().sum() > 1


def test_usage_is_that_of_all(processes):
    wanted = prototype_usage(assign(data()[0]))
    for found in processes:
        close(found["usage"][0], wanted.shares)
        assert torch.equal(found["usage"][1], wanted.taken)


def test_all_processes_say_what_is_wrong(processes):
    for rank, found in enumerate(processes):
        bad, none, outside = found["errors"]
        assert "scores must hold neither NaN nor inf" in bad
        assert "must leave a sample of positive weight" in none
        assert outside == (
            "" if rank < 2 else "this process must belong to group, and does not; call only on the members of the group"
        )


@pytest.mark.slow
def test_the_example():
    example = Path(__file__).parents[3] / "examples" / "assign_torchrun.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(example)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    differences = [float(number) for number in re.findall(r"at most (\S+) from one process", run.stdout)]
    assert len(differences) == 4
    assert max(differences) < 1e-6
