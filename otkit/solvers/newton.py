"""Sinkhorn-Newton-Sparse: sweeps first, then Newton steps with a sparse plan in the place of the plan.

The rows are always exact: f is the best potential of the rows for g, and the dual is maximised over g alone. With the
row masses r, the column masses c and the plan P, its gradient is ``t − c``, where t is the mass that is optimal at g,
and

    −reg·Hessian = diag(c + t·reg/ρ_b) − Pᵀ·diag(1/(r·(1 + reg/ρ_a)))·P,

the Schur complement of the Hessian in both potentials. At a small regularisation few entries of P carry nearly all of
the mass. Only these enter, beside the exact c and r: whatever is left out, the matrix stays positive definite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from otkit import checks
from otkit.arrays import Array, from_numpy, namespace, put, to_numpy
from otkit.geometry.costs import UNIT
from otkit.kernels import Listed, Mixing, compressed, conjugate_gradients, plan, select, sparsified, sweep
from otkit.kernels.sparsity import FAR, left_out, thresholds
from otkit.linalg import Memory, Scaling, Solution, Sparse, solve_coupled
from otkit.problems import LinearProblem
from otkit.results import Outcome
from otkit.solvers import stages
from otkit.solvers.base import Solver, State
from otkit.solvers.stages import Annealed, Tally

# Ways down after the first, each in smaller steps.
_ATTEMPTS = 2
# The error that stages are left at, at most, unless a larger one is asked for.
_LOOSEST = 1e-2
# Sweeps before the first look at how fast they are, at least; and all of them where an item comes down carefully.
_SWEEPS = 20
# What a Newton step is likely to divide the error by, from so small an error on and before; one more makes up for the
# first.
_NEAR, _LIKELY, _DAMPED = 1e-4, 30.0, 2.0
# How much longer sweeps take than it looks at first: the fast modes of the error go before the slow ones.
_SLOWER = 5.0
# Sweeps that potentials are given to settle in a stage, so that the same entries matter from one look to the next.
_SETTLING = 300
# Newton steps in a row before the callback is asked; those of a stage that may be cut short before it counts as hard.
_BURST, _FAILURES, _LAST_FAILURES = 8, 8, 40
# What that many steps should bring the error down to, relative to where they began.
_FALL = 0.5
# The mass that is left out of a row or column, and the shift of the matrix, relative to the error. Both vanish with it,
# and leave the convergence quadratic. The shift keeps a step from moving parts of the problem by much more than reg
# that hardly exchange mass.
_DROP, _SHIFT = 0.1, 0.05
_DROP_MOST, _DROP_LEAST = 0.1, 1e-14
# A plan of more entries, relative to all and at least, is dense: sweeps are cheaper.
_DENSE, _ALWAYS = 1 / 4, 2**17
# Conjugate gradients stop at the root of the error, and at this at most, relative to the gradient.
_FORCING = 0.1
# Armijo's condition, and the shortest step.
_RISE, _SHORTEST = 1e-4, 1e-3
# What the parts of a sweep cost, in seconds: itself, where the matrix has so many entries that its iterations are not
# compiled as a whole; each column and each entry that it visits. What Newton's method costs to begin, for each entry of
# the matrix and each that a sweep visits; what each of its steps does, itself and for these. That is more than it takes
# where steps go well: the more entries matter, the more of them are cut short.
_SWEEP, _COMPILED, _MIX, _VISIT = 2e-5, 2**16, 5e-8, 0.25e-9
_PASSES, _LISTS, _STEP, _PRODUCTS = 4.2e-9, 2e-8, 1e-3, 4e-8
# The share of the entries that is taken to matter where it is not known.
_USUAL = 1 / 8
# The sweeps of a first look, relative to a step.
_LOOK = 0.45


@dataclass(frozen=True)
class SparseNewton(Solver):
    """Sinkhorn-Newton-Sparse: annealed sweeps, and Newton steps with a sparsified Hessian where sweeps are slow.

    Attributes
    ----------
    tol : float, optional
        The error to reach, as in `Sinkhorn`.
    max_iter : int
        Sweeps and Newton steps over all stages.
    factor : float
        What the regularisation is divided by between stages; ``inf`` starts at the one asked for.
    stage_tol : float
        The error at which a stage before the last is done, times the root of its `reg` over that of the last, and 1e-2
        at most. What mass is missing between parts of the problem that are weakly coupled has to be seen before their
        coupling vanishes, so it is smaller than that of `Sinkhorn`.
    sweeps : int, optional
        Sweeps before Newton's method is thought of, in each stage. By default they take about half as long as a step of
        it.
    keep : float, optional
        The method as it was published: `sweeps` plain sweeps from zero (20 by default) at the `reg` asked for, and then
        Newton steps that keep this fraction of the entries of the plan, the largest ones. It goes with ``factor=inf``.
        By default, what is left out is bounded by the mass that it carries.

    Notes
    -----
    Tang et al. (ICLR 2024); the exact diagonal after Tang & Qiu (NeurIPS 2024), annealing after Schmitzer (2019). Steps
    that do not raise the dual enough are halved (Armijo), and sweeps never lower it, so that it rises all the way; near
    the solution full steps are taken, and the error is about squared by each. A stage that Newton steps do not end is
    left to sweeps: that is `Sinkhorn`, which always converges. Before that, the way down is taken again from the top,
    in smaller steps.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> C = np.random.default_rng(0).random((200, 200))
    >>> result = otkit.solve(C, reg=1e-4, method=otkit.SparseNewton(tol=1e-9))
    >>> result.converged, sum(stage.newton_steps for stage in result.stages) > 0
    (True, True)
    """

    tol: float | None = None
    max_iter: int = 10_000
    factor: float = 4.0
    stage_tol: float = 1e-4
    sweeps: int | None = None
    keep: float | None = None
    name = "sns"

    def __post_init__(self) -> None:
        checks.solver_options(self)
        checks.kept_fraction(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        if start is not None:
            return stages.begin(problem, start[1], to_numpy(problem.reg))
        if self.keep is not None:
            return stages.begin(problem, None, to_numpy(problem.reg), window=0)
        return stages.begin_cold(problem, self.factor)

    def step(self, problem: LinearProblem, state: State) -> State:
        assert isinstance(state, Annealed)
        if self.keep is not None:
            return self._step_as_published(problem, state)
        goal, used = stages.goals(problem, state, self.tol, self._stage_tol(problem, state)), state.used
        sweeps = self._sweeps(problem, state)
        before = np.where(used == 0, 1.0, state.error)  # an error that is not known yet is taken for 1
        state = stages.advance(problem, state, goal, sweeps, self.max_iter)
        known = np.isfinite(state.halfway)  # the first sweeps are no measure of those that follow
        before, sweeps = np.where(known, state.halfway, before), np.where(known, sweeps / 2, sweeps)
        apt = ~self._is_lost(state) & (state.n_iter < self.max_iter)
        apt &= ~state.restless | (state.used > _SETTLING)
        apt &= _is_slow(before, state.error, goal, sweeps, _costs(problem, state, _USUAL))
        for item in state.running[apt[state.running]]:
            state = _descend(problem, state, int(item), float(goal[item]), self)
        state, stalled = stages.looked(problem, state, used)
        gone = self._is_lost(state)
        hard = stalled | (gone & ~state.tally.dense & (state.attempt < _ATTEMPTS))
        return stages.settled(problem, state, goal, hard, gone, self, _ATTEMPTS)

    def _stage_tol(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        far = np.maximum(1.0, state.reg / to_numpy(problem.reg))
        return np.minimum(max(_LOOSEST, self.stage_tol), self.stage_tol * far**0.5)

    @staticmethod
    def _is_lost(state: Annealed) -> np.ndarray:
        """Whether sweeps are all that is left to a stage; on the last way down, that takes more to say."""
        most = np.where(state.attempt < _ATTEMPTS, _FAILURES, _LAST_FAILURES)
        return (state.tally.failed >= most) | state.tally.dense

    def _step_as_published(self, problem: LinearProblem, state: Annealed) -> Annealed:
        goal, used = stages.goals(problem, state, self.tol, self.stage_tol), state.used
        if not used.any():
            state = stages.advance(problem, state, goal, self.sweeps or _SWEEPS, self.max_iter)
        short = (state.error > goal) & (state.n_iter < self.max_iter)
        for item in state.running[short[state.running]]:
            state = _descend(problem, state, int(item), float(goal[item]), self)
        state, stalled = stages.looked(problem, state, used)
        return stages.settled(problem, state, goal, stalled, stalled, self, 0)

    def _sweeps(self, problem: LinearProblem, state: Annealed) -> np.ndarray:
        """How many sweeps each item takes before it is looked at how fast they are, ``(B,)``."""
        if self.sweeps is not None:
            return np.full(problem.items, self.sweeps)
        sweep, _, step = _costs(problem, state, 1.0)
        longest, entries = stages.patience(problem, state), problem.reduced.n * problem.reduced.m
        usual = np.minimum(longest, np.maximum(_SWEEPS, 2 * (_LOOK * step / sweep / 2).astype(int)))
        # Where most entries matter Newton steps are dear, and so is a look: the entries have to be formed again.
        usual = np.where((entries >= _COMPILED) & ~(state.effort < entries / 2), longest, usual)
        quick = (state.used > 0) & (state.tally.steps == 0)  # as it turned out: they are left alone for longer
        return np.where(state.attempt > 0, np.minimum(_SWEEPS, usual), np.where(quick, 2 * usual, usual))

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        assert isinstance(state, Annealed)
        return stages.finish(problem, state, stages.tolerance(problem, self.tol), errors)


class _Costs(NamedTuple):
    """What a sweep takes, the beginning of Newton's method, and each of its steps: ``(B,)`` each, in seconds."""

    sweep: np.ndarray
    beginning: np.ndarray
    step: np.ndarray


