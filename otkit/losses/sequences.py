"""The rows of sequences, and of the documents that are packed in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from otkit.losses.topk.entries import TopK

Pair = tuple[Tensor, Tensor]


class Rows(NamedTuple):
    """The rows that take part, in the order of their sequences."""

    indices: Tensor
    sequence: Tensor  # that of each row
    sizes: Tensor  # how many rows each sequence has

    def parts(self) -> tuple[Tensor, ...]:
        """The indices of the rows of each sequence."""
        return self.indices.split(self.sizes.tolist())


def by_sequence(keep: Tensor, teacher_keep: Tensor) -> tuple[Rows, Rows]:
    """The rows of student and teacher that take part, for the same sequences.

    With numbers of packed documents, these are the sequences: all of which the student has a row, by their numbers.
    """
    masks = [keep] if teacher_keep is keep else [keep, teacher_keep]
    both = [v.reshape(v.shape[:-1].numel(), v.shape[-1]) for v in masks]
    found = [_rows(v) for v in both]
    if keep.dtype != torch.bool:
        found = _by_document(found, [v.flatten()[rows.indices] for v, rows in zip(both, found, strict=True)])
    return found[0], found[-1]


def _rows(keep: Tensor) -> Rows:
    """The rows of the sequences of a mask ``(B, n)``."""
    indices = keep.flatten().nonzero()[:, 0]
    sequence = indices // max(1, keep.shape[-1])
    return Rows(indices, sequence, torch.bincount(sequence, minlength=len(keep)))


def _by_document(both: list[Rows], numbers: list[Tensor]) -> list[Rows]:
    """The rows of documents, of which each row has the number in its sequence."""
    most = 1 + max(int(v.max()) if len(v) else 0 for v in numbers)
    keys = [rows.sequence * most + v for rows, v in zip(both, numbers, strict=True)]
    documents, out = keys[0].unique(), []
    for rows, key in zip(both, keys, strict=True):
        known = torch.isin(key, documents)
        at = torch.searchsorted(documents, key[known])
        order = at.argsort(stable=True)
        out.append(Rows(rows.indices[known][order], at[order], torch.bincount(at, minlength=len(documents))))
    return out


def aligned_rows(keep: Tensor, teacher_keep: Tensor) -> tuple[Pair, Tensor]:
    """The indices of paired rows: in each sequence the first kept rows of both, until one has no more.

    They are in the order of the sequences, and there are as many in each as the second says.
    """
    both = by_sequence(keep, teacher_keep)
    common = torch.minimum(both[0].sizes, both[1].sizes)
    if both[0] is both[1]:
        return (both[0].indices, both[1].indices), common
    student, teacher = (rows.indices[_place(rows) < common[rows.sequence]] for rows in both)
    return (student, teacher), common


def _place(rows: Rows) -> Tensor:
    """The place of each row in its sequence."""
    first = rows.sizes.cumsum(0) - rows.sizes
    return torch.arange(len(rows.indices), device=first.device) - first[rows.sequence]


def table(documents: Sequence[Tensor], filling: float) -> Tensor:
    """Rows of documents ``(k, …)`` as ``(documents, longest, …)``, with at least one column."""
    one = documents[0].new_zeros((1, *documents[0].shape[1:]))
    return pad_sequence([*documents, one], batch_first=True, padding_value=filling)[:-1]


@overload
def filled(v: Tensor, keep: Tensor) -> Tensor: ...
@overload
def filled(v: Tensor | TopK, keep: Tensor) -> Tensor | TopK: ...
def filled(v: Tensor | TopK, keep: Tensor) -> Tensor | TopK:
    """Logits with zeros in rows that take no part."""
    if bool(keep.all()):
        return v
    return v.filled(keep) if isinstance(v, TopK) else v.masked_fill(~keep[..., None], 0.0)
