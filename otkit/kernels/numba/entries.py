"""The operations on one tile of costs, compiled: loops over rows and their entries, without temporaries.

A tile ``C (k or 1, r, m)`` has rows ``first…`` of items ``low…high``. Its first axis has length 1 if the items share
their costs. The loops reduce the costs by ``row (B, n)`` and ``col (B, m)`` in the order of `Reduced`, with the columns
first if ``transposed``.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import exact, exp, jit, least, log, most, wide


@exact
def _reduced(C, row, col, transposed):
    return (C - col) - row if transposed else (C - row) - col


@jit
def are_costs(C):
    """Whether every entry is a number or +inf."""
    bad = 0
    for k in range(C.shape[0]):
        for r in range(C.shape[1]):
            for j in range(C.shape[2]):
                bad += not C[k, r, j] > -np.inf
    return bad == 0


@exact
def slack(C, row, col, transposed, g):
    """A reduced cost less the potential of its column."""
    return _reduced(C, row, col, transposed) - g


@exact
def _exponent(C, row, col, transposed, h, inverse):
    return (h - _reduced(C, row, col, transposed)) * inverse


@exact
def _log_entry(exponent, log_a, log_b):
    return exponent + (log_a + log_b)


@jit
def _least(C, row, col, transposed, g):
    lowest = np.inf
    for j in range(g.size):
        lowest = least(lowest, slack(C[j], row, col[j], transposed, g[j]))
    return lowest


@jit
def c_transform(C, low, high, first, row, col, transposed, g, out):
    """min_j C_ij − g_j of every row."""
    for k in range(low, high):
        tile = C[(k - low) % C.shape[0]]
        for r in range(tile.shape[0]):
            out[k, first + r] = _least(tile[r], row[k, first + r], col[k], transposed, g[k])


@jit
def _lower(C, row, col, transposed, f, out):
    for j in range(out.size):
        out[j] = least(out[j], slack(C[j], row, col[j], transposed, f))


@jit
def c_transform_columns(C, low, high, first, row, col, transposed, f, out):
    """The minimum of ``out (B, m)`` and min_i C_ij − f_i over the rows of the tile, in place."""
    for k in range(low, high):
        tile = C[(k - low) % C.shape[0]]
        for r in range(tile.shape[0]):
            i = first + r
            if f[k, i] > -np.inf:
                _lower(tile[r], row[k, i], col[k], transposed, f[k, i], out[k])


@jit
def _largest(h, C, row, col, transposed, inverse, out):
    top = -np.inf
    for j in range(h.size):
        out[j] = _exponent(C[j], row, col[j], transposed, h[j], inverse)
    for j in range(h.size):
        top = most(top, out[j])
    return top


@jit
def softmin(C, low, high, first, row, col, transposed, h, reg, out):
    """−reg·log Σ_j exp((h_j − C_ij)/reg); 0 for a row without terms."""
    wide()
    e = np.empty(h.shape[1])
    for k in range(low, high):
        tile = C[(k - low) % C.shape[0]]
        for r in range(tile.shape[0]):
            i = first + r
            top = _largest(h[k], tile[r], row[k, i], col[k], transposed, 1.0 / reg[k], e)
            if top == -np.inf:
                out[k, i] = 0.0
                continue
            total = 0.0
            for j in range(e.size):
                total += exp(e[j] - top)
            out[k, i] = -reg[k] * (top + log(total))


@jit
def _entries(C, i, row, col, transposed, f, g, log_a, log_b, inverse, out):
    """P of one row."""
    wide()
    for j in range(out.size):
        exponent = _exponent(C[j], row[i], col[j], transposed, f[i] + g[j], inverse)
        out[j] = exp(exponent + (log_a[i] + log_b[j]))


@jit
def moved(C, low, high, first, row, col, transposed, f, g, log_a, log_b, reg, rows, cols, cost):
    """Row sums of a tile; adds its column sums to ``cols (B, m)`` and its cost to ``cost (B,)``."""
    wide()
    P = np.empty(g.shape[1])
    for k in range(low, high):
        tile = C[(k - low) % C.shape[0]]
        for r in range(tile.shape[0]):
            i = first + r
            if log_a[k, i] == -np.inf:
                rows[k, i] = 0.0
                continue
            _entries(tile[r], i, row[k], col[k], transposed, f[k], g[k], log_a[k], log_b[k], 1.0 / reg[k], P)
            total = paid = 0.0
            for j in range(P.size):
                c = _reduced(tile[r, j], row[k, i], col[k, j], transposed)
                total += P[j]
                paid += P[j] * c if P[j] > 0.0 else 0.0
            for j in range(P.size):
                cols[k, j] += P[j]
            rows[k, i] = total
            cost[k] += paid


@jit
def plan(C, low, high, first, row, col, transposed, f, g, log_a, log_b, reg, out):
    """The entries of the plan, in ``out (high − low, r, m)``."""
    for k in range(low, high):
        tile, P = C[(k - low) % C.shape[0]], out[k - low]
        for r in range(tile.shape[0]):
            i = first + r
            _entries(tile[r], i, row[k], col[k], transposed, f[k], g[k], log_a[k], log_b[k], 1.0 / reg[k], P[r])


@jit
def _log_plan(C, i, row, col, transposed, f, g, log_a, log_b, inverse, rows, cols, out):
    """log P of one row, and the number of its entries that reach the threshold."""
    for j in range(out.size):
        exponent = _exponent(C[j], row[i], col[j], transposed, f[i] + g[j], inverse)
        out[j] = _log_entry(exponent, log_a[i], log_b[j])
    count = 0
    for j in range(out.size):
        count += out[j] >= least(rows[i], cols[j]) and out[j] > -np.inf
    return count


@jit
def select(C, low, high, first, row, col, transposed, f, g, log_a, log_b, reg, rows, cols, out):
    """The number of entries with log P_ij ≥ min(rows_i, cols_j). They are written to ``out`` unless it is empty.

    ``out`` has arrays for the item, the row, the column and log P of each entry.
    """
    item, lines, columns, values = out
    e = np.empty(g.shape[1])
    found = 0
    for k in range(low, high):
        tile = C[(k - low) % C.shape[0]]
        for r in range(tile.shape[0]):
            i = first + r
            if log_a[k, i] == -np.inf:
                continue
            inverse = 1.0 / reg[k]
            count = _log_plan(
                tile[r], i, row[k], col[k], transposed, f[k], g[k], log_a[k], log_b[k], inverse, rows[k], cols[k], e
            )
            if item.size and count:
                at = found
                for j in range(e.size):
                    if e[j] >= least(rows[k, i], cols[k, j]) and e[j] > -np.inf:
                        item[at], lines[at], columns[at], values[at] = k, i, j, e[j]
                        at += 1
            found += count
    return found


@jit
def _range(C, row, col, has_b):
    lo, hi, top = np.inf, -np.inf, -np.inf
    infinite = 0
    for j in range(C.size):
        allowed = has_b[j] and C[j] < np.inf
        reduced = _reduced(C[j], row, col[j], False)
        lo = least(lo, C[j] if allowed else np.inf)
        hi = most(hi, C[j] if allowed else -np.inf)
        top = most(top, reduced if allowed else -np.inf)
        infinite += has_b[j] and not C[j] < np.inf
    return lo, hi, top, infinite


@exact
def _reduced_within(C, row, col, outside):
    return ((C - row) - col) - outside


@jit
def _finite_range(C, row, col, outside):
    """As `_range`, for ``outside (m,)``: inf at columns without mass, else 0; and whether all costs are finite.

    If they are not, the range is of no use.
    """
    lo, hi, top, others = np.inf, -np.inf, -np.inf, 0
    for j in range(C.size):
        others += not abs(C[j]) < np.inf
    if others:
        return lo, hi, top, False
    for j in range(C.size):
        lo = least(lo, C[j] + outside[j])
        hi = most(hi, C[j] - outside[j])
    for j in range(C.size):
        top = most(top, _reduced_within(C[j], row, col[j], outside[j]))
    return lo, hi, top, True


@jit
def _lowest(C, outside):
    lowest = np.inf
    for j in range(C.size):
        lowest = least(lowest, C[j] + outside[j])
    return lowest


@jit
def _outside(has, out):
    """Set what is added to costs where there is no mass: inf, else 0."""
    for j in range(has.size):
        out[j] = 0.0 if has[j] else np.inf


@jit
def _made_finite(x, reach):
    """Replace what is not finite by 0, and note which numbers are below inf."""
    for j in range(x.size):
        reach[j] = x[j] < np.inf
        x[j] = x[j] if abs(x[j]) < np.inf else 0.0


@jit
def offsets(C, start, stop, has_a, has_b, row, col, reach_a, reach_b):
    """Offsets of rows and columns from tiles of all rows, as `otkit.entropic.operations.cost_range` has them."""
    outside = np.empty(col.shape[1])
    for k in range(start, stop):
        tile = C[(k - start) % C.shape[0]]
        _outside(has_b[k], outside)
        for i in range(tile.shape[0]):
            row[k, i] = _lowest(tile[i], outside)
        _made_finite(row[k], reach_a[k])
        for j in range(col.shape[1]):
            col[k, j] = np.inf
        for i in range(tile.shape[0]):
            if has_a[k, i]:
                for j in range(col.shape[1]):
                    col[k, j] = least(col[k, j], tile[i, j] - row[k, i])
        _made_finite(col[k], reach_b[k])


@jit
def cost_range(C, start, stop, first, row, col, has_a, has_b, low, high, span, forbidden):
    """Range of the costs, largest reduced cost and number of infinite costs, over arcs between points with mass."""
    outside = np.empty(col.shape[1])
    for k in range(start, stop):
        tile = C[(k - start) % C.shape[0]]
        _outside(has_b[k], outside)
        for r in range(tile.shape[0]):
            i = first + r
            if not has_a[k, i]:
                continue
            infinite = 0
            lo, hi, top, finite = _finite_range(tile[r], row[k, i], col[k], outside)
            if not finite:
                lo, hi, top, infinite = _range(tile[r], row[k, i], col[k], has_b[k])
            low[k], high[k], span[k] = min(low[k], lo), max(high[k], hi), max(span[k], top)
            forbidden[k] += infinite
