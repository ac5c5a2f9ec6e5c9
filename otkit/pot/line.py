"""POT's solvers of `ot.lp` for points on a line: `ot.wasserstein_1d`, `ot.emd_1d` and their relatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace
from otkit.geometry.points import PointCloud
from otkit.pot.calls import columns, duals, run
from otkit.pot.inputs import MarginalsError, centred, like_of, of_one_total, one_of, weights
from otkit.results import Result

_METRICS = ("sqeuclidean", "minkowski", "cityblock", "euclidean")


class PlanTuple(NamedTuple):
    """The arcs of a plan: their mass and their two ends."""

    data: Array
    rows: Array
    cols: Array


def _on_line(values: tuple[Any, Any], pair: tuple[Any, Any], p: float, check: bool | None = None) -> Result:
    """The solve between values ``(n,)``, or ``(n, K)`` as a batch, at costs |x − y|^p.

    With a `check`, totals are treated as by `of_one_total`.
    """
    x = checks.as_array(values[0], "the first values", like_of(values[1]))
    y = checks.as_array(values[1], "the second values", x)
    checks.positive(p, "p")
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p:g}; for less pass the costs to ot.emd2")
    if x.ndim != y.ndim or x.ndim not in (1, 2):
        raise ValueError(f"values must have shapes (n,) and (m,), or (n, K) and (m, K), got {x.shape} and {y.shape}")
    cloud = PointCloud(columns(x)[..., None], columns(y)[..., None], ("power", p))
    a, b = (weights(w, name, cloud) for w, name in zip(pair, "ab", strict=True))
    if check is not None:
        a, b = of_one_total(cloud, a, b, check)
    return run(cloud, (a, b, None, None), ("max_iter", None, None))


@arrays.eager
def wasserstein_1d(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: float = 1,
    require_sort: bool = True,
    return_plans: Any = False,
) -> Any:
    """The p-th power of the Wasserstein distance W_p between values on a line, as `ot.wasserstein_1d`.

    Parameters
    ----------
    u_values, v_values : array (n,), (m,), or (n, K), (m, K)
        Values, or K lists of values in columns.
    u_weights, v_weights : array (n,), (m,), or (n, K), (m, K), optional
        Weights of one total; uniform by default.
    p : float
        The order, at least 1.
    require_sort : bool
        Whether values are to be sorted, which takes no time where they are; the result does not depend on it.
    return_plans : bool or "coo_tuple"
        Return a list of plans too: sparse arrays of SciPy, or tuples (data, rows, cols).

    Returns
    -------
    array () or (K,)
        W_p^p, differentiable by values and weights.
    list
        With `return_plans`: the K plans.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.wasserstein_1d([0.0, 2.0], [1.0, 4.0], p=2)
    array(2.5)
    """
    result = _on_line((u_values, v_values), (u_weights, v_weights), p)
    if return_plans is False:
        return result.value
    tuples = return_plans == "coo_tuple"
    if not tuples and return_plans is not True:
        raise ValueError(f'return_plans must be True, False or "coo_tuple", got {return_plans!r}; pass one of these')
    return result.value, [plan if tuples else _matrix(result, plan) for plan in _plans(result)]


def _plans(result: Result) -> list[PlanTuple]:
    """The plan of each item, in the library of the input."""
    arcs, like = result.plan_sparse(drop=float(np.finfo(np.float64).tiny)), result.problem.like
    parts = (arcs.item == k for k in range(result.problem.items))
    return [PlanTuple(*(from_numpy(v[part], like) for v in (arcs.mass, arcs.row, arcs.col))) for part in parts]


def _matrix(result: Result, plan: PlanTuple) -> Any:
    from scipy.sparse import coo_array

    data, rows, cols = map(arrays.to_numpy, plan)
    return coo_array((data, (rows, cols)), shape=(result.problem.reduced.n, result.problem.reduced.m))


@arrays.eager
def emd_1d(
    x_a: Any,
    x_b: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    p: float = 1.0,
    dense: bool = True,
    log: bool = False,
    check_marginals: bool = True,
) -> Any:
    """The exact plan between points on a line, as `ot.emd_1d`.

    Parameters
    ----------
    x_a, x_b : array (n,), (m,), or (n, 1), (m, 1)
        The points.
    a, b : array (n,), (m,), optional
        Weights of one total; uniform where None or empty.
    metric : str
        "sqeuclidean", "euclidean", "cityblock", or "minkowski" for ``|x − y|^p``.
    p : float
        The power of "minkowski", at least 1.
    dense : bool
        Return an array; else a sparse array of SciPy.
    log : bool
        Return a dictionary too.
    check_marginals : bool
        Require equal totals to 6 decimals. b is scaled to the total of a in either case.

    Returns
    -------
    array (n, m)
        The plan, without a graph.
    dict
        With `log`: "cost", and the ends of the arcs, "perms_x_a" and "perms_x_b".

    Raises
    ------
    MarginalsError
        A ``ValueError`` and an ``AssertionError``: if the points have several coordinates, or totals differ.
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd_1d([2.0, 0.0], [1.0, 4.0])
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    one_of(metric, "metric", _METRICS)
    points = [checks.as_array(x, name) for x, name in ((x_a, "x_a"), (x_b, "x_b"))]
    for x, name in zip(points, ("x_a", "x_b"), strict=True):
        if x.ndim != 1 and tuple(x.shape[1:]) != (1,):
            raise MarginalsError(
                f"{name} must hold points on a line, got shape {tuple(x.shape)}; use ot.emd for others"
            )
    power = {"sqeuclidean": 2.0, "minkowski": p}.get(metric, 1.0)
    flat = tuple(namespace(x).reshape(x, (-1,)) for x in points)
    result = _on_line((flat[0], flat[1]), (centred(a), centred(b)), power, check_marginals)
    plan = _plans(result)[0]
    G = arrays.detached(result.plan) if dense else _matrix(result, plan)
    return (G, {"cost": result.value, "perms_x_a": plan.rows, "perms_x_b": plan.cols}) if log else G


