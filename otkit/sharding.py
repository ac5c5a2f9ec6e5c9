"""The public function `sharded`: calls whose work is shared by several processes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@contextmanager
def sharded(group: ProcessGroup | None = None) -> Generator[None]:
    """Share the work of the calls in a context between the processes of `torch.distributed`.

    Every process makes the same calls with the same data, and gets the same results. Each computes a share of the rows
    of Sinkhorn's softmins, of c-transforms and of sums over a plan. Messages have n + m numbers, and memory is that of
    one process. "auto" chooses `Sinkhorn` with a `reg`, and `Annealing` with an `rtol`.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The processes; by default all. Gloo is tested. NCCL takes the same way, with arrays of the host sent by way of
        the current device, and is untested.

    Raises
    ------
    ValueError
        If `torch.distributed` is not initialised, or this process is not in the group. Of a call in the context: if the
        data differ between processes, or it has what cannot be shared: another method, costs on a grid or of a sparse
        matrix, `pairwise`, or a `time_limit`, at which processes would stop after different steps.

    Notes
    -----
    Results agree with those of one process up to rounding: sums over rows are in another order. Sweeps visit all
    entries, where those of one process leave out what does not matter at their tolerance. An iteration of several
    processes evaluates each cost twice, where that of one does so once: more than two are needed for a gain. The range
    of the costs, the correction of rounded plans and gradients by the costs are the work of every process.

    A process that takes another path leaves the others waiting until the time limit of the group: by an error, Ctrl-C
    or a callback on it alone, or by processors whose last digits differ. What a result computes on first use, such as
    its bounds, is shared too: read it on all processes, or after the context.

    Examples
    --------
    >>> import torch.distributed as dist
    >>> import otkit
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> with otkit.sharded():
    ...     result = otkit.solve_sample([[0.0], [2.0]], [[1.0], [5.0]], reg=0.1, method="sinkhorn")
    >>> result.converged
    True
    >>> dist.destroy_process_group()
    """
    from otkit.kernels.torch import within  # with PyTorch, an optional library

    with within(group):
        yield
