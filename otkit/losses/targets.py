"""Which rows of logits a distillation loss is about, and what becomes of their values."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Complain about a word that is not known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_logits(student: Tensor, teacher: Tensor, *, one_vocabulary: bool = True) -> None:
    """Logits ``(..., V)`` that can be compared."""
    for name, v in (("student_logits", student), ("teacher_logits", teacher)):
        if not v.is_floating_point() or v.ndim < 2 or v.shape[-1] == 0:
            raise ValueError(
                f"{name} must be of a floating-point dtype and of shape (rows, V) or (batch, length, V), got "
                f"{v.dtype} {tuple(v.shape)}"
            )
    if student.ndim != teacher.ndim or student.shape[:-2] != teacher.shape[:-2]:
        raise ValueError(
            "student_logits and teacher_logits must have as many axes and the same leading ones, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if one_vocabulary and student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"student and teacher must have one vocabulary, got {student.shape[-1]} and {teacher.shape[-1]} entries; "
            "cut off what only pads one of them, or use ULDLoss"
        )
    if student.device != teacher.device:
        raise ValueError(f"student_logits are on {student.device} and teacher_logits on {teacher.device}; move them")


def kept(
    logits: Tensor, mask: Tensor | None, labels: Tensor | None, shift: bool, ignore_index: int, who: str = ""
) -> Tensor:
    """The rows that take part, as a mask of the shape of `logits` but for its last axis.

    Row t of a sequence is judged by the token at t, or with `shift` by that at t + 1, which a causal model predicts.
    """
    shape = logits.shape[:-1]
    keep = torch.ones(shape, dtype=torch.bool, device=logits.device)
    for name, given in ((f"{who}mask", mask), (f"{who}labels", labels)):
        if given is None:
            continue
        if given.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, a number for each row, got {tuple(given.shape)}")
        if given.is_floating_point() and given is labels:
            raise ValueError(f"{name} must be whole numbers, got {given.dtype}; pass mask= for weights of 0 and 1")
        keep = keep & (given.to(keep.device) != (0 if given is mask else ignore_index))
    if shift:
        if logits.ndim < 3:
            raise ValueError(f"shift=True is for logits (batch, length, V), got shape {tuple(logits.shape)}")
        keep = torch.cat([keep[..., 1:], torch.zeros_like(keep[..., :1])], -1)
    return keep


class Options(Protocol):
    """What a loss of logits has been told about its rows."""

    reduction: str
    shift: bool
    ignore_index: int


def kept_of_both(
    loss: Options,
    logits: tuple[Tensor, Tensor],
    given: tuple[Tensor | None, Tensor | None],
    given_teacher: tuple[Tensor | None, Tensor | None],
    num_items: Tensor | float | None,
    *,
    one_vocabulary: bool = True,
) -> tuple[Tensor, Tensor]:
    """`kept` for the mask and labels of the student and of the teacher, once the arguments of a loss are checked.

    The teacher's are by default the student's.
    """
    student, teacher = logits
    check_logits(student, teacher, one_vocabulary=one_vocabulary)
    check_reduction(loss.reduction, num_items)
    keep = kept(student, *given, loss.shift, loss.ignore_index)
    if given_teacher == (None, None) and student.shape[:-1] == teacher.shape[:-1]:
        return keep, keep
    if given_teacher == (None, None) and given != (None, None):
        raise ValueError(
            f"mask and labels are about rows {tuple(student.shape[:-1])} of the student, and the teacher has "
            f"{tuple(teacher.shape[:-1])}; pass teacher_mask= or teacher_labels= too"
        )
    return keep, kept(teacher, *given_teacher, loss.shift, loss.ignore_index, "teacher_")


def aligned(keep: Tensor, teacher_keep: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of rows that belong together: in each sequence the first kept ones of both, as far as both go."""
    both = [v.reshape(-1, v.shape[-1]) for v in (keep, teacher_keep)]
    ranks = [v.cumsum(-1) for v in both]
    common = torch.minimum(ranks[0][:, -1:], ranks[1][:, -1:])
    student, teacher = ((v & (rank <= common)).flatten().nonzero()[:, 0] for v, rank in zip(both, ranks, strict=True))
    return student, teacher


def check_reduction(reduction: str, num_items: Tensor | float | None) -> None:
    """`num_items_in_batch` is what a mean divides by."""
    if num_items is not None and reduction != "mean":
        raise ValueError(
            f"num_items_in_batch is what reduction='mean' divides by, got reduction={reduction!r}; drop one of them"
        )


def reduced(values: Tensor, counts: Tensor | None, reduction: str, num_items: Tensor | float | None) -> Tensor:
    """The mean or the sum of values; with `num_items` the sum over their `counts` rows, divided by it."""
    if reduction == "none":
        return values
    if num_items is not None:
        items = num_items.to(values.device) if isinstance(num_items, Tensor) else num_items
        return (values if counts is None else values * counts).sum() / items
    # Without any row the loss is 0, and so is its gradient.
    return values.sum() / max(1, values.numel()) if reduction == "mean" else values.sum()
