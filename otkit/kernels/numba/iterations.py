"""Sinkhorn iterations, compiled: one read of the costs and at most one exponential per entry.

The row update computes Q_ij = P_ij/P_i• for every row, with entries of at most 1. In the same pass it adds the row's
contribution to the column sums. Two forms of this pass give the same numbers. `otkit.kernels.numba.listed` has both for
the entries that matter.

- *Log domain*: one exponential per entry. The last potential of the row is the guess of the largest exponent. If the
  guess is too far off, the row is recomputed with its maximum.
- *Absorbed*: Q is kept in memory. The following passes only rescale its columns by ``v = exp((g − g₀)/reg)``, without
  an exponential per entry. If a scaling leaves 2^±60, Q is recomputed.

Column sums that underflow are recomputed from the largest exponent of each column.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.anderson import mix, start_window
from otkit.kernels.numba.jit import clear, copy, exact, exp, exp_single, inlined, jit, least, log, most, wide

_FEW, _MANY = 1e-15, 1e15  # range of row sums, relative to the guessed largest term, that are accurate
LIGHT, LIGHT_SINGLE, _HEAVY = 1e-250, 1e-30, 1e250  # range of column sums without intermediate under- or overflow
SCALED = 41.0  # log 2^60
# Single precision loses 1e-8 to 1e-7 of every row sum. It is accurate enough for tolerances of at least this.
SINGLE = 1e-5
# Number of entries below which it does not pay: they stay in the fastest cache in double precision too.
_ENOUGH = 2**12


@jit
def _sum(x):
    total = 0.0
    for j in range(x.size):
        total += x[j]
    return total


@exact
def exponent(h, C, offset, inverse):
    """The exponent of an entry. The row's offset is subtracted first: a common offset of the costs may be large."""
    return (h - (C - offset)) * inverse


@jit
def largest(C, offset, h, inverse):
    """The largest exponent of a row."""
    top = -np.inf
    for j in range(h.size):
        top = most(top, exponent(h[j], C[j], offset, inverse))
    return top


@jit
def _exponentials(C, offset, h, inverse, top, out):
    wide()
    if out.itemsize == 4:
        for j in range(h.size):
            out[j] = exponent(h[j], C[j], offset, inverse) - top
        for j in range(h.size):  # single precision has twice as many lanes
            out[j] = exp_single(np.float32(out[j]))
    else:
        for j in range(h.size):
            out[j] = exp(exponent(h[j], C[j], offset, inverse) - top)
    return _sum(out)


@jit
def row_mass(a, sigma, offset, keep, reg):
    """The potential of a row whose softmin is `sigma`, and the mass of the row."""
    if keep == 1.0:
        return sigma, a
    f = keep * sigma - (1.0 - keep) * offset
    return f, a * exp((f - sigma) / reg)


@jit
def _log_row(C, i, a, offset, h, keep, reg, sigma, f, e):
    """Update a row in the log domain; returns its mass and the sum of its terms, 0 without any. ``e`` has the terms."""
    inverse = 1.0 / reg
    total = 0.0
    top = -sigma[i] * inverse
    if abs(top) < np.inf:  # there is a guess
        total = _exponentials(C, offset, h, inverse, top, e)
    if not _FEW < total < _MANY:
        top = largest(C, offset, h, inverse)
        if top == -np.inf:  # no arcs to mass: such a row has no mass
            sigma[i] = 0.0
            f[i] = row_mass(a[i], 0.0, offset, keep, reg)[0]
            clear(e)
            return 0.0, 0.0
        total = _exponentials(C, offset, h, inverse, top, e)
    sigma[i] = -reg * (top + log(total))
    f[i], mass = row_mass(a[i], sigma[i], offset, keep, reg)
    return mass, total


@jit
def log_rows(C, first, a, row, h, keep, reg, sigma, f, sums, Q):
    """Update the rows of a tile in the log domain; returns their mass.

    ``C (r, m)`` has rows ``first…``. ``h (m,)`` is g + reg·log b + the offset of the columns. ``sigma (n,)`` has
    guesses of the new softmins, which overwrite them. Column sums are added to ``sums (m,)``. The rows of Q are filled
    unless Q is empty. Exponentials have the precision of Q.
    """
    wide()
    m = h.size
    e = np.empty(m, Q.dtype)
    mass = 0.0
    for r in range(C.shape[0]):
        i = first + r
        w, total = _log_row(C[r], i, a, row[i], h, keep, reg, sigma, f, e)
        mass += w
        inverse_total = 1.0 / total if total > 0.0 else 0.0
        scale = w * inverse_total
        if Q.size:
            for j in range(m):
                Q[i, j] = e[j] * inverse_total
                sums[j] += scale * e[j]
        else:
            for j in range(m):
                sums[j] += scale * e[j]
    return mass


