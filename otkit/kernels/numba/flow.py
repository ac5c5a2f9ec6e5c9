"""Flows along the edges of a grid, compiled: the network simplex, and the plans that flows are.

Mass moves from cell to neighbour, without limits. Every spanning tree of the edges is then a feasible basis: its flows
follow from the supplies, and their signs say which way the arcs point. The tree and its pivots are those of
`otkit.kernels.numba.simplex`. All of it hangs from the root by one artificial arc without flow.
"""

from __future__ import annotations

import numpy as np

from otkit.kernels.numba.jit import jit, ordered
from otkit.kernels.numba.simplex import _thread, pivot, price

# The least number of edges that are compared for one pivot.
_BLOCK = 64


@jit
def representative(above, node):
    """The representative of a set of nodes, to which paths are shortened."""
    while above[node] != node:
        above[node] = above[above[node]]
        node = above[node]
    return node


@jit
def _spanning(order, one, other, nodes):
    """The first edges in this order that close no cycle, a spanning tree."""
    above, tree, count = np.arange(nodes), np.empty(nodes - 1, dtype=np.int64), 0
    for e in order:
        u, v = representative(above, one[e]), representative(above, other[e])
        if u != v:
            above[u] = v
            tree[count] = e
            count += 1
            if count == nodes - 1:
                break
    return tree[:count]


@jit
def plant(order, one, other, costs, supply, parent, thread, reverse, size, last, up, flow, cost, pi):
    """The basis of a spanning tree of the edges that come first in `order`; supplies sum to 0."""
    nodes = supply.size
    tree = _spanning(order, one, other, nodes)
    ends = np.zeros(nodes + 1, dtype=np.int64)
    for e in tree:
        ends[one[e] + 1] += 1
        ends[other[e] + 1] += 1
    for v in range(nodes):
        ends[v + 1] += ends[v]
    at, room = np.empty(2 * tree.size, dtype=np.int64), ends[:-1].copy()
    for e in tree:
        for v in (one[e], other[e]):
            at[room[v]] = e
            room[v] += 1
    queue, count = np.empty(nodes, dtype=np.int64), 1
    queue[0], parent[0], cost[0], parent[nodes] = 0, nodes, 0.0, -1
    for k in range(nodes):
        v = queue[k]
        for p in range(ends[v], ends[v + 1]):
            e = at[p]
            w = one[e] + other[e] - v
            if w != parent[v]:
                parent[w], cost[w], queue[count] = v, costs[e], w
                count += 1
    excess = supply.copy()
    for k in range(nodes - 1, -1, -1):
        v = queue[k]
        up[v], flow[v] = excess[v] >= 0, abs(excess[v])
        if k > 0:
            excess[parent[v]] += excess[v]
    _thread(parent, thread, reverse, size, last)
    price(parent, thread, up, cost, pi)


@ordered
def _entering(one, other, costs, pi, at, block, tolerance):
    """The edge of the next block whose ends differ most in price beyond its cost, −1 for none; and where to go on."""
    edges = one.size
    best, found, seen = tolerance, -1, 0
    while seen < edges:
        stop = min(at + block, edges, at + edges - seen)
        for e in range(at, stop):
            gain = abs(pi[other[e]] - pi[one[e]]) - costs[e]
            if gain > best:
                best, found = gain, e
        seen += stop - at
        at = stop if stop < edges else 0
        if found >= 0:
            break
    return found, at


