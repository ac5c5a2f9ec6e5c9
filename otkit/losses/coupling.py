"""Couplings of minibatches for flow matching: pairs drawn in proportion to an optimal plan."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otkit import options
from otkit.api import solve, solve_sample
from otkit.losses.chunks import upcast
from otkit.losses.tensors import check_tensor
from otkit.results import Result

Labels = tuple[Tensor, Tensor]

# Up to so many pairs of samples of more entries than so many, costs are a matrix, formed once by products of matrices.
_PAIRS, _ENTRIES = 2**22, 16


class Coupling(NamedTuple):
    """Pairs of samples.

    Attributes
    ----------
    x0, x1 : Tensor (size, ...)
        The samples of each pair.
    i, j : Tensor of int (size,)
        Their indices: ``x0[i]`` and ``x1[j]`` of what was given, and so the labels of a pair, ``labels[j]``.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import coupled
    >>> pairs = coupled(torch.tensor([[0.0], [1.0]]), torch.tensor([[9.0], [8.0]]), rng=0)
    >>> sorted(zip(pairs.i.tolist(), pairs.j.tolist()))
    [(0, 1), (1, 0)]
    """

    x0: Tensor
    x1: Tensor
    i: Tensor
    j: Tensor


def coupled(
    x0: Tensor,
    x1: Tensor,
    labels: Labels | None = None,
    *,
    reg: float | None = None,
    unbalanced: float | tuple[float, float] | None = None,
    mass: float | None = None,
    metric: str = "sqeuclidean",
    size: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> Coupling:
    """Pairs of samples of two minibatches, drawn independently in proportion to an optimal transport plan.

    Parameters
    ----------
    x0 : Tensor (n, ...)
        Samples of the source, such as noise, of any shape: distances are those of all their entries.
    x1 : Tensor (m, ...)
        Samples of the target.
    labels : (Tensor of int (n,), Tensor of int (m,)), optional
        Classes of both. Only samples of one class are paired, by a plan of their own. Each class gets pairs by its
        share of `x1`.
    reg, unbalanced, metric
        As in `otkit.solve_sample`: without a `reg` the plan is the optimum, with one it is entropic. With `unbalanced`
        far samples lose mass, and are drawn seldom.
    mass : float, optional
        The share of the samples of each side, or of each class, that the plan moves, at most 1. Those whose pairs would
        cost most are left out.
    size : int, optional
        The number of pairs; by default as many as samples in `x1`.
    rng : int or numpy.random.Generator, optional
        The seed, or the generator, which advances: pass one to all steps of a training.

    Returns
    -------
    Coupling

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit together, a class is missing on one side, or an option makes no sense.

    Notes
    -----
    Tong et al. (2024), Pooladian et al. (2023). Pairs are drawn by `Result.sample`, without the matrix of the plan. The
    plan has no gradient: that of a pair is that of its samples.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import coupled
    >>> x0, x1 = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[12.0], [10.0], [11.0]])
    >>> pairs = coupled(x0, x1, rng=0)
    >>> bool((pairs.x1 - pairs.x0 == 10).all())
    True
    """
    for name, v in (("x0", x0), ("x1", x1)):
        check_tensor(name, v)
        if v.ndim < 2 or not v.numel():
            raise ValueError(f"{name} must have shape (samples, ...), got {tuple(v.shape)}; x[:, None] is of numbers")
    if x0.shape[1:] != x1.shape[1:] or x0.device != x1.device:
        raise ValueError(
            "x0 and x1 must have samples of one shape on one device, got "
            f"{tuple(x0.shape)} on {x0.device} and {tuple(x1.shape)} on {x1.device}; flatten or move them"
        )
    count, random = options.count(len(x1) if size is None else size, "size"), options.generator(rng)
    points = [upcast(v.detach()).flatten(1) for v in (x0, x1)]
    asked: dict[str, Any] = {"reg": reg, "unbalanced": unbalanced, "mass": mass}
    if labels is None:
        i, j = _solved(points[0], points[1], metric, **asked).sample(count, random)
        return Coupling(x0[i], x1[j], i, j)
    found = []
    for rows, columns, pairs in _classes(labels, points, count, random):
        i, j = _solved(points[0][rows], points[1][columns], metric, **asked).sample(pairs, random)
        found.append((rows[i], columns[j]))
    i, j = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Coupling(x0[i], x1[j], i, j)


def _solved(x0: Tensor, x1: Tensor, metric: str, **options: Any) -> Result:
    """The plan between points."""
    if metric not in ("sqeuclidean", "euclidean") or x0.shape[1] <= _ENTRIES or len(x0) * len(x1) > _PAIRS:
        return solve_sample(x0, x1, metric=metric, **options)
    # In the precision of the samples: rounding is relative to lengths from the mean, as that of their distances is.
    centre = x1.mean(0)
    x, y = x0 - centre, x1 - centre
    rows, cols = (torch.linalg.vector_norm(v, dim=1).square() for v in (x, y))
    C = torch.addmm(rows[:, None] + cols, x, y.T, alpha=-2).clamp_min_(0.0)
    return solve(C if metric == "sqeuclidean" else C.sqrt(), **options)


def _classes(
    labels: Labels, points: list[Tensor], count: int, random: np.random.Generator
) -> list[tuple[Tensor, Tensor, int]]:
    """For each class the samples of both sides, and its number of pairs, which is not 0."""
    for v, size, name in zip(labels, map(len, points), ("x0", "x1"), strict=True):
        check_tensor(f"labels of {name}", v, floating=False)
        if v.shape != (size,) or v.is_floating_point():
            raise ValueError(
                f"labels of {name} must be {size} whole numbers, got {tuple(v.shape)} of {v.dtype}; pass one for each "
                "sample, .argmax(-1) of one-hot rows"
            )
    own, other = (v.to(points[0].device) for v in labels)
    classes, number = other.unique(return_counts=True)
    missing = set(classes.tolist()) ^ set(own.unique().tolist())
    if missing:
        raise ValueError(
            f"each class must have samples on both sides, got none of {min(missing)} on one; draw the labels of x0 "
            "as a permutation of those of x1"
        )
    drawn = random.multinomial(count, number.cpu().numpy() / len(points[1]))
    return [
        ((own == c).nonzero()[:, 0], (other == c).nonzero()[:, 0], int(pairs))
        for c, pairs in zip(classes, drawn, strict=True)
        if pairs
    ]
