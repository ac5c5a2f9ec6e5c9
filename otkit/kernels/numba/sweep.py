"""Sinkhorn iterations by compiled kernels, and the choice of their form by the size of the problem."""

from __future__ import annotations

import numpy as np

from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.sinkhorn import Swept
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import anderson, iterations
from otkit.kernels.numba import rows as row_updates
from otkit.kernels.numba.iterations import Found, Given, Past
from otkit.kernels.numba.operations import softmin
from otkit.kernels.numba.tiles import SMALL, Tiles, solid

# Number of calls for single small problems, a few solves, before their loop is compiled as a whole.
_OFTEN = 50
# Potentials are restless if entries are recomputed after this fraction of the iterations.
_LATE = 0.75


def sweep(
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: np.ndarray,
    limit: np.ndarray,
    k: int,
    listed: np.ndarray | None = None,
) -> Swept:
    """As `otkit.entropic.sinkhorn.sweep`."""
    items = start.reg.shape[0]
    run = _Run(costs, start, penalties, mixing, tol, np.minimum(limit, k).astype(np.int64))
    if listed is not None:
        run.listed = listed.copy()
    size = costs.n * costs.m
    if size <= SMALL and (items > 1 or (k > 1 and size < row_updates.WORTH and _is_worth_compiling())):
        tiles = Tiles(costs)
        tiles.each(items, lambda C, low, high, *_: run.small(C, low, high))
    for item in np.flatnonzero((run.count < run.budget) & ~(run.error <= run.tol)):
        run.large(int(item))
    count = run.count.astype(np.float64)
    return Swept(
        f=run.f,
        g=run.g,
        point=run.point,
        error=run.error,
        count=count,
        mixing=run.mixing,
        effort=run.effort,
        halfway=run.halfway,
        restless=run.restless,
        listed=run.listed,
    )


_calls = 0


def _is_worth_compiling() -> bool:
    """Whether enough single small problems were solved to compile their loop of iterations as a whole.

    The numbers are the same up to rounding. The compiled loop avoids the interpreter's overhead in each iteration, and
    costs a few seconds once.
    """
    global _calls
    _calls += 1
    return _calls > _OFTEN


