"""POT's `ot.sliced`: Wasserstein distances of projections to lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace
from otkit.pot.inputs import like_of
from otkit.pot.line import wasserstein_1d
from otkit.pot.utils import root

__all__ = ["get_random_projections", "max_sliced_wasserstein_distance", "sliced_wasserstein_distance"]


def get_random_projections(
    d: int, n_projections: int, seed: Any = None, backend: Any = None, type_as: Any = None
) -> Array:
    """Random directions, as `ot.sliced.get_random_projections`: the same numbers as POT's for NumPy.

    Parameters
    ----------
    d, n_projections : int
    seed : int or numpy.random.RandomState, optional
        Also of tensors the numbers are drawn by NumPy.
    backend : optional
        A backend of POT, whose library the directions are of where `type_as` is not given.
    type_as : array, optional
        The model for library, dtype and device.

    Returns
    -------
    array (d, n_projections)
        Directions of length 1, in columns.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.sliced.get_random_projections(2, 3, seed=0).shape
    (2, 3)
    """
    if backend is not None and not hasattr(backend, "from_numpy"):
        raise ValueError(f"backend must be one of POT, got {type(backend).__name__}: pass type_as=, or drop it")
    drawn = (seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)).randn(d, n_projections)
    drawn = drawn / np.sqrt((drawn**2).sum(0, keepdims=True))
    if type_as is None:
        return drawn if backend is None else backend.from_numpy(drawn)
    return namespace(type_as).astype(from_numpy(drawn, type_as), type_as.dtype, copy=False)


@arrays.eager
def sliced_wasserstein_distance(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: float = 2,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """The sliced Wasserstein distance, as `ot.sliced_wasserstein_distance`.

    Parameters
    ----------
    X_s, X_t : array (n, d), (m, d)
        The points.
    a, b : array (n,), (m,), optional
        Weights of one total; uniform by default.
    n_projections : int
        The number of random directions.
    p : float
        The order, at least 1.
    projections : array (d, k), optional
        The directions, in columns.
    seed : int or numpy.random.RandomState, optional
        The seed of random directions; of NumPy the same numbers as POT's.
    log : bool
        Return a dictionary too.
    scaler : callable or object with a ``transform`` method, optional
        Applied to both clouds first.

    Returns
    -------
    array ()
        The distance, differentiable by points and weights. `otkit.sliced_wasserstein` has its standard error too.
    dict
        With `log`: "projections" and "projected_emds", the p-th powers of the distances on the lines.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.sliced_wasserstein_distance([[0.0, 0.0]], [[3.0, 4.0]], projections=[[1.0, 0.0], [0.0, 1.0]])
    array(3.53553391)
    """
    projections, powers = _on_lines((X_s, X_t), (a, b), projections, (n_projections, seed), p, scaler)
    distance = root(namespace(powers).mean(powers), 1 / p)
    return (distance, {"projections": projections, "projected_emds": powers}) if log else distance


@arrays.eager
def max_sliced_wasserstein_distance(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: float = 2,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """The largest distance on any of the lines, as `ot.max_sliced_wasserstein_distance`.

    Parameters
    ----------
    X_s, X_t, a, b, n_projections, p, projections, seed, log, scaler
        As in `sliced_wasserstein_distance`.

    Returns
    -------
    array ()
        The distance. `otkit.sliced_wasserstein` with ``largest=True`` ascends from the directions to a larger one.
    dict
        With `log`, as in `sliced_wasserstein_distance`.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.max_sliced_wasserstein_distance([[0.0, 0.0]], [[3.0, 4.0]], projections=[[1.0, 0.0], [0.0, 1.0]])
    array(4.)
    """
    projections, powers = _on_lines((X_s, X_t), (a, b), projections, (n_projections, seed), p, scaler)
    distance = root(namespace(powers).max(powers), 1 / p)
    return (distance, {"projections": projections, "projected_emds": powers}) if log else distance


def _on_lines(
    points: tuple[Any, Any],
    pair: tuple[Any, Any],
    directions: Any,
    drawn: tuple[int, Any],
    p: float,
    scaler: Any,
) -> tuple[Array, Array]:
    """The directions ``(d, k)``, and the p-th powers of the distances along them ``(k,)``.

    If none are given they are `drawn`: a number of them, and the seed.
    """
    x = checks.as_array(points[0], "X_s", like_of(points[1]))
    y = checks.as_array(points[1], "X_t", x)
    if scaler is not None:
        scale = getattr(scaler, "transform", scaler)
        if not callable(scale):
            raise ValueError(
                f"scaler must be callable or have a method transform, got {type(scaler).__name__}; pass a function"
            )
        x, y = (checks.as_array(scale(v), "scaler(X)", v) for v in (x, y))
    checks.same_library(X_s=x, X_t=y)
    checks.points(x, y)
    if directions is None:
        directions = get_random_projections(x.shape[1], *drawn, type_as=x)
    directions = checks.as_array(directions, "projections", x)
    if directions.ndim != 2 or directions.shape[0] != x.shape[1]:
        raise ValueError(
            f"projections must have shape ({x.shape[1]}, k), one direction in each column, got "
            f"{tuple(directions.shape)}; transpose them"
        )
    xp = namespace(x)
    return directions, wasserstein_1d(xp.matmul(x, directions), xp.matmul(y, directions), *pair, p=p)
