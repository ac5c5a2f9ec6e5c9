"""Costs between the cells of a grid, a sum of one cost for each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otkit import checks
from otkit.arrays import Array, detached, float64, from_numpy, is_array, namespace, renewed, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import HIGHEST, UNIT, parse_cost
from otkit.geometry.points import PointCloud

# The largest number of axes.
_AXES = 3


@dataclass(frozen=True)
class Grid(GivenGeometry):
    """Costs ``Σ_k |x_k − y_k|^p`` between the cells of a grid, in row order. Both sides are the same grid.

    Operations take one pass along each axis: an iteration of Sinkhorn's algorithm on an image of N pixels takes time
    proportional to N, and no matrix is formed. They run on the host.

    Attributes
    ----------
    shape : tuple of int
        Number of cells along each of one to three axes.
    spacing : float or tuple of float
        The distance between neighbours, one for all axes or one for each.
    metric : str or tuple
        "sqeuclidean" (p = 2), "cityblock" (p = 1), or ``("axiswise", p)`` for any p ≥ 1.

    Raises
    ------
    ValueError, TypeError
        If there are not one to three axes, or a spacing or power is not a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> grid = otkit.Grid((2, 3))
    >>> grid.n
    6
    >>> a, b = np.eye(6)[[0, 5]]
    >>> float(otkit.solve(grid, a, b, reg=0.1).value_linear)  # from one corner to the other: 1² + 2²
    5.0
    """

    shape: tuple[int, ...]
    spacing: Any = 1.0
    metric: Any = "sqeuclidean"
    power: float = field(default=2.0, init=False, repr=False)
    leading: tuple[int, ...] = field(default=(), init=False, repr=False)
    like: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self.shape))
        object.__setattr__(self, "power", _power(self.metric))
        object.__setattr__(self, "spacing", _spacing(self.spacing, len(self.shape)))
        object.__setattr__(self, "like", np.asarray(self.spacing))

    @property
    def batch(self) -> tuple[int, ...]:
        return self.leading

    @property
    def n(self) -> int:
        return math.prod(self.shape)

    @property
    def m(self) -> int:
        return self.n

    @property
    def T(self) -> Grid:
        return self

    @property
    def arrays(self) -> dict[str, Array]:
        return {"spacing": self.like}

    @property
    def rounding(self) -> tuple[float, float]:
        # A difference of whole numbers is exact; then come a product, a power and a sum for each axis. Passes along the
        # axes add potentials between these sums, which are of the size of the costs.
        of_power = 0 if self.power == 1 else 8 if self.power != 2 else 3
        return (len(self.shape) + of_power + 4) * UNIT, 64 * len(self.shape) * UNIT * sum(self.longest)

    @property
    def longest(self) -> list[float]:
        """The cost between the ends of each axis."""
        return [(h * (n - 1)) ** self.power for h, n in zip(self.spacing, self.shape, strict=True)]

    @property
    def matrix(self) -> None:
        return None

    @property
    def cloud(self) -> None:
        return None

    @property
    def stored(self) -> None:
        return None

    @property
    def grid(self) -> Grid:
        return self

    @property
    def bordered(self) -> None:
        return None

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return False

    @property
    def non_negative(self) -> bool:
        return True

    @property
    def undefined(self) -> str:
        return "cells must be at a distance"

    @property
    def may_forbid(self) -> bool:
        return False

    @property
    def convex_on_line(self) -> bool:
        return False

    def check(self) -> None:
        with np.errstate(over="ignore"):
            longest = sum((np.float64(h) * n) ** self.power for h, n in zip(self.spacing, self.shape, strict=True))
            shortest = np.float64(min(self.spacing)) ** self.power
        if not (shortest > 1e-280 and longest < 1e280):
            raise ValueError(f"costs of a grid must be from 1e-280 to 1e280, got spacing={self.spacing}; rescale it")

    def detached(self) -> Grid:
        return self

    def owned(self) -> Grid:
        return self

    def hosted(self) -> Grid:
        return renewed(self, like=np.asarray(self.spacing))

    def flat(self, batch: tuple[int, ...]) -> Grid:
        return renewed(self, leading=(1,))

    def block(self, items: slice, rows: slice) -> Array:
        """A tile of the costs, ``(1, rows, n)``."""
        total: Any = 0.0
        places = np.indices(self.shape).reshape(len(self.shape), -1)
        for h, place in zip(self.spacing, places, strict=True):
            total = total + (h * abs(place[rows, None] - place)) ** self.power
        return from_numpy(total[None], self.like)

    def take(self, items: np.ndarray) -> Grid:
        return self

    def among(self, item: int, rows: np.ndarray) -> PointCloud:
        return self.points.flat(()).among(item, rows)

    def to_numpy(self) -> Grid:
        return self.hosted()

    @property
    def points(self) -> PointCloud:
        """The same costs between the cells as points."""
        self.check()
        axes = len(self.shape)
        places = np.indices(self.shape).reshape(axes, -1).T * np.asarray(self.spacing)
        x = namespace(self.like).astype(from_numpy(places, self.like), self.like.dtype)
        return PointCloud(x, x, parse_cost("euclidean" if axes == 1 else ("minkowski", self.power), self.power))

    def fitted(self, *weights: Any) -> Grid:
        """The same grid, for weights of any library: results are of their library, device and dtype."""
        for w in weights:
            if is_array(w):
                xp, like = namespace(w), from_numpy(np.asarray(self.spacing), w)
                return renewed(self, like=xp.astype(like, w.dtype) if xp.isdtype(w.dtype, "real floating") else like)
        return self


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not 1 <= len(sizes) <= _AXES or any(not isinstance(n, (int, np.integer)) or n < 1 for n in sizes):
        raise ValueError(
            f"a grid must have one to three axes of at least one cell, got the shape {shape!r}; pass the centres of "
            "other cells to otkit.solve_sample"
        )
    return tuple(int(n) for n in sizes)


def _power(metric: Any) -> float:
    known = {"sqeuclidean": 2.0, "cityblock": 1.0}
    if isinstance(metric, str) and metric in known:
        return known[metric]
    if isinstance(metric, tuple) and len(metric) == 2 and metric[0] == "axiswise":
        p = metric[1]
        if isinstance(p, (int, float, np.number)) and 1 <= p <= HIGHEST:
            return float(p)
        raise ValueError(f"metric=('axiswise', p) must have a p from 1 to {HIGHEST}, got p={p!r}; 1 is 'cityblock'")
    raise ValueError(
        "the metric of a grid must be 'sqeuclidean', 'cityblock' or ('axiswise', p), the cost Σ_k |x_k − y_k|^p, got "
        f"{metric!r}; for others pass the cells with mass as points to otkit.solve_sample"
    )


def _spacing(spacing: Any, axes: int) -> tuple[float, ...]:
    values = to_numpy(float64(detached(checks.as_array(spacing, "spacing"))))
    if values.shape not in ((), (axes,)) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"spacing must be a positive number, or {axes} of them, one for each axis of the grid, got {spacing!r}; 1 "
            "is a cell"
        )
    return tuple(np.broadcast_to(values, (axes,)).tolist())
