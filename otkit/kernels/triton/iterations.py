"""Sinkhorn iterations as Triton kernels: updates of rows and columns, and the end of an iteration of each item.

The algorithm is `otkit.entropic.sinkhorn.sweep`. No kernel waits for the host: a flag on the device says whether an
item still runs, and every kernel checks it first.

- `rows` keeps whole rows of costs on chip. One read and one exponential per entry then update the rows and add to the
  column sums. The last softmin of a row is the guess of its largest exponent. If a guess is too far off, the iteration
  is repeated with maxima. The first iteration always uses maxima. `columns` adds up the sums of all programs. If a sum
  has underflowed, it recomputes that block of columns.
- `update_rows` and `update_columns` are for longer rows, in two passes over tiles.
- `settle` has the kernels for the end of an iteration.
- `small` runs all iterations of a problem that fits on chip in one launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otkit.kernels.triton.math import FEW, LN_2, LOG2_E, MANY, block_of_rows, given_tile, softmin_rows, vector
from otkit.kernels.triton.mixing import combine_columns, has_pair, pair_products
from otkit.kernels.triton.settle import (
    advance_columns,
    column_masses,
    conclude,
    error_of,
    mass_by,
    measure,
    row_masses,
    shift_of,
)
from otkit.kernels.triton.state import offset, pulled_by

# Smallest column sums without intermediate underflow.
_LIGHT_SINGLE, _LIGHT_DOUBLE = tl.constexpr(1e-28), tl.constexpr(1e-250)


@triton.jit
def _row_potential(s, costs, b, i, sigma):
    """The potentials of rows with softmin ``sigma``."""
    keep = tl.load(s.keep_a + b)
    return keep * sigma - (1.0 - keep) * offset(costs.row, b, i, costs.n)


@triton.jit
def _row_update(s, costs, b, i, C, h, robust, D: tl.constexpr, E: tl.constexpr):
    """Update rows that are stored whole; returns the entries of the plan ``(R, m)``.

    ``C`` has the costs less the offsets of the rows, and ``h`` includes the offsets of the columns. If the guess of a
    row is invalid, its entries are 0.
    """
    reg, inside = tl.load(s.reg + b), i < costs.n
    inverse = (1.0 / reg) * LOG2_E
    difference = h[None, :] - C
    if robust:
        top = tl.max(difference, 1).to(tl.float64) * inverse
        top = tl.where(top > float("-inf"), top, 0.0)  # a row without arcs to mass
    else:
        top = -vector(s.sigma, b, i, costs.n, float("-inf")) * inverse  # entries outside become 0
    e = tl.exp2((difference * inverse.to(D) - top.to(D)[:, None]).to(E))
    total = tl.sum(e, 1)
    good = (total > FEW) & (total < MANY)
    total = tl.where(good, total, 1.0).to(E)
    sigma = tl.where(good, -reg * (top + tl.log2(total).to(tl.float64)) * LN_2, 0.0)
    f = _row_potential(s, costs, b, i, sigma)
    mass = vector(s.a, b, i, costs.n, 0.0)
    if tl.load(s.keep_a + b) != 1.0:
        mass *= tl.exp2((f - sigma) * inverse)
    if robust == 0:
        if tl.sum((inside & ~good).to(tl.int32)) > 0:
            tl.store(s.missed + b, 1)
            e = tl.where(good[:, None], e, 0.0).to(E)  # may be infinite
    tl.store(s.sigma + b * costs.n + i, sigma, mask=inside)
    tl.store(s.f + b * costs.n + i, f, mask=inside)
    return e * tl.where(good, mass.to(E) / total, 0.0).to(E)[:, None]


@triton.jit
def _from_rows(costs, b, i, j, D: tl.constexpr):
    """Costs less the offsets of the rows. These are subtracted first, since a common offset may be large.

    Outside they are finite, where nothing pulls at rows, and rows have no mass.
    """
    return given_tile(costs, b, i, j, D, 0.0) - offset(costs.row, b, i, costs.n).to(D)[:, None]


@triton.jit
def rows(
    s, costs, pulled, sums, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, STAGES: tl.constexpr
):
    """Update the rows, R at a time, and store their column sums in ``sums (B, programs, m)``; M ≥ m.

    ``pulled (B, m)`` is what `settle.advance` stores there.
    """
    b = tl.program_id(0).to(tl.int64)
    part, parts = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if tl.load(s.running + b) != 0:
        robust = tl.load(s.robust + b)
        j = tl.arange(0, M)
        h = tl.load(pulled + b * costs.m + j, mask=j < costs.m, other=float("-inf"))
        sent = tl.zeros((R, M), E)
        for first in tl.range(part * R, costs.n, parts * R, num_stages=STAGES):
            i = first + tl.arange(0, R)
            sent += _row_update(s, costs, b, i, _from_rows(costs, b, i, j, D), h, robust, D, E)
        tl.store(sums + (b * parts + part) * costs.m + j, tl.sum(sent, 0), mask=j < costs.m)


@triton.jit
def _column_softmin(s, b, j, m, total, E: tl.constexpr):
    """The softmin of columns with the mass ``total``; unchanged for columns without weight."""
    some = (vector(s.b, b, j, m, 0.0) > 0) & (total > 0)
    ratio = tl.log2(tl.where(some, total, 1.0).to(E)).to(tl.float64) - vector(s.log_b, b, j, m, 0.0) * LOG2_E
    return vector(s.x, b, j, m, 0.0) - tl.where(some, tl.load(s.reg + b) * LN_2 * ratio, 0.0)


@triton.jit
def _is_light(s, b, j, m, total, E: tl.constexpr):
    """Whether the sum of a column with weight may have underflowed."""
    least = _LIGHT_DOUBLE if E == tl.float64 else _LIGHT_SINGLE
    return tl.sum(((vector(s.b, b, j, m, 0.0) > 0) & ~(total > least)).to(tl.int32)) > 0


@triton.jit
def columns(s, costs, transposed, sums, parts, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of BM columns from the ``parts`` of their sums, by their largest exponents if a sum is too small."""
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(s.running + b) != 0:
        j, part = block.to(tl.int64) * BM + tl.arange(0, BM), tl.arange(0, BN)[:, None]
        some = tl.zeros((BN, BM), tl.float64)
        for first in range(0, parts, BN):
            at = sums + (b * parts + first + part) * costs.m + j[None, :]
            some += tl.load(at, mask=(first + part < parts) & (j < costs.m)[None, :], other=0.0)
        total = tl.sum(some, 0)
        tau = _column_softmin(s, b, j, costs.m, total, E)
        if _is_light(s, b, j, costs.m, total, E):
            tau = softmin_rows(transposed, b, j, s.f, s.log_a, tl.load(s.reg + b), None, D, E, BN)
        tl.store(s.tau + b * costs.m + j, tau, mask=j < costs.m)
        measure(s, costs, b, j, total, tau, block, tl.num_programs(1), BM)


