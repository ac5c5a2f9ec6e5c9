"""The end of an iteration, compiled: errors, the optimal constant between the potentials, and Anderson mixing.

The algorithm is that of `otkit.entropic.anderson` and of the end of `otkit.entropic.sinkhorn.iterate`, with one program
for each item.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from otkit.entropic import anderson
from otkit.kernels.triton.math import LN_2, LOG2_E, vector

_PLAIN_STEPS, _WORSE, _FAR = (
    tl.constexpr(anderson.PLAIN_STEPS),
    tl.constexpr(anderson.WORSE),
    tl.constexpr(anderson.FAR),
)
_RIDGE, _LONG, _SHORT = tl.constexpr(anderson.RIDGE), tl.constexpr(anderson.LONG), tl.constexpr(anderson.SHORT)
# Number of slots of the history that are processed at a time.
_GROUP = tl.constexpr(8)


class State(NamedTuple):
    """The arrays of a sweep, as an argument of kernels.

    Fields with the names of `otkit.entropic` are float64 arrays. ``x`` is the current point; ``old``, ``residual`` and
    ``best`` are the points and the residual of `Mixing`. The others are:

    Attributes
    ----------
    running : int32 array (B,)
        Whether an item still runs.
    robust, missed : int32 array (B,)
        Whether rows compute their largest exponents, and whether the guess of one was invalid.
    unsafe : int32 array (B,)
        Whether a column sum has underflowed.
    sigma, tau : array (B, n), (B, m)
        The last softmins of rows and columns, which are guesses of the next ones.
    change : array (B, m)
        Buffer for a step.
    gram : array (B, W, W)
        Inner products of the bends. W is a power of two of at least `window`.
    """

    running: Any
    robust: Any
    missed: Any
    unsafe: Any
    count: Any
    error: Any
    tol: Any
    limit: Any
    f: Any
    g: Any
    x: Any
    sigma: Any
    tau: Any
    a: Any
    b: Any
    log_a: Any
    log_b: Any
    reg: Any
    keep_a: Any
    keep_b: Any
    rho_a: Any
    rho_b: Any
    coupling: Any
    scale: Any
    moves: Any
    bends: Any
    gram: Any
    old: Any
    residual: Any
    best: Any
    best_error: Any
    wait: Any
    age: Any
    reach: Any
    change: Any
    window: Any
    W: Any


@triton.jit
def offset(offsets, b, k, size):
    """The offsets subtracted from the costs; 0 if there are none."""
    found = tl.zeros(k.shape, tl.float64)
    if offsets is not None:
        found = vector(offsets, b, k, size, 0.0)
    return found


# Kernels for the end of an iteration: one program for each item.


@triton.jit
def target(weight, potential, rho):
    """Optimal mass w·e^(−f/ρ) at a potential f in the costs as given."""
    penalised = (rho > 0) & (rho < float("inf"))
    exponent = -potential * (LOG2_E / tl.where(penalised, rho, 1.0).to(tl.float64))
    return weight * tl.exp2(tl.where(penalised, exponent, 0.0))


@triton.jit
def following(s, costs, b, j):
    """The potential of the columns after a plain step, without the constant that moves between the sides."""
    keep = tl.load(s.keep_b + b)
    tau, x = vector(s.tau, b, j, costs.m, 0.0), vector(s.x, b, j, costs.m, 0.0)
    there = keep * tau - (1.0 - keep) * offset(costs.col, b, j, costs.m)
    return tl.where(vector(s.b, b, j, costs.m, 0.0) > 0, there, x)


@triton.jit
def _column_error(s, costs, b, BLOCK: tl.constexpr):
    """L1 distance of the column masses from the optimal ones at ``x``, and total of the optimal ones after the step."""
    rho, reg = tl.load(s.rho_b + b), tl.load(s.reg + b)
    miss, received = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        weight, x = vector(s.b, b, j, costs.m, 0.0), vector(s.x, b, j, costs.m, 0.0)
        col = offset(costs.col, b, j, costs.m)
        rise = (x - vector(s.tau, b, j, costs.m, 0.0)) * ((1.0 / reg) * LOG2_E)
        mass = weight * tl.exp2(tl.minimum(tl.where(weight > 0, rise, 0.0), 1009.9))
        miss += tl.abs(mass - target(weight, x + col, rho))
        received += target(weight, following(s, costs, b, j) + col, rho)
    error = tl.sum(miss) / tl.load(s.scale + b)
    return tl.where(rho > 0, error, 0.0), tl.sum(received)


@triton.jit
def sent_mass(s, costs, b, BLOCK: tl.constexpr):
    """Total mass of the rows, which are optimal at ``f``."""
    rho = tl.load(s.rho_a + b)
    mass = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.n, BLOCK):
        i = (first + tl.arange(0, BLOCK)).to(tl.int64)
        potential = vector(s.f, b, i, costs.n, 0.0) + offset(costs.row, b, i, costs.n)
        mass += target(vector(s.a, b, i, costs.n, 0.0), potential, rho)
    return tl.sum(mass)


@triton.jit
def _shift(s, costs, b, received, BLOCK: tl.constexpr):
    """The optimal constant to move from the potentials of the columns to those of the rows."""
    coupling = tl.load(s.coupling + b)
    shift = coupling * 0.0
    if coupling > 0.0:
        sent = sent_mass(s, costs, b, BLOCK)
        some = (sent > 0) & (received > 0)
        ratio = tl.log2(tl.where(some, sent, 1.0)) - tl.log2(tl.where(some, received, 1.0))
        shift = coupling * ratio * LN_2
        shift = tl.where(tl.abs(shift) < float("inf"), shift, 0.0)
    return shift


@triton.jit
def _past(pointer, s, b, p, j, m, known):
    """The last moves or bends of an item at slots ``p`` below ``known`` and columns ``j``."""
    at = pointer + (b * s.window + p[:, None]) * m + j[None, :]
    return tl.load(at, mask=(p < known)[:, None] & (j < m)[None, :], other=0.0)


@triton.jit
def _difference(s, costs, b, j, shift, conjugate, shares):
    """A new pair of move and bend, made conjugate by its shares of the older ones; also the residual."""
    x, new = vector(s.x, b, j, costs.m, 0.0), following(s, costs, b, j) - shift
    residual = vector(s.residual, b, j, costs.m, 0.0)
    bend = (new - x) - residual
    move = new - (vector(s.old, b, j, costs.m, 0.0) + residual)
    if conjugate:
        p = tl.arange(0, _SHORT)
        bend -= tl.sum(_past(s.bends, s, b, p, j, costs.m, s.window) * shares[:, None], 0)
        move -= tl.sum(_past(s.moves, s, b, p, j, costs.m, s.window) * shares[:, None], 0)
    return move, bend, new - x


@triton.jit
def _shares(s, costs, b, slot, known, shift, BLOCK: tl.constexpr):
    """Coefficients of the last few bends in the new one, in the inner product weighted by the masses."""
    p = tl.arange(0, _SHORT)
    inner = tl.zeros((_SHORT,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        _, bend, _ = _difference(s, costs, b, j, shift, False, inner)
        weight = vector(s.b, b, j, costs.m, 0.0)
        inner += tl.sum(_past(s.bends, s, b, p, j, costs.m, known) * (weight * bend)[None, :], 1)
    size = tl.load(s.gram + b * s.W * s.W + p * (s.W + 1))
    there = (p < known) & (p != slot) & (size > 0)
    return tl.where(there, inner / tl.where(there, size, 1.0), 0.0)


@triton.jit
def _take_in(s, costs, b, slot, known, shift, conjugate, shares, BLOCK: tl.constexpr):
    """Write the new pair to its slot; returns the inner products of all bends with its bend and with the residual."""
    p, q = tl.arange(0, s.W), tl.arange(0, _GROUP)
    inner, along = tl.zeros((s.W,), tl.float64), tl.zeros((s.W,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        inside = j < costs.m
        move, bend, residual = _difference(s, costs, b, j, shift, conjugate, shares)
        weight = vector(s.b, b, j, costs.m, 0.0)
        at = (b * s.window + slot) * costs.m + j
        tl.store(s.moves + at, move, mask=inside)
        tl.store(s.bends + at, bend, mask=inside)
        for group in range(0, tl.maximum(known, slot + 1), _GROUP):  # in small groups, to limit registers
            old = _past(s.bends, s, b, group + q, j, costs.m, known)
            bends = tl.where((group + q == slot)[:, None], bend[None, :], old)
            here = p[:, None] == (group + q)[None, :]
            inner += tl.sum(tl.where(here, tl.sum(bends * (weight * bend)[None, :], 1)[None, :], 0.0), 1)
            along += tl.sum(tl.where(here, tl.sum(bends * (weight * residual)[None, :], 1)[None, :], 0.0), 1)
    return inner, along


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
        factor = tl.where(p == k, 0.0, col / pivot)
        A -= factor[:, None] * row[None, :]
        x -= factor * tl.sum(tl.where(p == k, x, 0.0))
    diagonal = tl.maximum(tl.sum(tl.where(same, A, 0.0), 1), 1e-3 * _RIDGE)
    return tl.where(inside, x / diagonal / size, 0.0)


@triton.jit
def _combine(s, costs, b, known, share, BLOCK: tl.constexpr):
    """Move ``x`` from the plain step to the combination of the last points with the smallest residual."""
    p, q = tl.arange(0, s.W), tl.arange(0, _GROUP)
    total, weights = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        change = tl.zeros((BLOCK,), tl.float64)
        for group in range(0, known, _GROUP):
            here = p[None, :] == (group + q)[:, None]
            some = tl.sum(tl.where(here, share[None, :], 0.0), 1)
            change -= tl.sum(_past(s.moves, s, b, group + q, j, costs.m, known) * some[:, None], 0)
        weight = vector(s.b, b, j, costs.m, 0.0)
        total += weight * change
        weights += weight
        tl.store(s.change + b * costs.m + j, change, mask=j < costs.m)
    tl.debug_barrier()
    # A constant does not change the plan, and nothing bounds it. The same holds for columns without mass.
    mean = tl.sum(total) / tl.sum(weights)
    furthest = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        here = vector(s.b, b, j, costs.m, 0.0) > 0
        change = tl.where(here, vector(s.change, b, j, costs.m, 0.0) - mean, 0.0)
        furthest = tl.maximum(furthest, tl.abs(tl.where(change == change, change, float("inf"))))
    longest, reach = tl.max(furthest), tl.load(s.reach + b)
    if longest < float("inf"):
        shrink = tl.where(longest > reach, reach / tl.where(longest > 0, longest, 1.0), 1.0)
        for first in range(0, costs.m, BLOCK):
            j = (first + tl.arange(0, BLOCK)).to(tl.int64)
            here = vector(s.b, b, j, costs.m, 0.0) > 0
            change = tl.where(here, vector(s.change, b, j, costs.m, 0.0) - mean, 0.0)
            x = vector(s.x, b, j, costs.m, 0.0)
            tl.store(s.x + b * costs.m + j, x + shrink * change, mask=j < costs.m)


@triton.jit
def _step(s, costs, b, shift, lost, better, BLOCK: tl.constexpr):
    """Take the plain step, or return to the best point if `lost`; store the point before and its residual."""
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        at, inside = b * costs.m + j, j < costs.m
        x, new = vector(s.x, b, j, costs.m, 0.0), following(s, costs, b, j) - shift
        best = vector(s.best, b, j, costs.m, 0.0)
        tl.store(s.g + at, x, mask=inside)
        if s.window > 0:
            tl.store(s.old + at, x, mask=inside)
            tl.store(s.residual + at, new - x, mask=inside)
            tl.store(s.best + at, tl.where(better, new, best), mask=inside)
        tl.store(s.x + at, tl.where(lost, best, new), mask=inside)


@triton.jit
def _mix(s, costs, b, error, shift, BLOCK: tl.constexpr):
    """Anderson mixing of one item: see `otkit.entropic.anderson.mix`."""
    best_error, wait, age = tl.load(s.best_error + b), tl.load(s.wait + b), tl.load(s.age + b)
    lost, better = error > best_error * _WORSE, error < best_error
    fresh = lost | (wait >= _PLAIN_STEPS)
    conjugate = (age >= _LONG) & (fresh == 0)
    age = tl.where(fresh, 0.0, age)
    window = tl.where(conjugate, tl.minimum(_SHORT, s.window), s.window)
    # Pairs from before the last restart are ignored.
    since = tl.where(conjugate, age - _LONG, age).to(tl.int32)
    slot = since % window
    p = tl.arange(0, s.W)
    products = s.gram + (b * s.W + p[:, None]) * s.W + p[None, :]
    gram = tl.where((p < tl.minimum(since, window))[:, None], tl.load(products), 0.0)
    along = tl.zeros((s.W,), tl.float64)
    known = since * 0
    if fresh == 0:
        shares = tl.zeros((_SHORT,), tl.float64)
        if conjugate:
            shares = _shares(s, costs, b, slot, tl.minimum(since, window), shift, BLOCK)
        inner, along = _take_in(s, costs, b, slot, tl.minimum(since, window), shift, conjugate, shares, BLOCK)
        known = tl.minimum(since + 1, window)
        gram = tl.where((p == slot)[:, None], inner[None, :], tl.where((p == slot)[None, :], inner[:, None], gram))
        tl.store(products, gram)
        age += 1.0
    tl.debug_barrier()
    _step(s, costs, b, shift, lost, better, BLOCK)
    tl.debug_barrier()
    wait = tl.where(lost, _PLAIN_STEPS, wait - 1.0)
    if (wait <= 0.0) & (error <= _FAR) & (known > 0):
        _combine(s, costs, b, known, _solve(gram, along, known, s.W), BLOCK)
    tl.store(s.best_error + b, tl.where(lost, float("inf"), tl.minimum(error, best_error)))
    tl.store(s.wait + b, wait)
    tl.store(s.age + b, age)


@triton.jit
def settle_item(s, costs, b, BLOCK: tl.constexpr):
    """Compute the error of an iteration and the next point; returns whether the item continues."""
    error, received = _column_error(s, costs, b, BLOCK)
    shift = _shift(s, costs, b, received, BLOCK)
    count, tol = tl.load(s.count + b) + 1.0, tl.load(s.tol + b)
    going = (error > tol) & (count < tl.load(s.limit + b))
    tl.debug_barrier()
    if (s.window == 0) | (error <= tol):
        _step(s, costs, b, shift, False, False, BLOCK)
    else:
        _mix(s, costs, b, error, shift, BLOCK)
    tl.debug_barrier()
    tl.store(s.error + b, error)
    tl.store(s.count + b, count)
    tl.store(s.running + b, going.to(tl.int32))
    return going


@triton.jit
def settle(s, costs, BLOCK: tl.constexpr):
    """End an iteration of every running item, or request its repetition with maxima."""
    b = tl.program_id(0).to(tl.int64)
    missed = tl.load(s.missed + b)
    if tl.load(s.running + b) != 0:
        if missed == 0:
            settle_item(s, costs, b, BLOCK)
        tl.debug_barrier()
        tl.store(s.missed + b, 0)
        tl.store(s.unsafe + b, 0)
        tl.store(s.robust + b, missed)
