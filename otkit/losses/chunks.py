"""Losses that compute their gradient in the forward pass, some rows at a time.

Autograd keeps a softmax, sorted values and their order of logits ``(N, V)`` until the backward pass: several times the
size of the logits. Here some rows at a time are computed in float32 and differentiated at once. Only the gradient is
kept, in the dtype of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.kernels import threads
from otkit.losses.head import Head, head_values
from otkit.losses.tensors import as_numpy
from otkit.losses.topk.entries import TopK

# Entries of logits in a chunk: on the CPU as many as the cache of a core holds, elsewhere as many as fill a GPU.
_ENTRIES, _ENTRIES_ELSEWHERE = 2**18, 2**22
# Entries of a chunk of logits that a head computes: each chunk reads all its weights.
_ENTRIES_OF_HEAD = 2**23
# Exponentials in the time of an entry of a compiled loss.
_EXPONENTIALS = 4

# A compiled loss takes rows of student and teacher ``(r, V)``, a factor of the gradient, and where to write the values
# ``(r,)`` and the gradient ``(r, V)``, or ``(0, V)`` if nobody asks. A value of NaN is left to the formula.
Compiled = Callable[[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray], None]


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
    fast : callable, optional
        The same without autograd: takes the rows, and where to write the gradient ``(r, V)`` or ``(0, V)``.
    """

    rows: Tensor | slice
    number: int
    loss: Callable[[Tensor], Tensor]
    owner: Tensor | None = None
    fast: Callable[[Tensor, Tensor], Tensor] | None = None


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
    compiled: Compiled | None = None,
    expected: float = 1.0,
) -> Tensor:
    """The loss ``(r,)`` of pairs of rows of the student's and the teacher's logits, a chunk at a time.

    `compiled` does the same as `loss` where it can. Other arguments are as in `chunk_values`.
    """
    student = logits[0].reshape(-1, logits[0].shape[-1])
    teacher = logits[1].detach().reshape(-1, logits[1].shape[-1])
    heads = [v for v in (student, teacher) if isinstance(v, Head)]
    size = min(chunk_rows(chunk_size, v) for v in heads or (student, teacher))
    compiled = compiled if _fits(student, teacher) else None
    chunks = []
    for mine, theirs in zip(*(map(_run, own.split(size)) for own in rows), strict=True):

        def chunk_loss(x: Tensor, theirs: Tensor | slice = theirs) -> Tensor:
            return loss(x, upcast(teacher[theirs]))

        def fast(x: Tensor, gradient: Tensor, theirs: Tensor | slice = theirs) -> Tensor:
            return _by_kernel(compiled, loss, (x, upcast(teacher[theirs])), expected, gradient)

        chunks.append(Chunk(mine, _size(mine), chunk_loss, fast=None if compiled is None else fast))
    return chunk_values(student, chunks, learned, expected)


def _fits(student: Any, teacher: Any) -> bool:
    """Whether rows can be arrays of NumPy, of one dtype."""
    plain = all(type(v) in (Tensor, nn.Parameter) and v.device.type == "cpu" for v in (student, teacher))
    return plain and not arrays.transformed(student) and upcast(student[:0]).dtype == upcast(teacher[:0]).dtype


def _run(rows: Tensor) -> Tensor | slice:
    """Rows that follow each other on the CPU as a slice, of which no copy is made."""
    if rows.device.type != "cpu" or not len(rows):
        return rows
    first = int(rows[0])
    whole = torch.equal(rows, torch.arange(first, first + len(rows)))
    return slice(first, first + len(rows)) if whole else rows


def _by_kernel(
    compiled: Any, loss: Callable[[Tensor, Any], Tensor], both: tuple[Tensor, Any], factor: float, gradient: Tensor
) -> Tensor:
    """The values of rows, and their gradient times a factor."""
    (x, y), values = both, both[0].new_empty(len(both[0]))
    compiled(as_numpy(x), as_numpy(y), factor, values.numpy(), gradient.numpy())
    rest = values.isnan().nonzero()[:, 0]
    if len(rest) and not len(gradient):
        values[rest] = loss(x[rest], y[rest])
    elif len(rest):
        values[rest], gradient[rest] = _differentiated(lambda v: loss(v, y[rest]), x[rest], factor)
    return values


