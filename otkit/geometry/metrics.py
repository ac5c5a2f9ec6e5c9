"""Distances that are functions of tiles of points: by name, on the host; and functions of the caller."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace

_U = float(np.finfo(np.float64).eps) / 2  # unit roundoff

# The names of SciPy. The first ones compare sets, given by coordinates 0 and 1.
SETS = ("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule")
NAMES = ("braycurtis", "canberra", "chebyshev", "correlation", "hamming", "haversine", "jensenshannon", *SETS)

_UNDEFINED = {
    "braycurtis": "between points whose coordinates cancel, as two points at the origin do",
    "dice": "between two empty sets",
    "sokalsneath": "between two empty sets",
}


class Function(ABC):
    """A distance that is a function of tiles of points."""

    @abstractmethod
    def __call__(self, x: Array, y: Array) -> Array:
        """Distances between tiles ``x (k, r, d)`` and ``y (k, m, d)``, of which either k may be 1: ``(k, r, m)``."""

    @property
    @abstractmethod
    def undefined(self) -> str:
        """The message for distances that are no numbers."""


@dataclass(frozen=True)
class Named(Function):
    """A distance by its name in SciPy, by SciPy or by a formula that keeps more digits; or "haversine".

    Attributes
    ----------
    name : str
    p : float, optional
        The order of "minkowski".
    """

    name: str
    p: float | None = None

    def __str__(self) -> str:
        return f"metric {self.name!r}"

    @property
    def undefined(self) -> str:
        where = _UNDEFINED.get(self.name, "between some points")
        return f"metric {self.name!r} must be defined between all points, but it is not {where}; drop those points"

    @property
    def order(self) -> float | None:
        """The p of a distance (Σ |x_k − y_k|^p)^(1/p); None of another distance."""
        return np.inf if self.name == "chebyshev" else self.p

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.name == "minkowski":
            return _minkowski(x, y, self.p or 1.0)
        if self.name in _FORMULAS:
            return _FORMULAS[self.name](x, y)
        if self.name == "chebyshev" and x.shape[1] == y.shape[1] == 1:  # of pairs, which SciPy takes one by one
            return abs(x - y).max(-1, keepdims=True)
        from scipy.spatial.distance import cdist

        if self.name in SETS:
            x, y = x.astype(bool), y.astype(bool)
        elif self.name == "correlation":  # its squares may overflow
            x, y = (v / abs(v).max(-1, keepdims=True) for v in (x, y))
        pairs = zip(*(_repeated(v, max(len(x), len(y))) for v in (x, y)), strict=True)
        out = np.stack([cdist(*pair, metric=self.name) for pair in pairs])
        if self.name == "braycurtis":
            out[np.isinf(out)] = np.nan  # a division by 0
        return out

    def check(self, x: Array, y: Array) -> None:
        """Raise ``ValueError`` for finite points between which the distance is undefined or overflows."""
        for v, name in ((arrays.to_numpy(x), "x"), (arrays.to_numpy(y), "y")):
            checks.magnitude(v, name, self.name)
            if self.name in SETS:
                checks.sets(v, name, self.name)
            elif self.name == "haversine":
                checks.angles(v, name)
            elif self.name == "jensenshannon":
                checks.histograms(v, name)
            elif self.name == "correlation":
                checks.varied(v, name)

    def rounding(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Bounds (relative, absolute) on the rounding error of the distance."""
        d = x.shape[-1]
        if self.name == "chebyshev":
            return 2 * _U, 0.0
        if self.name in ("hamming", *SETS):  # ratios of exact numbers
            return 4 * _U, 0.0
        if self.name == "haversine":  # halves of sums and differences of angles are off by their own rounding
            return 32 * _U, 128 * _U
        if self.name == "minkowski":
            return (16 + 2 * (d + 8) / (self.p or 1.0)) * _U, 0.0
        if self.name in ("braycurtis", "canberra"):
            return (2 * d + 8) * _U, 0.0
        if self.name == "jensenshannon":  # a metric: division by totals moves both histograms by this
            return (d + 48) * _U, (d + 8) * _U
        # Centring moves a point by a few units of its largest coordinate, and its cosine relative to its length.
        moved = sum(float((abs(v).max(-1) / _lengths(v)).max()) for v in (x, y))
        return 2 * _U, 2 * ((d + 4) * d**0.5 * moved + 2 * d + 16) * _U


