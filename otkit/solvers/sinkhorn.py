"""Sinkhorn's algorithm with annealing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options, given_options, with_signature
from otkit.solvers.counted import Counted
from otkit.solvers.descent import Annealed

# Number of restarts of the descent, each with smaller steps.
_ATTEMPTS = 1


@with_signature
@dataclass(frozen=True)
class Sinkhorn(Solver[Annealed]):
    """Sinkhorn's alternating updates of rows and columns, annealed from a large regularisation to the `reg`.

    Attributes
    ----------
    tol : float, optional
        The error to reach; 1e-6 in float64, 1e-4 in narrower types by default. It is raised to the limit set by
        rounding, ``8u·range(C)/reg`` with the unit roundoff u of float64. `Result.tol` is the tolerance used. Where it
        was raised above 1e-3, the status is STALLED.
    max_iter : int
        Maximum number of iterations over all stages.
    factor : float
        Divisor of the regularisation between stages; ``inf`` starts at the `reg` of the problem.
    stage_tol : float
        The error at which a stage before the last ends.
    sweeps : int, optional
        Iterations between two checks of the errors. The default depends on the size of the problem and is at most 100.
    n_iters : int, optional
        Do exactly this many textbook iterations from zero potentials, at the `reg` of the problem, without
        acceleration. There is no tolerance then. Of the options above only `sweeps` applies.
    last : {"cols", "rows"}, optional
        With `n_iters`, the side that is updated last, whose marginal is then exact: the columns by default. An
        iteration begins with the other side.

    Notes
    -----
    Sinkhorn & Knopp (1967), Cuturi (2013); annealing after Schmitzer (2019). The iteration itself is
    `otkit.entropic.sinkhorn.iterate`. Anderson mixing (Anderson 1965) accelerates it, and restarts from the best point
    if the error rises. If a marginal is penalised, each iteration ends with the optimal constant shift between the two
    potentials (Séjourné, Vialard & Peyré 2022).

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.5, method=otkit.Sinkhorn(factor=4.0))
    >>> result.converged
    True
    >>> otkit.solve([[0.0, 1.0], [1.0, 0.5]], reg=0.5, method=otkit.Sinkhorn(n_iters=3)).n_iter
    3
    """

    tol: float | None = None
    max_iter: int = 10_000
    factor: float = 4.0
    stage_tol: float = 1e-2
    sweeps: int | None = None
    _: KW_ONLY
    n_iters: InitVar[int | None] = None
    last: InitVar[str | None] = None
    name = "sinkhorn"
    entropic = True
    shares = True
    refuses: ClassVar[Mapping[str, str]] = {"rtol": "tol= bounds the error with a reg"}

    def __new__(cls, *args: Any, n_iters: int | None = None, last: str | None = None, **options: Any) -> Self:
        """The solver; with `n_iters`, the solver with a fixed number of iterations."""
        if n_iters is None:
            return super().__new__(cls)
        return Counted.spelled(n_iters, last, given_options(cls, args, options))  # type: ignore[return-value]

    def __post_init__(self, n_iters: int | None, last: str | None) -> None:
        if last not in (None, "cols"):
            raise ValueError("last= applies to a run of n_iters= iterations; pass n_iters= too, or drop last=")
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed:
        if start is not None:
            return descent.begin(problem, start[1], to_numpy(problem.reg))
        return descent.begin_cold(problem, self.factor)

    def step(self, problem: LinearProblem, state: Annealed) -> Annealed:
        sweeps = self.sweeps or descent.patience(problem, state)
        goal, used = descent.goals(problem, state, self.tol, self.stage_tol), state.used
        state = descent.advance(problem, state, goal, sweeps, self.max_iter)
        state, stalled = descent.checked(problem, state, used)
        return descent.settled(problem, state, goal, stalled, np.full(problem.items, True), self, _ATTEMPTS)

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        return descent.finish(problem, state, descent.tolerance(problem, self.tol), errors)
