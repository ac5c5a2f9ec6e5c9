"""`otkit.losses.assign` beside the loops of released codes; run ``python benchmarks/losses/assignment.py``.

Prints two Markdown tables: medians of times, and peaks of memory beyond the scores. The calls take turns in one
process. Memory is measured in a process for each. Scores are cosines, or normal with some standard deviation; the range
of the latter is a wide one beside `--reg`. The loops are those of SwAV (in place), of SIGMA (which keeps copies), and
one in the log-domain. All are checked against the last in float64 before they are timed. The exponentials of a loop may
overflow; its time is in brackets then.
"""

import math
import multiprocessing
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, peak_memory, save, timed
from compare.tables import heading, human, line

from otkit.losses import assign


def swav(scores, reg, n_iters):
    Q = torch.exp(scores / reg).t()
    Q /= Q.sum()
    prototypes, samples = Q.shape
    for _ in range(n_iters):
        Q /= Q.sum(1, keepdim=True)
        Q /= prototypes
        Q /= Q.sum(0, keepdim=True)
        Q /= samples
    Q *= samples
    return Q.t()


def sigma(scores, reg, n_iters):
    Q = torch.exp(scores / reg).t()
    Q = Q / Q.sum()
    prototypes, samples = Q.shape
    u, r, c = Q.sum(1), torch.full((prototypes,), 1 / prototypes), torch.full((samples,), 1 / samples)
    for _ in range(n_iters):
        Q = Q * (r / u)[:, None]
        Q = Q * (c / Q.sum(0))[None]
        u = Q.sum(1)
    return (Q / Q.sum(0, keepdim=True)).t()


def logs(scores, reg, n_iters):
    L, f = scores / reg, 0.0
    for _ in range(n_iters):
        g = -(L + f).logsumexp(0, keepdim=True)
        f = -(L + g).logsumexp(1, keepdim=True)
    return (L + f + g).exp()


def otkit(scores, reg, n_iters):
    return assign(scores, reg=reg, n_iters=n_iters)


SIZES = [(64, 30), (64, 300), (512, 3000), (4096, 3000)]
DEVIATIONS = [0.0, 0.2, 0.5, 1.0, 3.0]
CALLS = {"otkit": otkit, "in place (SwAV)": swav, "with copies (SIGMA)": sigma, "log-domain": logs}


def cosines(samples, prototypes, dim=128):
    generator = torch.Generator().manual_seed(0)
    x, c = (normalize(torch.randn(n, dim, generator=generator), dim=1) for n in (samples, prototypes))
    return x @ c.t()


def grown(name, shape, reg, n_iters):
    """The memory beyond the scores, in units of the scores, in a process of its own."""
    scores = cosines(*shape)
    CALLS[name](scores[:16, :16].contiguous(), reg, 1)
    before = peak_memory()
    CALLS[name](scores, reg, n_iters)
    return (peak_memory() - before) / scores.nbytes


def normal(samples, prototypes, deviation):
    return torch.randn(samples, prototypes, generator=torch.Generator().manual_seed(0)) * deviation


def overflows(name, scores, problem, wanted):
    """Whether the result is not finite; an error if it is finite and wrong, or otkit's is not finite."""
    found = CALLS[name](scores, *problem)
    if not found.isfinite().all() and name != "otkit":
        return True
    off, range_of = float((found - wanted).abs().max()), float(scores.max() - scores.min())
    assert off < max(1e-5, 3 * torch.finfo(scores.dtype).eps * range_of / problem[0]), f"{name} is off by {off}"
    return False


def rows_of(shape, deviation, problem, repeat):
    """The records of all calls on scores of one kind."""
    scores = normal(*shape, deviation) if deviation else cosines(*shape)
    kind = f"normal, {deviation:g}" if deviation else "cosines"
    wanted = logs(scores.double(), *problem)
    bad = {name: overflows(name, scores, problem, wanted) for name in CALLS}
    calls = {name: partial(timed, call, scores, *problem) for name, call in CALLS.items()}
    times = {name: median(s for _, s in found) for name, found in in_turns(calls, repeat).items()}
    shown = [f"({human(times[name])})" if bad[name] else human(times[name]) for name in CALLS]
    line(f"{shape[0]} × {shape[1]}", kind, f"{float(scores.max() - scores.min()) / problem[0]:.0f}", *shown)
    return [
        {"shape": shape, "scores": kind, "name": name, "seconds": times[name], "overflow": bad[name]} for name in CALLS
    ]


def main():
    options = parser(__doc__)
    options.add_argument("--reg", type=float, default=0.05)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--repeat", type=int, default=7, help="turns at the largest size; smaller ones take more")
    args = options.parse_args()
    problem, rows = (args.reg, args.rounds), []
    print(f"float32, reg={args.reg}, {args.rounds} rounds, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    heading(", ".join(["size", "scores", "range / reg", *CALLS]))
    for shape in SIZES:
        turns = args.repeat * min(20, math.prod(SIZES[-1]) // math.prod(shape))
        for deviation in DEVIATIONS:
            rows += rows_of(shape, deviation, problem, turns)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(grown, (name, SIZES[-1], *problem)) for name in CALLS}
    print()
    heading(f"{SIZES[-1][0]} × {SIZES[-1][1]}, memory beyond the scores / scores")
    for name in CALLS:
        line(name, f"{memory[name]:.2f}")
    about = described(args, "otkit", "torch", "numba") | {"threads": torch.get_num_threads()}
    save(args.json, about | {"rows": rows, "memory": memory})


if __name__ == "__main__":
    main()
