"""Exact matchings of predictions and targets, for all items of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from otkit.kernels import threads
from otkit.kernels.numba import matching as kernels
from otkit.losses.tensors import check_tensor

Matching = tuple[Tensor, Tensor]

# Costs of a problem that are read in the time of one exponential: most are read about once.
_PER_EXPONENTIAL = 4


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
    float64 on the CPU, with the items shared by threads. The matching has no gradient: the losses of the pairs have.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import match
    >>> costs = torch.tensor([[[0.9, 0.1, 0.5], [0.2, 0.8, 0.5]], [[0.3, 0.3, 0.7], [0.3, 0.3, 0.4]]])
    >>> match(costs, [2, 1])
    [(tensor([0, 1]), tensor([1, 0])), (tensor([1]), tensor([0]))]
    """
    matrices = _matrices(costs, sizes)
    shapes = np.array([sorted(C.shape) for C in matrices], dtype=np.int64).reshape(-1, 2)
    number = shapes.prod(-1)
    starts = np.stack([number.cumsum() - number, shapes[:, 0].cumsum() - shapes[:, 0]], -1)
    wide = [C if C.shape[0] <= C.shape[1] else C.T for C in matrices]
    flat = np.concatenate([np.empty(0), *(C.ravel() for C in wide)])
    _check_costs(flat, starts[:, 0])
    found = np.empty(shapes[:, 0].sum(), dtype=np.int64)
    parts = [(k, k + 1) for k in np.flatnonzero(number)]
    work = int(number.sum()) // _PER_EXPONENTIAL
    threads.each(lambda part: kernels.match(flat, starts, shapes, found, *part), parts, work)
    failed = np.flatnonzero((np.append(found, 0)[starts[:, 1]] < 0) & (number > 0))
    if failed.size:
        raise ValueError(
            f"each item must have a matching of finite cost, got too many inf in item {failed[0]}; give forbidden "
            "pairs a large cost instead"
        )
    item = np.repeat(np.arange(len(matrices)), shapes[:, 0])
    few = np.arange(found.size) - starts[item, 1]
    lying = np.array([C.shape[0] <= C.shape[1] for C in matrices], dtype=bool)[item]
    queries, targets = np.where(lying, few, found), np.where(lying, found, few)
    order = np.lexsort((queries, item))
    device = costs.device if isinstance(costs, Tensor) else costs[0].device if costs else None
    both = (torch.from_numpy(v[order]).to(device).split(shapes[:, 0].tolist()) for v in (queries, targets))
    return list(zip(*both, strict=True))


def _matrices(costs: Tensor | Sequence[Tensor], sizes: Sequence[int] | Tensor | None) -> list[np.ndarray]:
    """The costs of each item, in float64."""
    if isinstance(costs, Tensor):
        check_tensor("costs", costs)
        numbers = [int(size) for size in sizes] if sizes is not None else []
        fits = costs.ndim == 3 and len(numbers) == len(costs) and sum(numbers) == costs.shape[-1]
        if not fits or min(numbers, default=0) < 0:
            raise ValueError(
                "costs must have shape (batch, queries, targets of all items), with a size for each item whose sum are "
                f"the targets, got {tuple(costs.shape)} and sizes={numbers}; pass a list of matrices for other forms"
            )
        all_costs, ends = _array(costs), np.cumsum(numbers)
        return [all_costs[k, :, end - size : end] for k, (size, end) in enumerate(zip(numbers, ends, strict=True))]
    if sizes is not None:
        raise ValueError(f"sizes belong to a tensor of costs, got sizes={sizes} and a list; leave sizes out")
    for k, C in enumerate(costs):
        check_tensor(f"costs[{k}]", C)
        if C.ndim != 2:
            raise ValueError(f"costs[{k}] must have shape (queries, targets), got {tuple(C.shape)}; pass matrices")
    return [_array(C) for C in costs]


def _array(costs: Tensor) -> np.ndarray:
    return costs.detach().to("cpu", torch.float64).numpy()


def _check_costs(flat: np.ndarray, starts: np.ndarray) -> None:
    wrong = np.isnan(flat) | (flat == -np.inf)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"costs must be numbers, or inf to forbid a pair, got {flat[place]} in item "
            f"{int(np.searchsorted(starts, place, 'right')) - 1}; look for it in predictions and boxes"
        )
