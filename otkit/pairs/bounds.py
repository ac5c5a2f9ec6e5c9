"""Lower bounds on all distances of a measure, from moments and one-dimensional projections; no pair is solved.

Every measure becomes a vector: its quantile function along some axes, averaged over equal shares of the mass, and its
means along the others. Distances of these vectors bound those of the measures from below, for these reasons.

- Along an axis, W_r is the L_r distance of quantile functions, which averages over a share of the mass lower (Jensen).
- For orthonormal axes and r = min(p, 2), W_p² ≥ Σ W_r(axis)². The reason is that W_p ≥ W_r, and that
  (E |z|^r)^(2/r) ≥ Σ (E |z_axis|^r)^(2/r) by the reverse of Minkowski's inequality in L_{r/2}.
- City-block distances add up: W_p ≥ W_1 ≥ Σ W_1(axis).
- A cosine distance is half the squared distance of points of length 1, which is convex: W_p ≥ ½ Σ W_2(axis)².

Where r = 2, the leading axes have a second bound, which costs more: the distance of the Gaussians of the same moments
(Gelbrich 1990). With roots R of the covariances RᵀR, it is ‖m − m′‖² + ‖R‖² + ‖R′‖² − 2‖R R′ᵀ‖_*, with Frobenius norms
and a nuclear one.

All bounds are lowered by what rounding may have added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit import arrays
from otkit.geometry.costs import UNIT, Cost
from otkit.pairs.clouds import Clouds

# Axes of which quantiles are kept, and the length of all quantiles of a measure together: a bound costs 0.1 µs.
_AXES, _QUANTILES = 8, 32
# Pairs of points of a pair of measures, from which on the second bound costs less than the pair: with 2 axes, and more
# for the square of each (measured: below, bounds of clouds far from each other cost up to a quarter of all time).
_WORTH, _WORTH_AXES = 1024, 16
# Up to this dimension the axes are principal axes, whose computation grows like its cube.
_TURNED = 512


@dataclass(frozen=True)
class Sketches:
    """Vectors of the measures, in units of `scale`.

    Attributes
    ----------
    quantiles : array (axes, K, Q)
        Mean quantiles along the leading axes.
    means : array (K, others)
        Means along the other axes.
    centres, roots : array (K, axes), (K, axes, axes)
        Means along the leading axes, and roots of the covariances; empty where these give no bound, or one that is not
        worth its time.
    cost : Cost
    scale : float
    relative, absolute : float
        What rounding may have added to a bound.
    cancelled : float
        What it may have added to the square of the second one, relative to the variances.
    """

    quantiles: np.ndarray
    means: np.ndarray
    centres: np.ndarray
    roots: np.ndarray
    cost: Cost
    scale: float
    relative: float
    absolute: float
    cancelled: float

    def below(self, rows: np.ndarray, cols: slice) -> np.ndarray:
        """Lower bounds on the distances of these measures to those: ``(rows, cols)``."""
        from scipy.spatial.distance import cdist

        axes, _, count = self.quantiles.shape
        if not axes:
            return np.zeros((len(rows), len(self.means[cols])))
        block = self.cost.ground == "cityblock"
        r = _order(self.cost)
        name: dict[str, Any] = {1.0: {"metric": "cityblock"}, 2.0: {"metric": "euclidean"}}.get(
            r, {"metric": "minkowski", "p": r}
        )
        total = cdist(self.means[rows], self.means[cols], "cityblock" if block else "sqeuclidean")
        for axis in self.quantiles:
            along = cdist(axis[rows], axis[cols], **name) / count ** (1 / r)
            total += along if block else along * along
        return self._lowered(total if block else np.sqrt(total))

    def of_moments(self, row: int, cols: np.ndarray) -> np.ndarray:
        """The second bound on the distances of a measure to those; 0 where there is none."""
        if not len(self.roots):
            return np.zeros(len(cols))
        one, others = self.roots[row], self.roots[cols]
        variance = (one**2).sum() + (others**2).sum((1, 2))
        common = np.linalg.svd(others @ one.T, compute_uv=False).sum(-1)
        apart = sum(((v[cols] - v[row]) ** 2).sum(-1) for v in (self.centres, self.means))
        squared = apart + variance - 2 * common - self.cancelled * variance
        return self._lowered(np.sqrt(np.maximum(squared, 0.0)))

    def _lowered(self, total: np.ndarray) -> np.ndarray:
        """Bounds in the caller's units, less what rounding may have added."""
        total = np.maximum(total * (1 - self.relative) - self.absolute, 0.0) * self.scale
        return total * total / 2 if self.cost.ground == "cosine" else total


