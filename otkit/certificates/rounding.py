"""Rounding of the plan of any potentials to a plan with the right marginals.

Rows and columns are scaled down to their weights (Altschuler, Weed & Rigollet 2017). The missing mass is sent along the
arcs of the plan's maximum spanning tree, where reduced costs are small. A product measure would pay an average cost.
Mass that the tree cannot carry goes to the product. If the flow on the tree alone is feasible, and so a vertex, and
costs no more, it is used instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import arrays
from otkit.arrays import Array, from_numpy, namespace, take, to_numpy
from otkit.entropic.dual import Potentials
from otkit.geometry.base import costs_along
from otkit.geometry.costs import UNIT
from otkit.geometry.reduced import Reduced
from otkit.kernels.numba import starts
from otkit.kernels.numba.simplex import walk
from otkit.kernels.numba.tiles import Tiles
from otkit.kernels.searches import searches
from otkit.kernels.spanning import spanning_arcs, spanning_arcs_of_plan
from otkit.linalg.trees import SpanningTree, components, heaviest_forest, maximum_spanning_tree, sure_arcs
from otkit.plans import Arcs, EntropicPlan, Plan, SparsePlan
from otkit.problems.linear import LinearProblem

# At this regularisation, relative to the costs, every allowed entry of the plan is the product of its weights.
_PRODUCT = 2.0**300
# Up to so many entries are formed at once. Of more, a pass finds so many of each node.
_WHOLE, _RANKS = 2**12, 8
# A pass over fewer than this share of the rows gathers these.
_GATHERED = 0.25


@dataclass(frozen=True)
class Rounded:
    """A feasible plan of the reduced problem at mass 1.

    Attributes
    ----------
    plan : tuple of Plan
        Parts whose sum is the plan.
    linear : numpy array (B,)
        The cost of the plan; inf where forbidden arcs prevented a feasible plan.
    defect : numpy array (B,)
        A bound on the L1 distance of its marginals from the weights, due to rounding errors.
    tree_f : array (B, n)
        Potentials of the rows that, with the matching ones of the columns, equal the costs on the spanning tree.
    drawn : numpy array (B,)
        The mass that the tree subtracts from arcs.
    """

    plan: tuple[Plan, ...]
    linear: np.ndarray
    defect: np.ndarray
    tree_f: Array
    drawn: np.ndarray


def round_plan(problem: LinearProblem, at: Potentials) -> Rounded:
    """A feasible plan close to the entropic plan of the potentials."""
    costs, shape = problem.reduced, (problem.items, problem.reduced.n, problem.reduced.m)
    at = _scaled_down(problem, at)
    linear, rows, cols = (to_numpy(v) for v in problem.kernels.transport_cost(costs, at))
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    short_a, short_b = np.maximum(a - rows, 0.0), np.maximum(b - cols, 0.0)
    trees = spanning_trees(problem, at)
    # On the host, the last digits of the plan, and of costs from matrix products, may differ from the kernel's.
    relative, absolute = problem.geometry.rounding
    top = np.maximum(abs(problem.low), abs(problem.high))
    guard = np.exp(-1e-9 - np.minimum(2 * (relative * top + absolute) / to_numpy(at.reg), 700.0))
    flows = [_carry(tree, a[k], b[k], short_a[k], short_b[k], guard[k]) for k, tree in enumerate(trees)]

    rest = np.array([1 - flow.carried for flow in flows])
    spread = _product(at, short_a, short_b, rest, problem.span)
    linear = linear + [flow.cost for flow in flows]
    if rest.any():
        product = to_numpy(problem.kernels.transport_cost(costs, spread).cost)
        linear = linear + np.where(problem.forbidden & (rest > 0), np.inf, product)
    # Sums of the marginals, and so the defects, round by a few units of every weight. Marginals that still exceed the
    # weights after scaling, because exponents round, are a defect too.
    over = np.maximum(rows - a, 0.0).sum(-1) + np.maximum(cols - b, 0.0).sum(-1)
    uneven = abs(short_a.sum(-1) - short_b.sum(-1))
    lost = np.array([flow.lost for flow in flows])
    defect = 4 * (sum(shape[1:]) + 128) * UNIT + 2 * (over + uneven) + lost

    vertex_cost = np.array([flow.vertex_cost for flow in flows])
    is_vertex = (vertex_cost <= linear) & np.isfinite(vertex_cost)
    linear = np.where(is_vertex, vertex_cost, linear)
    defect = np.where(is_vertex, [flow.vertex_defect for flow in flows], defect)
    masses = [flow.vertex if vertex else flow.moved for flow, vertex in zip(flows, is_vertex, strict=True)]
    plan: tuple[Plan, ...] = (SparsePlan(shape, _arcs(flows, masses), problem.a),)
    hidden = from_numpy(np.where(is_vertex, -np.inf, 0.0)[:, None], at.f)
    for part, some in ((at, ~is_vertex), (spread, ~is_vertex & (rest > 0))):
        if some.any():
            plan += (EntropicPlan(costs, replace(part, log_a=part.log_a + hidden), problem.kernels),)
    tree_f = from_numpy(np.stack([flow.f for flow in flows]), at.f)
    drawn = np.where(is_vertex, 0.0, [-flow.moved[flow.moved < 0].sum() for flow in flows])
    return Rounded(plan, linear, defect, tree_f, drawn)


def _scaled_down(problem: LinearProblem, at: Potentials) -> Potentials:
    """The plan with rows, then columns, scaled down to their weights where they exceed these."""
    xp, marginals = namespace(at.f), problem.kernels.marginals
    rows, _ = marginals(problem.reduced, at)
    at = replace(at, f=at.f + at.reg[:, None] * xp.minimum(_log_ratio(at.log_a, rows), xp.zeros_like(rows)))
    _, cols = marginals(problem.reduced, at)
    return replace(at, g=at.g + at.reg[:, None] * xp.minimum(_log_ratio(at.log_b, cols), xp.zeros_like(cols)))


def _log_ratio(log_w: Array, total: Array) -> Array:
    xp = namespace(log_w)
    some = (total > 0) & (log_w > -xp.inf)
    return xp.where(some, xp.where(some, log_w, xp.zeros_like(log_w)) - arrays.log(total), xp.zeros_like(log_w))


def _product(like: Potentials, a: np.ndarray, b: np.ndarray, share: np.ndarray, span: np.ndarray) -> Potentials:
    """The plan share·(a⊗b)/max(Σa, Σb), which exceeds neither marginal, as an entropic plan."""
    xp = namespace(like.f)
    total = np.maximum(np.maximum(a.sum(-1), b.sum(-1)), np.finfo(float).tiny)
    log_a, log_b = (arrays.log(from_numpy(w, like.f)) for w in (a * share[:, None], b / total[:, None]))
    with np.errstate(over="ignore"):  # no cost counts where it is infinite
        reg = from_numpy(_PRODUCT * (1 + span), like.f)
    return Potentials(xp.zeros_like(like.f), xp.zeros_like(like.g), log_a, log_b, reg)


def spanning_trees(problem: LinearProblem, at: Potentials) -> list[SpanningTree]:
    """The spanning tree of the largest entries of the plan of each item."""
    costs, host = problem.reduced, Potentials(*(to_numpy(v) for v in (at.f, at.g, at.log_a, at.log_b, at.reg)))
    if searches(costs):
        return [_searched(costs.to_numpy(), host, k) for k in range(problem.items)]
    if isinstance(problem.a, np.ndarray):
        return [_scanned(costs.to_numpy(), host, k) for k in range(problem.items)]
    arcs = spanning_arcs_of_plan(problem.kernels, costs, at)
    return [_rooted(costs, host, k, *found) for k, found in enumerate(arcs)]


def _scanned(costs: Reduced, at: Potentials, item: int) -> SpanningTree:
    """The tree from all entries."""
    if costs.stored is not None:
        return _rooted(costs, at, item, *_listed(costs, at, item))
    if costs.n * costs.m > _WHOLE:
        return _rooted(costs, at, item, *_arcs_of_tree(costs.take(np.array([item])), take(at, np.array([item]))))
    one, rows = slice(item, item + 1), slice(0, costs.n)
    C = costs.block(one, rows)
    entries, C = at.log_plan(C, one, rows)[0], C[0]
    return maximum_spanning_tree(costs.n, costs.m, lambda i: (entries[i], C[i]), lambda j: (entries[:, j], C[:, j]))


def _listed(costs: Reduced, at: Potentials, item: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the arcs of the tree, where all arcs are listed."""
    assert costs.stored is not None
    rows, cols = costs.stored.row, costs.stored.col
    weights, _ = _log_entries(costs, at, item, rows, cols)
    some = np.flatnonzero(weights > -np.inf)
    kept = some[heaviest_forest(costs.n, costs.m, rows[some], cols[some], weights[some])]
    return rows[kept], cols[kept]


