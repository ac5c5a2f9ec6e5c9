"""The outcome of a solver, with its status and stages."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otkit import plans
from otkit.arrays import Array, deferrable, namespace, to_numpy
from otkit.certificates.base import Certificate
from otkit.plans import Plan
from otkit.problems.linear import LinearProblem


class Status(enum.Enum):
    """Termination status of a solve. The value is the message for the user.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.1)
    >>> result.status
    <Status.CONVERGED>
    >>> print(result.status.value)
    Converged to the tolerance.
    """

    CONVERGED = "Converged to the tolerance."
    MAX_ITER = "Stopped at max_iter before the tolerance was reached; raise max_iter or the tolerance."
    STALLED = "Stopped because the error no longer falls; raise the tolerance."
    IMPRECISE = (
        "Stopped at rounding errors, which leave a wider interval than asked, though it holds. If some costs are far "
        "larger than all others, drop their points, or forbid their arcs by an infinite cost."
    )
    INFEASIBLE = (
        "Infeasible: no plan avoids the forbidden (infinite) costs; "
        "allow more arcs, or call otkit.solve with unbalanced=."
    )
    STOPPED = "Stopped before the tolerance was reached, by the callback, the time_limit or Ctrl-C."
    COMPLETED = "Did what was asked, without a tolerance; see the error or the bounds for the accuracy reached."

    def __repr__(self) -> str:
        return f"<Status.{self.name}>"


_DONE = (Status.CONVERGED, Status.COMPLETED)


@dataclass(frozen=True)
class Stage:
    """One stage of an annealed solve, for one item.

    Attributes
    ----------
    item : int
        Index of the problem in the batch, in row-major order.
    reg : float
        The regularisation of the stage, in units of the cost.
    n_iter : int
        Number of sweeps and Newton steps in the stage.
    error : float
        The marginal error at the end of the stage.
    newton_steps, cg_steps : int
        Numbers of Newton steps among the iterations, and of iterations of conjugate gradients in these.
    kept : int
        Number of entries of the plan that the last Newton step kept; 0 without Newton steps.
    dropped : float
        The fraction of the mass that the last Newton step dropped; 0 without Newton steps.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> x = np.linspace(0.0, 1.0, 150)[:, None]
    >>> result = otkit.solve_sample(x, x, x[:, 0] / x.sum(), reg=0.001)
    >>> [stage.reg for stage in result.stages]
    [0.004, 0.001]
    """

    item: int
    reg: float
    n_iter: int
    error: float
    newton_steps: int = 0
    cg_steps: int = 0
    kept: int = 0
    dropped: float = 0.0


@dataclass(frozen=True)
class SparseArcs:
    """A sparse plan in coordinate form, in NumPy.

    Attributes
    ----------
    row, col : array of int (K,)
        The two ends of each arc.
    mass : array (K,)
        The mass on each arc, positive.
    item : array of int (K,)
        Index of the problem in the batch, in row-major order; zeros for a single problem.

    Examples
    --------
    >>> import otkit
    >>> arcs = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75]).plan_sparse()
    >>> arcs.row, arcs.col, arcs.mass
    (array([0, 0, 1]), array([0, 1, 1]), array([0.25, 0.25, 0.5 ]))
    """

    row: np.ndarray
    col: np.ndarray
    mass: np.ndarray
    item: np.ndarray

    def within(self, n: int, m: int) -> SparseArcs:
        """The arcs between the first n rows and m columns."""
        some = (self.row < n) & (self.col < m)
        return SparseArcs(self.row[some], self.col[some], self.mass[some], self.item[some])


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run of a solver, at mass 1 and in reduced costs.

    Potentials, plan, certificate, error and stages may be given as values for `later`.

    Attributes
    ----------
    f, g : array (B, n), (B, m)
        Potentials of the reduced problem.
    reg : array (B,) or None
        The regularisation; None for feasible potentials of the unregularised problem.
    plan : tuple of Plan
        Parts whose sum is the plan.
    certificate : Certificate or None
        The bounds, if the solver has computed them.
    status : numpy array of Status (B,)
    error, tol : numpy array (B,)
        The error recomputed from `f` and `g`, and the effective tolerance.
    n_iter : numpy array of int (B,)
    errors : numpy array (steps, B)
        The error after each step of the run.
    stages : tuple of Stage
    linear : numpy array (B,) or None
        The cost of the plan, where the solver has computed it.
    divergence : numpy array (B,) or None
        reg·KL(P | a⊗b) of an entropic plan with exact marginals, where the solver has computed it and its cost.
    counted : tuple (n_iters, last) or None
        The number of textbook iterations from zero, and the side updated last; None for other solvers.
    """

    f: Array
    g: Array
    reg: Array | None
    plan: tuple[Plan, ...]
    certificate: Certificate | None
    status: np.ndarray
    error: np.ndarray
    tol: np.ndarray
    n_iter: np.ndarray
    errors: np.ndarray
    stages: tuple[Stage, ...]
    linear: np.ndarray | None = None
    divergence: np.ndarray | None = None
    counted: tuple[int, str] | None = None

    @property
    def short(self) -> np.ndarray:
        """Which items did not reach their tolerance, or the requested number of iterations: ``(B,)``."""
        return np.array([status not in _DONE for status in self.status])

    @property
    def complete(self) -> bool:
        """Whether no item is `short`."""
        return all(status in _DONE for status in self.status.tolist())


deferrable(Outcome, "f", "g", "plan", "certificate", "error", "stages")


def marginal_error(problem: LinearProblem, plan: Sequence[Plan], f: Array, g: Array) -> np.ndarray:
    """(‖P1 − a·e^(−f/ρ_a)‖₁ + ‖Pᵀ1 − b·e^(−g/ρ_b)‖₁) / (½(Σa + Σb)), for potentials of reduced costs: ``(B,)``."""
    rows, cols = plans.marginals(plan)
    xp, costs, penalties = namespace(rows), problem.reduced, problem.penalties
    if problem.balanced.all():
        miss = xp.sum(xp.abs(rows - problem.a), axis=-1) + xp.sum(xp.abs(cols - problem.b), axis=-1)
        return to_numpy(miss) / problem.size
    target_a = penalties.target(problem.a, f + costs.row, penalties.rho_a)
    target_b = penalties.target(problem.b, g + costs.col, penalties.rho_b)
    miss_a = xp.where(penalties.rho_a > 0, xp.sum(xp.abs(rows - target_a), axis=-1), xp.zeros_like(penalties.rho_a))
    miss_b = xp.where(penalties.rho_b > 0, xp.sum(xp.abs(cols - target_b), axis=-1), xp.zeros_like(penalties.rho_b))
    return to_numpy(miss_a + miss_b) / problem.size
