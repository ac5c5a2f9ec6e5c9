"""POT's `ot.lp`: exact transport, as `ot.emd` and its relatives return it."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays
from otkit.geometry.base import GivenGeometry
from otkit.geometry.points import PointCloud
from otkit.pot.barycenter import free_support_barycenter
from otkit.pot.calls import exact_log, run
from otkit.pot.inputs import centred, costs, is_sparse_tensor, of_one_total, one_of, threads, weights
from otkit.pot.line import emd2_1d, emd_1d, emd_1d_dual_backprop, wasserstein_1d
from otkit.pot.utils import CLOUDS
from otkit.results import Result

__all__ = [
    "emd",
    "emd2",
    "emd2_1d",
    "emd2_lazy",
    "emd_1d",
    "emd_1d_dual_backprop",
    "free_support_barycenter",
    "wasserstein_1d",
]

_LIMIT = 100000  # POT's default, in place of which stands otkit's own


def exact(
    geometry: GivenGeometry,
    a: Any,
    b: Any,
    limit: tuple[str, int | None, int | None],
    check: bool = True,
    init: Any = None,
) -> Result:
    """An exact solve, after POT's check of the totals."""
    a, b = centred(weights(a, "a", geometry)), centred(weights(b, "b", geometry))
    a, b = of_one_total(geometry, a, b, check)
    return run(geometry, (a, b, None, None), limit, init=init)


def plan_of(result: Result) -> Any:
    """The plan, detached: a sparse array of SciPy where the costs were sparse, else dense."""
    if result.problem.given.geometry.stored is None:
        return arrays.detached(result.plan)
    return sparse_plan(result)


def sparse_plan(result: Result) -> Any:
    """All arcs of the plan of a single problem, as a sparse array of SciPy."""
    from scipy.sparse import coo_array

    arcs, problem = result.plan_sparse(drop=float(np.finfo(np.float64).tiny)), result.problem
    return coo_array((arcs.mass, (arcs.row, arcs.col)), shape=(problem.reduced.n, problem.reduced.m))


@arrays.eager
def emd(
    a: Any,
    b: Any,
    M: Any,
    numItermax: int = _LIMIT,
    log: bool = False,
    center_dual: bool = True,
    numThreads: Any = 1,
    check_marginals: bool = True,
    potentials_init: Any = None,
) -> Any:
    """The exact plan of transport, as `ot.emd`.

    Parameters
    ----------
    a : array (n,)
    b : array (m,)
        Weights of one total; uniform where empty.
    M : array (n, m), sparse matrix of SciPy or sparse tensor (COO) of PyTorch
        The costs; ``inf`` forbids an arc, and so does a missing entry of a sparse matrix. A sparse tensor becomes
        a dense one.
    numItermax : int
        Maximum number of pivots; POT's default stands for otkit's own.
    log : bool
        Return a dictionary too.
    center_dual : bool
        The dual variables have equal means ⟨a, u⟩ = ⟨b, v⟩ in either case; POT leaves their constant open if False.
    numThreads
        No effect, as in POT; a ``DeprecationWarning`` says so.
    check_marginals : bool
        Require equal totals to 6 decimals. b is scaled to the total of a in either case.
    potentials_init : tuple (u, v), optional
        Dual variables to start from.

    Returns
    -------
    array (n, m)
        The plan, without a graph; a sparse array for sparse M.
    dict
        With `log`: "cost", "u", "v", "warning" and "result_code".

    Raises
    ------
    MarginalsError
        A ``ValueError`` and an ``AssertionError``: if lengths or totals differ.
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd([0.5, 0.5], [0.25, 0.75], [[0.0, 1.0], [1.0, 0.0]])
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    """
    threads(numThreads)
    geometry = costs(M, a, b).detached()
    a, b = map(arrays.detached, (a, b))
    result = exact(geometry, a, b, ("numItermax", numItermax, _LIMIT), check_marginals, potentials_init)
    plan = plan_of(result)
    plan = plan.to_sparse() if is_sparse_tensor(M) else plan
    return (plan, {**exact_log(result), "cost": float(result.value)}) if log else plan


