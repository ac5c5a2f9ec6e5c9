"""Balanced assignments of samples to prototypes."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scores import S1 as S
from scores import cosines, double, exact
from torch.nn import functional

import otkit
from otkit.losses import PRESETS, assign

LOGITS = torch.tensor(
    [[3, 0, -1], [2.5, 0.5, 0], [2, 1, 0], [0, 2, 1], [1, 1, 1.2], [2.8, 0, -2]], dtype=torch.float64
).log_softmax(-1)


def plain(scores, reg, n_iters, prior=None, weights=None, power=1.0):
    """The loop of the released codes: exponentials, and divisions in turn; prototypes first, without shifts."""
    Q = torch.exp(scores.double() / reg)
    n, k = Q.shape
    prior = torch.full((k,), 1 / k, dtype=Q.dtype) if prior is None else prior
    weights = torch.full((n,), 1 / n, dtype=Q.dtype) if weights is None else weights
    alpha = weights
    for _ in range(n_iters):
        beta = prior * (1 / (Q.T @ alpha)) ** power
        alpha = weights / (Q @ beta)
    return alpha[:, None] * Q * beta / weights[:, None]


def test_golden_assignment():
    wanted = torch.tensor(
        [[0.99926084, 0.000737, 0.00000217], [0.95534882, 0.03847035, 0.00618083], [0.73856775, 0.00054472, 0.26088753],
         [0.00000001, 0.99706595, 0.00293405], [0, 0.00208361, 0.99791639], [0.55284901, 0.44715093, 0.00000006]]
    ).double()  # fmt: skip
    q = assign(S, reg=0.05, n_iters=3)
    torch.testing.assert_close(q, wanted, rtol=0, atol=6e-9 + torch.finfo(torch.float32).eps)
    torch.testing.assert_close(q.sum(1), torch.ones(6).double(), rtol=0, atol=1e-14)
    masses = double([0.5410044, 0.24767543, 0.21132017])
    torch.testing.assert_close(q.mean(0), masses, rtol=0, atol=1e-7)
    assert assign(S.float()).sum(1).sub(1).abs().max() < 1e-6


@pytest.mark.parametrize(("n_iters", "off"), [(1, 0.317), (3, 0.208), (10, 0.016), (50, 5e-5)])
def test_masses_converge_to_equal_with_the_iterations(n_iters, off):
    found = float((assign(S, n_iters=n_iters).mean(0) - 1 / 3).abs().max())
    assert found == pytest.approx(off, rel=0.1, abs=5e-4 if off > 1e-3 else 0)


def test_a_prior_is_met():
    prior = double([0.6, 0.25, 0.15])
    torch.testing.assert_close(assign(S, n_iters=500, prior=prior).mean(0), prior, rtol=0, atol=1e-12)
    torch.testing.assert_close(assign(S, prior=prior), assign(S, prior=8 * prior))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("n_iters", [1, 3, 10])
def test_every_preset_is_the_plain_loop_at_any_number_of_iterations(name, n_iters):
    options = {**PRESETS[name], "n_iters": n_iters, "tol": None}
    scores = cosines()
    scores = scores.mul(3).log_softmax(-1) if name in ("sela", "p2ot") else scores
    reg, penalty = options["reg"], options.get("unbalanced", math.inf)
    wanted = plain(scores, reg, n_iters, power=1.0 if penalty == math.inf else penalty / (penalty + reg))
    soft = assign(scores, **{**options, "hard": False})
    torch.testing.assert_close(soft, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(assign(scores.float(), **{**options, "hard": False}).double(), wanted, rtol=0, atol=1e-5)
    if options.get("hard"):
        assert torch.equal(assign(scores, **options), wanted.argmax(1))


@pytest.mark.parametrize("name", ["sela", "p2ot"])
def test_presets_that_converge(name):
    scores, options = cosines().mul(3).log_softmax(-1), {**PRESETS[name], "hard": False}
    far = assign(scores, **{**options, "tol": 1e-12, "n_iters": 20_000})
    torch.testing.assert_close(assign(scores, **options), far, rtol=0, atol=20 * options["tol"])
    if name == "sela":
        torch.testing.assert_close(far.mean(0), torch.full((30,), 1 / 30, dtype=torch.float64), rtol=0, atol=1e-12)


def test_which_shifts_are_harmless():
    q = assign(S, n_iters=3)
    torch.testing.assert_close(assign(S + torch.tensor([300.0, -80.0, 5.0]), n_iters=3), q, rtol=0, atol=1e-11)
    shifted = S - S.amax(1, keepdim=True)  # what a fix of DINOv2's overflow would do
    assert (assign(shifted, n_iters=3) - q).abs().max() == pytest.approx(0.44, abs=5e-3)
    torch.testing.assert_close(assign(shifted, n_iters=3), plain(shifted, 0.05, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(assign(shifted, n_iters=2000), assign(S, n_iters=2000), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("reg", "scale", "below"), list(itertools.product((0.05, 0.01, 0.005), (1, 5), (0, 6))))
def test_any_range_of_scores(dtype, reg, scale, below):
    scores = cosines() * scale
    scores[:, 0] -= below  # a dead prototype
    scores = scores.to(dtype)
    for n_iters in (1, 3, 10):
        q, wanted = assign(scores, reg=reg, n_iters=n_iters), exact(scores, reg, n_iters)
        assert q.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        # The exponents are rounded: scores / reg, and the potentials that are added.
        spread = float(scores.max() - scores.min()) / reg
        torch.testing.assert_close(q.double(), wanted, rtol=0, atol=3 * spread * torch.finfo(q.dtype).eps)


def test_samples_far_from_all_prototypes():
    scores = cosines().float()
    scores[7] -= 1e4
    scores[8] += 1e4
    q = assign(scores, reg=0.01, n_iters=5)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(1), torch.ones(200))
    torch.testing.assert_close(assign(scores.double(), reg=0.01, n_iters=5), exact(scores, 0.01, 5), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 1e38), (torch.float64, 8e307)])
def test_scores_whose_differences_overflow(dtype, unit):
    scores = torch.tensor([[2.0, -2.0], [-1.0, 1.0]], dtype=dtype)
    q = assign(scores * unit, reg=unit, n_iters=3)
    torch.testing.assert_close(q, assign(scores, reg=1.0, n_iters=3), rtol=0, atol=1e-6)


def test_a_view_of_negated_numbers():
    z = torch.randn(9, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(assign(z.conj().imag), assign(-z.imag))


@pytest.mark.parametrize("n_iters", [1, 3, 10])
def test_equal_samples_get_equal_shares(n_iters):
    q = assign(cosines()[:1].expand(200, -1).float(), reg=0.01, n_iters=n_iters)
    torch.testing.assert_close(q, torch.full((200, 30), 1 / 30), rtol=1e-5, atol=0)


def test_weights_count_samples():
    weights = torch.tensor([2, 1, 1, 3, 1, 0])
    rows = torch.repeat_interleave(torch.arange(6), weights)
    first = [0, 2, 3, 4, 7]
    for options in ({}, {"unbalanced": 0.1}, {"mass": 0.6}, {"mass": 0.6, "unbalanced": 0.1}):
        q = assign(S, sample_weights=weights, **options)
        torch.testing.assert_close(q[:5], assign(S[rows], **options)[first], rtol=0, atol=1e-12)
    torch.testing.assert_close(assign(S, sample_weights=weights)[5].sum(), torch.tensor(1.0).double())  # assigned too
    torch.testing.assert_close(assign(S, sample_weights=weights), assign(S, sample_weights=weights / 5.0))


def test_masked_samples_are_not_there():
    mask = torch.tensor([True, True, False, True, True, False])
    for rubbish in (0.0, 1e9, math.nan, math.inf, -math.inf):
        scores = torch.where(mask[:, None], S, rubbish)
        for options in ({}, {"mass": 0.7, "unbalanced": 1.0}):
            q = assign(scores, mask=mask, **options)
            torch.testing.assert_close(q[mask], assign(S[mask], **options))
            assert (q[~mask] == 0).all()
            assert torch.equal(assign(scores, mask=mask.long(), **options), q)
        labels = assign(scores, mask=mask, hard=True)
        assert torch.equal(labels, torch.where(mask, assign(S, mask=mask).argmax(1), -100))
        assert functional.cross_entropy(S, labels) == functional.cross_entropy(S[mask], labels[mask])


def test_forbidden_prototypes_and_those_without_a_share():
    scores = S.clone()
    scores[0, 0] = scores[3, 1] = -math.inf
    q = assign(scores, n_iters=500)
    assert q[0, 0] == q[3, 1] == 0
    torch.testing.assert_close(q.sum(1), torch.ones(6).double())
    torch.testing.assert_close(q.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-9)
    prior = torch.tensor([0.5, 0.0, 0.5])
    q = assign(S, prior=prior, n_iters=200, tol=1e-9)
    assert (q[:, 1] == 0).all()
    torch.testing.assert_close(q[:, ::2], assign(S[:, ::2], n_iters=200, tol=1e-9))
    scores[:, 0] = -math.inf  # to all
    assert (assign(scores, n_iters=50)[:, 0] == 0).all()
    torch.testing.assert_close(assign(scores, n_iters=5)[:, 1:], assign(scores[:, 1:], n_iters=5))


def test_batches_are_a_loop():
    scores, generator = cosines(20, 7, lead=(2, 3)), torch.Generator().manual_seed(1)
    prior = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 1, 20, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 3, 20, generator=generator) < 0.8
    for options in ({}, {"mass": 0.5}, {"hard": True}, {"unbalanced": 0.3, "mass": 0.9}):
        q = assign(scores, prior=prior, sample_weights=weights, mask=mask, **options)
        assert q.shape == scores.shape[: 3 if options.get("hard") else 4]
        for i, j in itertools.product(range(2), range(3)):
            one = assign(scores[i, j], prior=prior[j], sample_weights=weights[i, 0], mask=mask[i, j], **options)
            torch.testing.assert_close(q[i, j], one)


@pytest.mark.parametrize("penalty", [0.02, 0.5, 100.0])
def test_penalties_are_those_of_solve(penalty):
    scores, generator = cosines(40, 6), torch.Generator().manual_seed(1)
    prior, weights = (torch.rand(k, generator=generator, dtype=torch.float64) + 0.1 for k in (6, 40))
    options = dict(prior=prior, sample_weights=weights, unbalanced=penalty)
    q = assign(scores, reg=0.1, n_iters=5000, tol=1e-12, **options)
    a, b = weights / weights.sum(), prior / prior.sum()
    plan = otkit.solve(-scores, a, b, reg=0.1, unbalanced=(math.inf, penalty), tol=1e-12, max_iter=100_000).plan
    torch.testing.assert_close(a[:, None] * q, plan, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("mass", "rows", "masses"), [
    (0.5, [0.5895, 0.2796, 0.0453, 0.894, 0.6042, 0.5874], [0.2502, 0.149, 0.1008]),
    (0.9, [0.9651, 0.8818, 0.5908, 0.9999, 0.9976, 0.9648], [0.5304, 0.2056, 0.164]),
])  # fmt: skip
def test_golden_parts_of_p2ot(mass, rows, masses):
    q = assign(LOGITS, **{**PRESETS["p2ot"], "mass": mass, "tol": 1e-10})
    torch.testing.assert_close(q.sum(1), double(rows), rtol=0, atol=6e-5)
    torch.testing.assert_close(q.mean(0), double(masses), rtol=0, atol=6e-5)
    assert q.sum() / 6 == pytest.approx(mass, abs=1e-9)
    assert (q.sum(1) <= 1).all()


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
def test_a_part_is_what_the_loop_with_a_virtual_cluster_converges_to(mass):
    wanted, power = double([mass / 3] * 3 + [1 - mass]), double([1 / 1.1] * 3 + [1.0])
    K, beta = torch.exp(functional.pad(LOGITS, (0, 1)) / 0.1), torch.ones(4).double()
    for _ in range(5000):
        alpha = 1 / 6 / (K @ beta)
        beta = (wanted / (K.T @ alpha)) ** power
    plan = (1 / 6 / (K @ beta))[:, None] * K * beta
    q = assign(LOGITS, reg=0.1, unbalanced=1.0, mass=mass, tol=1e-12, n_iters=2000)
    torch.testing.assert_close(q / 6, plan[:, :3], rtol=0, atol=1e-10)


def test_high_penalties_and_the_whole_are_the_balanced_problem():
    options = dict(reg=0.1, n_iters=20_000, tol=1e-13)
    balanced = assign(LOGITS, **options)
    torch.testing.assert_close(assign(LOGITS, unbalanced=1e9, **options), balanced, rtol=0, atol=1e-8)
    partial = assign(LOGITS, mass=0.4, **options)
    torch.testing.assert_close(assign(LOGITS, mass=0.4, unbalanced=1e9, **options), partial, rtol=0, atol=1e-8)
    ends = double([0.4 / 3] * 3 + [0.6])
    plan = otkit.solve(-functional.pad(LOGITS, (0, 1)), b=ends, reg=0.1, tol=1e-13).plan
    torch.testing.assert_close(partial / 6, plan[:, :3], rtol=0, atol=1e-11)
    torch.testing.assert_close(assign(LOGITS, mass=1 - 1e-12, **options), balanced, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("unbalanced", [math.inf, 1.0])
@pytest.mark.parametrize("mass", [1.0, 0.3, 0.05])
def test_the_mass_and_the_shares_are_met_where_iterations_are_slow(mass, unbalanced, dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 200, 10, generator=generator, dtype=dtype)
    weights, prior = (torch.rand(k, generator=generator, dtype=torch.float64) for k in (200, 10))
    weights[:5], prior[3] = 0.0, 0.0
    a, b = weights / weights.sum(), prior / prior.sum()
    tol = 1e-9 if dtype == torch.float64 else 1e-5
    options = dict(reg=0.02, unbalanced=unbalanced, sample_weights=weights, prior=prior, n_iters=200, tol=tol)
    q = assign(scores, mass=mass, **options).double()  # warns where it falls short
    shares = torch.einsum("n,bnk->bk", a, q)
    torch.testing.assert_close(shares.sum(-1), torch.full((2,), mass, dtype=torch.float64), rtol=0, atol=2 * tol)
    if unbalanced == math.inf:
        torch.testing.assert_close(shares, (mass * b).expand(2, 10), rtol=0, atol=2 * tol)
    if mass == 1 and dtype == torch.float64:
        plan = otkit.solve(-scores, a, b, reg=0.02, unbalanced=(math.inf, unbalanced), tol=1e-11).plan
        torch.testing.assert_close(q * a[:, None], plan, rtol=0, atol=1e-8)


def test_a_prototype_without_a_share_gets_nothing_from_a_penalty():
    prior = double([1.0, 0.0, 2.0])
    q = assign(S, unbalanced=1.0, prior=prior, n_iters=50, tol=1e-12)
    assert (q[:, 1] == 0).all()
    rest = assign(S[:, [0, 2]], unbalanced=1.0, prior=prior[[0, 2]], n_iters=50, tol=1e-12)
    torch.testing.assert_close(q[:, [0, 2]], rest, rtol=0, atol=1e-11)


def test_partial_iterations_are_those_with_one_more_prototype():
    prior = double([0.2, 0.2, 0.2, 0.4])
    wanted = plain(functional.pad(S, (0, 1)), 0.05, 3, prior=prior)[:, :3]
    torch.testing.assert_close(assign(S, n_iters=3, mass=0.6), wanted, rtol=0, atol=1e-12)
    assert torch.equal(assign(S, n_iters=3, mass=0.6, hard=True), wanted.argmax(1))
    far = assign(S - 1e4, mass=0.6, hard=True)  # the score of what is not assigned is the same for all samples
    assert torch.equal(far, wanted.argmax(1))


def test_tolerance():
    for dtype, tol in ((torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 1e-9)):
        q = assign(cosines().to(dtype), reg=0.02, n_iters=10_000, tol=tol)
        assert (q.mean(0) - 1 / 30).abs().sum() <= (tol if dtype == torch.float64 else max(2 * tol, 1e-5))
    with pytest.warns(
        otkit.ConvergenceWarning, match="after 3 iterations .* more than tol=1e-08; raise n_iters, reg or tol"
    ):
        assign(S, n_iters=3, tol=1e-8)
    torch.testing.assert_close(assign(S, n_iters=100, tol=0.5), assign(S, n_iters=3))


def test_no_gradient_and_nothing_changed():
    scores = S.clone().requires_grad_()
    assert not assign(scores).requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(scores.detach(), S)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(assign(S.float()), assign(S).float())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_is_that_of_the_result():
    code = """
