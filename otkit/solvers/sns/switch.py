"""When Newton steps take over from sweeps: a model of what both cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.problems.linear import LinearProblem
from otkit.solvers import descent
from otkit.solvers.descent import Annealed

# What a Newton step is likely to divide the error by, from so small an error on and before; one more makes up for the
# first.
_NEAR, _LIKELY, _DAMPED = 1e-4, 30.0, 2.0
# How much longer sweeps take than it looks at first: the fast modes of the error go before the slow ones.
_SLOWER = 5.0
# What the parts of a sweep cost, in seconds: itself, where the matrix has so many entries that its iterations are not
# compiled as a whole; each column and each entry that it visits. What Newton's method costs to begin, for each entry of
# the matrix and each that a sweep visits; what each of its steps does, itself and for these. That is more than it takes
# where steps go well: the more entries matter, the more of them are cut short.
_SWEEP, COMPILED, _MIX, _VISIT = 2e-5, 2**16, 5e-8, 0.25e-9
_PASSES, _LISTS, _STEP, _PRODUCTS = 4.2e-9, 2e-8, 1e-3, 4e-8
# The share of the entries that is taken to matter where it is not known.
USUAL = 1 / 8
# The sweeps of a first look, relative to a step.
CHECK = 0.45


class Costs(NamedTuple):
    """What a sweep takes, the beginning of Newton's method, and each of its steps: ``(B,)`` each, in seconds."""

    sweep: np.ndarray
    beginning: np.ndarray
    step: np.ndarray


def predicted(problem: LinearProblem, state: Annealed, usual: float) -> Costs:
    """By the entries that a sweep visits, and where that is not known by the share `usual` of all."""
    entries = problem.reduced.n * problem.reduced.m
    visited, matter = descent.visited(problem, state), descent.visited(problem, state, usual)
    sweep = _SWEEP * min(1.0, entries / COMPILED) + _MIX * problem.reduced.m + _VISIT * visited
    passes = np.where(state.listed == None, _PASSES * entries, 0.0)  # noqa: E711 (of each)
    return Costs(sweep, passes + _LISTS * matter, _STEP + _PRODUCTS * matter)


def is_slow(before: np.ndarray, error: np.ndarray, goal: np.ndarray, sweeps: np.ndarray, costs: Costs) -> np.ndarray:
    """Whether sweeps, if the error falls on as it did in these, take longer than Newton's method is likely to."""
    short = error > goal
    now = np.where(short, error, 1.0)
    rate = np.log(np.where(short & (before < np.inf), before, now) / now) / sweeps
    left = np.log(np.where(short, error / goal, 1.0))
    damped = np.log(np.maximum(now, _NEAR) / np.maximum(goal, _NEAR)) / np.log(_DAMPED)
    steps = 1 + damped + np.log(np.minimum(now, _NEAR) / np.minimum(goal, _NEAR)) / np.log(_LIKELY)
    newton = costs.beginning + steps * costs.step
    return short & ~(_SLOWER * left * costs.sweep <= rate * newton)
