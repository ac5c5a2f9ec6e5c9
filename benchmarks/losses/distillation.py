"""Distillation losses: step times beside plain torch, and memory; run ``python benchmarks/losses/distillation.py``.

Prints two Markdown tables. The first has the medians of a forward and a backward pass of `SinKDLoss.paper()` and of the
released formula as it is written, with ``torch.cdist``, for b rows of V entries in float32, in turns; and how far the
two gradients are apart, relative in L2. The second has the most memory that a loss takes beside its logits and their
gradient included, in units of the two tensors of logits, in bfloat16; each in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

SIZES, VOCABULARIES = (32, 256, 1024), (2, 1000, 32_000)
LOSSES = ("uld", "uld topk", "vocab level", "kl", "token level", "vocab transport")


def released(student, teacher):
    p, q = torch.softmax(student / 2.0, 1), torch.softmax(teacher.detach() / 2.0, 1)
    D = torch.cdist(p, q, p=1)
    P = torch.exp(-D / 0.1)
    for _ in range(20):
        P = P / P.sum(1, keepdim=True)
        P = P / P.sum(0, keepdim=True)
    return 0.001 * (P * D).sum()


def step(loss, student, teacher):
    """The gradient, and how long it took."""
    student = student.detach().requires_grad_()
    start = time.perf_counter()
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    return gradient, time.perf_counter() - start


def timed(size, vocabulary, seconds):
    from otkit.losses import SinKDLoss

    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(size, vocabulary, generator=generator) for _ in range(2))
    losses = {"otkit": SinKDLoss.paper(), "released": released}
    found = {name: step(loss, student, teacher)[0] for name, loss in losses.items()}
    apart = float((found["otkit"] - found["released"]).norm() / found["released"].norm())
    times, end = {name: [] for name in losses}, time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["otkit"]) < 3:
        for name, loss in losses.items():
            times[name].append(step(loss, student, teacher)[1])
    return {"b": size, "V": vocabulary, "apart": apart, **{name: median(v) for name, v in times.items()}}


def loss_of(name, entries):
    from otkit.losses import SinKDLoss, SoftTargetLoss, ULDLoss, VocabOTLoss, VocabularyCost

    makers = {
        "uld": ULDLoss,
        "uld topk": lambda: ULDLoss(topk=100),
        "vocab level": lambda: SinKDLoss("vocab"),
        "kl": lambda: SoftTargetLoss("kl"),
        "token level": lambda: SinKDLoss("token"),
        "vocab transport": lambda: VocabOTLoss(
            VocabularyCost.nearest(torch.randn(entries, 16), k=8), reg=0.01, unbalanced=0.5
        ),
    }
    return makers[name]()


def memory(name, rows, entries):
    """The most memory beside logits of sequences of 512 rows, over theirs, and the time of a step."""
    loss = loss_of(name, entries)
    loss(torch.randn(1, 2, entries, requires_grad=True), torch.randn(1, 2, entries)).backward()  # compiles
    distinct = [torch.randn(1, min(rows, 64), entries).to(torch.bfloat16) for _ in range(2)]
    length = min(rows, 512)
    student, teacher = (v.repeat(1, rows // v.shape[1], 1).reshape(-1, length, entries) for v in distinct)
    student.requires_grad_()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    loss(student, teacher).backward()
    seconds = time.perf_counter() - start
    extra = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert torch.isfinite(student.grad).all()
    return {"loss": name, "rows": rows, "V": entries, "extra": extra / (2 * student.nbytes), "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--vocabularies", type=int, nargs="*", default=VOCABULARIES)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each size")
    parser.add_argument("--losses", nargs="*", default=LOSSES[:4], choices=LOSSES, help="whose memory is measured")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--entries", type=int, default=151_936)
    parser.add_argument("--one", choices=LOSSES, help="measure the memory of this loss, in this process")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(memory(args.one, args.rows, args.entries)))
        return
    times, sizes = [], [(b, V) for b in args.sizes for V in args.vocabularies]
    if sizes:
        print("| b | V | otkit ms | released ms | released / otkit | gradients apart |\n|---|---|---|---|---|---|")
    for b, V in sizes:
        row = timed(b, V, args.seconds)
        times.append(row)
        ratio = row["released"] / row["otkit"]
        cells = (f"{b}", f"{V}", f"{1e3 * row['otkit']:.3g}", f"{1e3 * row['released']:.3g}", f"{ratio:.2f}")
        print("", *cells, f"{row['apart']:.0e}", "", sep=" | ", flush=True)
    print("\n| loss | rows | V | memory / logits | seconds |\n|---|---|---|---|---|")
    memories = []
    for name in args.losses:
        command = [sys.executable, __file__, "--one", name, "--rows", str(args.rows), "--entries", str(args.entries)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(run.stdout)
        memories.append(row)
        print("", *(f"{row[k]:.3g}" if isinstance(row[k], float) else row[k] for k in row), "", sep=" | ", flush=True)
    if args.json:
        versions = {name: version(name) for name in ("otkit", "torch", "numba")}
        content = {"arguments": vars(args), "threads": torch.get_num_threads(), "versions": versions}
        Path(args.json).write_text(json.dumps({**content, "times": times, "memory": memories}, indent=1) + "\n")


if __name__ == "__main__":
    main()
