"""The optimal staircase on a circle, compiled: where to cut it, so that both sides keep their order from there.

Points repeat with the period T, and their masses with the total M. The monotone plan that moves the mass at s to the
mass at s + α has a cost that is convex and piecewise linear in the shift α. It bends where the end of a row meets the
end of a column. The best shift is found by bisection, with masses as whole numbers, so that it is exact. At one of the
places where ends meet, the staircase then closes: the circle is cut there (Delon, Salomon & Sobolevski 2010).
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import add, difference, exact, inlined, jit
from otkit.kernels.numba.staircase import raised

# The total mass in whole numbers. Shifts of up to twice as much, and their differences, must not overflow.
TOTAL = 2**60
# The best shift is looked for from this far on, in steps that grow by this factor.
_NEAR, _WIDER = 2**20, 64


@jit
def _first(ends, shift):
    """The first end of a column after the shift: its index and its number of periods."""
    turns = shift // TOTAL
    rest = shift - turns * TOTAL
    low, high = 0, ends.size - 1
    while low < high:
        middle = (low + high) // 2
        if ends[middle] > rest:
            high = middle
        else:
            low = middle + 1
    return low, turns


@jit
def _next(j, turns, size):
    return (j + 1, turns) if j + 1 < size else (0, turns + 1)


@exact
def _apart(x, y, turns, period):
    """|x − y − turns·period|, of small relative error (two-sums); products with up to 2 turns are exact."""
    straight, lost = difference(x, y)
    wound, more = difference(straight, turns * period)
    return abs(wound + (lost + more))


@jit
def _cost(x, y, turns, period, power):
    return raised(_apart(x, y, turns, period), power)


@jit
def _slope(x, ends_x, y, ends_y, period, power, shift):
    """The right derivative of the cost by the shift, and the sum of its absolute terms."""
    j, turns = _first(ends_y, shift)
    i = 0
    total, lost, size = 0.0, 0.0, 0.0
    for _ in range(y.size):
        end = ends_y[j] + turns * TOTAL - shift
        while ends_x[i] < end:
            i += 1
        old = _cost(x[i], y[j], turns, period, power)
        j, turns = _next(j, turns, y.size)
        new = _cost(x[i], y[j], turns, period, power)
        total, lost = add(total, lost, new)
        total, lost = add(total, lost, -old)
        size += old + new
    return total + lost, size


@jit
def _best_shift(x, ends_x, y, ends_y, period, power):
    """The smallest shift from which the cost does not fall."""
    low, high = np.int64(-2 * TOTAL), np.int64(2 * TOTAL)
    while high - low > 1:
        middle = low + (high - low) // 2
        if _slope(x, ends_x, y, ends_y, period, power, middle)[0] >= 0.0:
            high = middle
        else:
            low = middle
    return high


@jit
def _cut(x, ends_x, y, ends_y, period, power, shift):
    """The row and the column after whose common end the circle is cut, and the number of later common ends.

    At a common end the staircase goes to the next row first, or to the next column first. With rows first everywhere
    the slope is not positive, with columns first not negative. It passes 0 at the cut. The fourth number bounds how far
    it does not, by rounding.
    """
    slope, size = _slope(x, ends_x, y, ends_y, period, power, shift - 1)
    j, turns = _first(ends_y, shift)
    i, row, col, later, lost = 0, 0, 0, 0, 0.0
    for _ in range(y.size):
        end = ends_y[j] + turns * TOTAL - shift
        while ends_x[i] < end:
            i += 1
        column, before = j, turns
        j, turns = _next(j, turns, y.size)
        if ends_x[i] != end:
            continue
        if slope + lost >= 0.0:
            later += 1
            continue
        row, col = i, column
        following, behind = _next(i, 0, x.size)
        here = _cost(x[i], y[j], turns, period, power), _cost(x[i], y[column], before, period, power)
        there = (
            _cost(x[following], y[j], turns - behind, period, power),
            _cost(x[following], y[column], before - behind, period, power),
        )
        slope, lost = add(slope, lost, here[0])
        slope, lost = add(slope, lost, -here[1])
        slope, lost = add(slope, lost, -there[0])
        slope, lost = add(slope, lost, there[1])
        size += here[0] + here[1] + there[0] + there[1]
    return row, col, later, max(0.0, -(slope + lost)), size


@jit
def _reach(x, ends_x, y, ends_y, period, power, shift, relative, absolute):
    """How far the best shift may be from this one: there, slopes are not 0, whatever rounding has done to them."""
    far = np.int64(_NEAR)
    while far < 4 * TOTAL:
        before, size = _slope(x, ends_x, y, ends_y, period, power, shift - far)
        after, size_after = _slope(x, ends_x, y, ends_y, period, power, shift + far)
        if before < -(relative * size + absolute) and after > relative * size_after + absolute:
            break
        far *= _WIDER
    # The whole masses differ from the true ones, each by less than 1.
    return min(far, 4 * TOTAL) + 4 * (x.size + y.size)


@jit
def _walk(a, b, row, col, later, rows, cols):
    """The steps of the staircase from the points after `row` and `col`, for whole masses ``a (n,)``, ``b (m,)``."""
    n, m = a.size, b.size
    i, j = (row + 1) % n, (col + 1) % m
    have, want = a[i], b[j]
    for step in range(n + m - 1):
        rows[step], cols[step] = i, j
        to_next_row = have < want
        if have == want:
            to_next_row = later > 0
            later -= 1
        if to_next_row:
            want -= have
            i = (i + 1) % n
            have = a[i]
        else:
            have -= want
            j = (j + 1) % m
            want = b[j]


@jit
def _follow(a, b, rows, cols, masses):
    """The masses of the steps; returns the defect as `otkit.kernels.numba.staircase._climb`."""
    have, want, defect = a[rows[0]], b[cols[0]], 0.0
    for step in range(rows.size):
        masses[step] = mass = max(min(have, want), 0.0)
        have, lost_a = difference(have, mass)
        want, lost_b = difference(want, mass)
        defect += abs(lost_a) + abs(lost_b)
        if step + 1 == rows.size:
            break
        if rows[step + 1] != rows[step]:
            defect += abs(have)
            have = a[rows[step + 1]]
        else:
            defect += abs(want)
            want = b[cols[step + 1]]
    return defect + abs(have) + abs(want)


@inlined
def _wind(whole_a, whole_b, a, b, x, y, period, power, rounding, rows, cols, masses):
    ends_x, ends_y = np.cumsum(whole_a), np.cumsum(whole_b)
    shift = _best_shift(x, ends_x, y, ends_y, period, power)
    row, col, later, beyond, size = _cut(x, ends_x, y, ends_y, period, power, shift)
    _walk(whole_a, whole_b, row, col, later, rows, cols)
    # The cost is convex in the shift.
    relative, absolute = rounding[0], 2 * y.size * rounding[1]
    reach = _reach(x, ends_x, y, ends_y, period, power, shift, relative, absolute)
    return _follow(a, b, rows, cols, masses), (beyond + relative * size + absolute) * (reach / TOTAL)


@jit
def _wind_all(whole_a, whole_b, a, b, x, y, period, power, rounding, rows, cols, masses, defect, over):
    for k in range(a.shape[0]):
        defect[k], over[k] = _wind(
            whole_a[k], whole_b[k], a[k], b[k], x[k], y[k], period, power, rounding, rows[k], cols[k], masses[k]
        )


def _whole(w: np.ndarray) -> np.ndarray:
    """Weights ``(B, n)`` of total 1 as positive whole numbers of total `TOTAL`.

    A point without mass has a negligible one, so that the steps also give it a potential.
    """
    whole = np.maximum(np.floor(w * TOTAL).astype(np.int64), 1)
    whole[np.arange(len(w)), w.argmax(-1)] += TOTAL - whole.sum(-1)
    return whole


def wind(
    a: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    period: float,
    power: float,
    rounding: tuple[float, float],
) -> tuple[np.ndarray, ...]:
    """Row, column and mass of each step ``(B, n + m − 1)``, the defects ``(B,)``, and the excess of their costs.

    Points ``x (B, n)`` and ``y (B, m)`` are sorted and lie from minus half the period to half of it. The cost of the
    steps exceeds the optimum by at most the last numbers ``(B,)``, if a cost is off by `rounding` (relative, absolute).
    """
    shape = a.shape[0], a.shape[1] + b.shape[1] - 1
    rows, cols, masses = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64), np.empty(shape)
    defect, over = np.empty(shape[0]), np.empty(shape[0])
    _wind_all(_whole(a), _whole(b), a, b, x, y, period, power, rounding, rows, cols, masses, defect, over)
    return rows, cols, masses, defect, over
