"""Gradients of costs by points, compiled: the entries of a plan with weights, and their products with the points.

A tile of costs and the offsets that reduce it are as in `otkit.kernels.numba.entries`.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.distances import ALONE
from otkit.kernels.numba.entries import _entries, _exponent, _log_entry, _reduced
from otkit.kernels.numba.jit import clear, copy, exp, exp_single, jit, least, most, wide


@jit
def _relative(C, i, row, col, transposed, f, g, log_a, log_b, inverse, e, out):
    """P of one row in single precision, over its largest entry; returns the logarithm of this one."""
    wide()
    top = -np.inf
    for j in range(e.size):
        exponent = _exponent(C[j], row[i], col[j], transposed, f[i] + g[j], inverse)
        e[j] = _log_entry(exponent, log_a[i], log_b[j])
    for j in range(e.size):
        top = most(top, e[j])
    shift = top if top > -np.inf else 0.0
    for j in range(e.size):
        out[j] = e[j] - shift
    for j in range(e.size):
        out[j] = exp_single(out[j])
    return top


@jit
def _span(x):
    """The largest absolute value, and whether all values are this one."""
    top, bottom = 0.0, np.inf
    for j in range(x.size):
        top = most(top, abs(x[j]))
    for j in range(x.size):
        bottom = least(bottom, x[j])
    return top, top == bottom


@jit
def _products(u, V, slope, C, i, row, col, transposed, out):
    """Σ_r u_r·V_rj + slope·C_ij of one row."""
    clear(out)
    for rank in range(V.shape[0]):
        factor, v = u[rank], V[rank]
        for j in range(out.size):
            out[j] += factor * v[j]
    if slope != 0.0:
        for j in range(out.size):
            out[j] += slope * _reduced(C[j], row[i], col[j], transposed)


@jit
def weighted(C, low, high, first, row, col, transposed, f, g, log_a, log_b, reg, U, V, slope, out, scale):
    """The entries of the plan times Σ_k U_ik·V_kj + slope·C_ij: ``out (high − low, r, m)`` times ``scale`` of each row.

    In single precision, entries and weights are those over their largest one: neither under- nor overflows.
    """
    single = out.itemsize == 4
    weights, e = np.empty(g.shape[1]), np.empty(g.shape[1])
    for k in range(low, high):
        tile, W = C[(k - low) % C.shape[0]], out[k - low]
        simple = V.shape[1] == 1 and slope[k] == 0.0  # all rows have the same weights
        if simple:
            copy(V[k, 0], weights)
        size, equal = _span(weights) if simple else (0.0, False)
        for r in range(tile.shape[0]):
            i, inverse = first + r, 1.0 / reg[k]
            if not simple:
                _products(U[k, i], V[k], slope[k], tile[r], i, row[k], col[k], transposed, weights)
                size, equal = _span(weights)
            factor = U[k, i, 0] if simple else 1.0
            if single:
                top = _relative(
                    tile[r], i, row[k], col[k], transposed, f[k], g[k], log_a[k], log_b[k], inverse, e, W[r]
                )
                factor *= exp(top)
            else:
                _entries(tile[r], i, row[k], col[k], transposed, f[k], g[k], log_a[k], log_b[k], inverse, W[r])
            if equal:
                factor *= size
            elif single and 0.0 < size < np.inf:
                factor *= size
                for j in range(weights.size):
                    W[r, j] *= weights[j] / size
            else:
                for j in range(weights.size):
                    W[r, j] *= weights[j]
            scale[k - low, r] = factor


@jit
def _times(W, y, unit, out):
    """Subtract W·y times `unit` from ``out``, by products that BLAS does in one thread."""
    d = y.shape[1]
    height = max(1, min(W.shape[0], int(np.sqrt(ALONE / d))))
    width = max(1, ALONE // (d * height))
    for i in range(0, W.shape[0], height):
        for j in range(0, W.shape[1], width):
            product = np.dot(np.ascontiguousarray(W[i : i + height, j : j + width]), y[j : j + width])
            for r in range(len(product)):
                for c in range(d):
                    out[i + r, c] -= unit * product[r, c]


@jit
def pulled(W, scale, low, first, x, y, length, out):
    """2·scale_i·Σ_j W_ij·(x_i − y_j) for weights ``(k, r, m)`` of rows ``first…`` of items ``low…``.

    ``y`` has the points over their ``length (k or 1,)``, in the precision of the weights.
    """
    for k in range(W.shape[0]):
        xk, sums = x[(low + k) % x.shape[0], first:], out[low + k, first : first + W.shape[1]]
        for r in range(W.shape[1]):
            total = 0.0
            for j in range(W.shape[2]):
                total += W[k, r, j]
            for c in range(x.shape[2]):
                sums[r, c] = total * xk[r, c]
        _times(W[k], y[(low + k) % y.shape[0]], length[(low + k) % length.size], sums)
        for r in range(W.shape[1]):
            for c in range(x.shape[2]):
                sums[r, c] *= 2.0 * scale[k, r]
