"""POT's barycenters: of histograms in `ot.bregman`, of clouds of points in `ot.lp`."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import from_numpy, namespace
from otkit.barycenters.face import on_support
from otkit.barycenters.free import Stacked, centres, transport
from otkit.barycenters.shares import shares_of
from otkit.errors import warn as told
from otkit.geometry.costs import parse_cost
from otkit.geometry.dense import Dense
from otkit.pairs.clouds import checked
from otkit.pot.calls import threshold
from otkit.pot.inputs import like_of, one_of, steering, threads
from otkit.solvers.watch import Watch

METHODS = ("sinkhorn", "sinkhorn_stabilized", "sinkhorn_log")
_DEBIASED = ("sinkhorn", "sinkhorn_log")
_LIMIT = 10000  # POT's default, in place of which stands otkit's own


@arrays.eager
def barycenter(
    A: Any,
    M: Any,
    reg: Any,
    weights: Any = None,
    method: str = "sinkhorn",
    numItermax: int = _LIMIT,
    stopThr: float = 1e-4,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    **kwargs: Any,
) -> Any:
    """The entropic barycenter of histograms, as `ot.bregman.barycenter`.

    Parameters
    ----------
    A : array (n, K)
        K histograms of one total, in columns.
    M : array (n, m)
        The costs between the points of the histograms and those of the barycenter.
    reg : float
        The regularisation, in units of the cost.
    weights : array (K,), optional
        The weights of the histograms, divided by their sum; equal by default. With others, POT's "sinkhorn" gives
        another measure than its "sinkhorn_log".
    method : str
        "sinkhorn", "sinkhorn_stabilized" or "sinkhorn_log", which have one answer here.
    numItermax : int
        Maximum number of iterations; POT's default stands for otkit's own.
    stopThr : float
        Bound on the error of the marginals, as `tol` of `otkit.barycenter`. 0 runs `numItermax` iterations, or until
        the error no longer falls.
    verbose, warn, **kwargs
        As in `sinkhorn`.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array (m,)
        The masses of the barycenter, without a graph.
    dict
        With `log`: "err" and "niter".

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit.pot as ot
    >>> M = ot.dist(np.arange(5.0)[:, None])
    >>> ot.bregman.barycenter(np.eye(5)[:, [0, 4]], M, 0.1).round(3)
    array([0., 0., 1., 0., 0.])
    """
    one_of(method, "method", METHODS)
    steering(kwargs)
    return _solved((A, M), (reg, weights), (numItermax, stopThr), (verbose, log, warn))


@arrays.eager
def barycenter_debiased(
    A: Any,
    M: Any,
    reg: Any,
    weights: Any = None,
    method: str = "sinkhorn",
    numItermax: int = _LIMIT,
    stopThr: float = 1e-4,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    **kwargs: Any,
) -> Any:
    """The barycenter of histograms by Sinkhorn divergences, as `ot.bregman.barycenter_debiased`.

    Parameters
    ----------
    M : array (n, n)
        The costs between the points, a symmetric matrix.
    method : str
        "sinkhorn" or "sinkhorn_log", which have one answer here.
    A, reg, weights, numItermax, stopThr, verbose, log, warn, **kwargs
        As in `barycenter`.

    Returns
    -------
    array (n,)
        The masses of the barycenter, without a graph.
    dict
        With `log`: "err" and "niter".

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit.pot as ot
    >>> M = ot.dist(np.arange(5.0)[:, None])
    >>> ot.bregman.barycenter_debiased(np.eye(5)[:, [0, 4]], M, 2.0).round(1)
    array([0., 0., 1., 0., 0.])
    """
    one_of(method, "method", _DEBIASED)
    steering(kwargs)
    return _solved((A, M), (reg, weights), (numItermax, stopThr), (verbose, log, warn), debias=True)


def _solved(
    measures: tuple[Any, Any],
    problem: tuple[Any, Any],
    limits: tuple[int, float],
    words: tuple[bool, bool, bool],
    *,
    debias: bool = False,
) -> Any:
    """What both functions return of `measures` (A, M) and `problem` (reg, weights); `words` are verbose, log, warn."""
    (A, M), (reg, weights), (most, stop), (verbose, log, warns) = measures, problem, limits, words
    checks.positive(most, "numItermax")
    threshold(stop)
    M = checks.as_array(M, "M", like_of(A))
    A = arrays.detached(checks.as_array(A, "A", M))
    if A.ndim != 2:
        raise ValueError(f"A must have shape (n, K), one histogram in each column, got {tuple(A.shape)}; stack them")
    tol = stop or float(np.finfo(np.float64).tiny)
    options = dict(tol=tol, rtol=None, max_iter=None if most == _LIMIT else most)
    answer = on_support(A.T, Dense(arrays.detached(M)), weights, reg, debias, options, Watch.of(progress=verbose))
    short = answer.result.outcome.short
    if warns and short.any():
        told(answer.result.outcome.status[int(short.argmax())].value.replace("max_iter", "numItermax"))
    if not log:
        return answer.masses
    return answer.masses, {
        "err": [float(np.max(e)) for e in answer.result.errors],
        "niter": int(np.max(answer.result.n_iter)),
    }


@arrays.eager
def free_support_barycenter(
    measures_locations: Any,
    measures_weights: Any,
    X_init: Any,
    b: Any = None,
    weights: Any = None,
    numItermax: int = 100,
    stopThr: float = 1e-7,
    verbose: bool = False,
    log: Any = None,
    numThreads: Any = 1,
) -> Any:
    """The barycenter of clouds for squared distances whose points move, as `ot.lp.free_support_barycenter`.

    `otkit.barycenter` has other distances, and stops by the objective.

    Parameters
    ----------
    measures_locations : list of K arrays (n_k, d)
        The points of the measures.
    measures_weights : list of K arrays (n_k,)
        Their weights, of one total.
    X_init : array (k, d)
        The points to start from.
    b : array (k,), optional
        The weights of the barycenter, of the same total; equal by default.
    weights : array (K,), optional
        The weights of the measures, divided by their sum; equal by default.
    numItermax : int
        Maximum number of updates of the points.
    stopThr : float
        Stop once an update moves the points by at most this sum of squared distances.
    verbose : bool
        No effect: POT prints what the log has.
    log : bool, optional
        Return a dictionary too.
    numThreads
        No effect, as in POT; a ``DeprecationWarning`` says so.

    Returns
    -------
    array (k, d)
        The points of the barycenter, without a graph. One without weight stays where it was.
    dict
        With `log`: "displacement_square_norms".

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.lp.free_support_barycenter([[[0.0], [1.0]], [[4.0], [5.0]]], [[0.5, 0.5]] * 2, [[1.0], [2.0]])
    array([[2.],
           [3.]])
    """
    threads(numThreads)
    checks.positive(numItermax, "numItermax")
    checks.positive(stopThr, "stopThr")
    cost = parse_cost("sqeuclidean")
    pairs = zip(measures_locations, measures_weights, strict=True)
    clouds = checked([(arrays.detached(y), arrays.detached(a)) for y, a in pairs], cost)
    x = arrays.detached(checks.as_array(X_init, "X_init", like_of(*measures_locations)))
    if x.ndim != 2 or x.shape[1] != clouds.points.shape[1]:
        raise ValueError(f"X_init must have shape (k, {clouds.points.shape[1]}), got {tuple(x.shape)}; pass k points")
    shares, stacked, moves = shares_of(weights, (len(clouds),)), Stacked.of(clouds, x), []
    total = arrays.float64(stacked.a[0, :]).sum()
    b = from_numpy(np.full(len(x), float(total) / len(x)), x) if b is None else checks.as_array(b, "b", x)
    for _ in range(numItermax):
        moved = centres(transport(stacked, x, arrays.detached(b), cost, None, None), stacked, x, shares, cost)
        moves.append(float(namespace(x).sum((moved - x) ** 2)))
        x = moved
        if moves[-1] <= stopThr:
            break
    return (x, {"displacement_square_norms": moves}) if log else x
