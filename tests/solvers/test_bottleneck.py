"""The bottleneck distance, against matchings of thresholds and sorted points."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from strategies import told

import otkit
from otkit import distance
from otkit.solvers.bottleneck import bottleneck

INF = float("inf")


def least_threshold(C, feasible):
    """The least cost t for which the arcs up to t are enough."""
    values = np.unique(C)
    return next(t for t in values if feasible(t >= C))


def matches(allowed):
    return (maximum_bipartite_matching(csr_matrix(allowed), perm_type="column") >= 0).all()


def carries(a, b):
    """Whether a plan exists on the allowed arcs, by HiGHS up to its tolerance."""

    def feasible(allowed):
        n, m = allowed.shape
        sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
        bounds = [(0, 1 if ok else 0) for ok in allowed.ravel()]
        return linprog(np.zeros(n * m), A_eq=sums, b_eq=np.concatenate([a, b]), bounds=bounds).status == 0

    return feasible


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("ties", [False, True])
def test_uniform_weights_against_matchings(n, ties, rng):
    for _ in range(10):
        C = rng.integers(0, 6, (n, n)).astype(float) if ties else rng.random((n, n))
        found = bottleneck(C, np.full(n, 1 / n), np.full(n, 1 / n))
        assert found.value == least_threshold(C, matches)
        assert C[found.rows, found.cols].max() == found.value
        assert np.bincount(found.rows, found.mass) * n == pytest.approx(np.ones(n))
        assert np.bincount(found.cols, found.mass) * n == pytest.approx(np.ones(n))


@pytest.mark.parametrize("seed", range(12))
def test_other_weights_against_linear_programs(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 8, 2)
    C = rng.random((n, m))
    a, b = (rng.integers(0, 5, k) + (np.arange(k) == 0) for k in (n, m))
    a, b = a / a.sum(), b / b.sum()
    with told(seed):
        found = bottleneck(C, a, b)
        some = np.ix_(a > 0, b > 0)
        assert found.value == least_threshold(C[some], carries(a[a > 0], b[b > 0]))
        P = np.zeros((n, m))
        P[found.rows, found.cols] = found.mass
        np.testing.assert_allclose(P.sum(1), a, atol=1e-15)
        np.testing.assert_allclose(P.sum(0), b, atol=1e-15)
        coarse = bottleneck(C, a, b, factor=1.5)
        assert found.value <= coarse.value <= 1.5 * found.value


def test_the_least_of_all_permutations(rng):
    x, y = rng.random((2, 6, 3))
    for metric in ("euclidean", "cityblock"):
        D = abs(x[:, None] - y).sum(-1) if metric == "cityblock" else np.sqrt(((x[:, None] - y) ** 2).sum(-1))
        found = otkit.wasserstein(x, y, p=INF, metric=metric)
        wanted = min(max(D[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
        assert found.lower <= wanted <= found.upper
        assert found.upper - found.lower <= 1e-14 * wanted
        assert found.distance == pytest.approx(wanted, rel=1e-15)
        assert found.converged
        assert found.result.method == "bottleneck"
        assert (found.result.plan * 6 > 0.5).sum() == 6
        assert D[found.result.plan > 0].max() == pytest.approx(wanted, rel=1e-15)


def test_the_line_is_sorted(rng):
    x, y = rng.normal(size=(50, 1)), rng.normal(size=(50, 1)) + 1
    wanted = abs(np.sort(x[:, 0]) - np.sort(y[:, 0])).max()
    assert otkit.wasserstein(x, y, p=INF).distance == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize("p", [2, 17, 36, 300, 1000])
def test_it_is_the_limit_of_the_others(p, rng):
    x, y = rng.random((2, 20, 2))
    limit, found = otkit.wasserstein(x, y, p=INF), otkit.wasserstein(x, y, p=p)
    assert found.lower <= limit.upper
    assert limit.lower <= 20 ** (1 / p) * found.upper
    assert found.converged


def test_batches_libraries_and_units(xp, rng):
    x, y = rng.random((3, 9, 2)), rng.random((7, 2))
    found = otkit.wasserstein(xp.asarray(x), xp.asarray(y), p=INF)
    for k in range(3):
        one = otkit.wasserstein(x[k], y, p=INF)
        assert float(found.distance[k]) == one.distance
        for scale in (1e-250, 1e250):
            scaled = otkit.wasserstein(scale * x[k], scale * y, p=INF)
            assert scaled.distance == pytest.approx(scale * one.distance, rel=1e-14)
            assert scaled.converged


def test_weights_that_differ_by_rounding_do_not_move_far():
    x, y = np.array([[0.0], [1.0], [1e6]]), np.array([[0.0], [0.5], [1e6]])
    found = otkit.wasserstein(x, y, [0.1, 0.2, 0.7], [0.1 + 0.2 - 0.2, 0.2, 0.7], p=INF)
    assert found.distance == 0.5
    assert otkit.wasserstein(x, y, [0.1, 0.2, 0.7], [0.1, 0.2 - 1e-9, 0.7 + 1e-9], p=INF).distance == 1e6 - 1


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "cosine"])
def test_gradients_are_those_of_the_longest_arc(metric, rng):
    torch = pytest.importorskip("torch")
    x, y = rng.random((2, 12, 2)) + 0.1
    points = [torch.tensor(v, requires_grad=True) for v in (x, y)]
    found = otkit.wasserstein(*points, p=INF, metric=metric).distance
    step = rng.normal(size=(2, 12, 2))
    slope = sum((g.numpy() * s).sum() for g, s in zip(torch.autograd.grad(found, points), step, strict=True))
    ends = [otkit.wasserstein(x + h * step[0], y + h * step[1], p=INF, metric=metric).distance for h in (1e-6, -1e-6)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    (same,) = torch.autograd.grad(otkit.wasserstein(points[0], points[0], p=INF, metric=metric).distance, points[0])
    assert (same == 0).all()


def test_what_has_no_bottleneck_is_refused(monkeypatch, rng):
    x = rng.random((5, 2))
    with pytest.raises(ValueError, match="max_iter does not apply to method 'bottleneck'"):
        otkit.wasserstein(x, x, p=INF, max_iter=5)
    with pytest.raises(ValueError, match="p=inf call otkit"):
        otkit.pairwise([x, x], p=INF)
    assert distance.MOST == 2**24
    monkeypatch.setattr(distance, "MOST", 24)
    with pytest.raises(ValueError, match="at most 2\\^24, got 5 × 5"):
        otkit.wasserstein(x, x, p=INF)
    with pytest.raises(ValueError, match="p must be from 1 to 1024, or inf"):
        otkit.wasserstein(x, x, p=2000)
