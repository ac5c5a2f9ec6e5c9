"""Sinkhorn iterations between samples and prototypes, with one exponentiated matrix where that is accurate.

After an iteration the plan is w_i·softmax_j(L_ij + v_j), with L = scores/reg and weights w of the samples. Samples are
scaled last, so that only the potentials v of the prototypes are kept. One more prototype of score 0, the last, gets
the unassigned part. Arrays have one leading axis, B, and potentials are (B, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otkit import errors
from otkit.losses import processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Entries of a block: on the CPU as many as the shared cache holds, elsewhere as many as fill a GPU.
BLOCK = {"cpu": 1 << 21}
BLOCK_ELSEWHERE = 1 << 24
# Number of iterations within which plain ones must promise to reach the tolerance. In a Newton step, maximum number of
# products and of halvings, the fraction of the squared residual at which the products end, and the largest change of an
# exponent.
ROUNDS, PRODUCTS, HALVINGS, FORCING, FAR = 30, 100, 30, 1e-2, 20.0


@dataclass(frozen=True)
class Shares:
    """The shares that the prototypes should get, and the potentials that give them.

    Attributes
    ----------
    values : Tensor (B, C)
        The shares; they sum to 1. The last is `rest` if that is not 0.
    slack : float
        The regularisation over the penalty of deviations; 0 allows none. The share `rest` allows none either way.
    rest : float
        The unassigned part.
    """

    values: Tensor
    slack: float
    rest: float

    def potentials(self, log_sums: Tensor) -> Tensor:
        """The optimal v for given log Σ_i w_i·exp(L_ij − logsumexp(L_i + v)).

        With a penalty of deviations it also adds the optimal constant between samples and prototypes. Without it high
        penalties, and small assigned parts, take thousands of iterations.
        """
        logs = self.values.log()
        sums = log_sums.clamp_min(-1e30)  # -inf for a prototype that is forbidden to all samples
        sums = torch.where(self.values > 0, sums, 0.0)  # inf where v is -inf
        v = logs - sums
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            pull = self.slack / (1 + self.slack)
            wanted = (logs + pull * sums)[:, real]
            constant = (math.log1p(-self.rest) - wanted.logsumexp(-1, keepdim=True)) / pull
            v -= constant
            v[:, real] += pull * (sums[:, real] + constant)
        return torch.where(self.values > 0, v, -math.inf)

    def lacking(self, v: Tensor, masses: Tensor) -> Tensor:
        """What the masses lack of those that are optimal at these potentials: the gradient of the dual by v."""
        wanted = self.values.clone()
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            wanted[:, real] *= (self.slack * (self.values.log() - v)[:, real]).exp().nan_to_num(0.0)
        return wanted - masses

    def bend(self, wanted: Tensor) -> Tensor:
        """The curvature of the dual that is due to the penalty, where these masses are optimal."""
        bend = self.slack * wanted
        if self.rest:
            bend[:, -1] = 0.0
        return bend


class ScaledScores:
    """exp(L + v) for some potentials v, each row divided by its maximum, in the memory of the result.

    Factors on the columns give other potentials while the factors are moderate. Beyond that the exponentials are
    computed again, so that none that matters underflows.
    """

    def __init__(self, scores: Tensor, reg: float, shares: Tensor, weights: Tensor, mask: Tensor | None) -> None:
        batch, samples, self.prototypes = scores.shape
        columns = shares.shape[-1]
        self.scores, self.scale, self.weights, self.mask = scores, 1 / reg, weights, mask
        self.open = torch.where(shares > 0, torch.zeros_like(shares), -math.inf)
        self.values = weights.new_empty(batch, samples, columns)
        self.absorbed: Tensor | None = None
        self.limit = -math.log(torch.finfo(weights.dtype).tiny) / 2
        rows = max(1, BLOCK.get(scores.device.type, BLOCK_ELSEWHERE) // (batch * columns))
        self.blocks = [slice(k, min(k + rows, samples)) for k in range(0, samples, rows)]

    def log_sums(self, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
        """The log of Σ_i w_i·exp(L_ij), and Σ_i w_i, over all processes, which also check the scores together."""
        sums = torch.full_like(self.open, -math.inf)
        bad = torch.zeros((), dtype=torch.bool, device=sums.device)
        for rows in self.blocks:
            block = self._exponents(rows, self.open)
            bad = bad | ~block.amax(-1).isfinite().all()
            weights = self.weights[:, rows]
            top = block.masked_fill_(weights[..., None] == 0, -math.inf).amax(1)
            shift = torch.where(top == -math.inf, 0.0, top)
            part = (weights[:, None] @ block.sub_(shift[:, None]).exp_())[:, 0]
            sums = torch.logaddexp(sums, shift + part.log())
        counted = torch.where(bad, math.inf, self.weights.sum(-1, keepdim=True).log())
        sums = processes.logsumexp(torch.cat([sums, counted], -1), group)
        if (sums[:, -1] == math.inf).any():
            raise ValueError(
                "scores must hold neither NaN nor inf, and every sample a finite one for a prototype with a share; "
                "mask the samples that have none"
            )
        if (sums[:, -1] == -math.inf).any():
            raise ValueError(
                "mask and sample_weights must leave a sample of positive weight, got none; skip such batches"
            )
        return sums[:, :-1] - sums[:, -1:], sums[:, -1:].exp()

    def masses(self, v: Tensor) -> Tensor:
        """Σ_i w_i·softmax(L_i + v) over the samples of this process."""
        factors = self._factors(v)
        sums = torch.zeros_like(v)[:, None]
        for rows in self.blocks:
            block = self.values[:, rows]
            sums += (self.weights[:, None, rows] / (block @ factors[..., None]).mT) @ block
        return sums[:, 0] * factors

    def products(self, v: Tensor, x: Tensor) -> Tensor:
        """Σ_i w_i·p_i·⟨p_i, x⟩ for the rows p_i of softmax(L + v), over the samples of this process."""
        factors = self._factors(v)
        sums = torch.zeros_like(v)[:, None]
        for rows in self.blocks:
            block = self.values[:, rows]
            whole, part = (block @ w[..., None] for w in (factors, factors * x))
            sums += (self.weights[:, None, rows] * (part / whole / whole).mT) @ block
        return sums[:, 0] * factors

    def assignments(self, v: Tensor) -> Tensor:
        """softmax(L_i + v) without the column of the unassigned part."""
        factors = self._factors(v)
        for rows in self.blocks:
            block = self.values[:, rows]
            block *= factors[:, None]
            block /= block.sum(-1, keepdim=True)
            if self.mask is not None:
                block.masked_fill_(~self.mask[:, rows, None], 0)
        return self.values[..., : self.prototypes]

    def labels(self, v: Tensor, ignored: int) -> Tensor:
        """The prototype of the largest L_ij + v_j for each sample."""
        labels = torch.empty(self.values.shape[:-1], dtype=torch.int64, device=v.device)
        for rows in self.blocks:
            labels[:, rows] = self._exponents(rows, v)[..., : self.prototypes].argmax(-1)
        return labels if self.mask is None else labels.masked_fill_(~self.mask, ignored)

    def _factors(self, v: Tensor) -> Tensor:
        """The factors on the columns that turn the values into exp(L + v); computes the values again if necessary."""
        if self.absorbed is not None:
            steps = torch.where(self.absorbed == v, 0.0, v - self.absorbed)  # both are -inf without a share
            steps -= steps.amax(-1, keepdim=True)
            if steps.amin() >= -self.limit:
                return steps.exp()
        self.absorbed = v
        for rows in self.blocks:
            block = self._exponents(rows, v)
            block.sub_(block.amax(-1, keepdim=True)).exp_()
        return torch.ones_like(v)

    def _exponents(self, rows: slice, v: Tensor) -> Tensor:
        """L + v in the rows of the values; masked samples have the scores 0."""
        block = self.values[:, rows]
        real = slice(0, self.prototypes)
        torch.add(v[:, None, real], self.scores[:, rows], alpha=self.scale, out=block[..., real])
        block[..., self.prototypes :] = v[:, None, self.prototypes :]
        if self.mask is not None:
            block.masked_fill_(~self.mask[:, rows, None], 0)
        return block


def balance(
    scores: ScaledScores, shares: Shares, n_iters: int, tol: float | None, group: ProcessGroup | None
) -> Tensor:
    """The potentials after `n_iters` iterations, or the first within `tol`; warns where none are.

    With a `tol`, Newton steps take the place of iterations that fall short of it.
    """
    log_sums, total = scores.log_sums(group)

    def over_all(sums: Tensor) -> Tensor:
        return processes.total(sums, group) / total

    v, error, slow = shares.potentials(log_sums), math.inf, False
    for left in range(n_iters - 1, 0, -1):
        masses = over_all(scores.masses(v))
        if tol is not None:
            last, error = error, _size(shares.lacking(v, masses))
            if error <= tol:
                return v
            slow = slow or error / last > (tol / error) ** (1 / min(left, ROUNDS))
        moved = _ascended(scores, shares, v, masses, over_all) if slow else None
        v = shares.potentials(masses.clamp_min(torch.finfo(v.dtype).tiny).log() - v) if moved is None else moved
    if tol is not None:
        error = _size(shares.lacking(v, over_all(scores.masses(v))))
        if error > tol:
            errors.warn(
                f"after {n_iters} iterations the masses of the prototypes are off by {error:.2g}, more than "
                f"tol={tol:.2g}; raise n_iters, reg or tol"
            )
    return v


def _size(lacking: Tensor) -> float:
    return float(lacking.abs().sum(-1).amax())


def _ascended(
    scores: ScaledScores, shares: Shares, v: Tensor, masses: Tensor, over_all: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """The potentials after a Newton step on the dual, which is concave; None where no step goes up.

    With the rows p_i of the assignments and their weights w_i the curvature is diag(masses) − Σ_i w_i·p_i·p_iᵀ, with
    which conjugate gradients multiply. A step is halved while the slope at its end is below −½ of that at its start.
    """
    lacking = shares.lacking(v, masses)
    diagonal = masses + shares.bend(masses + lacking)
    scale = torch.where(diagonal > 0, 1 / diagonal, 0.0)
    step, left = torch.zeros_like(v), lacking
    along = scale * left
    size = goal = (left * along).sum(-1, keepdim=True)
    for _ in range(PRODUCTS):
        bent = diagonal * along - over_all(scores.products(v, along))
        height = (along * bent).sum(-1, keepdim=True)
        length = torch.where((height > 0) & (size > FORCING * goal), size / height, 0.0)
        if not length.any():
            break
        step, left = step + length * along, left - length * bent
        new = (left * scale * left).sum(-1, keepdim=True)
        along, size = scale * left + torch.where(size > 0, new / size, 0.0) * along, new
    slope, length = (lacking * step).sum(-1, keepdim=True), (FAR / step.abs().amax(-1, keepdim=True)).clamp_max(1)
    for _ in range(HALVINGS):
        moved = v + length * step
        there = (shares.lacking(moved, over_all(scores.masses(moved))) * step).sum(-1, keepdim=True)
        steep = there < -slope / 2
        if not steep.any():
            return moved
        length = torch.where(steep, length / 2, length)
    return None
