"""The compiled operations against their references: on every kind of cost, at every regularisation, in every form.

Bounds follow from rounding. An exponent (f + g − C)/reg + log a + log b is off by a few units of its largest term,
hence its exponential by as much relative to itself, besides the 2e-14 of the compiled exp; sums of positive terms are
no worse than their terms. 16u·(largest potential or cost/reg + largest |log weight|) covers both versions together.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from checks import torch
from forms import few_kept, in_groups, nothing_kept
from numpy.testing import assert_allclose, assert_array_equal
from strategies import METRICS, hard_cases

import otkit
from otkit import Dense, PointCloud
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry.reduced import Reduced
from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA, tiles

U = 2.0**-53
EXP = 4e-14  # twice the error of the compiled exp
INF = np.inf


def chebyshev(x, y):
    return abs(x[..., :, None, :] - y[..., None, :, :]).max(-1)


def name_of(metric):
    return getattr(metric, "__name__", str(metric))


def matrix(rng, batch, n, m):
    C = rng.random((*batch, n, m))
    C[rng.random(C.shape) < 0.1] = INF
    C[..., 0, :] = rng.random(m)
    C[..., :, 0] = rng.random(n)
    return C


DENSE = {
    "float64": lambda C: C,
    "float32": lambda C: C.astype(np.float32),
    "transposed": lambda C: np.ascontiguousarray(np.swapaxes(C, -1, -2)).swapaxes(-1, -2),
    "integers": lambda C: np.where(np.isfinite(C), 9 * C, 20).astype(np.int32),
    "strided": lambda C: np.repeat(C, 2, axis=-1)[..., ::2],
}


@dataclass(frozen=True)
class Case:
    """Reduced costs, and a point where the rows of the plan are nearly exact."""

    costs: Reduced
    at: Potentials
    a: np.ndarray
    b: np.ndarray
    span: float

    @property
    def exponents(self):
        """A bound on the rounding of log P, for each item."""
        at, C = self.at, self.costs.base
        whole = C.block(slice(None), slice(None))
        size = np.abs(whole[np.isfinite(whole)]).max() + sum(abs(v).max() for v in (self.costs.row, self.costs.col))
        logs = sum(abs(v[np.isfinite(v)]).max() for v in (at.log_a, at.log_b))
        return 16 * U * ((size + abs(at.f).max() + abs(at.g).max()) / at.reg + logs)

    @property
    def relative(self):
        """A bound on the relative rounding of an entry of the plan, and of sums of them."""
        return self.exponents + EXP + 4 * U * np.sqrt(self.costs.n + self.costs.m)


def case(geometry, items=1, relative=0.1, seed=0, holes=True):
    rng = np.random.default_rng(seed)
    flat = geometry.flat((items,))
    n, m = flat.n, flat.m
    a, b = rng.dirichlet(np.ones(n), items), rng.dirichlet(np.ones(m), items)
    if holes and min(n, m) > 3:
        a[:, 2] = b[-1, 3] = 0
    a, b = (w / w.sum(1, keepdims=True) for w in (a, b))
    reduction = REFERENCE.cost_range(flat, a > 0, b > 0)
    costs = Reduced(flat, reduction.row, reduction.col)
    span = float(reduction.span.max()) or 1.0
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    reg = relative * span * np.linspace(1, 2, items)
    g = 0.1 * span * rng.standard_normal((items, m))
    f = REFERENCE.softmin(costs, g, log_b, reg)
    return Case(costs, Potentials(f, g, log_a, log_b, reg), a, b, span)


def both(name, *args, **kwargs):
    """The answers of the compiled operation and of the reference."""
    return [getattr(table, name)(*args, **kwargs) for table in (NUMBA, REFERENCE)]


def within(found, wanted, relative, absolute=0.0):
    """|found − wanted| ≤ relative·|wanted| + absolute, with bounds ``(B,)``, and infinities in the same places."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert found.shape == wanted.shape
    finite = np.isfinite(wanted)
    assert_array_equal(found[~finite], wanted[~finite])
    spread = (-1, *(1 for _ in wanted.shape[1:]))
    bound = np.reshape(relative, spread) * abs(np.where(finite, wanted, 0)) + np.reshape(absolute, spread)
    miss = abs(np.where(finite, found, 0) - np.where(finite, wanted, 0))
    assert (miss <= bound).all(), (
        f"off by {(miss - bound).max():.3g} more than {bound.flat[(miss - bound).argmax()]:.3g}"
    )


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


SIZES = [(1, 1), (1, 37), (41, 1), (2, 3), (33, 65), (64, 31)]


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


# Sweeps


