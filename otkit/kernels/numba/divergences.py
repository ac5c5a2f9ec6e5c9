"""Divergences between the softmaxes of rows of logits, and their gradients by the logits of the first side, compiled.

Each entry takes two exponentials. A row is read from memory once: later passes find it, or some entries of it, in a
cache. Rows with a logit that is not finite are left to the caller, whose formulas say what they mean.
"""

from __future__ import annotations

import math

import numpy as np

from otkit.kernels.numba.jit import copy, exact, jit, log, most, wide
from otkit.kernels.numba.softmax import exponentials

KL, REVERSE_KL, JS, TV, CROSS_ENTROPY = range(5)

# Sums and differences of numbers up to this size are finite in either precision.
_LARGEST = 1e37
# Entries that loops process at a time: what one writes, the next reads from the first-level cache.
_BLOCK = 1024


@jit
def _survey(x, y):
    """The largest entries, and the sum of all sizes, which is finite only if all entries are."""
    wide()
    top_x, top_y, size = x[0], y[0], x.dtype.type(0)
    for j in range(x.size):
        top_x, top_y = most(top_x, x[j]), most(top_y, y[j])
        size += abs(x[j]) + abs(y[j])
    return top_x, top_y, size


@jit
def _sums(x, y, top_x, top_y, both, p, q, w):
    """Σp, Σq and Σw·((y − top) − (x − top)), without the part of y unless `both` is 1."""
    wide()
    zero = x.dtype.type(0)
    total_p, total_q, total = zero, zero, zero
    for j in range(x.size):
        total_p += p[j]
        total_q += q[j]
        total += w[j] * (both * (y[j] - top_y) - (x[j] - top_x))
    return total_p, total_q, total


@jit
def _soften(x, y, top_x, top_y, inverse, kind, p, q):
    """Write both softmaxes without their denominators. Returns these, and a sum for the value."""
    total_p, total_q, total = 0.0, 0.0, 0.0
    both = x.dtype.type(kind != CROSS_ENTROPY)
    for low in range(0, x.size, _BLOCK):
        part = slice(low, min(low + _BLOCK, x.size))
        exponentials(x[part], top_x, inverse, p[part])
        exponentials(y[part], top_y, inverse, q[part])
        w = p[part] if kind == REVERSE_KL else q[part]
        by_p, by_q, by = _sums(x[part], y[part], top_x, top_y, both, p[part], q[part], w)
        total_p, total_q, total = total_p + by_p, total_q + by_q, total + by
    return total_p, total_q, total


@exact
def _log_of_larger(u, v):
    """The logarithm of the larger of two probabilities over their mean: from 0 to log 2, accurate near 0."""
    s = abs(u - v) / (np.float32(3) * max(u, v) + min(u, v) + np.float32(1e-37))
    z = s * s
    c = np.float32(1 / 13)
    c = c * z + np.float32(1 / 11)
    c = c * z + np.float32(1 / 9)
    c = c * z + np.float32(1 / 7)
    c = c * z + np.float32(1 / 5)
    c = c * z + np.float32(1 / 3)
    return np.float32(2) * (s + s * z * c)


@jit
def _log_ratios(x, y, tops, inverse, log_ratio, p, q, log_p, log_q):
    """Write the logarithms of the probabilities p and q over their mean."""
    wide()
    zero = x.dtype.type(0)
    for j in range(x.size):
        if x.itemsize == 4:
            larger = _log_of_larger(p[j], q[j])
        else:
            larger = log(max(2 * max(p[j], q[j]) / (p[j] + q[j] + 1e-300), 1.0))
        t = ((y[j] - tops[1]) - (x[j] - tops[0])) * inverse + log_ratio
        log_p[j] = larger - max(t, zero)
        log_q[j] = larger + min(t, zero)


@jit
def _products(p, log_p, q, log_q):
    wide()
    one, other = p.dtype.type(0), p.dtype.type(0)
    for j in range(p.size):
        one += p[j] * log_p[j]
        other += q[j] * log_q[j]
    return one, other


