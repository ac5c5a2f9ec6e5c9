"""A fixed number of textbook iterations, from zero potentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from otkit.arrays import Array, to_numpy
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status
from otkit.solvers import descent
from otkit.solvers.base import Solver, check_options
from otkit.solvers.descent import Annealed


@dataclass(frozen=True, repr=False)
class Counted(Solver[Annealed]):
    """A fixed number of Sinkhorn iterations from zero potentials, at the `reg` of the problem, without acceleration.

    ``Sinkhorn(n_iters=…)`` returns it. Gradients go through the iterations.

    Attributes
    ----------
    n_iters : int
        Number of iterations.
    last : {"cols", "rows"}
        The side that is updated last, whose marginal is then exact. An iteration begins with the other side.
    sweeps : int, optional
        Iterations between two calls of the callback. The default depends on the size of the problem and is at most
        100.

    Notes
    -----
    Sinkhorn & Knopp (1967), Cuturi (2013).

    Examples
    --------
    >>> import otkit
    >>> otkit.solve([[0.0, 1.0], [1.0, 0.5]], reg=0.5, method=otkit.Sinkhorn(n_iters=3)).status
    <Status.COMPLETED>
    """

    n_iters: int
    last: str = "cols"
    sweeps: int | None = None
    name = "sinkhorn"
    entropic = True
    shares = True
    refuses: ClassVar[Mapping[str, str]] = {
        "rtol": "tol= bounds the error with a reg",
        "tol": "n_iters= asks for so many iterations and tol= for an error; pass one of them",
        "max_iter": "n_iters= asks for exactly so many iterations; drop one of them",
        "factor": "n_iters= runs at one regularisation; drop one of them",
        "stage_tol": "n_iters= runs at one regularisation; drop one of them",
        "init": "n_iters= starts from zero potentials; drop init=, or pass tol= instead of n_iters=",
    }

    def __post_init__(self) -> None:
        check_options(self)
        if self.last not in ("rows", "cols"):
            raise ValueError(f"last must be 'rows' or 'cols', the side that is updated last, got {self.last!r}")

    @staticmethod
    def spelled(n_iters: int, last: str | None, options: dict[str, Any]) -> Counted:
        """The solver for ``Sinkhorn(n_iters=…, last=…, **options)``."""
        for name in options:
            if name in Counted.refuses and not (name == "max_iter" and options[name] == n_iters):
                raise ValueError(f"{name}= does not apply with n_iters=; {Counted.refuses[name]}")
        return Counted(n_iters, "cols" if last is None else last, options.get("sweeps"))

    def __repr__(self) -> str:
        sweeps = "" if self.sweeps is None else f", sweeps={self.sweeps}"
        return f"Sinkhorn(n_iters={self.n_iters}, last={self.last!r}{sweeps})"

    @property
    def max_iter(self) -> int:  # type: ignore[override]
        """The number of iterations."""
        return self.n_iters

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Annealed:
        # Zero potentials in the costs as given. If the rows are updated last, the first half step updates the columns.
        costs = problem.reduced
        g = -costs.col if self.last == "cols" else problem.update_columns(-costs.row, problem.reg)
        return descent.begin(problem, g, to_numpy(problem.reg), window=0)

    def step(self, problem: LinearProblem, state: Annealed) -> Annealed:
        textbook = replace(problem, penalties=replace(problem.penalties, shifts=False))
        sweeps = self.sweeps or descent.patience(problem, state)
        state = descent.advance(textbook, state, np.full(problem.items, -np.inf), sweeps, self.n_iters)
        state = state.ended(np.flatnonzero(state.n_iter >= self.n_iters), Status.COMPLETED)
        return replace(state, g=state.point) if self.last == "cols" else state

    def finish(self, problem: LinearProblem, state: Annealed, errors: np.ndarray) -> Outcome:
        found = descent.finish(problem, state, np.full(problem.items, np.nan), errors)
        return replace(found, counted=(int(state.n_iter.max()), self.last))
