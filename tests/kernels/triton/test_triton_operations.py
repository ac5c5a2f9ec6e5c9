"""Triton's operations against their references: on every kind of cost, at every regularisation, in every form.

Bounds follow from rounding. An exponent (f + g − C)/reg + log a + log b is off by a few units of its largest term, and
by what the cost is off over reg; hence its exponential by as much relative to itself. Sums of positive terms are no
worse than their terms. 16u·(largest potential or cost/reg + largest |log weight|) covers both versions together.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from parity import distance_slopes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from otkit import Dense, PointCloud  # noqa: E402
from otkit.entropic import operations as base  # noqa: E402
from otkit.entropic.dual import Potentials  # noqa: E402
from otkit.geometry.base import Geometry  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402
from otkit.kernels.triton.launch import DOUBLE, MIXED, SINGLE  # noqa: E402

U, U_SINGLE, INF = 2.0**-53, 2.0**-24, np.inf
EVERY = slice(None), slice(None)


@pytest.fixture(autouse=True)
def fenced(monkeypatch):
    """What is allocated holds garbage, and lies between fences that nothing may write to."""
    empty, fences = torch.empty, []

    def garbage(size, *, dtype, device):
        count, fence = int(np.prod(size)), 32
        mark = float("nan") if dtype.is_floating_point else -7
        whole = empty(count + 2 * fence, dtype=dtype, device=device).fill_(mark)
        fences.extend((whole[:fence], whole[fence + count :]))
        return whole[fence : fence + count].view(size)

    monkeypatch.setattr(torch, "empty", garbage)
    yield
    for fence in fences:
        assert bool((fence.isnan() if fence.dtype.is_floating_point else fence == -7).all())


def numpy_of(x):
    return x.cpu().double().numpy()


def within(found, wanted, bound):
    """|found − wanted| ≤ bound, with infinities in the same places, shapes and types."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    found, wanted = numpy_of(found), numpy_of(wanted)
    finite = np.isfinite(wanted)
    assert_array_equal(found[~finite], wanted[~finite])
    miss = abs(np.where(finite, found, 0) - np.where(finite, wanted, 0))
    assert (miss <= bound).all(), f"off by {miss.max():.3g}"


# Geometries of 3 items


def holes(rng, items, n, m):
    """Costs with arcs that are forbidden, none of them in the first row or column."""
    C = rng.random((items, n, m))
    C[rng.random(C.shape) < 0.1] = INF
    C[:, 0], C[:, :, 0] = rng.random((items, m)), rng.random((items, n))
    return C


def on(device, x, dtype=torch.float64):
    return torch.as_tensor(x, dtype=dtype, device=device)


def cloud(metric, d, x_items=3, y_items=3):
    def make(rng, n, m, device):
        x, y = rng.standard_normal((x_items, n, d)), rng.standard_normal((y_items, m, d)) + 0.5
        if n > 1 and m > 1:
            y[:, 1] = x[:1, 1]  # a distance of 0
        return PointCloud(on(device, x), on(device, y), metric).flat((3,))

    return make


MATRICES = {
    "rows": lambda rng, n, m, device: Dense(on(device, holes(rng, 3, n, m))),
    "columns": lambda rng, n, m, device: Dense(on(device, holes(rng, 3, m, n))).T,
    "shared": lambda rng, n, m, device: Dense(on(device, holes(rng, 1, n, m))),
    "float32": lambda rng, n, m, device: Dense(on(device, holes(rng, 3, n, m), torch.float32)),
    "integers": lambda rng, n, m, device: Dense(on(device, rng.integers(0, 9, (3, n, m)), torch.int32)),
    "strided": lambda rng, n, m, device: Dense(on(device, holes(rng, 3, 2 * n, 2 * m))[:, ::2, 1::2]),
}
METRICS = ["sqeuclidean", "euclidean", "cityblock", "cosine", ("power", 1.5), ("power", 3.0)]
CLOUDS = {f"{metric} {d}": cloud(metric, d) for metric in METRICS for d in (3, 20)} | {
    "x shared": cloud("euclidean", 2, x_items=1),
    "both shared": cloud("cityblock", 2, x_items=1, y_items=1),
}
GEOMETRIES = MATRICES | CLOUDS


