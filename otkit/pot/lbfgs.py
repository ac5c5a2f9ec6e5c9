"""POT's `lbfgsb_unbalanced`: penalties on the marginals and a regularisation, each of any kind."""

from __future__ import annotations

from typing import Any

from otkit import arrays
from otkit.pot.inputs import one_of
from otkit.pot.reference import TYPES
from otkit.pot.results import OTResult
from otkit.pot.sides import PENALTIES
from otkit.pot.solvers import solve

_LIMIT, _STOP = 1000, 1e-15  # POT's defaults, in place of which stand otkit's own


def _solved(measures: tuple[Any, ...], problem: tuple[Any, ...], limits: tuple[int, float], verbose: bool) -> OTResult:
    """The solution of `measures` (a, b, M) and `problem` (reg, reg_m, c, reg_div, regm_div)."""
    (a, b, M), (reg, reg_m, c, reg_div, regm_div) = measures, problem
    if isinstance(reg_div, str):
        reg_div = one_of(reg_div, "reg_div", (*TYPES, "l2"))
    regm_div = one_of(regm_div, "regm_div", PENALTIES)
    most, tol = None if limits[0] == _LIMIT else limits[0], None if limits[1] == _STOP else limits[1]
    c = None if reg_div == "entropy" else c
    return solve(M, a, b, reg, c, reg_div, reg_m, regm_div, max_iter=most, tol=tol, verbose=verbose)


def _log(answer: OTResult) -> dict[str, Any]:
    return {"cost": answer.value_linear, "total_cost": answer.value, "res": answer.result}


@arrays.eager
def lbfgsb_unbalanced(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    reg_m: Any,
    c: Any = None,
    reg_div: Any = "kl",
    regm_div: str = "kl",
    G0: Any = None,
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    method: str = "L-BFGS-B",
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The unbalanced plan of any regularisation and penalties, as `ot.unbalanced.lbfgsb_unbalanced`.

    Parameters
    ----------
    a : array (n,)
    b : array (m,)
        Weights of any totals; uniform where empty.
    M : array (n, m)
        The costs.
    reg : float
        The weight of the regularisation; 0 leaves it out.
    reg_m : float, or 1 or 2 numbers
        The penalty on both marginals or on each; ``inf`` makes a marginal exact.
    c : array (n, m), optional
        The reference of "kl" and "l2"; a⊗b by default.
    reg_div : str or tuple of 2 functions
        "kl", "entropy", "l2", or a convex f(P) and its gradient, as in `otkit.pot.solve`.
    regm_div : str
        "kl", "l2" or "tv".
    G0, method
        No effect: how POT computes. The optimum does not depend on it.
    numItermax : int
        Maximum number of iterations; POT's default stands for otkit's own.
    stopThr : float
        As `tol` of `otkit.pot.solve`; POT's default stands for otkit's own.
    verbose : bool
        As in `otkit.pot.solve`.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array (n, m)
        The plan.
    dict
        With `log`: "cost", ⟨M, P⟩, "total_cost", the objective, and "res", the result with its interval.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `otkit.pot.solve` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> M = [[1.0, 36.0], [9.0, 4.0]]
    >>> ot.unbalanced.lbfgsb_unbalanced([0.5, 0.5], [0.5, 0.5], M, 0, 5, regm_div="l2").round(2)
    array([[0.4, 0. ],
           [0. , 0.1]])
    """
    answer = _solved((a, b, M), (reg, reg_m, c, reg_div, regm_div), (numItermax, stopThr), verbose)
    return (answer.plan, _log(answer)) if log else answer.plan


@arrays.eager
def lbfgsb_unbalanced2(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    reg_m: Any,
    c: Any = None,
    reg_div: Any = "kl",
    regm_div: str = "kl",
    G0: Any = None,
    returnCost: str = "linear",
    numItermax: int = _LIMIT,
    stopThr: float = _STOP,
    method: str = "L-BFGS-B",
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """The cost of the unbalanced plan, as `ot.unbalanced.lbfgsb_unbalanced2`.

    Parameters
    ----------
    returnCost : str
        "linear" for ⟨M, P⟩, or "total" for the objective, which has gradients.
    a, b, M, reg, reg_m, c, reg_div, regm_div, G0, numItermax, stopThr, method, verbose, log
        As in `lbfgsb_unbalanced`.

    Returns
    -------
    array ()
        The cost.
    dict
        With `log`, as in `lbfgsb_unbalanced`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `otkit.pot.solve` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> M = [[1.0, 36.0], [9.0, 4.0]]
    >>> float(ot.unbalanced.lbfgsb_unbalanced2([0.5, 0.5], [0.5, 0.5], M, 0, 5, regm_div="l2").round(2))
    0.8
    """
    one_of(returnCost, "returnCost", ("linear", "total"))
    answer = _solved((a, b, M), (reg, reg_m, c, reg_div, regm_div), (numItermax, stopThr), verbose)
    cost = answer.value_linear if returnCost == "linear" else answer.value
    return (cost, _log(answer)) if log else cost
