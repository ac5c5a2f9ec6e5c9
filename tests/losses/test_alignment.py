"""Spans of two tokenizers over one text."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otkit.losses import Alignment, align


def cuts(length):
    return st.sets(st.integers(1, length - 1)).map(lambda inner: sorted({0, length, *inner}))


@given(cuts(12), cuts(12))
def test_spans_lie_between_common_boundaries(student, teacher):
    common = sorted({*student} & {*teacher})
    found = align([(0, 0), *pairwise(student)], [*pairwise(teacher), (0, 0)])
    wanted = [[sum(cut <= begin for cut in common) - 1 for begin, _ in pairwise(side)] for side in (student, teacher)]
    assert found.spans.tolist() == [-1, *wanted[0]]
    assert found.teacher_spans.tolist() == [*wanted[1], -1]
    for shift in (False, True):  # the teacher has no token before its first
        masks = found.masks(shift)
        assert [int(mask.sum()) for mask in masks] == [len(common) - 1 - shift] * 2
        for mask, spans in zip(masks, (found.spans, found.teacher_spans), strict=True):
            assert spans[mask].tolist() == list(range(shift, len(common) - 1))


@pytest.mark.parametrize(("student", "teacher", "spans", "teacher_spans"), [
    # Spaces that one side leaves out, or puts at the end of a token.
    ([(0, 5), (6, 11)], [(0, 5), (5, 11)], [0, 1], [0, 1]),
    ([(0, 6), (6, 11)], [(0, 5), (6, 11)], [0, 1], [0, 1]),
    ([(0, 2), (9, 11)], [(0, 3), (3, 5), (5, 8), (8, 11)], [0, 1], [0, 1, 1, 1]),
    # Bytes of a character have its place.
    ([(0, 1), (0, 1), (1, 2)], [(0, 1), (1, 2)], [0, 0, 1], [0, 1]),
    ([(0, 1), (1, 2), (1, 2)], [(0, 2)], [0, 0, 0], [0]),
    # Texts that one side has cut off.
    ([(50, 60), (60, 70)], [(0, 55), (55, 60), (60, 70)], [-1, 0], [-1, -1, 0]),
    ([(0, 2), (2, 4)], [(0, 2), (2, 5), (5, 9)], [0, -1], [0, -1, -1]),
    ([(0, 2)], [(3, 5)], [-1], [-1]),
    ([], [(0, 3)], [], [-1]),
])  # fmt: skip
def test_texts_as_tokenizers_cut_them(student, teacher, spans, teacher_spans):
    found = align(torch.tensor(student, dtype=torch.long).reshape(-1, 2), teacher)
    assert (found.spans.tolist(), found.teacher_spans.tolist()) == (spans, teacher_spans)


def test_rows_of_a_batch():
    found = align(
        [[(0, 0), (0, 2), (2, 3), (3, 6)], [(0, 1), (1, 2), (0, 0), (0, 0)]],
        [[(0, 0), (0, 2), (2, 6)], [(0, 0), (0, 1), (1, 2)]],
    )
    masks = found.masks(shift=True)
    assert masks[0].tolist() == [[False, True, True, False], [False, True, False, False]]
    assert masks[1].tolist() == [[False, True, True], [False, False, True]]
    # A span goes as a whole: where the student's second token takes no part, its first has none either.
    kept = found.masks(True, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    assert kept[0].tolist() == [[False, True, False, False], [False, True, False, False]]
    assert kept[1].tolist() == [[False, True, False], [False, False, True]]


def test_no_tokens():
    found = align(torch.zeros(2, 0, 2), torch.zeros(2, 3, 2))
    assert [mask.shape for mask in found.masks(True, torch.ones(2, 0))] == [(2, 0), (2, 3)]
    assert not Alignment(torch.full((3,), -1), torch.full((2,), -1)).masks(True)[0].any()


@pytest.mark.parametrize(("student", "teacher", "message"), [
    ([(0, 1)], [[(0, 1)]], "shapes .length, 2. or"),
    ([0, 1], [0, 1], "return_offsets_mapping"),
    ([(3, 4), (0, 1)], [(0, 4)], "in the order of the text"),
])  # fmt: skip
def test_bad_input(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        align(student, teacher)


def test_tokens_that_are_not_those_of_the_spans():
    found = align([(0, 1), (1, 2)], [(0, 2)])
    with pytest.raises(ValueError, match=r"keep must have the shape \(2,\) of spans"):
        found.masks(False, torch.ones(3))
    with pytest.raises(TypeError, match="keep must be a tensor"):
        found.masks(False, [1, 1])