def _costs(problem: LinearProblem, state: Annealed, usual: float) -> _Costs:
    """By the entries that a sweep visits, and where that is not known by the share `usual` of all."""
    entries = problem.reduced.n * problem.reduced.m
    visited, matter = stages.visited(problem, state), stages.visited(problem, state, usual)
    sweep = _SWEEP * min(1.0, entries / _COMPILED) + _MIX * problem.reduced.m + _VISIT * visited
    passes = np.where(state.listed == None, _PASSES * entries, 0.0)  # noqa: E711 (of each)
    return _Costs(sweep, passes + _LISTS * matter, _STEP + _PRODUCTS * matter)


def _is_slow(before: np.ndarray, error: np.ndarray, goal: np.ndarray, sweeps: np.ndarray, costs: _Costs) -> np.ndarray:
    """Whether sweeps, if the error falls on as it did in these, take longer than Newton's method is likely to."""
    short = error > goal
    now = np.where(short, error, 1.0)
    rate = np.log(np.where(short & (before < np.inf), before, now) / now) / sweeps
    left = np.log(np.where(short, error / goal, 1.0))
    damped = np.log(np.maximum(now, _NEAR) / np.maximum(goal, _NEAR)) / np.log(_DAMPED)
    steps = 1 + damped + np.log(np.minimum(now, _NEAR) / np.minimum(goal, _NEAR)) / np.log(_LIKELY)
    newton = costs.beginning + steps * costs.step
    return short & ~(_SLOWER * left * costs.sweep <= rate * newton)


