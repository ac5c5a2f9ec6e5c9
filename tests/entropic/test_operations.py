"""The reference operations against their definitions, on every library, with zero weights and forbidden arcs."""

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from otkit import Dense
from otkit.arrays import from_numpy, to_numpy
from otkit.entropic import operations
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry.base import tiles
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose


class Data:
    """Costs with forbidden arcs for three items, potentials, and weights with zeros."""

    def __init__(self, n=13, m=9, items=3, shared=False):
        rng = np.random.default_rng(3)
        self.C = rng.random((1 if shared else items, n, m))
        self.C[0, 2, 3] = self.C[-1, 0, :4] = np.inf
        self.f, self.g = rng.standard_normal((items, n)), rng.standard_normal((items, m))
        self.a, self.b = rng.dirichlet(np.ones(n), items), rng.dirichlet(np.ones(m), items)
        self.a[:, 5] = self.b[1, 4] = 0
        self.a, self.b = (w / w.sum(1, keepdims=True) for w in (self.a, self.b))
        self.reg = np.array([0.1, 1.0, 1e-3])[:items]
        with np.errstate(divide="ignore"):
            self.log_a, self.log_b = np.log(self.a), np.log(self.b)
        exponent = (self.f[:, :, None] + self.g[:, None, :] - self.C) / self.reg[:, None, None]
        self.log_P = exponent + self.log_a[:, :, None] + self.log_b[:, None, :]
        self.P = np.exp(np.minimum(self.log_P, 700))

    def on(self, xp=np):
        """Geometry and potentials in a library."""
        at = Potentials(*(xp.asarray(v) for v in (self.f, self.g, self.log_a, self.log_b, self.reg)))
        return Dense(xp.asarray(self.C)), at


@pytest.fixture(params=[False, True], ids=["own costs", "shared costs"])
def data(request):
    return Data(shared=request.param)


@pytest.fixture(params=[2**17, 40, 1], ids=["one tile", "some tiles", "a row a tile"])
def tile(request, monkeypatch):
    monkeypatch.setattr(operations, "tiles", partial(tiles, size=request.param))


