"""The end of an iteration, compiled: errors, the optimal constant between the potentials, and Anderson mixing.

The algorithm is that of `otkit.entropic.anderson` and of the end of `otkit.entropic.sinkhorn.iterate`. Its sums are
over columns. Each kernel runs in programs of a few columns and leaves their sums in a buffer, and the next one adds
these up in a fixed order. No kernel writes what another of its programs may still read.

- `measure` takes the error of a block of columns, at the end of the kernels that find the softmins.
- `differences` writes the new pair of move and bend, and takes its products with the others.
- `decide`, one program for each item, solves for the combination and decides what follows.
- `combine` forms the combination and the length of its longest step.
- `advance` takes the step.

Without a window there are only the first, the third and the last. `iterations.small` runs all of them in one program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from otkit.kernels.triton.math import LN_2, LOG2_E, vector
from otkit.kernels.triton.mixing import combine_columns, has_pair, mix, pair_products
from otkit.kernels.triton.state import PARTS, REST, RETURN, STEP, added, following, offset, pulled_by


@triton.jit
def _target(weight, potential, rho):
    """Optimal mass w·e^(−f/ρ) at a potential f in the costs as given."""
    if (rho > 0) & (rho < float("inf")):
        weight *= tl.exp2(-potential * (LOG2_E / rho))
    return weight


@triton.jit
def mass_by(s, b, j, m, tau):
    """The masses of columns at ``x`` by their softmins."""
    weight, x = vector(s.b, b, j, m, 0.0), vector(s.x, b, j, m, 0.0)
    rise = (x - tau) * ((1.0 / tl.load(s.reg + b)) * LOG2_E)
    return weight * tl.exp2(tl.minimum(tl.where(weight > 0, rise, 0.0), 1009.9))


@triton.jit
def column_masses(s, costs, b, j, mass, tau):
    """Sums over columns: the L1 distance of their masses from the optimal ones at ``x``, and the optimal ones after.

    The latter is 0 where it is not needed.
    """
    rho, col = tl.load(s.rho_b + b), offset(costs.col, b, j, costs.m)
    weight, x = vector(s.b, b, j, costs.m, 0.0), vector(s.x, b, j, costs.m, 0.0)
    miss = tl.sum(tl.abs(mass - _target(weight, x + col, rho)))
    received = miss * 0.0
    if tl.load(s.coupling + b) > 0.0:
        received = tl.sum(_target(weight, following(s, costs, b, j, tau) + col, rho))
    return miss, received


@triton.jit
def row_masses(s, costs, b, first, end, BLOCK: tl.constexpr):
    """Sum of the masses of rows, which are optimal at ``f``."""
    rho = tl.load(s.rho_a + b)
    mass = tl.zeros((BLOCK,), tl.float64)
    for start in range(first, end, BLOCK):
        i = (start + tl.arange(0, BLOCK)).to(tl.int64)
        potential = vector(s.f, b, i, costs.n, 0.0) + offset(costs.row, b, i, costs.n)
        mass += tl.where(i < end, _target(vector(s.a, b, i, costs.n, 0.0), potential, rho), 0.0)
    return tl.sum(mass)


@triton.jit
def measure(s, costs, b, j, mass, tau, block, blocks, BLOCK: tl.constexpr):
    """Store the sums of a block of columns, and of as large a share of the rows if they are needed."""
    miss, received = column_masses(s, costs, b, j, mass, tau)
    at = s.misses + b * 3 * blocks + block
    tl.store(at, miss)
    tl.store(at + blocks, received)
    if tl.load(s.coupling + b) > 0.0:
        share = tl.cdiv(costs.n, blocks)
        end = tl.minimum(costs.n, (block + 1) * share)
        tl.store(at + 2 * blocks, row_masses(s, costs, b, block * share, end, BLOCK))


@triton.jit
def error_of(s, b, miss):
    """The error of an iteration."""
    return tl.where(tl.load(s.rho_b + b) > 0, miss / tl.load(s.scale + b), 0.0)


@triton.jit
def shift_of(s, b, sent, received):
    """The optimal constant to move from the potentials of the columns to those of the rows."""
    some = (sent > 0) & (received > 0)
    ratio = tl.log2(tl.where(some, sent, 1.0)) - tl.log2(tl.where(some, received, 1.0))
    shift = tl.load(s.coupling + b) * ratio * LN_2
    return tl.where(tl.abs(shift) < float("inf"), shift, 0.0)


@triton.jit
def _outcome(s, b, blocks):
    """The error of an iteration, and the constant."""
    at = s.misses + b * 3 * blocks
    error, shift = error_of(s, b, added(at, blocks)), tl.load(s.coupling + b) * 0.0
    if tl.load(s.coupling + b) > 0.0:
        shift = shift_of(s, b, added(at + 2 * blocks, blocks), added(at + blocks, blocks))
    return error, shift


@triton.jit
def conclude(s, b, error, shift, inner, along, centre):
    """Decide what an item does at the end of an iteration; returns whether it continues."""
    count, tol = tl.load(s.count + b) + 1.0, tl.load(s.tol + b)
    going = (error > tol) & (count < tl.load(s.limit + b))
    tl.debug_barrier()
    tl.store(s.action + b, STEP)
    tl.store(s.better + b, 0)
    tl.store(s.known + b, 0)
    tl.store(s.slot + b, -1)
    if s.window > 0:
        if error > tol:
            mix(s, b, error, inner, along, centre)
    tl.store(s.shift + b, shift)
    tl.store(s.error + b, error)
    tl.store(s.count + b, count)
    tl.store(s.running + b, going.to(tl.int32))
    return going


@triton.jit
def advance_columns(s, costs, b, pulled, longest, first, end, BLOCK: tl.constexpr):
    """Take the step of columns, at most as far as mixing may reach; store the point before and its residual.

    What pulls at the rows is stored in ``pulled (B, m)`` unless that is None.
    """
    action, shift = tl.load(s.action + b), tl.load(s.shift + b)
    for start in range(first, end, BLOCK):
        j = (start + tl.arange(0, BLOCK)).to(tl.int64)
        at, inside = b * costs.m + j, j < costs.m
        x = vector(s.x, b, j, costs.m, 0.0)
        new = following(s, costs, b, j, vector(s.tau, b, j, costs.m, 0.0)) - shift
        point, best = new, x
        if s.window > 0:
            if (tl.load(s.known + b) > 0) & (longest < float("inf")):
                reach = tl.load(s.reach + b)
                shrink = tl.where(longest > reach, reach / tl.where(longest > 0, longest, 1.0), 1.0)
                point = new + shrink * vector(s.change, b, j, costs.m, 0.0)
            best = vector(s.best, b, j, costs.m, 0.0)
            point = tl.where(action == RETURN, best, point)
        tl.debug_barrier()  # all threads have read what follows writes
        tl.store(s.g + at, x, mask=inside)
        tl.store(s.x + at, point, mask=inside)
        if s.window > 0:
            tl.store(s.old + at, x, mask=inside)
            tl.store(s.residual + at, new - x, mask=inside)
            tl.store(s.best + at, tl.where(tl.load(s.better + b) != 0, new, best), mask=inside)
        if pulled is not None:
            tl.store(pulled + at, pulled_by(s, costs, b, j, point), mask=inside)


# The kernels. A program has ``width`` columns, a multiple of BLOCK.


@triton.jit
def _columns(m, width):
    """The item, and the range of the columns of this program."""
    first = tl.program_id(1) * width
    return tl.program_id(0).to(tl.int64), first, tl.minimum(m, first + width)


@triton.jit
def differences(s, costs, blocks, width, BLOCK: tl.constexpr):
    """Write the new pairs of the items that mix, and their products."""
    b, first, end = _columns(costs.m, width)
    if (tl.load(s.running + b) != 0) & (tl.load(s.missed + b) == 0):
        error, shift = _outcome(s, b, blocks)
        if has_pair(s, b, error):
            inner, along, centre = pair_products(s, costs, b, shift, first, end, BLOCK)
            p, part, parts = tl.arange(0, s.W), tl.program_id(1), tl.num_programs(1)
            at = s.products + b * (2 * s.W + 1) * parts + part
            tl.store(at + p * parts, inner)
            tl.store(at + (s.W + p) * parts, along)
            tl.store(at + 2 * s.W * parts, centre)


@triton.jit
def _products(s, b, parts, AT_ONCE: tl.constexpr):
    """The products of a pair, added up."""
    p, q = tl.arange(0, s.W)[:, None], tl.arange(0, AT_ONCE)[None, :]
    at = s.products + b * (2 * s.W + 1) * parts
    inner, along = tl.zeros((s.W, AT_ONCE), tl.float64), tl.zeros((s.W, AT_ONCE), tl.float64)
    for first in range(0, parts, AT_ONCE):
        inside = first + q < parts
        inner += tl.load(at + p * parts + first + q, mask=inside, other=0.0)
        along += tl.load(at + (s.W + p) * parts + first + q, mask=inside, other=0.0)
    return tl.sum(inner, 1), tl.sum(along, 1), added(at + 2 * s.W * parts, parts)


@triton.jit
def decide(s, blocks, parts, AT_ONCE: tl.constexpr):
    """Decide what each item does, or request the repetition of its iteration with maxima."""
    b = tl.program_id(0).to(tl.int64)
    running, missed = tl.load(s.running + b), tl.load(s.missed + b)
    tl.debug_barrier()
    tl.store(s.action + b, REST)
    tl.store(s.known + b, 0)
    if running != 0:
        if missed == 0:
            error, shift = _outcome(s, b, blocks)
            inner, along = tl.zeros((s.W,), tl.float64), tl.zeros((s.W,), tl.float64)
            centre = error * 0.0
            if s.window > 0:
                if has_pair(s, b, error):
                    inner, along, centre = _products(s, b, parts, AT_ONCE)
            conclude(s, b, error, shift, inner, along, centre)
        tl.store(s.missed + b, 0)
        tl.store(s.robust + b, missed)


@triton.jit
def combine(s, costs, width, BLOCK: tl.constexpr):
    """Form the combinations of the items that mix."""
    b, first, end = _columns(costs.m, width)
    if tl.load(s.known + b) > 0:
        at = s.furthest + b * tl.num_programs(1) + tl.program_id(1)
        tl.store(at, combine_columns(s, costs, b, first, end, BLOCK))


@triton.jit
def advance(s, costs, pulled, width, BLOCK: tl.constexpr):
    """Take the steps."""
    b, first, end = _columns(costs.m, width)
    if tl.load(s.action + b) != REST:
        longest = tl.load(s.shift + b) * 0.0
        if s.window > 0:
            if tl.load(s.known + b) > 0:
                q, parts = tl.arange(0, PARTS), tl.num_programs(1)
                longest = tl.max(tl.load(s.furthest + b * parts + q, mask=q < parts, other=0.0))
        advance_columns(s, costs, b, pulled, longest, first, end, BLOCK)
