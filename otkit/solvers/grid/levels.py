"""The grids of a descent from coarse to fine, and what moves between them.

A coarser grid has cells of twice the side, along every axis that is long enough. Its masses are sums, its potentials
continue to the finer grid by a soft minimum at the places of the finer cells. Sweeps hardly reduce marginal errors of
long waves. These are corrected on coarser grids (a full approximation scheme, Brandt 1977): the response of the sums to
a change of the potentials does not depend on the regularisation for waves longer than its square root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from otkit.arrays import log
from otkit.geometry.grid import Grid
from otkit.kernels.cells import Tables, tables, transformed

# Axes of at most this many cells are not made coarser.
_COARSEST = 16
# Sums of the columns are asked for down to these fractions of what they are or of the weights.
_LEAST, _FLOOR = 0.01, 1e-3
# Over-relaxation of sweeps, also of those that correct a finer grid. The first step, and those that follow a rise of
# the error, are plain.
_OVER, _OVER_CORRECTION = 1.5, 1.3
# Number of sweeps of a correction, and on the coarsest grid.
SWEEPS, _COARSE_SWEEPS = 3, 30


@dataclass(frozen=True)
class Level:
    """A grid of the descent, ``shape``, with the masses of both sides and the logarithms of those of the columns.

    ``costs`` are those between its cells, ``finer`` those between the cells of the next finer grid, as rows, and its
    own. ``doubled`` says along which axes the cells of the finer grid are half as long.
    """

    a: np.ndarray
    b: np.ndarray
    log_a: np.ndarray
    log_b: np.ndarray
    spacing: tuple[float, ...]
    power: float
    costs: Tables
    finer: Tables
    doubled: tuple[bool, ...]

    @staticmethod
    def of(a: np.ndarray, b: np.ndarray, spacing: Sequence[float], power: float, doubled: Sequence[bool]) -> Level:
        """The level of these masses."""
        phases = [1 + twice for twice in doubled]
        return Level(
            a=a,
            b=b,
            log_a=log(a),
            log_b=log(b),
            spacing=tuple(spacing),
            power=power,
            costs=tables(a.shape, spacing, power),
            finer=tables(a.shape, spacing, power, phases),
            doubled=tuple(doubled),
        )

    @property
    def neighbours(self) -> float:
        """The mean cost between neighbours along the axes that have some."""
        steps = [h**self.power for h, n in zip(self.spacing, self.b.shape, strict=True) if n > 1]
        return float(np.mean(steps or [1.0]))

    def rows(self, g: np.ndarray, reg: float) -> np.ndarray:
        """The potential of the rows that makes them exact."""
        return transformed(-(g + reg * self.log_b)[None], self.costs, np.array([reg]))[0]

    def columns(self, f: np.ndarray, reg: float) -> np.ndarray:
        """The potential of the columns that makes them exact."""
        return transformed(-(f + reg * self.log_a)[None], self.costs, np.array([reg]))[0]

    def on_finer(self, f: np.ndarray, reg: float, shape: tuple[int, ...]) -> np.ndarray:
        """The potential of the columns of the next finer grid."""
        fine = transformed(-(f + reg * self.log_a)[None], self.finer, np.array([reg]))[0]
        return fine[tuple(slice(n) for n in shape)]


def levels_of(grid: Grid, a: np.ndarray, b: np.ndarray) -> tuple[Level, ...]:
    """The grids of a descent, the finest first, for masses ``a, b (n,)``."""
    a, b, spacing = a.reshape(grid.shape), b.reshape(grid.shape), grid.spacing
    found = [Level.of(a, b, spacing, grid.power, [False] * a.ndim)]
    while any(doubled(a.shape)):
        axes = doubled(a.shape)
        a, b = (summed(w, axes) for w in (a, b))
        spacing = tuple(h * (1 + twice) for h, twice in zip(spacing, axes, strict=True))
        found.append(Level.of(a, b, spacing, grid.power, axes))
    return tuple(found)


def doubled(shape: Sequence[int]) -> tuple[bool, ...]:
    """Along which axes the cells of the next coarser grid are twice as long."""
    return tuple(n > _COARSEST for n in shape)


def summed(w: np.ndarray, axes: Sequence[bool]) -> np.ndarray:
    """Sums over the cells of the next coarser grid."""
    for axis, twice in enumerate(axes):
        if twice:
            starts = np.arange(0, w.shape[axis], 2)
            w = np.add.reduceat(w, starts, axis=axis)
    return w


def interpolated(c: np.ndarray, axes: Sequence[bool], shape: Sequence[int]) -> np.ndarray:
    """Linear interpolation between the centres of cells, at those of the next finer grid."""
    for axis, (twice, n) in enumerate(zip(axes, shape, strict=True)):
        if twice:
            c = np.moveaxis(c, axis, 0)
            out = np.empty((2 * len(c), *c.shape[1:]))
            out[0::2] = 0.75 * c + 0.25 * np.concatenate([c[:1], c[:-1]])
            out[1::2] = 0.75 * c + 0.25 * np.concatenate([c[1:], c[-1:]])
            c = np.moveaxis(out[:n], 0, axis)
    return c


class Swept(NamedTuple):
    """Potentials after some sweeps: the rows of f and g are exact, and the sums of their columns are `sums`.

    ``error`` is the L1 distance of these from what they should be, ``done`` the number of sweeps.
    """

    f: np.ndarray
    g: np.ndarray
    sums: np.ndarray
    error: float
    done: int


def sweeps(
    level: Level, g: np.ndarray, wanted: np.ndarray, reg: float, count: int, tol: float, over: float = _OVER
) -> Swept:
    """At most `count` over-relaxed iterations towards the sums `wanted` of the columns, for potentials of weights b."""
    some, error, before = level.b > 0, np.inf, np.inf
    given = np.where(some, level.b, 1.0)
    target = reg * np.log(np.where(some, np.maximum(wanted, _FLOOR * level.b), 1.0) / given)
    for k in range(count):
        f = level.rows(g, reg)
        exact = level.columns(f, reg)
        sums = np.where(some, level.b * np.exp(np.minimum((g - exact) / reg, 700.0)), 0.0)
        before, error = error, float(abs(sums - wanted).sum())
        if error <= tol or k == count - 1:
            break
        step = exact - g + target
        g = g + (over if k > 0 and error < before else 1.0) * step
    return Swept(f, g, sums, error, k + 1)


class Solved(NamedTuple):
    """A solution of a level: a potential of the columns, its regularisation, and the sums of its columns."""

    g: np.ndarray
    reg: float
    sums: np.ndarray


def correction(levels: tuple[Level, ...], solved: Mapping[int, Solved], k: int, missing: np.ndarray) -> np.ndarray:
    """The change of the potential of level k, which is solved, by which the sums of its columns change by `missing`."""
    level, (g, reg, sums) = levels[k], solved[k]
    start = g
    if k + 1 < len(levels):
        start = g + correct(levels, solved, k, missing)
    wanted = np.maximum(sums + missing, _LEAST * sums)
    count = SWEEPS + 1 if k + 1 < len(levels) else _COARSE_SWEEPS
    return sweeps(level, start, wanted, reg, count, 0.0, _OVER_CORRECTION).g - g


def correct(levels: tuple[Level, ...], solved: Mapping[int, Solved], k: int, missing: np.ndarray) -> np.ndarray:
    """The change of the potential of level k that the next coarser level finds for the `missing` sums."""
    coarse = levels[k + 1]
    change = correction(levels, solved, k + 1, summed(missing, coarse.doubled))
    return interpolated(change, coarse.doubled, levels[k].b.shape)
