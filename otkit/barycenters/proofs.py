"""The best bounds so far on the optima over all barycenters on a support, and what proves them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import Array, namespace, put, take, to_numpy
from otkit.barycenters.bounds import lower_bound
from otkit.certificates.base import Certificate
from otkit.certificates.certify import certify
from otkit.certificates.width import EXACT, narrow
from otkit.problems.linear import LinearProblem


@dataclass(frozen=True)
class Iterates:
    """What bounds of G barycenters of K measures each follow from: items are measures.

    Attributes
    ----------
    dual : array (G·K, m)
        Any potentials of the columns, from which the lower bounds follow.
    primal : tuple (f, g, reg)
        Potentials, those of the columns relative to `b`, and the regularisation, from whose plans the upper ones do.
    b : array (G, m)
        The weights of the barycenters.
    """

    dual: Array
    primal: tuple[Array, Array, Array]
    b: Array

    def take(self, items: np.ndarray) -> Iterates:
        """Those of some barycenters, by all their items."""
        each = take((self.dual, self.primal), items)
        return Iterates(*each, take(self.b, self.groups(items)))

    def put(self, items: np.ndarray, part: Iterates) -> Iterates:
        """Those of all barycenters, with `part` for some of them."""
        each = put((self.dual, self.primal), items, (part.dual, part.primal))
        return Iterates(*each, put(self.b, self.groups(items), part.b))

    def groups(self, items: np.ndarray) -> np.ndarray:
        """The barycenters of these items."""
        count = self.dual.shape[0] // self.b.shape[0]
        return items[::count] // count


@dataclass(frozen=True)
class Proofs:
    """The best bounds so far, and the iterates that prove them. Iterations may get worse.

    Attributes
    ----------
    lower, upper : numpy array (G·K,)
        Bounds on the optimum of an item's barycenter, infinite before the first.
    best : Iterates
        Lower and upper bounds may be those of different iterations.
    """

    lower: np.ndarray
    upper: np.ndarray
    best: Iterates

    @staticmethod
    def of(start: Iterates) -> Proofs:
        """No bounds yet."""
        unknown = np.full(start.dual.shape[0], np.inf)
        return Proofs(-unknown, unknown, start)

    def bounded(self, problem: LinearProblem, weights: Array, items: np.ndarray, at: Iterates) -> Proofs:
        """The proofs with those that iterates of some barycenters give, where they are better."""
        if not items.size:
            return self
        at, part, w = at.take(items), problem.take(items), take(weights, at.groups(items))
        paid = certified(part, at).upper
        lower, upper = lower_bound(part, at.dual, w), (to_numpy(w) * paid.reshape(w.shape)).sum(-1)
        lower, upper = (np.repeat(v, w.shape[1]) for v in (lower, upper))
        # Before the first upper bound, the last plans are the best known.
        less = np.flatnonzero((upper < self.upper[items]) | np.isinf(self.upper[items]))
        higher = np.flatnonzero(lower > self.lower[items])
        best = self.best.put(items[less], replace(at.take(less), dual=take(self.best.dual, items[less])))
        return Proofs(
            put(self.lower, items[higher], lower[higher]),
            put(self.upper, items[less], upper[less]),
            replace(best, dual=put(best.dual, items[higher], take(at.dual, higher))),
        )

    def close(self, problem: LinearProblem, rtol: float) -> np.ndarray:
        """Which items have bounds at most `rtol` of the upper one apart, or count as exact: ``(G·K,)``."""
        count = problem.items // self.best.b.shape[0]
        near = narrow(problem, self.lower, self.upper, rtol, EXACT).reshape(-1, count).any(-1)
        return np.repeat(near, count)


def certified(problem: LinearProblem, at: Iterates) -> Certificate:
    """Bounds on the transport from measures to the barycenters of iterates, and feasible plans."""
    return certify(towards(problem, at.b), *at.primal)


def towards(problem: LinearProblem, b: Array) -> LinearProblem:
    """The problem of every measure with its barycenter, of weights ``b (G, m)``, as the columns."""
    xp, count = namespace(b), problem.items // b.shape[0]
    each = xp.broadcast_to(b[:, None, :], (b.shape[0], count, b.shape[-1]))
    return replace(problem, b=xp.reshape(each, (problem.items, b.shape[-1])))
