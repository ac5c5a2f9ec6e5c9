"""Lists of clouds of unequal sizes: equal to single calls up to rounding, with gradients and one report."""

import pickle
import sys
import tracemalloc
from types import ModuleType

import numpy as np
import pytest

import otkit
from otkit.kernels import threads


def clouds(count=5, seed=0, d=2, largest=40):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest, (2, count))
    x, y = ([rng.normal(size=(n, d)) for n in side] for side in sizes)
    a, b = ([rng.dirichlet(np.ones(n)) for n in side] for side in sizes)
    return x, y, a, b


CALLS = {
    "solve_sample": lambda *measures: otkit.solve_sample(*measures),
    "solve_sample with a reg": lambda *measures: otkit.solve_sample(*measures, reg=0.1),
    "wasserstein": lambda *measures: otkit.wasserstein(*measures),
    "sinkhorn_divergence": lambda *measures: otkit.sinkhorn_divergence(*measures, reg=0.5),
}


def number(answer):
    return answer.distance if isinstance(answer, otkit.WassersteinResult) else float(answer.value)


def assert_alike(answers, single):
    assert isinstance(answers, list)
    np.testing.assert_allclose([number(r) for r in answers], [number(r) for r in single], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_answers_are_those_of_single_calls(call):
    x, y, a, b = clouds()
    assert_alike(call(x, y, a, b), [call(*one) for one in zip(x, y, a, b, strict=True)])
    assert_alike(call(x, y), [call(*one) for one in zip(x, y, strict=True)])


FIELDS = ("value", "value_linear", "value_reg", "value_dual", "f", "g", "lower", "upper", "tol", "status", "rescaled")
ASKED = {
    "exact": {},
    "on a line": {"d": 1},
    "with a reg": {"reg": 0.5},
    "many coordinates": {"reg": 2.0, "d": 10},
    "unbalanced": {"reg": 0.5, "unbalanced": (1.0, np.inf)},
    "a callable": {"reg": 0.5, "metric": lambda x, y: abs(x[..., :, None, :] - y[..., None, :, :]).sum(-1)},
}


@pytest.mark.parametrize("largest", [40, 100])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_every_field_is_that_of_a_single_call(asked, largest):
    options = {"d": 2, **asked}
    x, y, a, b = clouds(d=options.pop("d"), largest=largest)
    for found, *one in zip(otkit.solve_sample(x, y, a, b, **options), x, y, a, b, strict=True):
        alone = otkit.solve_sample(*one, **options)
        for name in FIELDS:
            here, there = getattr(found, name), getattr(alone, name)
            if here is None or name == "status":
                assert here is there, name
            elif alone.outcome.reg is not None or name not in ("f", "g"):  # exact potentials may not be unique
                np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.plan.sum(1), alone.plan.sum(1), rtol=1e-9)
        np.testing.assert_allclose((found.plan * one[0][:, :1]).sum(), found.apply_t(one[0][:, 0]).sum(), atol=1e-12)
        assert (found.plan_sparse().item == 0).all()
        assert found.plan_sparse().mass.sum() == pytest.approx(found.plan.sum(), rel=1e-8)
        assert found.barycentric().shape == one[0].shape
        assert {stage.item for stage in found.stages} <= {0}
        assert repr(found).startswith(f"Result({len(one[0])} × {len(one[1])}")


def test_pickles_keep_the_pair():
    x, y, a, b = clouds()
    for found in otkit.solve_sample(x, y, a, b, reg=0.1):
        again = pickle.loads(pickle.dumps(found))
        assert number(again) == number(found)
        np.testing.assert_array_equal(again.plan, found.plan)


def test_clouds_of_other_units_keep_narrow_bounds():
    x, y, *_ = clouds()
    x, y = ([v * 1e6 if k == 2 else v for k, v in enumerate(side)] for side in (x, y))
    for found, *one in zip(otkit.solve_sample(x, y), x, y, strict=True):
        assert found.gap <= 300 * max(otkit.solve_sample(*one).gap, 1e-16)


