"""POT's barycenter of histograms in `ot.bregman`."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.barycenters.face import on_support
from otkit.errors import warn as told
from otkit.geometry.dense import Dense
from otkit.pot.inputs import like_of, one_of, unused
from otkit.solvers.watch import Watch

METHODS = ("sinkhorn", "sinkhorn_stabilized", "sinkhorn_log")
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
    unused(kwargs)
    checks.positive(numItermax, "numItermax")
    M = checks.as_array(M, "M", like_of(A))
    A = arrays.detached(checks.as_array(A, "A", M))
    if A.ndim != 2:
        raise ValueError(f"A must have shape (n, K), one histogram in each column, got {tuple(A.shape)}; stack them")
    tol = stopThr or float(np.finfo(np.float64).tiny)
    options = dict(tol=tol, rtol=None, max_iter=None if numItermax == _LIMIT else numItermax)
    watch = Watch.of(progress=verbose)
    answer = on_support(A.T, Dense(arrays.detached(M)), weights, reg, False, options, watch)
    short = answer.result.outcome.short
    if warn and short.any():
        told(answer.result.outcome.status[int(short.argmax())].value.replace("max_iter", "numItermax"))
    if not log:
        return answer.masses
    words = {"err": [float(np.max(e)) for e in answer.result.errors], "niter": int(np.max(answer.result.n_iter))}
    return answer.masses, words