@dataclass(frozen=True, eq=False)
class Called(Function):
    """A distance that is a function of the caller.

    Attributes
    ----------
    function : callable
        It takes tiles ``x (k, r, d)`` and ``y (k, m, d)`` and returns ``(k, r, m)``, or points ``x (r, d)`` and
        ``y (m, d)`` and returns ``(r, m)``.
    batched : bool
        Whether it takes tiles.
    like : array, optional
        An array of the library with which it is called, where the tiles are NumPy arrays.
    """

    function: Callable[[Array, Array], Array]
    batched: bool = True
    like: Array | None = None

    def __str__(self) -> str:
        return "a metric that is a callable"

    @property
    def undefined(self) -> str:
        return (
            "metric must return numbers or +inf (a forbidden arc), got NaN or -inf; correct it, or return inf to forbid"
        )

    def __call__(self, x: Array, y: Array) -> Array:
        out = self._called(x, y)
        wanted = (max(x.shape[0], y.shape[0]), x.shape[1], y.shape[1])
        if tuple(out.shape) != wanted:
            raise ValueError(self._wanted(x, y, f"shape {tuple(out.shape)}"))
        return out

    def _called(self, x: Array, y: Array) -> Array:
        given = (x, y) if self.like is None else (from_numpy(x, self.like), from_numpy(y, self.like))
        if self.batched:
            return self._inside(self.function(*given), x)
        pairs = zip(*(_repeated(v, max(len(x), len(y))) for v in given), strict=True)
        parts = [self._inside(self.function(*pair), x) for pair in pairs]
        return namespace(parts[0]).stack(parts)

    @staticmethod
    def _inside(found: Any, x: Array) -> Array:
        """What the function returned, in float64 and in the library of the tile."""
        if type(found) is type(x) is np.ndarray and found.dtype == np.float64:
            return found
        found = checks.as_array(found, "what the metric returns", x)
        found = arrays.to_numpy(found) if isinstance(x, np.ndarray) else arrays.convert(arrays.detached(found), x)
        return arrays.float64(found)

    def fitted(self, x: Array, y: Array) -> Called:
        """The same function, with the form of arguments that it takes: it is called with 2 and 3 points.

        Raises
        ------
        TypeError
            If it takes neither form.
        """
        ends = [(v[:1, :1, :], v[:1, -1:, :]) for v in (x, y)]
        few = [namespace(x).concat(parts, axis=1) for parts in (ends[0], (*ends[1], ends[1][0]))]
        came, cause = "", None
        for batched in (True, False):
            try:
                with warnings.catch_warnings(action="ignore"):
                    out = replace(self, batched=batched)._called(*few)
            except Exception as error:
                came, cause = f"{type(error).__name__}: {error}", error
                continue
            if tuple(out.shape) == (1, 2, 3):
                return replace(self, batched=batched)
            came, cause = f"shape {tuple(out.shape)}", None
        raise TypeError(self._wanted(few[0], few[1], came)) from cause

    @staticmethod
    def _wanted(x: Array, y: Array, came: str) -> str:
        return (
            f"metric must return costs of shape (k, r, m) for tiles x (k, r, d) and y (k, m, d), or (r, m) for points "
            f"x (r, d) and y (m, d), got {came} for x {tuple(x.shape)} and y {tuple(y.shape)}"
        )


def _repeated(x: Array, items: int) -> list[Array]:
    """The points of each item, which all items share if there is one set of them."""
    return [x[0]] * items if x.shape[0] == 1 else list(x)


def _minkowski(x: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    """(Σ |x − y|^p)^(1/p), relative to the largest difference: powers would over- or underflow."""
    gaps = [abs(x[..., :, None, k] - y[..., None, :, k]) for k in range(x.shape[-1])]
    top = np.maximum.reduce(gaps)
    scale = np.where(top > 0, top, 1.0)
    with np.errstate(under="ignore"):
        total = sum(((gap / scale) ** p for gap in gaps), start=np.zeros(top.shape))
    return top * total ** (1 / p)


def _haversine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The angle of two points on a sphere: both legs of its half are sums of squares, which keep their digits."""
    north, south, west, east = x[..., :, None, 0], y[..., None, :, 0], x[..., :, None, 1], y[..., None, :, 1]
    across, along = np.sin((west - east) / 2) ** 2, np.cos((west - east) / 2) ** 2
    near = np.sin((north - south) / 2) ** 2 + np.cos(north) * np.cos(south) * across
    far = np.cos((north - south) / 2) ** 2 * along + np.sin((north + south) / 2) ** 2 * across
    return 2 * np.arctan2(np.sqrt(np.maximum(near, 0.0)), np.sqrt(far))


def _jensenshannon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The root of ¼·Σ s·h(t), where s = p + q, t = (p − q)/s and h(t) = (1 + t)·log(1 + t) + (1 − t)·log(1 − t) ≥ 0.

    The usual form is a sum of terms of both signs, which cancel where p ≈ q.
    """
    x, y = (v / v.sum(-1, keepdims=True) for v in (x, y))
    total = np.zeros(np.broadcast_shapes(x.shape[:-1] + (1,), y.shape[:-2] + (1, y.shape[-2])))
    for k in range(x.shape[-1]):
        p, q = x[..., :, None, k], y[..., None, :, k]
        size = p + q
        whole = np.where(size > 0, size, 1.0)
        t = (p - q) / whole
        total += size * np.where(abs(t) <= 0.25, _series(t * t), _entropy(p / whole) + _entropy(q / whole))
    return np.sqrt(total) / 2


def _series(z: np.ndarray) -> np.ndarray:
    """h(t) for z = t² ≤ 1/16: Σ zᵏ/(k·(2k − 1))."""
    total = np.zeros_like(z)
    for k in range(13, 0, -1):
        total = (total + 1 / (k * (2 * k - 1))) * z
    return total


def _entropy(share: np.ndarray) -> np.ndarray:
    """2·share·log(2·share)."""
    twice = 2 * share
    return twice * np.log(np.where(twice > 0, twice, 1.0))


_FORMULAS = {"haversine": _haversine, "jensenshannon": _jensenshannon}


def _lengths(x: np.ndarray) -> np.ndarray:
    """Lengths of points less the mean of their coordinates."""
    scale = abs(x).max(-1, keepdims=True)
    return np.linalg.norm(x / scale - (x / scale).mean(-1, keepdims=True), axis=-1) * scale[..., 0]
