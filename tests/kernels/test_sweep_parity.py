"""The compiled iterations against the reference, iteration by iteration: their bounds are those of `parity`."""

import numpy as np
import pytest
from forms import few_kept, in_groups, nothing_kept
from numpy.testing import assert_allclose
from parity import DENSE, INF, SIZES, Case, case, chebyshev, matrix, same_sweeps, swept, within

from otkit import Dense, PointCloud
from otkit.entropic.dual import Penalties, Potentials
from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA

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
