"""Barycenters of clouds whose points are sought: exact transport and the best points for it, in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.barycenters.result import BarycenterResult
from otkit.barycenters.shares import shares_of
from otkit.geometry.costs import Cost, parse_cost
from otkit.geometry.points import PointCloud
from otkit.pairs.clouds import Clouds, checked
from otkit.results.outcome import Status
from otkit.results.result import Result
from otkit.solvers.watch import Progress, Watch
from otkit.solving import Asked, solved

# By default, stop when an update lowers the objective by less than this fraction, or after so many updates.
_RTOL, _UPDATES = 1e-6, 100
# Reweighted means in an update, where the power of the distance is not 2.
_STEPS = 8
# Points at this fraction of the largest distance, or less, have the same weight in them.
_NEAR = 1e-12


@dataclass(frozen=True)
class Stacked:
    """The measures as one batch, in which shorter ones are padded by points without weight.

    Attributes
    ----------
    y : array (K, n, d)
    a : array (K, n)
    """

    y: Array
    a: Array

    @staticmethod
    def of(clouds: Clouds, like: Array) -> Stacked:
        """The clouds, which may have been copied to the host, in the library of `like`."""
        longest = int(clouds.sizes.max())
        points, weights = [], []
        for k, size in enumerate(clouds.sizes):
            own = slice(clouds.starts[k], clouds.starts[k + 1])
            y, a = clouds.points[own, :], arrays.float64(clouds.weights[own])
            xp, more = namespace(y), longest - int(size)
            points.append(xp.concat([y, xp.broadcast_to(y[:1, :], (more, y.shape[-1]))]))
            weights.append(xp.concat([a, arrays.zeros((more,), a)]))
        return Stacked(arrays.convert(xp.stack(points), like), arrays.convert(xp.stack(weights), like))


def on_points(
    measures: Any, weights: Any, support: Any, metric: Any, reg: Any, options: dict[str, Any], watch: Watch
) -> BarycenterResult:
    """The barycenter of clouds, of points near `support`."""
    cost = parse_cost(metric)
    if cost.ground not in ("euclidean", "cityblock") or not 1 <= cost.power <= (1 if cost.ground == "cityblock" else 2):
        raise ValueError(
            "the points of a barycenter are sought for 'sqeuclidean', 'euclidean', 'cityblock' and ('power', p) with "
            f"1 ≤ p ≤ 2, got metric={metric!r}; pass C=, the costs to a fixed support"
        )
    measures = list(measures)
    if not measures:
        raise ValueError("measures must be at least one cloud (n, d), got none; pass a list of clouds")
    clouds = checked(measures, cost)
    first = measures[0][0] if isinstance(measures[0], tuple) and len(measures[0]) == 2 else measures[0]
    like = first if arrays.is_array(first) else clouds.points
    shares = shares_of(weights, (len(clouds),))
    reg = None if reg is None else float(checks.regularisation(reg))
    rtol, updates = (_default(options, name, value) for name, value in (("rtol", _RTOL), ("max_iter", _UPDATES)))
    stacked = Stacked.of(clouds, like)
    x, b = (arrays.convert(v, like) for v in _start(support, clouds, shares))
    best, least, status, count = None, np.inf, None, 0
    with watch.over() as told:
        while status is None:
            result = transport(stacked, x, b, cost, reg, options["tol"])
            value, count = float((shares * to_numpy(result.value)).sum()), count + 1
            change = least - value
            if best is None or change > 0:
                best, least = (result, x), value
            if change <= rtol * abs(value):
                status = Status.CONVERGED
            elif count >= updates:
                status = Status.MAX_ITER
            if told(partial(_progress, watch, count, change / max(abs(value), 1e-300), status)):
                status = status or Status.STOPPED
            if status is None:
                x = centres(result, stacked, x, shares, cost)
    assert best is not None
    return _finished(*best, b, shares, status, count)


def _default(options: dict[str, Any], name: str, value: float) -> float:
    checks.positive(options[name], name, below=1.0 if name == "rtol" else np.inf)
    return value if options[name] is None else options[name]


def _start(support: Any, clouds: Clouds, shares: np.ndarray) -> tuple[Array, Array]:
    """The first points of the barycenter, and their masses."""
    like, mass = clouds.points, float(to_numpy(arrays.float64(clouds.weights))[: clouds.sizes[0]].sum())
    if support is None:
        y, _ = clouds[0]
        return y, arrays.float64(clouds.weights[: y.shape[0]])
    if isinstance(support, (int, np.integer)) and not isinstance(support, bool):
        chances = np.repeat(shares, clouds.sizes) * to_numpy(arrays.float64(clouds.weights))
        most = np.count_nonzero(chances)
        if not 1 <= support <= most:
            raise ValueError(
                f"support must be from 1 to {most} points, which the measures have, got {support}; pass an array "
                "(k, d) of points to start from"
            )
        drawn = np.random.default_rng(0).choice(chances.size, support, replace=False, p=chances / chances.sum())
        x = namespace(like).take(like, from_numpy(np.sort(drawn), like), axis=0)
    else:
        x = checks.as_array(support, "support", like)
        checks.no_gradient(x, "support", "start from a number of points")
        if x.ndim != 2 or x.shape[-1] != like.shape[-1] or not x.shape[0]:
            raise ValueError(
                f"support must be a number or points (k, {like.shape[-1]}), got shape {tuple(x.shape)}; pass k points"
            )
    return x, from_numpy(np.full(x.shape[0], mass / x.shape[0]), like)


def transport(stacked: Stacked, x: Array, b: Array, cost: Cost, reg: float | None, tol: float | None) -> Result:
    """The transport from every measure to points x of masses b."""
    options = dict(tol=tol, rtol=None, max_iter=None)
    return solved(PointCloud(stacked.y, x, cost), Asked(stacked.a, b, reg), "auto", options, None, Watch.of())


def centres(result: Result, stacked: Stacked, x: Array, shares: np.ndarray, cost: Cost) -> Array:
    """The points of least mean cost for these plans; for powers below 2, better ones than x."""
    xp, like = namespace(x), stacked.y
    w = from_numpy(shares, like)
    if cost.ground == "euclidean" and cost.power == 2:
        moved = xp.sum(w[:, None, None] * arrays.float64(result.apply_t(like)), axis=0)
        sums = xp.sum(w[:, None] * arrays.float64(result.marginals[1]), axis=0)
        some = sums > 0
        return xp.astype(xp.where(some[:, None], moved / xp.where(some, sums, 1.0)[:, None], x), x.dtype)
    arcs = result.plan_sparse()
    y = to_numpy(arrays.float64(like))[arcs.item, arcs.row]
    mass = shares[arcs.item] * arcs.mass
    points = to_numpy(arrays.float64(x))
    if cost.ground == "cityblock":
        found = _medians(points, y, mass, arcs.col)
    else:
        found = _reweighted(points, y, mass, arcs.col, cost.power)
    return xp.astype(from_numpy(found, x), x.dtype)


def _reweighted(x: np.ndarray, y: np.ndarray, mass: np.ndarray, col: np.ndarray, power: float) -> np.ndarray:
    """Points of lower Σ mass·‖x − y‖^power, by means reweighted with ‖x − y‖^(power − 2) (Weiszfeld 1937)."""
    base = x.copy()
    base[col] = y  # one of the points of each mean: if these coincide, it is that point without rounding
    for _ in range(_STEPS):
        away = y - x[col]
        # In units of the furthest point of each mean, squares do not overflow, nor do those that count vanish.
        reach = np.zeros(len(x))
        np.maximum.at(reach, col, abs(away).max(-1))
        away = away / np.where(reach > 0, reach, 1.0)[col, None]
        w = mass * (_NEAR / np.maximum(np.sqrt((away**2).sum(-1)), _NEAR)) ** (2 - power)
        total = np.bincount(col, w, len(x))
        sums = np.stack([np.bincount(col, w * v, len(x)) for v in (y - base[col]).T], axis=-1)
        x = base + sums / np.where(total > 0, total, 1.0)[:, None]
    return x


def _medians(x: np.ndarray, y: np.ndarray, mass: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Points of least Σ mass·‖x − y‖₁: the weighted median of each coordinate."""
    found = x.copy()
    half = np.bincount(col, mass, len(x)) / 2
    for k, v in enumerate(y.T):
        order = np.lexsort((v, col))
        c, w = col[order], mass[order]
        first = np.concatenate([[True], c[1:] != c[:-1]])
        start = np.cumsum(w) - w
        below = np.cumsum(w) - np.repeat(start[first], np.diff(np.append(np.flatnonzero(first), c.size)))
        reached = np.flatnonzero(below >= half[c])
        point, where = np.unique(c[reached], return_index=True)
        found[point, k] = v[order][reached[where]]
    return found


def _progress(watch: Watch, count: int, change: float, status: Status | None) -> Progress:
    """The progress, with the relative decrease of the objective as its error."""
    return watch.progress(
        n_iter=np.array([count]),
        error=np.array([change]),
        reg=np.zeros(1),
        done=np.array([status is not None]),
        stage=np.zeros(1, dtype=np.int64),
        gap=np.full(1, np.nan),
    )


def _finished(result: Result, x: Array, b: Array, shares: np.ndarray, status: Status, count: int) -> BarycenterResult:
    """The result, whose problems have the status of the whole unless one of them did not converge."""
    outcome, items = result.outcome, result.problem.items
    if not outcome.short.any():
        outcome = replace(outcome, status=np.full(items, status, dtype=object), n_iter=np.full(items, count))
    return BarycenterResult(b, x, replace(result, outcome=outcome), shares)
