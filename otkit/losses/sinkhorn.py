"""The Sinkhorn loss between weighted clouds of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from otkit import checks
from otkit.api import solve_sample
from otkit.distance import distance_cost
from otkit.divergence import sinkhorn_divergence
from otkit.lists import answered, is_list
from otkit.losses.chunks import upcast
from otkit.losses.rows import REDUCTIONS, check_choice, reduce, uniform
from otkit.losses.tensors import check_tensor
from otkit.solvers import Solver


class SinkhornLoss(nn.Module):
    """The Sinkhorn divergence of two clouds, or the entropic cost between them, for batches.

    Parameters
    ----------
    reg : float, optional
        The regularisation, in units of the cost d(x, y)^p.
    blur : float, optional
        In place of `reg`, as in GeomLoss: a length. The cost is then d(x, y)^p/p and the regularisation blur^p.
    p : float
        The power of the distance, at least 1.
    metric : {"euclidean", "cityblock", "cosine"}
        The distance d.
    debias : bool
        Subtract half of the cost of either cloud with itself, so that equal clouds have the loss 0.
    unbalanced : float, optional
        The penalty of a unit of KL divergence of the masses, in units of the cost. None asks for equal masses.
    reach : float, optional
        In place of `unbalanced`, with `blur`: a length. The penalty is then reach^p.
    reduction : {"mean", "sum", "none"}
        The reduction over the batch.
    method, tol, max_iter
        As in `otkit.solve_sample`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Feydy et al. (2019). Gradients are those of the optimal value, by the envelope theorem. The backward pass reads the
    pairs once. It keeps the potentials, and costs where `otkit.solve_sample` does. Half precision is computed in
    float32, also under autocast.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import SinkhornLoss
    >>> x = torch.zeros(8, 2, requires_grad=True)
    >>> loss = SinkhornLoss(reg=0.1)(x, torch.ones(5, 2))
    >>> loss.backward()
    >>> round(float(loss.detach()), 4), x.grad[0]
    (2.0, tensor([-0.2500, -0.2500]))
    """

    def __init__(
        self,
        reg: float | None = None,
        *,
        blur: float | None = None,
        p: float = 2,
        metric: str = "euclidean",
        debias: bool = True,
        unbalanced: float | None = None,
        reach: float | None = None,
        reduction: str = "mean",
        method: str | Solver[Any] = "auto",
        tol: float | None = None,
        max_iter: int | None = None,
    ) -> None:
        super().__init__()
        if (reg is None) == (blur is None):
            raise ValueError(f"one of reg and blur must be given, got reg={reg!r} and blur={blur!r}; pass one")
        if (reach is not None and blur is None) or (unbalanced is not None and blur is not None):
            raise ValueError("reach goes with blur, and unbalanced with reg; pass the two of one kind")
        for name, value in (("reg", reg), ("blur", blur), ("unbalanced", unbalanced), ("reach", reach), ("tol", tol)):
            checks.positive(value, name)
        check_choice("reduction", reduction, REDUCTIONS)
        self.cost = distance_cost(p, metric)
        self.reg, self.blur, self.unbalanced, self.reach = reg, blur, unbalanced, reach
        self.debias, self.reduction = debias, reduction
        self.method, self.tol, self.max_iter = method, tol, max_iter

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
        *,
        mask_x: Tensor | None = None,
        mask_y: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs of clouds.

        Parameters
        ----------
        x : Tensor (..., n, d)
        y : Tensor (..., m, d)
            The points. Leading axes broadcast: histograms on common points are weights of one cloud. Lists of clouds of
            any sizes are a batch too.
        a, b : Tensor (..., n), (..., m), optional
            Their weights; by default uniform over the points that take part.
        mask_x, mask_y : Tensor of bool (..., n), (..., m), optional
            True where a point takes part; the others do not, whatever they are.

        Returns
        -------
        Tensor
            A number, or ``(...)`` without a reduction.
        """
        if any(map(is_list, (x, y))):
            if mask_x is not None or mask_y is not None:
                raise ValueError("masks are for padded batches, got lists of clouds, which need none; drop the masks")
            values = answered(self._of_pair, lambda value: "", (x, y, a, b), (), strict=False)
            return reduce(torch.stack(values), None, self.reduction, None)
        return reduce(self._of_batch(x, y, a, b, mask_x, mask_y), None, self.reduction, None)

    def _of_pair(self, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
        return self._of_batch(x, y, a, b, None, None)

    def _of_batch(
        self,
        x: Tensor,
        y: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        mask_x: Tensor | None,
        mask_y: Tensor | None,
    ) -> Tensor:
        """The values of a batch."""
        for name, v in {"x": x, "y": y, "a": a, "b": b, "mask_x": mask_x, "mask_y": mask_y}.items():
            if v is not None or name in "xy":
                check_tensor(name, v, floating=False)
        with torch.autocast(x.device.type, enabled=False):
            x, a = _masked(upcast(x), None if a is None else upcast(a), mask_x, "x")
            y, b = _masked(upcast(y), None if b is None else upcast(b), mask_y, "y")
            return self._loss(x, y, a, b)

    def _loss(self, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
        power = self.cost.power
        # Costs, reg and penalty are those of GeomLoss times p, and so is the value.
        reg = self.reg if self.blur is None else power * self.blur**power
        unbalanced = self.unbalanced if self.reach is None else power * self.reach**power
        options: dict[str, Any] = dict(
            reg=reg, metric=self.cost, unbalanced=unbalanced, method=self.method, tol=self.tol, max_iter=self.max_iter
        )
        value = (sinkhorn_divergence if self.debias else solve_sample)(x, y, a, b, **options).value
        return value if self.blur is None else value / power

    def extra_repr(self) -> str:
        units = f"reg={self.reg:g}" if self.blur is None else f"blur={self.blur:g}"
        penalty = {"unbalanced": self.unbalanced, "reach": self.reach}
        penalties = "".join(f", {name}={value:g}" for name, value in penalty.items() if value is not None)
        return f"{units}, p={self.cost.power:g}, metric={self.cost.ground!r}, debias={self.debias}{penalties}"


def _masked(x: Tensor, w: Tensor | None, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
    """Points and weights in which those that the mask leaves out have weight 0, and the place of another point."""
    if mask is None:
        return x, w
    if x.ndim < 2 or mask.dtype != torch.bool or mask.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(
            f"mask_{name} must be of bool and have as many entries as {name} (..., n, d) has points, got {mask.dtype} "
            f"{tuple(mask.shape)} beside {tuple(x.shape)}; mask.bool() is True where a mask is not 0"
        )
    if not mask.any(-1).all():
        raise ValueError(f"mask_{name} must leave a point in every cloud, got one without any; drop it from the batch")
    w = uniform(mask, x.dtype) if w is None else w
    first = torch.take_along_dim(x, mask.int().argmax(-1)[..., None, None], -2)
    return torch.where(mask[..., None], x, first), torch.where(mask, w, 0.0)
