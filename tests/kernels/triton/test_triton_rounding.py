"""The bound on the rounding error of costs in single precision, beside sums as tensor cores and powers as kernels form them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from otkit import PointCloud  # noqa: E402
from otkit.geometry.costs import Cost  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402
from otkit.kernels.triton.launch import DOUBLE, SINGLE  # noqa: E402
from otkit.kernels.triton.math import _DEPTH  # noqa: E402
from otkit.kernels.triton.sweep import _lost  # noqa: E402


def bound(x, y, metric):
    """The bound for points near the origin, for costs whose offsets are 0."""
    cloud = PointCloud(*(torch.as_tensor(v[None]) for v in (x, y)), metric)
    zeros = (torch.zeros((1, len(v)), dtype=torch.float64) for v in (x, y))
    return float(_lost(Reduced(cloud, *zeros), torch.zeros(1, dtype=torch.float64)).max())


def cut(x, bits):
    """Float64 numbers towards 0, to so many significant bits."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.trunc(np.ldexp(fraction, bits)), exponent - bits)


def products(x, y, depth):
    """⟨x, y⟩ in three passes of TF32, 8 coordinates at a time, whose sums of `depth` coordinates are truncated."""
    high = [np.float64(np.float32(cut(v, 11))) for v in (x, y)]
    low = [cut(v - h, 11) for v, h in zip((x, y), high, strict=True)]
    total = np.zeros((len(x), len(y)), np.float32)
    for first in range(0, x.shape[1], depth):
        tensor = np.zeros(total.shape)
        for start in range(first, first + depth, 8):
            k = slice(start, start + 8)
            for one, other in ((low[0], high[1]), (high[0], low[1]), (high[0], high[1])):
                tensor = cut(tensor + one[:, k] @ other[:, k].T, 24)
        total += tensor.astype(np.float32)
    return total


def squared_distances(x, y, depth):
    """As kernels form them for many coordinates, on tensor cores."""
    lengths = [np.add.reduce(v.astype(np.float32) ** 2, -1, np.float32) for v in (x, y)]
    return lengths[0][:, None] + lengths[1][None, :] - np.float32(2) * products(x, y, depth)


def errors(x, y, depth):
    exact = ((x[:, None] - y[None]) ** 2).sum(-1)
    return abs(squared_distances(x, y, depth) - exact)


@pytest.mark.parametrize("d", [32, 256, 1024])
@pytest.mark.parametrize("positive", [False, True])
def test_sums_of_tensor_cores_that_truncate(d, positive, rng):
    x, y = (np.float32(rng.random((20, d)) - (0 if positive else 0.5)).astype(np.float64) for _ in "xy")
    assert errors(x, y, _DEPTH.value).max() <= bound(x, y, "sqeuclidean")
    if positive and d == 1024:  # one sum over all coordinates is worse
        assert errors(x, y, d).max() > 4 * errors(x, y, _DEPTH.value).max()


@pytest.mark.parametrize("ground", ["euclidean", "cityblock"])
@pytest.mark.parametrize(("power", "size"), [(3.0, 1e6), (1.3, 1e-8), (7.0, 100.0), (2.5, 1.0)])
def test_powers_of_large_and_small_distances(device, ground, power, size, rng):
    """The exponent of the power in base 2 is rounded: at 2^60 its rounding is 60 times that of a cost near 1."""
    x, y = (size * rng.random((50, 3)) for _ in "xy")
    metric = Cost(ground, power)
    x, y = (np.float32(v).astype(np.float64) for v in (x - x.mean(0), y - x.mean(0)))
    cloud = PointCloud(*(torch.as_tensor(v[None], device=device) for v in (x, y)), metric)
    g = torch.zeros((1, 50), dtype=torch.float64, device=device)
    reg = torch.full((1,), 1e-3 * (3 * size) ** power, dtype=torch.float64, device=device)
    single, double = (ops.softmin(cloud, g, g, reg, precision=precision) for precision in (SINGLE, DOUBLE))
    # Sums of exponentials have rounding of their own.
    assert float(abs(single - double).max()) <= bound(x, y, metric) + 1e-6 * float(reg)


def test_a_bound_of_powers_counts_their_exponents(rng):
    x, y = (rng.random((20, 3)) for _ in "xy")
    relative = [bound(size * x, size * y, Cost("euclidean", 3.0)) / size**3 for size in (1.0, 2.0**20)]
    assert relative[1] > 5 * relative[0]
