"""L1 distances between rows, and their gradient, compiled.

Both kernels process a few coordinates: ``x (n, w)`` of the first side, and ``y (w, m)`` of the other side, transposed
so that inner loops run over points. They write to the rows ``low…high`` of the first side. Threads divide these rows.
"""

from __future__ import annotations

from otkit.kernels.numba.jit import exact, jit


@exact
def _accumulate(x, y, out):
    # Four coordinates per pass, so that the sums are read and written a quarter as often.
    d = x.size - x.size % 4
    for k in range(0, d, 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        y0, y1, y2, y3 = y[k], y[k + 1], y[k + 2], y[k + 3]
        for j in range(out.size):
            out[j] += (abs(x0 - y0[j]) + abs(x1 - y1[j])) + (abs(x2 - y2[j]) + abs(x3 - y3[j]))
    for k in range(d, x.size):
        xk, yk = x[k], y[k]
        for j in range(out.size):
            out[j] += abs(xk - yk[j])


@jit
def add_distances(x, y, out, low, high):
    """Add Σ_k |x_ik − y_kj| to ``out (n, m)``."""
    for i in range(low, high):
        _accumulate(x[i], y, out[i])


@jit
def _signed(x, y, c):
    total = c.dtype.type(0)
    for j in range(c.size):
        total += c[j] if x > y[j] else (-c[j] if x < y[j] else c.dtype.type(0))
    return total


@jit
def distance_gradient(x, y, c, out, low, high):
    """Set ``out (n, w)`` to Σ_j c_ij·sign(x_ik − y_kj), the sign of 0 being 0."""
    for i in range(low, high):
        for k in range(x.shape[1]):
            out[i, k] = _signed(x[i, k], y[k], c[i])
