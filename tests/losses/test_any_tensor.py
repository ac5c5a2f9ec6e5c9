"""Tensors of every kind: the loss of their float64 copies in C order, or an error of otkit that says what to do."""

import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import first
from torch.testing import assert_close

import otkit
from otkit.losses import (
    AssignmentQueue,
    DistillationObjective,
    GaussianFeatureLoss,
    MultiLevelOTLoss,
    Prototypes,
    SigmaLoss,
    SinKDLoss,
    SinkhornLoss,
    SoftTargetLoss,
    SwappedPredictionLoss,
    ULDLoss,
    VocabOTLoss,
    VocabularyCost,
    assign,
    koleo,
    prototype_usage,
)

HERE = str(Path(otkit.__file__).parent)


def wide(v):
    """Every second entry of a larger tensor."""
    out = torch.full((*v.shape[:-1], 2 * v.shape[-1]), torch.nan, dtype=v.dtype)
    out[..., ::2] = v
    return out[..., ::2]


# What makes an argument from a tensor in float64. A form that is read has the value of its float64 copy.
READ = {
    "float64": lambda v: v,
    "float32": lambda v: v.float(),
    "float16": lambda v: v.half(),
    "bfloat16": lambda v: v.bfloat16(),
    "transposed": lambda v: v.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": wide,
    "requiring gradients": lambda v: v.clone().requires_grad_(),
    "negated": lambda v: (v * -1j).conj().imag,
    "read-only": lambda v: torch.from_numpy(np.broadcast_to(v.numpy(), v.shape).copy()),
}
OTHER = {
    "int64": lambda v: v.long(),
    "bool": lambda v: v.bool(),
    "complex": lambda v: v.to(torch.complex128),
    "sparse": lambda v: v.to_sparse(),
    "without data": lambda v: v.to("meta"),
    "array": lambda v: v.numpy(),
    "list": lambda v: v.tolist(),
    "None": lambda v: None,
    "words": lambda v: "logits",
    "a number": lambda v: 1.0,
    "0-d": lambda v: v.sum(),
    "1-d": lambda v: v.reshape(-1),
    "empty": lambda v: v[:0],
    "without columns": lambda v: v[..., :0],
    "shorter": lambda v: v[..., :-1],
    "fewer": lambda v: v[:-1],
    "one axis more": lambda v: v[None],
    "with NaN": lambda v: v.where(v != v.max(), torch.nan),
    "with inf": lambda v: v.where(v != v.max(), torch.inf),
    "with -inf": lambda v: v.where(v != v.max(), -torch.inf),
    "huge": lambda v: v * 1e300,
    "nested": lambda v: torch.nested.nested_tensor([v, v[:1]], layout=torch.jagged),
}

FORMS = {**READ, **OTHER}

torch.manual_seed(0)
COST = VocabularyCost.dense(1 - torch.eye(6))
PROTOTYPES = Prototypes(4, 3).double()
SHARED = SigmaLoss(Prototypes(4, 3).double())
LOGITS, LABELS = (2, 5, 6), torch.tensor([[1, 2, -100, 0, 3], [1, 1, 1, 2, -100]])
MASK = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]])
TAKES = torch.ones(2, 5, dtype=torch.bool)


def pushed(features):
    queue = AssignmentQueue(4, 3).double()
    queue.push(features)
    return queue.features


