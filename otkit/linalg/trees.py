"""Spanning trees and components of bipartite graphs, and flows on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def difference(x: float, y: float) -> tuple[float, float]:
    """x − y and its rounding error, exactly (Knuth's two-sum)."""
    z = x - y
    back = z - x
    return z, (x - (z - back)) - (y + back)


@dataclass(frozen=True)
class SpanningTree:
    """A spanning forest of a bipartite graph: nodes ``0…n−1`` are rows, ``n…n+m−1`` columns.

    Attributes
    ----------
    order : array (n+m,)
        The nodes, parents before children.
    parent : array (n+m,)
        The parent of each node, −1 for the root of a component.
    weight, cost : array (n+m,)
        Weight and cost of the arc from each node to its parent; unused for a root.
    """

    n: int
    order: np.ndarray
    parent: np.ndarray
    weight: np.ndarray
    cost: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        """The nodes that have an arc to a parent, parents before children."""
        return self.order[self.parent[self.order] >= 0]

    def arcs(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the arc from each of the nodes to its parent."""
        other = self.parent[nodes]
        return np.minimum(nodes, other), np.maximum(nodes, other) - self.n

    def flows(self, supply: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The flow on the arc of each node (0 for a root) that meets `supply (n+m,)`.

        Flows are computed from the leaves up, so that each one is a difference of supplies. Also returns the excess at
        the roots, and the L1 distance between the supply and the divergence of the flows in exact arithmetic.
        """
        left = supply.tolist()
        flow = [0.0] * len(left)
        excess = error = 0.0
        parent = self.parent.tolist()
        for node in reversed(self.order.tolist()):
            p = parent[node]
            if p < 0:
                excess += abs(left[node])
            else:
                flow[node] = moved = left[node]
                left[p], lost = difference(left[p], moved)
                error += abs(lost)
        return np.array(flow), excess, error + excess

    def potentials(self) -> np.ndarray:
        """Potentials ``(n+m,)`` whose sum over every arc is its cost, 0 at the roots."""
        value = [0.0] * len(self.parent)
        parent, cost = self.parent.tolist(), self.cost.tolist()
        for node in self.order.tolist():
            if parent[node] >= 0:
                value[node] = cost[node] - value[parent[node]]
        return np.array(value)


Scan = Callable[[int], tuple[np.ndarray, np.ndarray]]


def maximum_spanning_tree(n: int, m: int, row: Scan, col: Scan) -> SpanningTree:
    """The spanning forest of largest weight of a complete bipartite graph (Prim), in O(nm) time and O(n+m) memory.

    Parameters
    ----------
    n, m : int
        Rows and columns.
    row, col : callable
        ``row(i)`` gives the weights and costs of the m arcs of a row, ``col(j)`` those of the n arcs of a column. An
        arc of weight −inf is absent.
    """
    size = n + m
    best = np.full(size, -np.inf)
    parent = np.full(size, -1)
    cost = np.zeros(size)
    weight = np.full(size, -np.inf)
    outside = np.ones(size, dtype=bool)
    order = np.empty(size, dtype=np.int64)
    for step in range(size):
        node = int(best.argmax())
        if best[node] == -np.inf:  # no more nodes are reachable: start the next component
            node = int(outside.argmax())
        order[step] = node
        outside[node] = False
        weight[node], best[node] = best[node], -np.inf
        side = slice(n, size) if node < n else slice(0, n)
        weights, costs = row(node) if node < n else col(node - n)
        better = (weights > best[side]) & outside[side]
        best[side][better] = weights[better]
        cost[side][better] = costs[better]
        parent[side][better] = node
    return SpanningTree(n, order, parent, weight, cost)


def sure_arcs(
    labels: np.ndarray, tails: np.ndarray, heads: np.ndarray, weights: np.ndarray, limits: np.ndarray
) -> np.ndarray:
    """Indices of those of a few arcs that join components in the spanning forest of largest weight of all arcs.

    Parameters
    ----------
    labels : array of int (nodes,)
        The component of each node, from 0.
    tails, heads : array of int (K,)
        The nodes at the ends of the arcs. Both have other labels.
    weights : array (K,)
    limits : array (nodes,)
        No other arc of a node to another component is heavier than its limit.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bound = np.full(int(labels.max()) + 1, -np.inf)
    np.maximum.at(bound, labels, limits)
    arcs = np.argsort(-weights, kind="stable")  # equal weights keep this order, so that no cycle closes
    one, other, sure = labels[tails[arcs]], labels[heads[arcs]], [arcs[:0]]
    while arcs.size:
        place, best = np.arange(arcs.size)[::-1], np.full((2, bound.size), arcs.size)
        best[0, one[::-1]], best[1, other[::-1]] = place, place
        first = best.min(0)
        # The best arc that leaves a component is listed if no other one can be heavier.
        first = first[np.append(weights[arcs], -np.inf)[first] >= np.where(first < arcs.size, bound, np.inf)]
        if not first.size:
            break
        first = np.unique(first)
        sure.append(arcs[first])
        joins = coo_array((np.ones(first.size, dtype=bool), (one[first], other[first])), shape=2 * bound.shape)
        count, joined = connected_components(joins, directed=False)
        bound, merged = np.full(count, -np.inf), bound
        np.maximum.at(bound, joined, merged)
        one, other = joined[one], joined[other]
        left = one != other
        arcs, one, other = arcs[left], one[left], other[left]
    return np.concatenate(sure)


def heaviest_forest(n: int, m: int, rows: np.ndarray, cols: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Indices of the arcs in the spanning forest of largest weight. The arcs are distinct and in row order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    if not rows.size:
        return np.empty(0, dtype=np.int64)
    length = weights.max() - weights + 1.0  # positive, since SciPy ignores zeros
    tree = minimum_spanning_tree(coo_array((length, (rows, cols + n)), shape=(n + m, n + m))).tocoo()
    return np.searchsorted(rows * m + cols, np.sort(tree.row.astype(np.int64) * m + (tree.col - n)))


def components(n: int, m: int, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected components of a bipartite graph, given by its arcs: the label of each row and of each column."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(rows.size, dtype=bool), (rows, cols + n)), shape=(n + m, n + m))
    _, labels = connected_components(graph, directed=False)
    return labels[:n], labels[n:]