def test_kinds_of_arrays_are_not_mixed():
    x, y, *_ = clouds(6)
    x = [v.astype(np.float32) if k % 2 else v for k, v in enumerate(x)]
    y = [v.astype(np.float32) if k % 2 else v for k, v in enumerate(y)]
    found = otkit.solve_sample(x, y, reg=0.5)
    assert [r.value.dtype for r in found] == [np.float64, np.float32] * 3


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_threads_change_nothing(call, monkeypatch):
    x, y, a, b = clouds(12)
    alone = call(x, y, a, b)
    monkeypatch.setenv("OTKIT_NUM_THREADS", "3")
    monkeypatch.setattr(threads, "_WORTH", 0)
    assert [number(r) for r in call(x, y, a, b)] == [number(r) for r in alone]
    bad = [w if k not in (4, 9) else -w for k, w in enumerate(a)]
    with pytest.raises(ValueError, match="pair 4: a must be non-negative"):
        call(x, y, bad, b)


@pytest.mark.parametrize("reg", [None, 0.1])
def test_memory_is_that_of_the_pairs_and_not_of_the_largest(reg):
    rng = np.random.default_rng(0)
    x, y = ([rng.random((n, 2)) for n in sizes] for sizes in rng.integers(10, 200, (2, 32)))
    otkit.solve_sample(x[:2], y[:2], reg=reg)
    tracemalloc.start()
    found = otkit.solve_sample(x, y, reg=reg)
    values = [float(r.value) for r in found]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(values) == 32
    assert peak < 2 * sum(8 * len(u) * len(v) for u, v in zip(x, y, strict=True))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_cloud_is_shared(call):
    x, y, a, _ = clouds()
    assert_alike(call(x, y[0], a), [call(v, y[0], w) for v, w in zip(x, a, strict=True)])
    assert_alike(call(y[0], x), [call(y[0], v) for v in x])
    assert_alike(call([x[0]] * 3, [y[0]] * 3), [call(x[0], y[0])] * 3)


def test_equal_sizes_are_no_other_case_and_tuples_are_lists():
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    assert len(otkit.wasserstein(tuple(x), list(x[::-1]))) == 2


def test_a_list_of_points_is_one_cloud():
    rows = [np.array([0.0, 0.0]), np.array([3.0, 4.0])]
    assert otkit.wasserstein(rows, rows).distance == 0.0


def test_one_reg_for_each_pair():
    x, y, *_ = clouds()
    reg = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    found = otkit.solve_sample(x, y, reg=reg)
    assert_alike(found, [otkit.solve_sample(*one, reg=r) for *one, r in zip(x, y, reg, strict=True)])


@pytest.mark.parametrize("reg", [None, 0.1])
def test_one_penalty_for_each_pair(reg):
    x, y, a, b = clouds(3)
    rho = np.array([0.5, 1.0, 2.0])
    together = otkit.solve_sample(x, y, a, b, reg=reg, unbalanced=(rho, np.inf))
    alone = [otkit.solve_sample(*one, reg=reg, unbalanced=(r, np.inf)) for *one, r in zip(x, y, a, b, rho, strict=True)]
    np.testing.assert_allclose([number(r) for r in together], [number(r) for r in alone], rtol=1e-6)
    divergences = otkit.sinkhorn_divergence(x, y, a, b, reg=0.5, unbalanced=rho)
    alone = [otkit.sinkhorn_divergence(*one, reg=0.5, unbalanced=r) for *one, r in zip(x, y, a, b, rho, strict=True)]
    np.testing.assert_allclose([number(r) for r in divergences], [number(r) for r in alone], rtol=1e-9)


def test_one_warning_counts_the_pairs():
    x, y, *_ = clouds()
    with pytest.warns(otkit.ConvergenceWarning, match="4 of 5 pairs did not converge; pair 0") as caught:
        otkit.solve_sample(x, y, reg=0.01, method=otkit.Sinkhorn(max_iter=1))
    assert len(caught) == 1
    with pytest.raises(otkit.NotConverged):
        otkit.solve_sample(x, y, reg=0.01, method=otkit.Sinkhorn(max_iter=1), strict=True)


def test_gradients_flow_through_split_points():
    torch = pytest.importorskip("torch")
    from otkit.losses import SinkhornLoss

    x, y, *_ = clouds()
    lengths = [len(v) for v in x]
    flat = torch.tensor(np.concatenate(x), requires_grad=True)
    index = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))
    loss = SinkhornLoss(reg=0.1)
    targets = [torch.tensor(v) for v in y]
    loss(otkit.split(flat, batch=index), targets).backward()
    slopes = []
    for v, target in zip(x, targets, strict=True):
        leaf = torch.tensor(v, requires_grad=True)
        loss(leaf, target).backward()
        slopes.append(leaf.grad / 5)
    np.testing.assert_allclose(flat.grad, torch.cat(slopes), rtol=1e-9, atol=1e-12)
    each = SinkhornLoss(reg=0.1, reduction="none")(otkit.split(flat, lengths), targets)
    assert each.shape == (5,)