@jit
def _from_middle(x, y, tops, inverse, log_ratio, p, q, work):
    """KL(p | m) and KL(q | m) from the mean m of both probabilities. Writes log p/m to q."""
    one, other = 0.0, 0.0
    for low in range(0, x.size, _BLOCK):
        part = slice(low, min(low + _BLOCK, x.size))
        log_p, log_q = work[0, : part.stop - low], work[1, : part.stop - low]
        _log_ratios(x[part], y[part], tops, inverse, log_ratio, p[part], q[part], log_p, log_q)
        by_p, by_q = _products(p[part], log_p, q[part], log_q)
        one, other = one + by_p, other + by_q
        copy(log_p, q[part])
    return one, other


@jit
def _scale(p, q, per_p, per_q):
    wide()
    for j in range(p.size):
        p[j] *= per_p
        q[j] *= per_q


@jit
def _differences(p, q):
    """Σ|p − q| and Σp·sign(p − q)."""
    wide()
    zero = p.dtype.type(0)
    apart, signed = zero, zero
    for j in range(p.size):
        apart += abs(p[j] - q[j])
        signed += p[j] if p[j] > q[j] else (-p[j] if p[j] < q[j] else zero)
    return apart, signed


@jit
def _combine(p, q, by_p, by_q):
    wide()
    for j in range(p.size):
        p[j] = by_p * p[j] - by_q * q[j]


@jit
def _weigh(p, t, factor, less):
    wide()
    for j in range(p.size):
        p[j] *= factor * t[j] - less


@jit
def _weigh_logits(p, x, y, top_x, top_y, factor, less):
    wide()
    for j in range(p.size):
        p[j] *= factor * ((x[j] - top_x) - (y[j] - top_y)) - less


@jit
def _weigh_signs(p, q, factor, less):
    wide()
    zero = p.dtype.type(0)
    for j in range(p.size):
        sign = factor if p[j] > q[j] else (-factor if p[j] < q[j] else zero)
        p[j] *= sign - less


@jit
def _row(x, y, inverse, kind, factor, p, q, work):
    """The divergence of two rows, NaN unless all logits are finite; p becomes its gradient, times a factor."""
    t_ = x.dtype.type
    top_x, top_y, size = _survey(x, y)
    if not size < _LARGEST:
        return np.nan
    tops, inverse_ = (top_x, top_y), t_(inverse)
    total_p, total_q, total = _soften(x, y, top_x, top_y, inverse_, kind, p, q)
    log_ratio, factor = math.log(total_p) - math.log(total_q), factor * inverse
    if kind in (KL, CROSS_ENTROPY):
        _combine(p, q, t_(factor / total_p), t_(factor / total_q))
        return inverse * total / total_q + (log_ratio if kind == KL else math.log(total_p))
    if kind == REVERSE_KL:
        value = -inverse * total / total_p - log_ratio
        _weigh_logits(p, x, y, top_x, top_y, t_(factor / total_p * inverse), t_(factor / total_p * (value + log_ratio)))
        return value
    _scale(p, q, t_(1 / total_p), t_(1 / total_q))
    if kind == JS:
        one, other = _from_middle(x, y, tops, inverse_, t_(log_ratio), p, q, work)
        _weigh(p, q, t_(factor / 2), t_(factor / 2 * one))
        return (one + other) / 2
    apart, signed = _differences(p, q)
    _weigh_signs(p, q, t_(factor / 2), t_(factor / 2 * signed))
    return apart / 2


@jit
def divergences(kind, inverse, weight, x, y, factor, values, gradient):
    """Weighted divergences of softmaxes of ``inverse·x`` and ``inverse·y (r, V)``, and their gradients times a factor.

    Values are NaN where a logit is not finite, or very large. Gradients then mean nothing. Those of no rows are not
    written.
    """
    q, work = np.empty(x.shape[1], x.dtype), np.empty((2, _BLOCK), x.dtype)
    spare = np.empty(x.shape[1] if len(gradient) == 0 else 0, x.dtype)
    for i in range(len(x)):
        p = spare if len(gradient) == 0 else gradient[i]
        values[i] = weight * _row(x[i], y[i], inverse, kind, weight * factor, p, q, work)
