"""Sinkhorn iterations as Triton kernels: updates of rows and columns, and the end of an iteration of each item.

The algorithm is `otkit.entropic.sinkhorn.sweep`. No kernel waits for the host: a flag on the device says whether an
item still runs, and every kernel checks it first.

- `rows` keeps whole rows of costs on chip. One read and one exponential per entry then update the rows and add to the
  column sums. The last softmin of a row is the guess of its largest exponent. If a guess is too far off, the iteration
  is repeated with maxima. The first iteration always uses maxima. `columns` adds up the sums of all programs. If a sum
  has underflowed, `mend_columns` recomputes it. As a rule it has nothing to do and costs only its launch.
- `update_rows` and `update_columns` are for longer rows, in two passes over tiles.
- `small` runs all iterations of a problem that fits on chip in one launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otkit.kernels.triton.math import FEW, LN_2, LOG2_E, MANY, block_of_rows, given_tile, softmin_rows, vector
from otkit.kernels.triton.settle import offset, settle_item

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
    exponent = (h[None, :] - C) * inverse.to(D)
    if robust:
        top = tl.max(exponent, 1).to(tl.float64)
        top = tl.where(top > float("-inf"), top, 0.0)  # a row without arcs to mass
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
            e = tl.where(good[:, None], e, 0.0).to(E)  # may be infinite
    tl.store(s.sigma + b * costs.n + i, sigma, mask=inside)
    tl.store(s.f + b * costs.n + i, f, mask=inside)
    return e * tl.where(good, mass / tl.where(good, total, 1.0), 0.0).to(E)[:, None]


@triton.jit
def _pulled(s, costs, b, j, D: tl.constexpr):
    """x_j + reg·log b_j + the offset of the column, from which costs are subtracted."""
    h = vector(s.x, b, j, costs.m, 0.0) + tl.load(s.reg + b) * vector(s.log_b, b, j, costs.m, float("-inf"))
    return (h + offset(costs.col, b, j, costs.m)).to(D)


@triton.jit
def _from_rows(costs, b, i, j, D: tl.constexpr):
    """Costs less the offsets of the rows. These are subtracted first, since a common offset may be large."""
    return given_tile(costs, b, i, j, D) - offset(costs.row, b, i, costs.n).to(D)[:, None]


@triton.jit
def rows(
    s, costs, pulled, sums, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr
):
    """Update the rows, R at a time, and store their column sums in ``sums (B, programs, m)``; M ≥ m.

    ``pulled`` is a buffer of the same shape for the results of `_pulled`.
    """
    b = tl.program_id(0).to(tl.int64)
    part, parts = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if tl.load(s.running + b) != 0:
        own, robust = (b * parts + part) * costs.m, tl.load(s.robust + b)
        for first in range(0, costs.m, BLOCK):  # in blocks, since all in float64 exceed the registers
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
    """The softmin of columns with the mass ``total``; unchanged for columns without weight."""
    weight = vector(s.b, b, j, m, 0.0)
    some = (weight > 0) & (total > 0)
    ratio = tl.log2(tl.where(some, total, 1.0)) - tl.log2(tl.where(some, weight, 1.0))
    return vector(s.x, b, j, m, 0.0) - tl.where(some, tl.load(s.reg + b) * LN_2 * ratio, 0.0)


@triton.jit
def _is_light(s, b, j, m, total, E: tl.constexpr):
    """Whether the sum of a column with weight may have underflowed."""
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
def _softmin_of_columns(s, transposed, b, j, guess, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    found = softmin_rows(transposed, b, j, s.f, s.log_a, tl.load(s.reg + b), guess, D, E, BN)
    tl.store(s.tau + b * transposed.n + j, found, mask=j < transposed.n)


@triton.jit
def mend_columns(s, transposed, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns by their largest exponents, for items with an unsafe sum."""
    b, j = block_of_rows(transposed.n, BM)
    if (tl.load(s.running + b) != 0) & (tl.load(s.unsafe + b) != 0):
        _softmin_of_columns(s, transposed, b, j, None, D, E, BN)


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
def update_columns(s, transposed, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns, tile by tile, after `update_rows`."""
    b, j = block_of_rows(transposed.n, BM)
    if tl.load(s.running + b) != 0:
        _softmin_of_columns(s, transposed, b, j, vector(s.tau, b, j, transposed.n, 0.0), D, E, BN)


@triton.jit
def _columns_of_small(s, costs, b, i, j, C, sent, D: tl.constexpr, E: tl.constexpr):
    """The softmins of the columns of a problem that is stored whole, by their largest exponents if necessary."""
    total = tl.sum(sent, 0).to(tl.float64)
    tau = _column_softmin(s, b, j, costs.m, total)
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
    return tau


@triton.jit
def small(s, costs, D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr):
    """All iterations of a problem, in one program that keeps the costs on chip; R ≥ n, M ≥ m."""
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
        going = settle_item(s, costs, b, BLOCK)
        tl.debug_barrier()
