"""Losses that find their gradient in the forward pass, some rows at a time.

What autograd would keep of logits ``(N, V)`` until the way back (a softmax, sorted values, their order) is several
times their size. Here a few rows at a time are computed in float32 and differentiated at once, and only the gradient is
kept, in the dtype of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Entries of logits that are computed with at a time: what the cache of a core holds, and what keeps a GPU busy.
_ENTRIES, _ENTRIES_ELSEWHERE = 2**18, 2**22


class Piece(NamedTuple):
    """Some rows of the student's logits, and their loss.

    Attributes
    ----------
    rows : Tensor of int (r,) or slice
    number : int
        How many values k they have.
    loss : callable
        Takes the rows ``(r, V)`` in float32 or float64, and returns values ``(k,)``, each of rows of its own.
    owner : Tensor of int (r,), optional
        The value that each row belongs to; without it, each has one.
    """

    rows: Tensor | slice
    number: int
    loss: Callable[[Tensor], Tensor]
    owner: Tensor | None = None


def wide(v: Tensor) -> Tensor:
    """Half precision in float32."""
    return v.float() if v.dtype in (torch.float16, torch.bfloat16) else v


def chunk_rows(chunk_size: int | None, logits: Tensor) -> int:
    """How many rows of logits ``(…, V)`` are computed with at a time."""
    entries = _ENTRIES if logits.device.type == "cpu" else _ENTRIES_ELSEWHERE
    return chunk_size or max(1, entries // logits.shape[-1])


def over_rows(
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor],
    chunk_size: int | None,
) -> Tensor:
    """The loss ``(r,)`` of pairs of rows, each of the student's and the teacher's logits, some at a time."""
    student, teacher = (v.reshape(-1, v.shape[-1]) for v in logits)
    size = chunk_rows(chunk_size, max(student, teacher, key=lambda v: v.shape[1]))
    pieces = []
    for mine, theirs in zip(rows[0].split(size), rows[1].split(size), strict=True):

        def of(x: Tensor, theirs: Tensor = theirs) -> Tensor:
            return loss(x, wide(teacher[theirs].detach()))

        pieces.append(Piece(mine, len(mine), of))
    return values_of(student, pieces)


def values_of(student: Tensor, pieces: list[Piece]) -> Tensor:
    """The values of all pieces, one after the other, differentiable by the logits ``student (N, V)``.

    They can be differentiated once. Going back a second time computes the gradient anew. One piece alone is left to
    autograd.
    """
    if len(pieces) == 1:  # nothing to gain
        return pieces[0].loss(wide(student[pieces[0].rows]))
    if torch.is_grad_enabled() and student.requires_grad:
        values: Tensor = _Values.apply(student, pieces)
        return values
    with torch.no_grad():
        found = [piece.loss(wide(student[piece.rows])) for piece in pieces]
    return torch.cat(found) if found else wide(student.new_zeros(0))


class _Found(NamedTuple):
    """Values ``(K,)``; of rows ``(N, V)`` the gradient, what it is to be multiplied by, and which value it is of."""

    values: Tensor
    gradient: Tensor
    factor: Tensor
    owner: Tensor


class _Values(torch.autograd.Function):
    """Values whose gradient is known before anybody asks for it."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, pieces: list[Piece]) -> Tensor:
        ctx.save_for_backward(student)
        ctx.pieces, ctx.found = pieces, _find(student, pieces)
        values: Tensor = ctx.found.values
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        found = ctx.found or _find(student, ctx.pieces)
        ctx.found = None  # given away: it must not be multiplied again
        if len(found.values):
            _multiply(found.gradient, found.factor * cotangent[found.owner])
        return found.gradient, None


def _find(student: Tensor, pieces: list[Piece]) -> _Found:
    gradient = torch.zeros_like(student)
    narrow = wide(student[:0]).dtype != student.dtype
    factor = wide(student.new_zeros(len(student)))
    owner = torch.zeros(len(student), dtype=torch.long, device=student.device)
    # All that outlives a piece has its place before the first one, so that the memory of pieces can be used again.
    values = factor.new_empty(sum(piece.number for piece in pieces))
    first = 0
    for piece in pieces:
        rows = wide(student[piece.rows].detach()).requires_grad_()
        with torch.enable_grad():
            value = piece.loss(rows)
        (found,) = torch.autograd.grad(value, rows, torch.ones_like(value))
        if narrow:  # each row is scaled to its largest entry, so that none is lost to underflow
            size = torch.where(found == 0, 0.0, found.abs()).amax(-1)
            size = torch.where(size > 0, size, 1.0)
            found = found / size[:, None]
            factor[piece.rows] = size
        else:
            factor[piece.rows] = 1.0
        gradient[piece.rows] = found.to(student.dtype)
        inside = torch.arange(len(rows), device=student.device) if piece.owner is None else piece.owner
        owner[piece.rows] = first + inside
        values[first : first + piece.number] = value.detach()
        first += piece.number
    return _Found(values, gradient, factor, owner)


def _multiply(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the rows in place, with the precision of the factor."""
    size = chunk_rows(None, gradient)
    for low in range(0, len(gradient), size):
        part = slice(low, low + size)
        gradient[part] = gradient[part] * factor[part, None]
