"""Entropic plans on a sparse support: sweeps, and Newton steps with a preconditioner from a tree, compiled.

A support has the arcs of each row, with columns in increasing order. Potentials F and G contain the weights, so that an
entry of the plan is exp((F_i + G_j − C_ij)/reg).

The Newton matrix diag(c) − Pᵀ·diag(1/a)·P of a plan with row sums a and column sums c is nearly singular along smooth
vectors. The preconditioner solves it on the indicators of all nodes of a tree over the columns, one by one, and adds
the results: large nodes see smooth residuals, small ones rough ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import dot, exact, exp, gather, jit, ordered
from otkit.kernels.numba.search import _sum, cost_of

# Scalings beyond this, or its inverse, move potentials so far that other arcs matter: the support is found anew.
_FAR = 400.0
# Sweeps that are plain before over-relaxation, and the reduction of the error a sweep that it must keep up.
_PLAIN, _SLOW = 3, 0.98
# The curvature along a node is at least this fraction of its mass, and along a column this one. The mass of a column
# that is nearly empty counts as a fraction _EMPTY of its weight.
_NODE, _COLUMN, _EMPTY = 1e-4, 1e-3, 1e-3
# Scalings of a row, and their inverses, are at most this, so that they have a logarithm.
_LARGEST = 1e300


class Support(NamedTuple):
    """Arcs in row order: row i has those from ``ends[i]`` to ``ends[i + 1]``; their columns and costs."""

    ends: np.ndarray
    cols: np.ndarray
    costs: np.ndarray


class Hierarchy(NamedTuple):
    """A complete binary tree over the columns: node v covers ``start[v]:stop[v]``, with children 2v + 1 and 2v + 2.

    The nodes from `leaf` on are leaves, and `of` is the leaf of each column.
    """

    start: np.ndarray
    stop: np.ndarray
    leaf: int
    of: np.ndarray


@ordered
def row_potentials(support, log_a, G, reg, F):
    """The potentials of the rows that give them their weights: a softmin over the arcs."""
    ends, cols, costs = support
    for i in range(ends.size - 1):
        low = np.inf
        for k in range(ends[i], ends[i + 1]):
            low = min(low, costs[k] - G[cols[k]])
        total = 0.0
        for k in range(ends[i], ends[i + 1]):
            total += exp(-(costs[k] - G[cols[k]] - low) / reg)
        F[i] = low - reg * np.log(total) + reg * log_a[i]


@ordered
def plan(support, F, G, reg, P):
    """The entries of the plan."""
    ends, cols, costs = support
    for i in range(ends.size - 1):
        for k in range(ends[i], ends[i + 1]):
            P[k] = exp((F[i] + G[cols[k]] - costs[k]) / reg)


@ordered
def _scaled_rows(ends, cols, P, a, u, v, c):
    """Scale the rows to their weights; c becomes the column sums before they are scaled by v."""
    for j in range(c.size):
        c[j] = 0.0
    for i in range(a.size):
        total = gather(cols, P, ends[i], ends[i + 1], v)
        u[i] = min(max(a[i] / total, 1 / _LARGEST), _LARGEST) if total > 0 else 1.0
        for k in range(ends[i], ends[i + 1]):
            c[cols[k]] += P[k] * u[i]


@ordered
def sweep(ends, cols, P, a, b, u, v, power, most, tol):
    """Scale rows and columns in turns, rows last, until the column sums are within `tol` of their weights in L1.

    Columns are over-relaxed by `power`. Returns the number of sweeps and the error.
    """
    c, last, stop = np.empty(b.size), np.inf, False
    for done in range(1, most + 1):
        _scaled_rows(ends, cols, P, a, u, v, c)
        error = 0.0
        for j in range(b.size):
            error += abs(v[j] * c[j] - b[j])
        if error <= tol or done == most or stop:
            return done, error
        relaxed = power if done > _PLAIN and error <= _SLOW * last else 1.0
        last = error
        for j in range(b.size):
            if c[j] > 0:
                v[j] *= min(max((b[j] / (v[j] * c[j])) ** relaxed, 1 / _FAR), _FAR)
                stop = stop or v[j] > _FAR or v[j] < 1 / _FAR
    return most, np.inf


@ordered
def rescale(ends, cols, P, u, v, reg, F, G):
    """Apply scalings to the plan and to its potentials."""
    for i in range(u.size):
        F[i] += reg * np.log(u[i])
        for k in range(ends[i], ends[i + 1]):
            P[k] *= u[i] * v[cols[k]]
    for j in range(v.size):
        G[j] += reg * np.log(v[j])


@ordered
def column_sums(ends, cols, P, c):
    """The column sums of the plan."""
    for j in range(c.size):
        c[j] = 0.0
    for k in range(ends[-1]):
        c[cols[k]] += P[k]


@ordered
def curvatures(ends, cols, P, a, b, c, tree, column, node):
    """The second derivatives of the dual along each column and along the indicator of each node."""
    whole, width = np.zeros(node.size), 0
    for j in range(c.size):
        column[j] = c[j]
    for v in range(node.size):
        node[v] = 0.0
    for i in range(a.size):
        width = max(width, ends[i + 1] - ends[i])
    at, mass = np.empty(width, np.int64), np.empty(width)
    for i in range(a.size):
        count = 0
        for k in range(ends[i], ends[i + 1]):
            column[cols[k]] -= P[k] * P[k] / a[i]
            count = _gathered(at, mass, count, tree.of[cols[k]], P[k])
        while count > 1:
            above = 0
            for p in range(count):
                node[at[p]] -= mass[p] * mass[p] / a[i]
                above = _gathered(at, mass, above, (at[p] - 1) // 2, mass[p])
            count = above
        if count:
            whole[at[0]] -= mass[0] * mass[0] / a[i]
    _sum_curvatures(b, c, tree, whole, column, node)


@exact
def _gathered(at, mass, count, v, more):
    """The number of nodes in a list after one of this mass, which joins the last one if it is the same."""
    if count and at[count - 1] == v:
        mass[count - 1] += more
        return count
    at[count], mass[count] = v, more
    return count + 1


@ordered
def _sum_curvatures(b, c, tree, whole, column, node):
    """Add the masses of nodes, and what rows within a node subtract at this node and all above."""
    start, stop, leaf, _ = tree
    total = np.zeros(node.size)
    for v in range(node.size - 1, -1, -1):
        if v >= leaf:
            for j in range(start[v], stop[v]):
                total[v] += max(c[j], _EMPTY * b[j])
        else:
            total[v] = total[2 * v + 1] + total[2 * v + 2]
            whole[v] += whole[2 * v + 1] + whole[2 * v + 2]
        node[v] = max(node[v] + whole[v] + total[v], _NODE * total[v] + 1e-300)
    for j in range(c.size):
        column[j] = max(column[j], _COLUMN * max(c[j], _EMPTY * b[j]) + 1e-300)


@ordered
def _precondition(r, tree, column, node, sums, z):
    start, stop, leaf, _ = tree
    for v in range(node.size - 1, -1, -1):
        if v >= leaf:
            sums[v] = 0.0
            for j in range(start[v], stop[v]):
                sums[v] += r[j]
        else:
            sums[v] = sums[2 * v + 1] + sums[2 * v + 2]
    sums[0] = 0.0
    for v in range(1, node.size):
        sums[v] = sums[v] / node[v] + sums[(v - 1) // 2]
    for v in range(leaf, node.size):
        for j in range(start[v], stop[v]):
            z[j] = r[j] / column[j] + sums[v]


@ordered
def _product(ends, cols, P, a, c, p, q):
    """q = (diag(c) − Pᵀ·diag(1/a)·P)·p."""
    for j in range(c.size):
        q[j] = c[j] * p[j]
    for i in range(a.size):
        mean = gather(cols, P, ends[i], ends[i + 1], p) / a[i]
        for k in range(ends[i], ends[i + 1]):
            q[cols[k]] -= P[k] * mean


@jit
def _towards(x, step, p):
    for j in range(x.size):
        x[j] += step * p[j]


@ordered
def newton(ends, cols, P, a, b, c, tree, rtol, most, x):
    """Solve the Newton system for the residual b − c by conjugate gradients; returns the number of iterations.

    ``x`` is zero before, and the step in units of the regularisation after.
    """
    column, node = np.empty(b.size), np.empty(tree.start.size)
    curvatures(ends, cols, P, a, b, c, tree, column, node)
    r, z, q, sums = b - c, np.empty(b.size), np.empty(b.size), np.empty(node.size)
    _precondition(r, tree, column, node, sums, z)
    p, size = z.copy(), dot(r, z)
    goal = rtol * rtol * size
    for done in range(most):
        if not size > goal:
            return done
        _product(ends, cols, P, a, c, p, q)
        curvature = dot(p, q)
        if not curvature > 0:
            return done
        _towards(x, size / curvature, p)
        _towards(r, -size / curvature, q)
        _precondition(r, tree, column, node, sums, z)
        before, size = size, dot(r, z)
        for j in range(p.size):
            p[j] = z[j] + size / before * p[j]
    return most


@ordered
def sums(x, y, rows, cols, ground, out):
    """The sums S of pairs of points, of which a cost is a function."""
    for k in range(rows.size):
        out[k] = _sum(x, rows[k], y, cols[k], ground)


@ordered
def spread(x, a, x_ends, y, b, y_ends, rows, cols, form, costs):
    """The mean costs between the points of pairs of cells, by their weights; cell k has points from ``ends[k]`` on."""
    for k in range(rows.size):
        total = mass = 0.0
        for i in range(x_ends[rows[k]], x_ends[rows[k] + 1]):
            for j in range(y_ends[cols[k]], y_ends[cols[k] + 1]):
                weight = a[i] * b[j]
                mass += weight
                total += weight * cost_of(_sum(x, i, y, j, form.ground), form.factor, form.exponent)
        costs[k] = total / mass
