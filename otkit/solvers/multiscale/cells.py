"""The points of one side, and their cells at one scale, in the orders of trees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otkit.kernels.numba.support import Hierarchy
from otkit.kernels.trees import Cells, Moments, Tree, tree_of

# More cells than this fraction of the places give way to the places themselves.
_PLACES = 0.5


@dataclass(frozen=True)
class Measure:
    """The points with mass of one side.

    Attributes
    ----------
    tree : Tree
        The tree over these points, in whose order all arrays are.
    of : Moments
        Mass, mean and variance of its nodes.
    index : array of int (n,)
        The index of each point among all points of the side.
    """

    tree: Tree
    of: Moments
    index: np.ndarray

    @staticmethod
    def over(points: np.ndarray, item: int, weights: np.ndarray) -> Measure:
        """The points with mass of an item of ``points (items or 1, n, d)``."""
        some = np.flatnonzero(weights)
        own = points[item % points.shape[0]]
        tree = tree_of(points, item) if some.size == weights.size else Tree.over(own[some])
        return Measure(tree, tree.moments(weights[some]), some[tree.order])

    @property
    def weights(self) -> np.ndarray:
        return self.of.weights

    def grid(self, limit: np.ndarray) -> Grid:
        """The cells of the largest nodes of variance at most ``limit (nodes,)``; places if these are not many more."""
        cells = self.tree.cut(self.of, (self.of.variance <= limit) | self._one_place)
        return (
            self.places if cells.first.size > _PLACES * self.places.mass.size else Grid.over(cells, self.weights.size)
        )

    @cached_property
    def places(self) -> Grid:
        """The finest cells: points, or several of them that coincide."""
        cells = self.tree.cut(self.of, self._one_place)
        n = self.weights.size
        if cells.first.size < n:
            return Grid.over(cells, n)
        return Grid(self.tree, self.weights, np.zeros(n), np.arange(n))

    @cached_property
    def _one_place(self) -> np.ndarray:
        """Whether all points of a node coincide."""
        return np.asarray((self.tree.low == self.tree.high).all(-1))

    def split(self, grid: Grid, some: np.ndarray, limit: np.ndarray, factor: float) -> np.ndarray:
        """The limits of the variance, divided by a factor for the nodes in some of the cells."""
        first, last = grid.label[self.tree.start], grid.label[self.tree.stop - 1]
        finer = np.minimum(limit, grid.variance[first]) / factor
        return np.where((first == last) & some[first], finer, limit)


@dataclass(frozen=True)
class Grid:
    """The cells of one side at one scale, in the order of the tree over their means.

    Attributes
    ----------
    tree : Tree
        The tree over the means.
    mass, variance : array (k,)
    label : array of int (n,)
        The cell of each point of the measure.
    """

    tree: Tree
    mass: np.ndarray
    variance: np.ndarray
    label: np.ndarray

    @staticmethod
    def over(cells: Cells, n: int) -> Grid:
        tree = Tree.over(cells.mean)
        place = np.empty_like(tree.order)
        place[tree.order] = np.arange(place.size)
        label = place[np.repeat(np.arange(place.size), np.diff(cells.first, append=n))]
        return Grid(tree, cells.mass[tree.order], cells.variance[tree.order], label)

    @property
    def hierarchy(self) -> Hierarchy:
        """The tree over the cells, for the preconditioner of Newton steps."""
        tree = self.tree
        of = np.repeat(np.arange(tree.leaves, tree.start.size), tree.stop[tree.leaves :] - tree.start[tree.leaves :])
        return Hierarchy(tree.start, tree.stop, tree.leaves, of)
