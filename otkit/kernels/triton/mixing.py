"""Anderson mixing, compiled: new pairs of a move and a bend, the combination of the last ones, and its step.

The algorithm is that of `otkit.entropic.anderson`. Functions of columns return sums over these columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otkit.entropic import anderson
from otkit.kernels.triton.math import vector
from otkit.kernels.triton.state import RETURN, STEP, following

_PLAIN_STEPS, _WORSE, _FAR = (
    tl.constexpr(anderson.PLAIN_STEPS),
    tl.constexpr(anderson.WORSE),
    tl.constexpr(anderson.FAR),
)
_RIDGE, _LONG, _SHORT = tl.constexpr(anderson.RIDGE), tl.constexpr(anderson.LONG), tl.constexpr(anderson.SHORT)


@triton.jit
def _restarts(s, b, error):
    """Whether mixing returns to the best point, and whether no pair is written."""
    lost = error > tl.load(s.best_error + b) * _WORSE
    return lost, lost | (tl.load(s.wait + b) >= _PLAIN_STEPS)


@triton.jit
def has_pair(s, b, error):
    """Whether an item writes a pair at the end of an iteration with this error."""
    _, fresh = _restarts(s, b, error)
    return (error > tl.load(s.tol + b)) & (fresh == 0)


@triton.jit
def _ring(s, age):
    """The slot for a new pair, how many pairs there are, how many there may be, and whether it is made conjugate."""
    conjugate = age >= _LONG
    window = tl.where(conjugate, tl.minimum(_SHORT, s.window), s.window)
    # Pairs from before the last restart are ignored.
    since = tl.where(conjugate, age - _LONG, age).to(tl.int32)
    return since % window, tl.minimum(since, window), window, conjugate


@triton.jit
def _past(pointer, s, b, p, j, m, known):
    """The last moves or bends of an item at slots ``p`` below ``known`` and columns ``j``."""
    at = pointer + (b * s.window + p[:, None]) * m + j[None, :]
    return tl.load(at, mask=(p < known)[:, None] & (j < m)[None, :], other=0.0)


@triton.jit
def pair_products(s, costs, b, shift, first, end, BLOCK: tl.constexpr):
    """Write the new pair of columns to its slot.

    Returns the inner products of all bends with its bend and with the residual, and the weighted mean of its move.
    """
    slot, known, _, _ = _ring(s, tl.load(s.age + b))
    p = tl.arange(0, s.W)
    inner, along = tl.zeros((s.W, BLOCK), tl.float64), tl.zeros((s.W, BLOCK), tl.float64)
    centre = tl.zeros((BLOCK,), tl.float64)
    for start in range(first, end, BLOCK):
        j = (start + tl.arange(0, BLOCK)).to(tl.int64)
        x, before = vector(s.x, b, j, costs.m, 0.0), vector(s.residual, b, j, costs.m, 0.0)
        weight = vector(s.b, b, j, costs.m, 0.0)
        new = following(s, costs, b, j, vector(s.tau, b, j, costs.m, 0.0)) - shift
        bend, move = (new - x) - before, new - (vector(s.old, b, j, costs.m, 0.0) + before)
        at = (b * s.window + slot) * costs.m + j
        tl.store(s.moves + at, move, mask=j < costs.m)
        tl.store(s.bends + at, bend, mask=j < costs.m)
        old = _past(s.bends, s, b, p, j, costs.m, known)
        bends = tl.where((p == slot)[:, None], bend[None, :], old)
        inner += bends * (weight * bend)[None, :]
        along += bends * (weight * (new - x))[None, :]
        centre += weight * move
    return tl.sum(inner, 1), tl.sum(along, 1), tl.sum(centre) / tl.load(s.total + b)


@triton.jit
def _solve(gram, along, known, W: tl.constexpr):
    """D⁻¹x for the solution of (D⁻¹GD⁻¹ + ridge)·x = D⁻¹y by Gauss–Jordan elimination, with D² the diagonal of G."""
    p = tl.arange(0, W)
    same = p[:, None] == p[None, :]
    inside = p < known
    square = tl.sum(tl.where(same, gram, 0.0), 1)
    size = tl.sqrt(tl.where(inside & (square > 0), square, 1.0))
    A = tl.where(inside[:, None] & inside[None, :], gram / (size[:, None] * size[None, :]), 0.0)
    A += tl.where(same, tl.where(inside, _RIDGE, 1.0)[:, None], 0.0)
    x = tl.where(inside, along / size, 0.0)
    for k in range(known):
        row = tl.sum(tl.where((p == k)[:, None], A, 0.0), 0)
        col = tl.sum(tl.where((p == k)[None, :], A, 0.0), 1)
        pivot = tl.maximum(tl.sum(tl.where(p == k, row, 0.0)), 1e-3 * _RIDGE)
        factor = tl.where(p == k, 0.0, col * (1.0 / pivot))
        A -= factor[:, None] * row[None, :]
        x -= factor * tl.sum(tl.where(p == k, x, 0.0))
    diagonal = tl.maximum(tl.sum(tl.where(same, A, 0.0), 1), 1e-3 * _RIDGE)
    return tl.where(inside, x / diagonal / size, 0.0)


@triton.jit
def _conjugate(gram, inner, along, centre, slot, known, centres, W: tl.constexpr):
    """The products of a pair less its shares of the older ones, by linearity; and these shares."""
    p = tl.arange(0, W)
    size = tl.sum(tl.where(p[:, None] == p[None, :], gram, 0.0), 1)
    there = (p < known) & (p != slot) & (size > 0)
    older = tl.where(there, inner / tl.where(there, size, 1.0), 0.0)
    rest = inner - tl.sum(gram * older[None, :], 1)
    inner = tl.where(p == slot, inner - tl.sum(older * (inner + rest)), rest)
    along = tl.where(p == slot, along - tl.sum(older * along), along)
    return inner, along, centre - tl.sum(older * centres), older


@triton.jit
def _take_in(s, b, age, inner, along, centre):
    """Add a new pair to the products; returns these, and those of the bends with the residual."""
    slot, before, window, conjugate = _ring(s, age)
    p = tl.arange(0, s.W)
    squares = s.gram + (b * s.W + p[:, None]) * s.W + p[None, :]
    old = tl.where((p < before)[:, None], tl.load(squares), 0.0)
    older, means = tl.zeros((s.W,), tl.float64), tl.load(s.centres + b * s.W + p)
    if conjugate:
        inner, along, centre, older = _conjugate(old, inner, along, centre, slot, before, means, s.W)
    gram = tl.where((p == slot)[:, None], inner[None, :], tl.where((p == slot)[None, :], inner[:, None], old))
    tl.debug_barrier()
    tl.store(squares, gram)
    tl.store(s.centres + b * s.W + p, tl.where(p == slot, centre, means))
    tl.store(s.older + b * s.W + p, older)
    tl.store(s.slot + b, tl.where(conjugate, slot, -1))
    return gram, along, tl.minimum(before + 1, window)


@triton.jit
def mix(s, b, error, inner, along, centre):
    """Decide how an item mixes, from the products of its new pair."""
    best_error, wait, age = tl.load(s.best_error + b), tl.load(s.wait + b), tl.load(s.age + b)
    lost, fresh = _restarts(s, b, error)
    tl.debug_barrier()  # all threads have read what follows writes
    wait = tl.where(lost, _PLAIN_STEPS, wait - 1.0)
    known, share = lost.to(tl.int32) * 0, tl.zeros((s.W,), tl.float64)
    if fresh == 0:
        gram, along, known = _take_in(s, b, age, inner, along, centre)
        if (wait <= 0.0) & (error <= _FAR):
            share = _solve(gram, along, known, s.W)
    tl.store(s.shares + b * s.W + tl.arange(0, s.W), share)
    tl.store(s.known + b, known)
    tl.store(s.action + b, tl.where(lost, RETURN, STEP))
    tl.store(s.better + b, (error < best_error).to(tl.int32))
    tl.store(s.best_error + b, tl.where(lost, float("inf"), tl.minimum(error, best_error)))
    tl.store(s.wait + b, wait)
    tl.store(s.age + b, tl.where(fresh, 0.0, age + 1.0))


@triton.jit
def combine_columns(s, costs, b, first, end, BLOCK: tl.constexpr):
    """Store the step of columns from the plain point to the combination of the last ones with the smallest residual.

    The pair that was written last is made conjugate first, if it has to be. Returns the longest step.
    """
    slot, known = tl.load(s.slot + b), tl.load(s.known + b)
    p = tl.arange(0, s.W)
    share, means = tl.load(s.shares + b * s.W + p), tl.load(s.centres + b * s.W + p)
    # A constant does not change the plan, and nothing bounds it. The same holds for columns without mass.
    mean = tl.sum(tl.where(p < known, share * means, 0.0))
    furthest = tl.zeros((BLOCK,), tl.float64)
    for start in range(first, end, BLOCK):
        j = (start + tl.arange(0, BLOCK)).to(tl.int64)
        moves = _past(s.moves, s, b, p, j, costs.m, known)
        if slot >= 0:
            part = tl.where(p == slot, 1.0, -tl.load(s.older + b * s.W + p))[:, None]
            move, bend = tl.sum(moves * part, 0), tl.sum(_past(s.bends, s, b, p, j, costs.m, known) * part, 0)
            moves = tl.where((p == slot)[:, None], move[None, :], moves)
            at = (b * s.window + slot) * costs.m + j
            tl.store(s.moves + at, move, mask=j < costs.m)
            tl.store(s.bends + at, bend, mask=j < costs.m)
        here = vector(s.b, b, j, costs.m, 0.0) > 0
        change = tl.where(here, mean - tl.sum(moves * share[:, None], 0), 0.0)
        furthest = tl.maximum(furthest, tl.abs(tl.where(change == change, change, float("inf"))))
        tl.store(s.change + b * costs.m + j, change, mask=j < costs.m)
    return tl.max(furthest)
