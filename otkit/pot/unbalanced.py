"""POT's `ot.unbalanced`: transport with penalties on the marginals, with a regularisation or without one."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.pot.calls import history, initial, run, scalings
from otkit.pot.inputs import costs, one_of, pair_of, steering, weights
from otkit.pot.lbfgs import lbfgsb_unbalanced, lbfgsb_unbalanced2
from otkit.pot.reference import TYPES, Reference, reference
from otkit.pot.regularised import Regularised
from otkit.pot.solution import minimised
from otkit.results import Result

__all__ = [
    "lbfgsb_unbalanced",
    "lbfgsb_unbalanced2",
    "mm_unbalanced",
    "mm_unbalanced2",
    "sinkhorn_unbalanced",
    "sinkhorn_unbalanced2",
]

METHODS = ("sinkhorn", "sinkhorn_stabilized", "sinkhorn_translation_invariant", "sinkhorn_reg_scaling")
_LIMIT, _STOP = 1000, 1e-15  # POT's defaults, in place of which stand otkit's own


def _solved(
    measures: tuple[Any, Any, Any],
    problem: tuple[Any, Any, str, Any],
    limits: tuple[int, float | None],
    warmstart: Any,
    verbose: bool,
) -> tuple[Reference, Result]:
    """The solve of `measures` (a, b, M) and `problem` (reg, reg_m, reg_type, c)."""
    a, b, M = measures
    reg, reg_m, reg_type, c = problem
    checks.regularisation(reg)
    geometry = costs(M, a, b)
    pair = weights(a, "a", geometry), weights(b, "b", geometry)
    at = reference(geometry, pair, reg, one_of(reg_type, "reg_type", TYPES), c)
    init = initial(warmstart, (None, None), reg, in_cost=False)
    asked, limit = (*pair, reg, pair_of(reg_m)), ("numItermax", limits[0], _LIMIT)
    return at, run(at.geometry, asked, limit, tol=limits[1], init=init, verbose=verbose)


def _log(at: Reference, result: Result) -> dict[str, Any]:
    """POT's log: the scalings, and of a single pair of measures both costs."""
    logu, logv = scalings(result, weighted=False)
    words = {"err": history(result), "logu": logu, "logv": logv}
    return words if result.problem.batch else {**words, **_costs(at, result)}


def _costs(at: Reference, result: Result) -> dict[str, Any]:
    """Both costs, by POT's names."""
    return {"cost": at.linear(result), "total_cost": at.value(result)}


@arrays.eager
def sinkhorn_unbalanced(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    reg_m: Any,
    method: str = "sinkhorn",
    reg_type: str = "kl",
    c: Any = None,
    warmstart: Any = None,
    numItermax: int = _LIMIT,
    stopThr: float = 1e-6,
    verbose: bool = False,
    log: bool = False,
    **kwargs: Any,
) -> Any:
    """The unbalanced entropic plan, as `ot.unbalanced.sinkhorn_unbalanced`.

    Parameters
    ----------
    a : array (n,)
    b : array (m,) or (m, K)
        Weights of any totals, or K histograms in columns; uniform where empty.
    M : array (n, m)
        The costs; ``inf`` forbids an arc.
    reg : float
        The regularisation, in units of the cost.
    reg_m : float, or 1 or 2 numbers
        The penalty on the KL divergence of both marginals or of each; ``inf`` makes a marginal exact.
    method : str
        "sinkhorn", "sinkhorn_stabilized", "sinkhorn_translation_invariant" or "sinkhorn_reg_scaling", which have one
        answer here.
    reg_type : str
        "kl" for the divergence from `c`, or "entropy" for that from 1. POT takes the second for K histograms, whatever
        is asked; here it is what is asked.
    c : array (n, m), optional
        The reference measure; a⊗b by default.
    warmstart : tuple (u, v), optional
        Logarithms of the scalings to start from.
    stopThr : float
        Bound on the error of the optimality conditions, `otkit.Result.error`. 0 runs exactly `numItermax` iterations.
    numItermax, verbose, log, **kwargs
        As in `sinkhorn`.

    Returns
    -------
    array (n, m)
        The plan. Of K histograms, the linear costs ``(K,)``.
    dict
        With `log`: "err", and the logarithms of the scalings "logu" and "logv", with
        P_ij = exp(logu_i + logv_j − M_ij/reg)·c_ij. Of one pair of measures also "cost", ⟨M, P⟩, and "total_cost", the
        objective with all mass terms, of which POT omits some.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> a, b = [0.5, 0.5], [0.5, 0.5]
    >>> ot.unbalanced.sinkhorn_unbalanced(a, b, [[0.0, 1.0], [1.0, 0.0]], 1, 1).round(4)
    array([[0.3221, 0.1185],
           [0.1185, 0.3221]])
    """
    one_of(method, "method", METHODS)
    steering(kwargs)
    problem = (reg, reg_m, reg_type, c)
    at, result = _solved((a, b, M), problem, (numItermax, stopThr), warmstart, verbose)
    answer = at.linear(result) if result.problem.batch else result.plan
    return (answer, _log(at, result)) if log else answer