def swept(c, table, count, penalties=None, window=0, tol=-1e-14):
    items = c.at.reg.size
    penalties = penalties or Penalties(np.full(items, INF), np.full(items, INF))
    start = Mixing.begin(c.at.g, np.full(items, c.span), window)
    return table.sweep(c.costs, c.at, penalties, start, np.full(items, tol), np.full(items, float(count)), count)


def same_sweeps(one, other, c, count, extra=0.0):
    """Iterations do not magnify errors of the potentials, and each of them adds that of two softmins."""
    slack = 2 * count * c.at.reg * (c.relative + extra)
    used_a, used_b = c.a > 0, c.b > 0
    assert_array_equal(one.count, other.count)
    for name, used in (("f", used_a), ("g", used_b), ("point", used_b)):
        found, wanted = (np.where(used, getattr(s, name), 0) for s in (one, other))
        within(found, wanted, 0, slack)
    within(one.error, other.error, 0, 4 * slack / c.at.reg)


FORMS = ["small", "large", "large, few kept", "large, nothing kept"]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """All entries kept, on one thread; in groups of rows; those that matter; in the log domain throughout."""
    if request.param != "small":
        in_groups(monkeypatch, 8, tile=100)
    if request.param == "large, few kept":
        few_kept(monkeypatch)
    if request.param == "large, nothing kept":
        nothing_kept(monkeypatch)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("relative", [1e-6, 1e-3, 0.05, 1.0, 1e3])
@pytest.mark.parametrize("kind", [*DENSE, "cloud", "callable"])
def test_sweeps(kind, relative, rng):
    metric = chebyshev if kind == "callable" else "euclidean"
    cloud = PointCloud(rng.random((2, 33, 3)), rng.random((21, 3)), metric)
    geometry = Dense(DENSE[kind](matrix(rng, (2,), 33, 21))) if kind in DENSE else cloud
    c = case(geometry, items=2, relative=relative)
    for count in (1, 2, 9):
        same_sweeps(*(swept(c, table, count) for table in (NUMBA, REFERENCE)), c, count)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_sweeps_of_all_shapes(n, m, rng):
    c = case(Dense(matrix(rng, (), n, m)), items=3)
    same_sweeps(*(swept(c, table, 5) for table in (NUMBA, REFERENCE)), c, 5)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("shifts", [False, True])
def test_unbalanced_sweeps(shifts, rng):
    rho_a, rho_b = np.array([INF, 1.0, 0.0, 0.01, 50.0]), np.array([2.0, INF, 0.3, 0.1, 50.0])
    c = case(Dense(matrix(rng, (), 33, 21)), items=5)
    held = Penalties(rho_a, rho_b, shifts)
    same_sweeps(*(swept(c, table, 6, held) for table in (NUMBA, REFERENCE)), c, 6, extra=1e-13)


def test_large_sweeps(rng):
    for geometry in (Dense(matrix(rng, (), 900, 640)), PointCloud(rng.random((900, 2)), rng.random((640, 2)))):
        c = case(geometry, relative=0.05)
        same_sweeps(*(swept(c, table, 4) for table in (NUMBA, REFERENCE)), c, 4)


@pytest.mark.parametrize("relative", [1e-3, 0.05, 1.0])
def test_sweeps_on_a_kernel_kept_in_single_precision(relative, monkeypatch, rng):
    in_groups(monkeypatch, 8)
    c = case(Dense(matrix(rng, (), 40, 30)), items=2, relative=relative)
    one, other = (swept(c, table, 9, tol=1e-5) for table in (NUMBA, REFERENCE))
    # Entries e^−x are rounded by 2⁻²⁴ of themselves and of x, and with them their sums. Beyond 87 they are 0.
    furthest = min(87, 2 / relative + 10)
    same_sweeps(one, other, c, 9, extra=(1 + furthest) * 2.0**-24)


@pytest.mark.usefixtures("form")
def test_accelerated_sweeps_reach_the_same_point(rng):
    c = case(Dense(matrix(rng, (), 33, 21)), items=3, relative=0.02)
    one, other = (swept(c, table, 500, window=20, tol=1e-11) for table in (NUMBA, REFERENCE))
    for s in (one, other):
        assert (s.error <= 1e-11).all()
        assert (s.count < 300).all()
    plans = [REFERENCE.plan(c.costs, Potentials(s.f, s.g, c.at.log_a, c.at.log_b, c.at.reg)) for s in (one, other)]
    assert_allclose(*plans, atol=1e-8)


@pytest.mark.usefixtures("form")
def test_columns_whose_sums_underflow_on_the_way(rng):
    # Weights over 300 orders, and a start from which whole columns are next to nothing.
    b = 10.0 ** -np.linspace(0, 300, 21)
    c = case(Dense(rng.random((1, 33, 21))), relative=1e-3, holes=False)
    at = Potentials(c.at.f, 50 * c.span * rng.standard_normal((1, 21)), c.at.log_a, np.log(b / b.sum())[None], c.at.reg)
    c = Case(c.costs, at, c.a, (b / b.sum())[None], c.span)
    one, other = (swept(c, table, 3) for table in (NUMBA, REFERENCE))
    for name in ("f", "g", "point"):
        assert np.isfinite(getattr(one, name)).all()
    within(one.point, other.point, 0, 6 * c.at.reg * (c.relative + c.exponents))