@pytest.mark.usefixtures("tile")
class TestOperations:
    def test_softmin(self, data, inner_xp):
        geometry, at = data.on(inner_xp)
        found = to_numpy(choose(geometry).softmin(geometry, at.g, at.log_b, at.reg))
        scaled = (data.g[:, None, :] - data.C) / data.reg[:, None, None] + data.log_b[:, None, :]
        assert_allclose(found, -data.reg[:, None] * logsumexp(scaled, axis=-1), rtol=1e-12, atol=1e-12)

    def test_marginals_and_cost(self, data, inner_xp):
        geometry, at = data.on(inner_xp)
        row, col = choose(geometry).marginals(geometry, at)
        assert_allclose(to_numpy(row), data.P.sum(2), rtol=1e-12)
        assert_allclose(to_numpy(col), data.P.sum(1), rtol=1e-12)
        moved = choose(geometry).transport_cost(geometry, at)
        paid = data.P * np.where(np.isfinite(data.C), data.C, 0)
        assert_allclose(to_numpy(moved.cost), paid.sum((1, 2)), rtol=1e-12)
        assert_allclose(to_numpy(moved.row), data.P.sum(2), rtol=1e-12)

    def test_apply_plan_and_its_transpose(self, data, inner_xp, rng):
        geometry, at = data.on(inner_xp)
        v, u = rng.random((3, 9, 2)), rng.random((3, 13, 2))
        assert_allclose(
            to_numpy(choose(geometry).apply_plan(geometry, at, from_numpy(v, at.f))), data.P @ v, rtol=1e-11
        )
        transposed = choose(geometry).apply_plan(geometry.T, at.T, from_numpy(u, at.f))
        assert_allclose(to_numpy(transposed), data.P.transpose(0, 2, 1) @ u, rtol=1e-11)

    def test_c_transform(self, data, inner_xp):
        geometry, at = data.on(inner_xp)
        g = np.where(data.b > 0, data.g, -np.inf)
        wanted = (data.C - g[:, None, :]).min(2)
        assert_allclose(to_numpy(choose(geometry).c_transform(geometry, from_numpy(g, at.f))), wanted)

    def test_select(self, data, inner_xp):
        geometry, at = data.on(inner_xp)
        rows, cols = np.log(data.a + 1e-300) - 1, np.log(data.b + 1e-300) - 1
        given = [from_numpy(v, at.f) for v in (rows, cols)]
        arcs = choose(geometry).select(geometry, at, *given, np.inf)
        threshold = np.minimum(rows[:, :, None], cols[:, None, :])
        item, row, col = np.nonzero((data.log_P >= threshold) & (data.log_P > -np.inf))
        for found, wanted in ((arcs.item, item), (arcs.row, row), (arcs.col, col)):
            order = np.lexsort((to_numpy(arcs.col), to_numpy(arcs.row), to_numpy(arcs.item)))
            assert (to_numpy(found)[order] == wanted).all()
        assert_allclose(np.sort(to_numpy(arcs.log_plan)), np.sort(data.log_P[item, row, col]))
        assert choose(geometry).select(geometry, at, *given, item.size) is not None
        assert choose(geometry).select(geometry, at, *given, item.size - 1) is None

    def test_cost_range(self, data, inner_xp):
        geometry, at = data.on(inner_xp)
        found = choose(geometry).cost_range(geometry, at.log_a > -1e9, at.log_b > -1e9)
        carries = (data.a > 0)[:, :, None] & (data.b > 0)[:, None, :]
        allowed = carries & np.isfinite(data.C)
        everywhere = np.broadcast_to(data.C, allowed.shape)
        for k in range(3):
            costs = everywhere[k][allowed[k]]
            assert_allclose([to_numpy(found.low)[k], to_numpy(found.high)[k]], [costs.min(), costs.max()])
            assert bool(to_numpy(found.forbidden)[k]) == bool((carries[k] & np.isinf(everywhere[k])).any())
        reduced = to_numpy(Reduced(geometry, found.row, found.col).block(slice(0, 3), slice(0, 13)))
        reduced = np.where(allowed, reduced, np.inf)
        assert_allclose(reduced.min(2)[data.a > 0], 0, atol=1e-15)
        assert_allclose(reduced.min(1)[data.b > 0], 0, atol=1e-15)
        assert_allclose(to_numpy(found.span), np.where(np.isfinite(reduced), reduced, 0).max((1, 2)))
        assert choose(geometry).are_costs(geometry)

    @pytest.mark.parametrize("shifts", [False, True])
    def test_sweep_is_the_textbook_iteration(self, data, inner_xp, shifts):
        geometry, at = data.on(inner_xp)
        put = lambda v: from_numpy(v, at.f)  # noqa: E731
        rng = np.random.default_rng(5)
        row, col = rng.standard_normal((3, 13)), rng.standard_normal((3, 9))
        rho_a, rho_b = np.array([np.inf, 0.3, 0.0]), np.array([np.inf, 2.0, np.inf])
        C = np.broadcast_to(data.C, (3, 13, 9))
        r, g = data.reg[:, None], data.g + col  # in the costs as given
        with np.errstate(invalid="ignore"):
            keep_a, keep_b = (np.where(rho == np.inf, 1, rho / (rho + data.reg))[:, None] for rho in (rho_a, rho_b))
        for _ in range(3):
            before = g
            f = -keep_a * r * logsumexp((g[:, None, :] - C) / r[:, :, None] + data.log_b[:, None, :], axis=2)
            g = -keep_b * r * logsumexp((f[:, :, None] - C) / r[:, :, None] + data.log_a[:, :, None], axis=1)
            if shifts:  # the dual is stationary in the constant between the sides
                masses = [
                    (w * np.exp(-v / rho)).sum() for w, v, rho in ((data.a[1], f[1], 0.3), (data.b[1], g[1], 2.0))
                ]
                g[1] -= np.log(masses[0] / masses[1]) / (1 / 0.3 + 1 / 2.0)
        start = Potentials(at.f, put(before * 0 + data.g), at.log_a, at.log_b, at.reg)
        mixing = Mixing.begin(start.g, put(np.full(3, np.inf)), window=0)
        penalties = Penalties(put(rho_a), put(rho_b), shifts)
        swept = choose(geometry).sweep(
            Reduced(geometry, put(row), put(col)), start, penalties, mixing, put(np.zeros(3)), put(np.full(3, 9.0)), 3
        )
        used = data.b > 0
        assert_allclose(to_numpy(swept.f) + row, f, rtol=1e-10, atol=1e-11)
        assert_allclose((to_numpy(swept.g) + col)[used], before[used], rtol=1e-10, atol=1e-11)
        assert (to_numpy(swept.count)[:2] == 3).all()
        assert_allclose((to_numpy(swept.point) + col)[used], g[used], rtol=1e-10, atol=1e-11)
        with np.errstate(over="ignore"):
            P = np.exp(
                (f[:, :, None] + before[:, None, :] - C) / r[:, :, None]
                + data.log_a[:, :, None]
                + data.log_b[:, None, :]
            )
            wanted = [abs(P[k].sum(0) - data.b[k] * np.exp(-before[k] / rho_b[k])).sum() for k in range(3)]
        assert_allclose(to_numpy(swept.error), wanted, rtol=1e-8, atol=1e-12)


def swept(costs, start, tol, limit, k, window=0):
    exact = Penalties(*(np.full(len(tol), np.inf) for _ in range(2)))
    mixing = Mixing.begin(start.g, np.full(len(tol), 1e9), window)
    return choose(costs).sweep(costs, start, exact, mixing, np.array(tol), np.array(limit), k)


@pytest.mark.parametrize("kernel", ["numba", "reference"])
@pytest.mark.parametrize("window", [0, 20])
def test_sweep_stops_every_item_by_itself(kernel, window, monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", kernel)
    data = Data()
    geometry, at = data.on()
    costs = Reduced(geometry, np.zeros((3, 13)), np.zeros((3, 9)))
    found = swept(costs, at, [0.0, 1e-9, 0.0], [2.0, 500.0, 0.0], 500, window)
    assert found.count[0] == 2
    assert 2 < found.count[1] < 500
    assert found.error[1] <= 1e-9
    assert found.count[2] == 0
    assert (found.g[2] == at.g[2]).all()
    row, col = choose(costs).marginals(costs, Potentials(found.f, found.g, at.log_a, at.log_b, at.reg))
    assert abs(row[1] - data.a[1]).sum() <= 1e-12
    assert abs(col[1] - data.b[1]).sum() <= 1.1e-9


def test_a_row_that_reaches_no_mass_has_potential_zero():
    geometry = Dense(np.full((1, 2, 2), np.inf))
    found = choose(geometry).softmin(geometry, np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1))
    assert (found == 0).all()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_nan_and_minus_infinity_are_no_costs(bad):
    C = np.zeros((2, 3, 3))
    C[1, 1, 2] = bad
    assert not choose(Dense(C)).are_costs(Dense(C))