@arrays.eager
def sinkhorn_unbalanced2(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    reg_m: Any,
    method: str = "sinkhorn",
    reg_type: str = "kl",
    c: Any = None,
    warmstart: Any = None,
    returnCost: str = "linear",
    numItermax: int = _LIMIT,
    stopThr: float = 1e-6,
    verbose: bool = False,
    log: bool = False,
    **kwargs: Any,
) -> Any:
    """The cost of the unbalanced entropic plan, as `ot.unbalanced.sinkhorn_unbalanced2`.

    Parameters
    ----------
    returnCost : str
        "linear" for ⟨M, P⟩, or "total" for the objective.
    a, b, M, reg, reg_m, method, reg_type, c, warmstart, numItermax, stopThr, verbose, log, **kwargs
        As in `sinkhorn_unbalanced`.

    Returns
    -------
    array () or (K,)
        The cost, differentiable by a, b, M, reg and reg_m.
    dict
        With `log`, as in `sinkhorn_unbalanced`.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> a, b = [0.5, 0.5], [0.5, 0.5]
    >>> float(ot.unbalanced.sinkhorn_unbalanced2(a, b, [[0.0, 1.0], [1.0, 0.0]], 1, 1).round(4))
    0.237
    """
    one_of(method, "method", METHODS)
    one_of(returnCost, "returnCost", ("linear", "total"))
    steering(kwargs)
    problem = (reg, reg_m, reg_type, c)
    at, result = _solved((a, b, M), problem, (numItermax, stopThr), warmstart, verbose)
    cost = at.linear(result) if returnCost == "linear" else at.value(result)
    return (cost, _log(at, result)) if log else cost


