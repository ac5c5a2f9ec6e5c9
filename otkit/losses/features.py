"""Distillation of features: the distance of the Gaussians that fit them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import wide
from otkit.losses.rowwise import Stats
from otkit.losses.targets import REDUCTIONS, check_reduction, one_of, reduced


class GaussianFeatureLoss(nn.Module):
    """The distance of means and of covariances of a student's features from those of its teacher.

    Parameters
    ----------
    covariance : {"diagonal", "full"}
        "diagonal": the distance of the standard deviations. "full": the Bures distance of the covariances, so that the
        sum of squares would be the squared 2-Wasserstein distance of the two Gaussians.
    gamma : float
        The factor of the distance of the means.
    reduction : {"mean", "sum", "none"}
        What becomes of the batch.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    WKD-F of Lv et al. (2024): ``γ·‖μ_s − μ_t‖ + ‖σ_s − σ_t‖``. The full covariance is never formed where there are
    fewer positions than features: with the centred features X and Y, over the roots of their numbers, the squared
    Bures distance is ‖X‖² + ‖Y‖² − 2·‖X·Yᵀ‖_*, the last the sum of singular values.

    Distances at 0 have the gradient 0. The teacher gets none. Half precision is computed in float32, also under
    autocast. Bring the student's features to the size of the teacher's by a linear layer of its own.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import GaussianFeatureLoss
    >>> x = torch.tensor([[[0.0], [2.0]]])
    >>> round(float(GaussianFeatureLoss(gamma=0.5)(x, 3 * x + 1)), 4)
    3.5
    """

    def __init__(self, covariance: str = "diagonal", gamma: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        one_of("covariance", covariance, ("diagonal", "full"))
        one_of("reduction", reduction, REDUCTIONS)
        checks.positive(gamma, "gamma")
        self.covariance, self.gamma, self.reduction = covariance, gamma, reduction

    @arrays.eager
    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        *,
        teacher_mask: Tensor | None = None,
        num_items_in_batch: Tensor | float | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Stats]:
        """The loss of a batch.

        Parameters
        ----------
        student : Tensor (batch, positions, d)
        teacher : Tensor (batch, positions', d)
            The features; of a feature map (batch, d, height, width) pass ``map.flatten(2).mT``.
        mask, teacher_mask : Tensor (batch, positions), (batch, positions'), optional
            0 where a position takes no part, whatever is in it; the teacher's is by default the student's.
        num_items_in_batch : int or Tensor, optional
            What a mean divides by in place of the batch.
        return_stats : bool
            Whether to return statistics too.

        Returns
        -------
        Tensor
            A number, or ``(batch,)`` without a reduction. An item without any position has the loss 0.
        dict of str to Tensor
            With `return_stats`: the mean distances, "mean" of the means and "covariance".

        Raises
        ------
        ValueError
            If shapes do not fit together.
        """
        if student.ndim != 3 or teacher.ndim != 3 or student.shape[::2] != teacher.shape[::2]:
            raise ValueError(
                "student and teacher must have shapes (batch, positions, d) with the same batch and d, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}; a linear layer brings the student to d"
            )
        check_reduction(self.reduction, num_items_in_batch)
        if teacher_mask is None and student.shape == teacher.shape:
            teacher_mask = mask
        with torch.autocast(student.device.type, enabled=False):
            mean_s, x, there_s = _centred(wide(student), mask, "mask")
            mean_t, y, there_t = _centred(wide(teacher.detach()), teacher_mask, "teacher_mask")
            means = torch.linalg.vector_norm(mean_s - mean_t, dim=-1)
            spreads = (_bures if self.covariance == "full" else _deviations)(x, y)
            both = there_s & there_t
            values = torch.where(both, self.gamma * means + spreads, 0.0)
            loss = reduced(values, None, self.reduction, num_items_in_batch)
        if not return_stats:
            return loss
        parts = {"mean": means, "covariance": spreads}
        return loss, {name: torch.where(both, v.detach(), 0.0).mean() for name, v in parts.items()}

    def extra_repr(self) -> str:
        return f"covariance={self.covariance!r}, gamma={self.gamma:g}, reduction={self.reduction!r}"


def _centred(v: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The means ``(B, d)``, the features less them over the roots of their numbers, and which items have any."""
    if mask is None:
        mask = torch.ones(v.shape[:-1], dtype=torch.bool, device=v.device)
    if mask.shape != v.shape[:-1]:
        raise ValueError(f"{name} must have shape {tuple(v.shape[:-1])}, got {tuple(mask.shape)}")
    there = (mask != 0)[..., None]
    count = there.sum(-2).clamp_min(1).to(v.dtype)
    mean = torch.where(there, v, 0.0).sum(-2) / count
    centred = torch.where(there, v - mean[:, None], 0.0) / count.sqrt()[:, None]
    return mean, centred, there.any(-2)[:, 0]


def _deviations(x: Tensor, y: Tensor) -> Tensor:
    """The distances of the standard deviations of all features."""
    return torch.linalg.vector_norm(torch.linalg.vector_norm(x, dim=-2) - torch.linalg.vector_norm(y, dim=-2), dim=-1)


def _bures(x: Tensor, y: Tensor) -> Tensor:
    """The Bures distances of xᵀx and yᵀy, for centred features ``(B, n, d)`` and ``(B, m, d)``."""
    crossed = torch.linalg.matrix_norm(x @ y.mT, "nuc")
    square = (x * x).sum((-2, -1)) + (y * y).sum((-2, -1)) - 2 * crossed
    # What cancels is nothing but rounding, and its root has no gradient.
    least = 16 * torch.finfo(x.dtype).eps * ((x * x).sum((-2, -1)) + (y * y).sum((-2, -1)))
    positive = square > least
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
