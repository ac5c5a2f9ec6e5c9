"""Pairs of points drawn in proportion to the mass of a plan, without the matrix of the plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import options, plans
from otkit.arrays import Array, from_numpy, to_numpy
from otkit.kernels.numba.draws import passed
from otkit.plans import Arcs, CellPlan, EntropicPlan, Plan, SparsePlan
from otkit.results.solved import Solved, readable

# Entries of the rows that are formed at a time.
_ENTRIES = 2**21


def sample(result: Solved, size: int, rng: Any) -> tuple[Array, Array]:
    """The rows and the columns of pairs drawn from the plan, ``(..., size)`` each, in the library of the input."""
    problem, parts, random = result.problem, readable(result), options.generator(rng)
    size = options.count(size, "size")
    cells = {part.item: part for part in parts if isinstance(part, CellPlan)}
    others = [part for part in parts if not isinstance(part, CellPlan)]
    shape = (problem.items, problem.reduced.n, problem.reduced.m)
    few = all(map(_is_listed, others))
    listed = plans.add_arcs([part.arcs(0.0) for part in others], shape) if others and few else None
    sums = None if few else to_numpy(plans.marginals(others)[0])
    pairs = np.empty((2, problem.items, size), dtype=np.int64)
    for k in range(problem.items):
        if k in cells:
            pairs[:, k] = _from_cells(cells[k], size, random)
        elif listed is not None:
            pairs[:, k] = _from_arcs(listed, k, size, random)
        else:
            assert sums is not None
            pairs[:, k] = _from_rows(others, k, (sums[k], shape[2]), size, random)
    rows, cols = pairs.reshape(2, *problem.batch, size)
    return from_numpy(rows, problem.like), from_numpy(cols, problem.like)


def _is_listed(part: Plan) -> bool:
    """Whether the entries of a part are few, so that a list of them takes little memory."""
    return isinstance(part, SparsePlan) or (isinstance(part, EntropicPlan) and part.geometry.stored is not None)


def _from_arcs(arcs: Arcs, item: int, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.searchsorted(arcs.item, [item, item + 1])
    k = low + _chosen(arcs.mass[low:high], item, random.random(size))
    return arcs.row[k], arcs.col[k]


def _from_cells(plan: CellPlan, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A pair of cells, and in each a point by its share."""
    arc = _chosen(plan.mass, plan.item, random.random(size))
    rows, cols = (
        _member(label, share, cell[arc], random.random(size))
        for label, share, cell in zip(plan.labels, plan.shares, (plan.rows, plan.cols), strict=True)
    )
    return rows, cols


def _member(label: np.ndarray, share: np.ndarray, cell: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A point of each cell, where `at` are numbers from 0 to 1."""
    order = np.argsort(label, kind="stable")
    ends = np.append(0.0, np.cumsum(share[order]))
    first, last = np.searchsorted(label[order], cell), np.searchsorted(label[order], cell, side="right")
    return np.asarray(order[_passed(ends[1:], ends[first], ends[last], at)])


def _from_rows(
    parts: list[Plan], item: int, of: tuple[np.ndarray, int], size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows by their sums, and columns by the entries of these rows, few of which are formed at a time.

    `of` has the row sums and the number of columns.
    """
    sums, m = of
    rows, at = _chosen(sums, item, random.random(size)), random.random(size)
    order, cols = np.argsort(rows, kind="stable"), np.empty(size, dtype=np.int64)
    some, first = np.unique(rows[order], return_index=True)
    bounds, step = np.append(first, size), max(1, _ENTRIES // m)
    for low in range(0, some.size, step):
        formed = plans.add([part.dense_rows(item, some[low : low + step]) for part in parts])
        ends, drawn = _ends(formed, item), order[bounds[low] : bounds[min(low + step, some.size)]]
        found = np.empty(drawn.size, dtype=np.int64)
        passed(ends, np.searchsorted(some[low : low + step], rows[drawn]), at[drawn], found)
        cols[drawn] = found
    return rows, cols


def _chosen(mass: np.ndarray, item: int, at: np.ndarray) -> np.ndarray:
    """Indices in proportion to masses, where `at` are numbers from 0 to 1."""
    ends = _ends(mass, item)
    return _passed(ends, 0.0, ends[-1], at)


def _ends(mass: np.ndarray, item: int) -> np.ndarray:
    """Cumulative sums along the last axis. Masses below 0 are rounding errors of 0."""
    ends = np.cumsum(np.maximum(mass, 0.0), axis=-1)
    if not (mass.size and (ends[..., -1] > 0).all()):
        raise ValueError(
            f"sample needs a plan with mass, got one of total mass 0 (item {item}); allow more arcs, or raise the "
            "penalties of unbalanced="
        )
    return ends


def _passed(ends: np.ndarray, low: Any, high: Any, at: np.ndarray) -> np.ndarray:
    """The first place whose end, a cumulative sum, exceeds the number `at` of the way from `low` to `high`."""
    return np.searchsorted(ends, np.minimum(low + at * (high - low), np.nextafter(high, low)), side="right")
