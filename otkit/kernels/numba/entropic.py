"""Small entropic problems, compiled: from weights and costs to potentials at the tolerance, item by item.

Where the regularisation is small, the potentials of an optimal vertex are where Newton's method begins. They miss those
that are looked for by a few times the regularisation, so that the number of steps hardly grows as it falls.

An item that does not converge in a few steps gets a flag.
"""

from __future__ import annotations

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.flow import representative
from otkit.kernels.numba.items import ARCS, ERROR, FLAG, LOWER, PIVOTS, SPAN, UNSOLVED, UPPER, VALUE, begin, write
from otkit.kernels.numba.iterations import exponent
from otkit.kernels.numba.jit import clear, copy, inlined, jit, most, ordered, raise_all
from otkit.kernels.numba.newton import Point, Problem, descend
from otkit.kernels.numba.vertices import optimum

# Rows of the vectors of an item after those of `items`: the marginals of the plan.
SENT, RECEIVED = 6, 7
# Numbers of an item in place of its bounds: ⟨C, P⟩ and reg·KL(P | a⊗b).
LINEAR, DIVERGENCE = LOWER, UPPER
# Potentials begin at zero where reg is at least the range of the costs over _EASY, else at those of a vertex. If more
# than 1/_EMPTY of its arcs carry no mass, its potentials are an end of many that are optimal: a stage at _FACTOR·reg
# then brings them to the middle. Measured on 29 kinds of problems, n = 20 to 110.
_EASY, _EMPTY, _FACTOR = 64.0, 4, 3.0
# As in `otkit.solvers.descent`: the largest tolerance that rounding may set.
_NOISE = 1e-3


@ordered
def _centre(R, g):
    """Shift the potentials of the columns of each connected part to a mean of 0: nothing else relates the parts."""
    above, mean, count = np.arange(g.size), np.zeros(g.size), np.zeros(g.size)
    for i in range(R.shape[0]):
        first = -1
        for j in range(g.size):
            if R[i, j] < np.inf:
                first = representative(above, j) if first < 0 else first
                above[representative(above, j)] = first
    for j in range(g.size):
        part = representative(above, j)
        count[part] += 1.0
        mean[part] += (g[j] - mean[part]) / count[part]
    for j in range(g.size):
        g[j] -= mean[representative(above, j)]


@inlined
def _begin(item, R, reg, span, limit, g):
    """Write the potentials of the columns of R to begin with; returns the first reg, 0 if no vertex was found."""
    if reg * _EASY >= span:
        clear(g)
        return reg
    pivots, _, _, flow, _, pi = optimum(item.R, item.nr, item.nc, item.weight, span, limit)
    if pivots < 0:
        return 0.0
    turned = g.size < item.nc
    for j in range(g.size):
        g[j] = -pi[j] if turned else pi[item.nr + j]
    _centre(R, g)
    empty = -1  # the arc to the root
    for v in range(item.weight.size):
        empty += flow[v] == 0
    return reg * _FACTOR if empty * _EMPTY > item.weight.size else reg


@ordered
def _turned(item, turn):
    """The costs between points with mass, transposed where asked."""
    n, m = item.nr, item.nc
    out = np.empty((m, n) if turn else (n, m))
    for i in range(n):
        for j in range(m):
            if turn:
                out[j, i] = item.R[i, j]
            else:
                out[i, j] = item.R[i, j]
    return out


@jit
def _softmin(R, g, b, reg):
    """The softmin over the columns with weights; 0 where no cost is finite."""
    top, total = -np.inf, 0.0
    for j in range(b.size):
        top = most(top, g[j] - R[j] + reg * np.log(b[j]))
    if top == -np.inf:
        return 0.0
    for j in range(b.size):
        total += b[j] * np.exp((g[j] - R[j] - top) / reg)
    return -top - reg * np.log(total)


@ordered
def _extended(item, f, g, reg):
    """Potentials of all points from those of the points with mass."""
    nr, nc = item.nr, item.nc
    all_f, all_g, column = np.empty(item.rows.size), np.empty(item.cols.size), np.empty(nr)
    copy(f, all_f[:nr])
    copy(g, all_g[:nc])
    for i in range(nr, all_f.size):
        all_f[i] = _softmin(item.R[i], g, item.weight[nr:], reg)
    for j in range(nc, all_g.size):
        for i in range(nr):
            column[i] = item.R[i, j]
        all_g[j] = _softmin(column, f, item.weight[:nr], reg)
    return all_f, all_g


