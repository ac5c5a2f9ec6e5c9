"""Pull cotangents back through the gauge of the potentials."""

from __future__ import annotations

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.autograd.adjoint import Pullback
from otkit.problems.linear import LinearProblem
from otkit.results.gauge import components_with_mass, gauged
from otkit.results.result import Result


def without_gauge(result: Result, pull: Pullback, f_bar: Array, g_bar: Array) -> tuple[Array, Array]:
    """Pull back through the gauge, which makes the weighted means of f and g equal on every connected component."""
    problem, xp = pull.problem, namespace(pull.a)
    f, g = gauged(result)
    for rows, cols in _parts(problem):
        sums = [xp.sum(part * w, axis=-1, keepdims=True) for part, w in ((rows, problem.a), (cols, problem.b))]
        total_a, total_b = (xp.where(v > 0, v, 1.0) for v in sums)
        extra = (xp.sum(rows * f_bar, axis=-1, keepdims=True) - xp.sum(cols * g_bar, axis=-1, keepdims=True)) / 2
        share_a, share_b = rows * problem.a / total_a, cols * problem.b / total_b
        mean_f = xp.sum(share_a * f, axis=-1, keepdims=True)
        mean_g = xp.sum(share_b * g, axis=-1, keepdims=True)
        f_bar, g_bar = f_bar - extra * share_a, g_bar + extra * share_b
        pull.a = pull.a - rows * extra * (f - mean_f) / total_a
        pull.b = pull.b + cols * extra * (g - mean_g) / total_b
    return f_bar, g_bar


def _parts(problem: LinearProblem) -> list[tuple[Array, Array]]:
    """Masks, as numbers, of the rows and columns of each connected component of balanced items."""
    balanced = problem.balanced
    if not balanced.any():
        return []
    shapes = (problem.items, problem.reduced.n), (problem.items, problem.reduced.m)
    if not (problem.forbidden & balanced).any():
        masks = [(np.ones(shape) * balanced[:, None]) for shape in shapes]
        return [(from_numpy(masks[0], problem.a), from_numpy(masks[1], problem.a))]
    parts: list[tuple[Array, Array]] = []
    geometry = problem.reduced.to_numpy()
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    for k in np.flatnonzero(balanced):
        labels = components_with_mass(geometry, int(k), a[k], b[k])
        for label in np.unique(labels[0][a[k] > 0]):
            rows, cols = (np.zeros(shape) for shape in shapes)
            rows[k], cols[k] = (own == label for own in labels)
            parts.append((from_numpy(rows, problem.a), from_numpy(cols, problem.a)))
    return parts