def _arcs_of_tree(costs: Reduced, at: Potentials) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the arcs of the tree of one item, in a few passes over all entries.

    Each pass finds the largest entries of every node among those that leave its component. The largest component may
    wait for the others. Each of these joins another one, as in Borůvka's method.
    """
    n, size = costs.n, costs.n + costs.m
    masses = np.concatenate([at.log_a[0], at.log_b[0]])
    absorbed = np.concatenate([at.f[0], at.g[0]]) + at.reg[0] * masses
    alone, labels, found = masses == -np.inf, np.arange(size), np.empty((2, 0), dtype=np.int64)
    while np.unique(labels[~alone]).size > 1:
        searching = ~alone & (labels != np.bincount(labels[~alone]).argmax())
        of_rows = _largest(costs, absorbed[n:], labels[:n], labels[n:], searching[:n])
        of_cols = _largest(costs.T, absorbed[:n], labels[n:], labels[:n], searching[n:])
        ends = np.concatenate([np.where(of_rows < 0, -1, of_rows + n), of_cols])
        some = ends >= 0
        tails, heads = np.nonzero(some)[0], ends[some]
        rows, cols = np.minimum(tails, heads), np.maximum(tails, heads) - n
        weights = np.full(ends.shape, -np.inf)  # fewer entries than asked for are all that there are
        weights[some] = _log_entries(costs, at, 0, rows, cols)[0]
        limits = np.where(searching, weights.min(1), np.where(alone, -np.inf, np.inf))
        new = sure_arcs(labels, tails, heads, weights[some], limits)
        if not new.size:
            break
        found = np.concatenate([found, np.stack([rows[new], cols[new]])], axis=1)
        labels = np.concatenate(components(n, costs.m, *found))
    order = np.lexsort(found[::-1])
    return found[0][order], found[1][order]


def _largest(costs: Reduced, g: np.ndarray, own: np.ndarray, other: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Columns of the largest ``g_j − C_ij`` of some rows among those of another label: ``(n, k)``, −1 for none."""
    found = np.full((costs.n, min(_RANKS, costs.m)), -1)
    own = np.where(np.isin(own, other), own, -1)  # others leave no column out
    rows = np.flatnonzero(some)
    if not rows.size:
        return found
    part = costs
    if rows.size < _GATHERED * costs.n:
        rows = rows[np.argsort(own[rows], kind="stable")]
        part = costs.among(0, rows)
    else:
        rows = np.arange(costs.n)
    best, tiles = np.full((rows.size, found.shape[1]), -1), Tiles(part)
    row, col, columns_first = tiles.reduction(1)

    def work(C: np.ndarray, low: int, high: int, first: int, group: int) -> None:
        reduced, lines = np.empty(C.shape[1:]), rows[first : first + C.shape[1]]
        starts.reduce_costs(C[0], row[0, first : first + lines.size], col[0], columns_first, reduced)
        ends = np.flatnonzero(np.append(True, (np.diff(own[lines]) != 0) | (np.diff(some[lines]) != 0)))
        for start, stop in zip(ends, np.append(ends[1:], lines.size), strict=True):
            if some[lines[start]]:
                left = np.where(other == own[lines[start]], -np.inf, g)
                starts.best_columns(reduced, left, start, stop, best[first : first + lines.size])

    tiles.each(1, work)
    found[rows] = best
    return found


