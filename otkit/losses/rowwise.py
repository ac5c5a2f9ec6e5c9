"""What losses have in common that are a sum over rows of logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import over_rows
from otkit.losses.targets import REDUCTIONS, aligned, kept_of_both, one_of, reduced

Stats = dict[str, Tensor]


class RowLoss(nn.Module, ABC):
    """A loss of pairs of rows, the student's and the teacher's, which computes its gradient some rows at a time.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        What becomes of the rows.
    shift : bool
        Whether row t of a sequence predicts token t + 1, so that mask and labels at t + 1 are about row t.
    ignore_index : int
        The label of rows that take no part.
    chunk_size : int, optional
        Rows that are computed with at a time; by the vocabulary by default. The result does not depend on it.
    """

    one_vocabulary = True

    def __init__(self, reduction: str, shift: bool, ignore_index: int, chunk_size: int | None) -> None:
        super().__init__()
        one_of("reduction", reduction, REDUCTIONS)
        checks.positive(chunk_size, "chunk_size")
        self.reduction, self.shift, self.ignore_index, self.chunk_size = reduction, shift, ignore_index, chunk_size

    @abstractmethod
    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss ``(r,)`` of rows of logits ``(r, V)``, in float32 or float64."""

    @arrays.eager
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
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
        student_logits, teacher_logits : Tensor (rows, V) or (batch, length, V)
            In each sequence the first rows of both that take part belong together, and so on, as far as both go.
        mask : Tensor (rows,) or (batch, length), optional
            0 where a row takes no part, whatever is in it.
        labels : Tensor of int (rows,) or (batch, length), optional
            The same by labels: `ignore_index` where a row takes no part.
        teacher_mask, teacher_labels : Tensor, optional
            Those of the teacher's rows; by default those of the student's.
        num_items_in_batch : int or Tensor, optional
            What a mean divides by in place of the number of rows: those of all steps of an accumulated gradient.
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
        ValueError
            If shapes do not fit together.
        """
        logits, given = (student_logits, teacher_logits), ((mask, labels), (teacher_mask, teacher_labels))
        keep = kept_of_both(self, logits, *given, num_items_in_batch, one_vocabulary=self.one_vocabulary)
        rows = aligned(*keep)
        with torch.autocast(student_logits.device.type, enabled=False):
            values = over_rows(self.rows, logits, rows, self.chunk_size)
            loss = reduced(values, None, self.reduction, num_items_in_batch)
            if self.reduction == "none":
                loss = spread(values, rows[0], keep[0])
        if not return_stats:
            return loss
        each = values.detach()
        most = each.amax() if len(each) else each.sum()
        return loss, {"rows": torch.tensor(len(each)), "mean": each.sum() / max(1, len(each)), "max": most}


def spread(values: Tensor, rows: Tensor, keep: Tensor) -> Tensor:
    """Values of some rows in the shape of the mask, 0 elsewhere."""
    return values.new_zeros(keep.numel()).index_put((rows,), values).reshape(keep.shape)