def _order(cost: Cost) -> float:
    """The order r of the distances along an axis."""
    if cost.ground == "cityblock":
        return 1.0
    return 2.0 if cost.ground == "cosine" else min(cost.power, 2.0)


def sketches(clouds: Clouds, cost: Cost) -> Sketches:
    """The vectors of all measures. Those for a callable have no axes, and their bounds are 0."""
    K = len(clouds)
    if callable(cost.ground):
        nothing = np.empty((K, 0))
        return Sketches(np.empty((0, K, 1)), nothing, nothing, np.empty((0, 0, 0)), cost, 1.0, 0.0, 0.0, 0.0)
    x = arrays.to_numpy(clouds.points).astype(np.float64)
    if cost.ground == "cosine":
        x = x / abs(x).max(-1, keepdims=True)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
    n, d = int(clouds.sizes.max()), x.shape[1]
    # A power of two, so that squares neither over- nor underflow where it matters.
    middle = x.min(0) / 2 + x.max(0) / 2
    scale = 2.0 ** np.ceil(np.log2(max(float(abs(x - middle).max()), np.finfo(float).tiny)))
    x = (x - middle) / scale
    turn, stretch = _axes(x, cost)
    x = x @ turn if turn is not None else x[:, np.argsort(-x.var(0), kind="stable")]
    axes = min(d, _AXES)
    count = _QUANTILES // axes
    quantiles, means = np.empty((axes, K, count)), np.empty((K, d))
    worth = (
        cost.ground != "cityblock" and _order(cost) == 2 and clouds.sizes.mean() ** 2 >= _WORTH + _WORTH_AXES * axes**2
    )
    roots = np.zeros((K if worth else 0, axes, axes))
    for k in range(K):
        own = x[clouds.starts[k] : clouds.starts[k + 1]]
        w = _weights(clouds, k)
        means[k] = w @ own
        if worth:
            root = np.linalg.qr(np.sqrt(w)[:, None] * (own - means[k])[:, :axes], mode="r")
            roots[k, : len(root)] = root
        quantiles[:, k] = _mean_quantiles(own[:, :axes].T, w, count)
    # Coordinates are at most 1, and their sums have n or d terms.
    coordinate = ((d + 8) * d + count * (16 * n + 64)) * UNIT
    return Sketches(
        quantiles=quantiles,
        means=means[:, axes:],
        centres=means[:, :axes],
        roots=roots,
        cost=cost,
        scale=float(scale),
        relative=stretch + 8 * (count + d + 16) * UNIT,
        absolute=2 * coordinate * (d if cost.ground == "cityblock" else d**0.5),
        cancelled=16 * (n * axes + 8 * axes**3) * UNIT,
    )


def _axes(x: np.ndarray, cost: Cost) -> tuple[np.ndarray | None, float]:
    """Principal axes from the widest on, and by how much they may lengthen a vector; None for the coordinates."""
    d = x.shape[1]
    if cost.ground == "cityblock" or d == 1 or d > _TURNED:
        return None, 0.0
    turn = np.linalg.eigh(np.cov(x, rowvar=False))[1][:, ::-1] if len(x) > 1 else np.eye(d)
    return turn, float(np.linalg.norm(turn.T @ turn - np.eye(d))) + 4 * d * d * UNIT


def _weights(clouds: Clouds, k: int) -> np.ndarray:
    a = clouds[k][1]
    if a is None:
        return np.full(clouds.sizes[k], 1 / clouds.sizes[k])
    a = arrays.to_numpy(a).astype(np.float64)
    return a / a.sum()


def _mean_quantiles(x: np.ndarray, w: np.ndarray, count: int) -> np.ndarray:
    """Quantile functions of the rows of ``x (axes, n)`` averaged over equal shares of the mass: ``(axes, count)``."""
    order = np.argsort(x, axis=-1)
    mass, at = w[order], np.take_along_axis(x, order, axis=-1)
    upto, integral = (np.pad(np.cumsum(v, axis=-1), ((0, 0), (1, 0))) for v in (mass, mass * at))
    ends = np.linspace(0, 1, count + 1)
    return count * np.diff([np.interp(ends, t, v) for t, v in zip(upto, integral, strict=True)], axis=-1)
