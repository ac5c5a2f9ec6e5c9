"""Costs in a sparse matrix: arcs that are stored, and no others."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from scipy.optimize import linprog
from strategies import first, told

import otkit
from otkit import Status

INF = np.inf


def drawn(seed):
    """A sparse problem that has a solution: costs, the same costs in a dense matrix, and weights."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 40, 2)
    flow = np.where(rng.random((n, m)) < 2 / m, rng.random((n, m)), 0)
    flow[np.arange(n), rng.integers(0, m, n)] += rng.random(n)
    flow[rng.integers(0, n, m), np.arange(m)] += rng.random(m)
    stored = (flow > 0) | (rng.random((n, m)) < 0.1)
    C = rng.integers(-2, 5, (n, m)).astype(float) if seed % 2 else rng.standard_normal((n, m))
    a, b = flow.sum(1), flow.sum(0)
    if seed % 3 == 0:  # empty rows and columns without mass
        stored = np.pad(stored, ((0, 2), (1, 0)))
        C, a, b = np.pad(C, ((0, 2), (1, 0))), np.append(a, [0, 0]), np.append(0, b)
    rows, cols = np.nonzero(stored)
    sparse = sp.coo_array((C[rows, cols], (rows, cols)), shape=C.shape)
    return sparse, np.where(stored, C, INF), a, b


def optimum(C, a, b):
    """The optimum of the linear program over the finite arcs, by HiGHS."""
    rows, cols = np.nonzero(np.isfinite(C))
    arc = np.arange(rows.size)
    A = sp.coo_array((np.ones(2 * rows.size), (np.append(rows, cols + len(a)), np.append(arc, arc))))
    return linprog(C[rows, cols], A_eq=A, b_eq=np.append(a, b), method="highs").fun


@pytest.mark.parametrize("seed", first(12, range(60)))
@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
def test_optima_are_those_of_the_linear_program(seed, kind):
    C, dense, a, b = drawn(seed)
    with told(seed):
        result = otkit.solve(C.asformat(kind), a, b)
        wanted = optimum(dense, a, b)
        assert result.status is Status.CONVERGED
        assert float(result.value) == pytest.approx(wanted, abs=1e-7 * max(1, abs(wanted)))
        assert float(result.value) == pytest.approx(float(otkit.solve(dense, a, b).value), rel=1e-11, abs=1e-12)
        assert result.lower <= result.value <= result.upper
        assert result.gap <= 1e-12 * a.sum() * 5
        assert_allclose(result.plan.sum(1), a, atol=1e-13 * a.sum())
        assert (result.plan[np.isinf(dense)] == 0).all()
        f, g = result.potentials
        arcs = np.isfinite(dense) & (a > 0)[:, None] & (b > 0)
        assert (np.add.outer(f, g) <= dense + 1e-11)[arcs].all()


@pytest.mark.parametrize("unbalanced", [None, 0.7, (INF, 0.0)])
@pytest.mark.parametrize("seed", first(4, range(20)))
def test_regularised_problems_are_those_of_the_dense_matrix(seed, unbalanced):
    C, dense, a, b = drawn(seed)
    options = dict(reg=0.3, unbalanced=unbalanced, tol=1e-11)
    with told(seed):
        found, wanted = otkit.solve(C, a, b, **options), otkit.solve(dense, a, b, **options)
        assert_allclose(found.value, wanted.value, rtol=1e-8, atol=1e-9)
        assert_allclose(found.plan, wanted.plan, atol=1e-8 * a.sum())
        carries = (a > 0)[:, None] & (b > 0)
        sums = [np.add.outer(r.f, r.g)[np.isfinite(dense) & carries] for r in (found, wanted)]
        assert_allclose(*sums, atol=1e-6)
        assert_allclose(found.apply(b), wanted.apply(b), atol=1e-8 * a.sum())
        # The certificate of the entropic problem brackets the same optimum.
        best = otkit.solve(dense, a, b).value if unbalanced is None else wanted.lower
        assert found.lower <= best + 1e-9
        assert found.upper >= best - 1e-9
        gradient, other = (otkit.vjp(r, value=1.0) for r in (found, wanted))
        assert gradient.C is None
        assert_allclose(gradient.reg, other.reg, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (7, 4)])
def test_zeros_on_stored_diagonals_are_arcs_of_cost_0(rng, n, m):
    given = sp.dia_array((rng.integers(0, 3, (3, m)).astype(float), [0, 2, -1]), shape=(n, m))
    arcs = np.isin(np.arange(m) - np.arange(n)[:, None], given.offsets)
    C, flow = np.where(arcs, given.toarray(), INF), rng.random((n, m)) * arcs
    assert (C == 0).any()
    a, b = flow.sum(1), flow.sum(0)
    assert_allclose(otkit.solve(given, a, b).value, optimum(C, a, b), rtol=1e-9)


