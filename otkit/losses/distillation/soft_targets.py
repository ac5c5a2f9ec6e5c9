"""Divergences between the softened predictions of a teacher and a student."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from otkit.kernels.numba.divergences import divergences
from otkit.losses.chunks import Compiled
from otkit.losses.distillation.vocabulary_map import VocabularyMap
from otkit.losses.rows import RowLoss, check_choice, expectation
from otkit.losses.tensors import check_option, shown
from otkit.losses.topk.entries import TopK

DIVERGENCES = ("kl", "reverse_kl", "js", "tv", "cross_entropy")


class SoftTargetLoss(RowLoss):
    """A divergence between the softened predictions of a teacher and a student, row by row.

    Parameters
    ----------
    divergence : {"kl", "reverse_kl", "js", "tv", "cross_entropy"}
        KL(q | p) of the teacher's q from the student's p; KL(p | q); the mean KL of both from (p + q)/2; ½·‖p − q‖₁; or
        −Σ q·log p. The last has the gradient of "kl", and a minimum above 0.
    temperature : float or Tensor
        The temperature of both softmaxes. A tensor may require a gradient, and a parameter is learned with the module;
        the loss then keeps the softmaxes of all rows, as plain PyTorch does.
    squared : bool
        Whether to multiply by the squared temperature, so that gradients keep their size (Hinton et al. 2015).
    reduction, shift, ignore_index, chunk_size, check
        As in `SinKDLoss`.
    vocabulary : VocabularyMap, optional
        What the entries of a teacher with another vocabulary stand for. Temperatures apply to the outcomes of the map.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    A logit of −inf excludes an entry: of a vocabulary that is used in part, or of a teacher of which only the largest
    logits are known. Terms of probability 0 are 0. Where the divergence is infinite by definition, such as KL(q | p)
    with p = 0 < q, the value is inf, and the gradient is that of the other terms.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import SoftTargetLoss
    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    >>> [round(float(SoftTargetLoss(name)(student, teacher)), 4) for name in ("kl", "reverse_kl", "js", "tv")]
    [0.1308, 0.1438, 0.0338, 0.25]
    """

    temperatures = ("temperature",)

    def __init__(
        self,
        divergence: str = "kl",
        temperature: float | Tensor = 1.0,
        squared: bool = True,
        reduction: str = "mean",
        *,
        shift: bool = False,
        ignore_index: int = -100,
        chunk_size: int | None = None,
        check: bool = False,
        vocabulary: VocabularyMap | None = None,
    ) -> None:
        super().__init__(reduction, shift, ignore_index, chunk_size, check)
        check_choice("divergence", divergence, DIVERGENCES)
        check_option("temperature", temperature)
        self.divergence, self.temperature, self.squared = divergence, temperature, squared
        self.vocabulary, self.one_vocabulary = vocabulary, vocabulary is None

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_p, log_q = (torch.log_softmax(v / self.temperature, -1) for v in (student, teacher))
        if self.divergence == "kl":
            value = _kl(log_q, log_p)
        elif self.divergence == "reverse_kl":
            value = _kl(log_p, log_q)
        elif self.divergence == "js":
            middle = torch.logaddexp(log_p, log_q)
            if not middle.isfinite().all():  # where both are −inf it has no derivative, and no part in the value
                lowest = torch.finfo(middle.dtype).min / 4
                middle = torch.logaddexp(*(v.clamp_min(lowest) for v in (log_p, log_q)))
            middle = middle - math.log(2.0)
            value = (_kl(log_p, middle) + _kl(log_q, middle)) / 2
        elif self.divergence == "tv":
            value = (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
        else:
            value = -expectation(log_q, log_p)
        return value * self.temperature**2 if self.squared else value

    def compiled(self) -> Compiled | None:
        if self.vocabulary is not None or self._learned():
            return None
        temperature = float(self.temperature)
        weight = temperature**2 if self.squared else 1.0
        return partial(divergences, DIVERGENCES.index(self.divergence), 1 / temperature, weight)

    def compare(self, student: Tensor, teacher: Tensor | TopK) -> Tensor:
        if self.vocabulary is None:
            return super().compare(student, teacher)
        return self.rows(*self.vocabulary.compared(student, teacher))

    def rows_of_known(self, student: Tensor, teacher: TopK) -> Tensor:
        return self.rows(*teacher.against(student, self.temperature))

    def check_tail(self, teacher: TopK) -> None:
        if self.vocabulary is not None and teacher.tail == "one bucket":
            raise ValueError(
                "tail='one bucket' does not tell which of the student's entries the unknown ones stand for; pass "
                "tail='renormalise' or tail='uniform' beside vocabulary="
            )
        if self.divergence == "reverse_kl" and teacher.tail == "renormalise":
            raise ValueError(
                "divergence='reverse_kl' is infinite where the teacher's probability is 0, as of all but its known "
                "entries with tail='renormalise'; pass tail='one bucket' or tail='uniform'"
            )

    def extra_repr(self) -> str:
        return f"{self.divergence!r}, temperature={shown(self.temperature)}, squared={self.squared}"


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p | q) of each row."""
    return expectation(log_p, log_p - log_q)
