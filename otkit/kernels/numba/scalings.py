"""Sinkhorn iterations by scalings, and their backward pass, compiled: one read of the kernel matrix per iteration.

Shapes for one problem: ``K (n, m)``, weights ``a (n,)`` and ``b (m,)``, scalings ``U (T, n)`` and ``V (T + 1, m)``.
"""

from __future__ import annotations

from otkit.kernels.numba.jit import exact, jit


@jit
def _dot(x, y):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@exact
def _add(factor, x, out):
    for j in range(out.size):
        out[j] += factor * x[j]


@jit
def scale(K, a, b, U, V):
    """T iterations from ``V[0]``: u = a/(K·v), v = b/(Kᵀ·u)."""
    for t in range(U.shape[0]):
        v = V[t + 1]
        v[:] = 0
        for i in range(a.size):
            U[t, i] = a[i] / _dot(K[i], V[t])
            _add(U[t, i], K[i], v)
        for j in range(b.size):
            v[j] = b[j] / v[j]


@jit
def unscale(K, per_a, per_b, U, V, by_u, by_v, W, Z):
    """Backward pass of `scale`: the cotangents ``W (T, m)`` of the sums Kᵀ·u and ``Z (T, n)`` of K·v.

    `by_u` and `by_v` are the cotangents of the last log u and log v, and are overwritten. `per_a` and `per_b` are 1/a
    and 1/b, and 0 where a weight is 0.
    """
    for t in range(U.shape[0] - 1, -1, -1):
        for j in range(by_v.size):
            W[t, j] = -by_v[j] * V[t + 1, j] * per_b[j]
            by_v[j] = 0
        for i in range(by_u.size):
            Z[t, i] = -(by_u[i] + U[t, i] * _dot(K[i], W[t])) * U[t, i] * per_a[i]
            _add(Z[t, i], K[i], by_v)
            by_u[i] = 0
        for j in range(by_v.size):
            by_v[j] *= V[t, j]
