"""POT's `ot.gaussian`: Wasserstein distances of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.gaussians import gaussian_wasserstein
from otkit.pot.inputs import MarginalsError, like_of

__all__ = ["bures_distance", "bures_wasserstein_distance", "empirical_bures_wasserstein_distance"]


@arrays.eager
def bures_wasserstein_distance(ms: Any, mt: Any, Cs: Any, Ct: Any, paired: bool = False, log: bool = False) -> Any:
    """The 2-Wasserstein distance of Gaussians, as `ot.gaussian.bures_wasserstein_distance`.

    Parameters
    ----------
    ms, mt : array (d,), or (n, d) and (m, d)
        The means.
    Cs, Ct : array (d, d), or (n, d, d) and (m, d, d)
        The covariances, positive semi-definite.
    paired : bool
        Distances of the pairs of one index, in place of all pairs.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array (), (n, m), or (n,) if paired
        The distances, differentiable by means and covariances.
    dict
        With `log`: "Cs12", the roots of the first covariances, without a graph.

    Raises
    ------
    MarginalsError
        A ``ValueError`` and an ``AssertionError``: if there is one Gaussian on one side and a batch on the other.
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.gaussian.bures_wasserstein_distance([0.0], [3.0], [[4.0]], [[36.0]])  # √(3² + (6 − 2)²)
    array(5.)
    """
    names, like = ("ms", "mt", "Cs", "Ct"), like_of(ms, mt, Cs, Ct)
    given = [checks.as_array(v, name, like) for v, name in zip((ms, mt, Cs, Ct), names, strict=True)]
    if [v.ndim for v in given] not in ([1, 1, 2, 2], [2, 2, 3, 3]):
        raise MarginalsError(
            f"means must be (d,) and covariances (d, d) on both sides, or a batch (n, d) and (n, d, d) on both, got "
            f"shapes {', '.join(str(tuple(v.shape)) for v in given)}; add an axis to a single one"
        )
    ms, mt, Cs, Ct = given
    if ms.ndim == 2 and not paired:
        ms, mt, Cs, Ct = ms[:, None], mt[None], Cs[:, None], Ct[None]
    distance = _as_array(gaussian_wasserstein(ms, mt, Cs, Ct), ms)
    return (distance, {"Cs12": _root(given[2])}) if log else distance


@arrays.eager
def bures_distance(Cs: Any, Ct: Any, paired: bool = False, log: bool = False, nx: Any = None) -> Any:
    """The distance of centred Gaussians, as `ot.gaussian.bures_distance`.

    Parameters
    ----------
    Cs, Ct, paired, log
        As in `bures_wasserstein_distance`.
    nx : None
        POT's backends do not exist here.

    Returns
    -------
    array (), (n, m), or (n,) if paired
        The distances.
    dict
        With `log`: "Cs12".

    Raises
    ------
    MarginalsError, ValueError, TypeError
        As `bures_wasserstein_distance` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.gaussian.bures_distance([[4.0]], [[1.0]])
    array(1.)
    """
    if nx is not None:
        raise ValueError(f"nx must be None, got {type(nx).__name__}: otkit finds the library itself; drop it")
    Cs = checks.as_array(Cs, "Cs", like_of(Ct))
    Ct = checks.as_array(Ct, "Ct", Cs)
    ms, mt = (0 * arrays.detached(C[..., 0]) for C in (Cs, Ct))
    return bures_wasserstein_distance(ms, mt, Cs, Ct, paired, log)


@arrays.eager
def empirical_bures_wasserstein_distance(
    xs: Any, xt: Any, reg: float = 1e-6, ws: Any = None, wt: Any = None, bias: bool = True, log: bool = False
) -> Any:
    """The distance of Gaussians fitted to points, as `ot.gaussian.empirical_bures_wasserstein_distance`.

    Parameters
    ----------
    xs, xt : array (n, d), (m, d)
        The points.
    reg : float
        What is added to the variances. `otkit.gaussian_wasserstein` needs none.
    ws, wt : array (n, 1), (m, 1), optional
        Weights; uniform by default.
    bias : bool
        Whether to subtract the means; else the Gaussians are centred.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array ()
        The distance, differentiable by points and weights.
    dict
        With `log`: the covariances "Cs" and "Ct", and "Cs12".

    Raises
    ------
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.gaussian.empirical_bures_wasserstein_distance([[0.0], [2.0]], [[5.0], [7.0]])
    array(5.)
    """
    xs = checks.as_array(xs, "xs", like_of(xt))
    xt = checks.as_array(xt, "xt", xs)
    checks.points(xs, xt)
    (ms, Cs), (mt, Ct) = (_moments(x, w, reg, bias) for x, w in ((xs, ws), (xt, wt)))
    distance, words = bures_wasserstein_distance(ms, mt, Cs, Ct, log=True)
    return (distance, {**words, "Cs": Cs, "Ct": Ct}) if log else distance


def _moments(x: Array, w: Any, reg: float, bias: bool) -> tuple[Array, Array]:
    """The mean ``(d,)`` and the covariance ``(d, d)`` of weighted points."""
    xp = namespace(x)
    w = xp.ones_like(x[:, :1]) if w is None else checks.as_array(w, "the weights", x)
    if w.ndim != 2 or tuple(w.shape) != (x.shape[0], 1):
        raise ValueError(f"ws and wt must have shape ({x.shape[0]}, 1), got {tuple(w.shape)}; pass w[:, None]")
    w = w / xp.sum(w)
    mean = xp.sum(w * x, axis=0) if bias else xp.zeros_like(x[0])
    C = xp.matmul(xp.matrix_transpose(w * (x - mean)), x - mean)
    return mean, C + reg * xp.eye(x.shape[1], dtype=C.dtype, device=arrays.device(C))


def _as_array(value: Any, like: Array) -> Array:
    """A float, or an array of float64, in the library and dtype of `like`."""
    xp = namespace(like)
    value = from_numpy(np.asarray(value), like) if isinstance(value, float) else value
    return xp.astype(value, like.dtype, copy=False) if xp.isdtype(like.dtype, "real floating") else value


def _root(C: Array) -> Array:
    """The symmetric roots of covariances."""
    values, vectors = np.linalg.eigh(to_numpy(C))
    root = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return _as_array(from_numpy(root, C), C)
