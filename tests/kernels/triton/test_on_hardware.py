"""What the interpreter cannot show: races, addresses beyond 32 bits, streams, tensor cores, and arrays of CuPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import otkit  # noqa: E402
from otkit.geometry import Dense, PointCloud  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402
from otkit.kernels.triton.launch import DOUBLE, SINGLE  # noqa: E402
from otkit.kernels.triton.sweep import _lost  # noqa: E402


@pytest.fixture
def gpu(device):
    """The device of the tensors."""
    if device != "cuda":
        pytest.skip("shown by a GPU alone")
    return device


@pytest.fixture
def costs(gpu, rng):
    """Costs of the given size."""
    return lambda n, m, dtype=torch.float64: torch.as_tensor(rng.random((n, m)), dtype=dtype, device=gpu)


def double(x):
    return x.double().cpu().numpy()


@pytest.mark.parametrize(("n", "m"), [(50, 60), (400, 700), (700, 9000), (300, 20_000)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_repeats_have_the_same_bits(costs, n, m, dtype, tol):
    """In small problems, rows that are kept whole, and tiles: a race would show."""
    C = costs(n, m, dtype)
    first, *others = (otkit.solve(C, reg=0.05, tol=tol) for _ in range(10))
    wanted = otkit.solve(double(C), reg=0.05, tol=tol)
    assert bool(first.converged)
    assert float(first.value) == pytest.approx(float(wanted.value), abs=10 * tol)
    for other in others:
        for name in ("f", "g", "value", "n_iter"):
            assert torch.equal(torch.as_tensor(getattr(first, name)), torch.as_tensor(getattr(other, name)))


def test_addresses_beyond_32_bits(gpu):
    n = 50_000
    C = torch.empty((1, n, n), dtype=torch.float32, device=gpu).uniform_()
    g = torch.zeros((1, n), dtype=torch.float64, device=gpu)
    for given, last in ((Dense(C), C[:, -50:].amin(2)), (Dense(C).T, C[:, :, -50:].amin(1))):
        assert torch.equal(ops.c_transform(given, g)[:, -50:], last.double())


def test_more_than_a_million_points(gpu, rng):
    x, y = (torch.as_tensor(rng.random((1, k, 3)), device=gpu) for k in (2**20, 64))
    found = ops.c_transform(PointCloud(x, y), torch.zeros((1, 64), dtype=torch.float64, device=gpu))
    wanted = (x[:, -20:, None] - y[:, None]).square().sum(-1).amin(-1)
    np.testing.assert_allclose(double(found[:, -20:]), double(wanted), rtol=1e-12)


@pytest.mark.parametrize("d", [32, 64, 256, 1024])
def test_sums_of_tensor_cores_are_in_the_bound(gpu, d, rng):
    x = torch.as_tensor(rng.random((1, 64, d)), device=gpu)
    cloud = PointCloud(x, x + 0.01).flat((1,))
    zeros, reg = torch.zeros((1, 64), dtype=torch.float64, device=gpu), torch.tensor([0.05 * d], device=gpu).double()
    single, exact = (ops.softmin(cloud, zeros, zeros, reg, precision=precision) for precision in (SINGLE, DOUBLE))
    lost = float(_lost(Reduced(cloud, zeros, zeros), torch.zeros_like(reg)).max())
    assert float((single - exact).abs().max()) <= lost + 1e-6 * float(reg)


def test_another_stream(costs):
    C = costs(1500, 1500)
    wanted = otkit.solve(C, reg=0.05).g
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        found = otkit.solve(C, reg=0.05).g
    other.synchronize()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("default", [True, False])
def test_arrays_of_cupy_on_their_stream(gpu, default, rng):
    """Repeated solves keep memory of one stream."""
    cupy = pytest.importorskip("cupy")
    C = rng.random((800, 900))
    wanted = otkit.solve(C, reg=0.05, tol=1e-9)
    with cupy.cuda.Stream.null if default else cupy.cuda.Stream(non_blocking=True):
        given, kept = cupy.asarray(C), []
        for _ in range(12):
            found = otkit.solve(given, reg=0.05, tol=1e-9)
            kept.append(torch.cuda.memory_reserved())
        assert isinstance(found.g, cupy.ndarray)
        assert float(found.value.get()) == pytest.approx(float(wanted.value), abs=1e-8)
    assert kept[-1] <= 2 * kept[0]