@arrays.eager
def emd2(
    a: Any,
    b: Any,
    M: Any,
    processes: int = 1,
    numItermax: int = _LIMIT,
    log: bool = False,
    return_matrix: bool = False,
    center_dual: bool = True,
    numThreads: Any = 1,
    check_marginals: bool = True,
    potentials_init: Any = None,
) -> Any:
    """The exact cost of transport, as `ot.emd2`, differentiable by a, b and M.

    Parameters
    ----------
    a : array (n,)
    b : array (m,) or (m, K)
        Weights of one total, or K histograms in columns; uniform where empty.
    M : array (n, m), sparse matrix of SciPy or sparse tensor (COO) of PyTorch
        The costs; ``inf`` forbids an arc, and so does a missing entry of a sparse matrix. A sparse tensor becomes
        a dense one.
    processes, numThreads
        No effect, as in POT; a ``DeprecationWarning`` says so.
    return_matrix : bool
        Return the log, with the plan as "G".
    numItermax, log, center_dual, check_marginals, potentials_init
        As in `emd`.

    Returns
    -------
    array ()
        The cost. Gradients by the weights have mean 0, as in POT. Of K histograms, a list of what is returned for one.
    dict
        With `log` or `return_matrix`: "cost", "u", "v", "warning", "result_code", and "G" with `return_matrix`.

    Raises
    ------
    MarginalsError, ValueError, TypeError
        As `emd` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd2([0.5, 0.5], [0.25, 0.75], [[0.0, 1.0], [1.0, 0.0]])
    array(0.25)
    """
    threads(numThreads)
    threads(processes, "processes")
    result = exact(costs(M, a, b), a, b, ("numItermax", numItermax, _LIMIT), check_marginals, potentials_init)
    if not result.problem.batch:
        return _cost(result, None, log, return_matrix)
    return [_cost(result, k, log, return_matrix) for k in range(result.problem.batch[0])]


def _cost(result: Result, item: int | None, log: bool, return_matrix: bool) -> Any:
    """What `emd2` returns for one pair of measures."""
    cost = result.value if item is None else result.value[item]
    if not (log or return_matrix):
        return cost
    words = {**exact_log(result, item), "cost": cost}
    if return_matrix:
        words["G"] = plan_of(result) if item is None else arrays.detached(result.plan)[item]
    return cost, words


@arrays.eager
def emd2_lazy(
    X_a: Any,
    X_b: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    numItermax: int = _LIMIT,
    log: bool = False,
    return_matrix: bool = True,
    center_dual: bool = True,
    check_marginals: bool = True,
    potentials_init: Any = None,
) -> Any:
    """The exact cost between two clouds of points without a matrix of costs, as `ot.emd2_lazy`.

    Parameters
    ----------
    X_a, X_b : array (n, d), (m, d)
        The points.
    a, b : array (n,), (m,), optional
        Weights of one total; uniform where None or empty.
    metric : str
        "sqeuclidean", "euclidean", "cityblock" or "cosine".
    return_matrix : bool
        Return the log, with the plan as "G", a sparse array of SciPy. True by default, as in POT.
    numItermax, log, center_dual, check_marginals, potentials_init
        As in `emd`.

    Returns
    -------
    array ()
        The cost, differentiable by points and weights. Many points are solved to a certified interval, as by
        `otkit.solve_sample`.
    dict
        With `log` or `return_matrix`: "cost", "u", "v", "warning", "result_code", and "G" with `return_matrix`.

    Raises
    ------
    MarginalsError, ValueError, TypeError
        As `emd` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd2_lazy([[0.0], [2.0]], [[1.0], [5.0]], return_matrix=False)
    array(5.)
    """
    one_of(metric, "metric", CLOUDS)
    limit = ("numItermax", numItermax, _LIMIT)
    result = exact(PointCloud(X_a, X_b, metric), a, b, limit, check_marginals, potentials_init)
    if not (log or return_matrix):
        return result.value
    words = {**exact_log(result), "cost": result.value}
    return result.value, {**words, "G": sparse_plan(result)} if return_matrix else words
