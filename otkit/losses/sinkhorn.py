"""The Sinkhorn loss between weighted clouds of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from otkit import checks
from otkit.api import solve_sample
from otkit.distance import distance_cost
from otkit.divergence import sinkhorn_divergence
from otkit.lists import Clouds, answered, is_list
from otkit.losses.chunks import upcast
from otkit.losses.rows import REDUCTIONS, check_choice, reduce, uniform
from otkit.losses.tensors import as_mask, check_tensor, shown
from otkit.solvers import Solver


class SinkhornLoss(nn.Module):
    """The Sinkhorn divergence of two clouds, or the entropic cost between them, for batches.

    Parameters
    ----------
    reg : float or Tensor (...), optional
        The regularisation, in units of the cost d(x, y)^p. Tensors, here and below, may require gradients, and
        parameters are learned with the module.
    blur : float or Tensor (...), optional
        In place of `reg`, as in GeomLoss: a length. The cost is then d(x, y)^p/p and the regularisation blur^p.
    p : float
        The power of the distance, at least 1.
    metric : {"euclidean", "cityblock", "cosine"}
        The distance d.
    debias : bool
        Subtract half of the cost of either cloud with itself, so that equal clouds have the loss 0.
    unbalanced : float or Tensor (...), optional
        The penalty of a unit of KL divergence of the masses, in units of the cost. None asks for equal masses.
    reach : float or Tensor (...), optional
        In place of `unbalanced`, with `blur`: a length. The penalty is then reach^p.
    reduction : {"mean", "sum", "none"}
        The reduction over the pairs that have points. Without any the loss is 0, and so is its gradient.
    check : bool
        Raise ``ValueError`` where points or weights are not finite. By default the loss of that pair is NaN, and so
        is its gradient, so that a `GradScaler` or a loop that skips such steps can go on.
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
    float32, also under autocast. Costs and potentials are in float64 for any dtype, and gradients as accurate as the
    dtype of the points. The three problems of the divergence are solved at the same time.

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
        reg: float | Tensor | None = None,
        *,
        blur: float | Tensor | None = None,
        p: float = 2,
        metric: str = "euclidean",
        debias: bool = True,
        unbalanced: float | Tensor | None = None,
        reach: float | Tensor | None = None,
        reduction: str = "mean",
        check: bool = False,
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
            if not isinstance(value, Tensor):  # tensors may change, and are checked at each call
                checks.positive(value, name)
        check_choice("reduction", reduction, REDUCTIONS)
        self.cost = distance_cost(p, metric)
        self.reg, self.blur, self.unbalanced, self.reach = reg, blur, unbalanced, reach
        self.debias, self.reduction, self.check = debias, reduction, check
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
        x : Tensor (n, d) or (batch, n, d)
        y : Tensor (m, d) or (batch, m, d)
            The points, with one batch axis at most; histograms on common points are weights of one cloud. Lists of
            clouds of any sizes are a batch too.
        a, b : Tensor (..., n), (..., m), optional
            Their weights; by default uniform over the points that take part.
        mask_x, mask_y : Tensor (..., n), (..., m), optional
            True, or not 0, where a point takes part; the others do not, whatever they are.

        Returns
        -------
        Tensor
            A number, or ``(...)`` without a reduction, with 0 for pairs in which a cloud has no points.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, such as those of images, or numbers make no sense.
        """
        if any(map(is_list, (x, y))):
            if mask_x is not None or mask_y is not None:
                raise ValueError("masks are for padded batches, got lists of clouds, which need none; drop the masks")
            clouds = Clouds(self._values, _of_pair, lambda found: "", recorded=True)
            pairs = answered(clouds, (x, y, a, b), (), strict=False)
            values, there = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        else:
            values, there = self._values(x, y, a, b, mask_x, mask_y)
        return values if self.reduction == "none" else reduce(values[there], None, self.reduction, None)

    def _values(
        self,
        x: Tensor,
        y: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        mask_x: Tensor | None = None,
        mask_y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The losses of a batch of pairs ``(...)``, and which of them have points on both sides."""
        for name, v in {"x": x, "y": y, "a": a, "b": b, "mask_x": mask_x, "mask_y": mask_y}.items():
            if v is not None or name in "xy":
                check_tensor(name, v, floating=False)
                checks.no_transform(v, name)
        if max(x.ndim, y.ndim) > 3:
            raise ValueError(
                f"x and y must be points (batch, n, d), got {tuple(x.shape)} and {tuple(y.shape)}; of feature maps "
                "(batch, d, height, width) pass x.flatten(2).mT, for masses of images use otkit.solve_grid, and make "
                "one of more batch axes by x.flatten(0, -3)"
            )
        checks.batch_shape(x=tuple(x.shape[:-2]), y=tuple(y.shape[:-2]))
        with torch.autocast(x.device.type, enabled=False):
            x, a, some_x = _masked(upcast(x), None if a is None else upcast(a), mask_x, "x")
            y, b, some_y = _masked(upcast(y), None if b is None else upcast(b), mask_y, "y")
            there, given = some_x & some_y, (x, y, a, b)
            whole = there.numel() > 0 and bool(there.all())
            if whole and (self.check or all(v is None or _is_finite(v) for v in given)):
                values = self._loss(given, lambda option: option)
                return values, there.expand(values.shape)
            return self._by_pair(given, there)

    def _by_pair(self, given: tuple[Tensor | None, ...], there: Tensor) -> tuple[Tensor, Tensor]:
        """The losses where some pairs have no points, which count as 0, or have a NaN, which makes the pair NaN."""
        tails = [() if v is None else v.shape[v.ndim - k :] for v, k in zip(given, (2, 2, 1, 1), strict=True)]
        shapes = [v.shape[: v.ndim - len(tail)] for v, tail in zip(given, tails, strict=True) if v is not None]
        batch = torch.broadcast_shapes(there.shape, *shapes)
        count = math.prod(batch)

        def flat(v: Tensor, tail: tuple[int, ...] = ()) -> Tensor:
            return v.expand((*batch, *tail)).reshape((count, *tail))

        parts = [None if v is None else flat(v, tail) for v, tail in zip(given, tails, strict=True)]
        known, there = [v for v in parts if v is not None], flat(there)
        good = there.clone()
        for v in [] if self.check else known:
            good &= v.isfinite().flatten(1).all(1)
        values = upcast(sum((v.flatten(1)[:, :0].sum(1) for v in known), start=known[0].new_zeros(count)))
        if good.any():
            chosen = tuple(None if v is None else v[good] for v in parts)
            values = values.index_put(
                (good,), self._loss(chosen, lambda option: flat(option)[good] if option.ndim else option)
            )
        lost = there & ~good
        if lost.any():
            tainted = sum((v[lost].flatten(1).sum(1) for v in known), start=values[lost])
            values = values.index_put((lost,), tainted * torch.nan)
        return values.reshape(batch), there.reshape(batch)

    def _loss(self, given: tuple[Tensor | None, ...], of: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of pairs ``(...)``; `of` chooses those of an option that is a tensor."""
        x, y, a, b = given
        power = self.cost.power

        def option(name: str) -> Any:
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                return value
            if not bool((value > 0).all()):
                raise ValueError(f"{name} must be positive, got {value.detach()}; learn its logarithm to keep it so")
            return of(value.to(cast(Tensor, x).device))

        # Costs, reg and penalty are those of GeomLoss times p, and so is the value.
        reg = option("reg") if self.blur is None else power * option("blur") ** power
        unbalanced = option("unbalanced") if self.reach is None else power * option("reach") ** power
        options: dict[str, Any] = dict(
            reg=reg, metric=self.cost, unbalanced=unbalanced, method=self.method, tol=self.tol, max_iter=self.max_iter
        )
        value = (sinkhorn_divergence if self.debias else solve_sample)(x, y, a, b, **options).value
        return value if self.blur is None else value / power

    def extra_repr(self) -> str:
        given = {"reg": self.reg, "blur": self.blur, "unbalanced": self.unbalanced, "reach": self.reach}
        units = [f"{name}={shown(value)}" for name, value in given.items() if value is not None]
        always = [f"p={self.cost.power:g}", f"metric={self.cost.ground!r}", f"debias={self.debias}"]
        return ", ".join([units[0], *always, *units[1:]])


def _of_pair(found: tuple[Tensor, Tensor], item: int, pair: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    values, there = found
    return values[item], there[item]


def _is_finite(v: Tensor) -> bool:
    """Whether all numbers are finite; on the host without PyTorch's threads, which would keep cores busy after it."""
    return bool(np.isfinite(v.detach().resolve_neg().numpy()).all() if v.device.type == "cpu" else v.isfinite().all())


def _masked(x: Tensor, w: Tensor | None, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """Points and weights in which those that the mask leaves out have weight 0, and the place of another point.

    The third says which clouds ``(...)`` have points.
    """
    if mask is None:
        return x, w, torch.full(x.shape[:-2], x.ndim < 2 or x.shape[-2] > 0, dtype=torch.bool, device=x.device)
    mask = as_mask(f"mask_{name}", mask)
    if x.ndim < 2 or mask.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(
            f"mask_{name} must have as many entries as {name} (..., n, d) has points, got {tuple(mask.shape)} beside "
            f"{tuple(x.shape)}; pass it for the same points"
        )
    lead = torch.broadcast_shapes(mask.shape[:-1], x.shape[:-2])
    x, mask = x.expand((*lead, *x.shape[-2:])), mask.expand((*lead, mask.shape[-1]))
    some = mask.any(-1)
    if x.shape[-2] == 0:
        return x, w, some
    w = uniform(mask, x.dtype) if w is None else w
    first = torch.take_along_dim(x, mask.int().argmax(-1)[..., None, None], -2)
    return torch.where(mask[..., None], x, first), torch.where(mask, w, 0.0), some
