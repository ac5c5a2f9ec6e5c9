"""Costs between points, evaluated tile by tile and never stored as a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otkit import checks
from otkit.arrays import Array, detached, float64, hosted, namespace, renewed, take, to_numpy
from otkit.geometry.base import GivenGeometry, flatten_batch, shared
from otkit.geometry.costs import Cost, parse_cost


@dataclass(frozen=True)
class PointCloud(GivenGeometry):
    """Costs between two clouds of points, kept by reference and not copied.

    Attributes
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
    metric : str, tuple, callable or Cost
        "sqeuclidean" (‖x−y‖², no ½), "euclidean", "cityblock", "cosine", ``("power", p)`` (‖x−y‖^p), or a callable on
        tiles: ``metric(x (k, r, d), y (k, m, d))`` returns ``(k, r, m)`` and is called with float64 arrays.
    swapped : bool
        Set by `T`: the metric is called with y first.

    Raises
    ------
    ValueError, TypeError
        If the metric is unknown, or x or y is not an array of real numbers.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", checks.as_array(self.x, "x"))
        object.__setattr__(self, "y", checks.as_array(self.y, "y"))
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
        xp = namespace(self.x)
        radius = max(float(xp.max(xp.linalg.vector_norm(v, axis=-1))) for v in (self.x, self.y))
        smallest = min(float(xp.min(xp.where(v == 0, xp.full_like(v, xp.inf), xp.abs(v)))) for v in (self.x, self.y))
        return self.metric.rounding(self.d, radius, smallest)

    @property
    def matrix(self) -> None:
        return None

    @property
    def cloud(self) -> PointCloud:
        return self

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return callable(self.metric.ground)

    @property
    def non_negative(self) -> bool:
        return self.metric.non_negative

    @property
    def convex_on_line(self) -> bool:
        return self.d == 1 and self.metric.convex_on_line

    def check(self) -> None:
        checks.same_library(**self.arrays)
        low, high = checks.points(self.x, self.y)
        checks.batch_shape(x=tuple(self.x.shape[:-2]), y=tuple(self.y.shape[:-2]))
        if self.metric.ground == "cosine":
            checks.cosine_points(self.x, self.y)
        elif self.non_negative:
            checks.spread(low, high, self.metric.smallest)
        if self.metric.period is not None and self.d > 1:
            raise ValueError(f"period= is for points on a circle, which have one coordinate, got d = {self.d}; drop it")

    def detached(self) -> PointCloud:
        return self._over(detached(self.x), detached(self.y))

    def hosted(self) -> PointCloud:
        # A callable metric is called with arrays of the caller's library, so all operations run in that library.
        return self if self.called else self._over(hosted(self.x), hosted(self.y))

    def flat(self, batch: tuple[int, ...]) -> PointCloud:
        """The points of the items of `batch` along one leading axis, in float64 and ready for the cost function."""
        x, y = (float64(flatten_batch(v, batch, 2)) for v in (self.x, self.y))
        xp = namespace(x)
        if self.metric.ground == "cosine":
            # Divide by the largest coordinate first, or the squares may over- or underflow.
            x, y = (v / xp.max(xp.abs(v), axis=-1, keepdims=True) for v in (x, y))
            x, y = (v / xp.linalg.vector_norm(v, axis=-1, keepdims=True) for v in (x, y))
        elif self.metric.centres(self.d):
            middle = (xp.mean(x, axis=-2, keepdims=True) + xp.mean(y, axis=-2, keepdims=True)) / 2
            x, y = x - middle, y - middle
        elif self.metric.period is not None:
            x, y = xp.remainder(x, self.metric.period), xp.remainder(y, self.metric.period)
        return self._over(x, y)

    def _over(self, x: Array, y: Array) -> PointCloud:
        """The same costs between other points, which need no check."""
        return self if x is self.x and y is self.y else renewed(self, x=x, y=y)

    def block(self, items: slice, rows: slice) -> Array:
        x = self.x[shared(items, self.x.shape[0]), rows, :]
        y = self.y[shared(items, self.y.shape[0]), :, :]
        if not self.swapped:
            return self.metric(x, y)
        return namespace(x).matrix_transpose(self.metric(y, x))

    def centred(self) -> PointCloud:
        """The points of a flat geometry relative to the mean of y: up to rounding, differences do not change."""
        if self.metric.ground == "cosine":
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

    def to_numpy(self) -> PointCloud:
        return self._over(to_numpy(self.x), to_numpy(self.y))
