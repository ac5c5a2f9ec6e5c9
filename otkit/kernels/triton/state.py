"""The state of Sinkhorn iterations on a GPU, and what all their kernels read of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from otkit.kernels.triton.math import vector

# Number of partial sums that are added at a time, and maximum number of programs of an item.
PARTS = tl.constexpr(256)
# What an item does at the end of an iteration: nothing, a step, or the return to its best point.
REST, STEP, RETURN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


class State(NamedTuple):
    """The arrays of a sweep, as an argument of kernels.

    Fields with the names of `otkit.entropic` are float64 arrays. ``x`` is the current point; ``old``, ``residual`` and
    ``best`` are the points and the residual of `Mixing`. W is a power of two of at least `window`. The others are:

    Attributes
    ----------
    running : int32 array (B,)
        Whether an item still runs.
    robust, missed : int32 array (B,)
        Whether rows compute their largest exponents, and whether the guess of one was invalid.
    sigma, tau : array (B, n), (B, m)
        The last softmins of rows and columns, which are guesses of the next ones.
    gram : array (B, W, W)
        Inner products of the bends.
    centres : array (B, W)
        The means of the moves, weighted by the masses.
    misses : array (B, 3, blocks)
        Sums of each block: the L1 distance of the column masses from the optimal ones, the optimal ones after the step,
        and the masses of the rows.
    products : array (B, 2·W + 1, parts)
        Sums of each part: products of all bends with the new bend and with the residual, and the new move.
    furthest : array (B, parts)
        The longest step of each part.
    change : array (B, m)
        The step from the plain point to the combination.
    action, better : int32 array (B,)
        What the item does, and whether its error is the smallest so far.
    shift : array (B,)
        The optimal constant to move from the potentials of the columns to those of the rows.
    known, slot : int32 array (B,)
        The number of pairs of move and bend, and the slot of the pair to be made conjugate or −1.
    shares, older : array (B, W)
        Coefficients of the moves in the combination, and of the older pairs in the one to be made conjugate.
    """

    running: Any
    robust: Any
    missed: Any
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
    total: Any
    moves: Any
    bends: Any
    gram: Any
    centres: Any
    old: Any
    residual: Any
    best: Any
    best_error: Any
    wait: Any
    age: Any
    reach: Any
    misses: Any
    products: Any
    furthest: Any
    change: Any
    action: Any
    better: Any
    shift: Any
    known: Any
    slot: Any
    shares: Any
    older: Any
    window: Any
    W: Any


@triton.jit
def offset(offsets, b, k, size):
    """The offsets subtracted from the costs; 0 if there are none."""
    found = tl.zeros(k.shape, tl.float64)
    if offsets is not None:
        found = vector(offsets, b, k, size, 0.0)
    return found


@triton.jit
def pulled_by(s, costs, b, j, x):
    """x_j + reg·log b_j + the offset of the column, from which costs are subtracted."""
    h = x + tl.load(s.reg + b) * vector(s.log_b, b, j, costs.m, float("-inf"))
    return h + offset(costs.col, b, j, costs.m)


@triton.jit
def added(parts, count):
    """Sum of partial sums, in a fixed order."""
    k = tl.arange(0, PARTS)
    total = tl.zeros((PARTS,), tl.float64)
    for first in range(0, count, PARTS):
        total += tl.load(parts + first + k, mask=first + k < count, other=0.0)
    return tl.sum(total)


@triton.jit
def following(s, costs, b, j, tau):
    """The potential of the columns after a plain step, without the constant that moves between the sides."""
    keep, x = tl.load(s.keep_b + b), vector(s.x, b, j, costs.m, 0.0)
    there = keep * tau - (1.0 - keep) * offset(costs.col, b, j, costs.m)
    return tl.where(vector(s.b, b, j, costs.m, 0.0) > 0, there, x)