@dataclass(frozen=True)
class Case:
    """Costs, reduced or not, a point where the rows of the plan are nearly exact, and bounds on rounding."""

    costs: Geometry
    at: Potentials
    size: float
    off: float

    @property
    def T(self):
        return replace(self, costs=self.costs.T, at=self.at.T)

    @property
    def unit(self):
        """A bound on the rounding of a sum of a cost and potentials."""
        return 16 * U * (self.size + max(float(v.abs().max()) for v in (self.at.f, self.at.g))) + self.off

    @property
    def exponents(self):
        """A bound on the rounding of log P ``(B, 1)``."""
        logs = sum(np.abs(v[np.isfinite(v)]).max() for v in map(numpy_of, (self.at.log_a, self.at.log_b)))
        return self.unit / numpy_of(self.at.reg)[:, None] + 16 * U * logs

    @property
    def relative(self):
        """A bound on the relative rounding of an entry of the plan, and of sums of them: ``(B, 1)``."""
        return self.exponents + 16 * U + 4 * U * np.sqrt(self.costs.n + self.costs.m)


def problem(rng, flat, relative=0.1):
    """The case of reduced costs, and that of the costs as they are."""
    items, n, m, like = 3, flat.n, flat.m, next(iter(flat.arrays.values()))
    a, b = rng.dirichlet(np.ones(n), items), rng.dirichlet(np.ones(m), items)
    if min(n, m) > 3:
        a[:, 2] = b[-1, 3] = 0
    with np.errstate(divide="ignore"):
        log_a, log_b = (on(like.device, np.log(w / w.sum(1, keepdims=True))) for w in (a, b))
    reduction = base.cost_range(flat, log_a > -INF, log_b > -INF)
    span = float(reduction.span.max()) or 1.0
    reg = on(like.device, relative * span * np.linspace(1, 2, items))
    C = numpy_of(flat.block(*EVERY))
    largest = np.abs(C[np.isfinite(C)]).max()
    off = 2 * (flat.rounding[0] * largest + flat.rounding[1])
    cases = []
    for costs in (Reduced(flat, reduction.row, reduction.col), flat):
        size = largest + sum(float(v.abs().max()) for v in ((costs.row, costs.col) if costs is not flat else ()))
        g = on(like.device, 0.1 * span * rng.standard_normal((items, m)))
        f = base.softmin(costs, g, log_b, reg)
        cases.append(Case(costs, Potentials(f, g, log_a, log_b, reg), size, off))
    return cases


TINY = 1e-300  # below it exp is 0 in one version, and what it is in the other


def check_sums(c):
    costs, at, relative = c.costs, c.at, c.relative
    within(
        ops.softmin(costs, at.g, at.log_b, at.reg),
        base.softmin(costs, at.g, at.log_b, at.reg),
        numpy_of(at.reg)[:, None] * relative,
    )

    P = base.plan(costs, at)
    bound = relative[:, :, None] * numpy_of(P)
    within(ops.plan(costs, at), P, bound + TINY)
    # In single precision an exponent is off by its own length, which is at most 88 where anything is left.
    single = base.plan(costs, at, single=True)
    within(ops.plan(costs, at, single=True), single, bound + 100 * U_SINGLE * numpy_of(single) + 1e-37)

    moved = base.transport_cost(costs, at)
    for found, wanted in zip(ops.marginals(costs, at), (moved.row, moved.col), strict=True):
        within(found, wanted, relative * numpy_of(wanted) + TINY)
    found = ops.transport_cost(costs, at)
    within(found.row, moved.row, relative * numpy_of(moved.row) + TINY)
    within(found.col, moved.col, relative * numpy_of(moved.col) + TINY)
    C = np.abs(numpy_of(costs.block(*EVERY)))
    C = np.where(np.isfinite(C), C, 0)
    within(found.cost, moved.cost, (relative[:, :, None] * numpy_of(P) * C + c.unit * numpy_of(P)).sum((1, 2)) + TINY)


