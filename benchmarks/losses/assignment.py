"""`otkit.losses.assign` beside the loops of released codes; run ``python benchmarks/losses/assignment.py``.

Prints a Markdown table: medians of the time, all in turns in one process, and the memory beyond the scores that a call
takes at its peak, each measured in a process of its own. The loops are those of SwAV (in place), of SIGMA (which keeps
copies), and one in the log-domain. Before anything is timed, all are held against the last in float64.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import normalize

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


def peak(name, shape, reg, n_iters):
    """The memory beyond the scores, in units of the scores, in a process of its own."""
    code = (
        f"import sys; sys.path.insert(0, {sys.path[0]!r}); import assignment; "
        f"print(assignment.grown({name!r}, {shape!r}, {reg!r}, {n_iters!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def grown(name, shape, reg, n_iters):
    scores = cosines(*shape)
    CALLS[name](scores[:16, :16].contiguous(), reg, 1)
    before = highest()
    CALLS[name](scores, reg, n_iters)
    return (highest() - before) / scores.nbytes


def highest():
    """The most memory that this process has had, in bytes; what getrusage says includes its parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def timed(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--reg", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    shape, problem = (options.samples, options.prototypes), (options.reg, options.rounds)
    scores = cosines(*shape)
    wanted = logs(scores[:256].double(), *problem)
    for name, call in CALLS.items():
        off = float((call(scores[:256], *problem) - wanted).abs().max())
        assert off < 1e-5, f"{name} is off by {off}"
    times = {name: [] for name in CALLS}
    for _ in range(options.repeat):
        for name, call in CALLS.items():
            times[name].append(timed(call, scores, *problem))
    rows = {name: (median(times[name]), peak(name, shape, *problem)) for name in CALLS}
    print(f"{shape[0]} × {shape[1]}, float32, reg={options.reg}, {options.rounds} rounds, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | time, s | memory beyond the scores, of theirs |\n|---|---|---|")
    for name, (seconds, memory) in rows.items():
        print(f"| {name} | {seconds:.3f} | {memory:.2f} |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
