"""Penalised marginals without a regularisation: exact problems whose weights move, and annealing where these are slow.

At potentials f and g, the weights a·e^(−f/ρ) and b·e^(−g/ρ) are the gradient of the dual. The balanced problem with
these weights maximises the linear model of the dual: it is a Frank–Wolfe step. Its plan is feasible, and optimal where
its potentials are those that the weights came from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit.arrays import Array, from_numpy, put, take, to_numpy
from otkit.certificates.base import Certificate
from otkit.certificates.certify import joined
from otkit.certificates.penalised import certify_moved
from otkit.entropic.dual import Penalties
from otkit.geometry.base import costs_along
from otkit.kernels import shared_by
from otkit.plans import SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import log_ratio
from otkit.results.outcome import Outcome, Status
from otkit.solvers.annealing import Annealing, Bounded
from otkit.solvers.base import run
from otkit.solvers.exact.basis import Vertex
from otkit.solvers.exact.solver import Exact, has_rows, of_vertices

# Weights that a step would scale by more than e to this power leave an exact problem without accuracy.
_STEEPEST = 30.0
# Halvings of the interval of a line search.
_HALVINGS = 8
# Steps over which the fall of the interval is measured, and from whose end on the item may be left to annealing.
_OVER = 2
# Statuses of an exact problem whose plan is feasible.
_SOLVED = (Status.CONVERGED, Status.IMPRECISE)


@dataclass(frozen=True)
class Moving(Bounded):
    """A state with the best plan of the exact problems of each item.

    Attributes
    ----------
    ends : tuple of Vertex or None
        That plan; None before the first.
    reached : numpy array (B,)
        The upper bound that it proves.
    widths : numpy array (steps, B)
        The widths of the intervals after each step; NaN for items that do not take steps.
    moves : numpy array of bool (B,)
        The items that take steps. Others are left to annealing.
    """

    ends: tuple[Vertex | None, ...]
    reached: np.ndarray
    widths: np.ndarray
    moves: np.ndarray


@dataclass(frozen=True)
class FrankWolfe(Annealing):
    """Penalised marginals without a `reg`: exact problems with moved weights, then annealing for what they leave.

    Attributes
    ----------
    steps : int
        Maximum number of exact problems before annealing begins. It begins earlier where their intervals fall too
        slowly, where penalties are far below the costs, and at once where a side is free.

    Notes
    -----
    Frank–Wolfe steps on the translation-invariant dual follow Séjourné, Vialard & Peyré (2022), who take them on the
    line. Where ρ is of the order of the costs or larger, two or three steps reach the optimum up to rounding. Other
    attributes are those of `Annealing`, and apply to it.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75], unbalanced=10.0)
    >>> result.method, float(result.value.round(6))
    ('frank-wolfe', 0.246878)
    """

    steps: int = 12
    name = "frank-wolfe"
    shares = False

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Moving:
        state = super().init(problem, start)
        zero = -problem.reduced.row, -problem.reduced.col
        known = {name: getattr(state, name) for name in Bounded.__dataclass_fields__} | {"dual": start or zero}
        apt = problem.geometry.grid is None and shared_by() is None and has_rows(problem)
        penalties = problem.penalties
        return Moving(
            **known,
            ends=(None,) * problem.items,
            reached=np.full(problem.items, np.inf),
            widths=np.empty((0, problem.items)),
            moves=apt & ~problem.balanced & (np.minimum(to_numpy(penalties.rho_a), to_numpy(penalties.rho_b)) > 0),
        )

    def step(self, problem: LinearProblem, state: Bounded) -> Bounded:
        assert isinstance(state, Moving)
        items = state.running[state.moves[state.running]]
        return self._moved(problem, state, items) if items.size else super().step(problem, state)

    def _moved(self, problem: LinearProblem, state: Moving, items: np.ndarray) -> Moving:
        """The state after an exact problem for each of these items."""
        part, (f, g) = problem.take(items), take(state.dual, items)
        weights = _weights(part, f, g)
        found = run(_balanced(part, weights), Exact())
        first = state.reached[items] == np.inf
        ahead = _ahead(part, (f, g), (found.f, found.g), first)
        ends = _ends(part, found, weights[0].sum(-1))
        plan, cost = of_vertices(part, ends)
        solved = np.array([status in _SOLVED for status in found.status])
        proof = certify_moved(part, ahead, plan, np.where(solved, cost, np.inf))
        return self._judged(part, state, items, proof, ends, weights)

    def _judged(
        self,
        part: LinearProblem,
        state: Moving,
        items: np.ndarray,
        proof: Certificate,
        ends: list[Vertex],
        weights: tuple[np.ndarray, np.ndarray],
    ) -> Moving:
        """The state with the bounds of a step, in which items end, take another step, or are left to annealing."""
        higher, less = proof.lower > state.lower[items], proof.upper < state.upper[items]
        best = list(state.ends)
        for k in np.flatnonzero(less):
            best[items[k]] = ends[k]
        after = _weights(part, proof.f, proof.g)
        error = sum(abs(old - new).sum(-1) for old, new in zip(weights, after, strict=True)) / part.size
        n_iter = state.n_iter[items] + 1
        lower, upper = np.maximum(state.lower[items], proof.lower), np.minimum(state.upper[items], proof.upper)
        width = put(np.full(state.reg.size, np.nan), items, upper - lower)
        widths = np.concatenate([state.widths, width[None]])
        state = replace(
            state,
            lower=put(state.lower, items, lower),
            upper=put(state.upper, items, upper),
            reached=put(state.reached, items[less], upper[less]),
            dual=put(state.dual, items[higher], take((proof.f, proof.g), np.flatnonzero(higher))),
            certified_at=put(state.certified_at, items, n_iter),
            n_iter=put(state.n_iter, items, n_iter),
            error=put(state.error, items, error),
            ends=tuple(best),
            widths=widths,
        )
        close, rounded = self._done(part, lower, upper, proof)
        state = state.ended(items[close], Status.CONVERGED).ended(items[rounded], Status.IMPRECISE)
        falls = self._falls(widths[:, items], upper, self._rtol(part))
        return replace(state, moves=put(state.moves, items, higher & falls & (_steepness(part, after) <= _STEEPEST)))

    def _falls(self, widths: np.ndarray, upper: np.ndarray, rtol: np.ndarray) -> np.ndarray:
        """Whether the intervals will be narrow after all steps if they go on falling as they did in the last ones."""
        left = self.steps - len(widths)
        if len(widths) <= _OVER:
            return np.full(upper.shape, left > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = (widths[-1] / widths[-1 - _OVER]) ** (1 / _OVER)
            return (left > 0) & (widths[-1] * rate**left <= rtol * abs(upper))

    def _proof(self, problem: LinearProblem, state: Bounded) -> Certificate:
        assert isinstance(state, Moving)
        mine = np.flatnonzero((state.reached < np.inf) & (state.reached <= state.upper))
        if not mine.size:
            return super()._proof(problem, state)
        part, ends = problem.take(mine), [end for k in mine if (end := state.ends[k]) is not None]
        proof = certify_moved(part, take(state.dual, mine)[1], *of_vertices(part, ends))
        return proof if mine.size == problem.items else joined(super()._proof(problem, state), mine, proof)


def _weights(problem: LinearProblem, f: Array, g: Array) -> tuple[np.ndarray, np.ndarray]:
    """The optimal masses at potentials, on the host, with the constant that makes their totals equal."""
    costs, penalties = problem.reduced, problem.penalties
    rates = [1 / to_numpy(rho) for rho in (penalties.rho_a, penalties.rho_b)]
    p = to_numpy(penalties.target(problem.a, f + costs.row, penalties.rho_a))
    q = to_numpy(penalties.target(problem.b, g + costs.col, penalties.rho_b))
    sent, received = p.sum(-1), q.sum(-1)
    some = (sent > 0) & (received > 0)  # no mass is left where penalties are far below the costs
    t = np.log(np.where(some, sent, 1.0) / np.where(some, received, 1.0)) / (rates[0] + rates[1])
    return p * np.exp(-t * rates[0])[:, None], q * np.exp(t * rates[1])[:, None]


def _steepness(problem: LinearProblem, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The largest |log(p/a)| of the points with mass, ``(B,)``."""
    given = to_numpy(problem.a), to_numpy(problem.b)
    sides = (np.where(w > 0, abs(log_ratio(p, w)), 0.0) for p, w in zip(weights, given, strict=True))
    return np.maximum(*(v.max(-1) for v in sides))


