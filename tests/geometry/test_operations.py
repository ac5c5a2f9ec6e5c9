"""The reference operations against their definitions, on every library, with zero weights and forbidden arcs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from otkit import Dense, PointCloud, kernels
from otkit.arrays import from_numpy, to_numpy
from otkit.geometry import base
from otkit.kernels import Potentials, Reduced


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
    monkeypatch.setattr(base, "_TILE", request.param)


@pytest.mark.usefixtures("tile")
class TestOperations:
    def test_softmin(self, data, any_xp):
        geometry, at = data.on(any_xp)
        found = to_numpy(kernels.softmin(geometry, at.g, at.log_b, at.reg))
        scaled = (data.g[:, None, :] - data.C) / data.reg[:, None, None] + data.log_b[:, None, :]
        assert_allclose(found, -data.reg[:, None] * logsumexp(scaled, axis=-1), rtol=1e-12, atol=1e-12)

    def test_marginals_and_cost(self, data, any_xp):
        geometry, at = data.on(any_xp)
        row, col = kernels.marginals(geometry, at)
        assert_allclose(to_numpy(row), data.P.sum(2), rtol=1e-12)
        assert_allclose(to_numpy(col), data.P.sum(1), rtol=1e-12)
        moved = kernels.transport_cost(geometry, at)
        paid = data.P * np.where(np.isfinite(data.C), data.C, 0)
        assert_allclose(to_numpy(moved.cost), paid.sum((1, 2)), rtol=1e-12)
        assert_allclose(to_numpy(moved.row), data.P.sum(2), rtol=1e-12)

    def test_apply_plan_and_its_transpose(self, data, any_xp, rng):
        geometry, at = data.on(any_xp)
        v, u = rng.random((3, 9, 2)), rng.random((3, 13, 2))
        assert_allclose(to_numpy(kernels.apply_plan(geometry, at, from_numpy(v, at.f))), data.P @ v, rtol=1e-11)
        turned = kernels.apply_plan(geometry.T, at.T, from_numpy(u, at.f))
        assert_allclose(to_numpy(turned), data.P.transpose(0, 2, 1) @ u, rtol=1e-11)

    def test_c_transform(self, data, any_xp):
        geometry, at = data.on(any_xp)
        g = np.where(data.b > 0, data.g, -np.inf)
        wanted = (data.C - g[:, None, :]).min(2)
        assert_allclose(to_numpy(kernels.c_transform(geometry, from_numpy(g, at.f))), wanted)

    def test_select(self, data, any_xp):
        geometry, at = data.on(any_xp)
        threshold = np.log(data.a + 1e-300) - 1
        arcs = kernels.select(geometry, at, from_numpy(threshold, at.f))
        item, row, col = np.nonzero((data.log_P >= threshold[:, :, None]) & (data.log_P > -np.inf))
        for found, wanted in ((arcs.item, item), (arcs.row, row), (arcs.col, col)):
            order = np.lexsort((to_numpy(arcs.col), to_numpy(arcs.row), to_numpy(arcs.item)))
            assert (to_numpy(found)[order] == wanted).all()
        assert_allclose(np.sort(to_numpy(arcs.log_plan)), np.sort(data.log_P[item, row, col]))

    def test_cost_range(self, data, any_xp):
        geometry, at = data.on(any_xp)
        found = kernels.cost_range(geometry, at.log_a > -1e9, at.log_b > -1e9)
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
        assert kernels.are_costs(geometry)

    def test_sweep_is_the_textbook_iteration(self, data, any_xp):
        geometry, at = data.on(any_xp)
        C, f, g = np.broadcast_to(data.C, (3, 13, 9)), data.f.copy(), data.g
        r = data.reg[:, None]
        for _ in range(3):
            before = f
            g = -r * logsumexp((f[:, :, None] - C) / r[:, :, None] + data.log_a[:, :, None], axis=1)
            f = -r * logsumexp((g[:, None, :] - C) / r[:, :, None] + data.log_b[:, None, :], axis=2)
        put = lambda v: from_numpy(v, at.f)  # noqa: E731
        swept = kernels.sweep(geometry, at, put(np.zeros(3)), put(np.full(3, 9.0)), 3)
        assert_allclose(to_numpy(swept.g), g, rtol=1e-10, atol=1e-12)
        assert_allclose(to_numpy(swept.f), f, rtol=1e-10, atol=1e-12)
        with np.errstate(over="ignore"):
            P = np.exp(
                (before[:, :, None] + g[:, None, :] - C) / r[:, :, None]
                + data.log_a[:, :, None]
                + data.log_b[:, None, :]
            )
        assert_allclose(to_numpy(swept.error), abs(P.sum(2) - data.a).sum(1), rtol=1e-8)
        assert_allclose(P.sum(1), data.b, atol=1e-12)
        assert (to_numpy(swept.count) == 3).all()


def test_sweep_stops_every_item_by_itself():
    data = Data()
    geometry, at = data.on()
    swept = kernels.sweep(geometry, at, np.array([0.0, 1e-9, 0.0]), np.array([2.0, 500.0, 0.0]), 500)
    assert swept.count[0] == 2
    assert 2 < swept.count[1] < 500
    assert swept.error[1] <= 1e-9
    assert swept.count[2] == 0
    assert (swept.f[2] == at.f[2]).all()
    kept = kernels.marginals(geometry, Potentials(swept.f, swept.g, at.log_a, at.log_b, at.reg))[0]
    assert abs(kept[1] - data.a[1]).sum() <= 1.1e-9


def test_a_row_that_reaches_no_mass_has_potential_zero():
    found = kernels.softmin(Dense(np.full((1, 2, 2), np.inf)), np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1))
    assert (found == 0).all()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_nan_and_minus_infinity_are_no_costs(bad):
    C = np.zeros((2, 3, 3))
    C[1, 1, 2] = bad
    assert not kernels.are_costs(Dense(C))


def test_points_are_tiles_of_the_dense_costs(rng):
    x, y = rng.standard_normal((2, 11, 3)), rng.standard_normal((7, 3))
    cloud = PointCloud(x, y, "euclidean")
    assert cloud.batch == (2,)
    flat = cloud.flat((2,))
    dense = np.linalg.norm(x[:, :, None] - y[None, None], axis=-1)
    assert_allclose(flat.block(slice(0, 2), slice(3, 6)), dense[:, 3:6])
    assert_allclose(flat.T.block(slice(1, 2), slice(0, 2)), dense.transpose(0, 2, 1)[1:2, 0:2])
    assert_allclose(flat.take(np.array([1])).block(slice(0, 1), slice(None)), dense[1:])


def test_flattening_copies_a_matrix_only_where_it_is_partly_shared(rng):
    C = rng.random((5, 4))
    assert np.shares_memory(Dense(C).flat((7, 2)).C, C)
    own = rng.random((7, 2, 5, 4))
    assert np.shares_memory(Dense(own).flat((7, 2)).C, own)
    mixed = Dense(own[:, :1]).flat((7, 2)).C
    assert_allclose(mixed.reshape(7, 2, 5, 4)[:, 1], own[:, 0])
