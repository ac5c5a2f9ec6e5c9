"""Softmaxes of rows, and their gradient, compiled."""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import dot, exp, exp_single, jit, wide


@jit
def _top(x):
    """The largest entry, and whether one is NaN or +inf: then it has no meaning."""
    wide()
    one, zero = x.dtype.type(1), x.dtype.type(0)
    top, bad = x[0], zero
    for j in range(x.size):
        top = x[j] if x[j] > top else top
        bad += zero if x[j] < np.inf else one
    return top, bad > zero


@jit
def exponentials(x, top, inverse, out):
    """Set `out` to exp((x − top)·inverse)."""
    wide()
    for j in range(x.size):
        v = (x[j] - top) * inverse
        out[j] = exp_single(v) if out.itemsize == 4 else exp(v)


@jit
def _sum(x):
    wide()
    total = 0.0
    for j in range(x.size):
        total += x[j]
    return total


@jit
def _multiply(factor, x):
    wide()
    for j in range(x.size):
        x[j] *= factor


@jit
def _fill(value, x):
    for j in range(x.size):
        x[j] = value


@jit
def softmax(x, inverse, out):
    """Set `out` to the softmaxes of the rows ``inverse·x (n, V)``: NaN in rows with NaN, +inf, or only −inf."""
    for i in range(len(x)):
        top, bad = _top(x[i])
        if bad or top == -np.inf:
            _fill(np.nan, out[i])
        else:
            exponentials(x[i], top, x.dtype.type(inverse), out[i])
            _multiply(x.dtype.type(1.0 / _sum(out[i])), out[i])


@jit
def softmax_gradient(p, by_p, inverse, out):
    """Set `out` to the gradient by `x` of `softmax`, for that by its result `p`."""
    factor = p.dtype.type(inverse)
    for i in range(len(p)):
        mean = p.dtype.type(dot(p[i], by_p[i]))
        _gradient(p[i], by_p[i], mean, factor, out[i])


@jit
def _gradient(p, by_p, mean, factor, out):
    wide()
    for j in range(p.size):
        out[j] = factor * p[j] * (by_p[j] - mean)
