"""Sinkhorn iterations as Triton kernels: rows, columns, and what settles an iteration of each item on the device.

The algorithm is that of `otkit.kernels.mixing.sweep`. Nothing waits for the host: whether an item still runs is a flag
on the device, which every kernel looks at first.

- `rows` holds whole rows of costs on chip, so that one read and one exponential per entry update the rows and add up
  the columns. The last softmin of a row stands in for its largest exponent; where it turns out not to, the iteration is
  done again with maxima, as the first one is. `columns` joins the sums of all programs; where one has underflowed,
  `mend_columns` forms it anew, which as a rule has nothing to do and costs a launch.
- Rows too long for that are passed over twice, by `update_rows` and `update_columns`.
- `small` does all iterations of a problem that fits on chip in one launch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from otkit.kernels import mixing
from otkit.kernels.triton_math import FEW, LN_2, LOG2_E, MANY, given_tile, softmin_rows, vector

# Column sums from here on have not underflowed on the way.
_LIGHT_SINGLE, _LIGHT_DOUBLE = tl.constexpr(1e-28), tl.constexpr(1e-250)
_PLAIN_STEPS, _WORSE, _FAR = tl.constexpr(mixing.PLAIN_STEPS), tl.constexpr(mixing.WORSE), tl.constexpr(mixing.FAR)
_RIDGE, _LONG, _SHORT = tl.constexpr(mixing.RIDGE), tl.constexpr(mixing.LONG), tl.constexpr(mixing.SHORT)
# Slots of the past that are looked at at a time.
_GROUP = tl.constexpr(8)


class State(NamedTuple):
    """The arrays of a sweep, as kernels take them.

    What `otkit.kernels.mixing` calls them, float64, and beside that:

    Attributes
    ----------
    running : int32 array (B,)
        Whether an item goes on.
    robust, missed : int32 array (B,)
        Whether rows look for their largest exponents, and whether the guess of one was of no use.
    unsafe : int32 array (B,)
        Whether a column sum has underflowed.
    sigma, tau : array (B, n), (B, m)
        The last softmins of rows and columns: guesses of the next ones.
    change : array (B, m)
        Room for a step.
    gram : array (B, W, W)
        Inner products of the bends; W is a power of two, which `window` may be below.
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
def _offset(offsets, b, k, size):
    found = tl.zeros(k.shape, tl.float64)
    if offsets is not None:
        found = vector(offsets, b, k, size, 0.0)
    return found


@triton.jit
def _row_potential(s, costs, b, i, sigma):
    """The potential of rows whose softmin is ``sigma``."""
    keep = tl.load(s.keep_a + b)
    return keep * sigma - (1.0 - keep) * _offset(costs.row, b, i, costs.n)


@triton.jit
def _row_update(s, costs, b, i, C, h, robust, D: tl.constexpr, E: tl.constexpr):
    """Update rows that are held whole; what they send to every column: ``(R, m)``.

    ``C`` are their costs less the offsets of the rows, and ``h`` holds those of the columns. A row whose guess is of no
    use sends nothing.
    """
    reg, inside = tl.load(s.reg + b), i < costs.n
    inverse = (1.0 / reg) * LOG2_E
    exponent = (h[None, :] - C) * inverse.to(D)
    if robust:
        top = tl.max(exponent, 1).to(tl.float64)
        top = tl.where(top > float("-inf"), top, 0.0)  # a row that reaches no mass
    else:
        top = -vector(s.sigma, b, i, costs.n, 0.0) * inverse
    e = tl.exp2((exponent - top.to(D)[:, None]).to(E))
    total = tl.sum(e, 1).to(tl.float64)
    good = (total > FEW) & (total < MANY)
    sigma = tl.where(good, -reg * (top + tl.log2(tl.where(good, total, 1.0))) * LN_2, 0.0)
    f = _row_potential(s, costs, b, i, sigma)
    mass = vector(s.a, b, i, costs.n, 0.0)
    if tl.load(s.keep_a + b) != 1.0:
        mass *= tl.exp2((f - sigma) * inverse)
    if robust == 0:
        if tl.sum((inside & ~good).to(tl.int32)) > 0:
            tl.store(s.missed + b, 1)
            e = tl.where(good[:, None], e, 0.0).to(E)  # which may be infinite
    tl.store(s.sigma + b * costs.n + i, sigma, mask=inside)
    tl.store(s.f + b * costs.n + i, f, mask=inside)
    return e * tl.where(good, mass / tl.where(good, total, 1.0), 0.0).to(E)[:, None]


