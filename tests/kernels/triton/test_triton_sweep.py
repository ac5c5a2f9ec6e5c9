"""The iterations of Triton's kernels against the reference, iteration by iteration."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from otkit import Dense, PointCloud  # noqa: E402
from otkit.entropic.anderson import LONG, PLAIN_STEPS, WINDOW, Mixing  # noqa: E402
from otkit.kernels import REFERENCE  # noqa: E402
from otkit.kernels.triton import sweep as triton_sweep  # noqa: E402
from otkit.kernels.triton.launch import DOUBLE, MIXED, SINGLE, DelayedRead  # noqa: E402
from otkit.problems import LinearProblem  # noqa: E402

# A guess that is of no use overflows, which the kernels see and NumPy tells in the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

INF = float("inf")
FORMS = ("small", "whole", "tiled")


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Which kernels run, whatever the size; uninitialised memory is poisoned."""
    if request.param != "small":
        monkeypatch.setattr(triton_sweep, "_SMALL", 0)
    if request.param == "tiled":
        monkeypatch.setattr(triton_sweep, "_WHOLE", dict.fromkeys(triton_sweep._WHOLE, 0))
    for name in ("empty", "empty_like"):
        made = getattr(torch, name)
        monkeypatch.setattr(
            torch,
            name,
            lambda *a, made=made, **k: made(*a, **k).fill_(float("nan")) if "pin_memory" not in k else made(*a, **k),
        )
    return request.param


class Case:
    """A problem of tensors and a point to start from, checked and reduced by the reference."""

    def __init__(self, device, geometry, reg, a=None, b=None, rho=None, window=WINDOW):
        with pytest.MonkeyPatch.context() as m:
            m.setattr("otkit.problems.linear.choose", lambda *_: REFERENCE)
            weights = [None if w is None else torch.as_tensor(w, device=device) for w in (a, b)]
            self.problem = p = LinearProblem.build(geometry, *weights, reg=reg, unbalanced=rho)
        self.f, self.g = (
            torch.zeros(p.items, k, dtype=torch.float64, device=device) for k in (p.reduced.n, p.reduced.m)
        )
        self.mixing = Mixing.begin(self.g, torch.as_tensor(p.span, device=device), window)

    def sweep(self, operation, k, tol=1e-10, limit=INF, start=None):
        p = self.problem
        f, g, past = (self.f, self.g, self.mixing) if start is None else start
        tol, limit = (torch.as_tensor(np.broadcast_to(v, p.items).astype(float), device=g.device) for v in (tol, limit))
        return operation(p.reduced, p.at(f, g, p.reg), p.penalties, past, tol, limit, k)

    def check(self, k, tol=1e-10, limit=INF, start=None, within=1e-11):
        """Both versions give the same numbers where there is mass, to `within` of the range of the costs."""
        wanted = self.sweep(REFERENCE.sweep, k, tol, limit, start)
        found = self.sweep(triton_sweep.sweep, k, tol, limit, start)
        p = self.problem
        size = float(p.span.max()) + float(p.reg.max())
        assert found.count.tolist() == wanted.count.tolist()
        for name, weight in (("f", p.a), ("g", p.b), ("point", p.b)):
            miss = (getattr(found, name) - getattr(wanted, name)).abs()[weight > 0]
            assert float(miss.max()) <= within * size, name
        assert torch.allclose(found.error, wanted.error, rtol=1e-3, atol=1e3 * within)
        return found, wanted


def dense(rng, device, *shape, dtype=torch.float64):
    return Dense(torch.as_tensor(rng.random(shape), device=device).to(dtype))


def weights(rng, *shape):
    w = rng.random(shape) + 0.1
    return w / w.sum(-1, keepdims=True)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (7, 1), (23, 37), (41, 20)])
def test_one_problem(device, form, n, m, rng):
    case = Case(device, dense(rng, device, n, m), 0.05, weights(rng, n), weights(rng, m))
    case.check(12)


def test_each_item_stops_by_itself(device, form, rng):
    reg = np.array([1.0, 0.1, 0.05, 0.05])
    case = Case(device, dense(rng, device, 4, 19, 30), reg)
    found, _ = case.check(25, tol=[1e-8, 1e-8, 1e-8, -INF], limit=[INF, INF, INF, 3])
    assert len(set(found.count.tolist())) > 2
    assert found.count[3] == 3
    case.check(4, limit=[0, 1, 0, 2])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rho", [(1.0, 3.0), (INF, 0.5), (0.2, INF), (0.0, 1.0), (INF, 0.0), (50.0, 50.0)])
