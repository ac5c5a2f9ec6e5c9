"""Assignments of samples to prototypes in balanced shares: the targets of SwAV, DINOv2, SIGMA and similar methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from otkit import checks
from otkit.losses import processes
from otkit.losses.assignment.balance import ScaledScores, Shares, balance
from otkit.losses.chunks import upcast
from otkit.losses.tensors import as_mask, check_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

IGNORED = -100  # the label that torch's cross-entropy ignores

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sigma": MappingProxyType({"reg": 0.05, "n_iters": 10, "hard": True}),
        "swav": MappingProxyType({"reg": 0.05, "n_iters": 3}),
        "dinov2": MappingProxyType({"reg": 0.07, "n_iters": 3}),
        "capi": MappingProxyType({"reg": 0.06, "n_iters": 3}),
        "sela": MappingProxyType({"reg": 0.04, "n_iters": 1000, "tol": 1e-4, "hard": True}),
        "p2ot": MappingProxyType({"reg": 0.1, "n_iters": 1000, "tol": 1e-5, "unbalanced": 1.0}),
    }
)
"""Options of `assign` as in the methods of these names; ``assign(scores, **PRESETS["swav"])``."""


def assign(
    scores: Tensor,
    *,
    reg: float = 0.05,
    n_iters: int = 3,
    tol: float | None = None,
    prior: Tensor | None = None,
    sample_weights: Tensor | None = None,
    unbalanced: float = math.inf,
    mass: float = 1.0,
    mask: Tensor | None = None,
    hard: bool = False,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Assign samples to prototypes by Sinkhorn iterations, so that each prototype gets its share of them.

    Parameters
    ----------
    scores : Tensor (..., N, K)
        Similarities of N samples and K prototypes, in any unit. Leading axes are assigned one by one. -inf forbids a
        prototype to a sample.
    reg : float
        The regularisation, in units of the scores: the temperature of the assignments.
    n_iters : int
        The number of iterations, prototypes first and samples last. With a `tol`, their largest number. Where they fall
        short of it, Newton steps take their place.
    tol : float, optional
        The L1 error of the masses of the prototypes, and of the unassigned part, of total 1, to stop at. Below 4e-6,
        which float32 cannot reach, it is raised to that.
    prior : Tensor (..., K), optional
        The shares of the prototypes, of any total; equal by default.
    sample_weights : Tensor (..., N), optional
        The weights of the samples, of any total; equal by default. A sample of weight 2 counts as two equal samples. A
        sample of weight 0 is assigned and does not count.
    unbalanced : float
        The penalty of a unit of KL divergence of the masses of the prototypes from the prior, in units of the scores.
        With inf the prior is met.
    mass : float
        The part of the weight of the samples that is assigned, in (0, 1]. Samples with low scores are assigned less.
    mask : Tensor (..., N), optional
        True, or not 0, where a sample takes part; the others are assigned to nothing, whatever their scores are.
    hard : bool
        Return for each sample the prototype that gets most of it, and -100 where there is none.
    group : torch.distributed.ProcessGroup, optional
        The processes that share the samples, each with any number of them. By default all, once `torch.distributed` is
        initialised, and otherwise this one.

    Returns
    -------
    Tensor (..., N, K)
        The parts of each sample that the prototypes get. Rows sum to 1, or with a `mass` to the part of the sample that
        is assigned. In float32, or float64 for scores in float64. With `hard`, labels (..., N) of int64.

    Raises
    ------
    ValueError
        If an option makes no sense, or a sample has no finite score for a prototype with a share.

    Warns
    -----
    otkit.ConvergenceWarning
        If `tol` was not reached in `n_iters` iterations.

    Notes
    -----
    The plan of the transport between samples and prototypes with the scores as negative costs (Cuturi 2013; Caron et
    al. 2020), computed in the log domain. No score overflows, and after any number of iterations the result is that of
    plain iterations. Penalties and parts are those of P²OT (Zhang et al. 2024): one more prototype gets the unassigned
    part. Assignments have no gradient. The memory is about that of the result, also with `hard`. A process takes part
    in ``n_iters`` + 1 collectives of K numbers for each leading axis, with a `tol` in one more, and in a Newton step in
    one for each product with its matrix, which takes two passes as an iteration does.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import PRESETS, assign
    >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.5]])
    >>> assign(scores, reg=0.1, n_iters=50)
    tensor([[0.9071, 0.0929],
            [0.5693, 0.4307],
            [0.0236, 0.9764]])
    >>> assign(scores, **PRESETS["sigma"])
    tensor([0, 0, 1])
    """
    check_options(reg, n_iters, tol, unbalanced, mass)
    _check_scores(scores, prior, sample_weights, mask)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    if 1 / reg > torch.finfo(dtype).max:
        raise ValueError(
            f"reg must have a reciprocal in {dtype}, got {reg!r}; divide both scores and reg by the range of the scores"
        )
    plain = prior is None and sample_weights is None and mask is None and tol is None
    if plain and mass == 1 and unbalanced == math.inf and processes.size(group) == 1:
        found = _at_once(scores, reg, n_iters, hard)
        if found is not None:
            return found
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        shares = Shares(_shares(scores, prior, mass, dtype), reg / unbalanced, 1 - mass)
        mask, weights = _samples(scores, mask, sample_weights, dtype)
        scaled = ScaledScores(_flat(scores, 2), reg, shares.values, weights, mask)
        tol = tol and max(tol, 32 * torch.finfo(dtype).eps)
        v = balance(scaled, shares, n_iters, tol, group)
        result = scaled.labels(v, IGNORED) if hard else scaled.assignments(v)
    return result.reshape(scores.shape[:-1] if hard else scores.shape)


