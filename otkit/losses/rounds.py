"""Sinkhorn's rounds between samples and prototypes, with a matrix that is exponentiated once where that is enough.

After a round the plan is w_i·softmax_j(L_ij + v_j), for L = scores/reg and weights w of the samples: samples come last,
so that potentials of the prototypes, v, are all that is kept. What is not to be assigned goes to one more prototype,
the last, of score 0. Arrays have one leading axis, B, and potentials are (B, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otkit import errors
from otkit.losses import collectives

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BLOCK = {"cpu": 1 << 21}  # entries that are worked on at a time: what the shared cache holds,
BLOCK_ELSEWHERE = 1 << 24  # and what keeps a GPU busy


@dataclass(frozen=True)
class Targets:
    """What the prototypes are to get: `shares` (B, C) that sum to 1, of which the last is `rest` if that is not 0.

    `slack` is reg over the price of deviations, 0 where none are allowed; there are none from `rest`.
    """

    shares: Tensor
    slack: float
    rest: float

    def potentials(self, log_sums: Tensor) -> Tensor:
        """The v that are best for given log Σ_i w_i·exp(L_ij − logsumexp(L_i + v)).

        Where deviations have a price, also the best constant between samples and prototypes is taken, without which
        high prices, and small parts to be assigned, take thousands of rounds.
        """
        logs = self.shares.log()
        sums = log_sums.clamp_min(-1e30)  # -inf where all samples are kept away
        v = logs - sums
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            pull = self.slack / (1 + self.slack)
            wanted = (logs + pull * sums)[:, real]
            constant = (math.log1p(-self.rest) - wanted.logsumexp(-1, keepdim=True)) / pull
            v -= constant
            v[:, real] += pull * (sums[:, real] + constant)
        return torch.where(self.shares > 0, v, -math.inf)

    def error(self, v: Tensor, masses: Tensor) -> float:
        """How far the masses are from those that are optimal at these potentials, in L1; both sum to 1."""
        wanted = self.shares.clone()
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            wanted[:, real] *= (self.slack * (self.shares.log() - v)[:, real]).exp().nan_to_num(0.0)
        return float((masses - wanted).abs().sum(-1).amax())


class Kernel:
    """exp(L + v) for some v, each row divided by its maximum, in the memory that becomes the result.

    Other potentials are reached by factors on the columns while these are moderate, and else by new exponentials, so
    that nothing that matters is lost to the range of the exponents.
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
        """The log of Σ_i w_i·exp(L_ij), and Σ_i w_i; checks the scores on the way, all processes together."""
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
        sums = collectives.logsumexp(torch.cat([sums, counted], -1), group)
        if (sums[:, -1] == math.inf).any():
            raise ValueError(
                "scores must hold neither NaN nor inf, and every sample a finite one for a prototype with a share; "
                "mask the samples that have none"
            )
        if (sums[:, -1] == -math.inf).any():
            raise ValueError("mask and sample_weights must leave a sample of positive weight, got none")
        return sums[:, :-1] - sums[:, -1:], sums[:, -1:].exp()

    def masses(self, v: Tensor) -> Tensor:
        """Σ_i w_i·softmax(L_i + v), of the samples of this process."""
        factors = self._reach(v)
        sums = torch.zeros_like(v)[:, None]
        for rows in self.blocks:
            block = self.values[:, rows]
            sums += (self.weights[:, None, rows] / (block @ factors[..., None]).mT) @ block
        return sums[:, 0] * factors

    def assignments(self, v: Tensor) -> Tensor:
        """softmax(L_i + v) without the column of what is not assigned."""
        factors = self._reach(v)
        for rows in self.blocks:
            block = self.values[:, rows]
            block *= factors[:, None]
            block /= block.sum(-1, keepdim=True)
            if self.mask is not None:
                block.masked_fill_(~self.mask[:, rows, None], 0)
        return self.values[..., : self.prototypes]

    def labels(self, v: Tensor, ignored: int) -> Tensor:
        """Of each sample the prototype of the largest L_ij + v_j."""
        labels = torch.empty(self.values.shape[:-1], dtype=torch.int64, device=v.device)
        for rows in self.blocks:
            labels[:, rows] = self._exponents(rows, v)[..., : self.prototypes].argmax(-1)
        return labels if self.mask is None else labels.masked_fill_(~self.mask, ignored)

    def _reach(self, v: Tensor) -> Tensor:
        """The factors on the columns that make exp(L + v) out of the values, these renewed if need be."""
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
        """L + v in the rows of the values; samples that are not there have the scores 0."""
        block = self.values[:, rows]
        real = slice(0, self.prototypes)
        torch.add(v[:, None, real], self.scores[:, rows], alpha=self.scale, out=block[..., real])
        block[..., self.prototypes :] = v[:, None, self.prototypes :]
        if self.mask is not None:
            block.masked_fill_(~self.mask[:, rows, None], 0)
        return block


def balance(kernel: Kernel, targets: Targets, n_iters: int, tol: float | None, group: ProcessGroup | None) -> Tensor:
    """The potentials after `n_iters` rounds, or those that reach `tol`; a warning where none do."""
    log_sums, total = kernel.log_sums(group)
    v = targets.potentials(log_sums)
    for _ in range(n_iters - 1):
        masses = collectives.total(kernel.masses(v), group) / total
        if tol is not None and targets.error(v, masses) <= tol:
            return v
        v = targets.potentials(masses.clamp_min(torch.finfo(v.dtype).tiny).log() - v)
    if tol is not None:
        error = targets.error(v, collectives.total(kernel.masses(v), group) / total)
        if error > tol:
            errors.warn(
                f"after {n_iters} rounds the masses of the prototypes are off by {error:.2g}, more than tol={tol:.2g}; "
                "raise n_iters, reg or tol"
            )
    return v