def check_products(c, rng, columns=(1, 3, 6), powers=(0, 1, 2)):
    costs, at = c.costs, c.at
    P, C = numpy_of(base.plan(costs, at)), np.abs(numpy_of(costs.block(*EVERY)))
    C = np.where(np.isfinite(C), C, 0)
    for k in columns:
        v = on(at.f.device, rng.standard_normal((3, costs.m, k)))
        for power in powers:
            terms = P * (c.relative[:, :, None] * C**power + (C + c.unit) ** power - C**power)
            bound = terms @ np.abs(numpy_of(v)) + TINY
            within(ops.apply_plan(costs, at, v, power), base.apply_plan(costs, at, v, power), bound)


def check_gradient(c, rng):
    """The weights are those of the plan, of U and V and of costs, and slopes of a power; then there is a difference."""
    costs, at, cloud = c.costs, c.at, c.costs.base.centred()
    U_, V = (on(at.f.device, rng.standard_normal((3, size, 2))) for size in (costs.n, costs.m))
    slope = on(at.f.device, rng.standard_normal(3))
    P, C = numpy_of(base.plan(costs, at)), np.abs(numpy_of(costs.block(*EVERY)))
    x, y = (np.abs(numpy_of(v)) for v in (cloud.x, cloud.y))
    slopes = distance_slopes(numpy_of(cloud.x), numpy_of(cloud.y), cloud.metric)
    for given in (slope, None):
        s = 0 if given is None else np.abs(numpy_of(slope))[:, None, None]
        weights = P * (np.abs(numpy_of(U_)) @ np.abs(numpy_of(V)).swapaxes(1, 2) + s * C)
        relative = c.relative[:, :, None] + 4 * cloud.rounding[0] + 64 * U
        W = (relative * weights + P * s * c.unit) * slopes
        ends = W.sum(-1, keepdims=True) if cloud.metric.ground == "cityblock" else x * W.sum(-1, keepdims=True) + W @ y
        within(
            ops.apply_cost_gradient(costs, at, U_, V, given),
            base.apply_cost_gradient(costs, at, U_, V, given),
            ends + TINY,
        )


def check_minima(c):
    """Costs are the same numbers to their rounding, and nothing is rounded after them but one difference."""
    costs, at = c.costs, c.at
    masked = torch.where(at.log_b > -INF, at.g, -INF)
    for g in (at.g, masked, torch.full_like(masked, -INF)):
        within(ops.c_transform(costs, g), base.c_transform(costs, g), c.unit if c.off else 0)
    assert ops.are_costs(costs)
    if not isinstance(costs, Reduced):
        found, wanted = (module.cost_range(costs, at.log_a > -INF, at.log_b > -INF) for module in (ops, base))
        for one, other in zip(found, wanted, strict=True):
            within(one, other, 2 * c.off)


def check_select(c):
    costs, at = c.costs, c.at
    rows, cols = at.log_a + np.log(1e-3 / costs.m), at.log_b + np.log(1e-3 / costs.n)
    found, wanted = (module.select(costs, at, rows, cols, INF) for module in (ops, base))
    shape = 3, costs.n, costs.m
    entries = [np.full(shape, -INF) for _ in range(2)]
    for dense, arcs in zip(entries, (found, wanted), strict=True):
        assert [v.dtype for v in arcs] == 3 * [torch.int64] + [torch.float64]
        where = np.ravel_multi_index([v.cpu().numpy() for v in arcs[:3]], shape)
        assert (np.diff(where) > 0).all()
        dense.flat[where] = numpy_of(arcs.log_plan)
    one, other = entries
    both = (one > -INF) & (other > -INF)
    slack = np.broadcast_to(c.exponents[:, :, None], shape)
    assert (np.abs(one[both] - other[both]) <= slack[both]).all()
    # Only entries at the threshold may be taken by one of the two.
    single = (one > -INF) != (other > -INF)
    threshold = np.minimum(numpy_of(rows)[:, :, None], numpy_of(cols)[:, None])
    assert (np.maximum(one, other)[single] - threshold[single] <= slack[single]).all()