@jit
def _absorbed_row(total, i, a, row, keep, reg, sigma0, sigma, f):
    """Update a row from the sum of its rescaled entries; returns its mass and the factor of its entries."""
    if not total > 0.0:  # no arcs to mass: such a row has no mass
        return 0.0, 0.0
    sigma[i] = sigma0[i] - reg * log(total)
    f[i], mass = row_mass(a[i], sigma[i], row[i], keep, reg)
    return mass, mass / total


@jit
def absorbed_rows(Q, low, high, a, row, v, keep, reg, sigma0, sigma, f, sums):
    """Update rows ``low…high`` by their absorbed entries; returns their mass. Adds to the column sums ``sums (m,)``.

    Four rows are processed at a time, so that the scalings and the sums are read and written once for all four.
    """
    m = v.size
    mass = 0.0
    i = low
    while i + 4 <= high:
        t0 = t1 = t2 = t3 = 0.0
        for j in range(m):
            t0 += Q[i, j] * v[j]
            t1 += Q[i + 1, j] * v[j]
            t2 += Q[i + 2, j] * v[j]
            t3 += Q[i + 3, j] * v[j]
        w0, s0 = _absorbed_row(t0, i, a, row, keep, reg, sigma0, sigma, f)
        w1, s1 = _absorbed_row(t1, i + 1, a, row, keep, reg, sigma0, sigma, f)
        w2, s2 = _absorbed_row(t2, i + 2, a, row, keep, reg, sigma0, sigma, f)
        w3, s3 = _absorbed_row(t3, i + 3, a, row, keep, reg, sigma0, sigma, f)
        mass += (w0 + w1) + (w2 + w3)
        for j in range(m):
            sums[j] += (s0 * Q[i, j] + s1 * Q[i + 1, j]) + (s2 * Q[i + 2, j] + s3 * Q[i + 3, j])
        i += 4
    while i < high:
        t0 = 0.0
        for j in range(m):
            t0 += Q[i, j] * v[j]
        w0, s0 = _absorbed_row(t0, i, a, row, keep, reg, sigma0, sigma, f)
        mass += w0
        for j in range(m):
            sums[j] += s0 * Q[i, j]
        i += 1
    return mass


@jit
def absorbed_groups(Q, ends, low, high, a, row, v, keep, reg, sigma0, sigma, f, sums, mass):
    """Update the rows of groups ``low…high`` by their absorbed entries; each group has a row of the sums."""
    for k in range(low, high):
        clear(sums[k])
        mass[k] = absorbed_rows(Q, ends[k], ends[k + 1], a, row, v, keep, reg, sigma0, sigma, f, sums[k])


@jit
def log_ratios(sums, v, b, light, out):
    """log of the column masses over their weights, from the parts ``sums (G, m)``; False if a sum is not safe.

    The column sums are ``v_j`` times the sum of all parts. A sum that is not above ``light`` is not safe. The first
    part is overwritten by the sum of all parts.
    """
    wide()
    for part in range(1, sums.shape[0]):
        for j in range(b.size):
            sums[0, j] += sums[part, j]
    unsafe = 0
    for j in range(b.size):
        total = sums[0, j] * v[j]
        unsafe += b[j] > 0.0 and not light < total < _HEAVY
    for j in range(b.size):
        out[j] = log(sums[0, j] * v[j] / b[j] if b[j] > 0.0 else 1.0)
    return unsafe == 0


@jit
def _column_error(ratio, b, col, g, keep, rho, new):
    """L1 distance of the column masses from the optimal ones at ``g``, and total of the optimal ones at ``new``."""
    error = total = 0.0
    for j in range(b.size):
        if b[j] > 0.0:
            mass = b[j] * exp(ratio[j])
            if keep == 1.0:
                error += abs(mass - b[j])
            elif rho > 0.0:
                error += abs(mass - b[j] * exp(-(g[j] + col[j]) / rho))
                total += b[j] * exp(-(new[j] + col[j]) / rho)
    return error, total


@jit
def update_columns(ratio, b, col, g, keep, rho, reg, coupling, row_mass, scale, new):
    """The error of the columns; their updated potentials go to ``new (m,)``. ``row_mass (G,)`` has masses of rows."""
    for j in range(b.size):
        new[j] = g[j]
        if b[j] > 0.0:
            new[j] = keep * (g[j] - reg * ratio[j]) - (1.0 - keep) * col[j]
    error, total = _column_error(ratio, b, col, g, keep, rho, new)
    if coupling > 0.0:  # the optimal constant to move from the potentials of one side to those of the other
        if keep == 1.0:
            total = _sum(b)
        shift = coupling * np.log(_sum(row_mass) / total)
        if abs(shift) < np.inf:
            for j in range(b.size):
                new[j] -= shift
    return error / scale


@jit
def rescale(g, g0, b, reg, v, far):
    """Scalings of the columns since Q was computed; False if one of them leaves e^±far."""
    wide()
    inverse = 1.0 / reg
    for j in range(b.size):
        v[j] = (g[j] - g0[j]) * inverse if b[j] > 0.0 else 0.0
    low, high = 0.0, 0.0
    for j in range(b.size):
        low, high = least(low, v[j]), most(high, v[j])
    for j in range(b.size):
        v[j] = exp(v[j])
    return -far < low and high < far


