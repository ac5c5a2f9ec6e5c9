"""Sinkhorn iterations on compiled kernels: which form of them runs, on how many threads, with how much memory."""

from __future__ import annotations

import numpy as np

from otkit import checks
from otkit.geometry import Dense
from otkit.geometry.base import Penalties, Potentials, Reduced
from otkit.kernels import numba_iterations as iterations
from otkit.kernels import numba_ops as ops
from otkit.kernels import threads
from otkit.kernels.mixing import Mixing, Swept

# A kernel that is kept may take this many bytes, or as many as the cost matrix itself.
KEPT = 2**28
# Single precision loses 1e-8 to 1e-7 of every row sum: it is enough for tolerances from here on.
_SINGLE = 1e-5
# Calls for single small problems before their loop is compiled: a few solves.
_OFTEN = 50


def sweep(
    costs: Reduced,
    start: Potentials,
    penalties: Penalties,
    mixing: Mixing,
    tol: np.ndarray,
    limit: np.ndarray,
    k: int,
) -> Swept:
    """As `otkit.kernels.mixing.sweep`."""
    items = start.reg.shape[0]
    run = _Run(costs, start, penalties, mixing, tol, np.minimum(limit, k).astype(np.int64))
    if costs.n * costs.m <= ops.SMALL and (items > 1 or (k > 1 and _is_worth_compiling())):
        tiles = ops.Tiles(costs)
        tiles.each(items, lambda C, low, high, *_: run.small(C, low, high))
    for item in np.flatnonzero((run.count < run.budget) & ~(run.error <= run.tol)):
        Q = run.kept(int(item))
        run.large(int(item), Q)
        _give_back(Q)
    return Swept(run.f, run.g, run.point, run.error, run.count.astype(np.float64), run.mixing)


_calls = 0


def _is_worth_compiling() -> bool:
    """Whether single small problems come often enough to compile their loop as a whole, not only what it consists of.

    The numbers are the same, but for rounding. It spares the interpreter's time between iterations, and costs a few
    seconds once.
    """
    global _calls
    _calls += 1
    return _calls > _OFTEN


# Fresh memory costs more than several sweeps: the system clears it page by page. This much is held on to.
_HELD = checks.NEGLIGIBLE
_held: list[np.ndarray] = []


def _room(size: int) -> np.ndarray:
    """Bytes to use for a while, those of an earlier use where they are enough; nobody else has them."""
    try:
        room = _held.pop()
    except IndexError:
        return np.empty(size, dtype=np.uint8)
    return room if room.size >= size else np.empty(size, dtype=np.uint8)


def _give_back(Q: np.ndarray) -> None:
    """Keep the bytes of an array for later."""
    room = Q
    while isinstance(room.base, np.ndarray):
        room = room.base
    if 0 < room.size * room.itemsize <= _HELD and not _held:
        _held.append(room)