import re, torch
from pathlib import Path
from otkit.losses import assign

def highest():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

scores = torch.randn(4096, 3000)
assign(scores[:8])
before = highest()
assign(scores, n_iters=5, hard={hard})
print((highest() - before) / scores.nbytes)
"""
    for hard in (False, True):
        run = subprocess.run([sys.executable, "-c", code.format(hard=hard)], capture_output=True, text=True, check=True)
        assert 0.5 < float(run.stdout) < 1.25  # the plain loop needs twice


def test_many_prototypes():
    scores = cosines(48, 65_536, 32).float()
    q = assign(scores, n_iters=3)
    torch.testing.assert_close(q.sum(1), torch.ones(48))
    torch.testing.assert_close(q.double(), exact(scores, 0.05, 3), rtol=0, atol=3 * 40 * torch.finfo(q.dtype).eps)


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        (S, {"reg": 0.0}, "reg must be a positive number, got 0"),
        (S, {"reg": 1e-310}, "reg must have a reciprocal in torch.float64, got 1e-310; divide both scores and reg"),
        (S.float(), {"reg": 1e-40}, "reg must have a reciprocal in torch.float32, got 1e-40; divide both"),
        (S, {"n_iters": 0}, "n_iters must be a whole number, 1 or more, got 0"),
        (S, {"n_iters": 2.5}, "n_iters must be a whole number"),
        (S, {"tol": -1.0}, "tol must be a positive number"),
        (
            S,
            {"unbalanced": 0.0},
            r"unbalanced must be positive, got 0.0; with the penalty 0 the assignments are \(scores",
        ),
        (S, {"mass": 0.0}, r"mass must be a part of the whole, in \(0, 1\], got 0"),
        (S, {"mass": 1.5}, "mass must be"),
        (S, {"mass": math.nan}, "mass must be"),
        ([[1.0]], {}, "scores must be a tensor, got list; torch.as_tensor converts"),
        (S.long(), {}, "got torch.int64"),
        (S[0], {}, r"scores must have shape \(..., N, K\), .* got \(3,\)"),
        (S[:, :0], {}, r"got \(6, 0\)"),
        (S[:0], {}, "must leave a sample of positive weight"),
        (S, {"prior": torch.ones(2)}, r"prior must have shape \(3,\), as the scores, or broadcast to it, got \(2,\)"),
        (S, {"prior": torch.zeros(3)}, "prior must leave a share to some prototype"),
        (S, {"prior": torch.tensor([1, -1, 1.0])}, "prior must be finite and not negative, got values from -1 to 1"),
        (S, {"sample_weights": torch.ones(3)}, r"sample_weights must have shape \(6,\)"),
        (S, {"sample_weights": torch.tensor([1, 1, 1, 1, 1, math.nan])}, "sample_weights must be finite"),
        (S, {"sample_weights": torch.zeros(6)}, "must leave a sample of positive weight"),
        (S, {"mask": torch.full((6,), -1.0)}, "mask must be 0 where nothing takes part"),
        (S, {"mask": torch.ones(1, 6, dtype=torch.bool)}, r"mask must have shape \(6,\)"),
        (S, {"mask": torch.zeros(6, dtype=torch.bool)}, "must leave a sample of positive weight"),
        (torch.where(S == 0.9, math.nan, S), {}, "scores must hold neither NaN nor inf"),
        (torch.where(S == 0.9, math.inf, S), {}, "scores must hold neither NaN nor inf"),
        (torch.where(S[:1] == S, -math.inf, S), {}, "every sample a finite one for a prototype with a share"),
        (S, {"group": object()}, "group needs torch.distributed to be initialised"),
    ],
)
def test_bad_input(scores, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        assign(scores, **options)
