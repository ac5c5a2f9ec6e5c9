"""The entries of a teacher's predictions that are known, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, final

import torch
from torch import Tensor

from otkit.losses.tensors import check_tensor

TAILS = ("renormalise", "one bucket", "uniform")


@final
@dataclass(frozen=True, eq=False)
class TopK:
    """Predictions of a teacher of which the k leading entries are known: log-probabilities of a cache or a server.

    Losses of logits take it in place of the teacher's logits.

    Attributes
    ----------
    indices : Tensor of int (rows, k) or (batch, length, k)
        The ids of the known entries of each row, in any order, each at most once; −1 where a row has fewer than k.
    logprobs : Tensor (rows, k) or (batch, length, k)
        Their natural log-probabilities, of the whole vocabulary; −inf, like an id of −1, where a row has fewer.
    tail : {"renormalise", "one bucket", "uniform"}
        What is known of the other entries. "renormalise": they have probability 0, and the known ones are scaled to the
        total 1. "one bucket": their total only, so that both models are compared on k + 1 outcomes; the last is any
        other entry. "uniform": they share what is missing to 1 in equal parts.
    vocab_size : int, optional
        The size of the teacher's vocabulary. A tail that is uniform needs it where vocabularies differ.
    check : bool
        Whether to check the values. This waits for a GPU.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit together, an id comes twice in a row or is not of the vocabulary, or numbers are
        no log-probabilities.

    Notes
    -----
    Temperatures apply to the distribution that `tail` describes: to the known entries, to all, or to the k + 1
    outcomes. The student's logits become those of its k + 1 outcomes before its temperature. So equal predictions have
    a divergence of 0 at any temperature.

    A loss holds dense rows of the teacher for the rows of a chunk at most.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import SoftTargetLoss, TopK
    >>> student = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    >>> for tail in ("renormalise", "one bucket", "uniform"):
    ...     teacher = TopK(torch.tensor([[1, 0]]), torch.tensor([[0.6, 0.2]]).log(), tail)
    ...     print(tail, round(float(SoftTargetLoss()(student, teacher)), 4))
    renormalise 0.5139
    one bucket 0.2326
    uniform 0.2326
    """

    indices: Tensor
    logprobs: Tensor
    tail: str = "renormalise"
    vocab_size: int | None = None
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        if not check:
            return
        self._check_forms()
        there = (self.indices >= 0) & (self.logprobs != -torch.inf)
        self._check_values(there)
        object.__setattr__(self, "indices", torch.where(there, self.indices.long(), -1))
        object.__setattr__(self, "logprobs", self.logprobs.detach().masked_fill(~there, -torch.inf))

    @classmethod
    def from_dicts(cls, rows: Sequence[Any], tail: str = "renormalise", vocab_size: int | None = None) -> TopK:
        """What a server returns: for each position a mapping of ids to log-probabilities.

        Parameters
        ----------
        rows : list of dict, or list of lists of dict
            The positions of one sequence, or of several of any lengths: shorter ones are padded at the end. Keys are
            ids, also as strings of JSON. Values are numbers, or have a `logprob` as attribute or key, as vLLM's. None
            is a position without prediction, such as the first of vLLM's ``prompt_logprobs``.
        tail, vocab_size
            As in `TopK`.

        Returns
        -------
        TopK

        Raises
        ------
        ValueError
            If keys are no ids, or as `TopK` does.

        Examples
        --------
        >>> from otkit.losses import TopK
        >>> TopK.from_dicts([None, {11: -0.1, 7: -2.5}, {3: -0.2}]).indices
        tensor([[-1, -1],
                [11,  7],
                [ 3, -1]])
        """
        nested = any(isinstance(row, Sequence) and not isinstance(row, str) for row in rows)
        sequences = [list(rows)] if not nested else [list(row) for row in rows]
        length = max((len(sequence) for sequence in sequences), default=0)
        entries = [[_entries(row) for row in [*s, *[None] * (length - len(s))]] for s in sequences]
        k = max((len(row) for sequence in entries for row in sequence), default=0)
        if k == 0:
            raise ValueError("rows must have at least one log-probability, got none; ask the server for logprobs")
        padded = [[[*row, *[(-1, -torch.inf)] * (k - len(row))] for row in sequence] for sequence in entries]
        indices = torch.tensor([[[entry[0] for entry in row] for row in sequence] for sequence in padded])
        logprobs = torch.tensor([[[entry[1] for entry in row] for row in sequence] for sequence in padded])
        return cls(*((indices, logprobs) if nested else (indices[0], logprobs[0])), tail, vocab_size)

    @property
    def shape(self) -> torch.Size:
        """The shape of `indices`."""
        return self.indices.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.indices.ndim

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.indices.device

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Any) -> TopK:
        return self._with(self.indices[rows], self.logprobs[rows])

    def reshape(self, *shape: int) -> TopK:
        """The same rows in other leading axes."""
        return self._with(self.indices.reshape(*shape), self.logprobs.reshape(*shape))

    def to(self, device: torch.device | str) -> TopK:
        """The same on a device."""
        return self._with(self.indices.to(device), self.logprobs.to(device))

    def detach(self) -> TopK:
        """The same: a teacher has no gradient."""
        return self

    def upcast(self) -> TopK:
        """The same with log-probabilities in float32 or float64."""
        wide = self.logprobs.dtype in (torch.float32, torch.float64)
        return self if wide else self._with(self.indices, self.logprobs.float())

    def filled(self, there: Tensor) -> TopK:
        """The same, and entry 0 for sure where a row is not there."""
        first = torch.arange(self.shape[-1], device=self.device) == 0
        indices = torch.where(there[..., None], self.indices, torch.where(first, 0, -1))
        logprobs = self.logprobs.new_full((), -torch.inf)
        return self._with(indices, torch.where(there[..., None], self.logprobs, torch.where(first, 0.0, logprobs)))

    def rest(self) -> Tensor:
        """The logarithm of the probability of all entries that are not known; −inf if there are none."""
        missing = -torch.expm1(self.logprobs.logsumexp(-1))
        return missing.clamp_min(0.0).log()

    def logits(self, entries: int) -> Tensor:
        """Dense logits ``(..., entries)``, of a tail that has any."""
        if self.tail == "uniform":
            unknown = (entries - (self.indices >= 0).sum(-1)).clamp_min(1).to(self.logprobs).log()
            filling = (self.rest() - unknown)[..., None]
        else:
            filling = self.logprobs.new_full((*self.shape[:-1], 1), -torch.inf)
        ids, logprobs = self._without_gaps()
        return filling.expand(*self.shape[:-1], entries).scatter(-1, ids, logprobs)

    def against(self, student: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the student and of the teacher for the same outcomes, to which `temperature` applies.

        Parameters
        ----------
        student : Tensor (r, V)
        temperature : float
            The temperature of the student's softmax.

        Returns
        -------
        tuple of Tensor (r, V) or (r, k + 1)
            Without a uniform tail the last outcome is any other entry. The teacher's probability of it may be 0.
        """
        if self.tail == "uniform":
            return student, self.logits(student.shape[-1])
        softened = temperature if self.tail == "renormalise" else 1.0
        ids, _ = self._without_gaps()
        known, others = outcomes(student, ids, softened)
        last = self.rest() if self.tail == "one bucket" else torch.full_like(self.logprobs[..., 0], -torch.inf)
        known = known.masked_fill(self.indices < 0, -torch.inf)
        return torch.cat([known, others[..., None]], -1), torch.cat([self.logprobs, last[..., None]], -1)

    def check_against(self, entries: int | None, keep: Tensor) -> None:
        """Complain about ids beyond the student's `entries`, and about rows that take part without a known entry."""
        if entries is not None and self.vocab_size not in (None, entries):
            raise ValueError(
                f"student and teacher must have one vocabulary, got {entries} and {self.vocab_size} entries; cut off "
                "the padding of the student's logits, or use ULDLoss"
            )
        if entries is not None and self.indices.numel() and int(self.indices.max()) >= entries:
            raise ValueError(
                f"ids of a TopK must be below the {entries} entries of the student, got {int(self.indices.max())}; the "
                "teacher's tokenizer must be the student's, or use ULDLoss"
            )
        if bool((keep & (self.indices < 0).all(-1)).any()):
            raise ValueError(
                "a row that takes part must have at least one known entry, got a row without any; leave such rows out "
                "by mask= or labels="
            )

    def _with(self, indices: Tensor, logprobs: Tensor) -> TopK:
        return TopK(indices, logprobs, self.tail, self.vocab_size, check=False)

    def _without_gaps(self) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities in which a row's entry with the largest id fills its gaps."""
        last = self.indices.argmax(-1, keepdim=True)
        gaps = self.indices < 0
        ids, logprobs = (torch.where(gaps, v.gather(-1, last), v) for v in (self.indices, self.logprobs))
        return ids.clamp_min(0), logprobs

    def _check_forms(self) -> None:
        if self.tail not in TAILS:
            raise ValueError(f"tail must be one of {', '.join(TAILS)}, got {self.tail!r}")
        check_tensor("indices", self.indices, floating=False)
        check_tensor("logprobs", self.logprobs)
        if self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise TypeError(f"indices must be whole numbers, got {self.indices.dtype}; pass .long() of the ids")
        if self.indices.shape != self.logprobs.shape or self.indices.ndim < 2 or not self.indices.shape[-1]:
            raise ValueError(
                "indices and logprobs must have one shape (rows, k) or (batch, length, k), got "
                f"{tuple(self.indices.shape)} and {tuple(self.logprobs.shape)}; pad rows with -1 and -inf"
            )
        if self.indices.device != self.logprobs.device:
            raise ValueError(
                f"indices are on {self.indices.device} and logprobs on {self.logprobs.device}; move one of them"
            )

    def _check_values(self, there: Tensor) -> None:
        lowest = int(self.indices.min()) if self.indices.numel() else 0
        if lowest < -1:
            raise ValueError(f"ids must be at least 0, or -1 where a row has fewer than k, got {lowest}; pad with -1")
        ids = torch.where(there, self.indices.long(), -1).sort(-1).values
        if self.vocab_size is not None and ids.numel() and int(ids.max()) >= self.vocab_size:
            raise ValueError(
                f"ids must be below vocab_size={self.vocab_size}, got {int(ids.max())}; pass the size of the "
                "teacher's own vocabulary, with its padding"
            )
        twice = (ids[..., 1:] == ids[..., :-1]) & (ids[..., 1:] >= 0)
        if bool(twice.any()):
            raise ValueError(
                f"ids of a row must differ, got {int(ids[..., 1:][twice][0])} twice; keep each once (servers list the "
                "sampled token again beside the leading ones)"
            )
        logprobs = self.logprobs.detach().masked_fill(~there, -torch.inf)
        if bool(logprobs.isnan().any()):
            raise ValueError("logprobs must be numbers, got NaN; pad rows with -inf")
        total = float(logprobs.double().logsumexp(-1).exp().max()) if logprobs.numel() else 0.0
        # Log-probabilities come rounded, to a few decimals or in half precision.
        if not total <= 1 + max(1e-3, 16 * torch.finfo(self.logprobs.dtype).eps):
            raise ValueError(
                f"probabilities of a row must have a sum of at most 1, got {total:.6g}; pass log_softmax of the logits "
                "of the whole vocabulary, in natural logarithms and without a temperature"
            )


