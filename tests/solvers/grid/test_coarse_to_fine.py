"""Certified costs between images: bounds hold the exact answer, and are as narrow as promised."""

import numpy as np
import pytest
from measure import without_matrix
from numpy.testing import assert_allclose

import otkit
from otkit import CoarseToFine, Status


def smooth(shape, seed, floor=0.05):
    """A random field with a smooth spectrum."""
    rng = np.random.default_rng(seed)
    k = np.meshgrid(*(np.fft.fftfreq(n) * n for n in shape), indexing="ij")
    z = np.fft.ifftn((1 + sum(v**2 for v in k)) ** -1.25 * np.fft.fftn(rng.normal(size=shape))).real
    z -= z.min() - floor * np.ptp(z)
    return z / z.sum()


def gaussian(shape, mean, covariance):
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - np.asarray(mean)
    w = np.exp(-0.5 * np.einsum("...i,ij,...j", places, np.linalg.inv(covariance), places))
    return w / w.sum()


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def random_case(rng):
    """A small grid whose axes, spacings, holes and ranges of masses differ."""
    d = rng.integers(1, 4)
    shape = tuple(int(n) for n in rng.integers(1, (300, 36, 14)[d - 1], size=d))
    spacing = tuple(float(h) for h in rng.choice([0.01, 0.3, 1.0, 2.0], d))
    a, b = rng.random((2, *shape)) ** rng.choice([0.5, 3, 20]) * (rng.random((2, *shape)) > rng.choice([0, 0.3, 0.9]))
    a.flat[rng.integers(a.size)] = b.flat[rng.integers(b.size)] = 1.0
    return a, b, spacing


def check_bounds(a, b, spacing, power, max_iter):
    a, b, metric = a / a.sum(), b / b.sum(), ("axiswise", power)
    found = otkit.solve_grid(a, b, spacing=spacing, metric=metric, method=CoarseToFine(max_iter=max_iter))
    exact = otkit.solve_grid(a, b, spacing=spacing, metric=metric, method="exact")
    assert found.lower <= exact.upper
    assert exact.lower <= found.upper
    assert found.lower <= found.value <= found.upper
    sums = found.marginals
    assert_allclose(sums[0], a.ravel(), atol=1e-12)
    assert_allclose(sums[1], b.ravel(), atol=1e-12)


def check_random(seed):
    a, b, spacing = random_case(np.random.default_rng(seed))
    check_bounds(a, b, spacing, [2.0, 2.0, 1.5, 1.0][seed % 4], [2, 10_000][seed % 2])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_bounds_hold_the_exact_answer(seed):
    check_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 1000))
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_bounds_hold_more_exact_answers(seed):
    check_random(seed)


def adversarial():
    """Masses that are equal, at corners, in turns, on diagonals, at the cells' seams, and of all magnitudes."""
    one, eye, turns = np.zeros((33, 20)), np.eye(24), np.indices((20, 20)).sum(0) % 2.0
    one[0, 0] = 1.0
    yield one, one
    yield one, one[::-1, ::-1]
    yield eye, eye[::-1]
    yield turns, 1 - turns
    yield turns, turns
    yield np.exp(-700 * (1 - eye)), np.exp(-700 * (1 - eye[::-1]))
    halves = np.zeros((2, 40))
    halves[0, [15, 17]] = halves[1, [16, 18]] = 1.0  # pairs that coarse cells join on one side only
    yield halves[0], halves[1]
    yield halves[0], halves[0]
    yield np.ones((40, 1)), np.arange(40.0)[:, None] ** 30 + 1e-290


@pytest.mark.parametrize(("a", "b"), list(adversarial()))
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
def test_bounds_hold_in_adversarial_cases(a, b, power):
    for max_iter in (2, 40, 10_000):
        check_bounds(a, b, 1.0, power, max_iter)


def test_the_plan_and_the_potentials_prove_the_bounds(rng):
    a, b = smooth((20, 17), 0), smooth((20, 17), 1, floor=-0.2).clip(0)
    b /= b.sum()
    result = otkit.solve_grid(a, b, spacing=(1.0, 0.7), method=CoarseToFine())
    C = result.problem.geometry.block(slice(None), slice(None))[0]
    P = result.plan
    assert_allclose(P.sum(1), a.ravel(), atol=1e-14)
    assert_allclose(P.sum(0), b.ravel(), atol=1e-14)
    assert P.min() >= 0
    assert (P * C).sum() == pytest.approx(float(result.value), rel=1e-12)
    has = np.ix_(a.ravel() > 0, b.ravel() > 0)
    assert (result.f[:, None] + result.g - C)[has].max() <= 1e-12 * C.max()
    assert a.ravel() @ result.f + b.ravel() @ result.g == pytest.approx(result.lower, abs=1e-9)
    arcs = result.plan_sparse()
    Q = np.zeros_like(P)
    Q[arcs.row, arcs.col] = arcs.mass
    assert_allclose(Q, P, atol=1e-9)
    v = rng.random((340, 2))
    assert_allclose(result.apply(v), P @ v, atol=1e-14)
    assert_allclose(result.apply_t(v), P.T @ v, atol=1e-14)


