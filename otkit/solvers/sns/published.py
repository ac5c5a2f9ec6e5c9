"""Sinkhorn-Newton-Sparse as published: no annealing, and a fixed fraction of the entries of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otkit import checks
from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options
from otkit.solvers.descent import Annealed
from otkit.solvers.sns.descend import Sparsification, descend
from otkit.solvers.sns.dual import Entries, Point


@dataclass(frozen=True, repr=False)
class Published(Solver[Annealed]):
    """Plain sweeps at the `reg` of the problem, then Newton steps that keep a fraction of the entries of the plan.

    ``SparseNewton(keep=…, factor=inf)`` returns it.

    Attributes
    ----------
    keep : float
        The fraction of the entries of the plan that a Newton step keeps, the largest ones.
    tol : float, optional
        The error to reach, as in `Sinkhorn`.
    max_iter : int
        Maximum number of sweeps and Newton steps together.
    sweeps : int
        Sweeps before the first Newton step, from zero potentials or from ``init=``.

    Notes
    -----
    Tang et al. (ICLR 2024).

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> C = np.random.default_rng(0).random((100, 100))
    >>> method = otkit.SparseNewton(keep=0.1, factor=np.inf, sweeps=50)
    >>> otkit.solve(C, reg=1e-2, method=method).converged
    True
    """

    keep: float
    tol: float | None = None
    max_iter: int = 10_000
    sweeps: int = 20
    name = "sns"
    entropic = True
    refuses: ClassVar[Mapping[str, str]] = {"rtol": "tol= bounds the error with a reg"}

    def __post_init__(self) -> None:
        check_options(self)
        checks.fraction(self.keep, "keep", "of the entries of the plan")

    def __repr__(self) -> str:
        options = f"tol={self.tol}, max_iter={self.max_iter}, factor=inf, sweeps={self.sweeps}"
        return f"SparseNewton(keep={self.keep}, {options})"

    @property
    def factor(self) -> float:
        """Infinity, since there is a single stage."""
        return np.inf

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed:
        g = None if start is None else start[1]
        return descent.begin(problem, g, to_numpy(problem.reg), window=0)

    def step(self, problem: LinearProblem, state: Annealed) -> Annealed:
        goal, used = descent.goals(problem, state, self.tol, 1.0), state.used
        if not used.any():
            state = descent.advance(problem, state, goal, self.sweeps, self.max_iter)
        short = (state.error > goal) & (state.n_iter < self.max_iter)
        for item in state.running[short[state.running]]:
            state = descend(problem, state, int(item), float(goal[item]), self.max_iter, self._largest)
        state, stalled = descent.checked(problem, state, used)
        return descent.settled(problem, state, goal, stalled, stalled, self, 0)

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        return descent.finish(problem, state, descent.tolerance(problem, self.tol), errors)

    def _largest(self, part: LinearProblem, at: Point, reg: Array, goal: float) -> tuple[Point, Sparsification]:
        """The largest entries; too few of them to evaluate other points."""
        return at, Sparsification(Entries.largest(part, at, reg, self.keep), drop=0.0, shift=0.0)
