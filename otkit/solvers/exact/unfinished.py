"""The plan of a basis that is not feasible yet, with the mass that it misses."""

from __future__ import annotations

import numpy as np

from otkit.geometry.base import costs_along
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba.staircase import staircase
from otkit.solvers.exact.basis import Vertex


def completed(costs: Reduced, item: int, found: Vertex, a: np.ndarray, b: np.ndarray) -> Vertex:
    """A feasible plan: scaled down where it exceeds the weights, and what is missing along a staircase."""
    mass = found.mass * _excess(found.rows, found.mass, a)[found.rows]
    mass = mass * _excess(found.cols, mass, b)[found.cols]
    short_a, short_b = (
        np.maximum(w - np.bincount(at, mass, w.size), 0.0) for at, w in ((found.rows, a), (found.cols, b))
    )
    rows, cols, cost = found.rows, found.cols, found.cost
    from_a, to_b = np.flatnonzero(short_a), np.flatnonzero(short_b)
    if from_a.size and to_b.size:
        i, j, sent, _ = (v[0] for v in staircase(short_a[None, from_a], short_b[None, to_b]))
        new = costs_along(costs, item, from_a[i], to_b[j])
        arcs = ((rows, from_a[i]), (cols, to_b[j]), (mass, sent), (cost, new))
        rows, cols, mass, cost = (np.concatenate(pair) for pair in arcs)
    missed = (abs(np.bincount(at, mass, w.size) - w).sum() for at, w in ((rows, a), (cols, b)))
    return Vertex(rows, cols, mass, cost, float(sum(missed)) + 4 * (a.size + b.size + 128) * UNIT)


def _excess(at: np.ndarray, mass: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The factor for each point that scales its mass down to its weight."""
    total = np.bincount(at, mass, w.size)
    return np.where(total > w, w / np.where(total > 0, total, 1.0), 1.0)