# A call with two arguments, and their shapes.
LOSSES = {
    **{f"SinKD, {level}": (SinKDLoss(level=level), [LOGITS, LOGITS]) for level in ("batch", "token", "vocab")},
    "SinKD, implicit": (SinKDLoss(tol=1e-9), [LOGITS, LOGITS]),
    "ULD": (ULDLoss(), [LOGITS, LOGITS]),
    "soft targets": (SoftTargetLoss(), [LOGITS, LOGITS]),
    "soft targets, js": (SoftTargetLoss("js"), [LOGITS, LOGITS]),
    "multi-level": (MultiLevelOTLoss(topk=4), [LOGITS, LOGITS]),
    "vocabulary": (VocabOTLoss(COST), [LOGITS, LOGITS]),
    "objective": (lambda x, y: DistillationObjective()(x, y, LABELS), [LOGITS, LOGITS]),
    "features": (GaussianFeatureLoss(), [(2, 5, 3), (2, 4, 3)]),
    "features, diagonal": (GaussianFeatureLoss(covariance="diagonal"), [(2, 5, 3), (2, 4, 3)]),
    "Sinkhorn": (SinkhornLoss(reg=0.5), [(2, 5, 3), (2, 4, 3)]),
    "Sinkhorn, weights": (
        lambda a, b: SinkhornLoss(reg=0.5, unbalanced=1.0)(
            torch.ones(5, 2).double().cumsum(0), torch.ones(4, 2).double(), a, b
        ),
        [(5,), (4,)],
    ),
    "Sinkhorn, a mask": (lambda x, m: SinkhornLoss(reg=0.5)(x, x, mask_x=m), [(5, 2), (5,)]),
    "SinKD, a mask": (lambda x, m: SinKDLoss()(x, drawn(LOGITS, 2), m), [LOGITS, LOGITS[:2]]),
    "ULD, labels": (lambda x, m: ULDLoss()(x, x, labels=m), [LOGITS, LOGITS[:2]]),
    "assignments": (lambda s, w: assign(s, sample_weights=w), [(5, 4), (5,)]),
    "assignments, prior": (lambda s, w: assign(s, prior=w), [(5, 4), (4,)]),
    "assignments, a mask": (lambda s, m: assign(s, mask=m), [(5, 4), (5,)]),
    "swapped": (lambda s, q: SwappedPredictionLoss()(s, queued=q), [(2, 5, 4), (2, 3, 4)]),
    "SIGMA": (SHARED, [(5, 3), (5, 3)]),
    "prototypes": (lambda x, _: PROTOTYPES(x), [(5, 3), (5,)]),
    "queue": (lambda x, _: pushed(x), [(2, 5, 3), (5,)]),
    "koleo": (lambda x, _: koleo(x), [(5, 3), (5,)]),
    "usage": (lambda x, _: prototype_usage(x).shares, [(5, 3), (5,)]),
}


def answer(call, arguments):
    """The answer, or the error if it is one of otkit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            return call(*arguments).detach().double()
    except (ValueError, TypeError) as error:
        refused = error
    frame = traceback.extract_tb(refused.__traceback__)[-1]
    assert frame.filename.startswith(HERE), f"{frame.filename}: {refused!r}"
    assert "raise" in frame.line, f"{frame.line}: {refused!r}"
    return refused


def drawn(shape, seed):
    """Numbers that every dtype holds; weights and masks are positive."""
    v = torch.randint(1, 5, shape, generator=torch.Generator().manual_seed(seed)).double()
    return v if len(shape) == 1 else v / 2


@pytest.mark.parametrize("turn", first(1, range(3)))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LOSSES)
def test_any_tensor(name, form, turn):
    """Both arguments have the form, or one of them: by turns, as all of it takes long."""
    call, shapes = LOSSES[name]
    plain = [drawn(shape, k) for k, shape in enumerate(shapes)]
    places = ((0, 1), (0,), (1,))[(turn + list(LOSSES).index(name) + list(FORMS).index(form)) % 3]
    found = answer(call, [FORMS[form](v) if k in places else v for k, v in enumerate(plain)])
    if isinstance(found, Exception) or form in OTHER:
        return
    tol = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}.get(form, 1e-10)
    assert_close(found, answer(call, plain), rtol=tol, atol=tol)


def test_forms_that_have_a_meaning_are_read():
    for name in ("Sinkhorn", "SinKD, token", "features", "assignments", "SIGMA"):
        call, shapes = LOSSES[name]
        for form in READ:
            found = answer(call, [READ[form](drawn(shape, k)) for k, shape in enumerate(shapes)])
            assert isinstance(found, torch.Tensor), (name, form, found)


@pytest.mark.parametrize("name", ["ULD", "soft targets", "multi-level", "SinKD, token", "Sinkhorn", "assignments"])
def test_batches_of_vmap_are_refused(name):
    call, shapes = LOSSES[name]
    one, other = (drawn(shape, k) for k, shape in enumerate(shapes))
    with pytest.raises(TypeError, match="which otkit does not support"):
        torch.func.vmap(lambda v: call(v, other))(one[None])
