"""Losses of rows of logits: the rows that take part, the reduction of their values, and the base of such losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import Compiled, row_values
from otkit.losses.head import Head
from otkit.losses.sequences import aligned_rows
from otkit.losses.tensors import check_option, check_tensor, numbered
from otkit.losses.topk.entries import TopK

REDUCTIONS = ("mean", "sum", "none")

Stats = dict[str, Tensor]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Complain about an option that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_logits(student: Tensor | Head, teacher: Tensor | TopK | Head, *, one_vocabulary: bool = True) -> None:
    """Complain about logits ``(..., V)`` that cannot be compared."""
    both: tuple[tuple[str, Tensor | TopK | Head], ...] = (("student_logits", student), ("teacher_logits", teacher))
    for name, v in both:
        if not isinstance(v, Head if name == "student_logits" else (TopK, Head)):
            check_tensor(name, v)
        if v.ndim < 2 or v.shape[-1] == 0:
            raise ValueError(
                f"{name} must have shape (rows, V) or (batch, length, V), got {tuple(v.shape)}; logits[None] is one row"
            )
    if student.ndim != teacher.ndim or student.shape[:-2] != teacher.shape[:-2]:
        raise ValueError(
            "student_logits and teacher_logits must have as many axes and the same leading ones, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}; only lengths and vocabularies may differ"
        )
    if one_vocabulary and not isinstance(teacher, TopK) and student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"student and teacher must have one vocabulary, got {student.shape[-1]} and {teacher.shape[-1]} entries; "
            "cut off the padding of the larger one, or use ULDLoss"
        )
    if student.device != teacher.device:
        raise ValueError(f"student_logits are on {student.device} and teacher_logits on {teacher.device}; move them")


def check_reduction(reduction: str, num_items: Tensor | float | None) -> None:
    """Complain about `num_items_in_batch` beside a reduction that is no mean."""
    if num_items is not None and reduction != "mean":
        raise ValueError(
            f"num_items_in_batch is what reduction='mean' divides by, got reduction={reduction!r}; drop one of them"
        )


def row_mask(
    logits: Tensor | TopK | Head,
    mask: Tensor | None,
    labels: Tensor | None,
    shift: bool,
    ignore_index: int,
    who: str = "",
) -> Tensor:
    """The rows that take part, as a mask of the leading axes of `logits`: bool, or the numbers of packed documents.

    The token at t decides about row t of a sequence; with `shift` the token at t + 1, which a causal model predicts
    within its document.
    """
    shape = logits.shape[:-1]
    own = keep = torch.ones(shape, dtype=torch.bool, device=logits.device)
    for name, given in ((f"{who}mask", mask), (f"{who}labels", labels)):
        if given is None:
            continue
        check_tensor(name, given, floating=False)
        if given.shape != shape:
            raise ValueError(
                f"{name} must have shape {tuple(shape)}, a number for each row, got {tuple(given.shape)}; cut or pad "
                "it as the logits"
            )
        if given.is_floating_point() and given is labels:
            raise ValueError(f"{name} must be whole numbers, got {given.dtype}; pass mask= for weights of 0 and 1")
        there = (numbered(name, given) if given is mask else given != ignore_index).to(keep.device)
        own = there if given is mask else own
        keep = keep * there
    if shift:
        if logits.ndim < 3:
            raise ValueError(
                f"shift=True is for logits (batch, length, V), got shape {tuple(logits.shape)}; pass shift=False"
            )
        keep = torch.cat([keep[..., 1:], torch.zeros_like(keep[..., :1])], -1)
        if keep.dtype != torch.bool:  # the last row of a document does not predict the first token of the next
            keep = keep.masked_fill((own != 0) & (own != keep), 0)
    return keep


class RowOptions(Protocol):
    """The options of a loss of logits that concern its rows."""

    reduction: str
    shift: bool
    ignore_index: int
    check: bool


def row_masks(
    loss: RowOptions,
    logits: tuple[Tensor | Head, Tensor | TopK | Head],
    given: tuple[Tensor | None, Tensor | None],
    given_teacher: tuple[Tensor | None, Tensor | None],
    num_items: Tensor | float | None,
    *,
    one_vocabulary: bool = True,
) -> tuple[Tensor, Tensor]:
    """Check the arguments of a loss, and return `row_mask` of the student and of the teacher.

    Mask and labels of the teacher are by default those of the student.
    """
    student, teacher = logits
    check_logits(student, teacher, one_vocabulary=one_vocabulary)
    check_reduction(loss.reduction, num_items)
    keep = teacher_keep = row_mask(student, *given, loss.shift, loss.ignore_index)
    if given_teacher != (None, None) or student.shape[:-1] != teacher.shape[:-1]:
        teacher_keep = _teacher_mask(loss, logits, given, given_teacher)
    if keep.dtype != teacher_keep.dtype:
        raise ValueError(
            "mask and teacher_mask must both number documents, or none, got numbers above 1 in one of them; pass the "
            "same numbers for the same documents"
        )
    if isinstance(teacher, TopK):
        teacher.check_against(student.shape[-1] if one_vocabulary else None, teacher_keep != 0)
    if loss.check:
        check_numbers("student_logits", student, keep)
        check_numbers("teacher_logits", teacher, teacher_keep)
    return keep, teacher_keep


def check_numbers(name: str, v: Tensor | TopK | Head, keep: Tensor) -> None:
    """Complain about rows that take part with NaN or +inf, of logits or of what they are computed from."""
    dense = v.hidden if isinstance(v, Head) else v.logprobs if isinstance(v, TopK) else v
    bad = (dense.detach().amax(-1).isfinite() | (dense.detach().amax(-1) == -torch.inf)).logical_not() & (keep != 0)
    if bool(bad.any()):
        raise ValueError(
            f"{name} must be numbers or -inf, got NaN or inf in {int(bad.sum())} rows that take part; leave them "
            "out by mask=, or pass check=False for a loss of NaN"
        )


def _teacher_mask(
    loss: RowOptions,
    logits: tuple[Tensor | Head, Tensor | TopK | Head],
    given: tuple[Tensor | None, Tensor | None],
    given_teacher: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """The rows of the teacher that take part, where they are not those of the student."""
    student, teacher = logits
    if given_teacher == (None, None) and given != (None, None):
        raise ValueError(
            f"mask and labels are about rows {tuple(student.shape[:-1])} of the student, and the teacher has "
            f"{tuple(teacher.shape[:-1])}; pass teacher_mask= or teacher_labels= too"
        )
    return row_mask(teacher, *given_teacher, loss.shift, loss.ignore_index, "teacher_")


def expectation(log_w: Tensor, t: Tensor) -> Tensor:
    """Σ w·t over the last axis, with 0·(±inf) = 0; infinite where t is and w is above 0, also if that underflows.

    The gradient is that of the finite terms.
    """
    total = (log_w.exp() * t).sum(-1)
    if total.isfinite().all():
        return total
    none = log_w == -torch.inf
    infinite = t.isinf() & ~none
    total = (log_w.exp() * t.masked_fill(none | infinite, 0.0)).sum(-1)
    return total + torch.where(infinite, t.detach(), 0.0).sum(-1)


def uniform(there: Tensor, dtype: torch.dtype) -> Tensor:
    """Equal weights of total 1 over the True entries of the last axis."""
    weights = there.to(dtype)
    return weights / weights.sum(-1, keepdim=True)


def reduce(values: Tensor, counts: Tensor | None, reduction: str, num_items: Tensor | float | None) -> Tensor:
    """The mean or the sum of values; with `num_items` the sum over their `counts` rows, divided by it."""
    if reduction == "none":
        return values
    if num_items is not None:
        items = num_items.to(values.device) if isinstance(num_items, Tensor) else num_items
        return (values if counts is None else values * counts).sum() / items
    # Without any row the loss is 0, and so is its gradient.
    return values.sum() / max(1, values.numel()) if reduction == "mean" else values.sum()


def expected_cotangent(reduction: str, num_items: Tensor | float | None, number: int) -> float:
    """The derivative of what `reduce` makes of so many values by each of them, where it is known without waiting."""
    if num_items is not None:
        return 1.0 if isinstance(num_items, Tensor) and num_items.device.type != "cpu" else 1.0 / float(num_items)
    return 1.0 / max(1, number) if reduction == "mean" else 1.0


def scatter(values: Tensor, rows: Tensor, keep: Tensor) -> Tensor:
    """Values of some rows in the shape of the mask, 0 elsewhere."""
    return values.new_zeros(keep.numel()).index_put((rows,), values).reshape(keep.shape)


class RowLoss(nn.Module, ABC):
    """A loss of pairs of rows of the student and the teacher, which computes its gradient some rows at a time.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        The reduction over the rows.
    shift : bool
        Whether row t of a sequence predicts token t + 1, so that mask and labels at t + 1 are about row t.
    ignore_index : int
        The label of rows that take no part.
    chunk_size : int, optional
        The number of rows in a chunk; by default it follows from the vocabulary. The result does not depend on it.
    check : bool
        Whether to raise where logits of a row that takes part are NaN or +inf. By default its loss is NaN.
    """

    one_vocabulary = True
    temperatures: tuple[str, ...] = ()  # the names of options that may be tensors

    def __init__(
        self, reduction: str, shift: bool, ignore_index: int, chunk_size: int | None, check: bool = False
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        checks.positive(chunk_size, "chunk_size")
        self.reduction, self.shift, self.ignore_index, self.chunk_size = reduction, shift, ignore_index, chunk_size
        self.check = check

    @abstractmethod
    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss ``(r,)`` of rows of logits ``(r, V)``, in float32 or float64."""

    def rows_of_known(self, student: Tensor, teacher: TopK) -> Tensor:
        """`rows` for a teacher of which the leading entries are known."""
        return self.rows(student, teacher.logits(student.shape[-1]))

    def _learned(self) -> bool:
        """Whether an option has a gradient; complains about those that are not positive any more."""
        given = [(name, getattr(self, name)) for name in self.temperatures]
        for name, value in given:
            check_option(name, value)
        return any(isinstance(value, Tensor) and value.requires_grad for _, value in given)

    def check_tail(self, teacher: TopK) -> None:
        """Complain about what a teacher's `tail` leaves unknown, and the loss needs."""

    def compare(self, student: Tensor, teacher: Tensor | TopK) -> Tensor:
        """The loss ``(r,)`` of rows of logits ``(r, V)``, for any teacher."""
        return self.rows_of_known(student, teacher) if isinstance(teacher, TopK) else self.rows(student, teacher)

    def compiled(self) -> Compiled | None:
        """`rows` and its gradient as a compiled loop, if there is one."""
        return None

    def reduced(self, values: Tensor, sizes: Tensor, num_items: Tensor | float | None) -> Tensor:
        """The reduction of the values ``(r,)`` of paired rows, of which `sizes` says how many each sequence has."""
        return reduce(values, None, self.reduction, num_items)

    @arrays.eager
    def forward(
        self,
        student_logits: Tensor | Head,
        teacher_logits: Tensor | TopK | Head,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        teacher_mask: Tensor | None = None,
        teacher_labels: Tensor | None = None,
        num_items_in_batch: Tensor | float | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Stats]:
        """The loss of a batch.

        Parameters
        ----------
        student_logits : Tensor (rows, V) or (batch, length, V), or Head
        teacher_logits : Tensor, TopK or Head
            In each sequence the rows of both that take part are paired from the first on, until one has no more.
        mask : Tensor (rows,) or (batch, length), optional
            0 where a row takes no part, whatever is in it. Whole numbers above 1 are those of the documents that are
            packed in a sequence: rows are then paired by documents, and with `shift` none predicts another's token.
        labels : Tensor of int (rows,) or (batch, length), optional
            The same by labels: `ignore_index` where a row takes no part.
        teacher_mask, teacher_labels : Tensor, optional
            Those of the teacher's rows; by default those of the student's.
        num_items_in_batch : int or Tensor, optional
            The divisor of a mean in place of the number of rows: the rows of all steps of an accumulated gradient.
        return_stats : bool
            Whether to return statistics too.

        Returns
        -------
        Tensor
            A number; without a reduction one for every row of the student, 0 where it takes no part.
        dict of str to Tensor
            With `return_stats`: "rows", and the "mean" and the "max" over them.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, or with ``check=True`` as there.
        """
        logits, given = (student_logits, teacher_logits), ((mask, labels), (teacher_mask, teacher_labels))
        keep = row_masks(self, logits, *given, num_items_in_batch, one_vocabulary=self.one_vocabulary)
        if isinstance(teacher_logits, TopK):
            self.check_tail(teacher_logits)
        rows, sizes = aligned_rows(*keep)
        with torch.autocast(student_logits.device.type, enabled=False):
            expected = expected_cotangent(self.reduction, num_items_in_batch, len(rows[0]))
            values = row_values(self.compare, logits, rows, self.chunk_size, self._learned(), self.compiled(), expected)
            loss = self.reduced(values, sizes, num_items_in_batch)
            if self.reduction == "none":
                loss = scatter(values, rows[0], keep[0])
        if not return_stats:
            return loss
        each = values.detach()
        largest = each.amax() if len(each) else each.sum()
        return loss, {"rows": torch.tensor(len(each)), "mean": each.sum() / max(1, len(each)), "max": largest}
