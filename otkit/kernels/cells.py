"""Operations on a grid, by compiled passes along each of its axes.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`. As the costs are sums
over the axes, so are sums over the plan: what a pass finds for one axis is the potential, or the mean, of the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from otkit.arrays import exp, finite_or_zero
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import CostRange, Moved
from otkit.entropic.sinkhorn import Swept, sweep_by
from otkit.geometry.base import Geometry
from otkit.geometry.grid import Grid
from otkit.geometry.reduced import Reduced
from otkit.kernels import threads
from otkit.kernels.numba import NUMBA
from otkit.kernels.numba import grid as passes
from otkit.kernels.table import REFERENCE, Kernels

# Number of lines that a thread takes at a time, and the time of a cell of a pass in exponentials.
_LINES, _CELL = 16, 16

Tables = Sequence[np.ndarray]


def tables(shape: Sequence[int], spacing: Sequence[float], power: float, phases: Sequence[int] = ()) -> Tables:
    """The costs of each axis, as `otkit.kernels.numba.grid` reads them.

    With two `phases` along an axis, its rows are the cells of a grid of half the spacing.
    """
    found = []
    for n, h, count in zip(shape, spacing, phases or [1] * len(shape), strict=True):
        places = np.arange(1 - n - passes.BLOCK, n + passes.BLOCK)
        fractions = (np.arange(count)[:, None] + 0.5) / count - 0.5
        found.append(abs(h * (places - fractions)) ** power)
    return found


def _grid(geometry: Geometry) -> tuple[Grid, Tables]:
    assert geometry.grid is not None
    return geometry.grid, tables(geometry.grid.shape, geometry.grid.spacing, geometry.grid.power)


def _lines(items: int, count: int, rows: int, work: Callable[[int, slice], None]) -> None:
    """Call ``work(item, lines)`` for all lines, in threads."""
    parts = [(k, slice(first, min(first + _LINES, count))) for k in range(items) for first in range(0, count, _LINES)]
    threads.each(lambda part: work(*part), parts, items * count * rows * _CELL)


def transformed(h: np.ndarray, costs: Tables, reg: np.ndarray | None) -> np.ndarray:
    """The soft minimum of ``C_ij + h_j`` at every cell, the minimum itself without `reg`: ``(B, *rows)``.

    ``h (B, *columns)`` is infinite where a column is left out.
    """
    for table in reversed(costs):
        items, rest, n = h.shape[0], h.shape[1:-1], h.shape[-1]
        rows = n * table.shape[0]
        lines, out = h.reshape(items, -1, n), np.empty((items, rows, math.prod(rest)))

        def work(k: int, part: slice, lines=lines, out=out, table=table) -> None:  # type: ignore[no-untyped-def]
            if reg is None:
                passes.minima(lines[k, part], part.start, table, out[k])
            else:
                passes.softmin(lines[k, part], part.start, table, reg[k], out[k])

        _lines(items, lines.shape[1], rows, work)
        h = out.reshape(items, rows, *rest)
    return h


def averaged(h: np.ndarray, x: np.ndarray, costs: Tables, reg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`transformed`, and the means under its weights of ``C^q·v``: ``(B, channels, orders, *rows)``.

    ``x (B, channels, orders, *columns)`` has the values v in its first order, and zeros in the others.
    """
    for table in reversed(costs):
        items, rest, n = h.shape[0], h.shape[1:-1], h.shape[-1]
        rows, head = n * table.shape[0], x.shape[1:3]
        lines, values = h.reshape(items, -1, n), x.reshape(items, *head, -1, n)
        out, mean = np.empty((items, rows, lines.shape[1])), np.empty((items, *head, rows, lines.shape[1]))

        def work(k: int, part: slice, lines=lines, values=values, out=out, mean=mean, table=table) -> None:  # type: ignore[no-untyped-def]
            passes.means(lines[k, part], values[k, :, :, part], part.start, table, reg[k], out[k], mean[k])

        _lines(items, lines.shape[1], rows, work)
        h, x = out.reshape(items, rows, *rest), mean.reshape(items, *head, rows, *rest)
    return h, x


def _raised(geometry: Geometry, g: np.ndarray) -> tuple[Grid, Tables, np.ndarray, np.ndarray]:
    """The grid, its costs, ``C_ij − g_j`` less the costs of the grid, and the offsets of the rows."""
    grid, costs = _grid(geometry)
    row, col = (np.zeros((1, 1)), np.zeros((1, 1))) if geometry.offsets is None else geometry.offsets[:2]
    return grid, costs, (-g - col).reshape(g.shape[0], *grid.shape), row


def softmin(geometry: Geometry, g: np.ndarray, log_b: np.ndarray, reg: np.ndarray) -> np.ndarray:
    _, costs, h, row = _raised(geometry, g + reg[:, None] * log_b)
    return finite_or_zero(transformed(h, costs, reg).reshape(g.shape) - row)