@ordered
def solve(one, other, costs, parent, thread, reverse, size, last, up, flow, cost, pi, cursor, rounding, most):
    """Pivot at most `most` times, until no edge is worth entering; returns the number, and whether this is so.

    ``cursor (1,)`` is the edge to go on from. Gains below `rounding`, relative to the largest price, are its errors.
    """
    block = max(_BLOCK, int(np.sqrt(one.size)))
    loose, rough = np.empty(pi.size, dtype=np.uint64), np.empty(pi.size, dtype=np.float32)
    tolerance, fresh, pivots, at = rounding * price(parent, thread, up, cost, pi), True, 0, cursor[0]
    optimal = False
    while pivots < most:
        e, at = _entering(one, other, costs, pi, at, block, tolerance)
        if e < 0 and fresh:
            optimal = True
            break
        if e < 0:
            tolerance, fresh = rounding * price(parent, thread, up, cost, pi), True
            continue
        tail, head = one[e], other[e]
        if pi[tail] > pi[head]:
            tail, head = head, tail
        pivots += 1
        if parent[tail] == head or parent[head] == tail:  # an arc of the tree: its price has drifted
            tolerance, fresh = rounding * price(parent, thread, up, cost, pi), True
            continue
        fresh = False
        pivot(tail, head, costs[e], parent, thread, reverse, size, last, up, flow, cost, pi, rough, loose)
    cursor[0] = at
    return pivots, optimal


@jit
def _outgoing(parent, up, flow):
    """The children to which each node sends mass, ``to[ends[v]:ends[v + 1]]``, and the number of arcs into each."""
    nodes = parent.size - 1
    ends, waiting = np.zeros(nodes + 1, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
    for v in range(nodes):
        if flow[v] > 0:
            source = v if up[v] else parent[v]
            ends[source + 1] += 1
            waiting[parent[v] if up[v] else v] += 1
    for v in range(nodes):
        ends[v + 1] += ends[v]
    arcs, room = np.empty(ends[nodes], dtype=np.int64), ends[:-1].copy()
    for v in range(nodes):
        if flow[v] > 0:
            source = v if up[v] else parent[v]
            arcs[room[source]] = v  # the arc of node v and its parent
            room[source] += 1
    return ends, arcs, waiting


@jit
def _settle(v, wanted, origin, size, after, head, rows, cols, mass, count):
    """Let parcels at a cell stay there, as much as it wants; returns the number of arcs."""
    while wanted > 0:
        p = head[v]
        moved = min(wanted, size[p])
        rows[count], cols[count], mass[count] = origin[p], v, moved
        count += 1
        wanted -= moved
        size[p] -= moved
        if size[p] == 0:
            head[v] = after[p]
    return count


@jit
def _send(v, target, left, origin, size, after, head, used):
    """Send parcels from a cell to its neighbour, of which the last may be cut; returns the number of parcels."""
    while left > 0:
        p = head[v]
        if size[p] <= left:
            head[v] = after[p]
        else:
            size[p] -= left
            origin[used], size[used] = origin[p], left
            p = used
            used += 1
        left -= size[p]
        after[p] = head[target]
        head[target] = p
    return used


@jit
def plan(out, into, parent, up, flow, rows, cols, mass):
    """The arcs of a plan whose mass takes the paths of a flow, for the masses `out` of and `into` the cells, in grains.

    Parcels of mass wait at the cells in lists, and go on when all that flows into a cell has come. Returns the number
    of arcs.
    """
    nodes = out.size
    ends, arcs, waiting = _outgoing(parent, up, flow)
    origin, size, after = np.empty(3 * nodes, np.int64), np.empty(3 * nodes, np.int64), np.empty(3 * nodes, np.int64)
    head, used, count = np.full(nodes, -1), 0, 0
    queue, first, stop = np.empty(nodes, dtype=np.int64), 0, 0
    for v in range(nodes):
        if out[v] > 0:
            origin[used], size[used], after[used] = v, out[v], -1
            head[v] = used
            used += 1
        if waiting[v] == 0:
            queue[stop] = v
            stop += 1
    while first < stop:
        v = queue[first]
        first += 1
        count = _settle(v, into[v], origin, size, after, head, rows, cols, mass, count)
        for k in range(ends[v], ends[v + 1]):
            arc = arcs[k]
            target = parent[arc] if up[arc] else arc
            used = _send(v, target, flow[arc], origin, size, after, head, used)
            waiting[target] -= 1
            if waiting[target] == 0:
                queue[stop] = target
                stop += 1
    return count