def _differentiated(loss: Callable[[Tensor], Tensor], rows: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The values of rows, and their gradient times a factor, by autograd."""
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(rows)
    (found,) = torch.autograd.grad(value, rows, torch.full_like(value, factor))
    return value.detach(), found


def chunk_values(student: Tensor | Head, chunks: list[Chunk], learned: bool = False, expected: float = 1.0) -> Tensor:
    """The values of all chunks, one after the other, differentiable by the logits ``student (N, V)``.

    A second backward pass computes the gradient again, and so does one that is differentiated (``create_graph=True``).
    A single chunk is left to autograd unless it is fast, and so are all if the losses have options that are `learned`.
    The gradient is computed for `expected`, the derivative of what is made of the values by each of them: where this
    comes, the gradient is final.
    """
    if (len(chunks) == 1 and chunks[0].fast is None) or (learned and chunks):
        return torch.cat([chunk.loss(upcast(student[chunk.rows])) for chunk in chunks])
    if isinstance(student, Head) and chunks:
        return head_values(student, chunks)
    if isinstance(student, Tensor) and torch.is_grad_enabled() and student.requires_grad:
        checks.no_transform(student, "student_logits")
        values: Tensor = _Values.apply(student, chunks, expected)
        return values
    with torch.no_grad():
        found = [_value(chunk, upcast(student[chunk.rows])) for chunk in chunks]
    return torch.cat(found) if found else upcast(student.new_zeros(0))


def _value(chunk: Chunk, rows: Tensor) -> Tensor:
    """Without a gradient."""
    return chunk.loss(rows) if chunk.fast is None else chunk.fast(rows, rows.new_empty(0, rows.shape[-1]))


class _Computed(NamedTuple):
    """Of rows ``(N, V)`` the gradient, what remains to multiply it by, and the value that each row belongs to."""

    gradient: Tensor
    factor: Tensor
    owner: Tensor


class _Values(torch.autograd.Function):
    """Values whose gradient is computed with them."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, chunks: list[Chunk], expected: float) -> Tensor:
        ctx.save_for_backward(student)
        # The context must not hold the values, whose node holds it: a loss that is dropped would never be freed.
        values, ctx.computed = _compute(student, chunks, expected)
        ctx.chunks, ctx.expected = chunks, expected
        return values

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (student,) = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph=True
        if again or arrays.transformed(cotangent):
            with torch.enable_grad():
                values = torch.cat([chunk.loss(upcast(student[chunk.rows])) for chunk in ctx.chunks])
            return torch.autograd.grad(values, student, cotangent, create_graph=again)[0], None, None
        gradient, factor, owner = ctx.computed or _compute(student, ctx.chunks, ctx.expected)[1]
        ctx.computed = None  # multiplied in place below: a second pass must not multiply it again
        as_expected = cotangent.device.type == "cpu" and bool((cotangent == ctx.expected).all())
        if len(cotangent) and not (as_expected and _has_range(student)):
            _multiply(gradient, factor * cotangent[owner])
        return gradient, None, None


def _has_range(v: Tensor) -> bool:
    """Whether the dtype has the exponents of a gradient in float32."""
    return v.dtype != torch.float16


def _compute(student: Tensor, chunks: list[Chunk], expected: float) -> tuple[Tensor, _Computed]:
    """The values ``(K,)``, and their gradient."""
    firsts = np.cumsum([0, *(chunk.number for chunk in chunks)]).tolist()
    covered = sum(_size(chunk.rows) for chunk in chunks) == len(student)
    gradient = student.new_empty(student.shape) if covered else student.new_zeros(student.shape)
    factor = upcast(student.new_full((len(student),), 1 / expected))
    owner = torch.zeros(len(student), dtype=torch.long, device=student.device)
    # Results are allocated before the first chunk, so that the memory of a chunk can be used again by the next.
    values = factor.new_empty(firsts[-1])

    def work(k: int) -> None:
        chunk, first = chunks[k], firsts[k]
        rows, out = upcast(student[chunk.rows].detach()), gradient[chunk.rows]
        in_place = isinstance(chunk.rows, slice) and out.dtype == rows.dtype and out.is_contiguous()
        if chunk.fast is None:
            value, found = _differentiated(chunk.loss, rows, expected)
        else:
            found = out if in_place else rows.new_empty(rows.shape)
            value = chunk.fast(rows, found)
        if not _has_range(student):  # scale each row to its largest entry: none is lost to underflow
            size = torch.where(found == 0, 0.0, found.abs()).amax(-1)
            size = torch.where(size > 0, size, 1.0)
            found = found / size[:, None]
            factor[chunk.rows] *= size
        if found is not out:
            gradient[chunk.rows] = found.to(student.dtype)
        inside = torch.arange(len(rows), device=student.device) if chunk.owner is None else chunk.owner
        owner[chunk.rows] = first + inside
        values[first : first + chunk.number] = value

    entries = student.numel() if all(chunk.fast for chunk in chunks) else 0
    threads.each(work, range(len(chunks)), _EXPONENTIALS * entries)
    return values, _Computed(gradient, factor, owner)


def _size(rows: Tensor | slice) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _multiply(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the rows in place, in the precision of the factor."""
    size = chunk_rows(None, gradient)
    for low in range(0, len(gradient), size):
        part = slice(low, low + size)
        gradient[part] = gradient[part] * factor[part, None]
