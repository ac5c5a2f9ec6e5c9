"""Sinkhorn iterations on the entries of the plan that matter, compiled (Schmitzer 2019).

At a small regularisation nearly all entries are far below the tolerance, so dropping them has no visible effect. One
pass over the costs lists the other entries in row order, and computes exponentials for these only. The following
iterations rescale them.
"""

from __future__ import annotations

import numpy as np

from otkit.entropic.sparsity import left_out, thresholds
from otkit.kernels.numba.iterations import exponent, largest, row_mass
from otkit.kernels.numba.jit import clear, exp, gather, jit, least, log, wide

# The guess of the largest exponent of a row is lowered by _BELOW, so that no entry that matters is missed. The guess is
# valid if the sum of the row lies between _FEW and _MANY.
_BELOW, _FEW, _MANY = 3.0, 1.0, 1e15
_LEAST = -1e4  # the logarithm of no mass


def cuts(tol: float, b: np.ndarray, n: int) -> tuple[float, np.ndarray]:
    """Logarithms of the thresholds for entries: relative to the mass of the row, and in mass by column ``(m,)``."""
    low, cut = thresholds(left_out(tol), 1.0, b, (n, b.size))
    return float(low), cut


@jit
def _terms(C, i, a, row, h, keep, reg, top, low, cut, e, kept, index, terms):
    """The terms of a row above the thresholds, relative to e^top; returns their number and their sum."""
    wide()
    inverse = 1.0 / reg
    mass = np.log(row_mass(a[i], -reg * top, row[i], keep, reg)[1])
    below = -max(mass, _LEAST)
    for j in range(h.size):
        e[j] = exponent(h[j], C[j], row[i], inverse) - top
    for j in range(h.size):
        kept[j] = e[j] > least(low, cut[j] + below)
    count = np.uint64(0)
    for j in range(h.size):  # branch-free, since a branch would be unpredictable
        index[count] = j
        count += np.uint64(kept[j])
    for k in range(count):
        terms[k] = exp(e[index[k]])
    total = 0.0
    for k in range(count):
        total += terms[k]
    return np.int64(count), total


@jit
def list_rows(C, first, a, row, h, keep, reg, sigma, f, sums, low, cut, least_mass, spans, where, value, at, end):
    """Update the rows of a tile in the log domain, as `log_rows`, by the kept entries only.

    The entries are written to ``where`` and ``value`` from place `at` on, for row i from ``spans[i, 0]`` to ``spans[i,
    1]``. Returns the mass of the rows and the next place, which is beyond `end` if there was no room for all entries.
    """
    m = h.size
    e, kept, index, terms = np.empty(m), np.empty(m, np.bool_), np.empty(m + 1, np.uint32), np.empty(m)
    mass = 0.0
    for r in range(C.shape[0]):
        i = first + r
        spans[i] = at
        count, total, top = 0, 0.0, -sigma[i] / reg - _BELOW
        if abs(top) < np.inf:  # there is a guess
            count, total = _terms(C[r], i, a, row, h, keep, reg, top, low, cut, e, kept, index, terms)
        if not _FEW < total < _MANY:
            top = largest(C[r], row[i], h, 1.0 / reg)
            if top == -np.inf:  # no arcs to mass: such a row has no mass
                sigma[i] = 0.0
                f[i] = row_mass(a[i], 0.0, row[i], keep, reg)[0]
                continue
            count, total = _terms(C[r], i, a, row, h, keep, reg, top, low, cut, e, kept, index, terms)
        sigma[i] = -reg * (top + log(total))
        f[i], w = row_mass(a[i], sigma[i], row[i], keep, reg)
        mass += w
        _scatter(index, terms, 0, count, w / total, sums)
        if at + count <= end:
            count = _keep(index[:count], terms[:count], total, w, low, least_mass, where[at:], value[at:])
        at += count
        spans[i, 1] = at
    return mass, at


@jit
def _keep(index, terms, total, mass, low, least_mass, where, value):
    """Write the terms that are above the thresholds for the actual sum of the row; returns their number."""
    inverse = 1.0 / total
    least_term, per_mass = exp(low) * total, total / mass if mass > 0.0 else np.inf
    count = np.uint64(0)
    for k in range(np.uint64(index.size)):
        where[count], value[count] = index[k], terms[k] * inverse
        count += np.uint64(terms[k] > least_term or terms[k] > least_mass[index[k]] * per_mass)
    return np.int64(count)


@jit
def _scatter(where, value, first, stop, scale, sums):
    for k in range(np.uint64(first), np.uint64(stop)):
        sums[where[k]] += scale * value[k]


@jit
def _update(total, a, row, keep, reg, sigma0, sigma, f):
    """Update rows from the sums of their rescaled entries; the sums become the rows' factors. Returns the mass."""
    wide()
    for i in range(a.size):
        t = total[i] if total[i] > 0.0 else 1.0  # a row without entries has no mass
        sigma[i] = sigma0[i] - reg * log(t)
        f[i] = keep * sigma[i] - (1.0 - keep) * row[i]
    mass = 0.0
    for i in range(a.size):
        w = a[i] * exp((f[i] - sigma[i]) / reg)
        mass += w if total[i] > 0.0 else 0.0
    for i in range(a.size):
        w = a[i] * exp((f[i] - sigma[i]) / reg)
        total[i] = w / total[i] if total[i] > 0.0 else 0.0
    return mass


@jit
def listed_groups(
    spans, where, value, ends, low, high, a, row, v, keep, reg, sigma0, sigma, f, sums, mass, total
):  # fmt: skip
    """Update the rows of groups ``low…high`` by their entries; each group has a row of the sums."""
    for k in range(low, high):
        clear(sums[k])
        first, last = ends[k], ends[k + 1]
        for i in range(first, last):
            total[i] = gather(where, value, spans[i, 0], spans[i, 1], v)
        rows = slice(first, last)
        mass[k] = _update(total[rows], a[rows], row[rows], keep, reg, sigma0[rows], sigma[rows], f[rows])
        for i in range(first, last):
            _scatter(where, value, spans[i, 0], spans[i, 1], total[i], sums[k])