class _Point(NamedTuple):
    """A point g of the dual of one item, and what one pass over the costs tells of it.

    Attributes
    ----------
    f, g : array (1, n), (1, m)
        The potentials, in the library of the problem.
    error : float
    masses, target : numpy array (m,)
        The masses of the columns, and those that are optimal at g.
    following : array (1, m)
        g after a sweep.
    listed : _List, optional
        What evaluates other points near it.
    """

    f: Array
    g: Array
    error: float
    masses: np.ndarray
    target: np.ndarray
    following: Array
    listed: _List | None

    @property
    def gradient(self) -> np.ndarray:
        return self.target - self.masses


def _evaluate(part: LinearProblem, f: Array, g: Array, reg: Array, goal: float, listed: _List | None = None) -> _Point:
    """One iteration from g, which is not gone on from; `f` is a guess. By the entries that are listed, if they do."""
    if listed is not None and listed.reaches(g, reg):
        return listed.evaluate(part, g, reg)
    held = replace(part.penalties, shifts=False)
    once = from_numpy(np.ones(1), g)
    swept = sweep(part.reduced, part.at(f, g, reg), held, Mixing.begin(g, once, 0), -goal * once, once, 1)
    b, col, here, after = (to_numpy(v)[0] for v in (part.b, part.reduced.col, g, swept.point))
    keep = float(held.keep(reg)[1][0])
    # The update was keep·(g − reg·log(c/b)) − (1 − keep)·col.
    ratio = (here - (after + (1 - keep) * col) / keep) / float(reg[0]) if keep else np.zeros_like(here)
    target = to_numpy(held.target(part.b, g + part.reduced.col, held.rho_b))[0]
    masses = np.where(b > 0, b * np.exp(np.minimum(ratio, 700.0)), 0.0)
    visited = None if swept.listed is None else swept.listed[0]
    listed = visited and _List.handed(part, visited, reg)
    return _Point(swept.f, g, float(swept.error[0]), masses, target, swept.point, listed)