@triton.jit
def _pulled(s, costs, b, j, D: tl.constexpr):
    """x_j + reg·log b_j + the offset of the column: what the costs of rows are taken from."""
    h = vector(s.x, b, j, costs.m, 0.0) + tl.load(s.reg + b) * vector(s.log_b, b, j, costs.m, float("-inf"))
    return (h + _offset(costs.col, b, j, costs.m)).to(D)


@triton.jit
def _from_rows(costs, b, i, j, D: tl.constexpr):
    """Costs less the offsets of the rows: a common offset is large, and cancels first of all."""
    return given_tile(costs, b, i, j, D) - _offset(costs.row, b, i, costs.n).to(D)[:, None]


@triton.jit
def rows(
    s, costs, pulled, sums, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr
):
    """Update the rows, R at a time, and add up what they send in ``sums (B, programs, m)``; M is m or more.

    ``pulled``, of the same shape, is room for what the costs are taken from.
    """
    b = tl.program_id(0).to(tl.int64)
    part, parts = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if tl.load(s.running + b) != 0:
        own, robust = (b * parts + part) * costs.m, tl.load(s.robust + b)
        for first in range(0, costs.m, BLOCK):  # all at once are too many in float64
            k = first + tl.arange(0, BLOCK)
            tl.store(pulled + own + k, _pulled(s, costs, b, k, D), mask=k < costs.m)
        tl.debug_barrier()
        j = tl.arange(0, M)
        h = tl.load(pulled + own + j, mask=j < costs.m, other=float("-inf"))
        sent = tl.zeros((R, M), E)
        for first in range(part * R, costs.n, parts * R):
            i = first + tl.arange(0, R)
            sent += _row_update(s, costs, b, i, _from_rows(costs, b, i, j, D), h, robust, D, E)
        tl.store(sums + own + j, tl.sum(sent, 0), mask=j < costs.m)


@triton.jit
def _column_softmin(s, b, j, m, total):
    """The softmin of columns of the mass ``total``, that of the last step where there is no weight."""
    weight = vector(s.b, b, j, m, 0.0)
    some = (weight > 0) & (total > 0)
    ratio = tl.log2(tl.where(some, total, 1.0)) - tl.log2(tl.where(some, weight, 1.0))
    return vector(s.x, b, j, m, 0.0) - tl.where(some, tl.load(s.reg + b) * LN_2 * ratio, 0.0)


@triton.jit
def _is_light(s, b, j, m, total, E: tl.constexpr):
    """Whether a column with weight has a sum that may have underflowed on the way."""
    least = _LIGHT_DOUBLE if E == tl.float64 else _LIGHT_SINGLE
    return tl.sum(((vector(s.b, b, j, m, 0.0) > 0) & ~(total > least)).to(tl.int32)) > 0


