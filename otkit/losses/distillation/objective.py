"""The objective of distillation: labels, soft targets and transport, weighted, with an annealed temperature."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from otkit import checks, options
from otkit.losses.alignment import Alignment
from otkit.losses.chunks import row_values
from otkit.losses.distillation.sinkd import SinKDLoss
from otkit.losses.distillation.soft_targets import SoftTargetLoss
from otkit.losses.distillation.vocabulary_map import VocabularyMap
from otkit.losses.head import Head
from otkit.losses.rows import Stats, check_logits, check_numbers, reduce, row_mask
from otkit.losses.tensors import check_option, shown
from otkit.losses.topk.entries import TopK

Logits = TypeVar("Logits", Tensor | Head, Tensor | TopK | Head)


class DistillationObjective(nn.Module):
    """Cross entropy with labels, a divergence from soft targets, and a transport loss, each with its weight.

    Parameters
    ----------
    ot_loss : Module, optional
        The transport loss of logits, such as `SinKDLoss`, which it is by default, with `shift` and `ignore_index`.
    ce, kd, ot : float
        The weights of the three parts; a part of weight 0 is not computed.
    divergence : str
        The divergence of the soft targets, as in `SoftTargetLoss`.
    temperature : float or Tensor
        The temperature of the soft targets. Tensors are as in `SoftTargetLoss`.
    final_temperature : float, optional
        The temperature at the end of training. It is interpolated from `temperature`, linearly in `progress`.
    squared : bool
        As in `SoftTargetLoss`.
    shift, ignore_index
        As in `SinKDLoss`. A given `ot_loss` must have the same; `shift` is by default its own.
    vocabulary : VocabularyMap, optional
        As in `SoftTargetLoss`, for a teacher with another vocabulary.
    vocab_size : int, optional
        The number of entries of the tokenizer. Logits beyond it, with which models pad their vocabulary, are cut off.
    check : bool
        As in `SinKDLoss`; a given `ot_loss` has its own.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    The module keeps no state: the progress of training is an argument of the call.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import DistillationObjective
    >>> objective = DistillationObjective(ce=0.2, kd=0.8, ot=0.8, temperature=4.0, final_temperature=1.0)
    >>> student, teacher, labels = torch.zeros(4, 3, requires_grad=True), torch.eye(4, 3), torch.tensor([0, 1, 2, -100])
    >>> loss, stats = objective(student, teacher, labels, progress=0.5, return_stats=True)
    >>> loss.backward()
    >>> sorted(stats), float(stats["temperature"])
    (['ce', 'kd', 'loss', 'ot', 'temperature'], 2.5)
    """

    def __init__(
        self,
        ot_loss: nn.Module | None = None,
        ce: float = 1.0,
        kd: float = 1.0,
        ot: float = 1.0,
        *,
        divergence: str = "kl",
        temperature: float | Tensor = 1.0,
        final_temperature: float | None = None,
        squared: bool = True,
        shift: bool | None = None,
        ignore_index: int = -100,
        vocabulary: VocabularyMap | None = None,
        vocab_size: int | None = None,
        check: bool = False,
    ) -> None:
        super().__init__()
        self.shift_given = shift is not None
        shift = bool(getattr(ot_loss, "shift", False) if shift is None else shift)
        if vocab_size is not None:
            options.count(vocab_size, "vocab_size")
        for name, value in {"ce": ce, "kd": kd, "ot": ot}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a weight of at least 0, got {value!r}; 0 leaves its part out")
        if not ce + kd + ot > 0:
            raise ValueError("one of ce, kd and ot must be above 0, got three weights of 0; give one a weight")
        checks.positive(final_temperature, "final_temperature")
        shared: dict[str, Any] = {"shift": shift, "ignore_index": ignore_index, "check": check}
        check_option("temperature", temperature)
        self.soft = SoftTargetLoss(divergence, 1.0, squared, vocabulary=vocabulary, **shared)
        ot_loss = SinKDLoss(**shared) if ot_loss is None else ot_loss
        for name, value in {"shift": shift, "ignore_index": ignore_index}.items():
            if ot > 0 and getattr(ot_loss, name, value) != value:
                raise ValueError(
                    f"{name} must be the same for all parts, got {value!r} and {getattr(ot_loss, name)!r} in ot_loss; "
                    "pass the same to both"
                )
        self.ot_loss, self.vocab_size, self.check = ot_loss, vocab_size, check
        self.ce, self.kd, self.ot = ce, kd, ot
        self.temperature, self.final_temperature = temperature, final_temperature
        self.shift, self.ignore_index = shift, ignore_index

    @classmethod
    def paper(cls, alpha: float, temperature: float, beta: float = 0.8, anneal: bool = False) -> DistillationObjective:
        """The objective of the released code for BERT: ``(1 − α)·CE + α·cross entropy + β·SinKDLoss.paper()``.

        Parameters
        ----------
        alpha, temperature, beta : float
        anneal : bool
            Whether the temperature ends at 1 (``kd_anneal``).

        Examples
        --------
        >>> from otkit.losses import DistillationObjective
        >>> DistillationObjective.paper(alpha=0.8, temperature=3.0).kd
        0.8
        """
        return cls(
            SinKDLoss.paper(),
            ce=1 - alpha,
            kd=alpha,
            ot=beta,
            divergence="cross_entropy",
            temperature=temperature,
            final_temperature=1.0 if anneal else None,
            squared=False,
        )

    def forward(
        self,
        student_logits: Tensor | Head,
        teacher_logits: Tensor | TopK | Head,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        progress: float = 0.0,
        alignment: Alignment | None = None,
        num_items_in_batch: Tensor | float | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Stats]:
        """The loss of a batch.

        Parameters
        ----------
        student_logits : Tensor (rows, V) or (batch, length, V), or Head
        teacher_logits : Tensor, TopK or Head
            Each part computes the logits of a Head.
        labels : Tensor of int (rows,) or (batch, length), optional
            The classes or tokens; `ignore_index` where a row takes no part. Needed for `ce` above 0.
        mask : Tensor (rows,) or (batch, length), optional
            0 where a row takes no part; whole numbers above 1 are those of packed documents, as in `SinKDLoss`.
        progress : float
            The progress of training, from 0 to 1.
        alignment : Alignment, optional
            The spans of two tokenizers, from `align`. Soft targets and transport then compare the predictions at the
            beginning of each span whose tokens of the student all take part.
        num_items_in_batch : int or Tensor, optional
            The divisor of means, as in `SinKDLoss`. An `ot_loss` that is a sum has none.
        return_stats : bool
            Whether to return the parts too.

        Returns
        -------
        Tensor
            A number.
        dict of str to Tensor
            With `return_stats`: "loss", the parts "ce", "kd" and "ot" before their weights, and "temperature".

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, labels are missing, or `progress` is not between 0 and 1.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie between 0 and 1, got {progress!r}; pass step/steps")
        if self.ce > 0 and labels is None:
            raise ValueError("labels must be given for the cross entropy; pass them, or ce=0")
        check_logits(student_logits, teacher_logits, one_vocabulary=False)
        last = self.temperature if self.final_temperature is None else self.final_temperature
        temperature = self.temperature + (last - self.temperature) * progress
        student_logits, teacher_logits = _cut(student_logits, self.vocab_size), _cut(teacher_logits, self.vocab_size)
        about: dict[str, Any] = {"mask": mask, "labels": labels}
        if alignment is not None:
            keep = row_mask(student_logits, mask, labels, False, self.ignore_index)
            if keep.dtype != torch.bool:
                raise ValueError(
                    "mask must be of 0 and 1 beside an alignment, got numbers of packed documents; pass one document "
                    "in each sequence"
                )
            about = dict(zip(("mask", "teacher_mask"), alignment.masks(self.shift, keep), strict=True))
        divisor = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        parts: Stats = {}
        if self.ce > 0:
            assert labels is not None
            parts["ce"] = self._cross_entropy(student_logits, labels, mask, num_items_in_batch)
        if self.kd > 0:
            soft = copy.copy(self.soft)
            soft.temperature = temperature  # a number or a tensor, never the parameter itself
            parts["kd"] = soft(student_logits, teacher_logits, **about, **divisor)
        if self.ot > 0:
            divided = {} if getattr(self.ot_loss, "reduction", "mean") == "sum" else divisor
            parts["ot"] = self.ot_loss(student_logits, teacher_logits, **about, **divided)
        loss = torch.stack([getattr(self, name) * part for name, part in parts.items()]).sum()
        if not return_stats:
            return loss
        stats = {name: part.detach() for name, part in {"loss": loss, **parts}.items()}
        return loss, {**stats, "temperature": torch.as_tensor(temperature).detach()}

    def shifted(self, shift: bool) -> None:
        """Set `shift` of all parts."""
        parts: tuple[Any, ...] = (self, self.soft, self.ot_loss)
        for part in parts:
            part.shift = shift

    def _cross_entropy(
        self, logits: Tensor | Head, labels: Tensor, mask: Tensor | None, num_items: Tensor | float | None
    ) -> Tensor:
        keep = row_mask(logits, mask, labels, self.shift, self.ignore_index)
        if self.check:
            check_numbers("student_logits", logits, keep)
        if self.shift:
            labels = torch.cat([labels[..., 1:], labels[..., :1]], -1)
        rows = keep.flatten().nonzero()[:, 0]
        used, size = labels.flatten()[rows.to(labels.device)], logits.shape[-1]
        if bool(((used < 0) | (used >= size)).any()):
            raise ValueError(
                f"labels must be below the {size} entries of the logits, or {self.ignore_index}, got "
                f"{int(used.min())} to {int(used.max())}; pass the tokenizer's whole size as vocab_size"
            )
        with torch.autocast(logits.device.type, enabled=False):
            tokens = labels.to(keep.device)[..., None]
            values = row_values(_cross_entropy, (logits, tokens), (rows, rows), None)
            return reduce(values, None, "mean", num_items)

    def extra_repr(self) -> str:
        end = "" if self.final_temperature is None else f" to {shown(self.final_temperature)}"
        return (
            f"ce={self.ce:g}, kd={self.kd:g}, ot={self.ot:g}, divergence={self.soft.divergence!r}, "
            f"temperature={shown(self.temperature)}{end}"
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """That of each row ``(r, V)`` with its label ``(r, 1)``."""
    return functional.cross_entropy(logits, labels[:, 0], reduction="none")


def _cut(logits: Logits, size: int | None) -> Logits:
    """Logits without the entries beyond `size`; a TopK has none that it could lose."""
    if size is None or isinstance(logits, TopK) or logits.shape[-1] <= size:
        return logits
    if isinstance(logits, Head):
        return Head(logits.hidden, logits.weight[:size], None if logits.bias is None else logits.bias[:size])
    return logits[..., :size]
