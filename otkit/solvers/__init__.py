"""The solvers, the loop that runs them, and the choice of a solver."""

from __future__ import annotations

from typing import Any

from otkit.problems import LinearProblem
from otkit.solvers.annealing import Annealing
from otkit.solvers.base import Solver, run
from otkit.solvers.exact.outliers import has_outliers
from otkit.solvers.exact.solver import Exact
from otkit.solvers.sinkhorn import Sinkhorn
from otkit.solvers.sns.solver import SparseNewton
from otkit.solvers.univariate import Univariate
from otkit.solvers.watch import Progress

__all__ = [
    "SOLVERS",
    "Annealing",
    "Exact",
    "Progress",
    "Sinkhorn",
    "Solver",
    "SparseNewton",
    "Univariate",
    "choose_solver",
    "run",
]

SOLVERS: dict[str, type[Solver[Any]]] = {
    solver.name: solver for solver in (SparseNewton, Sinkhorn, Annealing, Exact, Univariate)
}


def choose_solver(problem: LinearProblem, method: str | Solver[Any], bounded: bool = False) -> Solver[Any]:
    """The solver of a problem: the one named by `method`, or for "auto" the one in this table.

    ====================================  ==============
    problem                               "auto"
    ====================================  ==============
    a `reg`                               `SparseNewton`
    a `reg`, on a grid                    `Sinkhorn`
    no `reg`, points on a line, convex    `Univariate`
    no `reg`, else                        `Exact`
    the same, an interval is enough       `Annealing`
    the same, some costs are outliers     `Exact`
    ====================================  ==============

    ``bounded`` says that an interval is enough. Costs that are far larger than the others are more than annealing can
    resolve. They are no difficulty for the exact method up to 2²⁴ arcs.

    Raises
    ------
    ValueError
        If the name is unknown, or the solver does not apply to this problem.
    """
    line = problem.asked.convex_on_line
    if method == "auto":
        bounded = bounded and not line and not has_outliers(problem)
        sweeps = "sns" if problem.geometry.grid is None else "sinkhorn"
        method = sweeps if problem.reg is not None else "univariate" if line else "annealing" if bounded else "exact"
    if isinstance(method, str):
        if method not in SOLVERS:
            raise ValueError(f"method must be 'auto', {', '.join(map(repr, SOLVERS))} or a solver, got {method!r}")
        method = SOLVERS[method]()
    if not isinstance(method, Solver):
        raise ValueError(f"method must be a name or a solver such as otkit.Sinkhorn(), got {method!r}")
    if method.entropic and problem.reg is None:
        raise ValueError(
            f"method {method.name!r} needs a reg, got reg=None; pass reg=, or method='auto' to solve without one"
        )
    if not method.entropic and problem.reg is not None:
        raise ValueError(f"method {method.name!r} solves the unregularised problem, got a reg; drop reg= or method=")
    if isinstance(method, Univariate) and not line:
        raise ValueError(
            "method 'univariate' needs points of one dimension and a convex cost of their distance "
            f"(power ≥ 1), got {problem.asked!r}; use method='auto'"
        )
    return method