class _Run:
    """The arrays of one call: those that it reads, and those that it writes."""

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
        self.log_a, self.log_b, self.reg = (ops.solid(v, items) for v in (start.log_a, start.log_b, start.reg))
        self.a, self.b = np.exp(self.log_a), np.exp(self.log_b)
        self.row, self.col = (ops.solid(v, items) for v in (costs.row, costs.col))
        self.keep_a, self.keep_b = (ops.solid(v, items) for v in penalties.keep(self.reg))
        self.rho_b, self.coupling = ops.solid(penalties.rho_b, items), ops.solid(penalties.coupling(), items)
        self.tol = ops.solid(tol, items)
        self.f, self.g = ops.solid(start.f, items).copy(), ops.solid(start.g, items).copy()
        self.point = self.g.copy()
        self.error, self.count = np.full(items, np.inf), np.zeros(items, dtype=np.int64)
        past = (mixing.moves, mixing.bends, mixing.point, mixing.residual, mixing.best_point)
        self.moves, self.bends, self.old, self.residual, self.best = (v.copy() for v in past)
        self.memory = np.stack([mixing.best_error, mixing.wait, mixing.age], axis=1)
        self.reach = ops.solid(mixing.reach, items)
        self.scale = (self.a.sum(-1) + self.b.sum(-1)) / 2

    @property
    def mixing(self) -> Mixing:
        """What the acceleration remembers."""
        best_error, wait, age = self.memory.T
        return Mixing(self.moves, self.bends, self.old, self.residual, self.best, best_error, wait, age, self.reach)

    def small(self, C: np.ndarray, low: int, high: int) -> None:
        """All iterations of some items, on one thread; those whose sums underflow are left to `large`."""
        iterations.sweep_items(
            C, low, high, self.a, self.b, self.log_b, self.row, self.col, self.reg, self.keep_a, self.keep_b,
            self.rho_b, self.coupling, self.tol, self.budget, self.reach, self.scale,
            self.f, self.g, self.point, self.moves, self.bends, self.memory, self.old, self.residual, self.best,
            self.error, self.count,
        )  # fmt: skip

    def large(self, item: int, Q: np.ndarray) -> None:
        """The iterations that are left of one item, its rows shared among the threads; `Q` is room for its entries."""
        a, b, log_b = self.a[item], self.b[item], self.log_b[item]
        row, col, reg = self.row[item], self.col[item], self.reg[item]
        keep_a, keep_b, rho_b, coupling = self.keep_a[item], self.keep_b[item], self.rho_b[item], self.coupling[item]
        f, g, x = self.f[item], self.g[item], self.point[item]
        moves, bends = self.moves[item], self.bends[item]
        past = self.memory[item], self.old[item], self.residual[item], self.best[item]
        n, m = a.size, b.size
        gram = np.zeros((len(moves), len(moves)))
        if self.memory[item, 2] > 0:  # its age
            iterations.start_window(b, bends, gram)
        sigma, sigma0 = f.copy(), np.empty(n)
        h, g0, v, ratio, new = (np.empty(m) for _ in range(5))
        one = self.costs.take(np.array([item]))
        tiles, parts = ops.Tiles(one), ops.parts(n, m, 1)
        sums, mass = np.zeros((len(parts), m)), np.zeros(len(parts))
        ends = np.array([0, *(part.rows.stop for part in parts)])
        shares = threads.shares(len(parts), n * m)

        def log_part(part: ops.Part) -> None:
            tiles.walk(part, log_tile)

        def log_tile(C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
            mass[group] += iterations.log_rows(C[0], first, a, row, h, keep_a, reg, sigma, f, sums[group], Q)

        def absorbed_part(part: range) -> None:
            iterations.absorbed_groups(
                Q, ends, part.start, part.stop, a, row, v, keep_a, reg, sigma0, sigma, f, sums, mass
            )

        scale, absorbed = self.scale[item], False
        light = iterations.LIGHT if Q.dtype == np.float64 else iterations.LIGHT_SINGLE
        for count in range(self.count[item], self.budget[item]):
            sums[:] = mass[:] = 0.0
            if absorbed:
                threads.each(absorbed_part, shares, n * m)
            else:
                iterations.start_log(x, log_b, col, reg, h, g0, v)
                threads.each(log_part, parts, n * m)
                sigma0[:] = sigma
            if not iterations.log_ratios(sums, v, b, light, ratio):
                ratio[:] = self._ratios(one, f, x, item)
            error = iterations.update_columns(ratio, b, col, x, keep_b, rho_b, reg, coupling, mass.sum(), scale, new)
            g[:] = x
            self.error[item], self.count[item] = error, count + 1
            if error <= self.tol[item]:
                x[:] = new
                return
            iterations.mix(x, new, error, b, self.reach[item], moves, bends, gram, *past)
            absorbed = bool(Q.size) and iterations.rescale(x, g0, b, reg, v)

    def kept(self, item: int) -> np.ndarray:
        """Room for the absorbed entries; empty where there is not enough, or there is nothing to keep them for."""
        if self.budget[item] - self.count[item] <= 1:
            return np.empty((0, 0))
        dtype = np.float32 if self.tol[item] >= _SINGLE else np.float64
        shape = self.costs.n, self.costs.m
        need = shape[0] * shape[1] * np.dtype(dtype).itemsize
        base = self.costs.base
        allowed = max(KEPT, base.C.nbytes // base.C.shape[0] if isinstance(base, Dense) else 0)
        free = checks.free_memory() if need > checks.NEGLIGIBLE else None
        if need > allowed or (free is not None and need > free):
            return np.empty((0, 0), dtype=dtype)
        return _room(need)[:need].view(dtype).reshape(shape)

    def _ratios(self, one: Reduced, f: np.ndarray, g: np.ndarray, item: int) -> np.ndarray:
        """log of the column masses over their weights, formed without underflow."""
        reg = self.reg[item]
        below = ops.softmin(one.T, f[None], self.log_a[item : item + 1], reg[None])[0]
        return np.where(self.b[item] > 0, (g - below) / reg, 0.0)
