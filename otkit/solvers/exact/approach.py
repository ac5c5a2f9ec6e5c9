"""The way down before the simplex: plain sweeps in loose stages, which end early if they do not help.

Sweeps at a small regularisation leave a plan with few entries for each point, from which the simplex needs few pivots.
Where sweeps settle slowly, or the plan stays wide, they do not pay: the simplex then starts without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import put, to_numpy
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import starts
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Status
from otkit.solvers import descent
from otkit.solvers.descent import Annealed
from otkit.solvers.exact.basis import matrix_of

# The rule below was chosen on 13 families of 300 to 4000 points (clouds, clusters, grids, lines, integers, log-normal
# costs) by the time of whole solves, on one core, and checked by benchmarks/compare/exact.py.
#
# The first regularisation is the range of the costs divided by _EASY. A stage divides it by _FACTOR, or by its square
# if the plan has hardly begun to thin. A few costs are then much larger than all others.
_EASY, _FACTOR = 64.0, 4.0
# A stage ends at this error, which is checked after so many sweeps, or after visiting all entries so many times.
_ERROR, _SWEEPS, _WORK = 1e-3, 5, 15.0
# Sweeps are slow if a stage leaves a larger error than _LOOSE down to the range of the costs divided by _HIGH.
_LOOSE, _HIGH = 5e-3, 300.0
# The width of a plan is the mean number of entries (exponential of the entropy) of so many of its rows.
_SAMPLE = 128
# The way ends at this width; when a stage leaves more than a fraction of the width before; or after so much work.
_THIN, _STILL, _ALL_WORK = 16.0, 0.7, 60.0
# A plan has hardly begun to thin if it is wider than a fraction of its columns, after a stage of so few sweeps that
# nevertheless left less than a fraction of the width before.
_WIDE, _QUICK, _THINNER = 0.25, 2, 0.98
# Maximum width of a plan from which the simplex starts.
_NARROW = 32.0


@dataclass(frozen=True)
class Approach(Annealed):
    """A state on the way down. Items that have ended wait as converged for the others.

    Attributes
    ----------
    work, all_work : numpy array (B,)
        Entries visited in the current stage and in the stages before, relative to all entries.
    width : numpy array (B,)
        The width of the plan at the end of the last stage, infinite before the first one.
    """

    work: np.ndarray
    all_work: np.ndarray
    width: np.ndarray

    @property
    def helps(self) -> np.ndarray:
        """Whether the simplex should start from the plan of each item, ``(B,)``."""
        return self.width <= _NARROW


def begin(problem: LinearProblem) -> Approach:
    """The state before the first sweep."""
    state, nothing = descent.begin(problem, None, descent.top(problem) / _EASY), np.zeros(problem.items)
    return Approach(**vars(state), work=nothing, all_work=nothing, width=np.full(problem.items, np.inf))


def sweep(problem: LinearProblem, state: Approach, max_iter: int) -> Approach:
    """A few sweeps of each item; at the end of a stage, the next one or the end."""
    running, before = state.running, state.n_iter
    state = descent.advance(problem, state, np.full(problem.items, _ERROR), _SWEEPS, max_iter)
    done = state.n_iter - before
    entries = problem.reduced.n * problem.reduced.m
    state = replace(state, work=state.work + done * descent.visited(problem, state) / entries)
    over = (state.error <= _ERROR) | (state.work >= _WORK) | (done == 0)
    costs = problem.reduced.to_numpy()
    for item in running[over[running]]:
        state = _stage_over(problem, costs, state, int(item))
    return state


def _stage_over(problem: LinearProblem, costs: Reduced, state: Approach, k: int) -> Approach:
    """The state after the end of a stage of an item: in the next stage, or at the end of the way."""
    error, reg, one = state.error[k], state.reg[k], np.array([k])
    if error > _LOOSE and reg >= descent.top(problem)[k] / _HIGH:
        return replace(state, width=put(state.width, one, np.array([np.inf]))).ended(one, Status.CONVERGED)
    width, before, work = _width(problem, costs, state, k), state.width[k], state.all_work[k] + state.work[k]
    columns = int((to_numpy(problem.b)[k] > 0).sum())
    early = width > _WIDE * columns and width < _THINNER * before and state.used[k] <= _QUICK
    state = replace(
        state, width=put(state.width, one, np.array([width])), all_work=put(state.all_work, one, np.array([work]))
    )
    if not early and (width <= _THIN or width > _STILL * before or error > _LOOSE or work > _ALL_WORK):
        return state.ended(one, Status.CONVERGED)
    lower = put(state.reg, one, np.array([reg / (_FACTOR**2 if early else _FACTOR)]))
    state = replace(state, work=put(state.work, one, np.zeros(1)))
    return descent.next_stage(state, one, lower, state.error <= _ERROR)


def _width(problem: LinearProblem, costs: Reduced, state: Approach, k: int) -> float:
    """The mean number of entries in a row of the plan, from evenly spaced rows."""
    rows, cols = (np.flatnonzero(to_numpy(w)[k]) for w in (problem.a, problem.b))
    rows = rows[np.arange(min(_SAMPLE, rows.size)) * rows.size // min(_SAMPLE, rows.size)]
    h = to_numpy(state.g)[k] + state.reg[k] * to_numpy(problem.log_b)[k]
    C, _, (_, col) = matrix_of(problem, costs, k, rows, cols)
    return float(starts.widths(C, h[cols] + col, state.reg[k]).mean())
