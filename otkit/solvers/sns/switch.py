"""The switch from sweeps to Newton steps, by a model of their costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.problems.linear import LinearProblem
from otkit.solvers import descent
from otkit.solvers.descent import Annealed

# Expected error reduction of one Newton step: a factor _LIKELY below the error _NEAR, and _DAMPED above it. One extra
# step is added to the predicted number.
_NEAR, _LIKELY, _DAMPED = 1e-4, 30.0, 2.0
# Ratio of the number of sweeps to its prediction from their first rate: fast modes of the error vanish first.
_SLOWER = 5.0
# Assumed fraction of the entries that matter, if unknown.
USUAL = 1 / 8
# Cost of the sweeps before the first check, relative to a Newton step.
FIRST_CHECK = 0.45


class Costs(NamedTuple):
    """Predicted seconds of a sweep, of the start of Newton's method, and of each Newton step: ``(B,)`` each."""

    sweep: np.ndarray
    beginning: np.ndarray
    step: np.ndarray


def predicted(problem: LinearProblem, state: Annealed, usual: float) -> Costs:
    """Predicted costs, by the number of entries that a sweep visits; if unknown, by the fraction `usual` of all."""
    entries = problem.reduced.n * problem.reduced.m
    visited, matter = descent.visited(problem, state), descent.visited(problem, state, usual)
    pace = problem.kernels.pace
    sweep = pace.sweep * min(1.0, entries / pace.compiled) + pace.mixed * problem.reduced.m + pace.visited * visited
    passes = np.where(state.listed == None, pace.passes * entries, 0.0)  # noqa: E711 (elementwise)
    return Costs(sweep, passes + pace.lists * matter, pace.step + pace.products * matter)


def is_slow(before: np.ndarray, error: np.ndarray, goal: np.ndarray, sweeps: np.ndarray, costs: Costs) -> np.ndarray:
    """Whether sweeps, at the observed rate of the error, are predicted to cost more time than Newton's method."""
    short = error > goal
    now = np.where(short, error, 1.0)
    rate = np.log(np.where(short & (before < np.inf), before, now) / now) / sweeps
    left = np.log(np.where(short, error / goal, 1.0))
    damped = np.log(np.maximum(now, _NEAR) / np.maximum(goal, _NEAR)) / np.log(_DAMPED)
    steps = 1 + damped + np.log(np.minimum(now, _NEAR) / np.minimum(goal, _NEAR)) / np.log(_LIKELY)
    newton = costs.beginning + steps * costs.step
    return short & ~(_SLOWER * left * costs.sweep <= rate * newton)
