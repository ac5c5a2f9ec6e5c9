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

import triton
import triton.language as tl

from otkit.kernels.triton.math import FEW, LN_2, LOG2_E, MANY, given_tile, softmin_rows, vector
from otkit.kernels.triton.settle import offset, settle_item

# Column sums from here on have not underflowed on the way.
_LIGHT_SINGLE, _LIGHT_DOUBLE = tl.constexpr(1e-28), tl.constexpr(1e-250)


@triton.jit
def _row_potential(s, costs, b, i, sigma):
    """The potential of rows whose softmin is ``sigma``."""
    keep = tl.load(s.keep_a + b)
    return keep * sigma - (1.0 - keep) * offset(costs.row, b, i, costs.n)


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
    return (h + offset(costs.col, b, j, costs.m)).to(D)


@triton.jit
def _from_rows(costs, b, i, j, D: tl.constexpr):
    """Costs less the offsets of the rows: a common offset is large, and cancels first of all."""
    return given_tile(costs, b, i, j, D) - offset(costs.row, b, i, costs.n).to(D)[:, None]


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
def _softmin_of_columns(s, transposed, b, j, guess, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    found = softmin_rows(transposed, b, j, s.f, s.log_a, tl.load(s.reg + b), guess, D, E, BN)
    tl.store(s.tau + b * transposed.n + j, found, mask=j < transposed.n)


@triton.jit
def mend_columns(s, transposed, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns by their largest exponents, for items whose sums are not safe."""
    b = tl.program_id(0).to(tl.int64)
    if (tl.load(s.running + b) != 0) & (tl.load(s.unsafe + b) != 0):
        j = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
        _softmin_of_columns(s, transposed, b, j, None, D, E, BN)


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
def update_columns(s, transposed, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmins of the columns, tile by tile, after `update_rows`."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(s.running + b) != 0:
        j = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
        _softmin_of_columns(s, transposed, b, j, vector(s.tau, b, j, transposed.n, 0.0), D, E, BN)


@triton.jit
def _columns_of_small(s, costs, b, i, j, C, sent, D: tl.constexpr, E: tl.constexpr):
    """The softmins of the columns of a problem that is held whole, by their largest exponents where that is needed."""
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
        going = settle_item(s, costs, b, BLOCK)
        tl.debug_barrier()
