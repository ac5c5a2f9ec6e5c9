"""Two-sided bounds on the unregularised optimum, widened by a bound on rounding errors.

The lower bound comes from potentials made feasible by c-transforms. The upper bound is the cost of a plan made feasible
by rounding. Both are valid for any potentials, also after a single iteration. They meet as the potentials approach
optimal ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import Array, put, take
from otkit.certificates.balanced import certify_balanced
from otkit.certificates.base import Certificate
from otkit.certificates.glued import certify_glued
from otkit.certificates.penalised import certify_relaxed
from otkit.problems.linear import LinearProblem

_ARRAYS = ("lower", "upper", "f", "g", "linear", "rounding")


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds on the unregularised optimum, from potentials of the problem regularised by ``reg (B,)``."""
    if problem.balanced.all():
        return _exactly(problem, f, g, reg)
    found = certify_relaxed(problem, f, g, reg)
    items = np.flatnonzero(problem.balanced)
    if items.size:
        found = joined(found, items, _exactly(problem.take(items), *take((f, g, reg), items)))
    return found


def joined(found: Certificate, items: np.ndarray, part: Certificate) -> Certificate:
    """The certificate with the bounds and potentials of some items replaced by those of `part`."""
    return replace(found, **{name: put(getattr(found, name), items, getattr(part, name)) for name in _ARRAYS})


def _exactly(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    return certify_balanced(problem, f, g, reg) if problem.geometry.grid is None else certify_glued(problem, g, reg)