@arrays.eager
def emd2_1d(
    x_a: Any,
    x_b: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    p: float = 1.0,
    dense: bool = True,
    log: bool = False,
) -> Any:
    """The exact cost between points on a line, as `ot.emd2_1d`, differentiable by points and weights.

    Parameters
    ----------
    x_a, x_b, a, b, metric, p
        As in `emd_1d`.
    dense : bool
        Whether the plan in the log is an array, or a sparse array of SciPy.
    log : bool
        Return a dictionary too.

    Returns
    -------
    array ()
        The cost.
    dict
        With `log`: the plan "G".

    Raises
    ------
    MarginalsError, ValueError, TypeError
        As `emd_1d` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd2_1d([2.0, 0.0], [1.0, 4.0])
    array(2.5)
    """
    G, words = emd_1d(x_a, x_b, a, b, metric, p, dense and log, log=True)
    return (words["cost"], {"G": G}) if log else words["cost"]


@arrays.eager
def emd_1d_dual_backprop(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: float = 1,
    require_sort: bool = True,
) -> tuple[Array, Array, Array]:
    """The dual variables and the cost of `wasserstein_1d`, as `ot.emd_1d_dual_backprop`; of any library here.

    Parameters
    ----------
    u_values, v_values, u_weights, v_weights, p, require_sort
        As in `wasserstein_1d`.

    Returns
    -------
    f, g : array (n,), (m,), or (n, K), (m, K)
        The dual variables, of equal means.
    cost : array () or (K,)
        W_p^p, without a graph.

    Raises
    ------
    ValueError, TypeError
        If the data are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.emd_1d_dual_backprop([0.0], [3.0])
    (array([1.5]), array([1.5]), array(3.))
    """
    result = _on_line((u_values, v_values), (u_weights, v_weights), p)
    f, g = duals(result)
    return columns(f), columns(g), arrays.detached(result.value)