def test_penalties(device, form, rho, rng):
    case = Case(device, dense(rng, device, 2, 18, 21), 0.05, 2 * weights(rng, 2, 18), weights(rng, 2, 21), rho)
    case.check(12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("block", "programs", "rho", "window"),
    [
        (64, 256, None, WINDOW),
        (16, 256, (1.0, 3.0), 0),
        (16, 2, (1.0, 3.0), WINDOW),
        (16, 2, None, WINDOW),
        pytest.param(64, 256, (1.0, 3.0), WINDOW, marks=pytest.mark.slow),
        pytest.param(64, 256, (1.0, 3.0), 0, marks=pytest.mark.slow),
        pytest.param(16, 256, None, WINDOW, marks=pytest.mark.slow),
        pytest.param(16, 256, (1.0, 3.0), WINDOW, marks=pytest.mark.slow),
        pytest.param(16, 2, (1.0, 3.0), 0, marks=pytest.mark.slow),
    ],
)
def test_columns_are_shared_by_programs(device, form, block, programs, rho, window, monkeypatch, rng):
    """By one, by several, and by few with several blocks each; also for items that have ended."""
    if form == "small":
        pytest.skip("a small problem has one program")
    monkeypatch.setattr(triton_sweep, "_BLOCK", block)
    monkeypatch.setattr(triton_sweep, "PARTS", SimpleNamespace(value=programs))
    costs, b = dense(rng, device, 3, 9, 53), weights(rng, 3, 53)
    case = Case(device, costs, np.array([0.5, 0.1, 0.05]), 2 * weights(rng, 3, 9) if rho else None, b, rho, window)
    found, _ = case.check(12, tol=[1e-6, 1e-10, -INF], limit=[INF, 3, INF])
    assert len(set(found.count.tolist())) == 3


def test_nothing_is_mixed_without_a_window(device, form, rng):
    case = Case(device, dense(rng, device, 2, 22, 17), 0.1, window=0)
    case.check(9, tol=-INF)


def test_forbidden_arcs_zero_and_tiny_weights(device, form, rng):
    C = rng.random((2, 21, 26))
    C[:, rng.random((21, 26)) < 0.3] = INF
    C[:, 0, :] = C[:, :, 0] = 0.5
    a, b = weights(rng, 2, 21), weights(rng, 2, 26)
    a[:, 3], b[:, 5], a[:, 7], b[:, 9] = 0, 0, 1e-300, 1e-300
    case = Case(
        device,
        Dense(torch.as_tensor(C, device=device)),
        0.05,
        a / a.sum(-1, keepdims=True),
        b / b.sum(-1, keepdims=True),
    )
    case.check(10)


@pytest.mark.parametrize("reg", [1e-6, 1e-4, 1e3])
def test_column_sums_that_underflow_and_large_reg(device, form, reg, rng):
    case = Case(device, dense(rng, device, 24, 33), reg)
    case.check(5, within=1e-9)  # what is mixed doubles rounding several times


