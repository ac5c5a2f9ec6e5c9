"""The compiled operations against their references: on every kind of cost, at every regularisation, in every form."""

import numpy as np
import pytest
from forms import in_groups
from parity import DENSE, INF, SIZES, U, both, case, chebyshev, matrix, name_of, within
from strategies import METRICS

from otkit import Dense, PointCloud
from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA, tiles


def check_operations(c):
    costs, at, relative = c.costs, c.at, c.relative
    tiny = 1e-300  # below it exp is 0 in one version, and what it is in the other
    unit = 16 * U * (abs(costs.row).max() + abs(costs.col).max() + abs(at.f).max() + abs(at.g).max() + c.span)
    rng = np.random.default_rng(1)

    log_sum = at.reg * relative
    within(*both("softmin", costs, at.g, at.log_b, at.reg), 0, log_sum)
    within(*both("softmin", costs.T, at.f, at.log_a, at.reg), 0, log_sum)

    P, wanted = both("plan", costs, at)
    within(P, wanted, relative, tiny)
    for single in both("plan", costs, at, single=True):
        assert single.dtype == np.float32
        within(single, wanted, relative + 2.0**-24, 2.0**-149)
    rows, cols = zip(*both("marginals", costs, at), strict=True)
    within(*rows, relative, tiny)
    within(*cols, relative, tiny)
    for turned in (False, True):
        moved = both("transport_cost", *((costs.T, at.T) if turned else (costs, at)))
        for one, other in zip(*moved, strict=True):
            within(one, other, relative, tiny + (unit * wanted.sum((1, 2)) if one.ndim == 1 else 0))

    v = rng.random((c.a.shape[0], costs.m, 2))
    within(*both("apply_plan", costs, at, v), relative, tiny)
    within(*both("apply_plan", costs.T, at.T, rng.random((c.a.shape[0], costs.n, 2))), relative, tiny)

    only_f, only_g = np.where(c.a > 0, at.f, -INF), np.where(c.b > 0, at.g, -INF)
    for geometry in (costs, costs.base):
        within(*both("c_transform", geometry, at.g), 0, unit)
        within(*both("c_transform", geometry, only_g), 0, unit)
        within(*both("c_transform", geometry.T, only_f), 0, unit)
    # Reducing is a minimum of the same numbers, unless they are products of matrices, which depend on the tiles.
    exact = isinstance(costs.base, Dense) or costs.base.d <= 16
    off = (
        0
        if exact
        else 2 * costs.base.rounding[0] * costs.base.block(slice(None), slice(None)).max() + costs.base.rounding[1]
    )
    for geometry, has in ((costs.base, (c.a > 0, c.b > 0)), (costs.base.T, (c.b > 0, c.a > 0))):
        for one, other in zip(*both("cost_range", geometry, *has), strict=True):
            within(one, other, 0, off)
    assert all(both("are_costs", costs.base))
    check_select(c)


def check_select(c):
    rows, cols = c.at.log_a + np.log(1e-3 / c.costs.m), c.at.log_b + np.log(1e-3 / c.costs.n)
    found, wanted = both("select", c.costs, c.at, rows, cols, INF)
    shape = c.a.shape[0], c.costs.n, c.costs.m
    entries = [np.full(shape, -INF) for _ in range(2)]
    for dense, arcs in zip(entries, (found, wanted), strict=True):
        where = np.ravel_multi_index((arcs.item, arcs.row, arcs.col), shape)
        assert (np.diff(where) > 0).all()
        dense.flat[where] = arcs.log_plan
    one, other = entries
    shared = (one > -INF) & (other > -INF)
    slack = np.broadcast_to(c.exponents[:, None, None], shape)
    assert (abs(one[shared] - other[shared]) <= slack[shared]).all()
    # Only entries at the threshold may be taken by one of the two.
    item, row, col = np.nonzero((one > -INF) != (other > -INF))
    threshold = np.minimum(rows[item, row], cols[item, col])
    assert (np.maximum(one, other)[item, row, col] - threshold <= slack[item, row, col]).all()


@pytest.fixture(params=["whole", "in parts"])
def parts(request, monkeypatch):
    """Small problems as they are, and cut into groups of rows and tiles as large ones are."""
    if request.param == "in parts":
        in_groups(monkeypatch, 8, tile=200)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("batch", [(), (3,)], ids=["shared costs", "own costs"])
def test_matrices(kind, n, m, batch, rng):
    geometry = Dense(DENSE[kind](matrix(rng, batch, n, m)))
    check_operations(case(geometry, items=3))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("metric", [*METRICS, ("power", 1.0), chebyshev], ids=name_of)
@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["shared points", "own points"])
def test_clouds(metric, d, batch, rng):
    geometry = PointCloud(rng.standard_normal((*batch, 33, d)), rng.standard_normal((*batch, 21, d)) + 0.5, metric)
    check_operations(case(geometry, items=2))


@pytest.mark.parametrize("relative", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("make", [lambda rng: Dense(matrix(rng, (), 40, 30)), lambda rng: PointCloud(rng.random((40, 3)), rng.random((30, 3)))], ids=["matrix", "cloud"])  # fmt: skip
def test_regularisations(relative, make, rng):
    check_operations(case(make(rng), items=2, relative=relative))


@pytest.mark.parametrize("kind", ["float64", "float32", "transposed"])
def test_large_matrices(kind, rng):
    assert tiles.SMALL < 900 * 640
    check_operations(case(Dense(DENSE[kind](matrix(rng, (), 900, 640))), relative=0.05))


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", chebyshev], ids=name_of)
def test_large_clouds(metric, rng):
    check_operations(case(PointCloud(rng.random((900, 2)), rng.random((640, 2)), metric)))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("bad", [np.nan, -INF])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_is_no_cost_is_found(bad, dtype):
    C = np.full((2, 20, 30), INF, dtype=dtype)
    assert all(both("are_costs", Dense(C)))
    C[1, 17, 29] = bad
    assert not any(both("are_costs", Dense(C)))


def test_there_is_a_compiled_version_of_every_operation():
    for name in (
        "apply_plan",
        "are_costs",
        "c_transform",
        "cost_range",
        "marginals",
        "plan",
        "select",
        "softmin",
        "sweep",
        "transport_cost",
    ):
        assert getattr(NUMBA, name) is not getattr(REFERENCE, name)