@triton.jit
def update_rows(s, costs, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Update the rows, tile by tile."""
    b, i = block_of_rows(costs.n, BM)
    if tl.load(s.running + b) != 0:
        guess = vector(s.sigma, b, i, costs.n, 0.0)
        sigma = softmin_rows(costs, b, i, s.x, s.log_b, tl.load(s.reg + b), guess, D, E, BN)
        tl.store(s.sigma + b * costs.n + i, sigma, mask=i < costs.n)
        tl.store(s.f + b * costs.n + i, _row_potential(s, costs, b, i, sigma), mask=i < costs.n)


@triton.jit
def update_columns(s, costs, transposed, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns, tile by tile, after `update_rows`."""
    b, j = block_of_rows(costs.m, BM)
    if tl.load(s.running + b) != 0:
        guess, reg = vector(s.tau, b, j, costs.m, 0.0), tl.load(s.reg + b)
        tau = softmin_rows(transposed, b, j, s.f, s.log_a, reg, guess, D, E, BN)
        tl.store(s.tau + b * costs.m + j, tau, mask=j < costs.m)
        blocks, mass = tl.cdiv(costs.m, BM), mass_by(s, b, j, costs.m, tau)
        measure(s, costs, b, j, mass, tau, tl.program_id(0) % blocks, blocks, BM)


@triton.jit
def _columns_of_small(s, costs, b, i, j, C, sent, D: tl.constexpr, E: tl.constexpr):
    """The masses and the softmins of the columns of a problem that is stored whole.

    Softmins are found by the largest exponents if masses are too small.
    """
    total = tl.sum(sent, 0).to(tl.float64)
    tau = _column_softmin(s, b, j, costs.m, total, E)
    if _is_light(s, b, j, costs.m, total, E):
        reg = tl.load(s.reg + b)
        h = vector(s.f, b, i, costs.n, 0.0) + reg * vector(s.log_a, b, i, costs.n, float("-inf"))
        col = offset(costs.col, b, j, costs.m)
        exponent = (h.to(D)[:, None] - (C - col.to(D)[None, :])) * ((1.0 / reg) * LOG2_E).to(D)
        top = tl.max(exponent, 0)
        top = tl.where(top > float("-inf"), top, 0.0)
        sums = tl.sum(tl.exp2((exponent - top[None, :]).to(E)), 0).to(tl.float64)
        some = sums > 0
        tau = tl.where(some, -reg * (top.to(tl.float64) + tl.log2(tl.where(some, sums, 1.0))) * LN_2, 0.0)
    return total, tau


@triton.jit
def _settle_small(s, costs, b, j, mass, tau, BLOCK: tl.constexpr):
    """End an iteration of a problem of at most BLOCK columns; returns whether it continues."""
    miss, received = column_masses(s, costs, b, j, mass, tau)
    error, shift = error_of(s, b, miss), tl.load(s.coupling + b) * 0.0
    if tl.load(s.coupling + b) > 0.0:
        shift = shift_of(s, b, row_masses(s, costs, b, 0, costs.n, BLOCK), received)
    inner, along = tl.zeros((s.W,), tl.float64), tl.zeros((s.W,), tl.float64)
    centre, longest = shift * 0.0, shift * 0.0
    if s.window > 0:
        if has_pair(s, b, error):
            inner, along, centre = pair_products(s, costs, b, shift, 0, costs.m, BLOCK)
    tl.debug_barrier()
    going = conclude(s, b, error, shift, inner, along, centre)
    tl.debug_barrier()
    if s.window > 0:
        if tl.load(s.known + b) > 0:
            longest = combine_columns(s, costs, b, 0, costs.m, BLOCK)
        tl.debug_barrier()
    advance_columns(s, costs, b, None, longest, 0, costs.m, BLOCK)
    return going


@triton.jit
def small(s, costs, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr):
    """All iterations of a problem, in one program that keeps the costs on chip; R ≥ n, M ≥ m."""
    b = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, R).to(tl.int64), tl.arange(0, M).to(tl.int64)
    going = tl.load(s.running + b) != 0
    C = _from_rows(costs, b, i, j, D)
    while going:
        h = pulled_by(s, costs, b, j, vector(s.x, b, j, costs.m, 0.0)).to(D)
        sent = _row_update(s, costs, b, i, C, h, True, D, E)
        tl.debug_barrier()
        mass, tau = _columns_of_small(s, costs, b, i, j, C, sent, D, E)
        tl.store(s.tau + b * costs.m + j, tau, mask=j < costs.m)
        tl.debug_barrier()
        going = _settle_small(s, costs, b, j, mass, tau, M)
        tl.debug_barrier()
