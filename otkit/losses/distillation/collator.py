"""Batches of texts for a student and a teacher with two tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from otkit.losses.alignment import align


@final
@dataclass(frozen=True)
class AlignedCollator:
    """Makes of texts the batches that `DistillationTrainerMixin` takes, for two tokenizers of Hugging Face.

    Attributes
    ----------
    tokenizer, teacher_tokenizer
        The student's and the teacher's, both fast ones with a token for padding.
    max_length, teacher_max_length : int, optional
        The number of tokens at which texts are cut off.
    field : str
        The field of an example that has its text. An example may be the text itself.

    Raises
    ------
    ValueError
        If a tokenizer has no token for padding or no offsets, an example has no text, or a batch empty ones only.

    Notes
    -----
    A batch has the tokens of the student and their ``labels``, −100 for padding; ``teacher_inputs``; ``spans`` and
    ``teacher_spans``, as in `Alignment`. Texts are padded at the end. The Trainer must keep the field of the text:
    ``TrainingArguments(remove_unused_columns=False)``.

    Examples
    --------
    Called on texts, as a Trainer with ``data_collator=`` does; the tokenizers here have letters, and pairs of them:

    >>> from tokenizers import Tokenizer, models
    >>> from transformers import PreTrainedTokenizerFast
    >>> from otkit.losses import AlignedCollator
    >>> def tokenizer(*pieces):
    ...     words = models.WordPiece({v: k for k, v in enumerate(("[PAD]", *pieces))}, unk_token="[PAD]")
    ...     return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]")
    >>> collator = AlignedCollator(tokenizer("a", "##b", "##c"), tokenizer("ab", "##c"), max_length=256)
    >>> batch = collator(["abc", {"text": "ab"}])
    >>> batch["spans"].tolist(), batch["teacher_spans"].tolist()
    ([[0, 0, 1], [0, 0, -1]], [[0, 1], [0, -1]])
    """

    tokenizer: Any
    teacher_tokenizer: Any
    max_length: int | None = None
    teacher_max_length: int | None = None
    field: str = "text"

    def __post_init__(self) -> None:
        for name, tokenizer in (("tokenizer", self.tokenizer), ("teacher_tokenizer", self.teacher_tokenizer)):
            if not getattr(tokenizer, "is_fast", False):
                raise ValueError(
                    f"{name} must be a fast one, which knows the places of its tokens, got {type(tokenizer).__name__}; "
                    "load it with AutoTokenizer"
                )
            if tokenizer.pad_token_id is None:
                raise ValueError(
                    f"{name} must have a token for padding, got none; set {name}.pad_token to its eos_token"
                )

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The batch of some examples, each a text or a mapping with one."""
        texts = [self._text(example) for example in examples]
        if not any(texts):
            raise ValueError(f"a batch must have a text, got {len(texts)} empty ones; drop empty texts from the data")
        inputs, offsets = _tokens(self.tokenizer, texts, self.max_length)
        teacher_inputs, teacher_offsets = _tokens(self.teacher_tokenizer, texts, self.teacher_max_length)
        found = align(offsets, teacher_offsets)
        return {
            **inputs,
            "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100),
            "teacher_inputs": teacher_inputs,
            "spans": found.spans,
            "teacher_spans": found.teacher_spans,
        }

    def _text(self, example: Any) -> str:
        if isinstance(example, str):
            return example
        if isinstance(example, Mapping) and isinstance(example.get(self.field), str):
            return str(example[self.field])
        fields = sorted(example) if isinstance(example, Mapping) else type(example).__name__
        raise ValueError(
            f"an example must have a text in the field {self.field!r}, got {fields}; name it by field=, and pass "
            "remove_unused_columns=False to TrainingArguments"
        )


def _tokens(tokenizer: Any, texts: list[str], max_length: int | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The inputs of a model for some texts, and the places of its tokens."""
    found = tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=max_length is not None,
        max_length=max_length,
        return_offsets_mapping=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    offsets: torch.Tensor = found.pop("offset_mapping")
    return dict(found), offsets
