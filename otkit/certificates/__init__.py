"""Two-sided bounds on the unregularised optimum, widened by what rounding can do.

Lower: potentials made feasible by c-transforms. Upper: the cost of a plan made feasible by rounding. Both hold for any
potentials, also after one iteration; they meet as the potentials come close to optimal ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otkit.arrays import Array, put, take
from otkit.certificates.balanced import certify_balanced
from otkit.certificates.base import Certificate
from otkit.certificates.penalised import certify_relaxed
from otkit.problems.linear import LinearProblem


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds on the optimum without the regularisation, from potentials of the problem regularised by ``reg (B,)``."""
    if problem.balanced.all():
        return certify_balanced(problem, f, g, reg)
    found = certify_relaxed(problem, f, g, reg)
    items = np.flatnonzero(problem.balanced)
    if items.size:
        exact = certify_balanced(problem.take(items), *take((f, g, reg), items))
        for name in ("lower", "upper", "linear", "rounding"):
            getattr(found, name)[items] = getattr(exact, name)
        f, g = put((found.f, found.g), items, (exact.f, exact.g))
        found = replace(found, f=f, g=g)
    return found
