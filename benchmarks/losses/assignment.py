"""`otkit.losses.assign` beside the loops of released codes; run ``python benchmarks/losses/assignment.py``.

Prints a Markdown table: medians of the time and the peak of memory beyond the scores. The calls take turns in one
process. Memory is measured in a process for each. The loops are those of SwAV (in place), of SIGMA (which keeps
copies), and one in the log-domain. Before anything is timed, all are checked against the last in float64.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, peak_memory, save, timed
from compare.tables import heading, line

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


def check(scores, problem):
    """All calls agree."""
    wanted = logs(scores.double(), *problem)
    for name, call in CALLS.items():
        off = float((call(scores, *problem) - wanted).abs().max())
        assert off < 1e-5, f"{name} is off by {off}"


def main():
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=4096)
    options.add_argument("--prototypes", type=int, default=3000)
    options.add_argument("--reg", type=float, default=0.05)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--repeat", type=int, default=7)
    args = options.parse_args()
    shape, problem = (args.samples, args.prototypes), (args.reg, args.rounds)
    scores = cosines(*shape)
    check(scores[:256], problem)
    calls = {name: partial(timed, call, scores, *problem) for name, call in CALLS.items()}
    times = {name: median(s for _, s in found) for name, found in in_turns(calls, args.repeat).items()}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(grown, (name, shape, *problem)) for name in CALLS}
    print(f"{shape[0]} × {shape[1]}, float32, reg={args.reg}, {args.rounds} rounds, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    heading(", time s, memory beyond the scores / scores")
    for name in CALLS:
        line(name, f"{times[name]:.3f}", f"{memory[name]:.2f}")
    rows = [{"name": name, "seconds": times[name], "memory": memory[name]} for name in CALLS]
    about = described(args, "otkit", "torch", "numba") | {"threads": torch.get_num_threads()}
    save(args.json, about | {"rows": rows})


if __name__ == "__main__":
    main()
