"""Sweeps over the entries that matter: what they leave out stays below the tolerance, by sums over all entries."""

import numpy as np
import pytest
from forms import few_kept
from strategies import distances

from otkit import Dense, PointCloud
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA
from otkit.kernels.numba import rows as row_updates
from otkit.kernels.numba.listed import cuts

N, M = 300, 270


def uniform(rng):
    return rng.random((N, M))


def cloud(rng):
    return distances(rng.random((N, 2)), rng.random((M, 2)), "sqeuclidean")


def high_dimension(rng):
    return distances(rng.random((N, 64)), rng.random((M, 64)), "cityblock")


def forbidden(rng):
    C = rng.random((N, M))
    C[rng.random((N, M)) < 0.3] = np.inf
    C[:, 0], C[0] = 1.0, 1.0
    return C


COSTS = [uniform, cloud, high_dimension, forbidden]
WEIGHTS = {
    "equal": lambda rng, n: np.full(n, 1 / n),
    "uneven": lambda rng, n: rng.dirichlet(np.full(n, 0.05)) + 1e-300,
    "zeros": lambda rng, n: np.where(np.arange(n) % 7 == 3, 0.0, 1.0),
}


class Setting:
    """A problem at a point where its rows are far from exact."""

    def __init__(self, geometry, a, b, relative, rho=np.inf):
        self.a, self.b = a / a.sum(), b / b.sum()
        flat = geometry.flat((1,))
        found = REFERENCE.cost_range(flat, self.a[None] > 0, self.b[None] > 0)
        self.costs = Reduced(flat, found.row, found.col)
        self.span = float(found.span[0])
        self.reg = np.array([relative * self.span])
        with np.errstate(divide="ignore"):
            self.logs = np.log(self.a)[None], np.log(self.b)[None]
        self.penalties = Penalties(np.array([rho]), np.array([rho]))

    def sweep(self, tol, count=2000, f=0.0, g=0.0):
        f, g = np.full((1, self.costs.n), f), np.full((1, self.costs.m), g)
        start = Potentials(f, g, *self.logs, self.reg)
        mixing = Mixing.begin(g, np.array([self.span]))
        limit = np.array([float(count)])
        return NUMBA.sweep(self.costs, start, self.penalties, mixing, np.array([tol]), limit, count)

    def true_error(self, f, g):
        """By all entries of the plan, with the row potentials as they came back."""
        C = self.costs.block(slice(None), slice(None))[0]
        with np.errstate(divide="ignore"):
            P = np.exp((f[0][:, None] + g[0] - C) / self.reg + np.log(self.a)[:, None] + np.log(self.b))
        rho = self.penalties.rho_a[0]
        at_a, at_b = (np.exp(-(v + w[0]) / rho) for v, w in ((f[0], self.costs.row), (g[0], self.costs.col)))
        return abs(P.sum(1) - self.a * at_a).sum(), abs(P.sum(0) - self.b * at_b).sum()  # both weights sum to 1


@pytest.fixture
def few(monkeypatch):
    """Entries are listed whatever the size of the problem and the number of those that matter."""
    few_kept(monkeypatch)


@pytest.mark.usefixtures("few")
class TestWhatIsLeftOut:
    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("tol", [1e-4, 1e-9])
    @pytest.mark.parametrize("relative", [1e-2, 1e-3])
    @pytest.mark.parametrize("weights", WEIGHTS)
    @pytest.mark.parametrize("make", COSTS)
    def test_is_far_below_the_tolerance(self, make, weights, relative, tol, rng):
        a, b = (WEIGHTS[weights](rng, k) for k in (N, M))
        setting = Setting(Dense(make(rng)), a, b, relative)
        found = setting.sweep(tol)
        rows, cols = setting.true_error(found.f, found.g)
        assert found.effort[0] != N * M
        assert rows <= 1e-3 * tol + 1e-12 / relative
        assert abs(cols - found.error[0]) <= 1e-3 * tol + 1e-12 / relative

    @pytest.mark.parametrize("rho", [0.05, 1.0])
    def test_is_so_where_the_mass_is_free(self, rho, rng):
        setting = Setting(Dense(cloud(rng)), *(WEIGHTS["uneven"](rng, k) for k in (N, M)), 1e-3, rho)
        found = setting.sweep(1e-8)
        rows, cols = setting.true_error(found.f, found.g)
        assert found.error[0] <= 1e-8
        assert max(rows, abs(cols - found.error[0])) <= 1e-9

    def test_holds_while_scalings_move(self, rng):
        # The start is so far off that the lists have to be made again, and each step is checked.
        setting = Setting(Dense(high_dimension(rng)), np.ones(N), np.ones(M), 1e-3)
        for count in range(1, 40):
            found = setting.sweep(1e-8, count)
            rows, cols = setting.true_error(found.f, found.g)
            assert rows <= 1e-10
            assert abs(cols - found.error[0]) <= 1e-10

    @pytest.mark.parametrize("guess", [-1e3, -3e-3, 3e-3, 1e3, np.inf])
    def test_does_not_depend_on_the_first_guess(self, guess, rng):
        setting = Setting(Dense(cloud(rng)), np.ones(N), np.ones(M), 1e-3)
        one, other = (setting.sweep(1e-8, 30, f) for f in (0.0, guess))
        np.testing.assert_allclose(other.g, one.g, rtol=0, atol=1e-9 * setting.span)
        np.testing.assert_allclose(other.error, one.error, rtol=1e-6)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("listed", [row_updates.LISTED, 20_000])
