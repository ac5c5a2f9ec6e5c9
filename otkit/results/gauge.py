"""The gauge: the constant between the potentials, on every connected component."""

from __future__ import annotations

import numpy as np

from otkit.arrays import to_numpy
from otkit.linalg.trees import components
from otkit.problems.linear import LinearProblem


def gauge_components(problem: LinearProblem, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Potentials of equal mean on both sides of every connected component of balanced items."""
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    f, g = f.copy(), g.copy()
    geometry = problem.reduced.to_numpy()
    for k in np.flatnonzero(problem.balanced):
        finite = np.isfinite(geometry.block(slice(k, k + 1), slice(None))[0])
        rows, cols = components(finite & (a[k] > 0)[:, None] & (b[k] > 0))
        for label in np.unique(rows[a[k] > 0]):
            r, c = rows == label, cols == label
            mean_f, mean_g = np.average(f[k, r], weights=a[k, r]), np.average(g[k, c], weights=b[k, c])
            f[k, r] += (mean_g - mean_f) / 2
            g[k, c] -= (mean_g - mean_f) / 2
    return f, g
