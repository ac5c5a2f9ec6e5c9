"""Small entropic problems, compiled: from weights and costs to potentials at the tolerance, item by item.

Newton's method maximises the dual over the potentials of the columns, as in `otkit.solvers.sns.newton`, at decreasing
regularisation. Its matrix is ``diag(c) − Σ_i Q_i Q_iᵀ·a_i`` with the column masses c and the rows Q_i = P_i/a_i of the
plan, none of whose entries is dropped. This is the Laplacian of a graph, whose nodes are the columns and whose weights
are the sums of ``a_i·Q_ij·Q_ik``. Elimination of a node adds weights between its neighbours, and subtracts nothing
(Grassmann, Taksar & Heyman 1985): parts of a problem that hardly exchange mass do not drown in rounding.

An item that does not converge in a few steps gets a flag.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.items import ARCS, ERROR, FLAG, LOWER, PIVOTS, SPAN, UNSOLVED, UPPER, VALUE, begin, write
from otkit.kernels.numba.iterations import exponent
from otkit.kernels.numba.jit import clear, copy, dot, exp, jit, log, most, ordered, wide

# Columns of the log of a stage.
REG, ITERATIONS, MISS, NEWTON = range(4)
# Rows of the vectors of an item after those of `items`: the marginals of the plan.
SENT, RECEIVED = 6, 7
# Numbers of an item in place of its bounds: ⟨C, P⟩ and reg·KL(P | a⊗b).
LINEAR, DIVERGENCE = LOWER, UPPER
# Maximum number of stages; that of Newton steps of an item.
STAGES, _STEPS = 32, 60
# The first regularisation is at most the range of the costs over _EASY. It is divided by _FACTOR from stage to stage.
_EASY = _FACTOR = 4.0
# The error that ends a stage before the last, and the number of sweeps with which each begins. Measured on ten kinds of
# problems, n = 20 and 50: errors of 1e-3 take a tenth more time; with 1e-2, or one sweep, a few items stay unsolved.
_STAGE_TOL, _SWEEPS = 5e-3, 2
# As in `otkit.solvers.sns.solver` and `newton`: the shift of the matrix relative to the error, the constant of Armijo's
# condition, and the shortest step.
_SHIFT, _RISE, _SHORTEST = 0.05, 1e-4, 1e-3
# As in `otkit.solvers.descent`: the share of the tolerance to reach, and the largest tolerance that rounding may set.
_SLACK, _NOISE = 0.999, 1e-3


class _Problem(NamedTuple):
    """Reduced costs and weights, and memory of an evaluation: exponents of the columns, and the rows Q."""

    R: np.ndarray
    a: np.ndarray
    b: np.ndarray
    log_b: np.ndarray
    h: np.ndarray
    Q: np.ndarray


class _Point(NamedTuple):
    """A point of the dual: potentials of rows and columns, and the masses of the columns."""

    f: np.ndarray
    g: np.ndarray
    c: np.ndarray


@jit
def _form(R, h, inverse, f, Q):
    """Write the softmin of each row over reg, with its sign changed, and the plan over the masses of its rows."""
    wide()
    n, m = R.shape
    for i in range(n):
        top = exponent(h[0], R[i, 0], 0.0, inverse)
        for j in range(m):
            top = most(top, exponent(h[j], R[i, j], 0.0, inverse))
        f[i] = top
    for i in range(n):
        for j in range(m):
            Q[i, j] = exp(exponent(h[j], R[i, j], 0.0, inverse) - f[i])
    for i in range(n):
        total = 0.0
        for j in range(m):
            total += Q[i, j]
        f[i] += log(total)
        total = 1.0 / total
        for j in range(m):
            Q[i, j] *= total


@jit
def _send(Q, a, c):
    """Add the masses that the rows send to the columns."""
    wide()
    n, m = Q.shape
    i = 0
    while i + 4 <= n:
        for j in range(m):
            c[j] += (a[i] * Q[i, j] + a[i + 1] * Q[i + 1, j]) + (a[i + 2] * Q[i + 2, j] + a[i + 3] * Q[i + 3, j])
        i += 4
    while i < n:
        for j in range(m):
            c[j] += a[i] * Q[i, j]
        i += 1


@jit
def _evaluate(problem, reg, at):
    """Update the rows for ``at.g``, and the column masses; returns the error."""
    R, a, b, log_b, h, Q = problem
    for j in range(b.size):
        h[j] = at.g[j] + reg * log_b[j]
    _form(R, h, 1.0 / reg, at.f, Q)
    clear(at.c)
    _send(Q, a, at.c)
    for i in range(a.size):
        at.f[i] *= -reg
    error = 0.0
    for j in range(b.size):
        error += abs(at.c[j] - b[j])
    return error


@jit
def _couple(Q, a, W):
    """Write the weights ``Σ_i a_i·Q_ij·Q_ik`` between columns k < j into the lower triangle."""
    wide()
    n, m = Q.shape
    for j in range(m):
        for k in range(j):
            W[j, k] = 0.0
    i = 0
    while i + 4 <= n:
        for j in range(m):
            w0, w1, w2, w3 = a[i] * Q[i, j], a[i + 1] * Q[i + 1, j], a[i + 2] * Q[i + 2, j], a[i + 3] * Q[i + 3, j]
            for k in range(j):
                W[j, k] += (w0 * Q[i, k] + w1 * Q[i + 1, k]) + (w2 * Q[i + 2, k] + w3 * Q[i + 3, k])
        i += 4
    while i < n:
        for j in range(m):
            w0 = a[i] * Q[i, j]
            for k in range(j):
                W[j, k] += w0 * Q[i, k]
        i += 1


@jit
def _total(w, count):
    total = 0.0
    for k in range(count):
        total += w[k]
    return total


@jit
def _solve(W, ground, r, x):
    """Solve the Laplacian of the weights W with additional weights to a ground; overwrites all but `x`.

    Returns False if a node has no weights.
    """
    wide()
    for p in range(r.size - 1, -1, -1):
        degree = ground[p] + _total(W[p], p)
        if not degree > 0.0:
            return False
        inverse = 1.0 / degree
        r[p] *= inverse
        for j in range(p):
            share = W[p, j] * inverse
            r[j] += W[p, j] * r[p]
            ground[j] += share * ground[p]
            for k in range(j):
                W[j, k] += share * W[p, k]
        for k in range(p):
            W[p, k] *= inverse
    for p in range(r.size):
        x[p] = r[p] + dot(W[p, :p], x[:p])
    return True


@jit
def _direct(problem, at, reg, shift, W, ground, r, move):
    """Write the Newton step of the columns; returns its largest entry."""
    b = problem.b
    _couple(problem.Q, problem.a, W)
    for j in range(b.size):
        ground[j], r[j] = shift * at.c[j], b[j] - at.c[j]
    if not _solve(W, ground, r, move):
        return np.inf
    mean, furthest = dot(b, move), 0.0
    for j in range(b.size):
        move[j] = reg * (move[j] - mean)
        furthest = most(furthest, abs(move[j]))
    return furthest


@jit
def _sweep(at, b, reg, g):
    """Write the updated potentials of the columns."""
    for j in range(b.size):
        g[j] = at.g[j] - reg * np.log(at.c[j] / b[j]) if at.c[j] > 0.0 else at.g[j]


@jit
def _search(problem, reg, at, past, move, longest, trial):
    """Evaluate a better point, by a step along `move` or a sweep; returns its error. That of `at` is `past`.

    The dual value rises, or the error halves: near the solution the rise is below rounding.
    """
    a, b, slope, step = problem.a, problem.b, 0.0, longest
    for j in range(b.size):
        slope += (b[j] - at.c[j]) * move[j]
    while step > _SHORTEST * longest:
        for j in range(b.size):
            trial.g[j] = at.g[j] + step * move[j]
        error = _evaluate(problem, reg, trial)
        rise, ahead = step * dot(b, move), 0.0
        for i in range(a.size):
            rise += a[i] * (trial.f[i] - at.f[i])
        for j in range(b.size):
            ahead += (b[j] - trial.c[j]) * move[j]
        if error <= past / 2 or rise >= _RISE * step * slope or ahead >= 0.0:  # see `otkit.solvers.sns.newton.search`
            return error
        step /= 2
    _sweep(at, b, reg, trial.g)
    return _evaluate(problem, reg, trial)


@jit
def _descend(problem, target, tol, span, at, stages):
    """Maximise the dual from zero; returns the numbers of iterations and stages, and whether it converged."""
    n, m = problem.R.shape
    trial, W, vectors = _Point(np.empty(n), np.empty(m), np.empty(m)), np.empty((m, m)), np.zeros((4, m))
    ground, r, move, past = vectors[0], vectors[1], vectors[2], vectors[3]
    reg, past_reg, total, newton = target, 0.0, 0, 0
    while reg * _FACTOR <= span / _EASY:
        reg *= _FACTOR
    clear(at.g)
    for stage in range(STAGES):
        goal = tol * _SLACK if reg == target else _STAGE_TOL
        error, steps, sweeps = _evaluate(problem, reg, at), 0, 0
        while not error <= goal:
            if sweeps < _SWEEPS:
                _sweep(at, problem.b, reg, at.g)
                error, sweeps = _evaluate(problem, reg, at), sweeps + 1
                continue
            shift = _SHIFT * error + 8 * UNIT * (1.0 + span / reg)
            furthest = _direct(problem, at, reg, shift, W, ground, r, move) if newton < _STEPS else np.inf
            if not furthest < np.inf:
                return total, stage, False
            error = _search(problem, reg, at, error, move, span / furthest if furthest > span else 1.0, trial)
            copy(trial.f, at.f)
            copy(trial.g, at.g)
            copy(trial.c, at.c)
            steps, newton = steps + 1, newton + 1
        total += 1 + sweeps + steps
        stages[stage, REG], stages[stage, ITERATIONS] = reg, 1 + sweeps + steps
        stages[stage, MISS], stages[stage, NEWTON] = error, steps
        if reg == target:
            return total, stage + 1, True
        # The next stage starts from a linear extrapolation, as in `otkit.solvers.descent`.
        ratio = (reg / _FACTOR - reg) / (reg - past_reg) if stage else 0.0
        for j in range(m):
            at.g[j], past[j] = at.g[j] + ratio * (at.g[j] - past[j]), at.g[j]
        past_reg, reg = reg, reg / _FACTOR
    return total, STAGES, False


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
            Q[i, j] = exp(exponent(h[j], R[i, j], at.f[i], inverse))
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


@jit
def _item(item, reg, tol, num, info, v, stages):
    """Solve an item; returns a flag. Newton's steps are on the shorter side."""
    rounding = 8 * UNIT * num[SPAN] / reg
    if rounding > _NOISE:
        return UNSOLVED
    turn = item.nc > item.nr
    a, b, R = item.weight[: item.nr], item.weight[item.nr :], _turned(item, turn)
    if turn:
        a, b = b, a
    problem = _Problem(R, a, b, np.log(b), np.empty(b.size), np.empty(R.shape))
    at = _Point(np.empty(a.size), np.empty(b.size), np.empty(b.size))
    tol = max(tol, rounding)
    info[PIVOTS], info[ARCS], good = _descend(problem, reg, tol, num[SPAN], at, stages)
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
    C, x, y, metric, w_a, w_b, at_a, at_b, first, second, unit, reg, tol, low, high, room, num, info, vectors, stages
):
    """Solve the items ``low … high`` at regularisations ``reg (items,)``; arguments are those of `vertices.solve`.

    `VALUE` is the reduced cost of the plan, whose marginals go to ``vectors (items, 8, w)``. `LINEAR` and `DIVERGENCE`
    are the parts of the objective. `PIVOTS` and `ARCS` count iterations and stages. ``stages (items, STAGES, 4)`` is
    their log, by the names from `REG` on.
    """
    costs, measures = (C, x, y, metric), (w_a, w_b, at_a, at_b, first, second)
    for k in range(low, high):
        item = begin(costs, measures, unit, k, room, num[k], info[k], vectors[k])
        if info[k, FLAG] == 0:
            info[k, FLAG] = _item(item, reg[k], tol, num[k], info[k], vectors[k], stages[k])
