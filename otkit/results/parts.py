"""Results of problems between clouds, as parts of the result of a batch of them, which may be padded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array, later, made, renewed
from otkit.certificates.base import Certificate
from otkit.entropic.dual import Penalties, Potentials
from otkit.entropic.operations import Moved
from otkit.geometry.base import Geometry
from otkit.geometry.points import PointCloud
from otkit.plans import Arcs, EntropicPlan, Plan, SparsePlan
from otkit.problems.given import Given
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage
from otkit.results.result import Result


@dataclass(frozen=True, eq=False)
class Origin:
    """The place of a pair of clouds in the result of a batch, in which clouds are padded by points without weight.

    The clouds of a pair may have batch axes of their own: then it has many items of the batch.

    Attributes
    ----------
    batch : Result
    item : int
        The index of the pair along the first axis of the batch.
    shape : tuple of int
        The batch axes of the pair.
    sizes : tuple of int
        The numbers of points of the pair.
    given : tuple of six
        Points, weights, regularisation and penalties of the pair, as the caller gave them.
    """

    batch: Result
    item: int
    shape: tuple[int, ...]
    sizes: tuple[int, int]
    given: tuple[Any, Any, Any, Any, Any, Any]

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles, detached from autograd's graph."""
        x, y, a, b, reg, rho = self.given
        rho = tuple(map(arrays.detached, rho)) if isinstance(rho, tuple) else arrays.detached(rho)
        return {**vars(self), "given": (*map(arrays.detached, (x, y, a, b, reg)), rho)}

    @property
    def here(self) -> slice:
        """The pair along the axis of items."""
        count = math.prod(self.shape)
        return slice(self.item * count, (self.item + 1) * count)

    def rows(self, v: Array) -> Array:
        """The numbers of the rows of the pair, among those ``(B, N)`` of the batch."""
        return v[self.here, : self.sizes[0]]

    def cols(self, v: Array) -> Array:
        """The same of the columns."""
        return v[self.here, : self.sizes[1]]

    def costs(self, geometry: Geometry) -> Any:
        """The flat geometry of the pair, from that of the batch."""
        n, m = self.sizes
        if self.sizes == (geometry.n, geometry.m):
            return geometry.take(np.arange(self.here.start, self.here.stop))
        return geometry.among(self.item, np.arange(n)).T.among(0, np.arange(m)).T


def part(batch: Result, item: int, given: tuple[Any, Any, Any, Any, Any, Any], shape: tuple[int, ...] = ()) -> Result:
    """The result of a pair of clouds with batch axes `shape`, computed on first use; `given` are its arguments."""
    sizes = given[0].shape[-2], given[1].shape[-2]
    origin = made(Origin, batch=batch, item=item if batch.problem.batch else 0, shape=shape, sizes=sizes, given=given)
    return made(
        Result,
        problem=later(_problem, origin),
        outcome=later(_outcome, origin),
        method=batch.method,
        kernel=batch.kernel,
        link=None,
        whole=None,
        variation=None,
        origin=origin,
    )


def _problem(origin: Origin) -> LinearProblem:
    of, here = origin.batch.problem, origin.here
    rho_a, rho_b = of.penalties.rho_a, of.penalties.rho_b
    return made(
        LinearProblem,
        fingerprint=None,
        kernels=of.kernels,
        dtype=of.dtype,
        unit=of.unit,
        given=later(_given, origin),
        asked=later(_asked, origin),
        geometry=later(_geometry, origin),
        reduced=later(_reduced, origin),
        a=origin.rows(of.a),
        b=origin.cols(of.b),
        reg=None if of.reg is None else of.reg[here],
        penalties=made(Penalties, rho_a=rho_a[here], rho_b=rho_b[here], shifts=of.penalties.shifts),
        idle=None if of.idle is None else (origin.rows(of.idle[0]), origin.cols(of.idle[1])),
        batch=origin.shape,
        balanced=of.balanced[here],
        mass=of.mass[here],
        rescaled=of.rescaled[here],
        span=of.span[here],
        low=of.low[here],
        high=of.high[here],
        forbidden=of.forbidden[here],
    )