@pytest.mark.parametrize("shape", [(65, 70), (90, 50), (20, 18, 16)])
def test_default_widths(shape):
    result = otkit.solve_grid(smooth(shape, 0), smooth(shape, 1), method=CoarseToFine())
    assert result.status is Status.CONVERGED
    assert result.upper - result.lower <= max(1e-4 * result.upper, 0.5)
    wider = otkit.solve_grid(smooth(shape, 0), smooth(shape, 1), spacing=10.0, method=CoarseToFine())
    assert_allclose([wider.lower, wider.upper], [100 * result.lower, 100 * result.upper], rtol=1e-9)


def test_images_moved_by_whole_pixels():
    a = np.zeros((150, 110))
    a[5:40, 10:50] = smooth((35, 40), 2)
    b = np.roll(a, (30, 25), (0, 1))
    result = otkit.solve_grid(a, b, method=CoarseToFine())
    assert result.lower <= 30**2 + 25**2 <= result.upper
    assert result.upper - result.lower <= 0.5
    same = otkit.solve_grid(a, a, method=CoarseToFine())
    assert same.lower == pytest.approx(0, abs=1e-6)
    assert same.upper <= 0.5


def test_gaussians_are_at_the_distance_of_bures():
    shape, means = (128, 110), ((50.0, 40.0), (70.0, 66.0))
    covariances = np.array([[90.0, 20.0], [20.0, 60.0]]), np.array([[120.0, -30.0], [-30.0, 100.0]])
    images = [gaussian(shape, *pair) for pair in zip(means, covariances, strict=True)]
    half = root(covariances[0])
    cross = root(half @ covariances[1] @ half)
    wanted = sum((x - y) ** 2 for x, y in zip(*means, strict=True)) + np.trace(sum(covariances) - 2 * cross)
    result = otkit.solve_grid(*images, method=CoarseToFine())
    assert result.lower - 0.3 <= wanted <= result.upper + 0.3
    assert result.upper - result.lower <= 0.5


def test_golden_numbers():
    """Random fields whose exact squared distance is 203.180225360266, as a network simplex found it."""

    def field(rough, seed):
        r = np.random.default_rng(seed)
        k = np.fft.fftfreq(128) * 128
        s = (1 + k[:, None] ** 2 + k**2) ** (-rough / 2)
        z = np.fft.ifft2(s * (r.normal(size=(128, 128)) + 1j * r.normal(size=(128, 128)))).real
        z -= z.min()
        z += 0.05 * z.max()
        return z / z.sum()

    result = otkit.solve_grid(field(2.5, 0), field(3.0, 1), method=CoarseToFine())
    assert result.lower <= 203.180225360266 <= result.upper
    assert result.upper - result.lower <= 0.5


def test_memory_is_proportional_to_the_cells():
    a, b = smooth((300, 280), 0), smooth((300, 280), 1)
    assert without_matrix(lambda: otkit.solve_grid(a, b), a.size, 100, share=1.0).method == "coarse-to-fine"


def test_a_batch_and_an_rtol_and_a_callback():
    a, b = np.stack([smooth((70, 64), k) for k in (0, 1)]), np.stack([smooth((70, 64), k) for k in (2, 3)])
    found = otkit.solve_grid(a, b, spacing=(1.0, 1.0), method="coarse-to-fine")
    for k in range(2):
        one = otkit.solve_grid(a[k], b[k], method="coarse-to-fine")
        assert_allclose([found.lower[k], found.upper[k]], [one.lower, one.upper], rtol=1e-13)
    loose = otkit.solve_grid(a[0], b[0], rtol=0.05, method="coarse-to-fine")
    assert loose.upper - loose.lower <= 0.05 * loose.upper
    assert loose.n_iter < found.n_iter[0]
    with pytest.warns(otkit.ConvergenceWarning):
        tight = otkit.solve_grid(a[0], b[0], rtol=1e-9, method="coarse-to-fine")
    assert tight.status is Status.STALLED
    seen = []
    with pytest.warns(otkit.ConvergenceWarning):
        stopped = otkit.solve_grid(
            a[0], b[0], method="coarse-to-fine", callback=lambda p: seen.append(p.reg[0]) or len(seen) == 2
        )
    assert stopped.status is Status.STOPPED
    assert stopped.lower <= tight.upper
    assert tight.lower <= stopped.upper


def test_other_problems_are_refused():
    a, b = np.ones((2, 3, 3)) / 9
    with pytest.raises(ValueError, match="needs a grid with a power of at most 2"):
        otkit.solve_grid(a, b, metric=("axiswise", 3), method="coarse-to-fine")
    with pytest.raises(ValueError, match="needs a grid with metric 'cityblock'"):
        otkit.solve_grid(a, b, method="flow")
    with pytest.raises(ValueError, match="needs a grid with a power of at most 2"):
        otkit.solve_sample(np.ones((2, 2)), np.ones((2, 2)), method=CoarseToFine())
    with pytest.raises(ValueError, match="init does not apply"):
        otkit.solve_grid(a, b, method="coarse-to-fine", init=(np.zeros(9), np.zeros(9)))
