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
# Cost model in seconds. `benchmarks/compare/switch.py` compares its predictions with measured times. Cost of a sweep:
# overhead, for matrices of at least COMPILED entries, whose iterations are not compiled as a whole; per column; per
# visited entry.
_SWEEP, COMPILED, _MIX, _VISIT = 2e-5, 2**16, 5e-8, 0.25e-9
# Costs of Newton's method. To start: per entry of the matrix, and per visited entry. Of a step: overhead, and per
# visited entry. Successful steps cost less. The model includes steps that are cut short, which are more frequent if
# more entries matter.
_PASSES, _LISTS, _STEP, _PRODUCTS = 4.2e-9, 2e-8, 1e-3, 4e-8
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
    sweep = _SWEEP * min(1.0, entries / COMPILED) + _MIX * problem.reduced.m + _VISIT * visited
    passes = np.where(state.listed == None, _PASSES * entries, 0.0)  # noqa: E711 (elementwise)
    return Costs(sweep, passes + _LISTS * matter, _STEP + _PRODUCTS * matter)


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
