"""POT's `ot.partial`: transport of a part of the mass."""

from __future__ import annotations

from typing import Any

from otkit import arrays, checks
from otkit.arrays import namespace
from otkit.pot.calls import exact_log, run
from otkit.pot.entropic_partial import entropic_partial
from otkit.pot.inputs import costs, one_of, threads, unused, weights
from otkit.results import Result

__all__ = [
    "entropic_partial_wasserstein",
    "entropic_partial_wasserstein_logscale",
    "partial_wasserstein",
    "partial_wasserstein2",
]

METHODS = ("sinkhorn", "sinkhorn_log")
_PIVOTS = 100000  # POT's defaults, in place of which stand otkit's own
_LIMIT, _STOP = 1000, 1e-100


def _solved(measures: tuple[Any, Any, Any], m: Any, nb_dummies: int, kwargs: dict[str, Any]) -> Result:
    """The exact solve of `measures` (a, b, M), with the keyword arguments that POT passes on to `ot.emd`."""
    checks.positive(nb_dummies, "nb_dummies")
    kwargs = dict(kwargs)
    threads(kwargs.pop("numThreads", 1))
    limit = kwargs.pop("numItermax", _PIVOTS)
    for name in ("center_dual", "check_marginals"):
        kwargs.pop(name, None)
    unused(kwargs, "the problem with one more row and column starts from masses of its own")
    a, b, M = measures
    geometry = costs(M, a, b)
    pair = weights(a, "a", geometry), weights(b, "b", geometry)
    return run(geometry, (*pair, None, None, least_total(*pair) if m is None else m), ("numItermax", limit, _PIVOTS))


def least_total(a: Any, b: Any) -> Any:
    """The largest mass that can move: the smaller total, that of uniform weights being 1."""
    totals = [namespace(w).sum(w) for w in (a, b) if w is not None]
    one = 1.0 if len(totals) < 2 else totals[1]
    return one if not totals else namespace(totals[0]).minimum(totals[0], one + 0.0 * totals[0])


def _log(result: Result) -> dict[str, Any]:
    """POT's log of an exact solve: the dual variables are those of the problem with one more row and column."""
    assert result.whole is not None
    words = exact_log(result.whole)
    return {**words, "cost": result.value, "u": words["u"][:-1], "v": words["v"][:-1], "partial_w_dist": result.value}


@arrays.eager
def partial_wasserstein(
    a: Any, b: Any, M: Any, m: Any = None, nb_dummies: int = 1, log: bool = False, **kwargs: Any
) -> Any:
    """The plan of least cost that moves a mass, as `ot.partial.partial_wasserstein`.

    Parameters
    ----------
    a : array (n,)
    b : array (m,)
        Weights of any totals; uniform where empty.
    M : array (n, m) or sparse matrix of SciPy
        The costs; ``inf`` forbids an arc, and so does a missing entry of a sparse matrix.
    m : float, optional
        The mass that moves, at most the smaller total; by default that total.
    nb_dummies : int
        How POT computes the plan, which does not depend on it.
    log : bool
        Return a dictionary too.
    **kwargs
        "numItermax" and "numThreads", as in `emd`. "center_dual" and "check_marginals" have no effect: the constant of
        the dual variables is open, and totals may differ. Others are refused.

    Returns
    -------
    array (n, m)
        The plan, without a graph.
    dict
        With `log`: "partial_w_dist" and "cost", "u", "v", "warning" and "result_code".

    Raises
    ------
    ValueError, TypeError
        If the data are invalid, or the mass is not above 0 and at most the smaller total.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.partial.partial_wasserstein([0.1, 0.2], [0.1, 0.1], [[0.0, 1.0], [2.0, 3.0]], m=0.1)
    array([[0.1, 0. ],
           [0. , 0. ]])
    """
    result = _solved((a, b, M), m, nb_dummies, kwargs)
    plan = arrays.detached(result.plan)
    return (plan, _log(result)) if log else plan


