"""Operations on the arcs of a sparse matrix of costs, in time proportional to their number.

Each has the name, the arguments and the meaning of its reference in `otkit.entropic.operations`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import exp, finite_or_zero, log, only
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import Arcs, CostRange, Moved
from otkit.entropic.sinkhorn import Swept, sweep_by
from otkit.geometry.base import Geometry
from otkit.geometry.reduced import Reduced
from otkit.geometry.stored import StoredArcs
from otkit.kernels.numba import NUMBA
from otkit.kernels.table import REFERENCE, Kernels


def _stored(geometry: Geometry) -> StoredArcs:
    assert geometry.stored is not None
    return geometry.stored


def costs(geometry: Geometry) -> np.ndarray:
    """The costs of the arcs, less the offsets of the geometry: ``(B or 1, K)``."""
    arcs = _stored(geometry)
    if geometry.offsets is None:
        return arcs.cost[None]
    row, col, columns_first = geometry.offsets
    first, second = row[:, arcs.row], col[:, arcs.col]
    if columns_first:
        first, second = second, first
    return arcs.cost - first - second


def _by_row(ufunc: np.ufunc, values: np.ndarray, arcs: StoredArcs, empty: float) -> np.ndarray:
    """The reduction of the values ``(B, K)`` of each row, `empty` for a row without arcs: ``(B, n)``."""
    some = np.flatnonzero(np.diff(arcs.start))
    out = np.full((values.shape[0], arcs.n), empty)
    if some.size:
        out[:, some] = ufunc.reduceat(values, arcs.start[some], axis=1)
    return out


def softmin(geometry: Geometry, g: np.ndarray, log_b: np.ndarray, reg: np.ndarray) -> np.ndarray:
    arcs = _stored(geometry)
    scaled = ((g + reg[:, None] * log_b)[:, arcs.col] - costs(geometry)) / reg[:, None]
    top = finite_or_zero(_by_row(np.maximum, scaled, arcs, -np.inf))
    total = _by_row(np.add, exp(scaled - top[:, arcs.row]), arcs, 0.0)
    return finite_or_zero(-reg[:, None] * (top + log(total)))


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
    return sweep_by(softmin, costs, start, penalties, mixing, tol, limit, k)


def _plan(geometry: Geometry, at: Potentials) -> np.ndarray:
    """The logarithms of the entries, ``(B, K)``."""
    arcs = _stored(geometry)
    exponent = (at.f[:, arcs.row] + at.g[:, arcs.col] - costs(geometry)) / at.reg[:, None]
    return exponent + (at.log_a[:, arcs.row] + at.log_b[:, arcs.col])


def transport_cost(geometry: Geometry, at: Potentials) -> Moved:
    arcs, P = _stored(geometry), exp(_plan(geometry, at))
    paid = P * np.where(P > 0, costs(geometry), 0.0)
    cols = np.stack([np.bincount(arcs.col, weights=entries, minlength=arcs.m) for entries in P])
    return Moved(paid.sum(-1), _by_row(np.add, P, arcs, 0.0), cols)


def marginals(geometry: Geometry, at: Potentials) -> tuple[np.ndarray, np.ndarray]:
    moved = transport_cost(geometry, at)
    return moved.row, moved.col


def apply_plan(geometry: Geometry, at: Potentials, v: np.ndarray, power: int = 0) -> np.ndarray:
    from scipy.sparse import csr_array

    arcs, P = _stored(geometry), exp(_plan(geometry, at))
    if power:
        P = P * np.where(P > 0, costs(geometry), 0.0) ** power
    return np.stack(
        [csr_array((p, arcs.col, arcs.start), shape=(arcs.n, arcs.m)) @ u for p, u in zip(P, v, strict=True)]
    )


def c_transform(geometry: Geometry, g: np.ndarray) -> np.ndarray:
    arcs = _stored(geometry)
    return _by_row(np.minimum, costs(geometry) - g[:, arcs.col], arcs, np.inf)


def select(geometry: Geometry, at: Potentials, rows: np.ndarray, cols: np.ndarray, limit: float) -> Arcs | None:
    arcs, entries = _stored(geometry), _plan(geometry, at)
    item, k = np.nonzero((entries >= np.minimum(rows[:, arcs.row], cols[:, arcs.col])) & (entries > -np.inf))
    return Arcs(item, arcs.row[k], arcs.col[k], entries[item, k]) if item.size <= limit else None


def are_costs(geometry: Geometry) -> bool:
    return bool((_stored(geometry).cost > -np.inf).all())


def cost_range(geometry: Geometry, has_a: np.ndarray, has_b: np.ndarray) -> CostRange:
    arcs, C = _stored(geometry), costs(geometry)
    row = c_transform(geometry, only(np.zeros(has_b.shape), has_b))
    reach_a, row = row < np.inf, finite_or_zero(row)
    col = c_transform(geometry.T, only(row, has_a))
    reach_b, col = col < np.inf, finite_or_zero(col)
    carries = has_a[:, arcs.row] & has_b[:, arcs.col]
    allowed = carries & np.isfinite(C)
    reduced = C - row[:, arcs.row] - col[:, arcs.col]
    return CostRange(
        row=row,
        col=col,
        span=np.where(allowed, reduced, -np.inf).max(-1, initial=-np.inf),
        low=np.where(allowed, C, np.inf).min(-1, initial=np.inf),
        high=np.where(allowed, C, -np.inf).max(-1, initial=-np.inf),
        forbidden=allowed.sum(-1) < has_a.sum(-1) * has_b.sum(-1),
        reach_a=reach_a,
        reach_b=reach_b,
    )


STORED: Kernels = replace(
    REFERENCE,
    name="arcs",
    home="otkit.kernels.arcs:STORED",
    softmin=softmin,
    sweep=sweep,
    marginals=marginals,
    transport_cost=transport_cost,
    apply_plan=apply_plan,
    c_transform=c_transform,
    select=select,
    are_costs=are_costs,
    cost_range=cost_range,
    sparsified=NUMBA.sparsified,
    conjugate_gradients=NUMBA.conjugate_gradients,
)
