"""Exact matchings of predictions and targets, for all items of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otkit.kernels import threads
from otkit.kernels.numba import matching as kernels
from otkit.losses.tensors import check_tensor

Matching = tuple[Tensor, Tensor]

# Costs of a problem that are read in the time of one exponential: most are read about once.
_PER_EXPONENTIAL = 4
# The largest number of parts of a batch that threads share.
_PARTS = 64


def match(costs: Tensor | Sequence[Tensor], sizes: Sequence[int] | Tensor | None = None) -> list[Matching]:
    """The matching of least total cost between the predictions and the targets of each item of a batch.

    Parameters
    ----------
    costs : Tensor (batch, queries, targets) or list of Tensor (queries, targets)
        A tensor has the targets of all items one after the other, as the matchers of DETR and its successors compute
        it. A list has a matrix of any size for each item. inf forbids a pair.
    sizes : list of int or Tensor of int (batch,), optional
        The numbers of targets of the items, for a tensor: their sum is its last axis.

    Returns
    -------
    list of (Tensor of int (k,), Tensor of int (k,))
        For each item the indices of matched queries, in increasing order, and of their targets, counted from the first
        of the item. k is the smaller of the two numbers.

    Raises
    ------
    ValueError, TypeError
        If shapes and sizes do not fit together, a cost is NaN or −inf, or an item has no matching of finite cost.

    Notes
    -----
    Shortest augmenting paths (Jonker and Volgenant 1987; Crouse 2016, as in `scipy.optimize.linear_sum_assignment`), in
    float64 on the CPU, with the items shared by threads. Costs are read where they are, in float32 or float64. The
    matching has no gradient: the losses of the pairs have.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import match
    >>> costs = torch.tensor([[[0.9, 0.1, 0.5], [0.2, 0.8, 0.5]], [[0.3, 0.3, 0.7], [0.3, 0.3, 0.4]]])
    >>> match(costs, [2, 1])
    [(tensor([0, 1]), tensor([1, 0])), (tensor([1]), tensor([0]))]
    """
    blocks = _blocks(costs, sizes)
    number = np.concatenate([np.empty(0, np.int64), *(block.few for block in blocks)])
    starts = np.append(0, number.cumsum())
    queries, targets = np.empty((2, starts[-1]), dtype=np.int64)
    flags = np.zeros(number.size, dtype=np.int64)
    parts, first = [], 0
    for C, ends in blocks:
        count = len(ends) - 1
        step = max(1, -(-count // _PARTS))
        given = C, ends, starts[first:], queries, targets, flags[first : first + count]
        parts += [(*given, low, min(low + step, count)) for low in range(0, count, step)]
        first += count
    work = sum(C.shape[1] * int(ends[-1]) for C, ends in blocks) // _PER_EXPONENTIAL
    threads.each(lambda part: kernels.match(*part), parts, work)
    if flags.any():
        _complain(int(flags.argmax()), flags, blocks)
    device = costs.device if isinstance(costs, Tensor) else costs[0].device if costs else None
    both = (torch.from_numpy(v).to(device).split(number.tolist()) for v in (queries, targets))
    return list(zip(*both, strict=True))


class _Block(NamedTuple):
    """Costs ``(B, queries, targets)`` of items whose targets are one after the other, and where these begin and end."""

    C: np.ndarray
    ends: np.ndarray

    @property
    def few(self) -> np.ndarray:
        """The number of pairs of each item."""
        return np.minimum(np.diff(self.ends), self.C.shape[1])


def _complain(item: int, flags: np.ndarray, blocks: list[_Block]) -> None:
    if flags[item] == kernels.INFEASIBLE:
        raise ValueError(
            f"each item must have a matching of finite cost, got too many inf in item {item}; give forbidden pairs a "
            "large cost instead"
        )
    found = [C[k, :, ends[k] : ends[k + 1]] for C, ends in blocks for k in range(len(ends) - 1)][item]
    raise ValueError(
        f"costs must be numbers, or inf to forbid a pair, got {found[~(found > -np.inf)][0]} in item {item}; look for "
        "it in predictions and boxes"
    )


def _blocks(costs: Tensor | Sequence[Tensor], sizes: Sequence[int] | Tensor | None) -> list[_Block]:
    """The costs of all items, of a tensor or of each in a list."""
    if isinstance(costs, Tensor):
        check_tensor("costs", costs)
        numbers = (
            [] if sizes is None else sizes.tolist() if isinstance(sizes, Tensor) else [int(size) for size in sizes]
        )
        fits = costs.ndim == 3 and len(numbers) == len(costs) and sum(numbers) == costs.shape[-1]
        if not fits or min(numbers, default=0) < 0:
            raise ValueError(
                "costs must have shape (batch, queries, targets of all items), with a size for each item whose sum are "
                f"the targets, got {tuple(costs.shape)} and sizes={numbers}; pass a list of matrices for other forms"
            )
        return [_Block(_array(costs), np.array([0, *numbers]).cumsum())]
    if sizes is not None:
        raise ValueError(f"sizes belong to a tensor of costs, got sizes={sizes} and a list; leave sizes out")
    for k, C in enumerate(costs):
        check_tensor(f"costs[{k}]", C)
        if C.ndim != 2:
            raise ValueError(f"costs[{k}] must have shape (queries, targets), got {tuple(C.shape)}; pass matrices")
    return [_Block(_array(C)[None], np.array([0, C.shape[1]])) for C in costs]


def _array(costs: Tensor) -> np.ndarray:
    v = costs.detach().cpu()
    return np.ascontiguousarray((v if v.dtype == torch.float32 else v.double()).numpy())
