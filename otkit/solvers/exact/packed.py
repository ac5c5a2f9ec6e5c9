"""Many pairs of small clouds, solved exactly by one compiled loop.

`pack` prepares clouds once. `solve` then solves pairs of them over all cores, with the interpreter lock released::

    clouds = pack(points, weights, start, cost)     # None for a cost that only Python can evaluate
    found = solve(clouds, first, second, stop)  # stop() is asked between runs of pairs; True ends the call

Cloud k has the points ``points[start[k]:start[k + 1]]``, from an array ``(N, d)``, and the weights of the same places,
in any unit. `cost` is the `Cost` d^p. `found` has, for each pair, the cost of an optimal plan at mass 1, its
certified bounds at mass 1, as the solvers of a single problem give them, and a flag: 0 where the pair is solved. A pair
with another flag has no numbers. Solve it the general way, which says what is wrong with its data or solves it in
another way; ``LEFT`` marks those that `stop` has left. Results do not depend on the number of threads, nor on how pairs
are split between calls. Points on a line with a convex cost are sorted by `pack`, and solved by the monotone plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from otkit.certificates.width import exactness
from otkit.geometry.costs import UNIT, Cost
from otkit.kernels import threads
from otkit.kernels.numba import items, line, vertices

LEFT = -1

# Nanoseconds that a pair takes: a part of a call, and those for each pair of points or each point on a line. They are
# estimates, by which pairs are put together to runs.
PAIR, ENTRY, _STEP = 2000, 40, 30
_RUN = 500_000
LIMIT = 10_000_000
NO_MATRIX = np.empty((0, 0, 0))


@dataclass(frozen=True)
class Clouds:
    """Clouds prepared for `solve`.

    Attributes
    ----------
    points, weights, start : array (N, d), (N,), (K + 1,)
    metric : array (9,)
        The cost, as the kernels read it.
    line : bool
        Whether the points of each cloud are sorted, on a line with a convex cost.
    """

    points: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    metric: np.ndarray
    line: bool


class Found(NamedTuple):
    """The cost of each pair at mass 1, its bounds, and a flag that is 0 where the pair is solved: ``(P,)`` each."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    flag: np.ndarray


def described(cost: Cost, rounding: tuple[float, float]) -> np.ndarray:
    """A cost and bounds on its rounding error, as the kernels read them."""
    ground = 1.0 if cost.ground == "cityblock" else 0.0
    spread = 0.0 if cost.ground == "cosine" else cost.smallest
    return np.array([ground, cost.factor, cost.exponent, *rounding, spread, 1.0, *exactness(cost.power)])


def pack(points: np.ndarray, weights: np.ndarray, start: np.ndarray, cost: Cost) -> Clouds | None:
    """Clouds prepared for `solve`; None if the cost is a callable, or undefined for one of the points."""
    if callable(cost.ground) or not points.size:
        return None
    x, w = np.ascontiguousarray(points, dtype=np.float64), np.ascontiguousarray(weights, dtype=np.float64)
    start = np.ascontiguousarray(start, dtype=np.int64)
    on_line = x.shape[1] == 1 and cost.convex_on_line
    with np.errstate(all="ignore"):  # what is not finite is the caller's
        if cost.ground == "cosine":
            x = x / abs(x).max(-1, keepdims=True)
            x = x / np.linalg.vector_norm(x, axis=-1, keepdims=True)
    if not np.isfinite(x).all():
        return None
    if on_line:
        order = np.lexsort((x[:, 0], np.repeat(np.arange(start.size - 1), np.diff(start))))
        x, w = x[order], w[order]
    size = abs(x)
    cost = replace(cost, by_products=False)
    rounding = cost.rounding(x.shape[1], 0.0, float(size[size > 0].min(initial=np.inf)))
    return Clouds(x, w, start, described(cost, rounding), on_line)


def solve(clouds: Clouds, first: np.ndarray, second: np.ndarray, stop: Callable[[], object] | None = None) -> Found:
    """Solve pairs of clouds, of these indices: see the head of the module."""
    first, second = (np.ascontiguousarray(v, dtype=np.int64) for v in (first, second))
    pairs, sizes = first.size, np.diff(clouds.start)
    n, m = sizes[first], sizes[second]
    num, info = np.empty((pairs, 10)), np.empty((pairs, 4), dtype=np.int64)
    info[:, items.FLAG] = LEFT
    x, w, start, metric = clouds.points, clouds.weights, clouds.start, clouds.metric
    places = np.column_stack((start[:-1], start[1:]))

    def work(run: range) -> None:
        if stop is not None and stop():
            return
        ends = run.start, run.stop
        if clouds.line:
            line.solve(x, w, start, metric, first, second, UNIT, *ends, num, info)
            return
        most_n, most_m = int(n[run.start : run.stop].max()), int(m[run.start : run.stop].max())
        room, vectors = np.empty(most_n * most_m), np.empty((1, 6, max(most_n, most_m)))
        arcs, mass = np.empty((1, most_n + most_m, 2), dtype=np.int32), np.empty((1, most_n + most_m))
        costs = NO_MATRIX, x, x, metric
        measures = w, w, places, places, first, second
        vertices.solve(*costs, *measures, UNIT, LIMIT, *ends, room, num, info, vectors, arcs, mass)

    time = PAIR + (_STEP * (n + m) if clouds.line else ENTRY * n * m)
    threads.each(work, runs(time), int(time.sum()))
    value, lower, upper = (num[:, k] for k in (items.VALUE, items.LOWER, items.UPPER))
    return Found(value, lower, upper, info[:, items.FLAG])


def runs(time: np.ndarray) -> list[range]:
    """Ranges of items that take about as long as each other; they do not depend on the number of threads."""
    if not time.size:
        return []
    inner = np.flatnonzero(np.diff(np.cumsum(time) // _RUN)) + 1
    return [range(low, high) for low, high in pairwise([0, *inner.tolist(), time.size])]
