"""The arcs that enter the basis of the network simplex, compiled.

They come from a list of arcs, a block at a time, and from a matrix of costs, a row at a time: a pass over a row in the
widest vectors takes less time than a few hundred steps through a list. Either may be empty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import exact, jit, least, wide
from otkit.kernels.numba.simplex import pivot, price

# Listed arcs of which the best one enters: the square root of their number, at least this many.
_BLOCK = 32
# Entries of a row whose minimum is computed at a time. The place of the minimum is then sought among these only.
_CHUNK = 512
# Arcs of a row that join the list when one of them enters.
_NEW = 4
# The list is searched again when an entering arc was found after so many rows, or K/m rows if these are more.
_ROWS = 4


class Arcs(NamedTuple):
    """Listed arcs: rows, columns and costs. Pricing by rows adds arcs while there is room."""

    rows: np.ndarray
    cols: np.ndarray
    costs: np.ndarray


@exact
def _reduced(cost, pi, g):
    """The reduced cost of an arc, in the order of operations of a row: the minimum of ``cost − g`` comes first."""
    return (cost - g) + pi


@jit
def lowest(costs, g):
    """The least ``costs_j − g_j``."""
    wide()
    found = costs[0] - g[0]
    for j in range(g.size):  # from 0: the check of indices for negative values would prevent vectors
        found = least(found, costs[j] - g[j])
    return found


@exact
def _place(costs, g, value):
    """The first column that attains the least value."""
    for j in range(g.size):
        if costs[j] - g[j] <= value:
            return j
    return 0


@jit
def _row(costs, g):
    """The least ``costs_j − g_j`` of a row, and where the chunk of columns begins that attains it."""
    value, begin = lowest(costs[:_CHUNK], g[:_CHUNK]), 0
    for first in range(_CHUNK, g.size, _CHUNK):
        found = lowest(costs[first : first + _CHUNK], g[first : first + _CHUNK])
        if found < value:
            value, begin = found, first
    return value, begin


@jit
def _by_rows(searched, known, C, pi, row, together, tolerance):
    """The best arc of the next `together` rows that have one of negative reduced cost.

    Rows of `searched` less prices `known` say which arc of a row that may be: these are `C` and `pi` or roundings of
    them. Returns the row, −1 if no row of the matrix has one, its column, the row to go on from, and the number of
    rows seen.
    """
    n, m = C.shape
    f, g, rough = pi[:n], pi[n : n + m], known[n : n + m]
    best, found, column, seen = -tolerance, -1, 0, 0
    while seen < n:
        low, first = _row(searched[row], rough)
        if low + known[row] < best:
            last = first + _CHUNK
            j = first + _place(searched[row, first:last], rough[first:last], low)
            reduced = _reduced(C[row, j], f[row], g[j])
            if reduced < best:
                best, found, column = reduced, row, j
        row = row + 1 if row + 1 < n else 0
        seen += 1
        if seen >= together and found >= 0:
            break
    return found, column, row, seen


@jit
def _by_list(rows, cols, costs, count, pi, g, at, tolerance):
    """The best arc of the next block with one of negative reduced cost, −1 if there is none, and where to go on."""
    block = max(_BLOCK, int(np.sqrt(count)))
    best, found, seen = -tolerance, -1, 0
    while seen < count:
        stop = min(at + block, count, at + count - seen)
        for k in range(at, stop):
            reduced = _reduced(costs[k], pi[rows[k]], g[cols[k]])
            if reduced < best:
                best, found = reduced, k
        seen += stop - at
        at = stop if stop < count else 0
        if found >= 0:
            break
    return found, at


@jit
def _add(costs, g, pi, row, tolerance, arcs, count):
    """Add the best arcs of negative reduced cost of a row to the list; returns the number of listed arcs."""
    best, where = np.full(_NEW, np.inf), np.zeros(_NEW, dtype=np.int64)
    worst = -tolerance
    for j in range(g.size):
        reduced = _reduced(costs[j], pi, g[j])
        if reduced < worst:
            k = _NEW - 1
            while k > 0 and best[k - 1] > reduced:
                best[k], where[k] = best[k - 1], where[k - 1]
                k -= 1
            best[k], where[k] = reduced, j
            worst = min(worst, best[_NEW - 1])
    for k in range(_NEW):
        if best[k] < np.inf and count < arcs.rows.size:
            arcs.rows[count], arcs.cols[count], arcs.costs[count] = row, where[k], costs[where[k]]
            count += 1
    return count


@jit
def _priced(parent, thread, up, cost, pi, rough, rounding, scale):
    """Compute the prices anew; returns the tolerance on reduced costs."""
    largest = price(parent, thread, up, cost, pi)
    for node in range(pi.size):
        rough[node] = pi[node]
    return rounding * max(scale, largest)


@jit
def solve(C, single, arcs, tree, n, together, rounding, scale, most, searched=2**62):
    """Pivot until no arc has a negative reduced cost; returns the number of pivots, and whether this is so.

    It ends after `most` pivots, and when more than `searched` entries of rows have been read.

    Pricing takes listed arcs until none is left, then the best arc of the next `together` rows of the matrix that have
    one. Rows are searched in `single`, the costs in single precision, until nothing is found there, and then in `C`.
    Whether an arc enters is always decided in double precision. If `single` has no rows, it is left out.

    Negative reduced costs above minus `rounding`, relative to the largest price or `scale`, count as rounding errors.
    Before optimality is accepted, prices are recomputed from the tree, since updates accumulate such errors.
    """
    parent, thread, reverse, size, last, up, flow, cost, pi, cursor = tree
    row, at, count, listing, sharp = cursor
    g, loose = pi[n : pi.size - 1], np.empty(pi.size, dtype=np.uint64)
    rough = np.empty(pi.size, dtype=np.float32)
    tolerance, fresh, optimal = _priced(parent, thread, up, cost, pi, rough, rounding, scale), True, False
    sharp = max(sharp, np.int64(single.shape[0] < C.shape[0]))
    pivots = read = 0
    while pivots < most and read <= searched:
        if listing:
            k, at = _by_list(arcs.rows, arcs.cols, arcs.costs, count, pi, g, at, tolerance)
            if k < 0:
                listing = 0
                continue
            i, j, entering = np.int64(arcs.rows[k]), np.int64(arcs.cols[k]), arcs.costs[k]
        else:
            if sharp:
                i, j, row, seen = _by_rows(C, pi, C, pi, row, together, tolerance)
            else:
                i, j, row, seen = _by_rows(single, rough, C, pi, row, together, tolerance)
            read += seen * C.shape[1]
            if i < 0 and fresh and sharp:
                optimal = True
                break
            if i < 0:
                tolerance, fresh = _priced(parent, thread, up, cost, pi, rough, rounding, scale), True
                listing, sharp = np.int64(count > 0), np.int64(1)
                continue
            entering = C[i, j]
            if arcs.rows.size:
                count = _add(C[i], g, pi[i], i, tolerance, arcs, count)
                listing = np.int64(seen > max(_ROWS, count // g.size))
        pivots += 1
        if parent[i] == n + j or parent[n + j] == i:  # an arc of the tree: its price has drifted
            tolerance, fresh = _priced(parent, thread, up, cost, pi, rough, rounding, scale), True
            continue
        fresh = False
        pivot(i, n + j, entering, parent, thread, reverse, size, last, up, flow, cost, pi, rough, loose)
    # A tuple assigned to a slice would cost a second of compilation, for its error message.
    cursor[0], cursor[1], cursor[2], cursor[3], cursor[4] = row, at, count, listing, sharp
    return pivots, optimal