def test_lists_that_are_too_short_are_made_again(listed, monkeypatch, rng):
    setting = Setting(PointCloud(rng.random((N, 2)), rng.random((M, 2))), np.ones(N), np.ones(M), 1e-3)
    wanted = setting.sweep(1e-8)
    monkeypatch.setattr(row_updates, "_sample", lambda *_: np.zeros(3))
    monkeypatch.setattr(row_updates, "_SPARE", 1)
    monkeypatch.setattr(row_updates, "LISTED", listed)
    found = setting.sweep(1e-8)
    np.testing.assert_allclose(found.g, wanted.g, rtol=0, atol=1e-9 * setting.span)
    assert found.error[0] <= 1e-8
    assert found.effort[0] == (wanted.effort[0] if listed > 20_000 else N * M)


def test_a_sparse_plan_is_seen_and_a_dense_one_too(rng):
    geometry = PointCloud(rng.random((N, 2)), rng.random((M, 2)))
    visited = [Setting(geometry, np.ones(N), np.ones(M), reg).sweep(1e-8).effort[0] for reg in (1e-1, 1e-2, 1e-4)]
    assert visited[:2] == [N * M, N * M]
    assert visited[2] < N * M / 8


def test_what_is_kept_follows_the_mass_of_rows_and_columns(rng):
    b = np.array([1.0, 1e-100, 0.0, 0.5])
    low, cut = cuts(1e-8, b, 10)
    tighter = cuts(1e-9, b, 10)
    assert low == pytest.approx(tighter[0] + np.log(10))
    np.testing.assert_allclose(cut[[0, 1, 3]] - low, np.log(b[[0, 1, 3]] * 4 / 10))
    assert cut[2] == -np.inf


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("rho", [np.inf, 0.05])
def test_a_list_outlives_a_call(rho, monkeypatch, rng):
    setting = Setting(Dense(cloud(rng)), np.ones(N), np.ones(M), 1e-3, rho)
    first = setting.sweep(1e-8, 40 if rho == np.inf else 20)
    assert first.error[0] > 1e-8

    def goes_on(listed):
        start = Potentials(first.f, first.point, *setting.logs, setting.reg)
        tol, limit = np.array([1e-8]), np.array([500.0])
        return NUMBA.sweep(setting.costs, start, setting.penalties, first.mixing, tol, limit, 500, listed)

    wanted = goes_on(None)
    monkeypatch.setattr(row_updates.Rows, "formed", None)  # no pass over the costs
    found = goes_on(first.listed)
    assert found.error[0] <= 1e-8
    assert abs(found.count - wanted.count) <= 5
    np.testing.assert_allclose(found.g, wanted.g, rtol=0, atol=1e-6 * setting.span)
    rows, cols = setting.true_error(found.f, found.g)
    assert max(rows, abs(cols - found.error[0])) <= 1e-11


@pytest.mark.usefixtures("few")
def test_a_list_says_which_entries_matter(rng):
    setting = Setting(Dense(cloud(rng)), np.ones(N), np.ones(M), 1e-3)
    swept = setting.sweep(1e-8, 5)
    listed = swept.listed[0]
    C = setting.costs.block(slice(None), slice(None))[0]
    exponents = (listed.g - C) / setting.reg + setting.logs[1]
    P = np.exp(exponents - np.logaddexp.reduce(exponents, axis=1, keepdims=True))
    row = np.repeat(np.arange(N), np.diff(listed.ends))
    np.testing.assert_allclose(listed.values, P[row, listed.cols], rtol=1e-10)
    P[row, listed.cols] = 0.0
    assert P.sum(1).max() <= 1e-11
    assert setting.sweep(1e-8, 2000).listed[0] is None  # nothing is left to be done


@pytest.mark.usefixtures("few")
def test_potentials_that_do_not_settle_are_noticed(rng):
    setting = Setting(Dense(cloud(rng)), np.ones(N), np.ones(M), 1e-3)
    assert [bool(setting.sweep(1e-13, count).restless[0]) for count in (8, 40)] == [True, False]


@pytest.mark.usefixtures("few")
def test_a_tolerance_below_zero_is_listed_for_and_not_met(rng):
    setting = Setting(Dense(cloud(rng)), np.ones(N), np.ones(M), 1e-3)
    lists = [setting.sweep(tol, 60).listed[0].cols.size for tol in (-np.inf, -1e-12, -1e-4, 1e-12)]
    assert lists[0] > lists[1] == lists[3] > lists[2] > 0