def outcomes(student: Tensor, ids: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """The logits ``(r, k)`` of some ids of each row, and that of any other: T·log Σ exp(logit/T)."""
    others = student.scatter(-1, ids, -torch.inf)
    others = others if temperature == 1 else others / temperature
    total = others.logsumexp(-1)
    none = total == -torch.inf
    if none.any():  # where no other is left, the derivative is 0
        total = others.masked_fill(none[..., None], 0.0).logsumexp(-1).masked_fill(none, -torch.inf)
    return student.gather(-1, ids), temperature * total


def _entries(row: Any) -> list[tuple[int, float]]:
    """Ids and log-probabilities of a position."""
    if row is None:
        return []
    if not isinstance(row, Mapping):
        raise ValueError(f"a position must be a mapping of ids to log-probabilities, or None, got {row!r}")
    return [(_id(key), _number(value)) for key, value in row.items()]


def _id(key: Any) -> int:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise ValueError(
            f"keys must be ids, got {key!r}; tokenizer.convert_tokens_to_ids gives those of tokens, and vLLM returns "
            "ids with return_tokens_as_token_ids"
        ) from None


def _number(value: Any) -> float:
    if isinstance(value, Mapping):
        return float(value["logprob"])
    return float(getattr(value, "logprob", value))
