"""Sinkhorn iterations and a certificate of a plan shared by processes; run ``python benchmarks/compare/processes.py``.

Each process runs on one thread, and messages go by gloo. Numbers of processes take turns. Prints medians over the
turns: the seconds of the slowest process, and of the CPU on the busiest one. The difference is that of the bounds to
those of one process alone, relative.
"""

import argparse
import os
import tempfile
import time
from contextlib import nullcontext

import torch
import torch.distributed as dist


def spent(call):
    """The result of a call, and its seconds on the clock and of the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - clock, time.process_time() - cpu


def measured(rank, folder, counts, n, turns):
    """Run all turns as one of the processes; the first one prints."""
    os.environ["OTKIT_NUM_THREADS"] = "1"
    import numpy as np

    import otkit

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", max(counts)), rank=rank, world_size=max(counts)
    )
    groups = {count: dist.new_group(list(range(count))) for count in counts}

    def turn(count, n):
        """Seconds of the solve and of the certificate on the clock and of the CPU, and the bounds."""
        rng = np.random.default_rng(0)
        x, y = rng.random((n, 16)), rng.random((n, 16)) ** 2
        every = np.arange(n)
        plan = otkit.SparseArcs(every, every, np.full(n, 1 / n), np.zeros(n, dtype=int))
        dist.barrier()
        if rank >= count:
            return None
        with otkit.sharded(groups[count]) if count > 1 else nullcontext():
            f, *solve = spent(lambda: otkit.solve_sample(x, y, reg=0.1, method=otkit.Sinkhorn(n_iters=10)).f)
            found, *certify = spent(lambda: otkit.certify(x, y, f=f, plan=plan))
            return [*solve, *certify, found.lower, found.upper]

    for count in counts:
        turn(count, 1000)  # compilation
    mine = {count: [] for count in counts}
    for _ in range(turns):
        for count in counts:
            mine[count].append(turn(count, n))
    everyone = [None] * max(counts)
    dist.all_gather_object(everyone, mine)
    if rank == 0:
        bounds = np.array(everyone[0][counts[0]][0][4:])
        for count in counts:
            rows = np.array([one[count] for one in everyone[:count]])  # process, turn, number
            seconds = np.median(rows[:, :, :4].max(0), axis=0)
            difference = abs(rows[:, :, 4:] / bounds - 1).max()
            solve, certify = (f"{a:.2f} s ({b:.2f} s of the CPU)" for a, b in (seconds[:2], seconds[2:]))
            print(f"{count} processes: solve {solve}, certify {certify}, difference {difference:.0e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=float, default=6e3)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(measured, (folder, given.counts, int(given.size), given.turns), max(given.counts))
