"""Losses that predict balanced assignments: swapped between views (SwAV), or between two networks (SIGMA)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from otkit import checks
from otkit.losses import processes
from otkit.losses.assignment.assign import assign, check_options
from otkit.losses.assignment.prototypes import Prototypes, alike, unit
from otkit.losses.chunks import upcast
from otkit.losses.tensors import as_mask, check_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SwappedPredictionLoss(nn.Module):
    """Each view predicts the assignments of the others: the loss of SwAV.

    Parameters
    ----------
    temperature : float
        The temperature of the predictions, softmax(scores / temperature).
    n_targets : int, optional
        The number of views that give targets, the first ones (SwAV's large crops); all by default.
    reg, n_iters, tol, prior, unbalanced, mass, hard, group
        Options of `otkit.losses.assign`, for the targets. Presets can be passed:
        ``SwappedPredictionLoss(**PRESETS["capi"])``.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Caron et al. (2020): the mean of the cross-entropies −Σ_j q_j log p_j, over all pairs of a target and another view,
    and over the samples of all processes. Processes may have different numbers of samples. All return the same value.
    The average of their gradients, which DistributedDataParallel computes, is the gradient of the value. Targets have
    no gradient. A loss that stays at ln K means that the predictions of all samples are alike.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import Prototypes, SwappedPredictionLoss
    >>> prototypes, loss = Prototypes(30, 8), SwappedPredictionLoss(n_targets=2)
    >>> views = torch.randn(6, 16, 8, requires_grad=True)
    >>> loss(prototypes(views)).backward()
    """

    prior: Tensor | None

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        n_targets: int | None = None,
        reg: float = 0.05,
        n_iters: int = 3,
        tol: float | None = None,
        prior: Tensor | None = None,
        unbalanced: float = math.inf,
        mass: float = 1.0,
        hard: bool = False,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        checks.positive(temperature, "temperature")
        checks.positive(n_targets, "n_targets")
        check_options(reg, n_iters, tol, unbalanced, mass)
        self.temperature, self.n_targets, self.group = temperature, n_targets, group
        self.options: dict[str, Any] = dict(
            reg=reg, n_iters=n_iters, tol=tol, unbalanced=unbalanced, mass=mass, hard=hard
        )
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, scores: Tensor, *, queued: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        scores : Tensor (V, N, K)
            Scores of V views of N samples for K prototypes, finite.
        queued : Tensor (A, M, K), optional
            Scores of M other samples for the A views that give targets. They take part in the assignments only.
        mask : Tensor (N,), optional
            True, or not 0, where a sample takes part.

        Returns
        -------
        Tensor
            A number.
        """
        count = self._check(scores, queued)
        mask = _mask_of(mask, (scores.shape[1],))
        if mask is not None:
            scores = scores[:, mask]
        with torch.autocast(scores.device.type, enabled=False):
            targets = self._targets(scores[:count].detach(), queued)
            return processes.mean(_cross_entropy(scores, targets, self.temperature), self.group)

    def _targets(self, scores: Tensor, queued: Tensor | None) -> Tensor:
        if queued is None:
            return assign(scores, prior=self.prior, group=self.group, **self.options)
        together = torch.cat([queued.detach().to(scores.dtype), scores], 1)
        return assign(together, prior=self.prior, group=self.group, **self.options)[:, queued.shape[1] :]

    def _check(self, scores: Tensor, queued: Tensor | None) -> int:
        check_tensor("scores", scores)
        if queued is not None:
            check_tensor("queued", queued)
        if scores.ndim != 3 or scores.shape[0] < 2:
            raise ValueError(
                f"scores must have shape (V, N, K), of 2 views or more, got {tuple(scores.shape)}; stack them"
            )
        views, _, prototypes = scores.shape
        count = views if self.n_targets is None else self.n_targets
        if count > views:
            raise ValueError(f"scores must be of n_targets={count} views or more, got {views}; lower n_targets")
        if queued is not None and (queued.ndim != 3 or queued.shape[::2] != (count, prototypes)):
            raise ValueError(
                f"queued must have shape ({count}, M, {prototypes}), got {tuple(queued.shape)}; pass the scores of "
                "queued features of each view that gives targets"
            )
        return count

    def extra_repr(self) -> str:
        options = {"temperature": self.temperature, "n_targets": self.n_targets, **self.options}
        return ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)


