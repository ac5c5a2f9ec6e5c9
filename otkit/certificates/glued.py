"""Bounds on grids: an entropic plan whose rows are exact, glued to a plan from its column sums to the weights.

The column sums c of the plan P are moved to the weights b axis by axis, each time in order (Knothe's map): Q(y, z).
The plan ``Σ_y P(x, y)·Q(y, z)/c(y)`` has both marginals. Of the squared distance its cost is

    ⟨C, P⟩ + Σ Q(y, z)·(2⟨x̃(y) − y, y − z⟩ + |y − z|²),    x̃(y) = Σ_x P(x, y)·x/c(y),

where the correction is of the order of the error times the gradient of the dual, and may be negative. Of other powers
Minkowski's inequality bounds it. Everything takes a few passes along the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otkit.certificates.base import Certificate, better, dual_bound, feasible, widened
from otkit.geometry.costs import UNIT
from otkit.geometry.grid import Grid
from otkit.kernels.cells import averaged, softmin, tables
from otkit.kernels.numba.grid import FAR
from otkit.kernels.numba.staircase import staircase
from otkit.plans import EntropicPlan, Glued, Shift
from otkit.problems.linear import LinearProblem

# The relative error of compiled exponentials and their sums along the axes.
_EXP = 1e-13


def certify_glued(problem: LinearProblem, g: np.ndarray, reg: np.ndarray) -> Certificate:
    """Bounds from potentials of the columns, regularised by ``reg (B,)``, and from their glued plan."""
    grid = problem.geometry.grid
    assert grid is not None
    # The rows are exact. Small potentials have small rounding errors.
    f, g = problem.centred(softmin(problem.reduced, g, problem.log_b, reg), g)
    absorbed = reg[:, None] * np.where(problem.b > 0, problem.log_b, 0.0)
    # The potentials of the unregularised problem are those of the entropic one and half of the absorbed weights, to
    # first order. Where they are flat, all of the weights is better.
    dual = better(problem, feasible(problem, g=g + absorbed / 2), feasible(problem, g=g + absorbed))
    glued = [_glued(grid, problem.take(np.array([k])), f[k], g[k], float(reg[k])) for k in range(problem.items)]
    at = problem.at(f, g, reg)
    plan = Glued(
        EntropicPlan(problem.reduced, at, problem.kernels), ((),) * problem.items, tuple(p.shifts for p in glued)
    )
    linear, defect = (np.array(v) for v in zip(*((p.cost, p.defect) for p in glued), strict=True))
    return widened(problem, dual_bound(problem, *dual), linear, defect, *dual, (plan,))


class _Item(NamedTuple):
    """The cost of the glued plan of an item, a bound on the defect of its marginals, and its moves."""

    cost: float
    defect: float
    shifts: tuple[Shift, ...]


def _glued(grid: Grid, part: LinearProblem, f: np.ndarray, g: np.ndarray, reg: float) -> _Item:
    columns = _Columns.of(grid, part, f, g, reg)
    b, axes = part.b[0].reshape(grid.shape), tuple(range(len(grid.shape)))
    moves = (_moved(columns, b, order) for order in dict.fromkeys((axes, axes[::-1])))
    added, sums, shifts = min(moves, key=lambda move: move[0])
    # The plan, its column sums and the means round exponents and leave out what is far, each in its own way. Costs of
    # pairs that are not left out are at most f + g + FAR·reg along each axis, and no potential in a pass is larger.
    size = abs(f[part.a[0] > 0]).max() + abs(g[part.b[0] > 0]).max() + b.ndim * FAR * reg
    error = 32 * UNIT * size / reg + _EXP + sum(grid.shape) * np.exp(-FAR)
    defect = float(abs(sums - b).sum()) + 12 * error + 64 * UNIT
    return _Item(float((columns.mass * columns.cost).sum()) + added, defect, shifts)


@dataclass(frozen=True)
class _Columns:
    """The column sums of a plan, and the means of the cost and of the coordinates of the rows for each column.

    ``spacing`` is that of each axis, and ``power`` that of the cost.
    """

    mass: np.ndarray
    cost: np.ndarray
    places: np.ndarray
    spacing: tuple[float, ...]
    power: float

    @staticmethod
    def of(grid: Grid, part: LinearProblem, f: np.ndarray, g: np.ndarray, reg: float) -> _Columns:
        """The columns of the plan of an item whose rows are exact."""
        axes, one = np.ix_(*(np.arange(n) * h for n, h in zip(grid.shape, grid.spacing, strict=True))), np.array([reg])
        squared = grid.power == 2
        channels = (
            [np.ones(grid.shape), *(np.broadcast_to(x, grid.shape) for x in axes)] if squared else [np.ones(grid.shape)]
        )
        x = np.zeros((1, len(channels), 2, *grid.shape))
        x[0, :, 0] = channels
        h = -(f + reg * part.log_a[0]).reshape(1, *grid.shape)
        soft, mean = averaged(h, x, tables(grid.shape, grid.spacing, grid.power), one)
        with np.errstate(over="ignore", under="ignore"):
            share = np.exp((g.reshape(grid.shape) - soft[0]) / reg)
        b = part.b[0].reshape(grid.shape)
        mass = b * np.where(b > 0, share, 0.0)
        return _Columns(mass / mass.sum(), mean[0, 0, 1], mean[0, 1:, 0], grid.spacing, grid.power)


def _moved(columns: _Columns, b: np.ndarray, order: tuple[int, ...]) -> tuple[float, np.ndarray, tuple[Shift, ...]]:
    """What moves along the axes in this order add to the cost; the sums that result; and the moves."""
    squared, paid = columns.power == 2, columns.cost * columns.mass
    # Mass, and mass times the mean place of its rows or times its cost, with the axes in order.
    carried = [columns.mass, *(columns.places * columns.mass)] if squared else [columns.mass]
    mass, *drawn = (np.ascontiguousarray(v.transpose(order)) for v in carried)
    wanted, added, shifts = b.transpose(order), 0.0, []
    cost = paid.transpose(order)
    for k, axis in enumerate(order):
        n, h, head = b.shape[axis], columns.spacing[axis], int(np.prod(wanted.shape[:k]))
        cells = (head * n, -1)  # the places along the axes so far, and all along the others
        matrix = _in_order(*(v.reshape(head, n, -1).sum(-1) for v in (mass, wanted)))
        source, target = matrix.tocoo().coords
        step = (source % n - target % n) * h
        if squared:
            total, pulled = (v.reshape(cells).sum(-1)[source] for v in (mass, drawn[axis]))
            added += float((matrix.data * step * (2 * (pulled - (source % n) * h * total) + step * total)).sum())
        else:
            cost = _stretched(cost.reshape(cells), mass.reshape(cells), matrix, step, columns.power).reshape(
                wanted.shape
            )
        back = matrix.T.tocsr()
        mass, *drawn = (np.asarray(back @ v.reshape(cells)).reshape(v.shape) for v in (mass, *drawn))
        shifts.append(Shift(matrix, b.shape, order))
    if not squared:
        added = float(cost.sum() - paid.sum())
    return added, mass.transpose(np.argsort(order)), tuple(shifts)


def _in_order(c: np.ndarray, b: np.ndarray) -> Any:
    """The moves of weights ``c (R, n)`` to ``b (R, n)`` in order in each row, as a matrix whose rows sum to 1."""
    from scipy.sparse import csr_array

    (lines, n), size = c.shape, c.size
    rows, cols, mass, _ = staircase(c, b)
    first = np.arange(lines)[:, None] * n
    source, target, mass = ((v[mass > 0]) for v in (rows + first, cols + first, mass))
    sent = np.bincount(source, mass, size)
    left = np.flatnonzero(sent == 0)  # nothing, or what rounding has left
    source, target, share = (
        np.concatenate(v) for v in ((source, left), (target, left), (mass / sent[source], np.ones(left.size)))
    )
    return csr_array((share, (source, target)), shape=(size, size))


def _stretched(cost: np.ndarray, mass: np.ndarray, matrix: Any, step: np.ndarray, power: float) -> np.ndarray:
    """A bound on mass times cost ``(K, width)`` after moves by `step`, by Minkowski's inequality."""
    from scipy.sparse import csr_array

    root = np.where(mass > 0, cost / np.where(mass > 0, mass, 1.0), 0.0) ** (1 / power)
    source, target = matrix.tocoo().coords
    moved = matrix.data[:, None] * mass[source] * (root[source] + abs(step)[:, None]) ** power
    onto = csr_array((np.ones(target.size), (target, np.arange(target.size))), shape=(len(mass), target.size))
    return np.asarray(onto @ moved)
