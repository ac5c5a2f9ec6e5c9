"""Trees over points, and their cells.

`tree_of` has the tree of the points of a flat `PointCloud`, ``cloud.x`` or ``cloud.y``, and keeps it as long as the
array. `Tree.cells` cuts it into cells:

>>> import numpy as np
>>> from otkit.kernels.trees import tree_of
>>> points = np.random.default_rng(0).random((1, 1000, 2))
>>> tree = tree_of(points)
>>> cells = tree.cells(tree.moments(np.full(1000, 1e-3)), variance=0.05)
>>> cells.mass
array([0.25, 0.25, 0.25, 0.25])
>>> bool(cells.variance.max() <= 0.05)
True
>>> np.bincount(cells.labels(tree))
array([250, 250, 250, 250])

`otkit.kernels.searches` has the operations that search trees in place of all n·m costs.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from otkit.kernels import threads
from otkit.kernels.numba import tree

# Maximum number of points of a leaf, and levels of the tree above the subtrees that threads share.
LEAF, _TOP = 8, 4


@dataclass(frozen=True)
class Tree:
    """A balanced tree over points, cut at medians. Node v has the children 2v + 1 and 2v + 2.

    Attributes
    ----------
    points : array (n, d)
        The points in the order of the tree, in which those of a node are adjacent.
    order : array of int (n,)
        The index of each of them in the caller's order.
    start, stop : array of int (nodes,)
        The points of a node are ``points[start:stop]``.
    leaves : int
        The first node that is a leaf.
    low, high : array (nodes, d)
        The lowest and the highest coordinates in a node.
    """

    points: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    leaves: int
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def over(points: np.ndarray) -> Tree:
        """The tree over points ``(n, d)``."""
        n, d = points.shape
        depth = max(0, int(np.ceil(np.log2(n / LEAF))))
        nodes, leaves = 2 ** (depth + 1) - 1, 2**depth - 1
        points, order = np.array(points, dtype=np.float64, order="C"), np.arange(n)
        start, stop = np.zeros(nodes, dtype=np.int64), np.full(nodes, n)
        for task in subtrees(depth):
            threads.each(lambda part: tree.grow(points, order, start, stop, *part), task, 64 * n)
        low, high = np.empty((nodes, d)), np.empty((nodes, d))
        tree.enclose(points, start, stop, leaves, low, high)
        return Tree(points, order, start, stop, leaves, low, high)

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return int(np.log2(self.leaves + 1))

    def moments(self, weights: np.ndarray) -> Moments:
        """Mass, mean and variance of every node, for the weights ``(n,)`` of the points in the caller's order."""
        weights, shape = np.ascontiguousarray(weights[self.order]), self.low.shape
        mass, mean, variance = np.empty(shape[0]), np.empty(shape), np.empty(shape[0])
        tree.moments(self.points, weights, self.start, self.stop, self.leaves, mass, mean, variance)
        return Moments(weights, mass, mean, variance)

    def cells(self, of: Moments, variance: float) -> Cells:
        """The largest nodes of at most this `variance`, and single points where no node has less."""
        return self.cut(of, of.variance <= variance)

    def cut(self, of: Moments, whole: np.ndarray) -> Cells:
        """The highest nodes that are `whole` (nodes,), and single points where none is."""
        first = np.empty(self.order.size, dtype=np.int64)
        first = first[: tree.cut(self.start, self.stop, self.leaves, np.ascontiguousarray(whole), first)].copy()
        mass, mean, variance = np.empty(first.size), np.empty((first.size, self.points.shape[1])), np.empty(first.size)
        tree.summarise(self.points, of.weights, first, mass, mean, variance)
        return Cells(first, mass, mean, variance)


@dataclass(frozen=True)
class Moments:
    """Weights of the points of a tree, in its order, and of each node its mass, mean ``(nodes, d)`` and variance.

    The variance is the mean squared distance to the mean: the sum over the coordinates.
    """

    weights: np.ndarray
    mass: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class Cells:
    """A partition of the points of a tree into k cells, in its order.

    Attributes
    ----------
    first : array of int (k,)
        The first point of each cell, in the order of the tree.
    mass, mean, variance : array (k,), (k, d), (k,)
        As in `Moments`. A cell without mass has the mean of its points, and variance 0.
    """

    first: np.ndarray
    mass: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def labels(self, of: Tree) -> np.ndarray:
        """The cell of every point, in the caller's order."""
        out = np.empty(of.order.size, dtype=np.int64)
        out[of.order] = np.repeat(np.arange(self.first.size), np.diff(self.first, append=of.order.size))
        return out


def subtrees(depth: int) -> list[list[tuple[int, int]]]:
    """Tasks (node, levels) that cover all nodes above the leaves, in groups of which each waits for the one before."""
    tops = [[(v, 1) for v in range(2**k - 1, 2 ** (k + 1) - 1)] for k in range(min(_TOP, depth))]
    below = [(v, depth - _TOP) for v in range(2**_TOP - 1, 2 ** (_TOP + 1) - 1)] if depth > _TOP else []
    return [*tops, below]


_known: dict[int, tuple[weakref.ref[np.ndarray], dict[int, Tree]]] = {}


def tree_of(points: np.ndarray, item: int = 0) -> Tree:
    """The tree over the points of an item of ``points (items or 1, n, d)``, which must not change."""
    key = id(points)
    if key not in _known:
        _known[key] = weakref.ref(points, lambda _: _known.pop(key, None)), {}
    trees, item = _known[key][1], item % points.shape[0]
    if item not in trees:
        trees[item] = Tree.over(points[item])
    return trees[item]