def check_leaving(c, rng):
    costs, at = c.costs, c.at
    rows, cols = (on(at.f.device, rng.integers(0, 3, (3, size)), torch.int64) for size in (costs.n, costs.m))
    cols[0] = rows[0, 0]  # rows that nothing leaves
    found, col = ops.leaving(costs, at, rows, cols)
    within(found, base.leaving(costs, at, rows, cols)[0], c.exponents)
    named = torch.where(rows[:, :, None] == cols[:, None], -INF, at.log_plan(costs.block(*EVERY), *EVERY))
    within(found, named.gather(2, col[:, :, None])[:, :, 0], c.exponents)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_geometries(kind, device, rng):
    reduced, given = problem(rng, GEOMETRIES[kind](rng, 31, 21, device))
    for c in (reduced.T, given):
        check_sums(c)
        check_minima(c)
    check_select(given)
    check_products(reduced.T, rng, columns=(1,), powers=(1,))
    if kind in CLOUDS:
        check_gradient(reduced, rng)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["columns", "euclidean 3"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 37), (41, 1), (33, 65), (70, 130)])
def test_sizes(kind, n, m, device, rng):
    c, given = problem(rng, GEOMETRIES[kind](rng, n, m, device))
    check_sums(c)
    check_minima(given)
    check_select(c.T)
    check_leaving(c, rng)
    check_products(c, rng, columns=(3,), powers=(0,))


@pytest.mark.parametrize("kind", ["cityblock 3", "('power', 1.5) 3"])
def test_gradients_of_many_tiles(kind, device, rng):
    c, _ = problem(rng, CLOUDS[kind](rng, 33, 65, device))
    check_gradient(c.T, rng)


