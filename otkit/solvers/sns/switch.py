"""When Newton steps take over from sweeps: a model of what both cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.problems.linear import LinearProblem
from otkit.solvers import descent
from otkit.solvers.descent import Annealed

# Expected error reduction of one Newton step, below this error and above it; one more step makes up for the first.
_NEAR, _LIKELY, _DAMPED = 1e-4, 30.0, 2.0
# How much longer sweeps take than their first rate predicts: the fast modes of the error vanish before the slow ones.
_SLOWER = 5.0
# Cost model in seconds, which `benchmarks/compare/switch.py` holds against the clock. A sweep: itself, where the matrix
# has so many entries that its iterations are not compiled as a whole; each column; each entry that it visits.
_SWEEP, COMPILED, _MIX, _VISIT = 2e-5, 2**16, 5e-8, 0.25e-9
# Newton's method: to begin, each entry of the matrix and each that a sweep visits; each step, itself and each of these.
# That is more than steps take where they go well: the more entries matter, the more of them are cut short.
_PASSES, _LISTS, _STEP, _PRODUCTS = 4.2e-9, 2e-8, 1e-3, 4e-8
# Share of the entries that is taken to matter where it is not known.
USUAL = 1 / 8
# Time of the sweeps before the first check, relative to a Newton step.
FIRST_CHECK = 0.45


class Costs(NamedTuple):
    """Seconds of a sweep, of the beginning of Newton's method, and of each of its steps: ``(B,)`` each."""

    sweep: np.ndarray
    beginning: np.ndarray
    step: np.ndarray


def predicted(problem: LinearProblem, state: Annealed, usual: float) -> Costs:
    """Costs by the entries that a sweep visits, and where that is not known by the share `usual` of all."""
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
