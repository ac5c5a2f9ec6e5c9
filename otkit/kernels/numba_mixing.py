"""Anderson mixing of one item, compiled: see `otkit.kernels.mixing`."""

from __future__ import annotations

import numpy as np

from otkit.kernels.mixing import FAR as _FAR
from otkit.kernels.mixing import LONG as _LONG
from otkit.kernels.mixing import PLAIN_STEPS as _PLAIN_STEPS
from otkit.kernels.mixing import RIDGE as _RIDGE
from otkit.kernels.mixing import SHORT as _SHORT
from otkit.kernels.mixing import WORSE as _WORSE
from otkit.kernels.numba_math import clear, copy, dot, jit, most, wide


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
    """The inner products of what an item remembers."""
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
def _remember(slot, known, conjugate, b, moves, bends, gram):
    """Take in the pair of this slot: made orthogonal to the others where they are `conjugate`."""
    if conjugate:
        for p in range(known):
            if p != slot and gram[p, p] > 0.0:
                share = dot(_weighted(b, bends[p]), bends[slot]) / gram[p, p]
                _subtract(bends[slot], share, bends[p])
                _subtract(moves[slot], share, moves[p])
    weighted = _weighted(b, bends[slot])
    for p in range(known):
        gram[p, slot] = gram[slot, p] = dot(weighted, bends[p])


@jit
def _solve(gram, size, share):
    """Solve (D⁻¹GD⁻¹ + ridge)·x = D⁻¹y in place, for the diagonal D of the sizes: by Cholesky's factorisation."""
    known = size.size
    L = np.zeros((known, known))
    for p in range(known):
        share[p] /= size[p]
        for q in range(p + 1):
            entry = gram[p, q] / (size[p] * size[q])
            for k in range(q):
                entry -= L[p, k] * L[q, k]
            L[p, q] = entry / L[q, q] if q < p else np.sqrt(max(entry + _RIDGE, 1e-3 * _RIDGE))
        for k in range(p):
            share[p] -= L[p, k] * share[k]
        share[p] /= L[p, p]
    for p in range(known - 1, -1, -1):
        for k in range(p + 1, known):
            share[p] -= L[k, p] * share[k]
        share[p] /= L[p, p]


@jit
def _combine(g, known, b, reach, moves, bends, gram, residual):
    """Go from the plain step ``g`` to the combination of the last points whose residuals cancel best."""
    size, share, change = np.ones(known), np.zeros(known), np.zeros(g.size)
    weighted = _weighted(b, residual)
    for p in range(known):
        if gram[p, p] > 0.0:
            size[p] = np.sqrt(gram[p, p])
        share[p] = dot(weighted, bends[p])
    _solve(gram, size, share)
    for p in range(known):
        _subtract(change, share[p] / size[p], moves[p])
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
def mix(g, new, error, b, reach, moves, bends, gram, memory, point, residual, best):
    """As `otkit.kernels.mixing.mix`, in place: ``g`` becomes the next point."""
    window, m = moves.shape
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
    if fresh:
        age = 0.0
    else:
        slot = int(age) % window
        for j in range(m):
            bends[slot, j] = (new[j] - g[j]) - residual[j]
            moves[slot, j] = new[j] - (point[j] + residual[j])
        age += 1.0
        _remember(slot, min(int(age), window), conjugate, b, moves, bends, gram)
    for j in range(m):
        point[j] = g[j]
        residual[j] = new[j] - g[j]

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
        _combine(g, min(int(age), window), b, reach, moves, bends, gram, residual)
