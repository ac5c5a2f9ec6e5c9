"""Sums over the processes of a group; what one process holds, where there is no group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def size(group: ProcessGroup | None) -> int:
    """How many processes take part: 1 where `torch.distributed` is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        if group is not None:
            raise ValueError("group needs torch.distributed to be initialised; initialise it, or leave group out")
        return 1
    count = dist.get_world_size(group)
    if count < 1:
        raise ValueError("this process must belong to group, and does not; call only on the members of the group")
    return count


def total(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of `x` over the processes, in one collective; it may lie in the memory of `x`."""
    if size(group) > 1:
        dist.all_reduce(x, dist.ReduceOp.SUM, group=group)
    return x


def logsumexp(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The log of the sum of exp(x) over the processes, in two collectives; inf where one of them has inf."""
    if size(group) == 1:
        return x
    largest = x.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    shift = torch.where(largest.isfinite(), largest, 0.0)
    return total((x - shift).exp(), group).log() + shift


def mean(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The mean of the values of all processes, as the average of gradients over the processes needs it.

    The gradient is that of the sum of this process's values, times the number of processes, over the number of all
    values: however unequal their numbers, the average over the processes is the gradient of the mean.
    """
    count = size(group)
    if count == 1:
        return values.mean()
    share = values.sum()
    sums = total(torch.stack([share.detach(), share.new_tensor(float(values.numel()))]), group)
    share = share * count / sums[1]
    return share + (sums[0] / sums[1] - share.detach())
