"""The solution of a regularised problem: its plan, its value with gradients, and the interval that is proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.errors import warn
from otkit.pot.duals import done
from otkit.pot.normalised import Normalised
from otkit.pot.regularised import Regularised
from otkit.problems.linear import result_dtype
from otkit.results import Status
from otkit.results.outcome import SparseArcs

_TOL, _MAX_ITER = 1e-6, 10_000


@dataclass(frozen=True)
class Solution:
    """The minimum of a regularised problem, with the interval that is proved for its value.

    Attributes
    ----------
    plan : array (n, m)
    f, g : array (n,), (m,)
        Dual variables, in units of the cost: f_i + g_j is at most M_ij and the derivative of R where there is no mass.
    value, value_linear : array ()
        The objective, with gradients by costs, weights, `reg` and penalties; and ⟨M, P⟩.
    lower, upper : float
        The interval of the minimum, up to rounding. That of functions holds if they are convex.
    status : Status
    message : str
        What went wrong; empty if nothing did.
    n_iter : int
        Iterations of L-BFGS-B.
    history : list of float
        The objective after each step.
    search : OptimizeResult
        What SciPy reports of the last step, in other units.
    """

    plan: Array
    f: Array
    g: Array
    value: Array
    value_linear: Array
    lower: float
    upper: float
    status: Status
    message: str
    n_iter: int
    history: list[float]
    search: Any

    @property
    def gap(self) -> float:
        """The width of the interval."""
        return self.upper - self.lower

    @property
    def converged(self) -> bool:
        """Whether the interval is as narrow as asked."""
        return self.status is Status.CONVERGED

    @property
    def marginals(self) -> tuple[Array, Array]:
        """Row and column sums of the plan."""
        xp = namespace(self.plan)
        return xp.sum(self.plan, axis=-1), xp.sum(self.plan, axis=-2)

    def plan_sparse(self) -> SparseArcs:
        """The entries of the plan that are not 0."""
        P = to_numpy(self.plan)
        row, col = np.nonzero(P)
        return SparseArcs(row, col, P[row, col], np.zeros_like(row))

    def log(self) -> dict[str, Any]:
        """The logs of POT's functions for such problems, in one."""
        duals = {"u": self.f, "v": self.g, "alpha": self.f, "beta": self.g}
        err = [abs(one - other) for one, other in zip(self.history[1:], self.history, strict=False)]
        costs = {"cost": self.value_linear, "total_cost": self.value}
        return {**costs, **duals, "loss": self.history, "err": err, "G": [self.plan], "res": self.search}

    def __repr__(self) -> str:
        return f"Solution({self.status!r}, n_iter={self.n_iter}, lower={self.lower:.8g}, upper={self.upper:.8g})"


def minimised(problem: Regularised, limit: tuple[str, int | None], tol: float | None) -> Solution:
    """The solution, with a warning if its interval is wider than `tol` times the value.

    `limit` is the name of POT's limit on iterations and its value, None for 10,000.
    """
    (name, max_iter), tol = limit, _TOL if tol is None else tol
    at = Normalised.of(problem)
    step = at.solved(tol, _MAX_ITER if max_iter is None else max_iter)
    status = Status.CONVERGED if done(step, tol) else Status.MAX_ITER if step.stopped else Status.STALLED
    step, message = at.restored(step), ""
    if status is not Status.CONVERGED:
        what = status.value.replace("max_iter", name)
        message = f"{what} The optimum lies in [{step.lower:.6g}, {step.upper:.6g}]."
        warn(message)
    P, f, g = (from_numpy(v, problem.M) for v in (step.P, step.f, step.g))
    value, linear = problem.value(P, f, g)
    dtype, _ = result_dtype([problem.M, problem.a, problem.b])
    xp = namespace(problem.M)
    P, f, g, value, linear = (xp.astype(v, dtype, copy=False) for v in (P, f, g, value, linear))
    found = (step.lower, step.upper, status, message, step.n_iter, step.history, step.search)
    return Solution(P, f, g, value, linear, *found)
