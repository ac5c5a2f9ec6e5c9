"""Penalised marginals without a regularisation: exact problems whose weights move, and annealing where these are slow.

At potentials f and g, the weights a·e^(−f/ρ) and b·e^(−g/ρ) are the gradient of the dual. The balanced problem with
these weights maximises the linear model of the dual: it is a Frank–Wolfe step. Its plan is feasible, and optimal where
its potentials are those that the weights came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from otkit.arrays import Array, exp, from_numpy, put, take, to_numpy
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
# Maximum number of Newton steps on the shares of potentials in their best mean; and the relative rise of the dual after
# which the next one, which is its square, would be a rounding error.
_NEWTON, _SMALL = 30, 1e-10
# Steps over which the fall of the interval is measured, and from whose end on the item may be left to annealing. It is
# if the interval is wider than this fraction of the upper end.
_OVER, _WIDE = 2, 0.02
# Items of fewer entries are annealed together in a batch, unless penalties are so many times their costs.
_ALONE, _FAR = 2**12, 10.0
# Statuses of an exact problem whose plan is feasible.
_SOLVED = (Status.CONVERGED, Status.IMPRECISE)

_T = TypeVar("_T")


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
    hulls : tuple of array (K, n + m) or None
        The potentials of exact problems that have a share in the best ones; None before the first.
    """

    ends: tuple[Vertex | None, ...]
    reached: np.ndarray
    widths: np.ndarray
    moves: np.ndarray
    hulls: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class FrankWolfe(Annealing):
    """Penalised marginals without a `reg`: exact problems with moved weights, then annealing for what they leave.

    Attributes
    ----------
    steps : int
        Maximum number of exact problems before annealing begins. It begins earlier where their intervals fall too
        slowly, where penalties are far below the costs, and at once where a side is free, or in batches of little
        problems.

    Notes
    -----
    Frank–Wolfe steps on the translation-invariant dual follow Séjourné, Vialard & Peyré (2022), who take them on the
    line. Here each is fully corrective: the dual is maximised over the means of all potentials found so far. Where ρ is
    above the costs, two or three steps reach the optimum up to rounding. Other attributes are those of `Annealing`, and
    apply to it.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75], unbalanced=10.0)
    >>> result.method, float(result.value.round(6))
    ('frank-wolfe', 0.226681)
    """

    steps: int = 20
    name = "frank-wolfe"
    shares = False

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Moving:
        state = super().init(problem, start)
        zero = -problem.reduced.row, -problem.reduced.col
        known = {name: getattr(state, name) for name in Bounded.__dataclass_fields__} | {"dual": start or zero}
        apt = problem.geometry.grid is None and shared_by() is None and has_rows(problem)
        least = np.minimum(to_numpy(problem.penalties.rho_a), to_numpy(problem.penalties.rho_b))
        alone = problem.items == 1 or problem.reduced.n * problem.reduced.m >= _ALONE
        return Moving(
            **known,
            ends=(None,) * problem.items,
            reached=np.full(problem.items, np.inf),
            widths=np.empty((0, problem.items)),
            hulls=(None,) * problem.items,
            moves=apt & ~problem.balanced & (least > 0) & (alone | (least >= _FAR * problem.span)),
        )

    def step(self, problem: LinearProblem, state: Bounded) -> Bounded:
        assert isinstance(state, Moving)
        items = state.running[state.moves[state.running]]
        return self._moved(problem, state, items) if items.size else super().step(problem, state)

    def _moved(self, problem: LinearProblem, state: Moving, items: np.ndarray) -> Moving:
        """The state after an exact problem for each of these items."""
        part, (f, g) = problem.take(items), take(state.dual, items)
        duals = [_Dual.of(part, k) for k in range(part.items)]
        weights = _weights(duals, f, g)
        found = run(_balanced(part, weights), Exact())
        ahead, hulls = _best_means(duals, [state.hulls[k] for k in items], (f, g), (found.f, found.g))
        ends = _ends(part, found, weights[0].sum(-1))
        plan, cost = of_vertices(part, ends)
        solved = np.array([status in _SOLVED for status in found.status])
        proof = certify_moved(part, ahead, plan, np.where(solved, cost, np.inf))
        moved = _weights(duals, proof.f, proof.g)
        error = sum(abs(old - new).sum(-1) for old, new in zip(weights, moved, strict=True)) / part.size
        state = replace(state, error=put(state.error, items, error), hulls=_put(state.hulls, items, hulls))
        return self._judged(part, state, items, proof, ends, _steepness(part, moved) <= _STEEPEST)

    def _judged(
        self,
        part: LinearProblem,
        state: Moving,
        items: np.ndarray,
        proof: Certificate,
        ends: list[Vertex],
        apt: np.ndarray,
    ) -> Moving:
        """The state with the bounds of a step, in which items end, are left to annealing, or if `apt` step again."""
        higher, less = proof.lower > state.lower[items], proof.upper < state.upper[items]
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
            ends=_put(state.ends, items[less], [ends[k] for k in np.flatnonzero(less)]),
            widths=widths,
        )
        close, rounded = self._done(part, lower, upper, proof)
        state = state.ended(items[close], Status.CONVERGED).ended(items[rounded], Status.IMPRECISE)
        falls = self._falls(widths[:, items], upper, self._rtol(part))
        return replace(state, moves=put(state.moves, items, higher & falls & apt))

    def _falls(self, widths: np.ndarray, upper: np.ndarray, rtol: np.ndarray) -> np.ndarray:
        """Whether the intervals will be narrow after all steps if they go on falling as they did in the last ones."""
        left = self.steps - len(widths)
        if len(widths) <= _OVER:
            return np.full(upper.shape, left > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = (widths[-1] / widths[-1 - _OVER]) ** (1 / _OVER)
            return (left > 0) & (widths[-1] <= _WIDE * abs(upper)) & (widths[-1] * rate**left <= rtol * abs(upper))

    def _proof(self, problem: LinearProblem, state: Bounded) -> Certificate:
        assert isinstance(state, Moving)
        mine = np.flatnonzero((state.reached < np.inf) & (state.reached <= state.upper))
        if not mine.size:
            return super()._proof(problem, state)
        part, ends = problem.take(mine), [end for k in mine if (end := state.ends[k]) is not None]
        proof = certify_moved(part, take(state.dual, mine)[1], *of_vertices(part, ends))
        return proof if mine.size == problem.items else joined(super()._proof(problem, state), mine, proof)


def _weights(duals: list[_Dual], f: Array, g: Array) -> tuple[np.ndarray, np.ndarray]:
    """The optimal masses at potentials, on the host, with the constant that makes their totals equal."""
    both, n = np.concatenate([to_numpy(f), to_numpy(g)], axis=-1), f.shape[-1]
    masses = np.stack([dual.mass(dual.levelled(z)) for dual, z in zip(duals, both, strict=True)])
    return masses[:, :n], masses[:, n:]


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


def _put(old: tuple[_T, ...], items: np.ndarray, new: Sequence[_T]) -> tuple[_T, ...]:
    """The values with those of some items replaced."""
    known = dict(zip(items.tolist(), new, strict=True))
    return tuple(known.get(k, v) for k, v in enumerate(old))


def _best_means(
    duals: list[_Dual], hulls: list[np.ndarray | None], old: tuple[Array, Array], new: tuple[Array, Array]
) -> tuple[Array, list[np.ndarray]]:
    """The potentials of the columns in the best mean of earlier potentials and new ones, and the hull of this mean."""
    here, there = (np.concatenate([to_numpy(v) for v in pair], axis=-1) for pair in (old, new))
    found = []
    for dual, hull, z, first in zip(duals, hulls, here, there, strict=True):
        found.append(_highest(dual, first[None] if hull is None else np.vstack([hull, first, z])))
    f, g = old
    return from_numpy(np.stack([z for z, _ in found])[:, f.shape[-1] :], g), [hull for _, hull in found]


class _Dual(NamedTuple):
    """The dual of an item: at each point of both sides the weight, 1/ρ, the offset, and the sign of the constant."""

    w: np.ndarray
    rate: np.ndarray
    offset: np.ndarray
    sign: np.ndarray

    @staticmethod
    def of(problem: LinearProblem, item: int) -> _Dual:
        costs, penalties = problem.reduced, problem.penalties
        both = (problem.a, penalties.rho_a, costs.row, 1.0), (problem.b, penalties.rho_b, costs.col, -1.0)
        sides = []
        for weights, rho, offsets, sign in both:
            w, offset = to_numpy(weights)[item], to_numpy(offsets)[item]
            ones = np.ones(w.size)
            sides.append((w, ones / to_numpy(rho)[item], offset, sign * ones))
        return _Dual(*map(np.concatenate, zip(*sides, strict=True)))

    def mass(self, z: np.ndarray) -> np.ndarray:
        """The optimal masses at potentials, which are arbitrary where there is no weight."""
        return self.w * exp(np.where(self.w > 0, -self.rate * (z + self.offset), 0.0))

    def value(self, z: np.ndarray) -> float:
        """The dual at potentials, up to rounding."""
        z = np.where(self.w > 0, z + self.offset, 0.0)
        rate = np.where(self.rate > 0, self.rate, 1.0)
        return float((self.w * np.where(self.rate > 0, -np.expm1(-rate * z) / rate, z)).sum())

    def levelled(self, z: np.ndarray) -> np.ndarray:
        """The potentials with the constant that makes the totals of both sides equal, where these are known."""
        p, rows = self.mass(z), self.sign > 0
        sent, received = p[rows].sum(), p[~rows].sum()
        if not 0 < min(sent, received) <= max(sent, received) < np.inf:
            return z
        return z + self.sign * np.log(sent / received) / (self.rate[rows][0] + self.rate[~rows][0])


@np.errstate(over="ignore", invalid="ignore")  # where penalties are far below the costs, which is left to annealing
def _highest(dual: _Dual, hull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of potentials ``hull (K, n + m)`` where the dual is largest, and those that have a share in it.

    Newton steps on the shares and on the constant that is free. A share that falls to 0 is dropped.
    """
    share = np.zeros(len(hull))
    share[-1] = 1.0
    z = dual.levelled(hull[-1])
    value = dual.value(z)
    for _ in range(_NEWTON):
        p, basis = dual.mass(z), np.vstack([hull, dual.sign])
        system = np.zeros((len(hull) + 2, len(hull) + 2))
        system[:-1, :-1] = (basis * (dual.rate * p)) @ basis.T
        system[:-2, -1] = system[-1, :-2] = 1.0
        slope = basis @ p
        if not np.isfinite(system).all():
            break
        move = np.linalg.lstsq(system, np.append(slope, 0.0), rcond=1e-13)[0][:-1]
        free = (share > 0) | (move[:-1] > 0)
        if not free.all():
            hull, share = hull[free], share[free]
            continue
        falling = move[:-1] < 0
        most = float((share[falling] / -move[:-1][falling]).min(initial=np.inf))
        length = min(1.0, most)
        while length > 1e-6:
            ahead = z + length * (move @ basis)
            found = dual.value(ahead)
            if found > value:
                break
            length /= 2
        else:
            break
        share = share + length * move[:-1]
        z, gain, value = ahead, found - value, found
        if length == most:
            left = share > 1e-12
            hull, share = hull[left], share[left]
        if gain <= _SMALL * abs(value):
            break
    return z, hull
