"""Sinkhorn iterations between samples and prototypes, with one exponentiated matrix where that is accurate.

After an iteration the plan is w_i·softmax_j(L_ij + v_j), with L = scores/reg and weights w of the samples. Samples are
scaled last, so that only the potentials v of the prototypes are kept. One more prototype of score 0, the last, gets
the unassigned part. Arrays have one leading axis, B, and potentials are (B, C).
"""

from __future__ import annotations

import math
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
        v = logs - sums
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            pull = self.slack / (1 + self.slack)
            wanted = (logs + pull * sums)[:, real]
            constant = (math.log1p(-self.rest) - wanted.logsumexp(-1, keepdim=True)) / pull
            v -= constant
            v[:, real] += pull * (sums[:, real] + constant)
        return torch.where(self.values > 0, v, -math.inf)

    def error(self, v: Tensor, masses: Tensor) -> float:
        """The L1 distance of the masses from those that are optimal at these potentials; both sum to 1."""
        wanted = self.values.clone()
        if self.slack:
            real = slice(None, -1 if self.rest else None)
            wanted[:, real] *= (self.slack * (self.values.log() - v)[:, real]).exp().nan_to_num(0.0)
        return float((masses - wanted).abs().sum(-1).amax())


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
    """The potentials after `n_iters` iterations, or the first within `tol`; warns where none are."""
    log_sums, total = scores.log_sums(group)
    v = shares.potentials(log_sums)
    for _ in range(n_iters - 1):
        masses = processes.total(scores.masses(v), group) / total
        if tol is not None and shares.error(v, masses) <= tol:
            return v
        v = shares.potentials(masses.clamp_min(torch.finfo(v.dtype).tiny).log() - v)
    if tol is not None:
        error = shares.error(v, processes.total(scores.masses(v), group) / total)
        if error > tol:
            errors.warn(
                f"after {n_iters} iterations the masses of the prototypes are off by {error:.2g}, more than "
                f"tol={tol:.2g}; raise n_iters, reg or tol"
            )
    return v
