"""Launches that need no GPU: the sizes of their grids."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from otkit import Dense  # noqa: E402
from otkit.entropic.anderson import Mixing  # noqa: E402
from otkit.entropic.dual import Penalties, Potentials  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import launch, sweep  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402

# Maximum sizes of the axes of a grid.
MOST = 2**31 - 1, 65_535, 65_535


@pytest.fixture
def grids(monkeypatch):
    """The grids of launches, none of which is run, as on a GPU."""
    found = []
    for module in (launch, ops, sweep):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *args, **options: found.append(grid))
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    return found


@pytest.mark.parametrize("precision", [launch.SINGLE, launch.MIXED, launch.DOUBLE])
@pytest.mark.parametrize(("n", "items"), [(1, 2**20), (100, 100_000), (2**20, 1), (2**24, 4), (2**31, 1)])
def test_every_row_of_every_item_has_a_program(grids, precision, n, items):
    form = launch.shape(n, items, precision)
    grid = launch.programs(n, items, form)
    assert all(size <= most for size, most in zip(grid, MOST, strict=False))
    assert items * n <= grid[0] * form.rows < items * (n + form.rows)


def test_millions_of_rows_or_columns_and_many_items(grids):
    def full(*size):
        return torch.zeros(size, dtype=torch.float64)

    for items, n, m in ((1, 2**21 + 1, 1), (2**17, 5, 1)):
        given = Dense(torch.zeros((1, 1, 1), dtype=torch.float32).expand(items, n, m))
        for costs in (given, given.T):
            costs = Reduced(costs, full(items, costs.n), full(items, costs.m))
            one = full(items) + 1
            at = Potentials(costs.row, costs.col, costs.row, costs.col, one)
            ops.softmin(costs, at.g, at.g, at.reg)
            ops.c_transform(costs, at.g)
            ops.transport_cost(costs, at)
            ops.cost_range(costs, at.f == 0, at.g == 0)
            for precision in (launch.SINGLE, launch.MIXED, launch.DOUBLE):
                state = sweep._begin(costs, at, Penalties(one, one), Mixing.begin(at.g, one, 0), one, one)
                sweep._tiled(state, costs, items, precision)()
    assert len(grids) > 40
    assert all(size <= most for grid in grids for size, most in zip(grid, MOST, strict=False))
