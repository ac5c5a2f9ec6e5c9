"""Prototypes that samples are compared with, a queue of past samples, and the KoLeo regulariser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from otkit.losses.chunks import upcast
from otkit.losses.tensors import check_tensor


def unit(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 at least; rows of zeros stay zero."""
    return functional.normalize(upcast(x), dim=-1)


def alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors in the wider of their dtypes."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


class Prototypes(nn.Module):
    """K directions, whose scores for features are cosines.

    Parameters
    ----------
    n_prototypes : int
        The number of prototypes, K.
    dim : int
        The dimension of the features.

    Attributes
    ----------
    weight : Parameter (K, dim)
        The directions, of any length. They are normalised in the graph at each use, so that optimizers need no extra
        step. To freeze them for the first steps, as SwAV does, call ``prototypes.requires_grad_(step >= 313)`` or drop
        ``prototypes.weight.grad``.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import Prototypes
    >>> prototypes = Prototypes(3000, 128)
    >>> prototypes(torch.randn(16, 128)).shape
    torch.Size([16, 3000])
    """

    def __init__(self, n_prototypes: int, dim: int) -> None:
        super().__init__()
        for name, value in (("n_prototypes", n_prototypes), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value!r}")
        self.weight = nn.Parameter(unit(torch.randn(n_prototypes, dim)))

    def forward(self, features: Tensor, *, detach: bool = False) -> Tensor:
        """The scores of features, computed in float32 at least, also under autocast.

        Parameters
        ----------
        features : Tensor (..., dim)
        detach : bool
            Detach the prototypes, which then get no gradient.

        Returns
        -------
        Tensor (..., K)
            Cosines, in [-1, 1].
        """
        check_tensor("features", features)
        if features.shape[-1:] != self.weight.shape[-1:]:
            wanted = f"(..., {self.weight.shape[-1]})"
            raise ValueError(
                f"features must have shape {wanted}, as the prototypes, got {tuple(features.shape)}; a linear layer "
                "brings them there"
            )
        with torch.autocast(features.device.type, enabled=False):
            features, directions = alike(unit(features), unit(self.weight))
            return features @ (directions.detach() if detach else directions).mT

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class AssignmentQueue(nn.Module):
    """Features of the last samples, to balance small batches with.

    Use it for batches smaller than the number of prototypes.

    Parameters
    ----------
    length : int
        The number of samples that are kept of each view.
    dim : int
        The dimension of the features.
    n_views : int
        The number of views that give targets.

    Attributes
    ----------
    features : Tensor (n_views, M, dim)
        The features in the queue, M ≤ length. They are in the state of the module.

    Notes
    -----
    The queue of SwAV (Caron et al. 2020). Each process keeps its own queue, of any length. Features are from earlier
    steps: a queue that starts in the first epochs, or is long, slows training.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import AssignmentQueue, Prototypes, SwappedPredictionLoss
    >>> prototypes, queue, loss = Prototypes(50, 8), AssignmentQueue(128, 8), SwappedPredictionLoss()
    >>> for step in range(3):
    ...     views = torch.randn(2, 16, 8)
    ...     value = loss(prototypes(views), queued=prototypes(queue.features))
    ...     queue.push(views)
    >>> queue.features.shape
    torch.Size([2, 48, 8])
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, length: int, dim: int, n_views: int = 2) -> None:
        super().__init__()
        for name, value in (("length", length), ("dim", dim), ("n_views", n_views)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value!r}")
        self.register_buffer("rows", torch.zeros(n_views, length, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def features(self) -> Tensor:
        return self.rows[:, : int(self.pushed)].clone()

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Add the features of a batch (n_views, N, dim), and drop the oldest."""
        check_tensor("features", features)
        views, length, dim = self.rows.shape
        if features.ndim != 3 or features.shape[::2] != (views, dim):
            raise ValueError(
                f"features must have shape ({views}, N, {dim}), got {tuple(features.shape)}; torch.stack the views"
            )
        self.rows.copy_(torch.cat([features.to(self.rows), self.rows], 1)[:, :length])
        self.pushed.add_(features.shape[1]).clamp_(max=length)


def koleo(x: Tensor, topk: int = 1) -> Tensor:
    """The KoLeo regulariser: minus the mean log of the distances to the nearest neighbours, between unit rows of `x`.

    Parameters
    ----------
    x : Tensor (N, d)
        Features, of any length.
    topk : int
        The number of nearest neighbours of each sample that it is repelled by.

    Returns
    -------
    Tensor
        A number, lower for features that are spread over the sphere.

    Notes
    -----
    Sablayrolles et al. (2019), as in DINOv2 and, with several neighbours, DINOv3: −mean log(‖x_i − x_j‖ + 1e-8), among
    the samples of this process. Equal features have no direction between them, and get no gradient.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import koleo
    >>> koleo(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor(-0.3466)
    """
    check_tensor("x", x)
    if x.ndim != 2 or not 1 <= topk < x.shape[0]:
        raise ValueError(
            f"x must hold more than topk={topk!r} samples (1 or more), as (N, d), got {tuple(x.shape)}; lower topk"
        )
    with torch.autocast(x.device.type, enabled=False):
        x = unit(x)
        with torch.no_grad():
            nearest = (x @ x.mT).fill_diagonal_(-torch.inf).topk(topk, -1).indices
        return -((x[:, None] - x[nearest]).norm(dim=-1) + 1e-8).log().mean()
