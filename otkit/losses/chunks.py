"""Losses that compute their gradient in the forward pass, some rows at a time.

Autograd keeps a softmax, sorted values and their order of logits ``(N, V)`` until the backward pass: several times the
size of the logits. Here some rows at a time are computed in float32 and differentiated at once. Only the gradient is
kept, in the dtype of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from otkit import checks
from otkit.losses.head import Head, head_values
from otkit.losses.topk.entries import TopK

# Entries of logits in a chunk: on the CPU as many as the cache of a core holds, elsewhere as many as fill a GPU.
_ENTRIES, _ENTRIES_ELSEWHERE = 2**18, 2**22
# Entries of a chunk of logits that a head computes: each chunk reads all its weights.
_ENTRIES_OF_HEAD = 2**23


class Chunk(NamedTuple):
    """Some rows of the student's logits, and their loss.

    Attributes
    ----------
    rows : Tensor of int (r,) or slice
    number : int
        The number of values, k.
    loss : callable
        Takes the rows ``(r, V)`` in float32 or float64, and returns values ``(k,)``, each of rows of its own.
    owner : Tensor of int (r,), optional
        The value that each row belongs to. Without it, each row has one.
    """

    rows: Tensor | slice
    number: int
    loss: Callable[[Tensor], Tensor]
    owner: Tensor | None = None


@overload
def upcast(v: Tensor) -> Tensor: ...
@overload
def upcast(v: TopK) -> TopK: ...
@overload
def upcast(v: Tensor | TopK) -> Tensor | TopK: ...
def upcast(v: Tensor | TopK) -> Tensor | TopK:
    """Half precision in float32; other dtypes as they are."""
    if isinstance(v, TopK):
        return v.upcast()
    return v.float() if v.dtype in (torch.float16, torch.bfloat16) else v


def chunk_rows(chunk_size: int | None, logits: Tensor | TopK | Head) -> int:
    """The number of rows of logits ``(…, V)`` in a chunk."""
    entries = _ENTRIES if logits.device.type == "cpu" else _ENTRIES_ELSEWHERE
    entries = _ENTRIES_OF_HEAD if isinstance(logits, Head) else entries
    return chunk_size or max(1, entries // logits.shape[-1])


def row_values(
    loss: Callable[[Tensor, Any], Tensor],
    logits: tuple[Tensor | Head, Tensor | TopK | Head],
    rows: tuple[Tensor, Tensor],
    chunk_size: int | None,
    learned: bool = False,
) -> Tensor:
    """The loss ``(r,)`` of pairs of rows of the student's and the teacher's logits, a chunk at a time."""
    student = logits[0].reshape(-1, logits[0].shape[-1])
    teacher = logits[1].detach().reshape(-1, logits[1].shape[-1])
    heads = [v for v in (student, teacher) if isinstance(v, Head)]
    size = min(chunk_rows(chunk_size, v) for v in heads or (student, teacher))
    chunks = []
    for mine, theirs in zip(rows[0].split(size), rows[1].split(size), strict=True):

        def chunk_loss(x: Tensor, theirs: Tensor = theirs) -> Tensor:
            return loss(x, upcast(teacher[theirs]))

        chunks.append(Chunk(mine, len(mine), chunk_loss))
    return chunk_values(student, chunks, learned)


def chunk_values(student: Tensor | Head, chunks: list[Chunk], learned: bool = False) -> Tensor:
    """The values of all chunks, one after the other, differentiable by the logits ``student (N, V)``.

    A second backward pass computes the gradient again, and so does one that is differentiated (``create_graph=True``).
    A single chunk is left to autograd, and so are all if the losses have options that are `learned`.
    """
    if len(chunks) == 1 or (learned and chunks):
        return torch.cat([chunk.loss(upcast(student[chunk.rows])) for chunk in chunks])
    if isinstance(student, Head) and chunks:
        return head_values(student, chunks)
    if isinstance(student, Tensor) and torch.is_grad_enabled() and student.requires_grad:
        checks.no_transform(student, "student_logits")
        values: Tensor = _Values.apply(student, chunks)
        return values
    with torch.no_grad():
        found = [chunk.loss(upcast(student[chunk.rows])) for chunk in chunks]
    return torch.cat(found) if found else upcast(student.new_zeros(0))


class _Computed(NamedTuple):
    """Of rows ``(N, V)`` the gradient, its factor, and the value that each belongs to."""

    gradient: Tensor
    factor: Tensor
    owner: Tensor


class _Values(torch.autograd.Function):
    """Values whose gradient is computed with them."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, chunks: list[Chunk]) -> Tensor:
        ctx.save_for_backward(student)
        # The context must not hold the values, whose node holds it: a loss that is dropped would never be freed.
        values, ctx.computed = _compute(student, chunks)
        ctx.chunks = chunks
        return values

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            values = torch.cat([chunk.loss(upcast(student[chunk.rows])) for chunk in ctx.chunks])
            return torch.autograd.grad(values, student, cotangent, create_graph=True)[0], None
        computed = ctx.computed or _compute(student, ctx.chunks)[1]
        ctx.computed = None  # multiplied in place below: a second pass must not multiply it again
        if len(cotangent):
            _multiply(computed.gradient, computed.factor * cotangent[computed.owner])
        return computed.gradient, None


def _compute(student: Tensor, chunks: list[Chunk]) -> tuple[Tensor, _Computed]:
    """The values ``(K,)``, and their gradient."""
    gradient = torch.zeros_like(student)
    narrow = upcast(student[:0]).dtype != student.dtype
    factor = upcast(student.new_zeros(len(student)))
    owner = torch.zeros(len(student), dtype=torch.long, device=student.device)
    # Results are allocated before the first chunk, so that the memory of a chunk can be used again by the next.
    values = factor.new_empty(sum(chunk.number for chunk in chunks))
    first = 0
    for chunk in chunks:
        rows = upcast(student[chunk.rows].detach()).requires_grad_()
        with torch.enable_grad():
            value = chunk.loss(rows)
        (found,) = torch.autograd.grad(value, rows, torch.ones_like(value))
        if narrow:  # scale each row to its largest entry: none is lost to underflow
            size = torch.where(found == 0, 0.0, found.abs()).amax(-1)
            size = torch.where(size > 0, size, 1.0)
            found = found / size[:, None]
            factor[chunk.rows] = size
        else:
            factor[chunk.rows] = 1.0
        gradient[chunk.rows] = found.to(student.dtype)
        inside = torch.arange(len(rows), device=student.device) if chunk.owner is None else chunk.owner
        owner[chunk.rows] = first + inside
        values[first : first + chunk.number] = value.detach()
        first += chunk.number
    return values, _Computed(gradient, factor, owner)


def _multiply(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the rows in place, in the precision of the factor."""
    size = chunk_rows(None, gradient)
    for low in range(0, len(gradient), size):
        part = slice(low, low + size)
        gradient[part] = gradient[part] * factor[part, None]
