"""POT's `ot.utils`: uniform weights, matrices of distances, and plans that are evaluated where they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.geometry.points import PointCloud
from otkit.pot.inputs import like_of

# Distances by the costs of otkit, which need no matrix and lose no digits to cancellation.
CLOUDS = ("sqeuclidean", "euclidean", "cityblock", "cosine")


def unif(n: int, type_as: Any = None) -> Array:
    """Uniform weights 1/n.

    Parameters
    ----------
    n : int
    type_as : array, optional
        The model for library, dtype and device; NumPy and float64 by default.

    Returns
    -------
    array (n,)

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.unif(4)
    array([0.25, 0.25, 0.25, 0.25])
    """
    if type_as is None:
        return np.full(n, 1 / n)
    return namespace(type_as).ones(n, dtype=type_as.dtype, device=arrays.device(type_as)) / n


@arrays.eager
def dist(
    x1: Any,
    x2: Any = None,
    metric: Any = "sqeuclidean",
    p: float = 2,
    w: Any = None,
    backend: str = "auto",
    nx: Any = None,
    use_tensor: bool = False,
) -> Array:
    """The matrix of distances between two clouds of points, in autograd's graph where they require gradients.

    Parameters
    ----------
    x1 : array (n, d)
    x2 : array (m, d), optional
        The points; `x1` again by default.
    metric : str or callable
        "sqeuclidean", "euclidean", "cityblock", "minkowski", "cosine" and "correlation" of any library, and of NumPy
        every metric of `scipy.spatial.distance.cdist`.
    p : float
        The order of "minkowski".
    w : array (d,), optional
        Weights of the coordinates. POT drops them without a word for most metrics; here the metric takes them or it is
        an error.
    backend, use_tensor
        How POT computes the matrix; the result does not depend on it.
    nx : None
        POT's backends do not exist here.

    Returns
    -------
    array (n, m)

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        If the points or the metric are invalid, or there is no such metric for the library of the points.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.dist([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
    array([[25.,  1.]])
    """
    if nx is not None:
        raise ValueError(f"nx must be None, got {type(nx).__name__}: otkit finds the library from the points; drop it")
    x1 = checks.as_array(x1, "x1", like_of(x2))
    x2 = x1 if x2 is None else checks.as_array(x2, "x2", x1)
    checks.same_library(x1=x1, x2=x2)
    checks.points(x1, x2)
    dtype = namespace(x1).result_type(x1, x2)
    x1, x2 = arrays.float64(x1), arrays.float64(x2)
    M = _distances(x1, x2, metric, p, w)
    xp = namespace(M)
    return xp.astype(M, dtype, copy=False) if xp.isdtype(dtype, "real floating") else M


def _distances(x: Array, y: Array, metric: Any, p: float, w: Any) -> Array:
    """Distances in float64."""
    if metric == "minkowski":
        if w is not None:
            scale = checks.as_array(w, "w", x) ** (1 / p)
            x, y = x * scale, y * scale
        return root(_sum_of_powers(x, y, p), 1 / p)
    if metric == "correlation" and w is None:
        xp = namespace(x)
        x, y = (v - xp.mean(v, axis=-1, keepdims=True) for v in (x, y))
        metric = "cosine"
    if metric in CLOUDS and w is None:
        squared = PointCloud(x, y, "sqeuclidean" if metric == "euclidean" else metric)
        squared.check()
        M = squared.flat(()).block(slice(0, 1), slice(None))[0]
        return root(M, 0.5) if metric == "euclidean" else M
    if not isinstance(x, np.ndarray):
        raise NotImplementedError(
            f"metric must be one of {', '.join((*CLOUDS, 'minkowski', 'correlation'))}, without w=, for arrays of "
            f"{arrays.library_name(x)}, got {metric!r}; convert the points to NumPy for those of SciPy"
        )
    from scipy.spatial.distance import cdist

    return cdist(x, y, metric=metric, **({} if w is None else {"w": w}))


def _sum_of_powers(x: Array, y: Array, p: float) -> Array:
    total = 0.0
    for k in range(x.shape[-1]):
        total = total + abs(x[:, None, k] - y[None, :, k]) ** p
    return total


def root(S: Array, exponent: float) -> Array:
    """A power of non-negative numbers, whose derivative at 0 is 0."""
    xp = namespace(S)
    positive = S > 0
    return xp.where(positive, xp.where(positive, S, xp.ones_like(S)) ** exponent, xp.zeros_like(S))


class LazyTensor:
    """A matrix of which only the entries that are read are computed.

    Parameters
    ----------
    shape : tuple of int
    getitem : callable
        Called with one slice for each axis and the keyword arguments; returns the tile.
    **kwargs
        Arrays that it needs, which become attributes too.

    Examples
    --------
    >>> import numpy as np
    >>> from otkit.pot.utils import LazyTensor
    >>> v = np.arange(3.0)
    >>> LazyTensor((3, 3), lambda i, j, v: v[i, None] * v[None, j], v=v)[2]
    array([[0., 2., 4.]])
    """

    def __init__(self, shape: tuple[int, ...], getitem: Callable[..., Array], **kwargs: Any) -> None:
        self.shape, self.ndim, self.kwargs = shape, len(shape), kwargs
        self._getitem = getitem
        vars(self).update(kwargs)

    def __getitem__(self, key: Any) -> Array:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.ndim or not all(isinstance(k, (int, np.integer, slice)) for k in keys):
            raise NotImplementedError(
                f"an index must be integers and slices, at most {self.ndim}, got {key!r}; read a slice and index that"
            )
        whole = (slice(None),) * (self.ndim - len(keys))
        return self._getitem(*keys, *whole, **self.kwargs)

    def __repr__(self) -> str:
        return f"LazyTensor(shape={self.shape},attributes=({','.join(self.kwargs)}))"
