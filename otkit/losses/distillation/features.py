"""Distillation of features by the distance of the Gaussians fitted to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import upcast
from otkit.losses.rows import REDUCTIONS, Stats, check_choice, check_reduction, reduce
from otkit.losses.tensors import check_tensor


class GaussianFeatureLoss(nn.Module):
    """The distance of means and of covariances of a student's features from those of its teacher.

    Parameters
    ----------
    covariance : {"diagonal", "full"}
        "diagonal": the distance of the standard deviations. "full": the Bures distance of the covariances; its square
        and that of the distance of the means add up to the squared 2-Wasserstein distance of the two Gaussians.
    gamma : float
        The factor of the distance of the means.
    reduction : {"mean", "sum", "none"}
        The reduction over the batch.
    check : bool
        Whether to raise where features that take part are not finite. By default the loss of that item is NaN.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    WKD-F of Lv et al. (2024): ``γ·‖μ_s − μ_t‖ + ‖σ_s − σ_t‖``. The full covariances are never formed. For the centred
    features X and Y, divided by the square roots of their numbers, the squared Bures distance is
    ‖X‖² + ‖Y‖² − 2·‖X·Yᵀ‖_*, with the nuclear norm.

    A distance of 0 has the gradient 0. The teacher gets no gradient. Half precision is computed in float32, also under
    autocast. If the features of student and teacher differ in size, pass those of the student through a linear layer.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import GaussianFeatureLoss
    >>> x = torch.tensor([[[0.0], [2.0]]])
    >>> round(float(GaussianFeatureLoss(gamma=0.5)(x, 3 * x + 1)), 4)
    3.5
    """

    def __init__(
        self, covariance: str = "diagonal", gamma: float = 1.0, reduction: str = "mean", *, check: bool = False
    ) -> None:
        super().__init__()
        check_choice("covariance", covariance, ("diagonal", "full"))
        check_choice("reduction", reduction, REDUCTIONS)
        checks.positive(gamma, "gamma")
        self.covariance, self.gamma, self.reduction, self.check = covariance, gamma, reduction, check

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
            0 where a position takes no part, whatever is in it. The teacher's is by default the student's.
        num_items_in_batch : int or Tensor, optional
            The divisor of a mean in place of the size of the batch.
        return_stats : bool
            Whether to return statistics too.

        Returns
        -------
        Tensor
            A number, or ``(batch,)`` without a reduction. An item without any position has the loss 0.
        dict of str to Tensor
            With `return_stats`: the mean distances, "mean" of the means and "covariance" of the covariances.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, or with ``check=True`` as there.
        """
        for name, v in (("student", student), ("teacher", teacher)):
            check_tensor(name, v)
        if student.ndim != 3 or teacher.ndim != 3 or student.shape[::2] != teacher.shape[::2]:
            advice = "pass map.flatten(2).mT of feature maps (batch, d, height, width)"
            raise ValueError(
                "student and teacher must have shapes (batch, positions, d) with the same batch and d, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}; "
                f"{advice if student.ndim == 4 else 'a linear layer brings the student to d'}"
            )
        check_reduction(self.reduction, num_items_in_batch)
        if teacher_mask is None and student.shape == teacher.shape:
            teacher_mask = mask
        with torch.autocast(student.device.type, enabled=False):
            mean_s, x, there_s = _centred(upcast(student), mask, "mask")
            mean_t, y, there_t = _centred(upcast(teacher.detach()), teacher_mask, "teacher_mask")
            if self.check:
                _check_finite({"student": (mean_s, x), "teacher": (mean_t, y)})
            means = torch.linalg.vector_norm(mean_s - mean_t, dim=-1)
            spreads = (_bures if self.covariance == "full" else _deviations)(x, y)
            both = there_s & there_t
            values = torch.where(both, self.gamma * means + spreads, 0.0)
            loss = reduce(values, None, self.reduction, num_items_in_batch)
        if not return_stats:
            return loss
        parts = {"mean": means, "covariance": spreads}
        return loss, {name: torch.where(both, v.detach(), 0.0).mean() for name, v in parts.items()}

    def extra_repr(self) -> str:
        return f"covariance={self.covariance!r}, gamma={self.gamma:g}, reduction={self.reduction!r}"


def _check_finite(sides: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Complain about means and centred features that are not finite."""
    for name, parts in sides.items():
        if not all(bool(v.isfinite().all()) for v in parts):
            raise ValueError(f"{name} must be finite, got NaN or inf where it takes part; leave it out by mask=")


def _centred(v: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The means ``(B, d)``; the centred features, divided by the roots of their numbers; which items have features."""
    if mask is None:
        mask = torch.ones(v.shape[:-1], dtype=torch.bool, device=v.device)
    check_tensor(name, mask, floating=False)
    if mask.shape != v.shape[:-1]:
        raise ValueError(
            f"{name} must have shape {tuple(v.shape[:-1])}, got {tuple(mask.shape)}; pass one number for each position"
        )
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
    products = x @ y.mT
    finite = products.isfinite().all(-1).all(-1)[:, None, None]  # singular values of NaN are an error
    crossed = torch.linalg.matrix_norm(torch.where(finite, products, 0.0), "nuc")
    square = (x * x).sum((-2, -1)) + (y * y).sum((-2, -1)) - 2 * crossed
    # Below this bound the difference is rounding, and its root has no gradient.
    least = 16 * torch.finfo(x.dtype).eps * ((x * x).sum((-2, -1)) + (y * y).sum((-2, -1)))
    positive = ~(square <= least)  # and where it is NaN
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