def test_gradients_of_single_results_and_their_other_fields():
    torch = pytest.importorskip("torch")
    x, y, a, b = ([torch.tensor(v, requires_grad=True) for v in side] for side in clouds())
    for call in (CALLS["solve_sample with a reg"], CALLS["wasserstein"], CALLS["sinkhorn_divergence"]):
        for found, *one in zip(call(x, y, a, b), x, y, a, b, strict=True):
            for of in (call(*one), found):
                value = of.distance if isinstance(of, otkit.WassersteinResult) else of.value
                slopes = torch.autograd.grad(value, one)
                if of is not found:
                    alone = slopes
            for here, there in zip(slopes, alone, strict=True):
                torch.testing.assert_close(here, there, rtol=1e-8, atol=1e-10)
    found = otkit.solve_sample(x, y, a, b, reg=0.5)[1]
    (slope,) = torch.autograd.grad(found.plan.square().sum(), x[1])
    (there,) = torch.autograd.grad(otkit.solve_sample(x[1], y[1], a[1], b[1], reg=0.5).plan.square().sum(), x[1])
    torch.testing.assert_close(slope, there, rtol=1e-6, atol=1e-10)


def test_split_points_and_weights():
    x = np.arange(10.0).reshape(5, 2)
    for found in (otkit.split(x, [2, 0, 3]), otkit.split(x, batch=[0, 0, 2, 2, 2])):
        assert [len(v) for v in found] == [2, 0, 3]
        np.testing.assert_array_equal(np.concatenate(found), x)
    assert [v.tolist() for v in otkit.split(np.arange(3.0), [1, 2])] == [[0.0], [1.0, 2.0]]


BAD = {
    "both": (lambda: otkit.split(np.zeros((3, 1)), [3], batch=[0, 0, 0]), "pass one of them"),
    "sum": (lambda: otkit.split(np.zeros((3, 1)), [1, 1]), "sum to the 3 points, got a sum of 2"),
    "fractions": (lambda: otkit.split(np.zeros((3, 1)), [1.0, 2.0]), "whole numbers"),
    "negative": (lambda: otkit.split(np.zeros((3, 1)), [-1, 4]), "whole numbers from 0, got -1"),
    "order": (lambda: otkit.split(np.zeros((3, 1)), batch=[0, 1, 0]), "sort the points"),
    "lengths": (lambda: otkit.wasserstein([np.zeros((2, 1))] * 2, [np.zeros((2, 1))] * 3), r"one length, got \[2, 3\]"),
    "a pair": (lambda: otkit.wasserstein([np.zeros((2, 1)), np.zeros((2, 3))], np.zeros((1, 1))), "pair 1: "),
    "init": (lambda: otkit.solve_sample([np.zeros((2, 1))], np.zeros((1, 1)), init=(0, 0)), "each pair"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_lists_are_refused_with_advice(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_another_thread_may_be_importing_sparse_matrices(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", ModuleType("scipy.sparse"))
    x = np.arange(6.0).reshape(3, 2)
    assert [float(r.value_linear) > 0 for r in otkit.solve_sample([x, x[:2]], x, reg=0.5)] == [True, True]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_pairs_that_no_pass_takes_together_are_solved_one_by_one(call, monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    x, y, a, b = clouds(3)
    assert_alike(call(x, y, a, b), [call(*one) for one in zip(x, y, a, b, strict=True)])


@pytest.mark.parametrize("reg", [None, 0.5])
def test_sizes_of_a_pass_may_differ_by_any_factor(reg):
    rng = np.random.default_rng(0)
    sizes = [(1, 300), (300, 1), (60, 50), (2, 2), (40, 63)]
    x, y = ([rng.normal(size=(pair[side], 2)) for pair in sizes] for side in (0, 1))
    found = otkit.solve_sample(x, y, reg=reg)
    alone = [otkit.solve_sample(*one, reg=reg) for one in zip(x, y, strict=True)]
    assert_alike(found, alone)
    for here, there in zip(found, alone, strict=True):
        np.testing.assert_allclose(here.plan, there.plan, atol=1e-12)
        if reg:
            np.testing.assert_allclose(here.f, there.f, atol=1e-9)
        assert here.lower <= float(here.value_linear)
        assert here.upper == pytest.approx(there.upper, rel=1e-9)
