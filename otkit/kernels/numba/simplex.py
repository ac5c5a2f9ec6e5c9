"""The network simplex method on a few arcs of a bipartite graph, compiled.

Nodes are the rows, the columns and a root. A basis is a spanning tree: real arcs from rows to columns, and an
artificial arc for each subtree of the root. Masses are integers, so flows, and zero flows, are exact. Arcs without flow
always point towards the root. Such bases are *strongly feasible*, and degenerate pivots cannot cycle (Cunningham 1976).

With the prices ``pi``, an arc from row i to column j of cost c has the reduced cost ``c + pi_i − pi_j``: the potentials
of transport are ``f = −pi`` and ``g = pi``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import jit


class Tree(NamedTuple):
    """A basis. Each array has an entry for every node; `up`, `arc` and `flow` describe its arc to the parent.

    Attributes
    ----------
    parent, depth : array of int
    up : array of bool
        Whether the arc is directed from the node to its parent.
    arc : array of int
        Index of the arc; −1 for an artificial arc.
    flow : array of int
    pi : array
        The price of the node.
    child, following, previous : array of int
        The first child of the node, and the next and previous children of its parent; −1 for none.
    stack : array of int
        Buffer for traversals of the tree.
    """

    parent: np.ndarray
    depth: np.ndarray
    up: np.ndarray
    arc: np.ndarray
    flow: np.ndarray
    pi: np.ndarray
    child: np.ndarray
    following: np.ndarray
    previous: np.ndarray
    stack: np.ndarray

    @staticmethod
    def empty(nodes: int) -> Tree:
        """Uninitialised arrays for this number of nodes and the root, which comes last."""
        size = nodes + 1
        parent, depth, arc, child, following, previous, stack = (np.full(size, -1, dtype=np.int64) for _ in range(7))
        return Tree(
            parent, depth, np.zeros(size, dtype=np.bool_), arc, np.zeros(size, dtype=np.int64), np.zeros(size),
            child, following, previous, stack,
        )  # fmt: skip


@jit
def _hang(node, parent, tree):
    """Make a node the first child of another one."""
    tree.parent[node] = parent
    first = tree.child[parent]
    tree.previous[node] = -1
    tree.following[node] = first
    if first >= 0:
        tree.previous[first] = node
    tree.child[parent] = node


@jit
def _cut(node, tree):
    """Take a node from the children of its parent."""
    before, after = tree.previous[node], tree.following[node]
    if before >= 0:
        tree.following[before] = after
    else:
        tree.child[tree.parent[node]] = after
    if after >= 0:
        tree.previous[after] = before


@jit
def _incidence(nodes, tails, heads, members):
    """The arcs of each node: for node i, ``at[ends[i]:ends[i + 1]]``."""
    ends = np.zeros(nodes + 1, dtype=np.int64)
    for k in members:
        ends[tails[k] + 1] += 1
        ends[heads[k] + 1] += 1
    for node in range(nodes):
        ends[node + 1] += ends[node]
    at, room = np.empty(2 * members.size, dtype=np.int64), ends[:-1].copy()
    for k in members:
        for node in (tails[k], heads[k]):
            at[room[node]] = k
            room[node] += 1
    return ends, at


@jit
def _walk(nodes, tails, heads, members):
    """The nodes of a forest, parents before children; also the parent of each node and the arc to it, −1 for none."""
    ends, at = _incidence(nodes, tails, heads, members)
    order, parent, arc = np.empty(nodes, dtype=np.int64), np.full(nodes, -1), np.full(nodes, -1)
    seen = np.zeros(nodes, dtype=np.bool_)
    walked = count = 0
    for top in range(nodes):
        if seen[top]:
            continue
        seen[top] = True
        order[count] = top
        count += 1
        while walked < count:
            node = order[walked]
            walked += 1
            for p in range(ends[node], ends[node + 1]):
                k = at[p]
                other = tails[k] + heads[k] - node
                if not seen[other]:
                    seen[other] = True
                    parent[other], arc[other], order[count] = node, k, other
                    count += 1
    return order, parent, arc


@jit
def start(supply, tails, heads, members, prices, tree):
    """The basis whose flows meet the supplies along the forest of the arcs ``members``.

    ``supply (nodes,)`` is positive for rows and negative for columns. The forest is cut at arcs whose flow would not be
    positive. An artificial arc then carries the missing or excess mass of the subtree below. The top of a subtree
    without missing or excess mass gets its price from ``prices (nodes,)``.
    """
    nodes = root = supply.size
    order, parent, arc = _walk(nodes, tails, heads, members)
    excess = supply.copy()
    tree.parent[root], tree.depth[root] = -1, 0
    for p in range(nodes - 1, -1, -1):
        node = order[p]
        k = arc[node]
        upward = k >= 0 and tails[k] == node
        flow = excess[node] if upward else -excess[node]
        if k >= 0 and flow > 0:
            excess[parent[node]] += excess[node]
            tree.up[node], tree.arc[node], tree.flow[node] = upward, k, flow
            _hang(node, parent[node], tree)
        else:
            tree.up[node], tree.arc[node], tree.flow[node] = excess[node] >= 0, -1, abs(excess[node])
            tree.pi[node] = prices[node]
            _hang(node, root, tree)


@jit
def _push(node, size, tree):
    """Push the children of a node on the stack; returns the new size of the stack."""
    below = tree.child[node]
    while below >= 0:
        tree.stack[size] = below
        size += 1
        below = tree.following[below]
    return size


@jit
def price(costs, penalty, tree):
    """Compute the prices and depths of the nodes, from the root down.

    Artificial arcs with a flow cost ``penalty``. Nodes whose artificial arc has no flow keep their price.
    """
    root = tree.parent.size - 1
    tree.stack[0] = root
    size = 1
    while size > 0:
        size -= 1
        node = tree.stack[size]
        if node != root:
            above, k = tree.parent[node], tree.arc[node]
            tree.depth[node] = tree.depth[above] + 1
            if k >= 0:
                tree.pi[node] = tree.pi[above] - costs[k] if tree.up[node] else tree.pi[above] + costs[k]
            elif tree.flow[node] > 0:
                tree.pi[node] = -penalty if tree.up[node] else penalty
        size = _push(node, size, tree)


@jit
def _enter(tails, heads, costs, tolerance, block, first, tree):
    """The arc of smallest reduced cost in the next block with a negative one (block pricing); −1 if there is none."""
    count = tails.size
    worst, found, checked = -tolerance, -1, 0
    k = first
    for _ in range(count):
        reduced = costs[k] + tree.pi[tails[k]] - tree.pi[heads[k]]
        if reduced < worst:
            worst, found = reduced, k
        k = k + 1 if k + 1 < count else 0
        checked += 1
        if checked == block:
            if found >= 0:
                break
            checked = 0
    return found, worst, k


@jit
def _leave(tail, head, tree):
    """The node whose arc leaves the tree when an arc from tail to head enters; also the flow to move, and the join.

    Of the blocking arcs, the leaving one is the last on the cycle, from the join in the direction of the flow. This
    keeps the tree strongly feasible.
    """
    i, j = tail, head
    while i != j:
        if tree.depth[i] > tree.depth[j]:
            i = tree.parent[i]
        elif tree.depth[j] > tree.depth[i]:
            j = tree.parent[j]
        else:
            i, j = tree.parent[i], tree.parent[j]
    join = i
    moved, out, below_tail = np.int64(2**63 - 1), -1, True
    node = tail
    while node != join:
        if tree.up[node] and tree.flow[node] < moved:
            moved, out = tree.flow[node], node
        node = tree.parent[node]
    node = head
    while node != join:
        if not tree.up[node] and tree.flow[node] <= moved:
            moved, out, below_tail = tree.flow[node], node, False
        node = tree.parent[node]
    return out, moved, below_tail, join


@jit
def _move(tail, head, join, moved, tree):
    """Augment the flow along the cycle that an arc from tail to head closes."""
    node = tail
    while node != join:
        tree.flow[node] += -moved if tree.up[node] else moved
        node = tree.parent[node]
    node = head
    while node != join:
        tree.flow[node] += moved if tree.up[node] else -moved
        node = tree.parent[node]


@jit
def _turn(node, out, parent, arc, flow, up, tree):
    """Attach the subtree of ``out`` to another parent at its ``node``, which becomes its top."""
    while True:
        old_parent, old_arc, old_flow, old_up = tree.parent[node], tree.arc[node], tree.flow[node], tree.up[node]
        _cut(node, tree)
        tree.arc[node], tree.flow[node], tree.up[node] = arc, flow, up
        _hang(node, parent, tree)
        if node == out:
            return
        parent, arc, flow, up = node, old_arc, old_flow, not old_up
        node = old_parent


@jit
def _shift(top, change, tree):
    """Shift the prices of a subtree, and recompute its depths."""
    tree.stack[0] = top
    size = 1
    while size > 0:
        size -= 1
        node = tree.stack[size]
        tree.pi[node] += change
        tree.depth[node] = tree.depth[tree.parent[node]] + 1
        size = _push(node, size, tree)


@jit
def solve(tails, heads, costs, penalty, tolerance, most, tree):
    """Pivot at most `most` times, until no arc has a reduced cost below ``−tolerance``; returns the number of pivots.

    Before optimality is accepted, prices are recomputed from the tree, since updates accumulate rounding errors.
    """
    block = max(20, int(np.sqrt(tails.size)))
    first, pivots, fresh = 0, 0, False
    while pivots < most:
        k, reduced, first = _enter(tails, heads, costs, tolerance, block, first, tree)
        if k < 0:
            if fresh:
                break
            price(costs, penalty, tree)
            fresh = True
            continue
        fresh = False
        tail, head = tails[k], heads[k]
        out, moved, below_tail, join = _leave(tail, head, tree)
        if moved > 0:
            _move(tail, head, join, moved, tree)
        if below_tail:
            _turn(tail, out, head, k, moved, True, tree)
            _shift(tail, -reduced, tree)
        else:
            _turn(head, out, tail, k, moved, False, tree)
            _shift(head, reduced, tree)
        pivots += 1
    return pivots
