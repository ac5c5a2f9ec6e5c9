"""The entropic plan between the cells of one scale: sweeps, then Newton steps, on the arcs that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.kernels.numba import support
from otkit.kernels.numba.support import Support
from otkit.solvers.multiscale.cells import Grid
from otkit.solvers.multiscale.pairs import Pairs

# Arcs matter if they exceed the least reduced cost of their row or column by at most so many regularisations.
_REACH = 8.0
# How often the arcs are listed anew during sweeps, and the exponent of over-relaxed sweeps.
_LISTS, _POWER = 8, 1.5
# Sweeps after a Newton step; the relative residual of its linear system, and the most iterations for it.
_AFTER, _RESIDUAL, _ITERATIONS = 3, 0.05, 400
# A Newton step moves potentials by so many regularisations at most, but the _OUTSIDE largest by up to twice as many.
_STEP, _OUTSIDE = 3.0, 1e-3
# A step of so many regularisations is none: conjugate gradients broke down on a singular system.
_BROKEN = 1e100
# Newton steps end when one leaves more than this fraction of the error; less, if its linear system took all iterations.
_FALLS, _FALLS_SLOWLY = 0.95, 0.5


@dataclass(frozen=True)
class Effort:
    """How far the plan of a scale is settled.

    Attributes
    ----------
    error : float
        The L1 error of the column sums that is enough.
    sweeps, steps : int
        The most sweeps, and the most Newton steps after them.
    """

    error: float
    sweeps: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """An entropic plan on the arcs that matter. Its entries are exp((F_i + G_j − C_ij)/reg).

    Attributes
    ----------
    F, G : array (n,), (m,)
        Potentials that contain the weights.
    reg : float
    arcs : Support
    P : array (K,)
        The entries. Rows have their weights, columns nearly.
    error : float
        The L1 error of the columns.
    n_iter, cg_steps, steps : int
        Sweeps and Newton steps, iterations of conjugate gradients, and Newton steps alone.
    """

    F: np.ndarray
    G: np.ndarray
    reg: float
    arcs: Support
    P: np.ndarray
    error: float
    n_iter: int = 0
    cg_steps: int = 0
    steps: int = 0

    @property
    def cost(self) -> float:
        """⟨C, P⟩."""
        return float(self.P @ self.arcs.costs)


def settled(pairs: Pairs, rows: Grid, cols: Grid, g: np.ndarray, reg: float, effort: Effort) -> Plan:
    """The plan of a regularisation, from potentials of the columns that half contain the weights."""
    log_a = np.log(rows.mass)
    G = g + reg / 2 * np.log(cols.mass)
    done, plan = 0, _listed(pairs, rows, G, reg, log_a)
    for _ in range(_LISTS):
        if done:
            plan = replace(_listed(pairs, rows, plan.G, reg, log_a), n_iter=done)
        plan = _swept(plan, rows, cols, _POWER, effort.sweeps - done, effort.error)
        done = plan.n_iter
        if plan.error <= effort.error or done >= effort.sweeps:
            break
    hierarchy, last, falls = None, np.inf, _FALLS
    while effort.error < plan.error < falls * last and plan.steps < effort.steps:
        last = plan.error
        hierarchy = cols.hierarchy if hierarchy is None else hierarchy
        x, cg = _direction(plan, rows, cols, hierarchy)
        falls = _FALLS if cg < _ITERATIONS else _FALLS_SLOWLY
        counts = dict(n_iter=plan.n_iter + 1, steps=plan.steps + 1, cg_steps=plan.cg_steps + cg)
        G, before = plan.G + reg * x, plan.G
        plan = replace(_on(plan.arcs, G, reg, log_a), **counts)  # type: ignore[arg-type]
        plan = _swept(plan, rows, cols, 1.0, _AFTER, effort.error)
        if abs(plan.G - before).max() > _STEP * reg:
            plan = replace(_listed(pairs, rows, plan.G, reg, log_a), **counts)  # type: ignore[arg-type]
            plan = _swept(plan, rows, cols, 1.0, _AFTER, effort.error)
    return plan


def _on(arcs: Support, G: np.ndarray, reg: float, log_a: np.ndarray) -> Plan:
    """The plan on these arcs whose rows have their weights."""
    F, P = np.empty(log_a.size), np.empty(arcs.cols.size)
    support.row_potentials(arcs, log_a, G, reg, F)
    support.plan(arcs, F, G, reg, P)
    return Plan(F, G, reg, arcs, P, np.inf)


def _listed(pairs: Pairs, rows: Grid, G: np.ndarray, reg: float, log_a: np.ndarray) -> Plan:
    """The plan of potentials of the columns, on the arcs that matter for them."""
    return _on(pairs.near(G, _REACH * reg), G, reg, log_a)


def _swept(plan: Plan, rows: Grid, cols: Grid, power: float, most: int, error: float) -> Plan:
    """The plan after sweeps on its arcs, in place."""
    u, v, (ends, where, _) = np.ones(rows.mass.size), np.ones(cols.mass.size), plan.arcs
    G = plan.G.copy()
    done, reached = support.sweep(ends, where, plan.P, rows.mass, cols.mass, u, v, power, most, error)
    support.rescale(ends, where, plan.P, u, v, plan.reg, plan.F, G)
    return replace(plan, G=G, error=reached, n_iter=plan.n_iter + done)


def _direction(plan: Plan, rows: Grid, cols: Grid, hierarchy: support.Hierarchy) -> tuple[np.ndarray, int]:
    """The Newton step of the columns in units of the regularisation, shortened; and iterations for it."""
    b, (ends, where, _) = cols.mass, plan.arcs
    c, x = np.empty(b.size), np.zeros(b.size)
    support.column_sums(ends, where, plan.P, c)
    done = support.newton(ends, where, plan.P, rows.mass, b, c, hierarchy, _RESIDUAL, _ITERATIONS, x)
    x = np.where(abs(x) < _BROKEN, x, 0.0)
    x -= x @ b
    size = float(np.quantile(abs(x), 1 - _OUTSIDE))
    step = min(1.0, _STEP / size) if size > 0 else 1.0
    return np.clip(step * x, -2 * _STEP, 2 * _STEP), done
