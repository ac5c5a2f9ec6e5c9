"""Sparse systems by Triton: against dense solves and the same algorithm on the host."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import otkit  # noqa: E402
from otkit.kernels import choose  # noqa: E402
from otkit.kernels.numba import NUMBA  # noqa: E402
from otkit.kernels.triton import TRITON  # noqa: E402
from otkit.kernels.triton import cg as triton_cg  # noqa: E402
from otkit.linalg import cg  # noqa: E402
from otkit.linalg.cg import Schur, solve_coupled  # noqa: E402
from otkit.linalg.sparse import Scaling, Sparse  # noqa: E402
from otkit.solvers import SparseNewton  # noqa: E402
from otkit.solvers.sns import solver  # noqa: E402

U = 2.0**-53


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What is allocated holds garbage."""
    empty = torch.empty

    def garbage(*size, **options):
        x = empty(*size, **options)
        return x.fill_(float("nan") if x.dtype.is_floating_point else -7)

    monkeypatch.setattr(torch, "empty", garbage)


@pytest.fixture
def impatient(monkeypatch):
    """The host checks often: kernels that do nothing are not for free in the interpreter."""
    monkeypatch.setattr(triton_cg, "_FIRST", 2)
    monkeypatch.setattr(triton_cg, "_CHUNK", 2)


def random_coupling(rng, shape, count, norm=0.999):
    """A matrix of that norm with `count` entries, its second row and column empty where it has more than two."""
    T = np.zeros(shape)
    T.flat[rng.choice(T.size, count, replace=False)] = rng.random(count) + 0.01
    for side in (T, T.T):
        if len(side) > 2:
            side[1] = 0
    size = np.linalg.norm(T, 2)
    return T * (norm / size) if size else T


def sparse_of(T, device):
    rows, cols = (np.ascontiguousarray(k) for k in np.nonzero(T))
    arcs = tuple(torch.asarray(x, device=device) for x in (rows, cols, T[rows, cols]))
    return triton_cg.compressed(arcs, T.shape)


def solved(sparse, rhs, shift, rtol, table=TRITON):
    return solve_coupled(sparse, rhs, shift, rtol, table.conjugate_gradients)


def test_sparsified(device, rng):
    R = random_coupling(rng, (70, 40), 600)
    left, right, half_row, half_col = (rng.random(k) + 0.1 for k in (70, 40, 70, 40))
    P = left[:, None] * R * right
    least_row, least_col = np.median(P[P > 0]) * rng.random(70), np.median(P[P > 0]) * rng.random(40)
    by = Scaling(left, right, least_row, least_col, half_row, half_col)
    found, mass = TRITON.sparsified(sparse_of(R, device), by)
    kept = (R > 0) & (np.minimum.outer(least_row, least_col) <= P)
    assert 0 < kept.sum() < (R > 0).sum()
    assert mass == pytest.approx(P[kept].sum())
    wanted = np.where(kept, half_row[:, None] * P * half_col, 0.0)
    assert found.T.data.device.type == device
    assert_allclose(found.T @ np.eye(40)[7], wanted[:, 7], rtol=1e-14)
    assert_allclose(found.transposed @ np.eye(70)[5], wanted[5], rtol=1e-14)


def coupled(T, shift):
    n, m = T.shape
    return np.block([[(1 + shift) * np.eye(n), T], [T.T, (1 + shift) * np.eye(m)]])


# (n, m) and the number of entries: rows of several programs, rows of several steps, and one arc.
SHAPES = [
    ((1, 1), 1), ((1, 70), 40), ((70, 1), 40), ((9, 7), 1), ((5, 90), 300), ((40, 25), 120), ((25, 40), 120),
    ((150, 130), 600), ((67, 140), 500),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "count"), SHAPES)