def test_stored_zeros_are_arcs_of_cost_0_and_duplicates_add_up():
    zeros = sp.coo_array(([0.0, 0.0, 3.0], ([0, 1, 0], [0, 1, 1])), shape=(2, 2))
    assert float(otkit.solve(zeros).value) == 0
    assert_allclose(otkit.solve(zeros).plan, np.eye(2) / 2)
    twice = sp.coo_array(([1.0, 1.5], ([0, 0], [0, 0])), shape=(1, 1))
    assert float(otkit.solve(twice).value) == 2.5
    forbidden = sp.coo_array(([1.0, INF, 2.0, 5.0], ([0, 0, 1, 1], [0, 1, 1, 0])), shape=(2, 2))
    assert float(otkit.solve(forbidden).value) == 1.5


def test_batches_of_weights_share_the_arcs(rng):
    C, dense, a, b = drawn(4)
    scale = np.array([1.0, 2.0, 0.5])[:, None]
    found = otkit.solve(C, a * scale, b * scale)
    assert_allclose(found.value, float(otkit.solve(dense, a, b).value) * scale[:, 0], rtol=1e-12)
    entropic = otkit.solve(C, a, b, reg=np.array([0.2, 1.0]), tol=1e-10)
    assert_allclose(entropic.value, otkit.solve(dense, a, b, reg=np.array([0.2, 1.0]), tol=1e-10).value, rtol=1e-8)


def test_problems_without_a_solution_are_told():
    C = sp.coo_array(([1.0, 1.0, 1.0], ([0, 1, 2], [0, 0, 1])), shape=(3, 2))
    with pytest.warns(otkit.ConvergenceWarning, match="Infeasible: no plan avoids the forbidden"):
        result = otkit.solve(C, [0.5, 0.25, 0.25], [0.5, 0.5])
    assert result.status is Status.INFEASIBLE
    assert result.upper == INF
    relaxed = otkit.solve(C, [0.5, 0.25, 0.25], [0.5, 0.5], reg=0.1, unbalanced=1.0)
    assert relaxed.converged
    with pytest.raises(ValueError, match=r"row 1 .* only infinite costs"):
        otkit.solve(sp.coo_array(([1.0, 1.0], ([0, 0], [0, 1])), shape=(2, 2)))


def test_warm_starts_and_other_solvers(rng):
    C, dense, a, b = drawn(8)
    cold = otkit.solve(C, a, b)
    again = otkit.solve(C, a, b, init=cold)
    assert_allclose(again.value, cold.value, rtol=1e-12)
    assert again.n_iter <= cold.n_iter
    rough = otkit.solve(C, a, b, rtol=1e-3, method="annealing")
    assert rough.lower - 1e-9 <= cold.value <= rough.upper + 1e-9
    assert cold.kernel == "arcs (numpy)"
    sinkhorn = otkit.solve(C, a, b, reg=0.5, method=otkit.Sinkhorn(n_iters=7))
    assert_allclose(sinkhorn.plan, otkit.solve(dense, a, b, reg=0.5, method=otkit.Sinkhorn(n_iters=7)).plan, rtol=1e-9)
    assert (
        otkit.solve(sp.csr_matrix(C).astype(np.float32), a.astype(np.float32), b.astype(np.float32)).plan.dtype
        == np.float32
    )


def test_the_matrix_is_never_formed(rng):
    n = 20_000
    rows = np.repeat(np.arange(n), 4)
    cols = (rows + np.tile([0, 1, 5, 17], n)) % n
    C = sp.csr_array((rng.random(rows.size), (rows, cols)), shape=(n, n))
    tracemalloc.start()
    result = otkit.solve(C)
    f, _ = result.potentials
    found = result.plan_sparse()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.converged
    assert result.gap < 1e-11
    assert found.mass.sum() == pytest.approx(1)
    assert np.isfinite(f).all()
    assert peak < n * n / 8  # a bit for each entry


def test_bad_sparse_matrices_are_refused(rng):
    C = sp.random_array((4, 4), density=1.0, rng=rng)
    for wrong, words in (
        (C * 1j, "real numbers"),
        (sp.csr_array((0, 3)), "must not be empty"),
        (C * np.nan, "must be numbers"),
        (sp.csr_array((3, 3)), "only infinite"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            otkit.solve(wrong)
    for call in (lambda: otkit.solve_sample(C, C), lambda: otkit.solve(np.eye(4), C), lambda: otkit.wasserstein(C, C)):
        with pytest.raises(TypeError, match=r"must be a dense array, got a c.._array of SciPy; pass .\.toarray\(\)"):
            call()
