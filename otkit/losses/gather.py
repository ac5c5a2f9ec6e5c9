"""Rows of all processes of a distributed run."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gathered(rows: Tensor) -> tuple[Tensor, Tensor, int]:
    """The rows before and after one's own, ``(…, V)`` of all processes, without gradient, and how many processes.

    Processes may have different numbers of rows. Without a distributed run there are none but one's own.
    """
    nothing = rows.detach()[:0]
    if not (distributed.is_available() and distributed.is_initialized()):
        return nothing, nothing, 1
    count, rank = distributed.get_world_size(), distributed.get_rank()
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(count)]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    most = max(int(size) for size in sizes)
    own = rows.new_zeros(most, rows.shape[1])
    own[: len(rows)] = rows.detach()
    everyones = [torch.empty_like(own) for _ in range(count)]
    distributed.all_gather(everyones, own)
    cut = [part[: int(size)] for part, size in zip(everyones, sizes, strict=True)]
    return torch.cat([nothing, *cut[:rank]]), torch.cat([nothing, *cut[rank + 1 :]]), count
