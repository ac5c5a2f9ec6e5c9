"""The network simplex method on a bipartite graph, compiled.

Nodes are the rows, the columns and a root. A basis is a spanning tree: arcs from rows to columns, and an artificial arc
between the root and the top of each of its subtrees. Masses are integers, so flows, and zero flows, are exact. Arcs
without flow always point towards the root. Such bases are *strongly feasible*, and degenerate pivots cannot cycle
(Cunningham 1976).

With the prices ``pi``, an arc from row i to column j of cost c has the reduced cost ``c + pi_i − pi_j``: the potentials
of transport are ``f = −pi`` and ``g = pi``.

`otkit.kernels.numba.pricing` chooses the arcs that enter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from otkit.kernels.numba.jit import exact, jit, ordered

# The parent of the root, −1, as an unsigned number.
_NOWHERE = np.uint64(2**64 - 1)


class Tree(NamedTuple):
    """A basis. Each array has an entry for every node, the root last, except `cursor`.

    The nodes are threaded in preorder. `up`, `flow` and `cost` describe the arc of a node to its parent. An arc is
    artificial if and only if the parent is the root. (The tree of LEMON's simplex: Király & Kovács 2012.)

    Attributes
    ----------
    parent, thread, reverse : array of int
        The parent of the node, and the nodes after and before it in preorder.
    size, last : array of int
        Number of nodes of its subtree, and the last one of these in preorder.
    up : array of bool
        Whether the arc is directed from the node to its parent.
    flow : array of int
    cost, pi : array
        The cost of the arc, and the price of the node.
    cursor : array of int (5,)
        Where pricing goes on: the row, the place in the list, the number of listed arcs, whether the list is next, and
        whether rows are searched in double precision.
    """

    parent: np.ndarray
    thread: np.ndarray
    reverse: np.ndarray
    size: np.ndarray
    last: np.ndarray
    up: np.ndarray
    flow: np.ndarray
    cost: np.ndarray
    pi: np.ndarray
    cursor: np.ndarray

    @staticmethod
    def empty(nodes: int, listed: int) -> Tree:
        """The arrays for this number of nodes and the root, before `start`, and the number of listed arcs."""
        parent, thread, reverse, size, last = (np.full(nodes + 1, -1, dtype=np.int32) for _ in range(5))
        up, flow = np.ones(nodes + 1, dtype=np.bool_), np.zeros(nodes + 1, dtype=np.int64)
        cost, pi, cursor = np.zeros(nodes + 1), np.zeros(nodes + 1), np.array([0, 0, listed, listed > 0, 0])
        return Tree(parent, thread, reverse, size, last, up, flow, cost, pi, cursor)


@jit
def _incidence(nodes, rows, cols, n):
    """The arcs of each node: for node i, ``at[ends[i]:ends[i + 1]]``."""
    ends = np.zeros(nodes + 1, dtype=np.int64)
    for k in range(rows.size):
        ends[rows[k] + 1] += 1
        ends[n + cols[k] + 1] += 1
    for node in range(nodes):
        ends[node + 1] += ends[node]
    at, room = np.empty(2 * rows.size, dtype=np.int64), ends[:-1].copy()
    for k in range(rows.size):
        for node in (rows[k], n + cols[k]):
            at[room[node]] = k
            room[node] += 1
    return ends, at


@jit
def walk(nodes, rows, cols, n):
    """The nodes of a forest, parents before children; also the parent of each node and the arc to it, −1 for none."""
    ends, at = _incidence(nodes, rows, cols, n)
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
                other = rows[k] + n + cols[k] - node
                if not seen[other]:
                    seen[other] = True
                    parent[other], arc[other], order[count] = node, k, other
                    count += 1
    return order, parent, arc


@jit
def start(supply, n, rows, cols, costs, tree):
    """The basis whose flows meet the supplies along a forest of arcs.

    ``supply (nodes,)`` is positive for the n rows and negative for the columns. The forest is cut at arcs whose flow
    would not be positive. An artificial arc then carries the missing or excess mass of the subtree below. The costs of
    artificial arcs are left to the caller.
    """
    nodes = root = supply.size
    order, parent, arc = walk(nodes, rows, cols, n)
    excess = supply.copy()
    for p in range(nodes - 1, -1, -1):
        node = order[p]
        k = arc[node]
        upward = k >= 0 and node < n
        flow = excess[node] if upward else -excess[node]
        if k >= 0 and flow > 0:
            excess[parent[node]] += excess[node]
            tree.parent[node], tree.up[node], tree.flow[node] = parent[node], upward, flow
            tree.cost[node] = costs[k]
        else:
            tree.parent[node], tree.up[node], tree.flow[node] = root, excess[node] >= 0, abs(excess[node])
    _thread(tree.parent, tree.thread, tree.reverse, tree.size, tree.last)


@jit
def _thread(parent, thread, reverse, size, last):
    """Thread a tree in preorder, from the parents of its nodes."""
    root = parent.size - 1
    child, following = np.full(parent.size, -1), np.full(parent.size, -1)
    stack, order = np.empty(parent.size, dtype=np.int64), np.empty(parent.size, dtype=np.int64)
    for node in range(root - 1, -1, -1):
        following[node] = child[parent[node]]
        child[parent[node]] = node
    stack[0] = root
    waiting, count = 1, 0
    while waiting > 0:
        waiting -= 1
        node = stack[waiting]
        order[count] = node
        count += 1
        below = child[node]
        while below >= 0:
            stack[waiting] = below
            waiting += 1
            below = following[below]
    for p in range(count):
        after = order[p + 1] if p + 1 < count else root
        thread[order[p]], reverse[after], size[order[p]] = after, order[p], 1
    for p in range(count - 1, 0, -1):
        size[parent[order[p]]] += size[order[p]]
    for p in range(count):
        last[order[p]] = order[p + size[order[p]] - 1]


@ordered
def price(parent, thread, up, cost, pi):
    """Compute the prices of all nodes, from the root down; returns the largest absolute value."""
    root = parent.size - 1
    largest = 0.0
    pi[root] = 0.0
    node = thread[root]
    while node != root:
        pi[node] = pi[parent[node]] - cost[node] if up[node] else pi[parent[node]] + cost[node]
        largest = max(largest, abs(pi[node]))
        node = thread[node]
    return largest


@exact
def _of(nodes, node):
    """An entry of an array of nodes, as an index that Numba does not check for negative values."""
    return np.uint64(nodes[node])


@ordered
def _leave(tail, head, parent, size, up, flow):
    """The node whose arc leaves the tree when an arc from tail to head enters; also the flow to move, and the join.

    Of the blocking arcs, the leaving one is the last on the cycle, from the join in the direction of the flow. This
    keeps the tree strongly feasible.
    """
    i, j = tail, head
    while i != j:
        if size[i] < size[j]:
            i = _of(parent, i)
        else:
            j = _of(parent, j)
    join = i
    moved, out, below_tail = np.int64(2**63 - 1), tail, True
    node = tail
    while node != join:
        if up[node] and flow[node] < moved:
            moved, out = flow[node], node
        node = _of(parent, node)
    node = head
    while node != join:
        if not up[node] and flow[node] <= moved:
            moved, out, below_tail = flow[node], node, False
        node = _of(parent, node)
    return out, moved, below_tail, join


@ordered
def _move(tail, head, join, moved, parent, up, flow):
    """Augment the flow along the cycle that an arc from tail to head closes."""
    node = tail
    while node != join:
        flow[node] += -moved if up[node] else moved
        node = _of(parent, node)
    node = head
    while node != join:
        flow[node] += moved if up[node] else -moved
        node = _of(parent, node)


@exact
def _link(before, after, thread, reverse):
    thread[before] = after
    reverse[after] = before


@ordered
def _turn(top, above, out, parent, thread, reverse, size, last, up, flow, cost, loose):
    """Attach the subtree of `out` below `above` by its node `top`, which becomes its top.

    The path from `top` to `out` turns round: parents become children. Returns the number of nodes in `loose`, whose
    thread is set and whose reverse is not.
    """
    before, end = _of(reverse, out), _of(last, out)
    beyond = _of(thread, end) if before == above else _of(thread, above)
    node, below, tail = top, above, _of(last, top)
    after = _of(thread, tail)
    thread[above] = top
    loose[0] = above
    count = 1
    while node != out:
        upper = _of(parent, node)
        thread[tail] = upper
        loose[count] = tail
        count += 1
        _link(_of(reverse, node), after, thread, reverse)
        parent[node] = below
        below, node = node, upper
        tail = _of(reverse, below) if last[node] == last[below] else _of(last, node)
        after = _of(thread, tail)
    parent[out] = below
    _link(tail, beyond, thread, reverse)
    last[out] = tail
    if before != above:
        _link(before, after, thread, reverse)
    for k in range(count):
        reverse[_of(thread, loose[k])] = loose[k]
    node, total = out, 0
    while node != top:
        upper = _of(parent, node)
        up[node], flow[node], cost[node] = not up[upper], flow[upper], cost[upper]
        total += size[node] - size[upper]
        size[node], last[upper] = total, tail
        node = upper


@ordered
def _transfer(top, above, parent, thread, reverse, last):
    """Attach the subtree of `top`, as it is, below another node."""
    before, end = _of(reverse, top), _of(last, top)
    parent[top] = above
    if _of(thread, above) != top:
        _link(before, _of(thread, end), thread, reverse)
        after = _of(thread, above)
        _link(above, top, thread, reverse)
        _link(end, after, thread, reverse)


@ordered
def _update_last(above, left, join, before, old_last, new_last, parent, last):
    """Correct the last successors of the ancestors, after a subtree has moved from `left` to `above`."""
    limit = join if _of(last, join) == above else _NOWHERE
    node = above
    while node != _NOWHERE and _of(last, node) == above:
        last[node] = new_last
        node = _of(parent, node)
    if join != before and above != before:
        wanted = before
    elif new_last != old_last:
        wanted = new_last
    else:
        return
    node = left
    while node != limit and node != _NOWHERE and _of(last, node) == old_last:
        last[node] = wanted
        node = _of(parent, node)


@ordered
def _shift(top, change, moved, thread, reverse, last, pi, rough):
    """Shift the prices of a subtree, or those of all other nodes the other way if they are fewer.

    The nodes are visited from both ends of their part of the thread. Each step waits for the one before, so that two
    chains take half the time of one.
    """
    first, stop = top, _of(last, top)
    if 2 * moved > pi.size:
        first, stop, moved, change = _of(thread, stop), _of(reverse, first), pi.size - moved, -change
    for _ in range(moved // 2):
        pi[first] += change
        pi[stop] += change
        rough[first], rough[stop] = pi[first], pi[stop]
        first, stop = _of(thread, first), _of(reverse, stop)
    if moved % 2:
        pi[first] += change
        rough[first] = pi[first]


@ordered
def pivot(tail, head, entering, parent, thread, reverse, size, last, up, flow, cost, pi, rough, loose):
    """Exchange arcs: the arc of cost `entering` from node `tail` to node `head` for one on the cycle that it closes.

    The prices that change are also written to `rough`, in its precision. `loose` is an array of uint64 to work with.
    """
    tail, head = np.uint64(tail), np.uint64(head)
    out, moved, below_tail, join = _leave(tail, head, parent, size, up, flow)
    if moved > 0:
        _move(tail, head, join, moved, parent, up, flow)
    top, above = (tail, head) if below_tail else (head, tail)
    left, before = _of(parent, out), _of(reverse, out)
    count, old_last = np.int64(size[out]), _of(last, out)
    if top == out:
        _transfer(top, above, parent, thread, reverse, last)
    else:
        _turn(top, above, out, parent, thread, reverse, size, last, up, flow, cost, loose)
        size[top] = count
    up[top], flow[top], cost[top] = below_tail, moved, entering
    _update_last(above, left, join, before, old_last, _of(last, out), parent, last)
    node = above
    while node != join:
        size[node] += count
        node = _of(parent, node)
    node = left
    while node != join:
        size[node] -= count
        node = _of(parent, node)
    change = pi[above] - pi[top] + (-entering if below_tail else entering)
    _shift(top, change, count, thread, reverse, last, pi, rough)
