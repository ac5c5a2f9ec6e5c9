"""Distillation losses: step times beside plain torch, and memory; run ``python benchmarks/losses/distillation.py``.

Prints two Markdown tables. The first has the medians of a forward and a backward pass of `SinKDLoss.paper()` and of the
released formula as it is written, with ``torch.cdist``, for b rows of V entries in float32, in turns. It also has the
distance of the two gradients, relative in L2. The second has the peak of memory of a loss beyond its logits, with their
gradient, in units of the two tensors of logits, in bfloat16; each loss in a process of its own.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, peak_memory, save, timed
from compare.tables import heading, line

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
    """The gradient, and the time in seconds."""
    student = student.detach().requires_grad_()
    (gradient,), seconds = timed(lambda: torch.autograd.grad(loss(student, teacher), student))
    return gradient, seconds


def compared(size, vocabulary, seconds):
    from otkit.losses import SinKDLoss

    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(size, vocabulary, generator=generator) for _ in range(2))
    losses = {"otkit": SinKDLoss.paper(), "released": released}
    found = {name: step(loss, student, teacher)[0] for name, loss in losses.items()}
    apart = float((found["otkit"] - found["released"]).norm() / found["released"].norm())
    turns = in_turns({name: partial(step, loss, student, teacher) for name, loss in losses.items()}, 3, seconds)
    times = {name: median(seconds for _, seconds in found) for name, found in turns.items()}
    return {"b": size, "V": vocabulary, "apart": apart, **times}


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
    """The peak of memory beyond logits of sequences of at most 512 rows, over theirs, and the time of a step."""
    loss = loss_of(name, entries)
    loss(torch.randn(1, 2, entries, requires_grad=True), torch.randn(1, 2, entries)).backward()  # compiles
    distinct = [torch.randn(1, min(rows, 64), entries).to(torch.bfloat16) for _ in range(2)]
    length = min(rows, 512)
    student, teacher = (v.repeat(1, rows // v.shape[1], 1).reshape(-1, length, entries) for v in distinct)
    student.requires_grad_()
    before = peak_memory()
    _, seconds = timed(lambda: loss(student, teacher).backward())
    extra = peak_memory() - before
    assert torch.isfinite(student.grad).all()
    return {"loss": name, "rows": rows, "V": entries, "extra": extra / (2 * student.nbytes), "seconds": seconds}


def print_times(row):
    ratio, milliseconds = row["released"] / row["otkit"], (f"{1e3 * row[name]:.3g}" for name in ("otkit", "released"))
    line(row["b"], row["V"], *milliseconds, f"{ratio:.2f}", f"{row['apart']:.0e}")


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options.add_argument("--vocabularies", type=int, nargs="*", default=VOCABULARIES)
    options.add_argument("--seconds", type=float, default=2.0, help="time for each size")
    options.add_argument("--losses", nargs="*", default=LOSSES[:4], choices=LOSSES, help="whose memory is measured")
    options.add_argument("--rows", type=int, default=4096)
    options.add_argument("--entries", type=int, default=151_936)
    args = options.parse_args()
    times, memories = [], []
    sizes = [(b, V) for b in args.sizes for V in args.vocabularies]
    if sizes:
        heading("b, V, otkit ms, released ms, released / otkit, gradients apart")
    for b, V in sizes:
        times.append(compared(b, V, args.seconds))
        print_times(times[-1])
    print()
    heading("loss, rows, V, memory / logits, seconds")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in args.losses:
            row = pool.apply(memory, (name, args.rows, args.entries))
            memories.append(row)
            line(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()))
    about = described(args, "otkit", "torch", "numba") | {"threads": torch.get_num_threads()}
    save(args.json, about | {"times": times, "memory": memories})


if __name__ == "__main__":
    main()
