"""The compiled operations against their references: on every kind of cost, at every regularisation, in every form."""

from dataclasses import fields

import numpy as np
import pytest
from forms import in_groups
from numpy.testing import assert_allclose, assert_array_equal
from parity import (
    DENSE,
    INF,
    SIZES,
    U,
    both,
    case,
    chebyshev,
    close,
    distance_slopes,
    finite,
    matrix,
    name_of,
    same_sweeps,
    swept,
    within,
)
from scipy.sparse import csr_array
from strategies import METRICS

from otkit import Dense, PointCloud
from otkit.kernels import REFERENCE, Kernels
from otkit.kernels.numba import NUMBA, tiles
from otkit.linalg.cg import Schur
from otkit.linalg.sparse import Scaling, Sparse

TINY = 1e-300  # below it exp is 0 in one version, and what it is in the other


def compare_softmin(c):
    costs, at, log_sum = c.costs, c.at, c.at.reg * c.relative
    within(*both("softmin", costs, at.g, at.log_b, at.reg), 0, log_sum)
    within(*both("softmin", costs.T, at.f, at.log_a, at.reg), 0, log_sum)


def compare_plan(c):
    P, wanted = both("plan", c.costs, c.at)
    within(P, wanted, c.relative, TINY)
    for single in both("plan", c.costs, c.at, single=True):
        assert single.dtype == np.float32
        within(single, wanted, c.relative + 2.0**-24, 2.0**-149)


def compare_marginals(c):
    rows, cols = zip(*both("marginals", c.costs, c.at), strict=True)
    within(*rows, c.relative, TINY)
    within(*cols, c.relative, TINY)


def compare_transport_cost(c):
    mass = REFERENCE.plan(c.costs, c.at).sum((1, 2))
    for transposed in (False, True):
        moved = both("transport_cost", *((c.costs.T, c.at.T) if transposed else (c.costs, c.at)))
        for one, other in zip(*moved, strict=True):
            within(one, other, c.relative, TINY + (c.unit * mass if one.ndim == 1 else 0))


def compare_apply_plan(c):
    rng = np.random.default_rng(1)
    for costs, at in ((c.costs, c.at), (c.costs.T, c.at.T)):
        v = rng.random((at.reg.size, costs.m, 2))
        within(*both("apply_plan", costs, at, v), c.relative, TINY)
        P, C = REFERENCE.plan(costs, at), finite(costs)
        for power in (1, 2):
            terms = P * (c.relative[:, None, None] * C**power + (C + c.unit) ** power - C**power)
            close(*both("apply_plan", costs, at, v, power), terms @ v + TINY)


# Rounding of a product of matrices in single precision with these numbers of points, and of its factors.
SINGLE = 64 * 2.0**-24


def compare_apply_cost_gradient(c):
    """The weights are those of the plan, of U and V and of costs, and slopes of a power; then there is a difference."""
    cloud, rng = c.costs.base, np.random.default_rng(1)
    if isinstance(cloud, Dense) or cloud.called:
        return  # there are no coordinates, or nothing is known of how costs depend on them
    for costs, at in ((c.costs, c.at), (c.costs.T, c.at.T)):
        cloud = costs.base.centred()
        U_, V = (rng.standard_normal((at.reg.size, size, 2)) for size in (costs.n, costs.m))
        slope = rng.standard_normal(at.reg.size)
        P, C, slopes = REFERENCE.plan(costs, at), finite(costs), distance_slopes(cloud.x, cloud.y, cloud.metric)
        x, y = abs(cloud.x), abs(cloud.y)
        for given in (slope, None):
            s = 0 if given is None else abs(slope)[:, None, None]
            weights = P * (abs(U_) @ abs(V).swapaxes(1, 2) + s * C)
            W = ((c.relative[:, None, None] + 4 * cloud.rounding[0] + 64 * U) * weights + P * s * c.unit) * slopes
            total = W.sum(-1, keepdims=True)
            bound = total if cloud.metric.ground == "cityblock" else x * total + W @ y
            close(*both("apply_cost_gradient", costs, at, U_, V, given), bound + TINY)
        single, wanted = (t.apply_cost_gradient(costs, at, U_, V, None, single=True) for t in (NUMBA, REFERENCE))
        total = (SINGLE * P * (abs(U_) @ abs(V).swapaxes(1, 2)) * slopes).sum(-1, keepdims=True)
        close(single, wanted, bound + total * (x + abs(y).max(1, keepdims=True)) + TINY)


