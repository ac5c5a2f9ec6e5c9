"""Newton's method for small entropic problems, compiled: from the potentials to begin with to those at the tolerance.

It maximises the dual over the potentials of the columns, as in `otkit.solvers.sns.newton`. Its matrix is
``diag(c) − Σ_i Q_i Q_iᵀ·a_i`` with the column masses c and the rows Q_i = P_i/a_i of the plan, none of whose entries is
dropped. This is the Laplacian of a graph, whose nodes are the columns and whose weights are the sums of
``a_i·Q_ij·Q_ik``. Elimination of a node adds weights between its neighbours, and subtracts nothing (Grassmann, Taksar &
Heyman 1985): parts of a problem that hardly exchange mass do not drown in rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.geometry.costs import UNIT
from otkit.kernels.numba.iterations import exponent
from otkit.kernels.numba.jit import clear, copy, dot, exact, inlined, jit, log, most, raise_all, wide

# Columns of the log of a stage.
REG, ITERATIONS, MISS, NEWTON = range(4)
# Maximum number of stages; that of Newton steps of an item.
STAGES, _STEPS = 2, 60
# The error that ends the first of two stages. Sweeps go on while they look likely to end within _SWEEPS per column, as
# long as two Newton steps take. Scalings stay between _FAR and its reciprocal.
_STAGE_TOL, _SWEEPS, _FAR = 5e-3, 1.0, 1e100
# As in `otkit.solvers.sns.solver` and `newton`: the shift of the matrix relative to the error, the constant of Armijo's
# condition, and the shortest step.
_SHIFT, _RISE, _SHORTEST = 0.05, 1e-4, 1e-3
# Entries of the plan below this share of the masses of their row and column are not in the matrix: at least 1e7 times
# less than the shift for each of 100 rows.
_NOTHING = 2.0**-80
# As in `otkit.solvers.descent`: the share of the tolerance to reach.
_SLACK = 0.999


class Problem(NamedTuple):
    """Reduced costs and weights, and memory of an evaluation: exponents of the columns, and the rows Q."""

    R: np.ndarray
    a: np.ndarray
    b: np.ndarray
    log_b: np.ndarray
    h: np.ndarray
    Q: np.ndarray


class Point(NamedTuple):
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
        for j in range(m):
            Q[i, j] = exponent(h[j], R[i, j], 0.0, inverse)
        top = Q[i, 0]
        for j in range(m):
            top = most(top, Q[i, j])
        for j in range(m):
            Q[i, j] -= top
        f[i] = top
    raise_all(Q)
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
def _resend(Q, a, v, c):
    """Add the masses that the rows send to the columns, for scaled columns, over the scalings."""
    wide()
    n, m = Q.shape
    i = 0
    while i + 4 <= n:
        t0 = t1 = t2 = t3 = 0.0
        for j in range(m):
            t0 += Q[i, j] * v[j]
            t1 += Q[i + 1, j] * v[j]
            t2 += Q[i + 2, j] * v[j]
            t3 += Q[i + 3, j] * v[j]
        t0, t1, t2, t3 = a[i] / t0, a[i + 1] / t1, a[i + 2] / t2, a[i + 3] / t3
        for j in range(m):
            c[j] += (t0 * Q[i, j] + t1 * Q[i + 1, j]) + (t2 * Q[i + 2, j] + t3 * Q[i + 3, j])
        i += 4
    while i < n:
        t0 = a[i] / dot(Q[i], v)
        for j in range(m):
            c[j] += t0 * Q[i, j]
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


@exact
def _whole(count, most_of_all):
    """So many entries of a row, and those after them up to whole vectors, which are right of the diagonal."""
    return min((count + 7) & ~7, most_of_all)


@exact
def _is_nothing(share, mass, c):
    """Whether an entry, or the largest of some, is below _NOTHING of its row, and the sum of them of its column."""
    return share < _NOTHING and mass < _NOTHING * c


@jit
def _couple_row(q, weight, c, W):
    """Add the weights by one row."""
    for j in range(q.size):
        w = weight * q[j]
        if _is_nothing(q[j], w, c[j]):
            continue
        for k in range(j):
            W[j, k] += w * q[k]


@jit
def _couple(Q, a, c, W):
    """Write the weights ``Σ_i a_i·Q_ij·Q_ik`` between columns k < j into the lower triangle; the rest does not count.

    Entries Q_ij of next to no mass are left out, by the masses ``c`` of the columns: their weights are far below those
    of both columns to the ground.
    """
    wide()
    n, m = Q.shape
    for j in range(m):
        for k in range(m):
            W[j, k] = 0.0
    i = 0
    while i + 4 <= n:
        for j in range(m):
            w0, w1, w2, w3 = a[i] * Q[i, j], a[i + 1] * Q[i + 1, j], a[i + 2] * Q[i + 2, j], a[i + 3] * Q[i + 3, j]
            largest = most(most(Q[i, j], Q[i + 1, j]), most(Q[i + 2, j], Q[i + 3, j]))
            if _is_nothing(largest, w0 + w1 + w2 + w3, c[j]):
                continue
            for k in range(_whole(j, m)):
                W[j, k] += (w0 * Q[i, k] + w1 * Q[i + 1, k]) + (w2 * Q[i + 2, k] + w3 * Q[i + 3, k])
        i += 4
    while i < n:
        _couple_row(Q[i], a[i], c, W)
        i += 1


@jit
def _total(w, count):
    total = 0.0
    for k in range(count):
        total += w[k]
    return total


@jit
def _pivot(W, ground, r, p):
    """Divide the row of a node by its weights; returns the reciprocal of these, 0 if there are none."""
    degree = ground[p] + _total(W[p], p)
    if not degree > 0.0:
        return 0.0
    r[p] /= degree
    return 1.0 / degree


@jit
def _eliminate(W, ground, r, p, first):
    """Eliminate the nodes p and p − 1, whose rows become shares; returns False if the second has no weights."""
    wide()
    q = p - 1
    share = W[p, q] * first
    r[q] += W[p, q] * r[p]
    ground[q] += share * ground[p]
    for k in range(q):
        W[q, k] += share * W[p, k]
    second = _pivot(W, ground, r, q)
    for j in range(q):
        u, v = W[p, j], W[q, j]
        if u == 0.0 and v == 0.0:
            continue
        r[j] += u * r[p] + v * r[q]
        u, v = u * first, v * second
        ground[j] += u * ground[p] + v * ground[q]
        for k in range(_whole(j, q)):
            W[j, k] += u * W[p, k] + v * W[q, k]
    for k in range(p):
        W[p, k] *= first
    for k in range(q):
        W[q, k] *= second
    return second > 0.0


@jit
def _solve(W, ground, r, x):
    """Solve the Laplacian of the weights W with additional weights to a ground; overwrites all but `x`.

    Returns False if a node has no weights.
    """
    for p in range(r.size - 1, -1, -2):  # two at a time read and write the weights of the others half as often
        first = _pivot(W, ground, r, p)
        if first == 0.0 or (p > 0 and not _eliminate(W, ground, r, p, first)):
            return False
    for p in range(r.size):
        x[p] = r[p] + dot(W[p, :p], x[:p])
    return True


@inlined
def _direct(problem, at, reg, shift, W, ground, r, move):
    """Write the Newton step of the columns; returns its largest entry."""
    b = problem.b
    _couple(problem.Q, problem.a, at.c, W)
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


@inlined
def _scale(problem, reg, error, goal, at, v, c):
    """Update the potentials of the columns by sweeps with the rows Q; returns their number.

    There are at least two, and more if these are likely to reach the goal soon.
    """
    b, most_of_all, count = problem.b, 2.0 + _SWEEPS * problem.b.size, 0
    copy(at.c, c)
    while count < most_of_all:
        near = True
        for j in range(b.size):
            near &= b[j] < _FAR * c[j] and c[j] < _FAR * b[j]
        if not near:
            break
        for j in range(b.size):
            v[j] = b[j] / c[j]
        clear(c)
        _resend(problem.Q, problem.a, v, c)
        past, error, count = error, 0.0, count + 1
        for j in range(b.size):
            error += abs(c[j] * v[j] - b[j])
        if error <= goal or (count > 1 and not _left(past, error, goal) <= most_of_all - count):
            break
    if count == 0:
        _sweep(at, b, reg, at.g)
        return 1
    for j in range(b.size):
        at.g[j] += reg * np.log(v[j])
    return count


@jit
def _left(past, error, goal):
    """The number of sweeps to the goal, at the rate of the last one."""
    return np.log(goal / error) / np.log(error / past) if error < past else np.inf


@inlined
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


@inlined
def descend(problem, target, reg, tol, span, at, stages):
    """Maximise the dual from ``at.g``; returns the numbers of iterations and stages, and whether it converged."""
    n, m = problem.R.shape
    trial, W, vectors = Point(np.empty(n), np.empty(m), np.empty(m)), np.empty((m, m)), np.empty((3, m))
    ground, r, move, total, newton = vectors[0], vectors[1], vectors[2], 0, 0
    for stage in range(STAGES):
        goal = tol * _SLACK if reg == target else _STAGE_TOL
        error, steps, sweeps = _evaluate(problem, reg, at), 0, 0
        while not error <= goal:
            if sweeps == 0:
                sweeps = _scale(problem, reg, error, goal, at, ground, r)
                error = _evaluate(problem, reg, at)
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
        reg = target
    return total, STAGES, False
