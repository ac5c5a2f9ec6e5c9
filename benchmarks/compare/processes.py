"""Sinkhorn iterations and a certificate shared by processes; run ``python benchmarks/compare/processes.py``.

Each process runs on one thread, and messages go by gloo. Prints the seconds of the slowest process, and the largest
difference of its bounds to those of one process alone, relative to the bound.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from contextlib import nullcontext


def measured(rank, count, folder, n, queue):
    """Put the seconds of both calls and their bounds into the queue."""
    os.environ["OTKIT_NUM_THREADS"] = "1"
    import numpy as np
    import torch

    import otkit

    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/{count}", count)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)

    def both(n):
        rng = np.random.default_rng(0)
        x, y = rng.random((n, 3)), rng.random((n, 3)) ** 2
        with otkit.sharded() if count > 1 else nullcontext():
            began = time.perf_counter()
            result = otkit.solve_sample(x, y, reg=0.01, method=otkit.Sinkhorn(n_iters=10))
            f = result.f
            solved = time.perf_counter()
            found = otkit.certify(x, y, f=f, reg=0.01)
            return solved - began, time.perf_counter() - solved, found.lower, found.upper

    both(1000)  # compilation
    queue.put(both(n))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=float, default=1e4)
    arguments = parser.parse_args()
    alone, context = None, multiprocessing.get_context("spawn")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            queue, n = context.Queue(), int(arguments.size)
            processes = [context.Process(target=measured, args=(k, count, folder, n, queue)) for k in range(count)]
            for process in processes:
                process.start()
            found = [queue.get() for _ in processes]
            for process in processes:
                process.join()
        solved, certified = (max(times) for times in zip(*(one[:2] for one in found), strict=True))
        alone = alone or found[0]
        difference = max(abs(one[k] / alone[k] - 1) for one in found for k in (2, 3))
        spent = f"solve {solved:.2f} s, certify {certified:.2f} s"
        print(f"{count} processes: {spent}, difference {difference:.0e}", flush=True)