@pytest.mark.parametrize("relative", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("kind", ["rows", "euclidean 3"])
def test_regularisations(relative, kind, device, rng):
    c, _ = problem(rng, GEOMETRIES[kind](rng, 40, 30, device), relative)
    check_sums(c)
    check_select(c)
    check_products(c, rng, columns=(2,), powers=(1,))


@pytest.mark.parametrize("entries", [1, 12, 80])
@pytest.mark.parametrize("kind", ["rows", "('power', 1.5) 3", "cityblock 3"])
def test_slabs(entries, kind, device, monkeypatch, rng):
    """Some rows of an item, some items at once: nothing depends on how the work is cut."""
    monkeypatch.setattr(ops, "_SLAB", entries)
    c, _ = problem(rng, GEOMETRIES[kind](rng, 7, 5, device))
    check_products(c, rng, columns=(5,), powers=(0, 2))
    if kind in CLOUDS:
        check_gradient(c, rng)


def test_products_of_any_width(device, rng):
    c, _ = problem(rng, GEOMETRIES["rows"](rng, 33, 21, device))
    check_products(c, rng, columns=(0, 1, 2, 4, 5, 17))


OVERFLOWS = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter's NumPy tells


@OVERFLOWS
@pytest.mark.parametrize("precision", [MIXED, SINGLE, DOUBLE], ids=["mixed", "single", "double"])
@pytest.mark.parametrize("relative", [1e-4, 0.1, 100.0])
@pytest.mark.parametrize("kind", ["float32", "euclidean 3"])
def test_softmins_in_any_precision(kind, relative, precision, device, rng):
    """A guess within 34 e-folds of the answer is used: then the exponents of terms that matter are off by its 50 bits.

    In `SINGLE` they are off by their rounding before that.
    """
    c, _ = problem(rng, GEOMETRIES[kind](rng, 9, 65, device), relative)
    costs, at, reg = c.costs, c.at, numpy_of(c.at.reg)[:, None]
    wanted = base.softmin(costs, at.g, at.log_b, at.reg)
    double = reg * c.relative
    bounds = {DOUBLE: double, MIXED: double + 64 * U_SINGLE * reg, SINGLE: (double + 64 * U * reg) * U_SINGLE / U}
    for off in (None, 0, 30, -30, 40, -40, 1e6):
        guess = None if off is None else wanted + off * at.reg[:, None]
        found = ops.softmin(costs, at.g, at.log_b, at.reg, guess=guess, precision=precision)
        within(found, wanted, bounds[precision])


def test_rows_that_reach_no_mass(device):
    C = on(device, [[[1.0, INF], [INF, INF]]])
    g, log_b, reg = on(device, [[0.3, 0.1]]), on(device, [[-1.0, -INF]]), on(device, [0.5])
    for guess in (None, torch.zeros_like(g)):
        found = ops.softmin(Dense(C), g, log_b, reg, guess=guess)
        within(found, on(device, [[1.0 - 0.3 + 0.5, 0.0]]), 8 * U)
    assert_array_equal(numpy_of(ops.c_transform(Dense(C), g)), [[0.7, INF]])


@OVERFLOWS
def test_entries_over_the_largest_exponent(device, rng):
    """They are e^700, and infinite in single precision."""
    c, _ = problem(rng, GEOMETRIES["rows"](rng, 9, 7, device))
    at = replace(c.at, f=c.at.f + 1e3 * c.at.reg[:, None])
    wanted = base.plan(c.costs, at)
    assert float(wanted.max()) > 1e304
    within(ops.plan(c.costs, at), wanted, 1e-12 * numpy_of(wanted))
    within(ops.plan(c.costs, at, single=True), base.plan(c.costs, at, single=True), 0)


@pytest.mark.parametrize("bad", [float("nan"), -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_no_cost_is_found(bad, dtype, device):
    C = torch.full((2, 33, 65), INF, dtype=dtype, device=device)
    assert ops.are_costs(Dense(C))
    C[1, 32, 64] = bad
    assert not ops.are_costs(Dense(C))
    assert not ops.are_costs(Dense(C).T)


def test_selections_are_limited(device, rng):
    c, _ = problem(rng, GEOMETRIES["rows"](rng, 33, 65, device))
    least_a, least_b = (torch.full_like(v, -INF) for v in (c.at.log_a, c.at.log_b))
    every = ops.select(c.costs, c.at, least_a, least_b, INF)
    count = int((base.plan(c.costs, replace(c.at, reg=c.at.reg * 1e3)) > 0).sum())
    assert every.row.shape == (count,)
    assert ops.select(c.costs, c.at, least_a, least_b, count) is not None
    assert ops.select(c.costs, c.at, least_a, least_b, count - 1) is None
    none = ops.select(c.costs, c.at, least_a + INF, least_b + INF, 0)
    assert [v.shape for v in none] == 4 * [(0,)]


def test_an_entry_at_its_threshold_is_selected(device, rng):
    c, _ = problem(rng, GEOMETRIES["rows"](rng, 33, 65, device))
    least_a, least_b = (torch.full_like(v, -INF) for v in (c.at.log_a, c.at.log_b))
    every = ops.select(c.costs, c.at, least_a, least_b, INF)
    entries = torch.full((3, 33, 65), -INF, dtype=torch.float64, device=device)
    entries[every.item, every.row, every.col] = every.log_plan
    top = entries.amax(-1)
    found = ops.select(c.costs, c.at, top, torch.full_like(least_b, INF), INF)
    assert_array_equal(numpy_of(found.log_plan), numpy_of(top[top > -INF]))


def test_powers_of_distances_of_any_size(device):
    """The exponent of a number takes no digits from its power."""
    x = torch.as_tensor(np.logspace(-12, 12, 49), device=device)[None, :, None]
    cloud = PointCloud(x, torch.zeros_like(x[:, :1]), ("power", 1.5))
    wanted = x[:, :, 0] ** 1.5
    within(ops.c_transform(cloud, torch.zeros_like(x[:, :1, 0])), wanted, 8 * U * numpy_of(wanted))
