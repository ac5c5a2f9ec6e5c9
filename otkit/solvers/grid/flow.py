"""Exact transport on grids for the city-block distance: mass flows along the edges of the grid.

The distance of two cells is the length of a shortest path of edges, so that N cells have about d·N arcs instead of N².
The network simplex starts on a coarse grid. The tree of a finer one takes first the edges along which the potentials of
the coarser one differ most, nearly by their length: these carry mass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from otkit.arrays import Array, later
from otkit.certificates.balanced import certify_plan
from otkit.certificates.base import feasible
from otkit.certificates.width import precise
from otkit.geometry.costs import UNIT
from otkit.kernels.numba import flow
from otkit.kernels.numba.simplex import Tree
from otkit.plans import Arcs, SparsePlan
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Status, marginal_error
from otkit.solvers.base import Solver, State, check_options
from otkit.solvers.exact.basis import GRAIN, ROUNDING
from otkit.solvers.grid.levels import doubled, interpolated, summed

# Maximum number of pivots in a step.
_PIVOTS = 2**15


@dataclass(frozen=True)
class Edges:
    """The edges of a grid: the cells at both ends, and the length."""

    one: np.ndarray
    other: np.ndarray
    length: np.ndarray

    @staticmethod
    def of(shape: Sequence[int], spacing: Sequence[float]) -> Edges:
        """The edges between the neighbours along each axis."""
        cells = np.arange(np.prod(shape)).reshape(shape)
        found = []
        for axis, h in enumerate(spacing):
            one, other = (np.delete(cells, end, axis=axis).ravel() for end in (-1, 0))
            found.append((one, other, np.full(one.size, h)))
        return Edges(*(np.concatenate(part) for part in zip(*found, strict=True)))


@dataclass(frozen=True)
class Basis:
    """The basis of an item on the current grid. Pivots change its tree in place.

    Attributes
    ----------
    supplies : tuple of array
        What each cell sends less what it receives, in grains, on all grids from the current one to the finest.
    spacings, halved : tuple
        The spacings of these grids; and along which axes the next one has cells of half the side.
    """

    supplies: tuple[np.ndarray, ...]
    spacings: tuple[tuple[float, ...], ...]
    halved: tuple[tuple[bool, ...], ...]
    edges: Edges
    tree: Tree
    cursor: np.ndarray

    @staticmethod
    def begin(supply: np.ndarray, spacing: tuple[float, ...]) -> Basis:
        """The basis on the coarsest grid."""
        supplies, spacings, halved = [supply], [spacing], [(False,) * supply.ndim]
        while any(doubled(supplies[0].shape)):
            twice = doubled(supplies[0].shape)
            supplies.insert(0, summed(supplies[0], twice))
            spacings.insert(0, tuple(h * (1 + t) for h, t in zip(spacings[0], twice, strict=True)))
            halved.insert(0, twice)
        return Basis._planted(tuple(supplies), tuple(spacings), tuple(halved), np.zeros(supplies[0].shape))

    @staticmethod
    def _planted(
        supplies: tuple[np.ndarray, ...],
        spacings: tuple[tuple[float, ...], ...],
        halved: tuple[tuple[bool, ...], ...],
        prices: np.ndarray,
    ) -> Basis:
        """The basis on a grid that takes edges by the differences of prices."""
        edges, flat = Edges.of(supplies[0].shape, spacings[0]), prices.ravel()
        order = np.argsort(-abs(flat[edges.one] - flat[edges.other]) / edges.length, kind="stable")
        tree = Tree.empty(flat.size, 0)
        flow.plant(order, edges.one, edges.other, edges.length, supplies[0].ravel(), *tree[:-1])
        return Basis(supplies, spacings, halved, edges, tree, np.zeros(1, dtype=np.int64))

    @property
    def prices(self) -> np.ndarray:
        """The prices of the cells; 0, which is optimal too, where nothing flows."""
        return self.tree.pi[:-1] if self.supplies[-1].any() else np.zeros(self.tree.pi.size - 1)

    def pivoted(self, most: int) -> tuple[Basis, int, bool]:
        """The basis after at most so many pivots, or on the next grid; the number; and whether all is optimal."""
        if not self.supplies[-1].any():
            return self, 0, True
        edges = self.edges.one, self.edges.other, self.edges.length
        pivots, optimal = flow.solve(*edges, *self.tree[:-1], self.cursor, ROUNDING, most)
        if not optimal or len(self.supplies) == 1:
            return self, pivots, optimal
        return self.finer(), pivots, False

    def finer(self) -> Basis:
        """The first basis on the next grid."""
        prices = interpolated(self.prices.reshape(self.supplies[0].shape), self.halved[0], self.supplies[1].shape)
        return Basis._planted(self.supplies[1:], self.spacings[1:], self.halved[1:], prices)


@dataclass(frozen=True)
class Flowing(State):
    """A state with the basis of each item."""

    bases: tuple[Basis, ...]


@dataclass(frozen=True)
class GridFlow(Solver[Flowing]):
    """Exact transport on a grid for the city-block distance, as a flow along the edges of the grid.

    Attributes
    ----------
    max_iter : int
        Maximum number of pivots on all grids together.

    Notes
    -----
    Ling & Okada (2007). The plan sends each unit of mass along the paths of the optimal flow.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> otkit.solve_grid(np.diag([1.0, 0.0, 0.0]), np.diag([0.0, 0.0, 1.0]), metric="cityblock").value
    array(4.)
    """

    max_iter: int = 100_000_000
    name = "flow"
    refuses: ClassVar[Mapping[str, str]] = {
        "tol": "rtol= bounds the unregularised answer; this one is exact, drop tol=",
        "rtol": "it is exact; drop rtol=",
        "init": "the pivots begin on a coarse grid; drop init=",
    }

    def __post_init__(self) -> None:
        check_options(self)

    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> Flowing:
        grid, items, nothing = problem.geometry.grid, problem.items, np.zeros(problem.items)
        assert grid is not None
        supplies = [np.subtract(*_grains(problem, k)).reshape(grid.shape) for k in range(items)]
        bases = tuple(Basis.begin(supply, grid.spacing) for supply in supplies)
        running = np.full(items, None, dtype=object)
        return Flowing(problem.a, problem.b, nothing, running, nothing, np.zeros(items, dtype=np.int64), (), bases)

    def step(self, problem: LinearProblem, state: Flowing) -> Flowing:
        bases, n_iter = list(state.bases), state.n_iter.copy()
        for k in state.running:
            bases[k], pivots, optimal = bases[k].pivoted(min(_PIVOTS, self.max_iter - int(n_iter[k])))
            n_iter[k] += pivots
            if optimal:
                state = state.ended(np.array([k]), Status.CONVERGED)
        return replace(state, bases=tuple(bases), n_iter=n_iter)

    def finish(self, problem: LinearProblem, state: Flowing, errors: np.ndarray) -> Outcome:
        bases = [_finest(basis) for basis in state.bases]
        plan = SparsePlan((problem.items, problem.reduced.n, problem.reduced.m), _arcs(problem, bases), problem.a)
        g = np.stack([basis.prices for basis in bases])
        # Weights are rounded to grains, and grains to floats.
        defect = np.full(problem.items, 4 * problem.reduced.n * GRAIN + 8 * UNIT)
        found = certify_plan(problem, *feasible(problem, g=g), (plan,), _paid(problem, plan.entries), defect)
        wide = ~precise(problem, found.lower, found.upper)
        state = state.ended(np.flatnonzero((state.status == Status.CONVERGED) & wide), Status.IMPRECISE)
        return Outcome(
            f=found.f,
            g=found.g,
            reg=None,
            plan=found.plan,
            certificate=found,
            status=state.status,
            error=later(marginal_error, problem, found.plan, found.f, found.g),
            tol=np.zeros(problem.items),
            n_iter=state.n_iter,
            errors=errors,
            stages=state.stages,
        )


def _grains(problem: LinearProblem, item: int) -> tuple[np.ndarray, np.ndarray]:
    """The masses of both sides in whole grains, of equal sums."""
    out, into = (np.rint(w[item] / w[item].sum() / GRAIN).astype(np.int64) for w in (problem.a, problem.b))
    into[into.argmax()] += out.sum() - into.sum()
    return out, into


def _finest(basis: Basis) -> Basis:
    """The basis on the finest grid; the first one there if the pivots were stopped before."""
    while len(basis.supplies) > 1:
        basis = basis.finer()
    return basis


def _arcs(problem: LinearProblem, bases: list[Basis]) -> Arcs:
    """The plans of all items."""
    parts, most = [], 3 * problem.reduced.n
    for k, basis in enumerate(bases):
        rows, cols, mass = (np.empty(most, dtype=np.int64) for _ in range(3))
        count = flow.plan(*_grains(problem, k), basis.tree.parent, basis.tree.up, basis.tree.flow, rows, cols, mass)
        parts.append((np.full(count, k), rows[:count], cols[:count], mass[:count] * GRAIN))
    return Arcs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _paid(problem: LinearProblem, arcs: Arcs) -> np.ndarray:
    """The cost of the plan of each item."""
    grid = problem.geometry.grid
    assert grid is not None
    ends = (np.unravel_index(index, grid.shape) for index in (arcs.row, arcs.col))
    cost = sum(h * abs(x - y) for h, x, y in zip(grid.spacing, *ends, strict=True))
    return np.bincount(arcs.item, arcs.mass * cost, problem.items)
