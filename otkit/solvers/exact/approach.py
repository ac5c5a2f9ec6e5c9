"""The way down before the simplex: plain sweeps in loose stages, which end early if they do not help.

Sweeps at a small regularisation leave a plan with few entries for each point, from which the simplex needs few pivots.
Where sweeps settle slowly, the plan stays wide, or nearly all mass has room where costs are least, they do not pay: the
simplex then starts without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import put, to_numpy
from otkit.geometry.dense import Dense
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose
from otkit.kernels.numba import starts
from otkit.kernels.numba.tiles import Tiles
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Status
from otkit.solvers import descent
from otkit.solvers.descent import Annealed
from otkit.solvers.exact.basis import between, entries_with_mass

# The rule below was chosen on the families that benchmarks/suite/families.py calls tuned, with 1000 to 4000 points, by
# the time of whole solves; benchmarks/compare/families.py measures it on others.
#
# The first regularisation is the range of the costs divided by _EASY. A stage divides it by _FACTOR, or by its square
# if the plan has hardly begun to thin. A few costs are then much larger than all others.
_EASY, _FACTOR = 64.0, 4.0
# A stage ends at this error, which is checked after so many sweeps, or after visiting all entries so many times. Sweeps
# are slow if the error then is larger.
_ERROR, _SWEEPS, _WORK = 1e-3, 5, 15.0
# The width of a plan is the mean number of entries (exponential of the entropy) of so many of its rows. It is first
# computed after so few sweeps.
_SAMPLE, _LOOK = 128, 2
# The way ends at the width _THIN, or when a stage leaves more than the fraction _STILL of the width before.
_THIN, _STILL = 16.0, 0.7
# A stage divides the width by about _THINS, and takes as long as _STAGE sweeps over all entries. Those to come may take
# as many sweeps as they save pivots: _SAVED, times the number of points. All together may take twice as many.
_THINS, _STAGE, _SAVED = 3.0, 16.0, 1 / 50
# A plan has hardly begun to thin if it is wider than a fraction of its columns, after a stage of so few sweeps that
# nevertheless left less than a fraction of the width before.
_WIDE, _QUICK, _THINNER = 0.25, 2, 0.98
# Maximum width of a plan from which the simplex starts.
_NARROW = 32.0
# Sweeps are left out if at most this share of the mass has no room at the cheapest column of its row: points have then
# hardly moved. So many entries are compared at a time.
_HOMELESS, _ENTRIES = 0.08, 2**17


@dataclass(frozen=True)
class Approach(Annealed):
    """A state on the way down. Items that have ended wait as converged for the others.

    Attributes
    ----------
    core : LinearProblem
        The problem that is swept: of a single item, the one between the points with mass.
    rows, cols : numpy array of int
        The indices of its points.
    work : numpy array (B,)
        Entries visited in the current stage, relative to all entries.
    width : numpy array (B,)
        The width of the plan at the end of the last stage, infinite before the first one.
    """

    core: LinearProblem
    rows: np.ndarray
    cols: np.ndarray
    work: np.ndarray
    width: np.ndarray

    @property
    def helps(self) -> np.ndarray:
        """Whether the simplex should start from the plan of each item, ``(B,)``."""
        return self.width <= _NARROW

    def whole(self, problem: LinearProblem) -> Annealed:
        """The state of all points, where the way is not gone to its end."""
        if self.core is problem:
            return self
        g = np.zeros(problem.b.shape)
        g[:, self.cols] = self.g
        f = to_numpy(problem.update_rows(g, self.reg))
        known = {name: getattr(self, name) for name in ("status", "error", "n_iter")}
        begun = descent.begin(problem, to_numpy(problem.update_columns(f, self.reg)), self.reg)
        return replace(begun, f=f, stages=descent.log(self), **known)


def begin(problem: LinearProblem) -> Approach:
    """The state before the first sweep. Items that need none have ended."""
    core, rows, cols = _core(problem)
    state, nothing = descent.begin(core, None, descent.top(core) / _EASY), np.zeros(core.items)
    near = np.flatnonzero([_settles(core, k) for k in range(core.items)])
    unknown = np.full(core.items, np.inf)
    state = Approach(**vars(state), core=core, rows=rows, cols=cols, work=nothing, width=unknown)
    return state.ended(near, Status.CONVERGED)


def _core(problem: LinearProblem) -> tuple[LinearProblem, np.ndarray, np.ndarray]:
    """The problem of a single item between its points with mass, and their indices; else the problem itself."""
    rows, cols, costs = np.arange(problem.reduced.n), np.arange(problem.reduced.m), problem.reduced
    if problem.items > 1 or entries_with_mass(problem) == costs.n * costs.m:
        return problem, rows, cols
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    rows, cols = np.flatnonzero(a[0]), np.flatnonzero(b[0])
    dense = Dense(between(costs.to_numpy(), 0, rows, cols)[None])
    core = replace(
        problem,
        geometry=dense,
        reduced=Reduced(dense, np.zeros((1, rows.size)), np.zeros((1, cols.size))),
        kernels=choose(dense),
        a=a[:, rows],
        b=b[:, cols],
        low=np.zeros(1),
        high=problem.span,
    )
    return core, rows, cols


def sweep(state: Approach, max_iter: int) -> Approach:
    """A few sweeps of each item; at the end of a stage, the next one or the end."""
    problem, running, before = state.core, state.running, state.n_iter
    sweeps = np.where(before == 0, _LOOK, _SWEEPS)
    state = descent.advance(problem, state, np.full(problem.items, _ERROR), sweeps, max_iter)
    done = state.n_iter - before
    entries = problem.reduced.n * problem.reduced.m
    state = replace(state, work=state.work + done * descent.visited(problem, state) / entries)
    over = (state.error <= _ERROR) | (state.work >= _WORK) | (done == 0)
    costs = problem.reduced.to_numpy()
    for item in running.tolist():
        if over[item]:
            state = _stage_over(problem, costs, state, item)
        elif before[item] == 0 and _is_long(problem, _width(problem, costs, state, item)):
            state = _ended(state, item, np.inf)
    return state


def _settles(problem: LinearProblem, k: int) -> bool:
    """Whether nearly all mass of an item has room at the column of least reduced cost, of each row in turn."""
    costs = problem.reduced.to_numpy()
    a, b, col = (to_numpy(v)[k] for v in (problem.a, problem.b, costs.col))
    g, room, tiles = np.where(b > 0, col, -np.inf), b.copy(), Tiles(costs)
    height, left = max(1, _ENTRIES // b.size), 0.0
    for first in range(0, a.size, height):
        rows = slice(first, min(first + height, a.size))
        left += starts.settle(tiles.tile(slice(k, k + 1), rows)[0], g, a[rows], room)
        if left > _HOMELESS * a.sum():
            return False
    return True


def _saved(problem: LinearProblem) -> float:
    """How many sweeps take as long as the pivots that they save, in case they help."""
    return _SAVED * float(np.sqrt(entries_with_mass(problem)))


def _is_long(problem: LinearProblem, width: float) -> bool:
    """Whether the way from a plan of this width to a thin one would take longer than it saves."""
    stages = np.ceil(np.log(max(width / _THIN, 1.0)) / np.log(_THINS))
    return bool(_STAGE * stages > _saved(problem))


def _stage_over(problem: LinearProblem, costs: Reduced, state: Approach, k: int) -> Approach:
    """The state after the end of a stage of an item: in the next stage, or at the end of the way."""
    width, before = _width(problem, costs, state, k), state.width[k]
    columns = int((to_numpy(problem.b)[k] > 0).sum())
    early = width > _WIDE * columns and width < _THINNER * before and state.used[k] <= _QUICK
    still, slow = width > _STILL * before and not early, state.error[k] > _ERROR
    if width <= _THIN or still or slow or _is_long(problem, width) or state.n_iter[k] > 2 * _saved(problem):
        return _ended(state, k, width)
    one = np.array([k])
    state = replace(state, work=put(state.work, one, np.zeros(1)), width=put(state.width, one, np.array([width])))
    lower = put(state.reg, one, np.array([state.reg[k] / (_FACTOR**2 if early else _FACTOR)]))
    return descent.next_stage(state, one, lower, state.error <= _ERROR)


def _ended(state: Approach, k: int, width: float) -> Approach:
    """The state at the end of the way of an item."""
    one = np.array([k])
    return replace(state, width=put(state.width, one, np.array([width]))).ended(one, Status.CONVERGED)


def _width(problem: LinearProblem, costs: Reduced, state: Approach, k: int) -> float:
    """The mean number of entries in a row of the plan, from evenly spaced rows."""
    rows, cols = (np.flatnonzero(to_numpy(w)[k]) for w in (problem.a, problem.b))
    rows = rows[np.arange(min(_SAMPLE, rows.size)) * rows.size // min(_SAMPLE, rows.size)]
    h = to_numpy(state.g)[k] + state.reg[k] * to_numpy(problem.log_b)[k]
    C = np.stack([costs.block(slice(k, k + 1), slice(row, row + 1))[0, 0] for row in rows.tolist()])[:, cols]
    return float(starts.widths(C, h[cols], state.reg[k]).mean())