def _searched(costs: Reduced, at: Potentials, item: int) -> SpanningTree:
    """The same where trees search the costs, without a scan of all entries."""
    reg = at.reg[item]
    f, g = at.f[item] + reg * at.log_a[item], at.g[item] + reg * at.log_b[item]
    return _rooted(costs, at, item, *spanning_arcs(costs, item, f, g))


def _rooted(costs: Reduced, at: Potentials, item: int, rows: np.ndarray, cols: np.ndarray) -> SpanningTree:
    """The tree of these arcs, with log P and the costs along them."""
    weight, cost = _log_entries(costs, at, item, rows, cols)
    order, parent, arc = walk(costs.n + costs.m, rows, cols, costs.n)
    return SpanningTree(costs.n, order, parent, weight[arc], cost[arc])


def _log_entries(
    costs: Reduced, at: Potentials, item: int, rows: np.ndarray, cols: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log P and the costs of single arcs of an item."""
    cost = costs_along(costs, item, rows, cols)
    exponent = (at.f[item, rows] + at.g[item, cols] - cost) / at.reg[item]
    return exponent + (at.log_a[item, rows] + at.log_b[item, cols]), cost


@dataclass(frozen=True)
class _Flows:
    """The two flows on the spanning tree of an item, on its arcs ``row, col``.

    The flow ``moved`` repairs a fraction ``carried`` of the missing mass at the cost ``cost``. The flow ``vertex``
    meets the weights at the cost ``vertex_cost``, inf where a mass would be negative. ``lost`` and ``vertex_defect``
    bound their rounding errors. ``f`` has the potentials of the rows.
    """

    row: np.ndarray
    col: np.ndarray
    carried: float
    moved: np.ndarray
    lost: float
    cost: float
    vertex: np.ndarray
    vertex_cost: float
    vertex_defect: float
    f: np.ndarray


def _carry(
    tree: SpanningTree, a: np.ndarray, b: np.ndarray, short_a: np.ndarray, short_b: np.ndarray, guard: float
) -> _Flows:
    nodes = tree.nodes
    row, col = tree.arcs(nodes)
    cost = tree.cost[nodes]

    # An excess above rounding at a root means a component whose two sides differ in mass: no feasible plan exists.
    rounding = 16 * (a.size + b.size) * UNIT
    flow, excess, lost = tree.flows(np.concatenate([short_a, short_b]))
    flow = flow[nodes]
    # No arc may become negative: the tightest one limits the fraction that is carried.
    taken = flow < 0
    with np.errstate(over="ignore"):
        room = (arrays.exp(tree.weight[nodes][taken]) / -flow[taken]).min(initial=np.inf) * guard
    carried = min(1.0, float(room)) if excess <= rounding else 0.0
    moved = flow * carried

    vertex, excess, defect = tree.flows(np.concatenate([a, b]))
    vertex = vertex[nodes]
    feasible = excess <= rounding and bool((vertex >= -rounding).all())
    # Arcs of a degenerate vertex carry no mass, but rounding may make it slightly negative.
    defect -= 2 * float(vertex[vertex < 0].sum())
    vertex = np.maximum(vertex, 0.0)
    return _Flows(
        row=row,
        col=col,
        carried=carried,
        moved=moved,
        lost=lost if carried > 0 else 0.0,
        cost=float((moved * cost).sum()),
        vertex=vertex,
        vertex_cost=float((vertex * cost).sum()) if feasible else np.inf,
        vertex_defect=defect,
        f=tree.potentials()[: a.size],
    )


def _arcs(flows: list[_Flows], masses: list[np.ndarray]) -> Arcs:
    """The masses on the arcs of the trees of all items, without zeros."""
    item = np.repeat(np.arange(len(flows)), [mass.size for mass in masses])
    row, col = (np.concatenate([getattr(flow, side) for flow in flows]) for side in ("row", "col"))
    mass = np.concatenate(masses)
    some = mass != 0
    return Arcs(item[some], row[some], col[some], mass[some])
