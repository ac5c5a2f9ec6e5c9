"""Many measures in one array of points, each checked once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.geometry.costs import Cost
from otkit.geometry.metrics import Named
from otkit.solvers.exact import packed


@dataclass(frozen=True)
class Clouds:
    """Weighted clouds of points, one after the other.

    Attributes
    ----------
    points : array (N, d)
    weights : array (N,)
        Of one total mass, as given; 1/n for the n points of a uniform measure.
    starts : numpy array (K + 1,)
        Where the points of each begin, and their number.
    uniform : numpy array of bool (K,)
        Which measures came without weights.
    places : numpy array (K,)
        The place of each in the caller's list, for messages.
    compiled : packed.Clouds or None
        The same for compiled loops, where these apply.
    """

    points: Array
    weights: Array
    starts: np.ndarray
    uniform: np.ndarray
    places: np.ndarray
    compiled: packed.Clouds | None = None

    def __len__(self) -> int:
        return len(self.uniform)

    def __getitem__(self, k: int) -> tuple[Array, Array | None]:
        """Points and weights of a measure; no weights if it is uniform."""
        own = slice(self.starts[k], self.starts[k + 1])
        return self.points[own, :], None if self.uniform[k] else self.weights[own]

    @property
    def sizes(self) -> np.ndarray:
        """Number of points of each."""
        return np.diff(self.starts)

    def take(self, chosen: np.ndarray) -> Clouds:
        """A copy of the measures of these indices."""
        sizes = self.sizes[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.repeat(self.starts[chosen] - starts[:-1], sizes) + np.arange(starts[-1])
        points, weights = arrays.take((self.points, self.weights), rows)
        compiled = self.compiled
        if compiled is not None:
            # Arrays that are shared stay so, and are pickled once.
            pair = (compiled.points, self.points, points), (compiled.weights, self.weights, weights)
            x, w = (taken if own is shared else own[rows] for own, shared, taken in pair)
            compiled = replace(compiled, points=x, weights=w, start=starts)
        return Clouds(points, weights, starts, self.uniform[chosen], self.places[chosen], compiled)

    def for_loops(self, cost: Cost) -> Clouds:
        """The same measures, prepared for compiled loops as well, if the cost is compiled."""
        x, a = arrays.to_numpy(self.points), arrays.to_numpy(self.weights)
        return replace(self, compiled=packed.pack(x, a, self.starts, cost))

    def digests(self) -> list[str]:
        """A digest of the data of each."""
        found = []
        for k in range(len(self)):
            x, a = (None if v is None else arrays.to_numpy(v) for v in self[k])
            parts = (b"" if v is None else f"{v.dtype}{v.shape}".encode() + v.tobytes() for v in (x, a))
            found.append(hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest())
        return found


def checked(measures: Sequence[Any], cost: Cost) -> Clouds:
    """The measures as `Clouds`, on the host where they lie there; ``ValueError`` or ``TypeError`` for invalid ones."""
    given = [m if isinstance(m, tuple) and len(m) == 2 else (m, None) for m in measures]
    points: list[Array] = []
    weights: list[Array | None] = []
    for k, (x, a) in enumerate(given):
        try:
            x, a = _checked(x, a, points[0] if points else None, cost)
        except (ValueError, TypeError) as error:
            raise type(error)(f"measure {k}: {error}") from None
        points.append(x)
        weights.append(a)
    uniform = np.array([a is None for a in weights])
    x = _joined(points)
    a = _joined(_filled(weights, points))
    mass = [1.0 if w is None else float(namespace(w).sum(arrays.float64(w))) for w in weights]
    _check_masses(np.array(mass), None if uniform.all() else a)
    _check_reach(points, cost)
    sizes = [v.shape[0] for v in points]
    return Clouds(
        points=x,
        weights=a,
        starts=np.concatenate([[0], np.cumsum(sizes)]),
        uniform=uniform,
        places=np.arange(len(given)),
    )


def _checked(x: Any, a: Any, first: Array | None, cost: Cost) -> tuple[Array, Array | None]:
    """Points and weights of a measure, checked alone and against the points of the `first`."""
    for v, name in ((x, "x"), (a, "a")):
        checks.no_gradient(v, name, "call otkit.wasserstein for each pair")
    x, a = checks.as_array(x, "x"), None if a is None else checks.as_array(a, "a")
    if x.ndim > 2 or (a is not None and a.ndim > 1):
        shapes = f"{tuple(x.shape)}" if a is None else f"{tuple(x.shape)} and {tuple(a.shape)}"
        raise ValueError(f"a measure must be of points (n, d) and weights (n,), got a batch {shapes}; pass list(x)")
    if not cost.called:  # a callable is called with arrays of the caller's library
        x, a = arrays.hosted(x), None if a is None else arrays.hosted(a)
    one = x if first is None else first[:1, :]
    checks.same_library(x=x, a=a, **({} if first is None else {"the first measure": first}))
    checks.points(x, one if x.ndim == 2 else x)
    if cost.ground == "cosine":
        checks.cosine_points(x, one)
    elif isinstance(cost.ground, Named):
        cost.ground.check(x, one)
    if a is not None:
        checks.weights(a, x.shape[0], "a")
    return x, a


def _check_masses(mass: np.ndarray, a: Array | None) -> None:
    low, high = int(mass.argmin()), int(mass.argmax())
    try:
        checks.equal_mass(mass[low : low + 1], mass[high : high + 1], a, None)
    except ValueError as error:
        raise ValueError(f"measures {low} and {high}, as a and b: {error}") from None


def _check_reach(points: Sequence[Array], cost: Cost) -> None:
    """Refuse points of which some pair would have costs that over- or underflow."""
    if cost.ground not in ("euclidean", "cityblock"):
        return
    low, high = (
        arrays.to_numpy(namespace(x).stack([getattr(namespace(x), end)(arrays.float64(v), axis=0) for v in points]))
        for x, end in ((points[0], "min"), (points[0], "max"))
    )
    with np.errstate(over="ignore", invalid="ignore"):
        widest = cost(low.min(0)[None], high.max(0)[None])
    if not np.isfinite(widest).all():
        raise ValueError("costs must be finite in float64, but their range overflows; divide the data by a constant")
    # Two measures in one narrow place, which are neighbours by their smallest coordinate.
    ends = np.stack([low.min(1), high.max(1)])
    order = np.lexsort(ends[::-1])
    for k, next_k in itertools.pairwise(order):
        if 0 < max(ends[1, k], ends[1, next_k]) - ends[0, k] < cost.smallest:
            try:
                checks.spread(ends[0, k], max(ends[1, k], ends[1, next_k]), cost.smallest)
            except ValueError as error:
                raise ValueError(f"measures {k} and {next_k}, as x and y: {error}") from None


def _filled(weights: list[Array | None], points: list[Array]) -> list[Array]:
    """The weights, with equal ones for a measure without, in the dtype of those that are given."""
    given = [a for a in weights if a is not None]
    like = given[0] if given else arrays.float64(points[0])
    xp, filled = namespace(like), []
    for a, x in zip(weights, points, strict=True):
        n = x.shape[0]
        filled.append(a if a is not None else xp.astype(arrays.from_numpy(np.full(n, 1 / n), like), like.dtype))
    return filled


def _joined(parts: list[Array]) -> Array:
    """The arrays one after the other, in the widest of their dtypes."""
    xp = namespace(parts[0])
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    dtype = xp.result_type(*{part.dtype for part in parts})
    return xp.concat([xp.astype(part, dtype, copy=False) for part in parts], axis=0)