class _List(NamedTuple):
    """All entries of the plan at a point that matter near it, and what evaluates other points by them.

    Attributes
    ----------
    f, g : array (1, n), (1, m)
        The point.
    row_masses : numpy array (n,)
    rows : Sparse
        The entries relative to the masses of their rows.
    """

    f: Array
    g: Array
    row_masses: np.ndarray
    rows: Sparse

    @staticmethod
    def of(part: LinearProblem, at: _Point, reg: Array, goal: float) -> _List | None:
        """Those without which the error is the same for a `goal`; None where they are many."""
        shape = part.reduced.n, part.reduced.m
        least = thresholds(left_out(goal), _row_masses(part, at.f), at.masses, shape)
        return _List._select(part, at, reg, least, max(_ALWAYS, _DENSE * shape[0] * shape[1]))

    @staticmethod
    def largest(part: LinearProblem, at: _Point, reg: Array, keep: float) -> _List:
        """The fraction `keep` of the entries that are largest."""
        entries = to_numpy(plan(part.reduced, part.at(at.f, at.g, reg))).reshape(-1)
        count = max(1, int(keep * entries.size))
        threshold = _log(np.partition(entries, -count)[-count]) - 1e-12
        least = np.full(part.reduced.n, threshold), np.full(part.reduced.m, threshold)
        found = _List._select(part, at, reg, least, np.inf)
        assert found is not None
        return found

    @staticmethod
    def _select(
        part: LinearProblem, at: _Point, reg: Array, least: tuple[np.ndarray, np.ndarray], limit: float
    ) -> _List | None:
        rows, cols = (from_numpy(v[None], at.g) for v in least)
        entries = select(part.reduced, part.at(at.f, at.g, reg), rows, cols, limit)
        if entries is None:
            return None
        masses = _row_masses(part, at.f)
        xp, lengths = namespace(entries.log_plan), from_numpy(_log(masses), entries.log_plan)
        values = xp.exp(entries.log_plan - xp.take(lengths, entries.row, axis=0))
        shape = part.reduced.n, part.reduced.m
        return _List(at.f, at.g, masses, compressed((entries.row, entries.col, values), shape))

    @staticmethod
    def handed(part: LinearProblem, listed: Listed, reg: Array) -> _List:
        """What sweeps have visited."""
        from scipy.sparse import csr_array

        sigma, g = (from_numpy(v[None], part.a) for v in (listed.sigma, listed.g))
        keep = part.penalties.keep(reg)[0]
        f = keep * sigma - (1 - keep) * part.reduced.row
        T = csr_array((listed.values, listed.cols, listed.ends), shape=(part.reduced.n, part.reduced.m))
        return _List(f, g, _row_masses(part, f), Sparse(T, T.T))

    def reaches(self, g: Array, reg: Array) -> bool:
        """Whether the entries are those that matter at ``g (1, m)``, too."""
        return float(namespace(g).max(abs(g - self.g))) <= FAR * float(reg[0])

    def evaluate(self, part: LinearProblem, g: Array, reg: Array) -> _Point:
        """As `_evaluate`."""
        keep_a, keep_b = (float(keep[0]) for keep in part.penalties.keep(reg))
        scale = float(reg[0])
        moves = np.exp(to_numpy(g - self.g)[0] / scale)
        total = self.rows.T @ moves
        total = np.where(total > 0, total, 1.0)  # rows without mass have no entries
        f = self.f - from_numpy(keep_a * scale * np.log(total)[None], g)
        masses = moves * (self.rows.turned @ (self.row_masses / total**keep_a))
        b, col, here = (to_numpy(v)[0] for v in (part.b, part.reduced.col, g))
        target = to_numpy(part.penalties.target(part.b, g + part.reduced.col, part.penalties.rho_b))[0]
        used = masses > 0
        ratio = _log(np.where(used, masses / np.where(used, b, 1.0), 1.0))
        following = np.where(used, keep_b * (here - scale * ratio) - (1 - keep_b) * col, here)
        error = 2 * float(abs(masses - target).sum() / (to_numpy(part.a).sum() + b.sum()))
        return _Point(f, g, error, masses, target, from_numpy(following[None], g), self)

    def scaled(self, part: LinearProblem, at: _Point, reg: Array, halves: list[np.ndarray], drop: float) -> _SparsePlan:
        """The plan at another point, times the halves; what is left out of each row and column is a fraction `drop`."""
        f, g = (np.exp(to_numpy(to - of)[0] / float(reg[0])) for to, of in ((at.f, self.f), (at.g, self.g)))
        rows, cols = thresholds(drop, _row_masses(part, at.f), at.masses, self.rows.T.shape)
        matrix, mass = sparsified(self.rows, Scaling(f * self.row_masses, g, np.exp(rows), np.exp(cols), *halves))
        return _SparsePlan(matrix, max(0.0, 1 - mass / float(at.masses.sum())))