@arrays.eager
def mm_unbalanced(
    a: Any,
    b: Any,
    M: Any,
    reg_m: Any,
    c: Any = None,
    reg: Any = 0,
    div: str = "kl",
    G0: Any = None,
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The unbalanced plan, as `ot.unbalanced.mm_unbalanced`.

    Parameters
    ----------
    reg : float
        The weight of the divergence from `c`; 0, the default, leaves it out.
    div : str
        "kl" for divergences of the marginals and the plan, or "l2" for half the squared distances.
    G0
        No effect: where POT starts, on which the optimum does not depend.
    stopThr : float
        Bound on the error of the optimality conditions, or without a `reg` and for "l2" on the relative width of the
        interval of the objective; POT's default stands for otkit's own.
    a, b, M, reg_m, c, numItermax, verbose, log
        As in `sinkhorn_unbalanced`.

    Returns
    -------
    array (n, m)
        The plan.
    dict
        With `log`: "err", "cost", ⟨M, P⟩, "total_cost", the objective, and the final plan as the only one of "G".

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid, or there is a `c` without a `reg`.
    NotImplementedError
        For ``div="l2"`` and sparse costs.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> a, b = [0.5, 0.5], [0.5, 0.5]
    >>> ot.unbalanced.mm_unbalanced(a, b, [[0.0, 1.0], [1.0, 0.0]], 1, reg=1).round(4)
    array([[0.3221, 0.1185],
           [0.1185, 0.3221]])
    >>> ot.unbalanced.mm_unbalanced([1.0], [4.0], [[0.0]], 1).round(2)  # the geometric mean
    array([[2.]])
    """
    plan, words = _minimised((a, b, M), (reg, reg_m, div, c), (numItermax, stopThr), verbose)
    return (plan, words) if log else plan


@arrays.eager
def mm_unbalanced2(
    a: Any,
    b: Any,
    M: Any,
    reg_m: Any,
    c: Any = None,
    reg: Any = 0,
    div: str = "kl",
    G0: Any = None,
    returnCost: str = "linear",
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The cost of the unbalanced plan, as `ot.unbalanced.mm_unbalanced2`.

    Parameters
    ----------
    returnCost : str
        "linear" for ⟨M, P⟩, or "total" for the objective.
    a, b, M, reg_m, c, reg, div, G0, numItermax, stopThr, verbose, log
        As in `mm_unbalanced`.

    Returns
    -------
    array ()
        The cost, differentiable by a, b, M, reg and reg_m; without a `reg` and for "l2", the total alone is.
    dict
        With `log`, as in `mm_unbalanced`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `mm_unbalanced` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> a, b = [0.5, 0.5], [0.5, 0.5]
    >>> float(ot.unbalanced.mm_unbalanced2(a, b, [[0.0, 1.0], [1.0, 0.0]], 1, reg=1).round(4))
    0.237
    """
    one_of(returnCost, "returnCost", ("linear", "total"))
    _, words = _minimised((a, b, M), (reg, reg_m, div, c), (numItermax, stopThr), verbose)
    cost = words["cost" if returnCost == "linear" else "total_cost"]
    return (cost, words) if log else cost


def _minimised(
    measures: tuple[Any, Any, Any], problem: tuple[Any, Any, str, Any], limits: tuple[int, float], verbose: bool
) -> tuple[Any, dict[str, Any]]:
    """The plan and the log of `mm_unbalanced`, of `problem` (reg, reg_m, div, c)."""
    reg, reg_m, div, c = problem
    div, plain = one_of(div, "div", ("kl", "l2")), isinstance(reg, (int, float)) and reg == 0
    (most, stop), tol = limits, None if limits[1] == _STOP else limits[1]
    checks.positive(stop, "stopThr", below=1.0 if plain or div == "l2" else np.inf)
    if plain and c is not None:
        raise ValueError("c= is the reference of the regularisation, and reg is 0; drop c=, or pass a reg above 0")
    if not plain and div == "kl":
        at, result = _solved(measures, (reg, reg_m, "kl", c), (most, tol), None, verbose)
        return result.plan, {"err": history(result), "G": [result.plan], **_costs(at, result)}
    a, b, M = measures
    geometry = costs(M, a, b)
    pair = weights(a, "a", geometry), weights(b, "b", geometry)
    if div == "l2":
        checks.positive(most, "numItermax")
        asked = Regularised.of(geometry, pair, (None if plain else reg, "l2", c), (pair_of(reg_m), "l2"))
        found = minimised(asked, ("numItermax", None if most == _LIMIT else most), tol)
        words = found.log()
        return found.plan, {name: words[name] for name in ("err", "G", "cost", "total_cost")}
    limit = ("numItermax", most, _LIMIT)
    result = run(geometry, (*pair, None, pair_of(reg_m)), limit, rtol=tol, verbose=verbose)
    return result.plan, {"err": history(result), "G": [result.plan], **_costs(Reference(geometry), result)}