@jit
def start_log(g, log_b, col, reg, h, g0, v):
    """Set ``h`` for a pass in the log domain, and the reference point ``g0`` and scalings ``v`` of absorbed passes."""
    for j in range(g.size):
        h[j] = g[j] + reg * log_b[j] + col[j]
        g0[j] = g[j]
        v[j] = 1.0


class Given(NamedTuple):
    """Inputs of iterations: ``a``, ``row (B, n)``; ``b``, ``log_b``, ``col (B, m)``; the others ``(B,)``."""

    a: np.ndarray
    b: np.ndarray
    log_b: np.ndarray
    row: np.ndarray
    col: np.ndarray
    reg: np.ndarray
    keep_a: np.ndarray
    keep_b: np.ndarray
    rho_b: np.ndarray
    coupling: np.ndarray
    tol: np.ndarray
    budget: np.ndarray
    reach: np.ndarray
    scale: np.ndarray


class Past(NamedTuple):
    """History of the acceleration, as `otkit.entropic.anderson.Mixing`, updated in place."""

    moves: np.ndarray
    bends: np.ndarray
    memory: np.ndarray
    old: np.ndarray
    residual: np.ndarray
    best: np.ndarray


class Found(NamedTuple):
    """Outputs of iterations: ``f (B, n)``; ``g``, ``point (B, m)``; ``error`` and ``done (B,)``."""

    f: np.ndarray
    g: np.ndarray
    point: np.ndarray
    error: np.ndarray
    done: np.ndarray


class Room(NamedTuple):
    """Vectors in which iterations work: of the length of the rows, of the columns, and the Gram matrix."""

    sigma: np.ndarray
    sigma0: np.ndarray
    sums: np.ndarray
    mass: np.ndarray
    h: np.ndarray
    g0: np.ndarray
    v: np.ndarray
    ratio: np.ndarray
    new: np.ndarray
    gram: np.ndarray


@jit
def sweep_items(C, low, high, given, past, found):
    """All iterations of items ``low…high``, whose costs are ``C (high − low or 1, n, m)``.

    Many entries are in single precision where the tolerance permits, unless column sums are not safe then. An item
    whose sums are not safe in double precision either stops, in the state before that iteration.
    """
    n, m = C.shape[1:]
    window = past.moves.shape[1]
    room = Room(
        np.empty(n), np.empty(n), np.empty((1, m)), np.empty(1),
        np.empty(m), np.empty(m), np.empty(m), np.empty(m), np.empty(m), np.empty((window, window)),
    )  # fmt: skip
    single, double = np.empty((0, 0), np.float32), np.empty((0, 0))
    for k in range(low, high):
        costs = C[(k - low) % C.shape[0]]
        if given.tol[k] >= SINGLE and n * m >= _ENOUGH:
            if single.size == 0:
                single = np.empty((n, m), np.float32)
            if _sweep_item(costs, k, given, past, found, room, single, LIGHT_SINGLE):
                continue
        if double.size == 0:
            double = np.empty((n, m))
        _sweep_item(costs, k, given, past, found, room, double, LIGHT)


@inlined
def _sweep_item(costs, k, given, past, found, room, Q, light):
    """The remaining iterations of an item, with entries in the precision of Q; False if column sums are not safe."""
    a, b, log_b, row, col, reg, keep_a, keep_b, rho_b, coupling, tol, budget, reach, scale = given
    moves, bends, memory, old, residual, best = past
    f, g, point, error, count = found
    sigma, sigma0, sums, mass, h, g0, v, ratio, new, gram = room
    item_a, item_b, item_row, item_col = a[k], b[k], row[k], col[k]
    item_f, x = f[k], point[k]
    start_window(item_b, bends[k], gram)
    copy(item_f, sigma)
    absorbed, first = False, np.int64(0)
    for _ in range(budget[k] - count[k]):
        clear(sums[0])
        if absorbed:
            mass[0] = absorbed_rows(
                Q, first, sigma.size, item_a, item_row, v, keep_a[k], reg[k], sigma0, sigma, item_f, sums[0]
            )
        else:
            start_log(x, log_b[k], item_col, reg[k], h, g0, v)
            mass[0] = log_rows(costs, first, item_a, item_row, h, keep_a[k], reg[k], sigma, item_f, sums[0], Q)
            copy(sigma, sigma0)
        if not log_ratios(sums, v, item_b, light, ratio):
            return False
        error[k] = update_columns(
            ratio, item_b, item_col, x, keep_b[k], rho_b[k], reg[k], coupling[k], mass, scale[k], new
        )
        count[k] += 1
        copy(x, g[k])
        if error[k] <= tol[k]:
            copy(new, x)
            return True
        before = memory[k], old[k], residual[k], best[k]
        mix(x, new, error[k], item_b, reach[k], moves[k], bends[k], gram, *before)
        absorbed = rescale(x, g0, item_b, reg[k], v, SCALED)
    return True
