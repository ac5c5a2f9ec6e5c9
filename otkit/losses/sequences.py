"""The rows of sequences, and of the documents that are packed in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Pair = tuple[Tensor, Tensor]


class Rows(NamedTuple):
    """The rows that take part, in the order of their sequences."""

    indices: Tensor
    sizes: Tensor  # how many of them each sequence has

    def parts(self) -> tuple[Tensor, ...]:
        """The indices of the rows of each sequence."""
        return self.indices.split(self.sizes.tolist())


def by_sequence(keep: Tensor, teacher_keep: Tensor) -> tuple[Rows, Rows]:
    """The rows of student and teacher that take part, for the same sequences.

    With numbers of packed documents, these are the sequences: all of which the student has a row, by their numbers.
    """
    both = [v.reshape(v.shape[:-1].numel(), v.shape[-1]) for v in (keep, teacher_keep)]
    rows = [v.flatten().nonzero()[:, 0] for v in both]
    sequence = [own // max(1, v.shape[-1]) for own, v in zip(rows, both, strict=True)]
    number = len(both[0])
    if keep.dtype != torch.bool:
        most = 1 + max(int(v.max()) for v in both)
        key = [at * most + v.flatten()[own] for at, v, own in zip(sequence, both, rows, strict=True)]
        found = key[0].unique()
        number = len(found)
        known = [torch.isin(v, found) for v in key]
        rows = [own[there] for own, there in zip(rows, known, strict=True)]
        sequence = [torch.searchsorted(found, v[there]) for v, there in zip(key, known, strict=True)]
    mine, theirs = (
        Rows(own[at.argsort(stable=True)], torch.bincount(at, minlength=number))
        for own, at in zip(rows, sequence, strict=True)
    )
    return mine, theirs


def aligned_rows(keep: Tensor, teacher_keep: Tensor) -> tuple[Pair, Tensor]:
    """The indices of paired rows: in each sequence the first kept rows of both, until one has no more.

    They are in the order of the sequences, and there are as many in each as the second says.
    """
    both = by_sequence(keep, teacher_keep)
    common = torch.minimum(both[0].sizes, both[1].sizes)
    student, teacher = (rows[_place(sizes) < common.repeat_interleave(sizes)] for rows, sizes in both)
    return (student, teacher), common


def _place(sizes: Tensor) -> Tensor:
    """The place of each row in its sequence."""
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return torch.arange(len(first), device=sizes.device) - first


def table(documents: Sequence[Tensor], filling: float) -> Tensor:
    """Rows of documents ``(k, …)`` as ``(documents, longest, …)``, with at least one column."""
    one = documents[0].new_zeros((1, *documents[0].shape[1:]))
    return pad_sequence([*documents, one], batch_first=True, padding_value=filling)[:-1]