@triton.jit
def columns(s, costs, sums, parts, E: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns from the ``parts`` of their sums."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(s.running + b) != 0:
        j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
        total = tl.zeros((BN,), tl.float64)
        for part in range(parts):
            total += tl.load(sums + (b * parts + part) * costs.m + j, mask=j < costs.m, other=0.0)
        tl.store(s.tau + b * costs.m + j, _column_softmin(s, b, j, costs.m, total), mask=j < costs.m)
        if _is_light(s, b, j, costs.m, total, E):
            tl.store(s.unsafe + b, 1)


@triton.jit
def _softmin_of_columns(s, turned, b, j, guess, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    found = softmin_rows(turned, b, j, s.f, s.log_a, tl.load(s.reg + b), guess, D, E, BN)
    tl.store(s.tau + b * turned.n + j, found, mask=j < turned.n)


@triton.jit
def mend_columns(s, turned, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns by their largest exponents, for items whose sums are not safe."""
    b = tl.program_id(0).to(tl.int64)
    if (tl.load(s.running + b) != 0) & (tl.load(s.unsafe + b) != 0):
        j = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
        _softmin_of_columns(s, turned, b, j, None, D, E, BN)


@triton.jit
def update_rows(s, costs, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Update the rows, tile by tile."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(s.running + b) != 0:
        i = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
        guess = vector(s.sigma, b, i, costs.n, 0.0)
        sigma = softmin_rows(costs, b, i, s.x, s.log_b, tl.load(s.reg + b), guess, D, E, BN)
        tl.store(s.sigma + b * costs.n + i, sigma, mask=i < costs.n)
        tl.store(s.f + b * costs.n + i, _row_potential(s, costs, b, i, sigma), mask=i < costs.n)


@triton.jit
def update_columns(s, turned, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns, tile by tile, after `update_rows`."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(s.running + b) != 0:
        j = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
        _softmin_of_columns(s, turned, b, j, vector(s.tau, b, j, turned.n, 0.0), D, E, BN)


# What settles an iteration: one program for each item.


@triton.jit
def _target(weight, potential, rho):
    """The mass w·e^(−f/ρ) that is optimal at a potential in the costs as given."""
    priced = (rho > 0) & (rho < float("inf"))
    exponent = -potential * (LOG2_E / tl.where(priced, rho, 1.0).to(tl.float64))
    return weight * tl.exp2(tl.where(priced, exponent, 0.0))


@triton.jit
def _following(s, costs, b, j):
    """The potential of the columns after a plain step, but for the constant that moves between the sides."""
    keep = tl.load(s.keep_b + b)
    tau, x = vector(s.tau, b, j, costs.m, 0.0), vector(s.x, b, j, costs.m, 0.0)
    there = keep * tau - (1.0 - keep) * _offset(costs.col, b, j, costs.m)
    return tl.where(vector(s.b, b, j, costs.m, 0.0) > 0, there, x)


@triton.jit
def _column_error(s, costs, b, BLOCK: tl.constexpr):
    """The distance of the column masses from what is optimal at ``x``, and the mass that is so one step on."""
    rho, reg = tl.load(s.rho_b + b), tl.load(s.reg + b)
    miss, received = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        weight, x = vector(s.b, b, j, costs.m, 0.0), vector(s.x, b, j, costs.m, 0.0)
        col = _offset(costs.col, b, j, costs.m)
        rise = (x - vector(s.tau, b, j, costs.m, 0.0)) * ((1.0 / reg) * LOG2_E)
        mass = weight * tl.exp2(tl.minimum(tl.where(weight > 0, rise, 0.0), 1009.9))
        miss += tl.abs(mass - _target(weight, x + col, rho))
        received += _target(weight, _following(s, costs, b, j) + col, rho)
    error = tl.sum(miss) / tl.load(s.scale + b)
    return tl.where(rho > 0, error, 0.0), tl.sum(received)


@triton.jit
def _sent(s, costs, b, BLOCK: tl.constexpr):
    """The mass of all rows, which are optimal at ``f``."""
    rho = tl.load(s.rho_a + b)
    mass = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, costs.n, BLOCK):
        i = (first + tl.arange(0, BLOCK)).to(tl.int64)
        potential = vector(s.f, b, i, costs.n, 0.0) + _offset(costs.row, b, i, costs.n)
        mass += _target(vector(s.a, b, i, costs.n, 0.0), potential, rho)
    return tl.sum(mass)


@triton.jit
def _shift(s, costs, b, received, BLOCK: tl.constexpr):
    """The constant that is best moved from the potentials of the columns to those of the rows."""
    coupling = tl.load(s.coupling + b)
    shift = coupling * 0.0
    if coupling > 0.0:
        sent = _sent(s, costs, b, BLOCK)
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
    """What a new pair of the past is, its share of the older ones taken off: a move, a bend and the residual."""
    x, new = vector(s.x, b, j, costs.m, 0.0), _following(s, costs, b, j) - shift
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
    """How much of each of the last few bends is in the new one, in the inner product of the masses."""
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
    """Write the new pair into its slot; its inner products with all bends, and theirs with the residual."""
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
        for group in range(0, tl.maximum(known, slot + 1), _GROUP):  # few at a time, or registers run out
            old = _past(s.bends, s, b, group + q, j, costs.m, known)
            bends = tl.where((group + q == slot)[:, None], bend[None, :], old)
            here = p[:, None] == (group + q)[None, :]
            inner += tl.sum(tl.where(here, tl.sum(bends * (weight * bend)[None, :], 1)[None, :], 0.0), 1)
            along += tl.sum(tl.where(here, tl.sum(bends * (weight * residual)[None, :], 1)[None, :], 0.0), 1)
    return inner, along


@triton.jit
def _solve(gram, along, known, W: tl.constexpr):
    """Solve (D⁻¹GD⁻¹ + ridge)·x = D⁻¹y for the diagonal D of the sizes, by Gauss and Jordan's elimination: D⁻¹x."""
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
    """Go on from the combination of the last points whose residuals cancel best; ``x`` is the plain step already."""
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
    # A constant changes no plan, and would grow without anything to hold it; so would columns without mass.
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
    """Take the plain step, or go back to the best point where the way is lost; remember the one before."""
    for first in range(0, costs.m, BLOCK):
        j = (first + tl.arange(0, BLOCK)).to(tl.int64)
        at, inside = b * costs.m + j, j < costs.m
        x, new = vector(s.x, b, j, costs.m, 0.0), _following(s, costs, b, j) - shift
        best = vector(s.best, b, j, costs.m, 0.0)
        tl.store(s.g + at, x, mask=inside)
        if s.window > 0:
            tl.store(s.old + at, x, mask=inside)
            tl.store(s.residual + at, new - x, mask=inside)
            tl.store(s.best + at, tl.where(better, new, best), mask=inside)
        tl.store(s.x + at, tl.where(lost, best, new), mask=inside)


@triton.jit
def _mix(s, costs, b, error, shift, BLOCK: tl.constexpr):
    """Anderson mixing of one item: see `otkit.kernels.mixing.mix`."""
    best_error, wait, age = tl.load(s.best_error + b), tl.load(s.wait + b), tl.load(s.age + b)
    lost, better = error > _WORSE * best_error, error < best_error
    fresh = lost | (wait >= _PLAIN_STEPS)
    conjugate = (age >= _LONG) & (fresh == 0)
    age = tl.where(fresh, 0.0, age)
    window = tl.where(conjugate, tl.minimum(_SHORT, s.window), s.window)
    # What is older than the last break is not looked at.
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
def _settle(s, costs, b, BLOCK: tl.constexpr):
    """The error of an iteration and the next point; whether the item goes on."""
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
    """End an iteration of every item that runs, or have it done again."""
    b = tl.program_id(0).to(tl.int64)
    missed = tl.load(s.missed + b)
    if tl.load(s.running + b) != 0:
        if missed == 0:
            _settle(s, costs, b, BLOCK)
        tl.debug_barrier()
        tl.store(s.missed + b, 0)
        tl.store(s.unsafe + b, 0)
        tl.store(s.robust + b, missed)


@triton.jit
def _columns_of_small(s, costs, b, i, j, C, sent, D: tl.constexpr, E: tl.constexpr):
    """The softmins of the columns of a problem that is held whole, by their largest exponents where that is needed."""
    total = tl.sum(sent, 0).to(tl.float64)
    tau = _column_softmin(s, b, j, costs.m, total)
    if _is_light(s, b, j, costs.m, total, E):
        reg = tl.load(s.reg + b)
        h = vector(s.f, b, i, costs.n, 0.0) + reg * vector(s.log_a, b, i, costs.n, float("-inf"))
        col = _offset(costs.col, b, j, costs.m)
        exponent = (h.to(D)[:, None] - (C - col.to(D)[None, :])) * ((1.0 / reg) * LOG2_E).to(D)
        top = tl.max(exponent, 0)
        top = tl.where(top > float("-inf"), top, 0.0)
        sums = tl.sum(tl.exp2((exponent - top[None, :]).to(E)), 0).to(tl.float64)
        some = sums > 0
        tau = tl.where(some, -reg * (top.to(tl.float64) + tl.log2(tl.where(some, sums, 1.0))) * LN_2, 0.0)
    return tau


@triton.jit
def small(s, costs, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr):
    """All iterations of one problem for each program, whose costs are held on chip; R ≥ n, M ≥ m."""
    b = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, R).to(tl.int64), tl.arange(0, M).to(tl.int64)
    going = tl.load(s.running + b) != 0
    C = _from_rows(costs, b, i, j, D)
    while going:
        sent = _row_update(s, costs, b, i, C, _pulled(s, costs, b, j, D), True, D, E)
        tl.debug_barrier()
        tau = _columns_of_small(s, costs, b, i, j, C, sent, D, E)
        tl.store(s.tau + b * costs.m + j, tau, mask=j < costs.m)
        tl.debug_barrier()
        going = _settle(s, costs, b, BLOCK)
        tl.debug_barrier()
