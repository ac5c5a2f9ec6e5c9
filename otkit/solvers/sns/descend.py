"""Newton steps of one item of a descent, and the update of its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, put, take
from otkit.entropic.anderson import Mixing
from otkit.linalg.cg import Memory
from otkit.problems.linear import LinearProblem
from otkit.solvers.descent import A, Tally
from otkit.solvers.sns.dual import Entries, Point, evaluate
from otkit.solvers.sns.newton import direction, search

# Maximum number of Newton steps between two calls of the callback.
_BURST = 8
# Required error after that many steps, relative to the error before them.
_FALL = 0.5


class Sparsification(NamedTuple):
    """Sparsification of the plan for a Newton step.

    Attributes
    ----------
    listed : Entries
        The entries of the plan near the point.
    drop : float
        The fraction of the mass of each row and column that may be dropped from the entries.
    shift : float
        The multiple of the diagonal that is added to the matrix.
    """

    listed: Entries
    drop: float
    shift: float


# Function of the problem of one item, a point of its dual, the regularisation and the goal. It returns the
# sparsification, and the point with its entries; None if the plan is dense.
Sparsify = Callable[[LinearProblem, Point, Array, float], tuple[Point, Sparsification] | None]


def descend(problem: LinearProblem, state: A, item: int, goal: float, max_iter: int, sparsify: Sparsify) -> A:
    """Newton steps of one item, until its error reaches the goal, a step is cut short, or `_BURST` steps are done."""
    items = np.array([item])
    part = problem.take(items)
    f, g, reg, reach = take((state.f, state.point, from_numpy(state.reg, state.f), state.mixing.reach), items)
    visited = state.listed[item]
    at = evaluate(part, f, g, reg, goal, visited and Entries.handed(part, visited, reg))
    first, memory = at.error, Memory()
    steps = cg = kept = 0
    dropped, whole, dense = 0.0, True, False
    while at.error > goal and whole and steps < min(_BURST, max_iter - state.n_iter[item]):
        found = sparsify(part, at, reg, goal)
        if found is None:
            dense = True
            break
        at, nearby = found
        move, solution, sparse = direction(part, at, reg, *nearby, memory)
        at, whole = search(part, at, reg, move, goal)
        steps, cg, kept, dropped = steps + 1, cg + solution.steps, sparse.kept, sparse.dropped
    # If parts of the problem have decoupled, steps are accepted but the error does not fall.
    lost = not whole or (steps == _BURST and at.error > _FALL * first)
    before = state.tally
    tally = Tally(
        steps=before.steps[items] + steps,
        cg=before.cg[items] + cg,
        kept=np.array([kept]),
        dropped=np.array([dropped]),
        failed=before.failed[items] + lost,
        dense=np.array([dense]),
    )
    return replace(
        state,
        f=put(state.f, items, at.f),
        g=put(state.g, items, at.g),
        point=put(state.point, items, at.following),
        error=put(state.error, items, np.array([at.error])),
        n_iter=put(state.n_iter, items, state.n_iter[items] + steps),
        used=put(state.used, items, state.used[items] + steps),
        mixing=put(state.mixing, items, Mixing.begin(at.following, reach, state.mixing.window)),
        tally=put(before, items, tally),
    )