class _SparsePlan(NamedTuple):
    """The entries of the plan that a Newton step keeps, scaled; and the fraction of the mass in the others."""

    matrix: Sparse
    dropped: float

    @property
    def kept(self) -> int:
        return self.matrix.T.data.shape[0]


def _row_masses(part: LinearProblem, f: Array) -> np.ndarray:
    """The masses of the rows, which are optimal at ``f (1, n)``."""
    return to_numpy(part.penalties.target(part.a, f + part.reduced.row, part.penalties.rho_a))[0]


def _direction(
    part: LinearProblem, at: _Point, reg: Array, listed: _List, drop: float, shift: float, memory: Memory
) -> tuple[np.ndarray, Solution, _SparsePlan]:
    """The Newton step of g, ``(m,)``, with a sparse plan and a multiple of the diagonal added."""
    keep_a, keep_b = (float(keep[0]) for keep in part.penalties.keep(reg))
    target = np.zeros_like(at.target) if keep_b == 1 else at.target
    # The diagonal is r·(1 + reg/ρ_a) and c + t·reg/ρ_b; divided by its root from both sides it is 1.
    diagonals = _row_masses(part, at.f) / keep_a, at.masses + target * (1 / keep_b - 1)
    roots = diagonals[0] ** 0.5, diagonals[1] ** 0.5  # in these units, potentials that differ by one
    halves = [np.divide(1.0, root, out=np.ones_like(root), where=root > 0) for root in roots]
    sparse = listed.scaled(part, at, reg, halves, drop)
    found = solve_coupled(
        sparse.matrix,
        at.gradient * halves[1],
        shift + 8 * UNIT * (1 + float(part.span[0] / reg[0])),  # the rounding of exponents
        min(_FORCING, at.error**0.5),
        partial(conjugate_gradients, memory=memory),
        roots,
    )
    with np.errstate(over="ignore", invalid="ignore"):  # a step that overflows is not taken
        move = float(reg[0]) * found.y * halves[1]
        if part.balanced[0]:  # a constant is of no effect
            b = to_numpy(part.b)[0]
            move = np.where(b > 0, move - b @ move / b.sum(), 0.0)
    return move, found, sparse


