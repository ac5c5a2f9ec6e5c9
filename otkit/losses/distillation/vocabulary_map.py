"""The entries of a student's vocabulary that those of a teacher's stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from otkit.losses.rows import check_choice
from otkit.losses.tensors import check_tensor
from otkit.losses.topk.entries import TopK, outcomes

MATCHES = ("equal", "first")


@final
@dataclass(frozen=True, eq=False)
class VocabularyMap:
    """A student's entry for each entry of a teacher's vocabulary, so that divergences compare the two.

    The outcomes that are compared are the student's entries that something is mapped to, and any other entry as one
    more. The masses of the teacher's entries that are mapped to one are added.

    Attributes
    ----------
    ids : Tensor of int (V',)
        For each id of the teacher the student's; −1 for none.
    entries : int
        The size of the student's vocabulary, V.
    known : Tensor of int (k,)
        The student's entries that are outcomes.
    outcome : Tensor of int (V' + 1,)
        The outcome of each of the teacher's entries, and that of entries beyond: k is any other.

    Raises
    ------
    ValueError, TypeError
        If an id is not of the student's vocabulary, or none is mapped.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import SoftTargetLoss, VocabularyMap
    >>> vocabulary = VocabularyMap(torch.tensor([0, 1, 1, -1]), 3)
    >>> student, teacher = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.5, 0.2, 0.1, 0.2]]).log()
    >>> abs(round(float(SoftTargetLoss(vocabulary=vocabulary)(student, teacher)), 4))
    0.0
    """

    ids: Tensor
    entries: int
    known: Tensor = field(init=False)
    outcome: Tensor = field(init=False)

    def __post_init__(self) -> None:
        check_tensor("ids", self.ids, floating=False)
        if self.ids.ndim != 1 or self.ids.is_floating_point() or not self.ids.numel():
            raise TypeError(
                f"ids must be whole numbers (V',), got {self.ids.dtype} and shape {tuple(self.ids.shape)}; pass one "
                "for each entry of the teacher's vocabulary"
            )
        if not -1 <= int(self.ids.min()) <= int(self.ids.max()) < self.entries or int(self.ids.max()) < 0:
            raise ValueError(
                f"ids must be below entries={self.entries}, or -1 for none but not all, got {int(self.ids.min())} to "
                f"{int(self.ids.max())}; pass the size of the student's logits as entries"
            )
        known, outcome = self.ids.unique(return_inverse=True)
        some = int((known < 0).sum())  # −1 comes first, and becomes the last outcome
        known, outcome = known[some:], outcome - some
        object.__setattr__(self, "known", known)
        outcome = torch.nn.functional.pad(outcome, (0, 1), value=-1)
        object.__setattr__(self, "outcome", torch.where(outcome < 0, len(known), outcome))

    @classmethod
    def of(
        cls, tokenizer: Any, teacher_tokenizer: Any, match: str = "first", entries: int | None = None
    ) -> VocabularyMap:
        """The map between the vocabularies of two tokenizers of Hugging Face.

        Parameters
        ----------
        tokenizer, teacher_tokenizer
            The student's and the teacher's.
        match : {"first", "equal"}
            "first": a token of the teacher is mapped to the first token into which the student's tokenizer splits its
            text. "equal": only tokens of equal text are mapped.
        entries : int, optional
            The size of the student's logits; by default that of its tokenizer.

        Returns
        -------
        VocabularyMap

        Notes
        -----
        Of special tokens only those for the end of a text are mapped, to each other. A tokenizer may split a text in
        another way where more text follows; "first" neglects this.
        """
        check_choice("match", match, MATCHES)
        own, other = _texts(tokenizer), _texts(teacher_tokenizer)
        place = {text: i for i, text in reversed(list(enumerate(own))) if text}
        ids = [place.get(text, -1) for text in other]
        if match == "first":
            ids = _split(tokenizer, own, other, ids)
        ends = tokenizer.eos_token_id, teacher_tokenizer.eos_token_id
        if None not in ends:
            ids[ends[1]] = ends[0]
        return cls(torch.tensor(ids), len(own) if entries is None else entries)

    def compared(self, student: Tensor, teacher: Tensor | TopK) -> tuple[Tensor, Tensor]:
        """Logits ``(r, k + 1)`` of both for the outcomes; ``(r, k)`` if the student has no other entries."""
        if student.shape[-1] != self.entries:
            raise ValueError(
                f"the student must have the {self.entries} entries of the map, got {student.shape[-1]}; pass entries="
                f"{student.shape[-1]} to VocabularyMap.of, or cut off the padding of the logits"
            )
        x, other = outcomes(student, self.known.to(student.device).expand(len(student), -1), 1.0)
        if len(self.known) < self.entries:
            x = torch.cat([x, other[:, None]], -1)
        return x, self._masses(teacher)[:, : x.shape[-1]].log()

    def _masses(self, teacher: Tensor | TopK) -> Tensor:
        """The probabilities ``(r, k + 1)`` of the outcomes."""
        size = len(self.ids)
        if isinstance(teacher, TopK) and teacher.tail == "uniform":
            teacher = teacher.logits(teacher.vocab_size or size)
        if isinstance(teacher, Tensor):
            ids, q = torch.arange(teacher.shape[-1], device=teacher.device).expand(teacher.shape), teacher.softmax(-1)
        else:
            ids, q = teacher.indices, teacher.logprobs.softmax(-1)
        outcome = self.outcome.to(ids.device)[ids.clamp(0, size)]
        return q.new_zeros(len(q), len(self.known) + 1).scatter_add_(-1, outcome, q)


def _split(tokenizer: Any, own: list[bytes], other: list[bytes], ids: list[int]) -> list[int]:
    """The first token of the student for each text of the teacher's that is none of its own."""
    ids = list(ids)
    texts = {i: _decoded(text) for i, text in enumerate(other) if ids[i] < 0}
    texts = {i: text for i, text in texts.items() if text}
    spaced = {i: text[1:] for i, text in texts.items() if text[0] == " " and len(text) > 1}
    for part in (texts, spaced):  # the second for tokenizers that put a space in front of any text
        split = tokenizer(list(part.values()), add_special_tokens=False)["input_ids"] if part else []
        for i, tokens in zip(part, split, strict=True):
            first = own[tokens[0]] if tokens else b""
            if other[i].startswith(first) and len(first) > (len(own[ids[i]]) if ids[i] >= 0 else 0):
                ids[i] = tokens[0]
    return ids


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""


def _texts(tokenizer: Any) -> list[bytes]:
    """The text of each id; none for special tokens, and for ids that are not used."""
    names = tokenizer.get_vocab()
    found: list[bytes] = [b""] * (max(names.values()) + 1)
    special, bytewise = set(tokenizer.all_special_ids), any(name.startswith("Ġ") for name in names)
    pieces, words = (any(name.startswith(mark) for name in names) for mark in ("▁", "##"))
    for name, i in names.items():
        if i in special:
            continue
        if bytewise:
            found[i] = bytes(_BYTES[c] for c in name) if all(c in _BYTES for c in name) else name.encode()
        elif pieces and len(name) == 6 and name.startswith("<0x"):
            found[i] = bytes([int(name[3:5], 16)])
        elif pieces:
            found[i] = name.replace("▁", " ").encode()
        elif words:
            found[i] = (name[2:] if name.startswith("##") else f" {name}").encode()
        else:
            found[i] = name.encode()
    return found


def _byte_names() -> dict[str, int]:
    """The characters by which byte-level tokenizers name bytes: those that print, others from U+0100 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + k): byte for k, byte in enumerate(others)}


_BYTES = _byte_names()