# Whole problems


def test_the_result_says_what_ran(monkeypatch, rng):
    import array_api_strict

    x, y = rng.random((6, 2)), rng.random((5, 2))
    C = abs(x[:, None] - y).sum(-1)
    tensor = torch.from_numpy(C)
    assert otkit.solve(C, reg=0.1).kernel == "numba (numpy)"
    assert otkit.solve_sample(x, y, reg=0.1).kernel == "numba (numpy)"
    assert otkit.solve(C, rtol=0.1).kernel == "numba (numpy)"
    assert otkit.solve(tensor, reg=0.1).kernel == "numba (torch)"
    assert otkit.solve(array_api_strict.asarray(C), reg=0.1).kernel == "reference (array_api_strict)"
    assert otkit.solve_sample(x, y, metric=chebyshev, reg=0.1).kernel == "numba (numpy)"
    points = torch.from_numpy(x), torch.from_numpy(y)
    assert otkit.solve_sample(*points, reg=0.1).kernel == "numba (torch)"
    assert otkit.solve_sample(*points, metric=torch.cdist, reg=0.1).kernel == "reference (torch)"
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    assert otkit.solve(C, reg=0.1).kernel == "reference (numpy)"
    assert otkit.solve(tensor, reg=0.1).kernel == "reference (torch)"


@pytest.mark.parametrize("chosen", ["fast", "Numba", ""])
def test_other_kernels_are_refused(chosen, monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", chosen)
    with pytest.raises(ValueError, match="OTKIT_KERNELS must be 'auto', 'numba', 'triton' or 'reference'"):
        otkit.solve([[0.0, 1.0]], reg=1.0)


def test_tensors_of_the_host_need_the_interpreter(monkeypatch):
    monkeypatch.setenv("OTKIT_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert otkit.solve([[0.0, 1.0]], reg=1.0).kernel == "numba (numpy)"
    with pytest.raises(ValueError, match="which TRITON_INTERPRET=1 must ask for"):
        otkit.solve(torch.zeros(2, 3), reg=1.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tensors_in_the_memory_of_the_host_are_not_copied(dtype):
    C = torch.rand(40, 30, dtype=getattr(torch, dtype))
    result = otkit.solve(C, reg=0.1)
    assert np.shares_memory(result.problem.geometry.C, C.numpy())
    assert result.f.dtype == C.dtype
    x, y = torch.rand(40, 3, dtype=torch.float64), torch.rand(30, 3, dtype=torch.float64)
    cloud = otkit.solve_sample(x, y, reg=0.1).problem.geometry
    assert np.shares_memory(cloud.x, x.numpy())
    assert np.shares_memory(cloud.y, y.numpy())


def test_a_metric_is_called_with_arrays_of_the_caller(rng):
    seen = set()

    def metric(x, y):
        seen.add(type(x))
        return abs(x[:, :, None] - y[:, None]).sum(-1)

    x, y = rng.random((6, 2)), rng.random((5, 2))
    wanted = otkit.solve_sample(x, y, metric=metric, reg=0.1)
    found = otkit.solve_sample(torch.from_numpy(x), torch.from_numpy(y), metric=metric, reg=0.1)
    assert seen == {np.ndarray, torch.Tensor}
    assert_allclose(found.plan.numpy(), wanted.plan, atol=1e-9)


@pytest.mark.parametrize("name", hard_cases())
def test_the_reference_gives_the_same_answers(name, monkeypatch):
    problem, tol = hard_cases()[name], 1e-8
    options = dict(reg=1e-2 * problem.span, tol=tol)
    monkeypatch.setenv("OTKIT_KERNELS", "numba")
    found = otkit.solve(problem.C, problem.a, problem.b, **options)
    plan = found.plan
    value, linear = float(found.value_dual), float(found.value_linear)
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    wanted = otkit.solve(problem.C, problem.a, problem.b, **options)
    assert found.status is wanted.status
    size = problem.span + 1e-4 * abs(problem.C[np.isfinite(problem.C)]).max()
    assert value == pytest.approx(float(wanted.value_dual), abs=10 * tol * size)
    # Two plans whose marginals are met to tol differ by that times the condition of the problem.
    assert linear == pytest.approx(float(wanted.value_linear), abs=1e3 * tol * size)
    assert abs(plan - wanted.plan).sum() <= 1e4 * tol


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
