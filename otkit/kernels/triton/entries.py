"""Kernels of operations on all entries of a plan or of the costs: one program for BM rows of an item.

Column sums are computed as row sums of the transposed costs, so that no two programs add to the same number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from otkit.kernels.triton.math import LOG2_E, block_of_rows, given_tile, reduce_tile, tile, vector

_TOP = tl.constexpr(700 * 1.4426950408889634)  # the largest exponent in base 2, as in the reference


class Point(NamedTuple):
    """`Potentials` as an argument of kernels: ``f``, ``log_a (B, n)``, ``g``, ``log_b (B, m)`` and ``reg (B,)``."""

    f: Any
    g: Any
    log_a: Any
    log_b: Any
    reg: Any


@triton.jit
def _exp(x, E: tl.constexpr):
    """e^x, bounded above."""
    x = x * LOG2_E
    return tl.exp2(tl.where(x > _TOP, _TOP, x).to(E))


@triton.jit
def log_plan(costs, at, b, i, j, C, D: tl.constexpr):
    """log P of rows ``i`` and columns ``j`` of item ``b`` with reduced costs ``C``; −inf where a cost is inf."""
    f, g = vector(at.f, b, i, costs.n, 0.0).to(D), vector(at.g, b, j, costs.m, 0.0).to(D)
    log_a, log_b = vector(at.log_a, b, i, costs.n, 0.0).to(D), vector(at.log_b, b, j, costs.m, 0.0).to(D)
    exponent = (f[:, None] + g[None, :] - C) * (1.0 / tl.load(at.reg + b)).to(D)
    return exponent + (log_a[:, None] + log_b[None, :])


@triton.jit
def plan_tile(costs, at, b, i, j, D: tl.constexpr, E: tl.constexpr):
    """P and the reduced costs of rows ``i`` and columns ``j`` of item ``b``; costs are 0 where P is 0."""
    C = tile(costs, b, i, j, D)
    P = _exp(log_plan(costs, at, b, i, j, C, D), E)
    return P, tl.where(P > 0, C, 0.0).to(E)


@triton.jit
def row_sums(costs, at, out, paid, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Σ_j P_ij to ``out (B, n)``, and Σ_j P_ij·C_ij to ``paid (B, n)`` unless that is None."""
    b, i = block_of_rows(costs.n, BM)
    sums, total = tl.zeros((BM, BN), tl.float64), tl.zeros((BM, BN), tl.float64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        P, C = plan_tile(costs, at, b, i, j, D, E)
        sums += P
        if paid is not None:
            total += P * C
    tl.store(out + b * costs.n + i, tl.sum(sums, 1), mask=i < costs.n)
    if paid is not None:
        tl.store(paid + b * costs.n + i, tl.sum(total, 1), mask=i < costs.n)


@triton.jit
def products(
    costs,
    at,
    v,
    k,
    out,
    power: tl.constexpr,
    BK: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Σ_j P_ij·C_ij^power·v_j to ``out (B, n, k)`` for ``v (B, m, k)``, with BK ≥ k."""
    b, i = block_of_rows(costs.n, BM)
    c = tl.arange(0, BK)
    sums = tl.zeros((BM, BN, BK), tl.float64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        P, C = plan_tile(costs, at, b, i, j, D, E)
        for _ in tl.static_range(power):
            P *= C
        inside = (j < costs.m)[:, None] & (c < k)[None, :]
        w = tl.load(v + (b * costs.m + j)[:, None] * k + c[None, :], mask=inside, other=0.0)
        sums += P[:, :, None] * w[None, :, :]
    inside = (i < costs.n)[:, None] & (c < k)[None, :]
    tl.store(out + (b * costs.n + i)[:, None] * k + c[None, :], tl.sum(sums, 1), mask=inside)


# Slabs: consecutive rows of consecutive items, from `row` and `item` on, written to arrays (…, height, m).
_ANY = ["item", "row", "height"]  # arguments not worth specialised code for 1 and multiples of 16


@triton.jit(do_not_specialize=_ANY)
def plan(
    costs,
    at,
    item,
    row,
    height,
    out,
    power: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """P_ij·C_ij^power of a slab."""
    b, i = block_of_rows(height, BM)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        P, C = plan_tile(costs, at, item + b, row + i, j, D, E)
        for _ in tl.static_range(power):
            P *= C
        into = out + (b * height + i)[:, None] * costs.m + j[None, :]
        tl.store(into, P, mask=(i < height)[:, None] & (j < costs.m)[None, :])


@triton.jit(do_not_specialize=_ANY)
def cost_slab(costs, item, row, height, out, BM: tl.constexpr, BN: tl.constexpr):
    """Reduced costs of a slab."""
    b, i = block_of_rows(height, BM)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        into = out + (b * height + i)[:, None] * costs.m + j[None, :]
        C = tile(costs, item + b, row + i, j, tl.float64)
        tl.store(into, C, mask=(i < height)[:, None] & (j < costs.m)[None, :])


@triton.jit(do_not_specialize=_ANY)
def signed_sums(costs, W, item, row, height, out, BM: tl.constexpr, BN: tl.constexpr):
    """Σ_j W_ij·sign(x_i − y_j) for a slab of weights, to ``out (…, height, d)``; one program for each coordinate."""
    b, i = block_of_rows(height, BM)
    c = tl.program_id(1).to(tl.int64)
    x = vector(costs.x + (item + b) * costs.x_item, c, row + i, costs.n, 0.0)
    sums = tl.zeros((BM, BN), tl.float64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        inside = (i < height)[:, None] & (j < costs.m)[None, :]
        w = tl.load(W + (b * height + i)[:, None] * costs.m + j[None, :], mask=inside, other=0.0)
        difference = x[:, None] - vector(costs.y + (item + b) * costs.y_item, c, j, costs.m, 0.0)[None, :]
        sums += tl.where(difference > 0, w, tl.where(difference < 0, -w, 0.0))
    tl.store(out + (b * height + i) * costs.d + c, tl.sum(sums, 1), mask=i < height)


@triton.jit
def c_transform(costs, g, out, BM: tl.constexpr, BN: tl.constexpr):
    """min_j C_ij − g_j of every row."""
    b, i = block_of_rows(costs.n, BM)
    least = tl.full((BM, BN), float("inf"), tl.float64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        slack = tile(costs, b, i, j, tl.float64) - vector(g, b, j, costs.m, 0.0)[None, :]
        least = tl.minimum(least, slack)
    tl.store(out + b * costs.n + i, tl.min(least, 1), mask=i < costs.n)


@triton.jit
def _reaches(costs, at, b, i, j, rows, cols):
    """Mask of the entries with log P_ij ≥ min(rows_i, cols_j), and log P."""
    entries = log_plan(costs, at, b, i, j, tile(costs, b, i, j, tl.float64), tl.float64)
    low, other = vector(rows, b, i, costs.n, 0.0), vector(cols, b, j, costs.m, 0.0)
    reached = (entries >= tl.minimum(low[:, None], other[None, :])) & (entries > float("-inf"))
    return reached, entries


@triton.jit
def count(costs, at, rows, cols, out, BM: tl.constexpr, BN: tl.constexpr):
    """Number of selected entries of every row."""
    b, i = block_of_rows(costs.n, BM)
    found = tl.zeros((BM,), tl.int64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        reached, _ = _reaches(costs, at, b, i, j, rows, cols)
        found += tl.sum(reached.to(tl.int32), 1)
    tl.store(out + b * costs.n + i, found, mask=i < costs.n)


@triton.jit
def select(costs, at, rows, cols, start, item, row, col, value, BM: tl.constexpr, BN: tl.constexpr):
    """Item, row, column and log P of every selected entry; those of a row are written from ``start (B, n)`` on."""
    b, i = block_of_rows(costs.n, BM)
    free = vector(start, b, i, costs.n, 0)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        reached, entries = _reaches(costs, at, b, i, j, rows, cols)
        ones = reached.to(tl.int32)
        place = free[:, None] + tl.cumsum(ones, 1) - 1
        tl.store(item + place, b, mask=reached)
        tl.store(row + place, i[:, None], mask=reached)
        tl.store(col + place, j[None, :], mask=reached)
        tl.store(value + place, entries, mask=reached)
        free += tl.sum(ones, 1)


@triton.jit
def cost_range(costs, has_a, has_b, low, high, span, forbidden, BM: tl.constexpr, BN: tl.constexpr):
    """Range of costs, largest reduced cost and whether costs are infinite, for every row's arcs between mass."""
    b, i = block_of_rows(costs.n, BM)
    carries = vector(has_a, b, i, costs.n, 0) != 0
    infinite = float("inf")
    lowest, highest = tl.full((BM, BN), infinite, tl.float64), tl.full((BM, BN), -infinite, tl.float64)
    largest, missing = tl.full((BM, BN), -infinite, tl.float64), tl.zeros((BM, BN), tl.int32)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        arcs = carries[:, None] & (vector(has_b, b, j, costs.m, 0) != 0)[None, :]
        C = given_tile(costs, b, i, j, tl.float64)
        allowed = arcs & (tl.abs(C) < infinite)
        lowest = tl.minimum(lowest, tl.where(allowed, C, infinite))
        highest = tl.maximum(highest, tl.where(allowed, C, -infinite))
        reduced = reduce_tile(costs, b, i, j, C, tl.float64)
        largest = tl.maximum(largest, tl.where(allowed, reduced, -infinite))
        missing += (arcs & ~allowed).to(tl.int32)
    at = b * costs.n + i
    tl.store(low + at, tl.min(lowest, 1), mask=i < costs.n)
    tl.store(high + at, tl.max(highest, 1), mask=i < costs.n)
    tl.store(span + at, tl.max(largest, 1), mask=i < costs.n)
    tl.store(forbidden + at, tl.sum(missing, 1) > 0, mask=i < costs.n)


@triton.jit
def bad_costs(costs, out, BM: tl.constexpr, BN: tl.constexpr):
    """Number of entries of every row that are neither a number nor +inf."""
    b, i = block_of_rows(costs.n, BM)
    bad = tl.zeros((BM, BN), tl.int32)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        bad += (~(tile(costs, b, i, j, tl.float64) > float("-inf"))).to(tl.int32)
    tl.store(out + b * costs.n + i, tl.sum(bad, 1), mask=i < costs.n)
