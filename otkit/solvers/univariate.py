"""Exact transport on the line, by sorting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, from_numpy, to_numpy
from otkit.certificates.base import widened
from otkit.geometry.costs import Cost
from otkit.linalg.trees import difference
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers.base import Solver, State


@dataclass(frozen=True)
class Univariate(Solver[State]):
    """Exact solution for points on a line and a convex cost of their distance: the monotone plan is optimal.

    The arcs of this plan form a staircase. The tree of the staircase gives optimal potentials, so the bounds meet up to
    rounding.

    Notes
    -----
    Santambrogio (2015), Theorem 2.9. The potentials come from the north-west corner rule on a Monge cost.

    Examples
    --------
    >>> import otkit
    >>> otkit.solve_sample([[0.0], [1.0]], [[2.0], [1.0]], method=otkit.Univariate()).plan
    array([[0. , 0.5],
           [0.5, 0. ]])
    """

    name = "univariate"
    max_iter = 1
    refuses: ClassVar[Mapping[str, str]] = {
        "init": "the solution is one sort, which potentials cannot speed up; drop init=",
        "tol": "rtol= bounds the unregularised answer; this one is exact, drop tol=",
        "rtol": "it is exact; drop rtol=",
        "max_iter": "it takes no iterations; drop max_iter=",
    }

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> State:
        f, g = (from_numpy(np.zeros(w.shape), w) for w in (problem.a, problem.b))
        nothing, running = np.zeros(problem.items), np.full(problem.items, None, dtype=object)
        return State(f, g, nothing, running, nothing, np.zeros(problem.items, dtype=np.int64), ())

    def step(self, problem: LinearProblem, state: State) -> State:
        return state.ended(state.running, Status.CONVERGED)

    def finish(self, problem: LinearProblem, state: State, errors: np.ndarray) -> Outcome:
        host = problem.geometry.to_numpy().cloud
        assert host is not None
        x, y = (np.broadcast_to(v[..., 0], (problem.items, v.shape[1])) for v in (host.x, host.y))
        sides = zip(x, y, to_numpy(problem.a), to_numpy(problem.b), strict=True)
        stairs = [_staircase(host.metric, *side) for side in sides]

        item = np.repeat(np.arange(problem.items), host.n + host.m - 1)
        arcs = Arcs(item, *(np.concatenate([getattr(s, k) for s in stairs]) for k in ("row", "col", "mass")))
        some = arcs.mass > 0
        arcs = Arcs(arcs.item[some], arcs.row[some], arcs.col[some], arcs.mass[some])
        plan = (SparsePlan((problem.items, host.n, host.m), arcs, problem.a),)
        linear, defect = np.array([s.linear for s in stairs]), np.array([s.defect for s in stairs])
        f, g = (from_numpy(np.stack([getattr(s, k) for s in stairs]), problem.a) for k in "fg")
        # The monotone plan is optimal by a theorem, so the lower bound is its cost less the effect of its defect.
        found = widened(problem, linear - 1.01 * defect * problem.span, linear, defect, f, g, plan)
        error, tol = marginal_error(problem, plan, f, g), np.zeros(problem.items)
        return Outcome(
            f=f,
            g=g,
            reg=None,
            plan=plan,
            certificate=found,
            status=state.status,
            error=error,
            tol=tol,
            n_iter=state.n_iter,
            errors=errors,
            stages=(),
        )


@dataclass(frozen=True)
class _Staircase:
    """The optimal arcs of one item, in the order of the line, with potentials that equal the costs on them."""

    row: np.ndarray
    col: np.ndarray
    mass: np.ndarray
    linear: float
    defect: float
    f: np.ndarray
    g: np.ndarray


def _staircase(metric: Cost, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> _Staircase:
    across, down = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    n, m = x.size, y.size
    supply, demand = a[across].tolist(), b[down].tolist()
    i = j = 0
    have, want = supply[0], demand[0]
    defect = 0.0
    steps = []
    for _ in range(n + m - 1):
        # At the end of one side only the other one advances, whatever excess rounding has left.
        to_next_row = j == m - 1 or (i < n - 1 and have <= want)
        mass = max(have if to_next_row else want, 0.0)
        steps.append((i, j, mass))
        (have, lost_a), (want, lost_b) = difference(have, mass), difference(want, mass)
        defect += abs(lost_a) + abs(lost_b)
        if to_next_row:
            defect += abs(have)
            i += 1
            have = supply[i] if i < n else 0.0
        else:
            defect += abs(want)
            j += 1
            want = demand[j]
    rows, cols, masses = (np.array(part) for part in zip(*steps, strict=True))
    row, col = across[rows], down[cols]
    cost = metric(x[row][:, None, None], y[col][:, None, None])[:, 0, 0]

    f, g = [0.0] * n, [0.0] * m
    g[0] = float(cost[0])
    previous = 0
    for i, j, c in zip(rows[1:].tolist(), cols[1:].tolist(), cost[1:].tolist(), strict=True):
        if i > previous:
            f[i] = c - g[j]
        else:
            g[j] = c - f[i]
        previous = i
    potential_f, potential_g = np.empty(n), np.empty(m)
    potential_f[across], potential_g[down] = f, g
    return _Staircase(row, col, masses, float((masses * cost).sum()), defect + abs(want), potential_f, potential_g)
