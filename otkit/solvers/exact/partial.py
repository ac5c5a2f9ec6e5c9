"""Small problems of partial transport, from the caller's arrays to the compiled pass of exact problems."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit.arrays import made
from otkit.geometry.base import GivenGeometry
from otkit.geometry.bordered import Bordered
from otkit.geometry.costs import UNIT
from otkit.geometry.dense import Dense
from otkit.kernels import choose
from otkit.problems.partial import corner_cost
from otkit.results.result import Result
from otkit.solvers import small
from otkit.solvers.exact import small as exact

# Maximum number of entries of a problem. Of larger ones the time goes to the pass.
_LARGEST = 2**15
_NOTHING = small.constant([[0.0]], float)
_FIRST = small.constant([0], np.int64)


def solved(geometry: GivenGeometry, a: Any, b: Any, mass: Any) -> Result | None:
    """The solution of the balanced problem with one more row and column; None where the general way must look.

    That is where an argument is no ordinary array, a cost is infinite, a weight is 0, or a mass is not allowed.
    """
    if type(geometry) is not Dense or type(mass) not in (int, float, np.float64):
        return None
    C, mass = geometry.C, float(mass)
    if not small.ordinary(C) or C.ndim != 2 or not 0 < C.size <= _LARGEST:
        return None
    n, m = C.shape
    a, b = (np.full(size, 1 / size) if w is None else w for w, size in ((a, n), (b, m)))
    if not (small.ordinary(a) and small.ordinary(b) and a.shape == (n,) and b.shape == (m,)):
        return None
    low, high = float(C.min()), float(C.max())
    if not (-np.inf < low and high < np.inf and 0 < mass <= min(float(a.sum()), float(b.sum()))):
        return None
    a, b = (np.minimum(w, 2 * mass) for w in (a, b))  # as in `otkit.problems.partial`
    total_a, total_b = float(a.sum()), float(b.sum())
    weights = np.concatenate((a, (total_b - mass,), b, (total_a - mass,)))
    corner = corner_cost(low, high)
    if not (np.count_nonzero(weights[:-1] > 0) >= n + m and corner < np.inf):
        return None
    matrix = np.zeros((1, n + 1, m + 1))
    matrix[0, :n, :m], matrix[0, n, m] = C, corner
    return exact.solved_as_read(_read(geometry, matrix, (weights[: n + 1], weights[n + 1 :])))


def _read(geometry: Dense, matrix: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> small.Read:
    """What `small.read` gives for the costs with a border, which `matrix (1, n + 1, m + 1)` has."""
    corner = matrix[:, -1, -1:]
    whole = made(Bordered, inner=geometry, edges=(_NOTHING[0], _NOTHING[0], corner[0]))
    flat = made(Bordered, inner=geometry.flat(()), edges=(_NOTHING, _NOTHING, corner))
    return small.Read(
        asked=whole,
        owned=whole,
        flat=flat,
        weights=weights,
        kernels=choose(flat),
        library="numpy",
        batch=(),
        items=1,
        dtype=small.F64,
        unit=UNIT,
        costs=(matrix, small.NO_POINTS, small.NO_POINTS, small.EXACT_COSTS),
        entries=matrix.size,
        measures=(*weights, *(np.array([(0, w.size)]) for w in weights), _FIRST, _FIRST),
    )
