"""Two-sided bounds on the unregularised optimum, widened by what rounding can do.

Lower: potentials made feasible by c-transforms. Upper: the cost of a plan made feasible by rounding. Both hold for any
potentials, also after one iteration; they meet as the potentials come close to optimal ones.

The rounding scales rows and columns down to their weights (Altschuler, Weed & Rigollet 2017) and carries the defect
along the arcs of the plan's maximum spanning tree, where the reduced cost is small, in place of a product measure,
which pays an average cost for it. What the tree cannot carry goes to the product. Where the flow on the tree alone is
a plan, a vertex, and costs less, it is taken instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otkit import arrays
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.kernels import Geometry, Potentials, c_transform, marginals, transport_cost
from otkit.linalg import SpanningTree, maximum_spanning_tree
from otkit.plans import Arcs, EntropicPlan, Plan, SparsePlan
from otkit.problems import LinearProblem

UNIT = 2.0**-53
# Rounding of a pairwise sum and of the products in it, in units of the terms' absolute sum.
_SUM = 64 * UNIT
# At this regularisation, in units of the costs, every allowed entry of the plan is the product of its weights.
_PRODUCT = 2.0**300


@dataclass(frozen=True)
class Certificate:
    """Bounds on the optimum of each item at mass 1, and what proves them.

    Attributes
    ----------
    lower, upper : numpy array (B,)
        They contain the optimum. ``upper`` is inf where no plan that avoids forbidden arcs was found.
    f, g : array (B, n), (B, m)
        Feasible potentials of the reduced problem that give `lower`.
    plan : tuple of Plan
        Parts that add up to the feasible plan that gives `upper`.
    linear : numpy array (B,)
        The cost of that plan as computed, before `upper` was widened.
    rounding : numpy array (B,)
        How much of ``upper − lower`` is there to cover rounding.
    """

    lower: np.ndarray
    upper: np.ndarray
    f: Array
    g: Array
    plan: tuple[Plan, ...]
    linear: np.ndarray
    rounding: np.ndarray


def certify(problem: LinearProblem, f: Array, g: Array, reg: Array) -> Certificate:
    """Bounds on the unregularised optimum from potentials ``f``, ``g`` of the problem regularised by ``reg (B,)``."""
    rounded = _Rounded.of(problem, problem.at(f, g, reg))
    # With the weights absorbed, f_i + g_j ≤ C_ij wherever P_ij ≤ 1: nearly feasible to begin with.
    log_a, log_b = problem.log_a, problem.log_b
    dual = _better(
        problem,
        feasible(problem, g=g + reg[:, None] * log_b),
        feasible(problem, f=f + reg[:, None] * log_a),
    )
    dual = _better(problem, dual, feasible(problem, f=rounded.tree_f))
    return widened(problem, _value(problem, *dual), rounded.linear, rounded.defect, *dual, rounded.parts)


def widened(
    problem: LinearProblem,
    lower: np.ndarray,
    linear: np.ndarray,
    defect: np.ndarray,
    f: Array,
    g: Array,
    plan: tuple[Plan, ...],
) -> Certificate:
    """The certificate of a lower bound and of a plan of cost `linear`, both in reduced costs as computed.

    ``defect (B,)`` bounds the L1 distance of the plan's marginals from the weights in exact arithmetic.
    """
    costs = problem.reduced
    a, b, row, col = (to_numpy(v) for v in (problem.a, problem.b, costs.row, costs.col))
    offset = (a * row).sum(-1) + (b * col).sum(-1)
    offset_error = _SUM * ((a * abs(row)).sum(-1) + (b * abs(col)).sum(-1))
    # Two subtractions reduce a cost, each with an error of a unit of its result; none where the offsets are 0.
    plain = (row == 0).all(-1) & (col == 0).all(-1)
    evaluation = np.where(plain, 0.0, 2 * UNIT * (2 * problem.span + abs(col).max(-1)))
    # A defect is repaired along arcs of at most the span each; among forbidden ones perhaps along many of them.
    steps = np.where(problem.forbidden, costs.n + costs.m, 1)
    size = (a * abs(to_numpy(f))).sum(-1) + (b * abs(to_numpy(g))).sum(-1)
    paid = np.where(linear < np.inf, linear, 0.0)
    below = _SUM * size + evaluation + offset_error
    above = (costs.n + costs.m + 64) * UNIT * paid + defect * steps * problem.span + evaluation + offset_error
    lower, upper = lower + offset, linear + offset

    relative, absolute = problem.geometry.rounding
    below, above = below + relative * abs(lower) + absolute, above + relative * abs(paid + offset) + absolute
    lower, upper = lower - below, upper + above
    non_negative = problem.asked.non_negative | (problem.low >= 0)
    lower = np.where(non_negative, np.maximum(lower, 0.0), lower)
    return Certificate(lower, upper, f, g, plan, linear + offset, below + above)


def _value(problem: LinearProblem, f: Array, g: Array) -> np.ndarray:
    a, b = to_numpy(problem.a), to_numpy(problem.b)
    return (a * to_numpy(f)).sum(-1) + (b * to_numpy(g)).sum(-1)


def feasible(problem: LinearProblem, *, f: Array | None = None, g: Array | None = None) -> tuple[Array, Array]:
    """Potentials with f_i + g_j ≤ C_ij on all arcs between mass, by two c-transforms from one side's."""
    xp = namespace(problem.a)

    def only(v: Array, weight: Array) -> Array:
        return xp.where(weight > 0, v, xp.full_like(v, -xp.inf))

    def finite(v: Array) -> Array:
        return xp.where(xp.isfinite(v), v, xp.zeros_like(v))

    costs = problem.reduced
    if g is None:
        g = c_transform(costs.T, only(f, problem.a))
        f = c_transform(costs, only(g, problem.b))
    else:
        f = c_transform(costs, only(g, problem.b))
        g = c_transform(costs.T, only(f, problem.a))
    return finite(f), finite(g)