def test_the_forms_are_those_of_scipy(shape, count, device, rng):
    T = random_coupling(rng, shape, count)
    sparse = sparse_of(T, device)
    for found, wanted in zip(sparse, (csr_array(T), csr_array(T.T)), strict=True):
        assert found.shape == wanted.shape
        for name in ("data", "indices", "indptr"):
            assert_array_equal(getattr(found, name).cpu(), getattr(wanted, name))
        v = rng.standard_normal(found.shape[1])
        assert_allclose(found @ v, wanted @ v, rtol=0, atol=found.shape[1] * U * abs(v).max())
        assert_allclose(found.power(2) @ v, wanted.power(2) @ v, rtol=0, atol=found.shape[1] * U * abs(v).max())
    assert_allclose(Schur.of(*sparse, 2.0).diagonal, 2.0 - (T * T).sum(0), rtol=1e-14)


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("shift", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize(("shape", "count"), SHAPES)
def test_solutions_are_those_of_dense_systems(shape, count, shift, device, rng):
    T, rtol = random_coupling(rng, shape, count), 1e-11
    rhs = rng.standard_normal(shape[1])
    found = solved(sparse_of(T, device), rhs, shift, rtol)
    full = coupled(T, shift)
    wanted = np.linalg.solve(full, np.concatenate([np.zeros(shape[0]), rhs]))[shape[0] :]
    assert found.accurate
    # The residual is of the Schur complement, whose condition is at most about the square of that of the whole.
    assert_allclose(found.y, wanted, rtol=0, atol=rtol * np.linalg.cond(full) ** 2 * np.linalg.norm(rhs))
    host = solved(NUMBA.compressed((*np.nonzero(T), T[np.nonzero(T)]), shape), rhs, shift, rtol, NUMBA)
    assert abs(found.steps - host.steps) <= 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("shape", [(60, 50), (50, 60)])
def test_nearly_singular_systems_are_solved_to_the_residual(shape, device, rng):
    T = random_coupling(rng, shape, 90, norm=1.0)
    rhs = rng.standard_normal(shape[1])
    rhs /= np.linalg.norm(rhs)
    found = solved(sparse_of(T, device), rhs, 1e-12, 1e-3)
    assert found.accurate
    left = rhs - ((1 + 1e-12) * found.y - T.T @ (T @ found.y) / (1 + 1e-12))
    assert np.linalg.norm(left) <= 2e-3


def test_a_matching_is_solved(device):
    # Nothing is left of the Schur complement but the shift.
    n = 30
    found = solved(sparse_of(np.eye(n), device), np.linspace(-1, 1, n), 1e-12, 0.1)
    assert np.isfinite(found.y).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_units_of_the_right_hand_side_are_of_no_effect(scale, device, rng):
    sparse, rhs = sparse_of(random_coupling(rng, (30, 20), 90), device), rng.standard_normal(20)
    one, other = (solved(sparse, size * rhs, 1e-2, 1e-10) for size in (1.0, scale))
    assert other.steps == one.steps
    assert_allclose(other.y, scale * one.y, rtol=1e-12)
    nothing = solved(sparse, np.zeros(20), 1e-2, 1e-10)
    assert nothing.accurate
    assert not nothing.y.any()


class TestConjugateGradients:
    @pytest.fixture
    def matrix(self, device, rng):
        return Schur.of(*sparse_of(random_coupling(rng, (130, 70), 500), device), 1.001)

    @pytest.fixture
    def rhs(self, rng):
        return rng.standard_normal(70)

    def test_steps_and_accuracy_are_told(self, matrix, rhs):
        run = triton_cg.conjugate_gradients
        found = run(matrix, rhs, np.zeros(70), 1e-9, 200)
        assert found.accurate
        assert np.linalg.norm(rhs - matrix @ found.y) <= 1.01e-9 * np.linalg.norm(rhs)
        for limit in (0, 1, found.steps - 1):
            cut = run(matrix, rhs, np.zeros(70), 1e-9, limit)
            assert (cut.steps, cut.accurate) == (limit, False)
        exact = run(matrix, rhs, np.zeros(70), 1e-9, found.steps)
        assert (exact.steps, exact.accurate) == (found.steps, True)
        assert_array_equal(exact.y, found.y)

    def test_it_goes_on_from_where_it_was(self, matrix, rhs):
        run = triton_cg.conjugate_gradients
        cut = run(matrix, rhs, np.zeros(70), 1e-9, 5)
        found = run(matrix, rhs, cut.y, 1e-9, 200)
        assert found.accurate
        assert np.linalg.norm(rhs - matrix @ found.y) <= 1.01e-9 * np.linalg.norm(rhs)
        again = run(matrix, rhs, found.y, 1.1e-9, 200)
        assert (again.steps, again.accurate) == (0, True)
        assert_array_equal(again.y, found.y)

    def test_what_is_not_definite_is_noticed(self, device):
        # The matrix is diag(−1.5, 1.5), of which the first direction has no curvature.
        matrix = Schur(2.5, *sparse_of(np.diag([2.0, 1.0]), device), np.ones(2))
        broken = triton_cg.conjugate_gradients(matrix, np.ones(2), np.zeros(2), 1e-9, 50)
        assert (broken.steps, broken.accurate) == (0, False)
        assert_array_equal(broken.y, 0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_noticed(self, bad, device, rng):
        T = random_coupling(rng, (20, 12), 60)
        T[tuple(k[3] for k in np.nonzero(T))] = bad
        with np.errstate(invalid="ignore"):  # of the interpreter
            matrix = Schur.of(*sparse_of(T, device), 1.01)
            for start in (np.zeros(12), np.ones(12)):
                found = triton_cg.conjugate_gradients(matrix, np.ones(12), start, 1e-9, 50)
                assert not found.accurate
                assert found.steps <= 1
            assert not solved(sparse_of(T, device), np.ones(12), 0.01, 1e-9).accurate
            assert not solved(sparse_of(T.T, device), np.ones(20), 0.01, 1e-9).accurate
        assert not solved(sparse_of(np.eye(12), device), np.full(12, bad), 0.01, 1e-9).accurate


def test_slow_conjugate_gradients_are_noticed(monkeypatch, device, rng):
    monkeypatch.setattr(cg, "_FEW", 3)
    T, rhs = random_coupling(rng, (40, 30), 200), rng.standard_normal(30)
    sparse = sparse_of(T, device)
    wanted = np.linalg.solve(coupled(T, 1e-6), np.concatenate([np.zeros(40), rhs]))[40:]
    found = solved(sparse, rhs, 1e-6, 1e-12)
    assert (found.steps, found.accurate) == (3, True)  # by a factorisation
    assert_allclose(found.y, wanted, rtol=1e-8)
    monkeypatch.setattr(cg, "_FILL", 0)
    more = solved(sparse, rhs, 1e-6, 1e-9)
    assert more.accurate
    assert more.steps > 10
    assert_allclose(more.y, wanted, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(cg, "_MANY", 4)
    for one, b in ((sparse, rhs), (Sparse(*sparse[::-1]), rng.standard_normal(40))):
        cut = solved(one, b, 1e-6, 1e-12)
        assert (cut.steps, cut.accurate) == (7, False)


class TestWaits:
    """With kernels that do nothing, all that remains is what the host does."""

    @pytest.fixture
    def launches(self, monkeypatch):
        """The names of the kernels that were launched."""
        names = []

        class Fake:
            def __init__(self, name):
                self.name = name

            def __getitem__(self, grid):
                return lambda *_, **__: names.append(self.name)

        for name in ("_ahead", "_back", "_step"):
            monkeypatch.setattr(triton_cg, name, Fake(name))
        return names

    @pytest.fixture
    def checks(self, monkeypatch):
        """The names of the calls that wait for the device, or might."""
        names = []

        def noted(owner, name):
            real = getattr(owner, name)

            def call(*args, **options):
                names.append(name)
                return real(*args, **options)

            monkeypatch.setattr(owner, name, call)

        for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__int__", "__float__", "__array__"):
            noted(torch.Tensor, name)
        noted(triton_cg, "to_numpy")
        return names

    def run(self, device, limit):
        matrix = Schur(1.01, *sparse_of(np.eye(20) / 2, device), np.ones(20))
        return triton_cg.conjugate_gradients(matrix, np.ones(20), np.zeros(20), 1e-9, limit)

    def test_no_iteration_is_waited_for(self, device, launches, checks):
        counts = {}
        for limit in (0, 15, 31, 320):
            launches.clear()
            checks.clear()
            assert not self.run(device, limit).accurate
            assert launches == ["_ahead"] + ["_back", "_step", "_ahead"] * limit
            counts[limit] = len(checks)
        # One check for every 8 iterations, one more after the first few, the result, and nothing else.
        for limit, count in counts.items():
            assert count <= counts[0] + 1 + -(-limit // 8)

    def test_the_host_stops_a_chunk_after_the_end_is_seen(self, device, launches, monkeypatch):
        class Last:
            def __getitem__(self, grid):
                def launch(T, system, *_, **__):
                    launches.append("_ahead")
                    if len(launches) > 3 * 5:
                        system.state[0] = triton_cg._SOLVED.value

                return launch

        monkeypatch.setattr(triton_cg, "_ahead", Last())
        assert self.run(device, 320).accurate
        assert launches.count("_step") == 4 + 8 + 8


def test_entries_go_where_they_can_be_worked_on(device, monkeypatch):
    def compressed(arcs):
        return choose(otkit.Dense(arcs[2][None, None])).compressed(arcs, (3, 3)).T

    arcs = tuple(torch.asarray(x, device=device) for x in (np.arange(3), np.arange(3), np.ones(3)))
    assert isinstance(compressed(arcs), triton_cg.Rows)
    for chosen in ("reference", "numba"):
        monkeypatch.setenv("OTKIT_KERNELS", chosen)
        assert isinstance(compressed(arcs), csr_array)
    monkeypatch.setenv("OTKIT_KERNELS", "triton")
    assert isinstance(compressed(tuple(x.cpu().numpy() for x in arcs)), csr_array)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("keep", [pytest.param(None, marks=pytest.mark.slow), 0.2])
def test_newton_steps_are_those_of_the_host(keep, device, rng, monkeypatch):
    monkeypatch.setattr(solver, "is_slow", lambda before, error, goal, *_: error > goal)
    C, a, b = rng.random((24, 30)), rng.dirichlet(np.ones(24)), rng.dirichlet(np.ones(30))
    method = SparseNewton(tol=1e-10, sweeps=4, keep=keep, factor=np.inf if keep else 4.0)
    reg = 1e-2 if keep else 1e-3
    wanted = otkit.solve(C, a, b, reg=reg, method=method)
    steps = []

    def counted(*args, **options):
        steps.append(TRITON.conjugate_gradients(*args, **options))
        return steps[-1]

    monkeypatch.setattr("otkit.problems.linear.choose", lambda *_: replace(TRITON, conjugate_gradients=counted))
    found = otkit.solve(*(torch.asarray(x, device=device) for x in (C, a, b)), reg=reg, method=method)
    assert found.converged
    assert found.kernel.startswith("triton")
    assert len(steps) >= sum(stage.newton_steps for stage in found.stages) > 0
    assert abs(float(found.value) - float(wanted.value)) <= 1e-8
    assert abs(found.plan.cpu().numpy() - wanted.plan).sum() <= 1e-8