def _balanced(problem: LinearProblem, weights: tuple[np.ndarray, np.ndarray]) -> LinearProblem:
    """The problem with these weights as exact marginals, at mass 1."""
    ones = np.ones(problem.items)
    a, b = (from_numpy(w / w.sum(-1, keepdims=True), problem.a) for w in weights)
    exact = from_numpy(ones * np.inf, problem.a)
    return replace(
        problem, a=a, b=b, penalties=Penalties(exact, exact), balanced=ones > 0, idle=None, mass=ones, rescaled=0 * ones
    )


def _ends(problem: LinearProblem, found: Outcome, total: np.ndarray) -> list[Vertex]:
    """The plans of exact problems of mass 1, scaled to these totals."""
    (plan,) = found.plan
    assert isinstance(plan, SparsePlan)
    item, rows, cols, mass = plan.entries.item, plan.entries.row, plan.entries.col, plan.entries.mass
    ends = []
    for k in range(problem.items):
        of = item == k
        cost = costs_along(problem.reduced, k, rows[of], cols[of])
        ends.append(Vertex(rows[of], cols[of], mass[of] * total[k], cost, 0.0))
    return ends


@np.errstate(over="ignore", invalid="ignore")  # where penalties are far below the costs, which is left to annealing
def _ahead(problem: LinearProblem, old: tuple[Array, Array], new: tuple[Array, Array], first: np.ndarray) -> Array:
    """The potentials of the columns where the dual is largest between two points, by bisection of its slope."""
    (f, g), steps = old, [one - other for one, other in zip(new, old, strict=True)]

    def at(t: np.ndarray) -> tuple[Array, Array]:
        share = from_numpy(t, f)[:, None]
        return f + share * steps[0], g + share * steps[1]

    def falls(t: np.ndarray) -> np.ndarray:
        return sum((w * to_numpy(d)).sum(-1) for w, d in zip(_weights(problem, *at(t)), steps, strict=True)) < 0

    low, high = np.zeros(problem.items), np.ones(problem.items)
    short = falls(high) & ~first
    for _ in range(_HALVINGS if short.any() else 0):
        middle = (low + high) / 2
        down = falls(middle)
        low, high = np.where(down, low, middle), np.where(down, middle, high)
    return at(np.where(short, low, 1.0))[1]
