"""Divergences between two vocabularies."""

import pytest
import torch
from torch.testing import assert_close

from otkit.losses import SoftTargetLoss, TopK, VocabularyMap
from otkit.losses.distillation.soft_targets import DIVERGENCES

IDS = [2, -1, 0, 2, 4, -1, 0]


def logits(seed, rows, entries, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, entries, generator=generator, dtype=torch.float64).requires_grad_(grad)


def merged(student, teacher):
    """The probabilities of the student's entries 0, 2, 4, and of any other."""
    p, q = student.softmax(-1), teacher.softmax(-1)
    ids = torch.tensor(IDS + [-1] * (teacher.shape[-1] - len(IDS)))
    groups = [q[:, ids == i].sum(-1) for i in (0, 2, 4, -1)]
    return torch.stack([p[:, 0], p[:, 2], p[:, 4], p[:, [1, 3]].sum(-1)], -1), torch.stack(groups, -1)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("padding", [0, 2])
def test_masses_are_added(divergence, padding):
    student, teacher = logits(0, 6, 5, grad=True), logits(1, 6, 7 + padding)
    options = {"divergence": divergence, "temperature": 2.0, "reduction": "sum"}
    loss = SoftTargetLoss(vocabulary=VocabularyMap(torch.tensor(IDS), 5), chunk_size=4, **options)(student, teacher)
    p, q = merged(student, teacher)
    wanted = SoftTargetLoss(**options)(p.log(), q.log())
    assert_close(loss, wanted)
    assert_close(*(torch.autograd.grad(v, student)[0] for v in (loss, wanted)))


@pytest.mark.parametrize("tail", ["renormalise", "uniform"])
def test_teachers_of_known_entries(tail):
    student, teacher = logits(0, 6, 5, grad=True), logits(1, 6, 7).log_softmax(-1)
    known, ids = teacher.topk(4, -1)
    if tail == "renormalise":
        dense = torch.full_like(teacher, -torch.inf).scatter(-1, ids, known)
    else:
        rest = torch.log((1 - known.exp().sum(-1, keepdim=True)) / 3)
        dense = rest.expand(6, 7).scatter(-1, ids, known)
    loss_fn = SoftTargetLoss("js", vocabulary=VocabularyMap(torch.tensor(IDS), 5))
    assert_close(loss_fn(student, TopK(ids, known, tail)), loss_fn(student, dense))
    with pytest.raises(ValueError, match="tail='renormalise' or tail='uniform' beside"):
        loss_fn(student, TopK(ids, known, "one bucket"))


def test_all_entries_mapped():
    # Without other entries the student has no outcome for the rest of the teacher's mass.
    vocabulary = VocabularyMap(torch.tensor([1, 0, -1]), 2)
    student, teacher = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.6, 0.2, 0.2]]).log()
    assert float(SoftTargetLoss(vocabulary=vocabulary)(student, teacher).abs()) < 1e-6


@pytest.mark.parametrize(("ids", "entries", "error", "message"), [
    ([0, 5], 5, ValueError, "below entries=5"), ([-1, -1], 5, ValueError, "not all"), ([-2, 1], 5, ValueError, "-2"),
    ([0.0], 5, TypeError, "whole numbers"), ([], 5, TypeError, "whole numbers"),
])  # fmt: skip
def test_bad_maps(ids, entries, error, message):
    with pytest.raises(error, match=message):
        VocabularyMap(torch.tensor(ids), entries)


def test_another_vocabulary_of_the_student():
    with pytest.raises(ValueError, match="pass entries=6 to"):
        SoftTargetLoss(vocabulary=VocabularyMap(torch.tensor(IDS), 5))(logits(0, 2, 6), logits(1, 2, 7))


class Tokenizer:
    """Splits texts into the longest tokens; the last id is the end of a text."""

    def __init__(self, *names, space=" "):
        self.names, self.space = [*names, "</s>"], space
        self.eos_token_id = len(names)
        self.all_special_ids = [self.eos_token_id]

    def get_vocab(self):
        return {name: i for i, name in enumerate(self.names)}

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        found = []
        for text in texts:
            text, ids = text.replace(" ", self.space), []
            while names := [name for name in self.names if text.startswith(name)]:
                text = text[len(max(names, key=len)) :]
                ids.append(self.names.index(max(names, key=len)))
            found.append(ids)
        return {"input_ids": found}


@pytest.mark.parametrize(("teacher", "space"), [
    (Tokenizer("t", "the", "Ġthe", "Ġthere", "xx", "Ã©", "Ã"), "byte-level"),
    (Tokenizer("t", "the", "▁the", "▁there", "xx", "é", "<0xC3>"), "pieces"),
    (Tokenizer("##t", "##the", "the", "there", "##xx", "##é", "##�"), "words"),
])  # fmt: skip
def test_vocabularies_of_tokenizers(teacher, space):
    student = Tokenizer("t", "Ġthe", "Ġ", "re", "e", "h", space="Ġ")
    equal, first = (VocabularyMap.of(student, teacher, match).ids.tolist() for match in ("equal", "first"))
    assert equal == [0, -1, 1, -1, -1, -1, -1, 6]
    assert first == [0, 0, 1, 1, -1, -1, -1, 6]
    assert VocabularyMap.of(student, teacher, entries=8).entries == 8


def test_a_tokenizer_that_puts_a_space_in_front():
    class WithSpace(Tokenizer):
        def __call__(self, texts, add_special_tokens):
            return super().__call__([f" {text}" for text in texts], add_special_tokens)

    # A text in the middle of a word cannot be split by it.
    student = WithSpace("▁the", "the", "▁", "re", space="▁")
    assert VocabularyMap.of(student, Tokenizer("there", " there", "the", " the")).ids.tolist() == [-1, 0, 1, 0, 4]