def _search(part: LinearProblem, at: _Point, reg: Array, move: np.ndarray, goal: float) -> tuple[_Point, bool]:
    """The point where the dual has risen enough, by a step along `move` or by a sweep; whether the step was long."""
    furthest = float(abs(move).max())
    slope = float(at.gradient @ move) if furthest < np.inf else 0.0
    step = longest = min(1.0, float(part.span[0]) / furthest) if furthest > 0 else 1.0
    while slope > 0 and step > _SHORTEST * longest:
        trial = _evaluate(part, at.f, at.g + from_numpy(step * move[None], at.g), reg, goal, at.listed)
        # The dual is concave: where it still rises at the end of a step, it has risen all along. This is seen when
        # its difference has drowned in rounding.
        if _rise(part, at, trial, reg) >= _RISE * step * slope or trial.gradient @ move >= 0:
            return trial, step >= 0.25
        step /= 2
    return _evaluate(part, at.f, at.following, reg, goal, at.listed), False


def _rise(part: LinearProblem, at: _Point, to: _Point, reg: Array) -> float:
    """The difference of the dual between two points, from differences throughout."""
    rho_a, rho_b = float(part.penalties.rho_a[0]), float(part.penalties.rho_b[0])
    a, move_f, move_g = (to_numpy(v)[0] for v in (part.a, to.f - at.f, to.g - at.g))
    b = to_numpy(part.b)[0]
    if rho_a == np.inf:  # the mass is that of the rows, and stays
        sides = a @ move_f
    else:  # of f and of the mass P1 = a·exp(−f/ρ_a), which is priced at reg
        sides = -(rho_a + float(reg[0])) * (_row_masses(part, at.f) @ np.expm1(-move_f / rho_a))
    return sides + (b @ move_g if rho_b == np.inf else -rho_b * (at.target @ np.expm1(-move_g / rho_b)))


def _descend(problem: LinearProblem, state: Annealed, item: int, goal: float, solver: SparseNewton) -> Annealed:
    """Newton steps of one item, until its error is at the goal, one is cut short or they are many."""
    items = np.array([item])
    index = from_numpy(items, state.f)
    part = problem.take(items)
    f, g, reg, reach = (
        namespace(state.f).take(v, index, axis=0)
        for v in (state.f, state.point, from_numpy(state.reg, state.f), state.mixing.reach)
    )
    visited = state.listed[item]
    at = _evaluate(part, f, g, reg, goal, visited and _List.handed(part, visited, reg))
    first, memory = at.error, Memory()
    steps = cg = kept = 0
    dropped, whole, dense = 0.0, True, False
    while at.error > goal and whole and steps < min(_BURST, solver.max_iter - state.n_iter[item]):
        if solver.keep is not None:
            nearby, drop, shift = _List.largest(part, at, reg, solver.keep), 0.0, 0.0
        else:
            at = at._replace(listed=at.listed or _List.of(part, at, reg, goal))
            if at.listed is None:
                dense = True
                break
            nearby, drop = at.listed, min(_DROP_MOST, max(_DROP * at.error, _DROP_LEAST))
            shift = min(1.0, _SHIFT * at.error)
        move, solution, sparse = _direction(part, at, reg, nearby, drop, shift, memory)
        at, whole = _search(part, at, reg, move, goal)
        steps, cg, kept, dropped = steps + 1, cg + solution.steps, sparse.kept, sparse.dropped
    # Parts that have come apart show in steps that are accepted, and change nothing.
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
    fresh = Mixing.begin(at.following, reach, state.mixing.window)
    return replace(
        state,
        f=put(state.f, items, at.f),
        g=put(state.g, items, at.g),
        point=put(state.point, items, at.following),
        error=put(state.error, items, np.array([at.error])),
        n_iter=put(state.n_iter, items, state.n_iter[items] + steps),
        used=put(state.used, items, state.used[items] + steps),
        mixing=state.mixing.put(items, fresh),
        tally=before.put(items, tally),
    )


def _log(x: np.ndarray | float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)