def dual_value(problem: LinearProblem, f: Array) -> np.ndarray:
    """A lower bound on the optimum in the caller's costs at mass 1, up to rounding: ``(B,)``."""
    costs = problem.reduced
    return _value(problem, *feasible(problem, f=f)) + _value(problem, costs.row, costs.col)


def _better(problem: LinearProblem, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Item by item the pair of potentials with the larger dual value."""
    xp = namespace(problem.a)
    first = from_numpy(_value(problem, *one) >= _value(problem, *other), problem.a)[:, None]
    return xp.where(first, one[0], other[0]), xp.where(first, one[1], other[1])


@dataclass(frozen=True)
class _Rounded:
    """A feasible plan of the reduced problem, with its cost and a bound on the defect that rounding leaves in it."""

    parts: tuple[Plan, ...]
    linear: np.ndarray
    defect: np.ndarray
    tree_f: Array

    @staticmethod
    def of(problem: LinearProblem, at: Potentials) -> _Rounded:
        costs, shape = problem.reduced, (problem.items, problem.reduced.n, problem.reduced.m)
        at = _scaled_down(costs, at)
        linear, rows, cols = (to_numpy(v) for v in transport_cost(costs, at))
        a, b = to_numpy(problem.a), to_numpy(problem.b)
        short_a, short_b = np.maximum(a - rows, 0.0), np.maximum(b - cols, 0.0)
        host = _Host.of(problem, at)
        items = [_carry(host, k, a[k], b[k], short_a[k], short_b[k]) for k in range(problem.items)]

        # The share that no tree carries is spread as a product, unless that would use a forbidden arc.
        rest = np.array([1 - item.carried for item in items])
        mass = np.maximum(short_a.sum(-1), np.finfo(float).tiny)
        spread = Potentials(
            namespace(at.f).zeros_like(at.f),
            namespace(at.g).zeros_like(at.g),
            arrays.log(from_numpy(short_a * rest[:, None], at.f)),
            arrays.log(from_numpy(short_b / mass[:, None], at.f)),
            from_numpy(_PRODUCT * (1 + problem.span), at.f),
        )
        spreads = rest > 0
        linear = linear + [item.cost for item in items]
        if spreads.any():
            product = to_numpy(transport_cost(costs, spread).cost)
            linear = linear + np.where(problem.forbidden & spreads, np.inf, product)
        # Sums of the marginals round by a few units of every weight, and the defects with them.
        defect = np.full(problem.items, 4 * (sum(shape[1:]) + 64) * UNIT)

        vertex = np.array([item.vertex_cost <= value for item, value in zip(items, linear, strict=True)])
        linear = np.where(vertex, [item.vertex_cost for item in items], linear)
        defect = np.where(vertex, [item.vertex_defect for item in items], defect)
        hidden = from_numpy(np.where(vertex, -np.inf, 0.0)[:, None], at.f)
        correction = _join([i.vertex if v else i.correction for i, v in zip(items, vertex, strict=True)])
        parts: tuple[Plan, ...] = (SparsePlan(shape, correction, problem.a),)
        if not vertex.all():
            parts += (EntropicPlan(costs, replace(at, log_a=at.log_a + hidden)),)
        if (spreads & ~vertex).any():
            parts += (EntropicPlan(costs, replace(spread, log_a=spread.log_a + hidden)),)
        tree_f = from_numpy(np.stack([item.tree_f for item in items]), at.f)
        return _Rounded(parts, linear, defect, tree_f)


def _scaled_down(costs: Geometry, at: Potentials) -> Potentials:
    """The plan with rows, then columns, scaled down to their weights where they exceed them."""
    xp = namespace(at.f)
    rows, _ = marginals(costs, at)
    at = replace(at, f=at.f + at.reg[:, None] * xp.minimum(_log_ratio(at.log_a, rows), xp.zeros_like(rows)))
    _, cols = marginals(costs, at)
    return replace(at, g=at.g + at.reg[:, None] * xp.minimum(_log_ratio(at.log_b, cols), xp.zeros_like(cols)))


def _log_ratio(log_w: Array, total: Array) -> Array:
    xp = namespace(log_w)
    some = (total > 0) & (log_w > -xp.inf)
    return xp.where(some, xp.where(some, log_w, xp.zeros_like(log_w)) - arrays.log(total), xp.zeros_like(log_w))


@dataclass(frozen=True)
class _Host:
    """The plan and its costs on the host, one row or column of one item at a time."""

    costs: Geometry
    at: Potentials

    @staticmethod
    def of(problem: LinearProblem, at: Potentials) -> _Host:
        vectors = (to_numpy(v) for v in (at.f, at.g, at.log_a, at.log_b, at.reg))
        return _Host(problem.reduced.to_numpy(), Potentials(*vectors))

    def tree(self, item: int) -> SpanningTree:
        """The spanning tree of the largest entries of the plan."""

        def scan(costs: Geometry, at: Potentials, k: int) -> tuple[np.ndarray, np.ndarray]:
            one, line = slice(item, item + 1), slice(k, k + 1)
            C = costs.block(one, line)
            return at.log_plan(C, one, line)[0, 0], C[0, 0]

        across, turned = self.costs.T, self.at.T
        return maximum_spanning_tree(
            self.costs.n,
            self.costs.m,
            lambda i: scan(self.costs, self.at, i),
            lambda j: scan(across, turned, j),
        )


@dataclass(frozen=True)
class _Carried:
    """What the tree of an item does: the share of the defect it carries, at what cost, and the vertex it spans."""

    carried: float
    cost: float
    correction: tuple[np.ndarray, np.ndarray, np.ndarray]
    vertex_cost: float
    vertex_defect: float
    vertex: tuple[np.ndarray, np.ndarray, np.ndarray]
    tree_f: np.ndarray


def _carry(host: _Host, item: int, a: np.ndarray, b: np.ndarray, short_a: np.ndarray, short_b: np.ndarray) -> _Carried:
    tree = host.tree(item)
    nodes = tree.nodes
    rows, cols = tree.arcs(nodes)
    cost = tree.cost[nodes]

    # More than rounding left over at a root means a component whose two sides differ in mass: no plan at all.
    rounding = 16 * (a.size + b.size) * UNIT
    flow, excess, _ = tree.flows(np.concatenate([short_a, short_b]))
    flow = flow[nodes]
    there = arrays.exp(tree.weight[nodes])
    taken = flow < 0
    room = float((there[taken] / -flow[taken]).min(initial=np.inf)) * (1 - 1e-9)
    carried = min(1.0, room) if excess <= rounding else 0.0
    moved = flow * carried

    vertex, excess, defect = tree.flows(np.concatenate([a, b]))
    vertex = vertex[nodes]
    feasible = excess <= rounding and bool((vertex >= -rounding).all())
    # Arcs of a degenerate vertex carry nothing, up to the sign that rounding gives them.
    defect -= 2 * float(vertex[vertex < 0].sum())
    vertex = np.maximum(vertex, 0.0)
    return _Carried(
        carried,
        float((moved * cost).sum()),
        (rows, cols, moved),
        float((vertex * cost).sum()) if feasible else np.inf,
        defect,
        (rows, cols, vertex),
        tree.potentials()[: a.size],
    )


def _join(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Arcs:
    """The arcs (row, column, mass) of all items, without those of no mass."""
    item = np.repeat(np.arange(len(found)), [rows.size for rows, _, _ in found])
    rows, cols, mass = (np.concatenate(part) for part in zip(*found, strict=True))
    some = mass != 0
    return Arcs(item[some], rows[some], cols[some], mass[some])
