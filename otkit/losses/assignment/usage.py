"""Diagnostics of collapse: the prototypes in use, and the gain of a loss over constant predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otkit.losses import processes
from otkit.losses.tensors import check_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Usage:
    """The use of prototypes by a set of assignments.

    Attributes
    ----------
    shares : Tensor (K,)
        The share of each prototype in all that is assigned.
    taken : Tensor (K,)
        The number of samples that have it as their label.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import prototype_usage
    >>> usage = prototype_usage(torch.tensor([0, 1, 1, 0]), 4)
    >>> usage.shares.tolist(), usage.taken.tolist()
    ([0.5, 0.5, 0.0, 0.0], [2, 2, 0, 0])
    """

    shares: Tensor
    taken: Tensor

    @property
    def entropy(self) -> float:
        """The entropy of the shares in nats, from 0, where one prototype has all, to ln K."""
        return float(torch.special.entr(self.shares).sum())

    @property
    def dead(self) -> int:
        """The number of prototypes that are the label of no sample."""
        return int((self.taken == 0).sum())

    def gain(self, loss: float | Tensor) -> float:
        """The difference of ln K, the cross-entropy of uniform predictions, and the loss; near 0 means collapse."""
        return math.log(self.shares.numel()) - float(loss.detach() if isinstance(loss, Tensor) else loss)

    def __str__(self) -> str:
        count = self.shares.numel()
        return f"{count - self.dead} of {count} prototypes in use, entropy {self.entropy:.3f} of {math.log(count):.3f}"


@torch.no_grad()
def prototype_usage(
    assignments: Tensor, n_prototypes: int | None = None, *, group: ProcessGroup | None = None
) -> Usage:
    """The use of prototypes by assignments, or by predictions.

    Parameters
    ----------
    assignments : Tensor (..., N, K), or labels of int64 (..., N)
        The result of `otkit.losses.assign`, or ``(scores / temperature).softmax(-1)``. Samples that are assigned to
        nothing, and negative labels, do not count.
    n_prototypes : int, optional
        The number of prototypes K; needed for labels.
    group : torch.distributed.ProcessGroup, optional
        The processes that share the samples; by default all, once `torch.distributed` is initialised.

    Returns
    -------
    Usage
        The attributes `shares`, `taken`, `entropy` and `dead`, and the method `gain(loss)`; `str` is one line.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import prototype_usage
    >>> print(prototype_usage(torch.tensor([0, 1, 1, 0]), 4))
    2 of 4 prototypes in use, entropy 0.693 of 1.386
    """
    check_tensor("assignments", assignments, floating=False)
    hard = not assignments.is_floating_point()
    if hard and n_prototypes is None:
        raise ValueError("n_prototypes must be given with labels, which do not tell how many there are; pass it")
    if not hard and (assignments.ndim < 2 or assignments.shape[-1] == 0):
        raise ValueError(
            f"assignments must have shape (..., N, K), K > 0, got {tuple(assignments.shape)}; pass labels as integers"
        )
    count = n_prototypes if n_prototypes is not None else assignments.shape[-1]
    if hard and assignments.numel() and int(assignments.max()) >= count:
        raise ValueError(f"labels must be below n_prototypes={count}, got {int(assignments.max())}; raise n_prototypes")
    if not hard and assignments.shape[-1] != count:
        raise ValueError(
            f"assignments must be to n_prototypes={count}, got {tuple(assignments.shape)}; leave n_prototypes out"
        )
    rows = assignments.reshape(-1, 1 if hard else count)
    labels = rows[:, 0] if hard else rows.argmax(-1).where(rows.sum(-1) > 0, -1)
    taken = torch.bincount(labels[labels >= 0], minlength=count).double()
    both = processes.total(torch.stack([taken if hard else rows.sum(0, dtype=torch.float64), taken]), group)
    if not both[0].sum() > 0:
        raise ValueError("assignments must have a sample that is assigned to something, got none; skip such batches")
    return Usage(both[0] / both[0].sum(), both[1].long())
