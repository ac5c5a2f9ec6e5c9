"""Anderson mixing of one item, compiled: see `otkit.entropic.anderson`."""

from __future__ import annotations

import numpy as np

from otkit.entropic.anderson import FAR as _FAR
from otkit.entropic.anderson import LONG as _LONG
from otkit.entropic.anderson import PLAIN_STEPS as _PLAIN_STEPS
from otkit.entropic.anderson import RIDGE as _RIDGE
from otkit.entropic.anderson import SHORT as _SHORT
from otkit.entropic.anderson import WORSE as _WORSE
from otkit.kernels.numba.jit import STRIDE, clear, copy, dot, jit, most, wide


@jit
def _weighted(b, x):
    out = np.empty(x.size)
    for j in range(x.size):
        out[j] = b[j] * x[j]
    return out


@jit
def _subtract(x, factor, y):
    wide()
    for j in range(x.size):
        x[j] -= factor * y[j]


@jit
def start_window(b, bends, gram):
    """Inner products of the stored bends of an item."""
    for p in range(bends.shape[0]):
        weighted = _weighted(b, bends[p])
        for q in range(p + 1):
            gram[p, q] = gram[q, p] = dot(weighted, bends[q])


@jit
def _forget(moves, bends, gram):
    for p in range(moves.shape[0]):
        clear(moves[p])
        clear(bends[p])
        clear(gram[p])


@jit
def _make_conjugate(slot, known, b, moves, bends, gram):
    """Make the pair in this slot conjugate to the others."""
    for p in range(known):
        if p != slot and gram[p, p] > 0.0:
            share = dot(_weighted(b, bends[p]), bends[slot]) / gram[p, p]
            _subtract(bends[slot], share, bends[p])
            _subtract(moves[slot], share, moves[p])


@jit
def _dots(x, y, z):
    """Inner products of x with two vectors, in one pass."""
    wide()
    first = second = 0.0
    for j in range(x.size):
        first += x[j] * y[j]
        second += x[j] * z[j]
    return first, second


@jit
def _multiply(slot, known, b, bends, gram, residual, share):
    """Inner products of all bends with the bend in this slot, and with the residual."""
    bend, rest = _weighted(b, bends[slot]), _weighted(b, residual)
    for p in range(known):
        product, share[p] = _dots(bends[p], bend, rest)
        gram[p, slot] = gram[slot, p] = product


@jit
def _solve(gram, share):
    """Solve (D⁻¹GD⁻¹ + ridge)·x = D⁻¹y, with D² the diagonal of G; y is overwritten by D⁻¹x.

    The method is a row-wise Cholesky factorisation, with y as an additional column.
    """
    known = share.size
    stride = -(-(known + 1) // STRIDE) * STRIDE
    inverse, x, U = np.ones(known), np.zeros(stride), np.zeros((known, stride))
    for p in range(known):
        if gram[p, p] > 0.0:
            inverse[p] = 1.0 / np.sqrt(gram[p, p])
    for p in range(known):
        for q in range(p, known):
            U[p, q] = gram[p, q] * (inverse[p] * inverse[q])
        U[p, known] = share[p] * inverse[p]
    for p in range(known):
        scale = 1.0 / np.sqrt(max(U[p, p] + _RIDGE, 1e-3 * _RIDGE))
        for j in range(stride):
            U[p, j] *= scale
        for q in range(p + 1, known):
            factor = U[p, q]
            for j in range(stride):
                U[q, j] -= factor * U[p, j]
        U[p, p] = scale  # the inverse pivot, for back substitution
    for p in range(known - 1, -1, -1):
        x[p] = (U[p, known] - dot(U[p], x)) * U[p, p]
        share[p] = x[p] * inverse[p]


@jit
def _combine(g, share, b, reach, moves, gram):
    """Move from the plain step ``g`` to the combination of the last points with the smallest residual."""
    change = np.zeros(g.size)
    _solve(gram, share)
    for p in range(share.size):
        _subtract(change, share[p], moves[p])
    mean, weight, furthest = 0.0, 0.0, 0.0
    for j in range(g.size):
        mean += b[j] * change[j]
        weight += b[j]
    for j in range(g.size):
        change[j] = change[j] - mean / weight if b[j] > 0.0 else 0.0
    finite = True
    for j in range(g.size):
        finite = finite and abs(change[j]) < np.inf
        furthest = most(furthest, abs(change[j]))
    if finite and furthest > 0.0:
        _subtract(g, -min(1.0, reach / furthest), change)


@jit
def _remember(slot, g, new, b, moves, bends, gram, point, residual, share, fresh, conjugate):
    """Store the step from ``g`` to ``new``, and its pair of differences in this slot unless the history is `fresh`."""
    if not fresh:
        for j in range(g.size):
            bends[slot, j] = (new[j] - g[j]) - residual[j]
            moves[slot, j] = new[j] - (point[j] + residual[j])
    for j in range(g.size):
        point[j] = g[j]
        residual[j] = new[j] - g[j]
    if not fresh:
        if conjugate:
            _make_conjugate(slot, share.size, b, moves, bends, gram)
        _multiply(slot, share.size, b, bends, gram, residual, share)


@jit
def mix(g, new, error, b, reach, moves, bends, gram, memory, point, residual, best):
    """As `otkit.entropic.anderson.mix`, in place: ``g`` is overwritten by the next point."""
    window = moves.shape[0]
    if window == 0:
        copy(new, g)
        return
    best_error, wait, age = memory[0], memory[1], memory[2]
    lost = error > _WORSE * best_error
    fresh = lost or wait >= _PLAIN_STEPS
    if fresh or age == _LONG:
        _forget(moves, bends, gram)
    conjugate = age >= _LONG
    if conjugate:
        window = min(_SHORT, window)
    slot = int(age) % window
    age = 0.0 if fresh else age + 1.0
    share = np.empty(min(int(age), window))
    _remember(slot, g, new, b, moves, bends, gram, point, residual, share, fresh, conjugate)

    if lost:
        copy(best, g)
        memory[0], memory[1], memory[2] = np.inf, _PLAIN_STEPS, age
        return
    wait -= 1.0
    if error < best_error:
        copy(new, best)
    memory[0], memory[1], memory[2] = min(error, best_error), wait, age
    copy(new, g)
    if wait <= 0.0 and error <= _FAR:
        _combine(g, share, b, reach, moves, gram)
