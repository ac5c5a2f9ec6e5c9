"""The operations on grids against their references, which form the costs of all pairs of cells."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from parity import INF, case, close, within

import otkit
from otkit import Grid
from otkit.kernels import REFERENCE
from otkit.kernels.cells import CELLS, tables, transformed

GRIDS = [
    Grid((9,), 0.5, "cityblock"),
    Grid((7, 6), (1.0, 0.3)),
    Grid((11, 1), 2.0, ("axiswise", 1.5)),
    Grid((3, 4, 5), (1.0, 2.0, 0.5), ("axiswise", 3)),
    Grid((1, 1)),
    Grid((40, 25), 1e-3),
]


@pytest.fixture(params=range(len(GRIDS)), ids=lambda k: str(GRIDS[k].shape))
def grid(request):
    return GRIDS[request.param]


@pytest.mark.parametrize("relative", [1e-3, 0.05, 3.0])
def test_operations_agree_with_the_reference(grid, relative, rng):
    c = case(grid, items=2, relative=relative)
    for costs, at in ((c.costs, c.at), (c.costs.T, c.at.T), (c.costs.base, c.at)):
        args = costs, at.g, at.log_b, at.reg
        within(CELLS.softmin(*args), REFERENCE.softmin(*args), 0, c.at.reg * c.relative)
        log_b = np.where(np.arange(costs.m) % 3 == 0, at.log_b, -INF)  # long gaps
        args = costs, at.g, log_b, at.reg
        within(CELLS.softmin(*args), REFERENCE.softmin(*args), 0, c.at.reg * c.relative)
        g = np.where(log_b > -INF, at.g, -INF)
        within(CELLS.c_transform(costs, g), REFERENCE.c_transform(costs, g), 0, c.unit)
    mass = REFERENCE.plan(c.costs, c.at).sum((1, 2))
    for one, other in zip(CELLS.transport_cost(c.costs, c.at), REFERENCE.transport_cost(c.costs, c.at), strict=True):
        within(one, other, c.relative, 1e-300 + (c.unit * mass if one.ndim == 1 else 0))
    for one, other in zip(CELLS.marginals(c.costs, c.at), REFERENCE.marginals(c.costs, c.at), strict=True):
        within(one, other, c.relative, 1e-300)


def test_products_with_powers_of_the_costs_agree_with_the_reference(grid, rng):
    c = case(grid, items=2)
    for costs, at in ((c.costs, c.at), (c.costs.T, c.at.T)):
        v = rng.standard_normal((2, costs.m, 3))
        P, C = REFERENCE.plan(costs, at), costs.block(slice(None), slice(None))
        for power in (0, 1, 2):
            terms = c.relative[:, None, None] * P * (abs(C) + c.unit) ** power + P * c.unit * power * abs(C)
            bound = terms @ abs(v) + 1e-300
            close(CELLS.apply_plan(costs, at, v, power), REFERENCE.apply_plan(costs, at, v, power), 8 * bound)


def test_cost_range_contains_all_costs(grid, rng):
    flat = grid.flat((3,))
    has_a, has_b = rng.random((2, 3, grid.n)) < 0.3
    has_a[:, 0] = has_b[:, -1] = True
    found, wanted = (table.cost_range(flat, has_a, has_b) for table in (CELLS, REFERENCE))
    assert (found.low <= wanted.low).all()
    assert (found.high >= wanted.high * (1 - 1e-14)).all()
    assert (found.high <= flat.block(slice(None), slice(None)).max() * (1 + 1e-14)).all()
    assert not found.row.any()
    assert not found.col.any()
    assert not found.forbidden.any()


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
def test_soft_minima_at_the_cells_of_a_grid_of_half_the_spacing(power, rng):
    shape, spacing, reg = (6, 5), (1.0, 0.7), np.array([0.4])
    h = rng.standard_normal((1, *shape))
    h[0, 2] = INF
    found = transformed(h, tables(shape, spacing, power, (2, 2)), reg)
    assert found.shape == (1, 12, 10)
    fine = [(np.arange(2 * n) + 0.5) / 2 - 0.5 for n in shape]
    costs = [abs(s * (q[:, None] - np.arange(n))) ** power for q, n, s in zip(fine, shape, spacing, strict=True)]
    C = costs[0][:, None, :, None] + costs[1][None, :, None, :]
    wanted = -reg * np.log(np.exp(-(C + h[0]) / reg).sum((2, 3)))
    assert_allclose(found[0], wanted, rtol=0, atol=1e-13)
    assert_allclose(transformed(h, tables(shape, spacing, power, (2, 2)), None)[0], (C + h[0]).min((2, 3)), atol=1e-13)


def test_the_number_of_threads_does_not_matter(monkeypatch, rng):
    a, b = rng.random((2, 128, 100))
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        result = otkit.solve_grid(a, b * a.sum() / b.sum(), reg=0.5, tol=1e-2)
        found.append((result.f, result.value))
    assert (found[0][0] == found[1][0]).all()
    assert found[0][1] == found[1][1]