@arrays.eager
def partial_wasserstein2(
    a: Any, b: Any, M: Any, m: Any = None, nb_dummies: int = 1, log: bool = False, **kwargs: Any
) -> Any:
    """The least cost of moving a mass, as `ot.partial.partial_wasserstein2`.

    Parameters
    ----------
    a, b, M, m, nb_dummies, log, **kwargs
        As in `partial_wasserstein`.

    Returns
    -------
    array ()
        The cost, differentiable by a, b, M and m; in POT by M alone.
    dict
        With `log`, as in `partial_wasserstein`, and the plan as "T".

    Raises
    ------
    ValueError, TypeError
        As `partial_wasserstein` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> float(ot.partial.partial_wasserstein2([0.1, 0.2], [0.1, 0.1], [[0.0, 1.0], [2.0, 3.0]]).round(9))
    0.3
    """
    result = _solved((a, b, M), m, nb_dummies, kwargs)
    return (result.value, {**_log(result), "T": arrays.detached(result.plan)}) if log else result.value


@arrays.eager
def entropic_partial_wasserstein(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    m: Any = None,
    method: str = "sinkhorn",
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The plan of least regularised cost that moves a mass, as `ot.partial.entropic_partial_wasserstein`.

    It minimises ⟨M, P⟩ + reg·Σ P log P. With ``otkit.solve(M, a, b, reg=reg, mass=m)``, the mass that stays is
    regularised too, with bounds on the optimum. Both tend to the same plan as `reg` falls.

    Parameters
    ----------
    a : array (n,)
    b : array (m,)
        Weights of any totals; uniform where empty.
    M : array (n, m)
        The costs; ``inf`` forbids an arc.
    reg : float
        The regularisation, in units of the cost.
    m : float, optional
        The mass that moves, at most the smaller total; by default that total.
    method : str
        "sinkhorn" or "sinkhorn_log", which have one answer here, of the second.
    numItermax : int
        Maximum number of iterations over decreasing regularisations; POT's default stands for 10,000.
    stopThr : float
        Bound on the error of the row sums, in L1 relative to the mass; POT's default stands for 1e-9, or what rounding
        allows. The column sums fit and the mass is exact.
    verbose : bool
        No effect: POT prints its errors, which the log has.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array (n, m)
        The plan, in autograd's graph where the input requires gradients. These are those of the optimum, by a dense
        linear system of up to n + m + 1 unknowns.
    dict
        With `log`: "err", the errors of the iterations, and "partial_w_dist", ⟨M, P⟩.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid, or the mass is not above 0 and at most the smaller total.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.partial.entropic_partial_wasserstein([0.1, 0.2], [0.1, 0.1], [[0.0, 1.0], [2.0, 3.0]], 1, 0.1).round(2)
    array([[0.06, 0.02],
           [0.01, 0.  ]])
    """
    one_of(method, "method", METHODS)
    checks.positive(numItermax, "numItermax")
    checks.positive(stopThr, "stopThr")
    geometry = costs(M, a, b)
    pair = weights(a, "a", geometry), weights(b, "b", geometry)
    limits = None if numItermax == _LIMIT else numItermax, None if stopThr == _STOP else stopThr
    plan, errors = entropic_partial(geometry, pair, reg, least_total(*pair) if m is None else m, limits)
    if not log:
        return plan
    M = next(iter(geometry.arrays.values()))
    xp = namespace(plan)
    cost = xp.sum(xp.where(plan > 0, plan * xp.where(plan > 0, xp.astype(M, plan.dtype), 0.0), 0.0))
    return plan, {"err": errors, "partial_w_dist": cost}


def entropic_partial_wasserstein_logscale(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    m: Any = None,
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The same as `entropic_partial_wasserstein`, as in POT's log domain.

    Parameters
    ----------
    a, b, M, reg, m, numItermax, stopThr, verbose, log
        As in `entropic_partial_wasserstein`.

    Returns
    -------
    array (n, m)
        As `entropic_partial_wasserstein` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> M = [[0.0, 1.0], [2.0, 3.0]]
    >>> ot.partial.entropic_partial_wasserstein_logscale([0.1, 0.2], [0.1, 0.1], M, 1, 0.1).round(2)
    array([[0.06, 0.02],
           [0.01, 0.  ]])
    """
    return entropic_partial_wasserstein(a, b, M, reg, m, "sinkhorn_log", numItermax, stopThr, verbose, log)
