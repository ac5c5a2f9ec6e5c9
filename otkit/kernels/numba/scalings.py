"""Sinkhorn iterations by scalings, and their backward pass, compiled: one read of the kernel matrix per iteration.

Shapes for one problem: ``K (n, m)``, weights ``a (n,)`` and ``b (m,)``, scalings ``U (T, n)`` and ``V (T + 1, m)``.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import copy, exact, jit, raise_all


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


@jit
def _exponents(L, inverse, out):
    """Write (L_ij − max_j L_ij)/reg; returns the least, and the number of those that are no number."""
    lowest, bad = L.dtype.type(0), 0
    for i in range(L.shape[0]):
        top = -np.inf
        for j in range(L.shape[1]):
            top = L[i, j] if L[i, j] > top else top
        for j in range(L.shape[1]):
            out[i, j] = (L[i, j] - L.dtype.type(top)) * inverse
        for j in range(L.shape[1]):
            bad += not out[i, j] <= 0
            lowest = out[i, j] if out[i, j] < lowest else lowest
    return lowest, bad


@jit
def rounds(L, inverse, limit, n_iters, E, P, far):
    """The matrices exp(L/reg) after some rounds, ``(B, n, n)``, with weights of 1, to P; E has their exponentials.

    Matrices of which an exponent is below −limit are `far`, and left out. Those with NaN, or a row without a finite
    maximum, are NaN.
    """
    n = E.shape[1]
    one, U, V = np.ones(n, E.dtype), np.empty((n_iters, n), E.dtype), np.ones((n_iters + 1, n), E.dtype)
    for k in range(len(E)):
        lowest, bad = _exponents(L[k], inverse, E[k])
        far[k] = not bad and lowest < -limit
        if bad or far[k]:
            E[k] = np.nan if bad else 1.0
        else:
            raise_all(E[k])
        scale(E[k], one, one, U, V)
        for i in range(n):
            for j in range(n):
                P[k, i, j] = E[k, i, j] * U[n_iters - 1, i] * V[n_iters, j]


@jit
def rounds_gradient(E, n_iters, by_P, by_E):
    """The gradient of `rounds` by log E, from scalings that are computed again."""
    n = E.shape[1]
    one, U, V = np.ones(n, E.dtype), np.empty((n_iters, n), E.dtype), np.ones((n_iters + 1, n), E.dtype)
    W, Z = np.empty((n_iters, n), E.dtype), np.empty((n_iters, n), E.dtype)
    by_u, by_v, row = np.empty(n, E.dtype), np.empty(n, E.dtype), np.empty(n, E.dtype)
    for k in range(len(E)):
        K = E[k]
        scale(K, one, one, U, V)
        u, v = U[n_iters - 1], V[n_iters]
        by_v[:] = 0
        for i in range(n):
            for j in range(n):
                by_E[k, i, j] = by_P[k, i, j] * u[i] * v[j]
            by_u[i] = _dot(by_E[k, i], K[i])
            for j in range(n):
                by_v[j] += by_E[k, i, j] * K[i, j]
        unscale(K, one, one, U, V, by_u, by_v, W, Z)
        for i in range(n):
            copy(by_E[k, i], row)
            for t in range(n_iters):
                _add(U[t, i], W[t], row)
                _add(Z[t, i], V[t], row)
            for j in range(n):
                by_E[k, i, j] = row[j] * K[i, j]
