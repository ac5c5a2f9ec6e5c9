"""Sums and rows over the processes of a group; without a distributed run, those of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def size(group: ProcessGroup | None) -> int:
    """The number of processes: 1 where `torch.distributed` is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        if group is not None:
            raise ValueError("group needs torch.distributed to be initialised; initialise it, or leave group out")
        return 1
    count = dist.get_world_size(group)
    if count < 1:
        raise ValueError("this process must belong to group, and does not; call only on the members of the group")
    return count


def total(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of `x` over the processes, in one collective; it may share the memory of `x`."""
    if size(group) > 1:
        dist.all_reduce(x, dist.ReduceOp.SUM, group=group)
    return x


def logsumexp(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The log of the sum of exp(x) over the processes, in two collectives; inf where one process has inf."""
    if size(group) == 1:
        return x
    largest = x.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    shift = torch.where(largest.isfinite(), largest, 0.0)
    return total((x - shift).exp(), group).log() + shift


def mean(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The mean of the values of all processes, with the gradient that averaging over processes needs.

    The gradient is that of the sum of this process's values, times the number of processes, over the number of all
    values. Its average over the processes is the gradient of the mean, however unequal the numbers of values are.
    """
    count = size(group)
    if count == 1:
        return values.mean()
    share = values.sum()
    sums = total(torch.stack([share.detach(), share.new_tensor(float(values.numel()))]), group)
    share = share * count / sums[1]
    return share + (sums[0] / sums[1] - share.detach())


def other_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows ``(…, V)`` of the processes before and after this one, detached; none without a distributed run.

    Processes may have different numbers of rows.
    """
    none = rows.detach()[:0]
    count = size(None)
    if count == 1:
        return none, none
    rank = dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(count)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    largest = max(int(number) for number in sizes)
    own = rows.new_zeros(largest, rows.shape[1])
    own[: len(rows)] = rows.detach()
    padded = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(padded, own)
    parts = [part[: int(number)] for part, number in zip(padded, sizes, strict=True)]
    return torch.cat([none, *parts[:rank]]), torch.cat([none, *parts[rank + 1 :]])