def compare_c_transform(c):
    only_f, only_g = np.where(c.a > 0, c.at.f, -INF), np.where(c.b > 0, c.at.g, -INF)
    for geometry in (c.costs, c.costs.base):
        within(*both("c_transform", geometry, c.at.g), 0, c.unit)
        within(*both("c_transform", geometry, only_g), 0, c.unit)
        within(*both("c_transform", geometry.T, only_f), 0, c.unit)


def compare_cost_range(c):
    base = c.costs.base
    # Reducing is a minimum of the same numbers, unless they are products of matrices, which depend on the tiles.
    exact = isinstance(base, Dense) or base.d <= 16
    off = 0 if exact else 2 * base.rounding[0] * base.block(slice(None), slice(None)).max() + base.rounding[1]
    for geometry, has in ((base, (c.a > 0, c.b > 0)), (base.T, (c.b > 0, c.a > 0))):
        for one, other in zip(*both("cost_range", geometry, *has), strict=True):
            within(one, other, 0, off)


def compare_are_costs(c):
    assert all(both("are_costs", c.costs.base))


def compare_select(c):
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


def coupling(c):
    """The plan of the first item relative to the masses of its rows, as Newton steps have it, and what scales it."""
    P, rng = REFERENCE.plan(c.costs, c.at)[0], np.random.default_rng(1)
    T = csr_array(np.where(np.median(P) < P, P, 0) / P.sum(1, where=P > 0, keepdims=True, initial=TINY))
    least, halves, scales = ([rng.random(k) + 0.1 for k in T.shape] for _ in range(3))
    return Sparse(T, T.T.tocsr()), Scaling(*scales, *(np.median(T.data) * v for v in least), *halves)


def compare_sparsified(c):
    rows, by = coupling(c)
    (found, mass), (wanted, wanted_mass) = both("sparsified", rows, by)
    assert 0 < wanted.T.nnz < rows.T.nnz
    assert mass == pytest.approx(wanted_mass, rel=1e-13)
    for one, other in zip(found, wanted, strict=True):
        assert_array_equal(one.indptr, other.indptr)
        assert_array_equal(one.indices, other.indices)
        assert_allclose(one.data, other.data, rtol=8 * U)


def compare_conjugate_gradients(c):
    rows, _ = coupling(c)
    size = 1.01 * float(np.linalg.norm(rows.T.toarray(), 2))
    matrix, rhs = (
        Schur.of(rows.T / size, rows.transposed / size, 1.01),
        np.random.default_rng(1).standard_normal(c.costs.m),
    )
    for limit in (3, 1000):
        one, other = both("conjugate_gradients", matrix, rhs, np.zeros_like(rhs), 1e-12, limit)
        assert one.accurate == other.accurate
        assert abs(one.steps - other.steps) <= 2
        assert_allclose(one.y, other.y, rtol=0, atol=1e-9 * np.linalg.norm(other.y))


def compare_sweep(c):
    for count in (1, 2):
        same_sweeps(*(swept(c, table, count) for table in (NUMBA, REFERENCE)), c, count)


# Every operation of the table that is compiled, and what compares it.
REPLACED = [
    field.name
    for field in fields(Kernels)
    if field.name not in ("name", "home") and getattr(NUMBA, field.name) is not getattr(REFERENCE, field.name)
]
COMPARED = {name.removeprefix("compare_"): value for name, value in globals().items() if name.startswith("compare_")}


def test_no_operation_is_left_out():
    assert set(COMPARED) == set(REPLACED)
    # Compressing is SciPy's work, and arcs that leave components are asked for where costs are not on the host. What does
    # both for a GPU is compared there.
    assert {field.name for field in fields(Kernels)} - set(REPLACED) == {
        "name",
        "home",
        "pace",
        "room",
        "compressed",
        "leaving",
    }


@pytest.mark.parametrize("name", REPLACED)
def test_every_operation_of_the_table(name, rng):
    COMPARED[name](case(PointCloud(rng.random((40, 3)), rng.random((30, 3))), items=2))
    COMPARED[name](case(Dense(rng.random((30, 40)))))


def check_operations(c):
    """All but those that have tests of their own: iterations, and what does not go over costs."""
    for name in COMPARED.keys() - {"sweep", "sparsified", "conjugate_gradients"}:
        COMPARED[name](c)


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
