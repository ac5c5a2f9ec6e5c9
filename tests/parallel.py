"""Processes of tests that run at once, forked from one that has imported what they need."""

from multiprocessing import forkserver

# Imports take longer than these tests. The server imports once for all, and runs nothing that would start threads.
PRELOAD = ["otkit.losses", "torch.distributed.fsdp", "torch.distributed.device_mesh", "transformers.trainer"]


def run_at_once(work, args, count):
    """Call ``work(rank, *args)`` in so many processes, and wait for all."""
    from torch.multiprocessing import start_processes

    forkserver.set_forkserver_preload(PRELOAD)
    start_processes(work, args, nprocs=count, start_method="forkserver")