def test_costs_in_any_layout(device, form, rng):
    C = torch.as_tensor(rng.random((33, 24)), device=device)
    a, b = weights(rng, 24), weights(rng, 33)
    Case(device, Dense(C.T), 0.05, a, b).check(6)
    Case(device, Dense(C[::2, ::3]), 0.05).check(6)
    Case(device, Dense(C + 1e6), 0.05, b, a).check(6, within=1e-9)
    shared = Case(device, Dense(C), np.array([0.05, 0.1, 0.2]), b, a)
    shared.check(6)
    transposed = Case(device, Dense(C), 0.05, b, a)
    p = transposed.problem
    transposed.problem = replace(p, reduced=p.reduced.T, a=p.b, b=p.a)
    transposed.f, transposed.g, transposed.mixing = (
        transposed.g,
        transposed.f,
        Mixing.begin(transposed.f, transposed.mixing.reach),
    )
    transposed.check(6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine", ("power", 1.5)])
@pytest.mark.parametrize("d", [2, 20])
def test_clouds(device, form, metric, d, rng):
    x, y = (torch.as_tensor(rng.random((2, k, d)), device=device) for k in (19, 28))
    case = Case(device, PointCloud(x, y, metric), 0.05)
    case.check(6, within=1e-10)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine", ("power", 1.5)])
@pytest.mark.parametrize("d", [3, 40])
def test_clouds_in_single_precision(device, form, metric, d, monkeypatch, rng):
    """Far from the origin as well; products of many coordinates are formed by tensor cores."""
    x, y = (torch.as_tensor(100 + rng.random((2, k, d)), device=device) for k in (19, 28))
    cloud = PointCloud(x, y, metric)
    case = Case(device, cloud, 0.5)
    costs = case.problem.reduced
    lost = triton_sweep._lost(costs, case.mixing.reach)
    assert float(lost.max()) < (5e-3 if metric == "euclidean" and d == 40 else 1e-4) * float(
        case.problem.span.max() + 1
    )
    assert triton_sweep.multiplies(costs) == (d == 40 and metric != "cityblock")
    monkeypatch.setattr(triton_sweep, "_precision", lambda *_: SINGLE)
    found = case.sweep(triton_sweep.sweep, 4, tol=-INF)
    wanted = case.sweep(REFERENCE.sweep, 4, tol=-INF)
    # The costs' own rounding, a few times over, and that of exponentials.
    assert bool(((found.f - wanted.f).abs() <= 8 * lost.max() + 1e-6).all())
    assert bool(((found.g - wanted.g).abs() <= 8 * lost.max() + 1e-6).all())


def test_the_long_run(device, form, rng):
    """After many iterations a few conjugate directions are kept in the place of a window."""
    x, y = (torch.as_tensor(rng.random((k, 2)), device=device) for k in (26, 31))
    case = Case(device, PointCloud(x, y), 1e-3)
    before = case.sweep(REFERENCE.sweep, 40, tol=-INF)
    past = replace(before.mixing, age=torch.full_like(before.mixing.age, LONG - 2))
    # Directions are made conjugate in another order of sums, and rounding grows by the condition of the problem.
    case.check(9, tol=-INF, start=(before.f, before.point, past), within=1e-7)


def test_it_goes_back_to_the_best_point_where_the_error_rises(device, form, rng):
    case = Case(device, dense(rng, device, 20, 25), 0.02)
    before = case.sweep(REFERENCE.sweep, 8, tol=-INF)
    past = replace(before.mixing, best_error=before.mixing.best_error * 1e-3)
    found, _ = case.check(1, tol=-INF, start=(before.f, before.point, past))
    assert found.mixing.wait.tolist() == [PLAIN_STEPS]
    case.check(6, tol=-INF, start=(before.f, before.point, past), within=1e-9)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("dtype", "reg", "tol", "precision"),
    [
        (torch.float32, 0.1, 1e-4, SINGLE),
        (torch.float32, 4e-3, 1e-4, MIXED),
        (torch.float64, 0.1, 1e-4, MIXED),
        (torch.float32, 0.1, 1e-6, DOUBLE),
    ],
)
def test_the_precision_follows_the_tolerance(device, form, dtype, reg, tol, precision, rng):
    case = Case(device, dense(rng, device, 20, 24, dtype=dtype), reg)
    p = case.problem
    chosen = triton_sweep._precision(p.reduced, p.at(case.f, case.g, p.reg), case.mixing, torch.tensor([tol]))
    assert chosen == precision
    found = case.sweep(triton_sweep.sweep, 200, tol)
    assert float(found.error.max()) <= tol
    rows, cols = REFERENCE.marginals(p.reduced, p.at(found.f, found.g, p.reg))
    error = (rows - p.a).abs().sum(-1) + (cols - p.b).abs().sum(-1)
    assert float(error.max()) <= 1.1 * tol + 1e-15


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, SINGLE), (torch.float64, DOUBLE)])
def test_a_count_of_iterations_is_as_precise_as_the_costs(device, dtype, precision, rng):
    case = Case(device, dense(rng, device, 9, 9, dtype=dtype), 0.1)
    p, none = case.problem, torch.tensor([-INF])
    assert triton_sweep._precision(p.reduced, p.at(case.f, case.g, p.reg), case.mixing, none) == precision
    case.check(5, tol=-INF, within=1e-6 if precision == SINGLE else 1e-11)


def test_the_host_looks_one_chunk_late(device, monkeypatch, rng):
    """It is asked who runs at most once for each chunk of iterations, and nothing else comes back."""
    monkeypatch.setattr(triton_sweep, "_SMALL", 0)
    asked = []
    call = DelayedRead.__call__
    monkeypatch.setattr(DelayedRead, "__call__", lambda self: asked.append(1) or call(self))
    case = Case(device, dense(rng, device, 12, 14), 0.02)
    found = case.sweep(triton_sweep.sweep, 32, tol=-INF)
    assert found.count.tolist() == [32]
    assert len(asked) == 32 // triton_sweep._CHUNK
