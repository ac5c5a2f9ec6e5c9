"""Whole solves of tensors by Triton's kernels, beside the same ones of NumPy's arrays."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import otkit  # noqa: E402
from otkit import arrays, losses  # noqa: E402
from otkit.entropic.dual import Potentials  # noqa: E402
from otkit.entropic.operations import Moved  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels import REFERENCE  # noqa: E402
from otkit.kernels.triton import TRITON  # noqa: E402
from otkit.kernels.triton.cupy import bridged  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.fixture
def on(device):
    """Puts an array where kernels run."""
    return lambda x, dtype=None: torch.as_tensor(x, device=device, dtype=dtype)


@pytest.fixture
def copied(monkeypatch):
    """The sizes of the tensors that were brought to the host."""
    sizes, real = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x, *a, **k: sizes.append(x.numel()) or real(x, *a, **k))
    return sizes


@pytest.fixture(autouse=True)
def no_small_problems(monkeypatch):
    """On the host, small problems take steps of their own."""
    monkeypatch.setattr("otkit.solvers.sns.small.LARGEST", 0)


def close(found, wanted, atol):
    np.testing.assert_allclose(arrays.to_numpy(torch.as_tensor(found)), wanted, atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unbalanced": 1.0},
        {"unbalanced": (0.5, float("inf"))},
        {"method": otkit.Sinkhorn(n_iters=4)},
        {"method": otkit.Sinkhorn(n_iters=3, last="rows")},
        {"method": "sns"},
    ],
)
def test_answers_are_those_of_the_host(on, copied, options, rng):
    C = rng.random((14, 18))
    if "method" not in options:
        options["tol"] = 1e-9
    found, wanted = (otkit.solve(x, reg=0.1, **options) for x in (on(C), C))
    assert found.kernel == "triton (torch)"
    assert found.n_iter == wanted.n_iter
    fields = {name: getattr(found, name) for name in ("value", "value_linear", "plan", "f", "g")}
    marginals = found.marginals
    assert max(copied) < 2 * max(C.shape)  # vectors, and numbers of each item
    for name, x in fields.items():
        close(x, getattr(wanted, name), 1e-8)
    for one, other in zip(marginals, wanted.marginals, strict=True):
        close(one, other, 1e-8)


def test_what_begins_as_zeros_is_made_on_the_device(on, monkeypatch, rng):
    sent, C = [], on(rng.random((3, 14, 18)))
    xp = arrays.namespace(C)
    asarray = xp.asarray
    monkeypatch.setattr(xp, "asarray", lambda x, **options: sent.append(np.size(x)) or asarray(x, **options))
    otkit.solve(C, reg=0.1, method="sinkhorn")
    assert max(sent) == 3  # a number for each item


def test_every_item_of_a_batch(on, copied, rng):
    C, reg = rng.random((3, 9, 11)), np.array([0.05, 0.1, 1.0])
    found, wanted = (otkit.solve(x, reg=reg, tol=1e-9) for x in (on(C), C))
    assert found.n_iter.tolist() == wanted.n_iter.tolist()
    close(found.plan, wanted.plan, 1e-8)
    np.testing.assert_allclose(found.lower, wanted.lower, atol=1e-8)
    np.testing.assert_allclose(found.upper, wanted.upper, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_leave_the_costs_where_they_are(on, copied, dtype, rng):
    C = on(rng.random((20, 15)), dtype)
    wanted = otkit.solve(C.cpu().double().numpy(), reg=0.05, tol=1e-4)
    copied.clear()
    found = otkit.solve(C, reg=0.05, tol=1e-4)
    bounds = [float(found.lower), float(found.upper)]
    assert bounds == pytest.approx([float(wanted.lower), float(wanted.upper)], abs=1e-4)
    assert max(copied) <= 35  # vectors of the points of both sides


def test_exact_plans_fetch_the_arcs_that_they_need(on, copied, monkeypatch, rng):
    monkeypatch.setattr("otkit.solvers.exact.solver._COPIED", 0)  # as if the costs were many
    C = rng.random((12, 10))
    wanted = otkit.solve(C)
    given = on(C)
    copied.clear()
    found = otkit.solve(given)
    assert found.converged
    assert float(found.value) == pytest.approx(float(wanted.value), abs=1e-12)
    assert max(copied) < C.size


def test_an_interval_leaves_the_costs_where_they_are(on, copied, monkeypatch, rng):
    """Of many costs, a sample is read; here two rows."""
    for name, value in (("_SAMPLE", 30), ("_ROWS", 2)):
        monkeypatch.setattr(f"otkit.certificates.width.{name}", value)
    C = on(rng.random((20, 15)))
    copied.clear()
    found = otkit.solve(C, rtol=1e-2)
    assert found.lower <= found.upper <= found.lower + 1e-2 * abs(found.upper) + 1e-12
    assert max(copied) <= 35  # vectors of the points of both sides


def test_types_and_devices_come_back(on, device, rng):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        result = otkit.solve(on(rng.random((8, 9)), dtype), reg=0.1)
        assert result.converged
        for x in (result.plan, result.f, result.g, result.value):
            assert x.dtype == dtype
            assert x.device.type == device


def test_points(on, copied, rng):
    x, y = rng.random((15, 2)), rng.random((17, 2))
    found, wanted = (otkit.solve_sample(*pair, reg=0.1, tol=1e-9) for pair in ((on(x), on(y)), (x, y)))
    assert found.kernel == "triton (torch)"
    close(found.value, wanted.value, 1e-9)
    close(found.barycentric(), wanted.barycentric(), 1e-7)
    close(found.transport(on(x[:3])), wanted.transport(x[:3]), 1e-7)
    close(found.apply(on(y)), wanted.apply(y), 1e-8)
    assert max(copied) < 15 * 17
    divergence = [float(otkit.sinkhorn_divergence(*pair, reg=0.1, tol=1e-9).value) for pair in ((on(x), on(y)), (x, y))]
    assert divergence[0] == pytest.approx(divergence[1], abs=1e-8)
    assert [float(v) for v in (found.lower, found.upper)] == pytest.approx([wanted.lower, wanted.upper], abs=1e-8)


def test_exact_answers(on, rng):
    C = rng.random((9, 8))
    found, wanted = otkit.solve(on(C)), otkit.solve(C)
    assert float(found.value) == pytest.approx(float(wanted.value), abs=1e-12)
    close(found.plan, wanted.plan, 1e-12)
    x, y = rng.random((8, 1)), rng.random((9, 1))
    assert float(otkit.wasserstein(on(x), on(y))) == pytest.approx(float(otkit.wasserstein(x, y)), abs=1e-12)


def test_functions_of_the_caller_run_on_the_reference(on, rng):
    x, y = on(rng.random((6, 2))), on(rng.random((7, 2)))
    result = otkit.solve_sample(x, y, metric=torch.cdist, reg=0.1)
    assert result.kernel == "reference (torch)"
    close(result.value, otkit.solve_sample(x, y, metric="euclidean", reg=0.1).value.cpu(), 1e-6)


def gradients(inputs, value):
    """The gradients of a function of the inputs."""
    given = [x.clone().requires_grad_() for x in inputs]
    value(*given).backward()
    return [x.grad.cpu().numpy() for x in given]


@pytest.mark.parametrize("method", ["auto", otkit.Sinkhorn(n_iters=4)])
def test_gradients_are_those_of_the_host(on, monkeypatch, method, rng):
    C, a = torch.as_tensor(rng.random((9, 8))), torch.as_tensor(rng.random(9) + 0.1)
    options = {} if method != "auto" else {"tol": 1e-10}

    def value(C, a):
        result = otkit.solve(C, a / a.sum(), reg=0.1, method=method, **options)
        return result.value_linear + (result.plan**2).sum() + result.f.square().sum()

    found = gradients([on(C), on(a)], value)
    monkeypatch.setenv("OTKIT_KERNELS", "numba")
    for one, other in zip(found, gradients([C, a], value), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda: losses.SinkhornLoss(reg=0.1), [(8, 3), (9, 3)]),
        (lambda: losses.SinKDLoss(), [(4, 6), (4, 6)]),
        (lambda: losses.ULDLoss(), [(1, 4, 6), (1, 4, 7)]),
    ],
)
def test_losses_are_those_of_the_host(on, copied, monkeypatch, loss, shapes, rng):
    x, y = (torch.as_tensor(rng.random(shape)) for shape in shapes)
    (found,) = gradients([on(x)], lambda x: loss()(x, on(y)).sum())
    assert max(copied, default=0) <= x.numel()  # what this test copies
    monkeypatch.setenv("OTKIT_KERNELS", "numba")
    (wanted,) = gradients([x], lambda x: loss()(x, y).sum())
    np.testing.assert_allclose(found, wanted, atol=1e-6)


class TestOtherLibraries:
    """Arrays that are no tensors are views of them to the kernels: NumPy's stand in for CuPy's."""

    def test_an_operation(self, device, rng):
        if device != "cpu":
            pytest.skip("NumPy's arrays are those of the host")
        costs = Reduced(otkit.Dense(rng.random((2, 7, 9))), rng.random((2, 7)), rng.random((2, 9)))
        at = Potentials(*(rng.random((2, k)) for k in (7, 9, 7, 9)), np.array([0.1, 1.0]))
        moved = bridged(TRITON.transport_cost)(costs, at)
        assert isinstance(moved, Moved)
        for one, other in zip(moved, REFERENCE.transport_cost(costs, at), strict=True):
            assert isinstance(one, np.ndarray)
            np.testing.assert_allclose(one, other, rtol=1e-12)
        plan = bridged(TRITON.plan)(costs, at, single=True)
        assert plan.dtype == np.float32

    def test_trees(self, device, rng):
        given = (otkit.PointCloud(rng.random((1, 3, 2)), rng.random((1, 4, 2)), "cityblock"), None, 3, "x", {"y": 1})
        cloud, *rest = arrays.map_arrays(torch.from_dlpack, given)
        assert isinstance(cloud.x, torch.Tensor)
        assert cloud.metric == given[0].metric
        assert rest == [None, 3, "x", {"y": 1}]
        assert cloud.x.data_ptr() == given[0].x.ctypes.data
