"""Alignment of the tokens of two tokenizers over one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from otkit.losses.tensors import check_tensor


@final
@dataclass(frozen=True, eq=False)
class Alignment:
    """The spans of a text at whose ends both tokenizers have a boundary, as `align` finds them.

    Attributes
    ----------
    spans : Tensor of int (length,) or (batch, length)
        The number of the span of each token of the student, from 0 on; −1 for a token of no span: a special one,
        padding, or one of a text that the other side has not.
    teacher_spans : Tensor of int (length',) or (batch, length')
        The same of the teacher's tokens. Each span has tokens on both sides.

    Examples
    --------
    >>> from otkit.losses import align
    >>> found = align([(0, 3), (3, 6), (6, 7)], [(0, 6), (6, 7)])
    >>> found.spans.tolist(), found.teacher_spans.tolist()
    ([0, 0, 1], [0, 1])
    """

    spans: Tensor
    teacher_spans: Tensor

    def masks(self, shift: bool, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The first tokens of all spans, which losses of logits take as `mask` and `teacher_mask`.

        Parameters
        ----------
        shift : bool
            That of the loss. With it, a span that begins with the first token of a sequence is left out on both sides:
            no row predicts this token.
        keep : Tensor (length,) or (batch, length), optional
            0 for tokens of the student that take no part. Spans with such a token are left out on both sides.

        Returns
        -------
        tuple of Tensor of bool
            In the shapes of `spans` and of `teacher_spans`, with as many True in a sequence.
        """
        both = self.spans, self.teacher_spans
        firsts = [_first(v) for v in both]
        if shift and all(v.shape[-1] for v in both):
            begun = torch.maximum(both[0][..., :1], both[1][..., :1])
            firsts = [first & (v > begun) for first, v in zip(firsts, both, strict=True)]
        if keep is None:
            return firsts[0], firsts[1]
        check_tensor("keep", keep, floating=False)
        if keep.shape != self.spans.shape:
            raise ValueError(
                f"keep must have the shape {tuple(self.spans.shape)} of spans, a number for each token of the student, "
                f"got {tuple(keep.shape)}; cut or pad it as the tokens"
            )
        out = (keep == 0) & (self.spans >= 0)
        lost = torch.zeros(*out.shape[:-1], out.shape[-1] + 1, dtype=torch.bool, device=out.device)
        lost = lost.scatter(-1, torch.where(out, self.spans, -1) + 1, True)
        first, second = (one & ~lost.gather(-1, v + 1) for one, v in zip(firsts, both, strict=True))
        return first, second


def align(offsets: Any, teacher_offsets: Any) -> Alignment:
    """The finest spans of a text that are whole tokens of both tokenizers.

    Parameters
    ----------
    offsets : Tensor of int (length, 2) or (batch, length, 2)
        Begin and end of each token of the student in the text, in bytes or in characters: ``offset_mapping`` of a
        tokenizer of Hugging Face. An empty range is a special token or padding.
    teacher_offsets : Tensor of int (length', 2) or (batch, length', 2)
        Those of the teacher's tokens over the same text, in the same unit.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If shapes do not fit together, or tokens are not in the order of the text.

    Notes
    -----
    Boundaries that both sides have delimit the spans. Text between the tokens of a side, such as spaces that a
    tokenizer leaves out, belongs to no token; a boundary lies anywhere in it. Parts of one character, whose ranges are
    equal, stay together. A text that one side has cut off at an end is aligned as far as both go.

    At the beginning of a span both models have read the same text, so that their predictions can be compared. `masks`
    gives the rows of these predictions to the losses. TRL's GOLD trainer closes spans in the same way.

    Examples
    --------
    >>> from otkit.losses import align
    >>> student = [(0, 3), (3, 6), (6, 12), (12, 13)]  # "dis", "til", " ation", "!"
    >>> teacher = [(0, 0), (0, 6), (6, 9), (9, 13)]  # BOS, "distil", " at", "ion!"
    >>> found = align(student, teacher)
    >>> found.spans.tolist(), found.teacher_spans.tolist()
    ([0, 0, 1, 1], [-1, 0, 1, 1])
    >>> [mask.tolist() for mask in found.masks(shift=False)]
    [[True, False, True, False], [False, True, True, False]]
    """
    both = [torch.as_tensor(v) for v in (offsets, teacher_offsets)]
    if any(v.ndim not in (2, 3) or v.shape[-1] != 2 for v in both) or both[0].shape[:-2] != both[1].shape[:-2]:
        raise ValueError(
            "offsets must have shapes (length, 2) or (batch, length, 2), the same batch on both sides, got "
            f"{tuple(both[0].shape)} and {tuple(both[1].shape)}; tokenizers return them with return_offsets_mapping"
        )
    texts = [v.reshape(v.shape[:-2].numel(), *v.shape[-2:]) for v in both]
    found = [v.new_full(v.shape[:-1], -1, dtype=torch.long) for v in texts]
    for row, (x, y) in enumerate(zip(*(v.cpu().numpy() for v in texts), strict=True)):
        for one, spans in zip(found, _common(_boundaries(x), _boundaries(y)), strict=True):
            one[row, torch.as_tensor(spans[0])] = torch.as_tensor(spans[1]).to(one)
    return Alignment(*(one.reshape(v.shape[:-1]) for one, v in zip(found, both, strict=True)))


def _first(spans: Tensor) -> Tensor:
    """Whether a token is the first of its span."""
    before = torch.cat([torch.full_like(spans[..., :1], -1), spans[..., :-1]], -1)
    return spans > (before.cummax(-1).values if before.shape[-1] else before)


class _Boundaries:
    """The places between tokens that have a text, with the first and the last: intervals, in order and apart."""

    def __init__(self, tokens: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        apart = np.flatnonzero(low <= high)
        self.tokens = tokens  # those that have a text
        self.before = apart  # how many of them lie before each boundary
        self.low, self.high = low[apart], high[apart]


def _boundaries(offsets: np.ndarray) -> _Boundaries:
    tokens = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    begins, ends = offsets[tokens].T
    if (np.diff(begins) < 0).any():
        raise ValueError("tokens must be in the order of the text, got a begin before that of the token before it")
    ends = np.maximum.accumulate(ends)
    # At the two ends of what a side has, its text may be cut: the boundary is that place alone.
    return _Boundaries(tokens, np.append(begins[:1], ends), np.append(begins, ends[-1:]))


def _common(x: _Boundaries, y: _Boundaries) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of both sides the tokens of the spans between common boundaries, and the number of the span of each."""
    match = np.searchsorted(x.high, y.low)
    found_in_x = match < len(x.high)
    found_in_x[found_in_x] = x.low[match[found_in_x]] <= y.high[found_in_x]
    match, there = match[found_in_x], np.flatnonzero(found_in_x)
    new = np.diff(match, prepend=-1) > 0
    found = []
    for side, common in ((x, match[new]), (y, there[new])):
        cuts = side.before[common]
        span = np.searchsorted(cuts, np.arange(len(side.tokens)), side="right") - 1
        inside = (span >= 0) & (span < len(cuts) - 1)
        found.append((side.tokens[inside], span[inside]))
    return found