def c_transform(geometry: Geometry, g: np.ndarray) -> np.ndarray:
    _, costs, h, row = _raised(geometry, g)
    return transformed(h, costs, None).reshape(g.shape) - row


def sweep(
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: np.ndarray,
    limit: np.ndarray,
    k: int,
    listed: np.ndarray | None = None,
) -> Swept:
    return sweep_by(softmin, costs, start, penalties, mixing, tol, limit, k)


def _mass(f: np.ndarray, log_a: np.ndarray, soft: np.ndarray, reg: np.ndarray) -> np.ndarray:
    """The row sums of a plan whose potentials `soft` would make them the weights."""
    return exp((f - soft) / reg[:, None] + log_a)


def marginals(geometry: Geometry, at: Potentials) -> tuple[np.ndarray, np.ndarray]:
    row = _mass(at.f, at.log_a, softmin(geometry, at.g, at.log_b, at.reg), at.reg)
    return row, _mass(at.g, at.log_b, softmin(geometry.T, at.f, at.log_a, at.reg), at.reg)


def _conditional(geometry: Geometry, at: Potentials, v: np.ndarray, power: int) -> tuple[np.ndarray, np.ndarray]:
    """The row sums ``(B, n)``, and the means of ``C^power·v_j`` in the plan of each row, for ``v (B, m, k)``."""
    grid, costs, h, row = _raised(geometry, at.g + at.reg[:, None] * at.log_b)
    _, _, col, _ = _raised(geometry, np.zeros_like(at.g))
    channels = np.moveaxis(v, -1, 1).reshape(v.shape[0], v.shape[-1], 1, *grid.shape)
    orders = [channels * col[:, None, None] ** q for q in range(power + 1)]
    soft, mean = averaged(h, np.concatenate(orders, axis=2), costs, at.reg)
    total, shape = 0.0, (v.shape[0], v.shape[-1], -1)
    for q in range(power + 1):
        total = total + math.comb(power, q) * (-row[:, None, :]) ** (power - q) * mean[:, :, q].reshape(shape)
    mass = _mass(at.f, at.log_a, finite_or_zero(soft.reshape(at.f.shape) - row), at.reg)
    return mass, np.moveaxis(cast(np.ndarray, total), 1, -1)


def apply_plan(geometry: Geometry, at: Potentials, v: np.ndarray, power: int = 0) -> np.ndarray:
    mass, mean = _conditional(geometry, at, v, power)
    return mass[:, :, None] * mean


def transport_cost(geometry: Geometry, at: Potentials) -> Moved:
    mass, mean = _conditional(geometry, at, np.ones((*at.g.shape, 1)), 1)
    col = _mass(at.g, at.log_b, softmin(geometry.T, at.f, at.log_a, at.reg), at.reg)
    return Moved((mass * mean[:, :, 0]).sum(-1), mass, col)


def are_costs(geometry: Geometry) -> bool:
    return True


def cost_range(geometry: Geometry, has_a: np.ndarray, has_b: np.ndarray) -> CostRange:
    """The range between the boxes of the cells with mass, which may exceed the costs. Costs are not reduced."""
    grid, _ = _grid(geometry)
    boxes = [_box(has.reshape(has.shape[0], *grid.shape)) for has in (has_a, has_b)]
    (low_a, high_a), (low_b, high_b) = boxes
    furthest = np.maximum(high_b - low_a, high_a - low_b) * np.asarray(grid.spacing)
    span = (furthest**grid.power).sum(-1)
    nothing = np.zeros(has_a.shape[0])
    return CostRange(
        row=np.zeros(has_a.shape),
        col=np.zeros(has_b.shape),
        span=span,
        low=nothing,
        high=span,
        forbidden=nothing > 0,
        reach_a=has_a,
        reach_b=has_b,
    )


def _box(has: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last place with mass along each axis, ``(B, d)``."""
    ends = []
    for k in range(1, has.ndim):
        along = np.asarray(has.any(axis=tuple(j for j in range(1, has.ndim) if j != k)))
        ends.append((along.argmax(-1), along.shape[-1] - 1 - along[:, ::-1].argmax(-1)))
    low, high = (np.stack(end, axis=-1) for end in zip(*ends, strict=True))
    return low, high


CELLS: Kernels = replace(
    REFERENCE,
    name="grid",
    home="otkit.kernels.cells:CELLS",
    softmin=softmin,
    sweep=sweep,
    marginals=marginals,
    transport_cost=transport_cost,
    apply_plan=apply_plan,
    c_transform=c_transform,
    are_costs=are_costs,
    cost_range=cost_range,
    sparsified=NUMBA.sparsified,
    conjugate_gradients=NUMBA.conjugate_gradients,
)
