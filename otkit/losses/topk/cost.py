"""L1 distances from dense predictions to those of a teacher of which the leading entries are known.

An entry of the student counts as if the teacher's were the same for all of its entries; the few that are known are then
put right. No dense row of the teacher is formed, except of some rows for distances between its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otkit import checks
from otkit.autograd.torch import once
from otkit.losses.topk.entries import TopK

# Entries of a block of differences, or an eighth of the student's if these are more.
_ENTRIES = 2**20


class _Softened(NamedTuple):
    """Ids ``(B, m, k)``, where there are any, their probabilities, and that of each other entry or of the bucket."""

    ids: Tensor
    there: Tensor
    known: Tensor
    other: Tensor


def topk_cost(student: Tensor, teacher: TopK, temperature: float) -> Tensor:
    """The L1 distances ``(B, n, m)`` between softened rows of logits ``(B, n, V)`` and of a teacher ``(B, m, k)``.

    In one bucket they are distances of k + 1 outcomes, which differ from one row of the teacher to the other.
    """
    soft = _soften(teacher, temperature, student.shape[-1])
    if teacher.tail == "one bucket":
        # In float64: the probability of the bucket is a difference from 1, and a temperature takes its root.
        return _blocks(torch.log_softmax(student.double(), -1), soft, _bucket(temperature)).to(student.dtype)
    p = torch.softmax(student / temperature, -1)
    corrections = _blocks(p, soft, _corrections)
    return corrections + (_to_constants(p, soft.other) if teacher.tail == "uniform" else 1.0)


def own_cost(teacher: TopK, temperature: float, entries: int) -> Tensor:
    """The L1 distances ``(B, m, m)`` between all rows of a teacher ``(B, m, k)``, not in one bucket."""
    size = max(1, _ENTRIES // entries)
    parts = [teacher[:, low : low + size] for low in range(0, teacher.shape[1], size)]
    # Softening twice would be wrong: logits are softened by `topk_cost`.
    return torch.cat([topk_cost(part.logits(entries), teacher, temperature) for part in parts], 1)


def _soften(teacher: TopK, temperature: float, entries: int) -> _Softened:
    """The teacher's probabilities at a temperature."""
    there = teacher.indices >= 0
    number = torch.ones_like(teacher.rest())
    if teacher.tail == "uniform":
        number = (entries - there.sum(-1)).clamp_min(1).to(number)
    each = teacher.rest() - number.log()
    if teacher.tail == "renormalise":
        each = torch.full_like(each, -torch.inf)
    both = torch.cat([teacher.logprobs, each[..., None]], -1) / temperature
    total = torch.cat([both[..., :-1], both[..., -1:] + number.log()[..., None]], -1).logsumexp(-1, keepdim=True)
    q = (both - total).exp()
    return _Softened(teacher.indices.clamp_min(0), there, q[..., :-1], q[..., -1])


def _to_constants(p: Tensor, u: Tensor) -> Tensor:
    """Σ_v |p_iv − u_j|, for each row ``(B, n, V)`` and each of ``u (B, m)``."""
    ordered = p.sort(-1).values
    sums = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
    u = u[:, None].expand(*p.shape[:-1], -1).contiguous()
    below = torch.searchsorted(ordered.detach(), u)
    return sums[..., -1:] - 2 * sums.gather(-1, below) + u * (2 * below - p.shape[-1])


def _corrections(p: Tensor, soft: _Softened) -> Tensor:
    """What the known entries add to distances from rows that are constant."""
    known, other = soft.known[:, None], soft.other[:, None, :, None]
    terms = (p - known).abs() - (p - other).abs()
    return terms.masked_fill(~soft.there[:, None], 0.0).sum(-1)


def _bucket(temperature: float) -> Callable[[Tensor, _Softened], Tensor]:
    """Distances of k + 1 outcomes, from log-probabilities of the student's k."""

    def distances(log_p: Tensor, soft: _Softened) -> Tensor:
        log_p = log_p.masked_fill(~soft.there[:, None], -torch.inf)
        rest = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(torch.finfo(log_p.dtype).eps).log()
        p = torch.softmax(torch.cat([log_p, rest], -1) / temperature, -1)
        q = torch.cat([soft.known, soft.other[..., None]], -1)[:, None]
        return (p - q).abs().sum(-1)

    return distances


def _blocks(rows: Tensor, soft: _Softened, distances: Callable[[Tensor, _Softened], Tensor]) -> Tensor:
    """Distances from the student's entries of equal ids, some of the teacher's rows at a time."""
    checks.no_transform(rows, "student_logits")
    blocks: Tensor = _Blocks.apply(rows, soft, distances)
    return blocks


def _parts(rows: Tensor, soft: _Softened) -> list[_Softened]:
    """Some of the teacher's rows at a time, for which the differences are not much larger than the student's rows."""
    k = soft.ids.shape[-1]
    size = max(1, max(_ENTRIES, rows.numel() // 8) // max(1, rows.shape[0] * rows.shape[1] * k))
    return [
        _Softened(*(v[:, low : low + size] for v in soft)) for low in range(0, soft.ids.shape[1], size)
    ]  # fmt: skip


class _Blocks(torch.autograd.Function):
    """Distances whose parts are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, soft: _Softened, distances: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.soft, ctx.distances = soft, distances
        return torch.cat([distances(_taken(rows, part), part) for part in _parts(rows, soft)], -1)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None, None]:
        (rows,) = ctx.saved_tensors
        by_rows, first = torch.zeros_like(rows), 0
        for part in _parts(rows, ctx.soft):
            after = first + part.ids.shape[1]
            with torch.enable_grad():
                taken = _taken(rows.detach(), part).requires_grad_()
                value = ctx.distances(taken, part)
            (found,) = torch.autograd.grad(value, taken, cotangent[..., first:after].detach())
            by_rows.scatter_add_(-1, _columns(rows, part), found.flatten(-2))
            first = after
        return *once("the L1 cost", (by_rows,), cotangent, rows), None, None


def _columns(rows: Tensor, part: _Softened) -> Tensor:
    """For each of the rows all ids of a part, ``(B, n, m·k)``."""
    return part.ids.flatten(1)[:, None].expand(-1, rows.shape[1], -1)


def _taken(rows: Tensor, part: _Softened) -> Tensor:
    """The entries ``(B, n, m, k)`` of rows with the ids of a part."""
    return rows.gather(-1, _columns(rows, part)).unflatten(-1, part.ids.shape[1:])