class _Run:
    """The input and output arrays of one call."""

    def __init__(
        self,
        costs: Reduced,
        start: Potentials,
        penalties: Penalties,
        mixing: Mixing,
        tol: np.ndarray,
        budget: np.ndarray,
    ) -> None:
        items = start.reg.shape[0]
        self.costs, self.budget = costs, budget
        self.log_a, self.log_b, self.reg = (solid(v, items) for v in (start.log_a, start.log_b, start.reg))
        self.a, self.b = np.exp(self.log_a), np.exp(self.log_b)
        self.row, self.col = (solid(v, items) for v in (costs.row, costs.col))
        self.keep_a, self.keep_b = (solid(v, items) for v in penalties.keep(self.reg))
        self.rho_b, self.coupling = solid(penalties.rho_b, items), solid(penalties.coupling(), items)
        self.tol = solid(tol, items)
        self.f, self.g = solid(start.f, items).copy(), solid(start.g, items).copy()
        self.point = self.g.copy()
        self.error, self.count = np.full(items, np.inf), np.zeros(items, dtype=np.int64)
        self.effort, self.halfway = np.full(items, np.nan), np.full(items, np.nan)
        self.restless, self.listed = np.zeros(items, dtype=bool), np.full(items, None)
        past = (mixing.moves, mixing.bends, mixing.point, mixing.residual, mixing.best_point)
        self.moves, self.bends, self.old, self.residual, self.best = (v.copy() for v in past)
        self.memory = np.stack([mixing.best_error, mixing.wait, mixing.age], axis=1)
        self.reach = solid(mixing.reach, items)
        self.scale = (self.a.sum(-1) + self.b.sum(-1)) / 2

    @property
    def mixing(self) -> Mixing:
        """The history of the acceleration."""
        best_error, wait, age = self.memory.T
        return Mixing(
            moves=self.moves,
            bends=self.bends,
            point=self.old,
            residual=self.residual,
            best_point=self.best,
            best_error=best_error,
            wait=wait,
            age=age,
            reach=self.reach,
        )

    def small(self, C: np.ndarray, low: int, high: int) -> None:
        """All iterations of some items, on one thread. Items whose sums underflow stop, and `large` continues them."""
        given = Given(
            a=self.a,
            b=self.b,
            log_b=self.log_b,
            row=self.row,
            col=self.col,
            reg=self.reg,
            keep_a=self.keep_a,
            keep_b=self.keep_b,
            rho_b=self.rho_b,
            coupling=self.coupling,
            tol=self.tol,
            budget=self.budget,
            reach=self.reach,
            scale=self.scale,
        )
        past = Past(
            moves=self.moves, bends=self.bends, memory=self.memory, old=self.old, residual=self.residual, best=self.best
        )
        found = Found(self.f, self.g, self.point, self.error, self.count)
        iterations.sweep_items(C, low, high, given, past, found)

    def large(self, item: int) -> None:
        """The remaining iterations of one item, with its rows divided among threads."""
        b, log_b, col, reg = self.b[item], self.log_b[item], self.col[item], self.reg[item]
        keep_b, rho_b, coupling = self.keep_b[item], self.rho_b[item], self.coupling[item]
        g, x, scale = self.g[item], self.point[item], self.scale[item]
        moves, bends = self.moves[item], self.bends[item]
        past = self.memory[item], self.old[item], self.residual[item], self.best[item]
        gram = np.zeros((len(moves), len(moves)))
        if self.memory[item, 2] > 0:  # its age
            anderson.start_window(b, bends, gram)
        h, v, g0, ratio, new = (np.empty(b.size) for _ in range(5))
        iterations.start_log(x, log_b, col, reg, h, g0, v)
        one = self.costs.take(np.array([item]))
        known = row_updates.Item(one, self.a[item], self.row[item], self.keep_a[item], reg, self.f[item], h, v)
        rows = row_updates.begin(known, b, self.tol[item], self.budget[item] - self.count[item], self.listed[item])
        kept = False
        if rows.given is not None:
            g0[:] = rows.given.g
            kept = iterations.rescale(x, g0, b, reg, v, rows.far)
        for count in range(self.count[item], self.budget[item]):
            if kept:
                rows.rescaled()
            else:
                iterations.start_log(x, log_b, col, reg, h, g0, v)
                rows.formed()
                self.restless[item] = _LATE * self.budget[item] < count
            if not iterations.log_ratios(rows.sums, v, b, rows.light, ratio):
                ratio[:] = self._ratios(one, self.f[item], x, item)
            error = iterations.update_columns(ratio, b, col, x, keep_b, rho_b, reg, coupling, rows.mass, scale, new)
            g[:] = x
            self.error[item], self.count[item] = error, count + 1
            if 2 * (count + 1) == self.budget[item]:
                self.halfway[item] = error
            if error <= self.tol[item]:
                x[:] = new
                break
            anderson.mix(x, new, error, b, self.reach[item], moves, bends, gram, *past)
            kept = rows.far > 0 and iterations.rescale(x, g0, b, reg, v, rows.far)
        self.effort[item] = rows.effort
        self.listed[item] = None if self.error[item] <= self.tol[item] else rows.to_list(g0)

    def _ratios(self, one: Reduced, f: np.ndarray, g: np.ndarray, item: int) -> np.ndarray:
        """log of the column masses over their weights, computed without underflow."""
        reg = self.reg[item]
        below = softmin(one.T, f[None], self.log_a[item : item + 1], reg[None])[0]
        return np.where(self.b[item] > 0, (g - below) / reg, 0.0)
