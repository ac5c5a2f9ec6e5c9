"""POT's `ot.bregman`: entropic transport. All of POT's methods are names of one solver here, in the log domain."""

from __future__ import annotations

from typing import Any

from otkit import arrays, checks
from otkit.pot.barycenter import barycenter, barycenter_debiased
from otkit.pot.calls import entropic_log, initial, run, threshold
from otkit.pot.empirical import empirical_sinkhorn, empirical_sinkhorn2, empirical_sinkhorn_divergence
from otkit.pot.inputs import costs, one_of, steering, weights
from otkit.results import Result

__all__ = [
    "barycenter",
    "barycenter_debiased",
    "empirical_sinkhorn",
    "empirical_sinkhorn2",
    "empirical_sinkhorn_divergence",
    "sinkhorn",
    "sinkhorn2",
]

_IN_COST = ("sinkhorn_stabilized", "sinkhorn_epsilon_scaling")  # whose dual vectors are in units of the cost
METHODS = ("sinkhorn", "sinkhorn_log", "greenkhorn", *_IN_COST)
_OF_LOSSES = ("sinkhorn", "sinkhorn_log", "sinkhorn_stabilized")
_LIMIT = 1000  # POT's default, in place of which stands otkit's own


def _solved(
    measures: tuple[Any, Any, Any],
    reg: Any,
    method: str,
    limits: tuple[int, float],
    words: tuple[bool, bool],
    warmstart: Any,
) -> Result:
    """The entropic solve of `measures` (a, b, M); `words` are verbose and warn."""
    a, b, M = measures
    checks.regularisation(reg)
    most, tol = limits
    threshold(tol)
    geometry = costs(M, a, b)
    pair = weights(a, "a", geometry), weights(b, "b", geometry)
    init = initial(warmstart, pair, reg, in_cost=method in _IN_COST)
    limit = ("numItermax", most, _LIMIT)
    return run(geometry, (*pair, reg, None), limit, tol=tol, init=init, verbose=words[0], warns=words[1])


@arrays.eager
def sinkhorn(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    method: str = "sinkhorn",
    numItermax: int = _LIMIT,
    stopThr: float = 1e-9,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The entropic plan of transport, as `ot.sinkhorn`; in autograd's graph where the input requires gradients.

    Parameters
    ----------
    a : array (n,)
    b : array (m,) or (m, K)
        Weights of one total, or K histograms in columns; uniform where empty.
    M : array (n, m)
        The costs; ``inf`` forbids an arc.
    reg : float
        The regularisation, in units of the cost.
    method : str
        "sinkhorn", "sinkhorn_log", "sinkhorn_stabilized", "sinkhorn_epsilon_scaling" or "greenkhorn": all are computed
        in the log domain by the solver that otkit chooses, and have one answer.
    numItermax : int
        Maximum number of iterations; POT's default stands for otkit's own.
    stopThr : float
        Bound on the L1 errors of both marginals, relative to the mass, and so on the error that POT bounds. 0 runs
        exactly `numItermax` plain iterations.
    verbose : bool
        Show a progress bar on the standard error, if that is a terminal.
    log : bool
        Return a dictionary too.
    warn : bool
        Warn if the error is not reached.
    warmstart : tuple (u, v), optional
        Dual vectors to start from: logarithms of the scalings, or `reg` times these for the method
        "sinkhorn_stabilized" or "sinkhorn_epsilon_scaling".
    **kwargs
        "tau", "epsilon0" and "numInnerItermax" have no effect: how POT computes. Others are refused.

    Returns
    -------
    array (n, m)
        The plan. Of K histograms, the linear costs ``(K,)``.
    dict
        With `log`: the keys of all methods of POT, "u" and "v" for the scalings, "log_u", "alpha", "err" and so on.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.sinkhorn([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], 1).round(4)
    array([[0.3655, 0.1345],
           [0.1345, 0.3655]])
    """
    method = one_of(method, "method", METHODS)
    steering(kwargs)
    result = _solved((a, b, M), reg, method, (numItermax, stopThr), (verbose, warn), warmstart)
    answer = result.value_linear if result.problem.batch else result.plan
    return (answer, entropic_log(result)) if log else answer


@arrays.eager
def sinkhorn2(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    method: str = "sinkhorn",
    numItermax: int = _LIMIT,
    stopThr: float = 1e-9,
    verbose: bool = False,
    log: bool = False,
    warn: bool = False,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The linear cost ⟨M, P⟩ of the entropic plan, as `ot.sinkhorn2`, differentiable by a, b, M and reg.

    Parameters
    ----------
    method : str
        "sinkhorn", "sinkhorn_log" or "sinkhorn_stabilized".
    a, b, M, reg, numItermax, stopThr, verbose, log, warn, warmstart, **kwargs
        As in `sinkhorn`.

    Returns
    -------
    array ()
        The cost. Of K histograms, ``(K,)``.
    dict
        With `log`, as in `sinkhorn`.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> float(ot.sinkhorn2([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], 1).round(6))
    0.268941
    """
    method = one_of(method, "method", _OF_LOSSES)
    steering(kwargs)
    result = _solved((a, b, M), reg, method, (numItermax, stopThr), (verbose, warn), warmstart)
    return (result.value_linear, entropic_log(result)) if log else result.value_linear
