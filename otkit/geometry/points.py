"""Costs between points, evaluated tile by tile and never stored as a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from otkit import checks
from otkit.arrays import Array, copied, detached, float64, hosted, namespace, renewed, take, to_numpy
from otkit.geometry.base import GivenGeometry, flatten_batch, shared, some_rows
from otkit.geometry.costs import COORDINATES, Circle, Cost, parse_cost
from otkit.geometry.metrics import Called, Function, Named


class Padded(NamedTuple):
    """Clouds of a batch ``(K, N, d)`` of which the first points count, so many in each: ``sizes (K,)``."""

    points: Array
    sizes: np.ndarray


@dataclass(frozen=True)
class PointCloud(GivenGeometry):
    """Costs between two clouds of points, kept by reference. A solve copies the points, so results do not change.

    Attributes
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
    metric : str, tuple, callable or Cost
        "sqeuclidean" (‖x−y‖², no ½), "euclidean", "cityblock", "cosine", ``("power", p)`` (‖x−y‖^p),
        ``("minkowski", p)``, a name of `scipy.spatial.distance` such as "chebyshev", "haversine", or a callable on
        points or tiles, called with float64 arrays: see Notes.
    swapped : bool
        Set by `T`: the metric is called with y first.
    sizes : tuple of two arrays of int, or None
        Of `Padded` points, the sizes of both sides. Compiled passes read no other points; no other method takes them.

    Raises
    ------
    ValueError, TypeError
        If the metric is unknown, or x and y are not arrays of real numbers ``(..., n, d)`` and ``(..., m, d)``.

    Notes
    -----
    A callable takes points as `scipy.spatial.distance.cdist` does, ``metric(x (r, d), y (m, d))`` with result
    ``(r, m)``, or tiles of several items, ``metric(x (k, r, d), y (k, m, d))`` with result ``(k, r, m)``. It is called
    with arrays of the library of the points.

    SciPy's names are "braycurtis", "canberra", "chebyshev", "correlation", "hamming", "jensenshannon", and for sets,
    given by coordinates 0 and 1, "dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath" and "yule". They are
    computed on the host. The angle "haversine" of points (latitude, longitude) on a sphere is in radians, as are the
    points.

    Examples
    --------
    >>> import numpy as np
    >>> from otkit import PointCloud
    >>> cloud = PointCloud(np.zeros((3, 2)), np.ones((4, 2)), "euclidean")
    >>> cloud.n, cloud.m, cloud.d
    (3, 4, 2)
    """

    x: Array
    y: Array
    metric: Any = "sqeuclidean"
    swapped: bool = field(default=False, repr=False)
    sizes: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.x, Padded):
            vars(self).update(x=self.x.points, y=self.y.points, sizes=(self.x.sizes, self.y.sizes))
        object.__setattr__(self, "x", checks.as_array(self.x, "x", self.y))
        object.__setattr__(self, "y", checks.as_array(self.y, "y", self.x))
        checks.clouds(self.x, self.y)
        if not isinstance(self.metric, Cost):
            object.__setattr__(self, "metric", parse_cost(self.metric))

    @property
    def batch(self) -> tuple[int, ...]:
        x, y = self.x.shape[:-2], self.y.shape[:-2]
        return tuple(x) if x == y else np.broadcast_shapes(x, y)

    @property
    def n(self) -> int:
        return self.x.shape[-2]

    @property
    def m(self) -> int:
        return self.y.shape[-2]

    @property
    def d(self) -> int:
        """Number of coordinates of a point."""
        return self.x.shape[-1]

    @property
    def T(self) -> PointCloud:
        return renewed(self, x=self.y, y=self.x, swapped=not self.swapped)

    @property
    def arrays(self) -> dict[str, Array]:
        return {"x": self.x, "y": self.y}

    @property
    def rounding(self) -> tuple[float, float]:
        ground = self.metric.ground
        # Of these functions NumPy's own are the standard's, whose namespace takes long to import.
        xp = np if isinstance(self.x, np.ndarray) else namespace(self.x)
        if isinstance(ground, Named):
            return self.metric.powered(*ground.rounding(self.x, self.y))
        # Squares of large coordinates overflow, those of their shares do not.
        longest = max(float(xp.max(xp.abs(v))) for v in (self.x, self.y))
        share = 1.0 / longest if longest > 2.0**500 else 1.0
        with np.errstate(under="ignore"):
            radius = max(float(xp.max(xp.linalg.vector_norm(v * share, axis=-1))) for v in (self.x, self.y)) / share
        smallest = min(float(xp.min(xp.where(v == 0, xp.full_like(v, xp.inf), xp.abs(v)))) for v in (self.x, self.y))
        return self.metric.rounding(self.d, radius, smallest)

    @property
    def matrix(self) -> None:
        return None

    @property
    def cloud(self) -> PointCloud:
        return self

    @property
    def stored(self) -> None:
        return None

    @property
    def grid(self) -> None:
        return None

    @property
    def bordered(self) -> None:
        return None

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return self.metric.called

    @property
    def non_negative(self) -> bool:
        return self.metric.non_negative

    @property
    def undefined(self) -> str:
        ground = self.metric.ground
        return ground.undefined if isinstance(ground, Function) else "points must be at a distance"

    @property
    def may_forbid(self) -> bool:
        return self.called or self.metric.forbids

    @property
    def convex_on_line(self) -> bool:
        return self.d == 1 and self.metric.convex_on_line and not self.metric.forbids

    def check(self) -> None:
        if self.sizes is not None:
            raise ValueError("padded clouds are for compiled passes, which leave this one; solve each pair alone")
        low, high = checks.points(self.x, self.y)
        checks.batch_shape(x=tuple(self.x.shape[:-2]), y=tuple(self.y.shape[:-2]))
        if self.metric.ground == "cosine":
            checks.cosine_points(self.x, self.y)
        elif isinstance(self.metric.ground, Named):
            self.metric.ground.check(self.x, self.y)
        elif not self.may_forbid:
            checks.spread(low, high, self.metric.smallest)
        if self.metric.period is not None and self.d > 1:
            raise ValueError(f"period= is for points on a circle, which have one coordinate, got d = {self.d}; drop it")

    def detached(self) -> PointCloud:
        return self._over(detached(self.x), detached(self.y))

    def owned(self) -> PointCloud:
        # Copies are checked again: within a transform of PyTorch they are in it, even if the points are not.
        x = copied(detached(self.x))
        return replace(self, x=x, y=x if self.y is self.x else copied(detached(self.y)))

    def hosted(self) -> PointCloud:
        if isinstance(self.x, np.ndarray) and isinstance(self.y, np.ndarray):
            return self
        ground, metric, move = self.metric.ground, self.metric, hosted
        if isinstance(ground, Named):
            move = to_numpy  # it is computed on the host
        x = move(self.x)
        y = x if self.y is self.x else move(self.y)
        if isinstance(ground, Called) and x is not self.x:
            metric = replace(metric, ground=replace(ground, like=self.x))
        return renewed(self, x=x, y=y, metric=metric)

    @np.errstate(over="ignore", invalid="ignore")  # of points that are refused later
    def flat(self, batch: tuple[int, ...]) -> PointCloud:
        """The points of the items of `batch` along one leading axis, in float64 and ready for the cost function."""
        metric, x = self.metric, flatten_batch(self.x, batch, 2)
        y = x if self.y is self.x else flatten_batch(self.y, batch, 2)
        if metric.centres(self.d):
            x, y = _centred(x, y)
        same = y is x
        x = float64(x)
        y = x if same else float64(y)
        if isinstance(metric.ground, Called):
            metric = replace(metric, ground=metric.ground.fitted(x, y))
        elif metric.ground == "cosine":
            xp = namespace(x)
            # Divide by the largest coordinate first, or the squares may over- or underflow.
            x, y = (v / xp.max(xp.abs(v), axis=-1, keepdims=True) for v in (x, y))
            x, y = (v / xp.linalg.vector_norm(v, axis=-1, keepdims=True) for v in (x, y))
        elif isinstance(metric.ground, Circle):
            x, y = metric.ground.places(x), metric.ground.places(y)
        return renewed(self, x=x, y=y, metric=metric)

    def _over(self, x: Array, y: Array) -> PointCloud:
        """The same costs between other points, which need no check."""
        return self if x is self.x and y is self.y else renewed(self, x=x, y=y)

    def block(self, items: slice, rows: slice) -> Array:
        x = self.x[shared(items, self.x.shape[0]), rows, :]
        y = self.y[shared(items, self.y.shape[0]), :, :]
        if not self.swapped:
            return self.metric(x, y)
        return namespace(x).matrix_transpose(self.metric(y, x))

    def pairs(self, item: int, rows: Array, cols: Array) -> Array:
        """The costs of pairs of points of an item of a flat geometry: ``(K,)``."""
        xp, parts = namespace(self.x), []
        x, y = self.x[item % self.x.shape[0], ...], self.y[item % self.y.shape[0], ...]
        step = max(1, COORDINATES // self.d)
        for low in range(0, max(1, rows.shape[0]), step):
            part = slice(low, min(low + step, rows.shape[0]))
            pair = tuple(xp.take(v, at[part], axis=0)[:, None, :] for v, at in ((x, rows), (y, cols)))
            parts.append(self.metric(*(pair[::-1] if self.swapped else pair))[:, 0, 0])
        return xp.concat(parts)

    def centred(self) -> PointCloud:
        """The points of a flat geometry near the origin: up to rounding, differences do not change."""
        if self.metric.ground == "cosine" or self.metric.centres(self.d):  # `flat` has divided or centred them
            return self
        middle = namespace(self.y).mean(self.y, axis=-2, keepdims=True)
        return self._over(self.x - middle, self.y - middle)

    def pulled(self, W: Array, items: slice, rows: slice) -> Array:
        """Σ_j W_ij·∇₁c(x_i, y_j) of a tile, for weights ``(items, rows, m)``: ``(items, rows, d)``."""
        x = self.x[shared(items, self.x.shape[0]), rows, :]
        y = self.y[shared(items, self.y.shape[0]), :, :]
        return self.metric.weighted_gradient(W, x, y)

    def take(self, items: np.ndarray) -> PointCloud:
        x, y = (v if v.shape[0] == 1 else take(v, items) for v in (self.x, self.y))
        return self._over(x, y)

    def among(self, item: int, rows: np.ndarray) -> PointCloud:
        place = item % self.y.shape[0]
        return self._over(some_rows(self.x, item, rows), self.y[place : place + 1, ...])

    def to_numpy(self) -> PointCloud:
        return self._over(to_numpy(self.x), to_numpy(self.y))


def _centred(x: Array, y: Array) -> tuple[Array, Array]:
    """Points less the mean of both sides in float64; narrower points are not converted first, for one copy less."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        means = [v.mean(axis=-2, keepdims=True, dtype=np.float64) for v in (x, y)]
    else:
        means = [namespace(v).mean(float64(v), axis=-2, keepdims=True) for v in (x, y)]
    middle = (means[0] + means[1]) / 2
    centred = x - middle
    return centred, centred if y is x else y - middle