def _at_once(scores: Tensor, reg: float, n_iters: int, hard: bool) -> Tensor | None:
    """The assignments of samples to equal shares by one compiled call on the host; None where that cannot be."""
    if scores.device.type != "cpu" or torch.compiler.is_compiling() or 0 in scores.shape:
        return None
    from otkit.kernels.numba.shares import assigned

    given = np.ascontiguousarray(upcast(scores.detach()).resolve_neg().numpy())
    shape = given.shape
    found = assigned(given.reshape(-1, *shape[-2:]), 1 / reg, n_iters, hard)
    return None if found is None else torch.from_numpy(found.reshape(shape[:-1] if hard else shape))


def _flat(x: Tensor, axes: int) -> Tensor:
    """`x` with one leading axis before the last `axes`."""
    return x[None] if x.ndim == axes else x.flatten(0, -axes - 1)


def _shares(scores: Tensor, prior: Tensor | None, mass: float, dtype: torch.dtype) -> Tensor:
    """The shares of the prototypes, and of the unassigned part if there is one, (B, C)."""
    given = torch.ones(scores.shape[-1]) if prior is None else prior.detach()
    given = given.to(scores.device, dtype).expand(*scores.shape[:-2], scores.shape[-1])
    shares = _flat(given, 1)
    shares = mass * shares / shares.sum(-1, keepdim=True)
    return shares if mass == 1 else torch.nn.functional.pad(shares, (0, 1), value=1 - mass)


def _samples(
    scores: Tensor, mask: Tensor | None, sample_weights: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """The mask of the samples, if there is one, and their weights; both (B, N)."""
    weights = torch.ones((), dtype=dtype, device=scores.device) if sample_weights is None else sample_weights.detach()
    weights = _flat(weights.to(scores.device, dtype).expand(scores.shape[:-1]), 1)
    if mask is None:
        return None, weights
    mask = _flat(as_mask("mask", mask).to(scores.device).expand(scores.shape[:-1]), 1)
    return mask, weights.masked_fill(~mask, 0)


def check_options(reg: float, n_iters: int, tol: float | None, unbalanced: float, mass: float) -> None:
    """Complain about options of `assign` that make no sense."""
    checks.positive(reg, "reg")
    checks.positive(tol, "tol")
    if isinstance(n_iters, bool) or not isinstance(n_iters, int) or n_iters < 1:
        raise ValueError(f"n_iters must be a whole number, 1 or more, got {n_iters!r}; 3 is usual")
    if not unbalanced > 0:
        raise ValueError(
            f"unbalanced must be positive, got {unbalanced!r}; with the penalty 0 the assignments are "
            "(scores / reg + prior.log()).softmax(-1)"
        )
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be a part of the whole, in (0, 1], got {mass!r}; 1 assigns all samples")


def _check_scores(scores: Tensor, prior: Tensor | None, sample_weights: Tensor | None, mask: Tensor | None) -> None:
    """Complain about scores that cannot be assigned, and about priors, weights and masks that do not fit them."""
    check_tensor("scores", scores)
    checks.no_transform(scores, "scores")
    if scores.ndim < 2 or 0 in (scores.shape[-1], *scores.shape[:-2]):
        raise ValueError(
            f"scores must have shape (..., N, K), samples by prototypes, with K > 0, got {tuple(scores.shape)}; "
            "scores[None] is one sample"
        )
    *lead, n, k = scores.shape
    for name, x in (("prior", prior), ("sample_weights", sample_weights), ("mask", mask)):
        if x is not None:
            check_tensor(name, x, floating=False)
            _check_fits(name, x, (*lead, k if name == "prior" else n))
    for name, x in (("prior", prior), ("sample_weights", sample_weights)):
        if x is not None and not ((x >= 0) & x.isfinite()).all():
            came = f"values from {x.min():g} to {x.max():g}"
            raise ValueError(f"{name} must be finite and not negative, got {came}; 0 is for those without a share")
    if prior is not None and not (prior.sum(-1) > 0).all():
        raise ValueError("prior must leave a share to some prototype, got only zeros; leave it out for equal shares")


def _check_fits(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Complain about a tensor that does not broadcast to a shape."""
    fits = 0 < x.ndim <= len(shape) and x.shape[-1] == shape[-1]
    if not fits or any(k not in (1, n) for k, n in zip(x.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(
            f"{name} must have shape {shape}, as the scores, or broadcast to it, got {tuple(x.shape)}; pass it for the "
            "same samples"
        )
