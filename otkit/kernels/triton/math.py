"""Building blocks of Triton kernels: tiles of costs of any geometry and precision, and softmins.

Kernels take the costs as one tuple, `Costs`, whose kind is known at compile time. A kernel has two types as parameters:
the type D of the differences in exponents, and the type E of exponentials. Potentials and all sums across programs are
float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

# Kinds of costs: a matrix, or a distance of points.
DENSE, EUCLIDEAN, CITYBLOCK, COSINE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
# Euclidean and cosine costs from products of points in float32, by tensor cores, for many coordinates.
PRODUCT, COSINE_PRODUCT = tl.constexpr(4), tl.constexpr(5)
# Coordinates per step of such a product.
_DEPTH = tl.constexpr(16)
LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
# Range of sums, relative to the guessed largest term, that are accurate.
FEW, MANY = tl.constexpr(1e-15), tl.constexpr(1e15)


class Costs(NamedTuple):
    """The costs of a flat geometry, as an argument of kernels; fields that do not apply to the kind are None.

    Attributes
    ----------
    kind : constexpr
        The kind of costs.
    C : array (k or 1, n, m)
        Dense costs. Their strides are ``item`` (0 if the items share them), ``down`` and ``across``.
    unit : constexpr
        Number of adjacent entries that can be loaded at once. ``item``, ``down`` and ``m`` are multiples of it.
    x, y : array (k or 1, d, n), (k or 1, d, m)
        Points by coordinates, contiguous. The strides between items are ``x_item`` and ``y_item``, 0 if shared.
    d : int
        Number of coordinates.
    power : constexpr
        The power of the sum over coordinates: ½ for the root of a sum of squares.
    row, col : array (B, n), (B, m)
        Offsets that reduce the costs, subtracted columns first if ``transposed``; None for costs that are not reduced.
    n, m : int
    """

    kind: Any
    C: Any
    item: Any
    down: Any
    across: Any
    unit: Any
    x: Any
    y: Any
    x_item: Any
    y_item: Any
    d: Any
    power: Any
    row: Any
    col: Any
    transposed: Any
    n: Any
    m: Any


@triton.jit
def _any_power(s, power: tl.constexpr):
    """s^power of positive normal float64, to a few units in the last place whatever the exponent of s."""
    bits = s.to(tl.int64, bitcast=True)
    exponent = ((bits >> 52) - 1023).to(tl.float64)
    mantissa = ((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    # power·exponent in two parts. The part of the leading digits of the power is exact.
    whole = tl.full(s.shape, power, tl.float64)
    leading = whole.to(tl.float32).to(tl.float64)
    high = exponent * leading
    steps = tl.floor(high + 0.5)
    rest = (high - steps) + exponent * (whole - leading)
    steps = tl.minimum(tl.maximum(steps, -1022.0), 1023.0)
    scale = ((steps.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.exp2(tl.log2(mantissa) * power + rest) * scale


@triton.jit
def _to_power(s, power: tl.constexpr):
    if power == 0.5:
        s = tl.sqrt(s)
    elif power == 2.0:
        s = s * s
    elif power != 1.0:
        positive = s > 0
        base = tl.where(positive, s, 1.0)
        if s.dtype == tl.float64:
            s = tl.where(positive, _any_power(base, power), 0.0)
        else:
            s = tl.where(positive, tl.exp2(tl.log2(base) * power), 0.0)
    return s


@triton.jit
def _from_products(costs, b, i, j):
    """Squared distances ‖x‖² + ‖y‖² − 2·⟨x, y⟩ in float32; three products in TF32 give the accuracy of float32.

    Tensor cores truncate their sums. Each step therefore has a sum of its own, and float32 additions, which round, take
    these together.
    """
    opposite = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    lengths, others = tl.zeros((i.shape[0],), tl.float32), tl.zeros((j.shape[0],), tl.float32)
    for first in range(0, costs.d, _DEPTH):
        k = first + tl.arange(0, _DEPTH)
        x = costs.x + b * costs.x_item + k[None, :] * costs.n + i[:, None]
        y = costs.y + b * costs.y_item + k[:, None] * costs.m + j[None, :]
        one = tl.load(x, mask=(k < costs.d)[None, :] & (i < costs.n)[:, None], other=0.0)
        other = tl.load(y, mask=(k < costs.d)[:, None] & (j < costs.m)[None, :], other=0.0)
        # The compiler makes a sum of tensor cores of an addition, and leaves a subtraction as it is.
        opposite -= tl.dot(one, other, input_precision="tf32x3")
        lengths += tl.sum(one * one, 1)
        others += tl.sum(other * other, 0)
    return tl.maximum(lengths[:, None] + others[None, :] + 2.0 * opposite, 0.0)


@triton.jit
def _distances(costs, b, i, j, D: tl.constexpr):
    """Sums over coordinates of the squares or absolute values of differences, without cancellation."""
    total = tl.zeros((i.shape[0], j.shape[0]), D)
    x, y = costs.x + b * costs.x_item + i, costs.y + b * costs.y_item + j
    for _ in range(costs.d):
        one = tl.load(x, mask=i < costs.n, other=0.0).to(D)
        other = tl.load(y, mask=j < costs.m, other=0.0).to(D)
        difference = one[:, None] - other[None, :]
        if costs.kind == CITYBLOCK:
            total += tl.abs(difference)
        else:
            total += difference * difference
        x += costs.n
        y += costs.m
    return total


@triton.jit
def given_tile(costs, b, i, j, D: tl.constexpr, outside: tl.constexpr = float("inf")):
    """Costs of rows ``i`` and columns ``j`` of item ``b`` as given, or the number ``outside``; i, j and b are int64."""
    # Tell the compiler that the unit divides these numbers.
    item, down = costs.item // costs.unit * costs.unit, costs.down // costs.unit * costs.unit
    m = costs.m // costs.unit * costs.unit
    inside = (i < costs.n)[:, None] & (j < m)[None, :]
    if costs.kind == DENSE:
        at = costs.C + b * item + i[:, None] * down + j[None, :] * costs.across
        C = tl.load(at, mask=inside, other=outside).to(D)
    else:
        if (costs.kind == PRODUCT) or (costs.kind == COSINE_PRODUCT):
            s = _from_products(costs, b, i, j)
        else:
            s = _distances(costs, b, i, j, D)
        if (costs.kind == COSINE) or (costs.kind == COSINE_PRODUCT):
            s *= 0.5
        C = tl.where(inside, _to_power(s, costs.power), outside)
    return C


@triton.jit
def reduce_tile(costs, b, i, j, C, D: tl.constexpr):
    """A tile of costs less the offsets, subtracted in the order of `Reduced`."""
    if costs.row is not None:
        row = tl.load(costs.row + b * costs.n + i, mask=i < costs.n, other=0.0).to(D)[:, None]
        col = tl.load(costs.col + b * costs.m + j, mask=j < costs.m, other=0.0).to(D)[None, :]
        if costs.transposed:
            C = (C - col) - row
        else:
            C = (C - row) - col
    return C


@triton.jit
def tile(costs, b, i, j, D: tl.constexpr):
    """Reduced costs of rows ``i`` and columns ``j`` of item ``b``, ``inf`` outside."""
    return reduce_tile(costs, b, i, j, given_tile(costs, b, i, j, D), D)


@triton.jit
def vector(pointer, b, k, size, other):
    """Entries ``k`` of the vector of item ``b`` in an array ``(B, size)``."""
    return tl.load(pointer + b * size + k, mask=k < size, other=other)


@triton.jit
def block_of_rows(size, BM: tl.constexpr):
    """The item and the rows of this program, of those that `launch.programs` enumerates for ``size`` rows."""
    program, blocks = tl.program_id(0), tl.cdiv(size, BM)
    return (program // blocks).to(tl.int64), (program % blocks).to(tl.int64) * BM + tl.arange(0, BM)


@triton.jit
def _shifted(costs, b, i, j, g, log_b, reg, D: tl.constexpr):
    """The exponents (g_j + reg·log b_j − C_ij)/reg of a softmin, in base 2."""
    h = vector(g, b, j, costs.m, 0.0) + reg * vector(log_b, b, j, costs.m, float("-inf"))
    return (h.to(D)[None, :] - tile(costs, b, i, j, D)) * ((1.0 / reg) * LOG2_E).to(D)


@triton.jit
def guessed_sums(costs, b, i, g, log_b, reg, top, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    """Σ_j of the exponentials divided by 2^top, with one exponential per entry."""
    sums = tl.zeros((i.shape[0], BN), E)
    for first in tl.range(0, costs.m, BN, num_stages=2):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        exponent = _shifted(costs, b, i, j, g, log_b, reg, D)
        sums += tl.exp2((exponent - top.to(D)[:, None]).to(E))
    return tl.sum(sums, 1).to(tl.float64)


@triton.jit
def largest_sums(costs, b, i, g, log_b, reg, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    """The largest exponent of every row, and Σ_j of the exponentials relative to it, in one pass."""
    top = tl.full((i.shape[0],), float("-inf"), D)
    sums = tl.zeros((i.shape[0],), tl.float64)
    for first in range(0, costs.m, BN):
        j = (first + tl.arange(0, BN)).to(tl.int64)
        exponent = _shifted(costs, b, i, j, g, log_b, reg, D)
        higher = tl.maximum(top, tl.max(exponent, 1))
        base = tl.where(higher > float("-inf"), higher, 0.0)
        here = tl.sum(tl.exp2((exponent - base[:, None]).to(E)), 1)
        sums = sums * tl.exp2((top - base).to(tl.float64)) + here.to(tl.float64)
        top = higher
    return top.to(tl.float64), sums


@triton.jit
def softmin_rows(costs, b, i, g, log_b, reg, guess, D: tl.constexpr, E: tl.constexpr, BN: tl.constexpr):
    """−reg·log Σ_j b_j exp((g_j − C_ij)/reg) of rows ``i``; 0 for a row that reaches no mass.

    ``guess`` is a guess of the softmin or None. It gives the largest exponent. If it is too far off, the rows are
    recomputed with their maxima.
    """
    if guess is not None:
        top = -guess * ((1.0 / reg) * LOG2_E)
        sums = guessed_sums(costs, b, i, g, log_b, reg, top, D, E, BN)
        bad = (i < costs.n) & ~((sums > FEW) & (sums < MANY))
        if tl.sum(bad.to(tl.int32)) > 0:
            top, sums = largest_sums(costs, b, i, g, log_b, reg, D, E, BN)
    else:
        top, sums = largest_sums(costs, b, i, g, log_b, reg, D, E, BN)
    some = sums > 0
    return tl.where(some, -reg * (top + tl.log2(tl.where(some, sums, 1.0))) * LN_2, 0.0)


@triton.jit
def softmin(costs, g, log_b, reg, guess, out, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The softmin of every row: one program for BM rows of an item."""
    b, i = block_of_rows(costs.n, BM)
    start = guess
    if guess is not None:
        start = vector(guess, b, i, costs.n, 0.0)
    found = softmin_rows(costs, b, i, g, log_b, tl.load(reg + b), start, D, E, BN)
    tl.store(out + b * costs.n + i, found, mask=i < costs.n)