class SigmaLoss(nn.Module):
    """A network predicts the assignments of masked tokens, and their features predict its own: the loss of SIGMA.

    Parameters
    ----------
    prototypes : Prototypes
        The prototypes that features are assigned to; a part of this module.
    temperature, reg, n_iters, hard, **options
        As in `otkit.losses.SwappedPredictionLoss`, with the defaults of SIGMA: ten iterations, and hard targets.

    Notes
    -----
    Salehi et al. (2024). The loss is CE(video → assignments of target) + CE(target → assignments of video). The video
    network learns from the first term, in which the prototypes are detached. The prototypes and the network of the
    targets learn from the second. Pass features of a frozen network without gradients. Processes and samples are
    treated as in `otkit.losses.SwappedPredictionLoss`. Both terms share their collectives.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import Prototypes, SigmaLoss
    >>> loss = SigmaLoss(Prototypes(20, 8))
    >>> video, target = torch.randn(2, 4, 49, 8, requires_grad=True)  # clips, masked tokens, channels
    >>> loss(video, target).backward()
    """

    def __init__(
        self,
        prototypes: Prototypes,
        *,
        temperature: float = 0.1,
        reg: float = 0.05,
        n_iters: int = 10,
        hard: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.prototypes = prototypes
        self.swapped = SwappedPredictionLoss(temperature, reg=reg, n_iters=n_iters, hard=hard, **options)

    def forward(self, video: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        video : Tensor (..., d)
            The predictions of the network for the tokens that were masked from it.
        target : Tensor (..., d)
            The features of the same tokens.
        mask : Tensor (...), optional
            True, or not 0, where a token takes part.

        Returns
        -------
        Tensor
            A number.
        """
        for name, v in (("video", video), ("target", target)):
            check_tensor(name, v)
        dim = self.prototypes.weight.shape[-1]
        if video.shape != target.shape or video.ndim < 2 or video.shape[-1] != dim:
            came = f"{tuple(video.shape)} and {tuple(target.shape)}"
            raise ValueError(
                f"video and target must have one shape, (..., {dim}), got {came}; project both to the prototypes' size"
            )
        mask = _mask_of(mask, tuple(video.shape[:-1]))
        if mask is not None:
            video, target = video[mask], target[mask]
        with torch.autocast(video.device.type, enabled=False):
            directions = unit(self.prototypes.weight)
            features = torch.stack(alike(unit(video.reshape(-1, dim)), unit(target.reshape(-1, dim))))
            features, directions = alike(features, directions)
            scores = features @ torch.stack([directions.detach(), directions]).mT
        return 2 * self.swapped(scores)


def _mask_of(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """The mask as bool; complains about another shape."""
    if mask is None:
        return None
    check_tensor("mask", mask, floating=False)
    if mask.shape != shape:
        raise ValueError(f"mask must be of shape {shape}, got {tuple(mask.shape)}; pass it for the same samples")
    return as_mask("mask", mask)


def _cross_entropy(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each sample, the mean over the pairs of a target and another view, (N,)."""
    logs = (upcast(scores) / temperature).log_softmax(-1).transpose(0, 1)  # (N, V, K)
    if targets.dtype == torch.int64:
        cross = -logs.gather(-1, targets.mT[:, None].expand(-1, logs.shape[1], -1))  # (N, V, A)
    else:
        cross = -(logs @ targets.permute(1, 2, 0))
    others = ~torch.eye(*cross.shape[1:], dtype=torch.bool, device=cross.device)
    return cross[:, others].mean(-1)