@jit
def _measure(problem, reg, at, sent, received):
    """Write the marginals of the plan of potentials; returns its reduced cost, and the error."""
    R, a, b, log_b, h, Q = problem
    inverse, cost, error, mass = 1.0 / reg, 0.0, 0.0, 0.0
    for j in range(b.size):
        h[j], received[j] = at.g[j] + reg * log_b[j], 0.0
    for i in range(a.size):
        for j in range(b.size):
            Q[i, j] = exponent(h[j], R[i, j], at.f[i], inverse)
    raise_all(Q)
    for i in range(a.size):
        total = paid = 0.0
        for j in range(b.size):
            total += Q[i, j]
            paid += Q[i, j] * (R[i, j] if R[i, j] < np.inf else 0.0)
        sent[i] = a[i] * total
        cost += a[i] * paid
        error, mass = error + abs(sent[i] - a[i]), mass + a[i]
        for j in range(b.size):
            received[j] += a[i] * Q[i, j]
    for j in range(b.size):
        error, mass = error + abs(received[j] - b[j]), mass + b[j]
    return cost, 2.0 * error / mass


@ordered
def _value(item, reg, f, g, sent, received, cost):
    """⟨C, P⟩ and reg·KL(P | a⊗b) of a plan, from its reduced cost and its marginals."""
    linear, gained, mass, total_a, total_b = cost, -cost, 0.0, 0.0, 0.0
    for i in range(f.size):
        linear += item.row[i] * sent[i]
        gained += f[i] * sent[i]
        mass, total_a = mass + sent[i], total_a + item.weight[i]
    for j in range(g.size):
        linear += item.col[j] * received[j]
        gained += g[j] * received[j]
        total_b += item.weight[f.size + j]
    return linear, gained - reg * (mass - total_a * total_b)


@ordered
def _note(item, sent, received, v):
    """Write the marginals of the plan at the places of its points."""
    for i in range(sent.size):
        v[SENT, item.rows[i]] = sent[i]
    for j in range(received.size):
        v[RECEIVED, item.cols[j]] = received[j]


@inlined
def _item(item, reg, tol, easy, limit, num, info, v, stages):
    """Solve an item; returns a flag. Newton's steps are on the shorter side."""
    rounding = 8 * UNIT * num[SPAN] / reg
    if rounding > _NOISE or easy[0] * num[SPAN] <= reg < easy[1] * num[SPAN]:
        return UNSOLVED
    turn = item.nc > item.nr
    a, b, R = item.weight[: item.nr], item.weight[item.nr :], _turned(item, turn)
    if turn:
        a, b = b, a
    problem = Problem(R, a, b, np.log(b), np.empty(b.size), np.empty(R.shape))
    at = Point(np.empty(a.size), np.empty(b.size), np.empty(b.size))
    tol = max(tol, rounding)
    first = _begin(item, R, reg, num[SPAN], limit, at.g)
    if first == 0.0:
        return UNSOLVED
    info[PIVOTS], info[ARCS], good = descend(problem, reg, first, tol, num[SPAN], at, stages)
    if not good:
        return UNSOLVED
    sent, received = np.empty(a.size), np.empty(b.size)
    num[VALUE], num[ERROR] = _measure(problem, reg, at, sent, received)
    if not num[ERROR] <= tol:
        return UNSOLVED
    f, g = (at.g, at.f) if turn else (at.f, at.g)
    sent, received = (received, sent) if turn else (sent, received)
    num[LINEAR], num[DIVERGENCE] = _value(item, reg, f, g, sent, received, num[VALUE])
    _note(item, sent, received, v)
    if f.size < item.rows.size or g.size < item.cols.size:
        f, g = _extended(item, f, g, reg)
    write(item, f, g, v)
    return 0


@jit
def solve(
    C,
    x,
    y,
    metric,
    w_a,
    w_b,
    at_a,
    at_b,
    first,
    second,
    unit,
    reg,
    tol,
    easy,
    limit,
    low,
    high,
    room,
    num,
    info,
    vectors,
    stages,
):
    """Solve the items ``low … high`` at regularisations ``reg (items,)``; arguments are those of `vertices.solve`.

    Items whose reg is between the factors ``easy (2,)`` of the range of their costs are left.

    `VALUE` is the reduced cost of the plan, whose marginals go to ``vectors (items, 8, w)``. `LINEAR` and `DIVERGENCE`
    are the parts of the objective. `PIVOTS` and `ARCS` count iterations and stages. ``stages (items, STAGES, 4)`` is
    their log, by the names from `REG` on.
    """
    costs, measures = (C, x, y, metric), (w_a, w_b, at_a, at_b, first, second)
    for k in range(low, high):
        item = begin(costs, measures, unit, k, room, num[k], info[k], vectors[k])
        if info[k, FLAG] == 0:
            info[k, FLAG] = _item(item, reg[k], tol, easy, limit, num[k], info[k], vectors[k], stages[k])