def _asked(origin: Origin) -> PointCloud:
    """The points of the pair as they were in the solve."""
    cloud: Any = origin.batch.problem.asked
    x, y = (
        v if v.ndim == 2 else v[origin.item, ...][..., :size, :]
        for v, size in zip((cloud.x, cloud.y), origin.sizes, strict=True)
    )
    alike = cloud.y is cloud.x or origin.given[0] is origin.given[1]
    return renewed(cloud, x=x, y=x if alike else y, sizes=None)


def _given(origin: Origin) -> Given:
    """The caller's inputs: tensors that require gradients, or copies."""
    x, y, a, b, reg, rho = origin.given
    asked, of = origin.batch.problem.asked, origin.batch.problem.given
    cloud: Any = asked
    leaves = renewed(cloud, x=x, y=y) if any(map(arrays.requires_grad, (x, y))) else _asked(origin)
    weights = [
        w if w is None or arrays.requires_grad(w) else own if own.ndim == 1 else own[origin.item, ...][..., :size]
        for w, own, size in zip((a, b), (of.a, of.b), origin.sizes, strict=True)
    ]
    one, other = weights[0], weights[0] if a is b else weights[1]
    return Given.of(leaves, _asked(origin), (one, other), reg, rho)


def _geometry(origin: Origin) -> Geometry:
    return origin.costs(origin.batch.problem.geometry)


def _reduced(origin: Origin) -> Geometry:
    return origin.costs(origin.batch.problem.reduced)


def _outcome(origin: Origin) -> Outcome:
    of, here = origin.batch.outcome, origin.here
    proved = vars(of)["certificate"] is not None
    return made(
        Outcome,
        counted=of.counted,
        f=later(_potential, origin, "f"),
        g=later(_potential, origin, "g"),
        plan=later(_plan, origin),
        certificate=later(_certificate, origin) if proved else None,
        error=later(_error, origin),
        errors=of.errors[:, here],
        stages=later(_stages, origin),
        status=of.status[here],
        tol=of.tol[here],
        n_iter=of.n_iter[here],
        reg=_some(of.reg, here),
        linear=_some(of.linear, here),
        divergence=_some(of.divergence, here),
    )


def _some(v: Any, here: slice) -> Any:
    return None if v is None else v[here]


def _potential(origin: Origin, name: str) -> Array:
    v = getattr(origin.batch.outcome, name)
    return origin.rows(v) if name == "f" else origin.cols(v)


def _error(origin: Origin) -> np.ndarray:
    return origin.batch.outcome.error[origin.here]


def _stages(origin: Origin) -> tuple[Stage, ...]:
    first, stop = origin.here.start, origin.here.stop
    return tuple(renewed(s, item=s.item - first) for s in origin.batch.outcome.stages if first <= s.item < stop)


def _plan(origin: Origin) -> tuple[Plan, ...]:
    return tuple(_part_of(plan, origin) for plan in origin.batch.outcome.plan)


def _part_of(plan: Plan, origin: Origin) -> Plan:
    if not isinstance(plan, EntropicPlan):
        arcs = plan.arcs(0.0)
        (n, m), first, stop = origin.sizes, origin.here.start, origin.here.stop
        own = (first <= arcs.item) & (arcs.item < stop)
        own &= (arcs.row < n) & (arcs.col < m)  # arcs of the padding carry nothing
        entries = Arcs(arcs.item[own] - first, arcs.row[own], arcs.col[own], arcs.mass[own])
        return SparsePlan((stop - first, n, m), entries, origin.batch.problem.a)
    at, here = plan.at, origin.here
    at = Potentials(origin.rows(at.f), origin.cols(at.g), origin.rows(at.log_a), origin.cols(at.log_b), at.reg[here])
    new = EntropicPlan(origin.costs(plan.geometry), at, plan.kernels, _some(plan.known, here))
    if "moved" in vars(plan):
        cost, row, col = plan.moved
        vars(new)["moved"] = Moved(cost[here], origin.rows(row), origin.cols(col))
    return new


def _certificate(origin: Origin) -> Certificate:
    of: Any = origin.batch.outcome.certificate
    numbers = {name: getattr(of, name)[origin.here] for name in ("lower", "upper", "linear", "rounding")}
    plan = tuple(_part_of(one, origin) for one in of.plan)
    return Certificate(f=origin.rows(of.f), g=origin.cols(of.g), plan=plan, **numbers)
