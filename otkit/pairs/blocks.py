"""Blocks of pairs: the units of work, on whichever thread, process or machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from otkit.arrays import Array
from otkit.certificates.width import EXACT
from otkit.distance import WassersteinResult, measured, rooted
from otkit.geometry.costs import Cost
from otkit.geometry.points import PointCloud
from otkit.pairs.clouds import Clouds
from otkit.pairs.results import CODES, CONVERGED, Answers, Layout
from otkit.solvers.exact import packed
from otkit.solvers.sns.small import LARGEST
from otkit.solvers.watch import Watch
from otkit.solving import Asked, solved

# Arcs up to which compiled loops solve a pair, with all of them in memory.
_SMALL = 2**20


class Options(NamedTuple):
    """What is asked of every pair."""

    cost: Cost
    rtol: float | None
    reg: float | None
    max_iter: int | None

    @property
    def exact(self) -> bool:
        """Whether exact answers of any method will do."""
        return self.reg is None and self.max_iter is None


@dataclass(frozen=True)
class Task:
    """Pairs to solve, and what that needs: it can be pickled.

    Attributes
    ----------
    clouds : Clouds
    left, right : array of int (P,)
        The two measures of each pair.
    options : Options
    """

    clouds: Clouds
    left: np.ndarray
    right: np.ndarray
    options: Options

    def alone(self) -> Task:
        """The same task with a copy of its own measures and no others."""
        chosen, ends = np.unique(np.concatenate([self.left, self.right]), return_inverse=True)
        left, right = np.split(ends, 2)
        return Task(self.clouds.take(chosen), left, right, self.options)


def solve(task: Task, stopped: Callable[[], bool] | None = None) -> Answers:
    """The answers to a task; solves end early once `stopped` returns True."""
    watch = Watch.of(None if stopped is None else lambda _: stopped())

    answers = Answers.empty(len(task.left))
    if task.clouds.compiled is not None:
        _solve_small(task, task.clouds.compiled, answers, stopped)
    for k in np.flatnonzero(answers.status == 0):
        i, j = task.left[k], task.right[k]
        try:
            found = _distance(task.clouds[i], task.clouds[j], task.options, watch)
        except (ValueError, TypeError) as error:
            first, second = task.clouds.places[[i, j]]
            raise type(error)(f"measures {first} and {second}, as x and y: {error}") from None
        answers.distance[k] = float(found)
        answers.lower[k], answers.upper[k] = found.lower, found.upper
        answers.status[k] = CODES[found.status]
    return answers


def _solve_small(task: Task, clouds: packed.Clouds, answers: Answers, stopped: Callable[[], bool] | None) -> None:
    """Solve small pairs by compiled loops, except those that these leave to the solvers of a single problem."""
    sizes, p = task.clouds.sizes, task.options.cost.power
    small = clouds.line | (sizes[task.left] * sizes[task.right] <= _SMALL)
    found = packed.solve(clouds, task.left[small], task.right[small], stopped)
    solved = np.flatnonzero(found.flag == 0)  # the numbers of other pairs were never written
    solved = solved[found.upper[solved] - found.lower[solved] <= EXACT * p * found.upper[solved]]
    lower, upper = rooted(found.lower[solved], 1 / p, -1), rooted(found.upper[solved], 1 / p, 1)
    distance = np.clip(np.maximum(found.value[solved], 0.0) ** (1 / p), lower, upper)
    status = np.full(len(lower), CONVERGED, dtype=np.uint8)
    answers.put(np.flatnonzero(small)[solved], Answers(distance, lower, upper, status))


_Measure = tuple[Array, Array | None]


def _distance(one: _Measure, other: _Measure, options: Options, watch: Watch) -> WassersteinResult:
    (x, a), (y, b) = one, other
    if options.reg is None:
        return measured((x, y), (a, b), options.cost, options.rtol, options.max_iter, watch)
    asked = {"tol": None, "rtol": None, "max_iter": options.max_iter}
    # Small ones end soon, and take a compiled pass that nothing watches.
    watch = watch if max(len(x), len(y)) > LARGEST else Watch.of()
    result = solved(PointCloud(x, y, options.cost), Asked(a, b, options.reg), "auto", asked, None, watch)
    return WassersteinResult(result, options.cost.power)


@dataclass(frozen=True)
class Grid:
    """The pairs of a layout cut into blocks of at most side × side measures.

    Attributes
    ----------
    layout : Layout
    side : int
    """

    layout: Layout
    side: int

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The blocks, each by the places of its tile among the rows and among the columns."""
        high, wide = (-(-size // self.side) for size in self.layout.shape)
        if self.layout.cols is not None:
            return [(r, c) for r in range(high) for c in range(wide)]
        return [(r, c) for r in range(high) for c in range(r, wide) if self.size((r, c))]

    def ranges(self, block: tuple[int, int]) -> tuple[range, range]:
        """The measures of a block, by their places among the rows and among the columns."""
        starts = (k * self.side for k in block)
        rows, cols = (
            range(low, min(low + self.side, size)) for low, size in zip(starts, self.layout.shape, strict=True)
        )
        return rows, cols

    def pairs(self, block: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of a block, row by row."""
        rows, cols = self.ranges(block)
        i, j = (v.ravel() for v in np.meshgrid(rows, cols, indexing="ij"))
        above = slice(None) if self.layout.cols is not None or block[0] < block[1] else i < j
        return i[above], j[above]

    def size(self, block: tuple[int, int]) -> int:
        """The number of pairs of a block."""
        rows, cols = map(len, self.ranges(block))
        return rows * cols if self.layout.cols is not None or block[0] < block[1] else rows * (rows - 1) // 2

    def places(self, block: tuple[int, int]) -> np.ndarray:
        """Where the answers for a block stand among all."""
        return self.layout.places(*self.pairs(block))


# Seconds for a pair of n points, measured on two cores with clouds of 5 to 300 points; on a line for n, else for n².
_PAIR, _POINT, _ARC = 4e-6, 5e-8, 3e-8
# A block takes at most so long where that leaves it a pair, and at least so long where there are so many pairs.
_LONGEST, _SHORTEST = 0.25, 4e-3
# Measures on a side, blocks on a side of the matrix: blocks enough for all workers, and not too many for a folder.
_SIDE, _FEWEST, _MOST = 32, 12, 100


def side_for(clouds: Clouds, layout: Layout, options: Options) -> int:
    """The side of the blocks, from the number and the sizes of the measures alone."""
    n = float(clouds.sizes.mean())
    line = clouds.points.shape[-1] == 1 and options.cost.convex_on_line and options.reg is None
    seconds = _PAIR + (_POINT * n if line else _ARC * n * n)
    count = math.sqrt(2 * layout.pairs)
    side = min(_SIDE, math.sqrt(_LONGEST / seconds), max(count / _FEWEST, math.sqrt(_SHORTEST / seconds)))
    return max(1, math.ceil(count / _MOST), math.floor(side))
