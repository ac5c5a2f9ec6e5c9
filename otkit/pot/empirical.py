"""POT's entropic functions of points in `ot.bregman`: `empirical_sinkhorn` and its relatives."""

from __future__ import annotations

from typing import Any

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.geometry.points import PointCloud
from otkit.pot.calls import entropic_log, initial, run, scalings, threshold
from otkit.pot.inputs import costs, like_of, steering, weights
from otkit.pot.results import lazy_plan
from otkit.pot.utils import CLOUDS, dist
from otkit.results import Result

_LIMIT = 10000  # POT's default, in place of which stands otkit's own


def _solved(
    points: tuple[Any, Any],
    pair: tuple[Any, Any],
    problem: tuple[Any, Any],
    limits: tuple[int, float],
    words: tuple[bool, bool],
    warmstart: Any,
) -> Result:
    """The entropic solve of `problem` (reg, metric); `limits` are numIterMax and stopThr, `words` verbose and warn."""
    reg, metric = problem
    checks.regularisation(reg)
    threshold(limits[1])
    x, y = points
    stays = isinstance(metric, str) and metric in CLOUDS
    geometry = PointCloud(x, y, metric) if stays else costs(dist(x, y, metric))
    a, b = (weights(w, name, geometry) for w, name in zip(pair, "ab", strict=True))
    init, limit = initial(warmstart, (a, b), reg, in_cost=False), ("numIterMax", limits[0], _LIMIT)
    return run(geometry, (a, b, reg, None), limit, tol=limits[1], init=init, verbose=words[0], warns=words[1])


def _lazy_log(result: Result, points: tuple[Array, Array], problem: tuple[Any, Any]) -> dict[str, Any]:
    """The log of a lazy solve: its "u" and "v" are logarithms, as in POT."""
    reg, metric = problem
    log_u, log_v = scalings(result)
    plan = lazy_plan(points, (log_u, log_v), metric, reg)
    return {**entropic_log(result), "u": log_u, "v": log_v, "lazy_plan": plan}


def _arrays(X_s: Any, X_t: Any) -> tuple[Array, Array]:
    x = checks.as_array(X_s, "X_s", like_of(X_t))
    return x, checks.as_array(X_t, "X_t", x)


@arrays.eager
def empirical_sinkhorn(
    X_s: Any,
    X_t: Any,
    reg: Any,
    a: Any = None,
    b: Any = None,
    metric: Any = "sqeuclidean",
    numIterMax: int = _LIMIT,
    stopThr: float = 1e-9,
    isLazy: bool = False,
    batchSize: Any = 100,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The entropic plan between two clouds of points, as `ot.bregman.empirical_sinkhorn`.

    Parameters
    ----------
    X_s, X_t : array (n, d), (m, d)
        The points.
    reg : float
        The regularisation, in units of the cost.
    a, b : array (n,), (m,), optional
        Weights of one total; uniform by default.
    metric : str or callable
        As in `dist`.
    isLazy : bool
        Return dual vectors in place of the plan. No matrix is formed in either case for "sqeuclidean", "euclidean",
        "cityblock" and "cosine".
    batchSize
        How much POT computes at a time; the result does not depend on it.
    warmstart : tuple (u, v), optional
        Logarithms of the scalings to start from.
    numIterMax, stopThr, verbose, log, warn, **kwargs
        As `numItermax` and the others of `sinkhorn`.

    Returns
    -------
    array (n, m)
        The plan; or, with `isLazy`, the logarithms of the scalings ``(n,)`` and ``(m,)``, two values.
    dict
        With `log`, as in `sinkhorn`; with `isLazy`, "u" and "v" are logarithms, and there is a "lazy_plan".

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.bregman.empirical_sinkhorn([[0.0], [1.0]], [[0.0], [1.0]], 1).round(4)
    array([[0.3655, 0.1345],
           [0.1345, 0.3655]])
    """
    steering(kwargs)
    points, problem = _arrays(X_s, X_t), (reg, metric)
    result = _solved(points, (a, b), problem, (numIterMax, stopThr), (verbose, warn), warmstart)
    if not isLazy:
        return (result.plan, entropic_log(result)) if log else result.plan
    pair = scalings(result)
    return (*pair, _lazy_log(result, points, problem)) if log else pair


@arrays.eager
def empirical_sinkhorn2(
    X_s: Any,
    X_t: Any,
    reg: Any,
    a: Any = None,
    b: Any = None,
    metric: Any = "sqeuclidean",
    numIterMax: int = _LIMIT,
    stopThr: float = 1e-9,
    isLazy: bool = False,
    batchSize: Any = 100,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The linear cost ⟨M, P⟩ of the entropic plan between points, as `ot.bregman.empirical_sinkhorn2`.

    Parameters
    ----------
    X_s, X_t, reg, a, b, metric, numIterMax, stopThr, batchSize, verbose, log, warn, warmstart, **kwargs
        As in `empirical_sinkhorn`.
    isLazy : bool
        Whether the log has a "lazy_plan", and logarithms as "u" and "v".

    Returns
    -------
    array ()
        The cost, differentiable by points and weights.
    dict
        With `log`, as in `empirical_sinkhorn`.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> float(ot.bregman.empirical_sinkhorn2([[0.0], [1.0]], [[0.0], [1.0]], 1).round(6))
    0.268941
    """
    steering(kwargs)
    points, problem = _arrays(X_s, X_t), (reg, metric)
    result = _solved(points, (a, b), problem, (numIterMax, stopThr), (verbose, warn), warmstart)
    if not log:
        return result.value_linear
    return result.value_linear, _lazy_log(result, points, problem) if isLazy else entropic_log(result)


@arrays.eager
def empirical_sinkhorn_divergence(
    X_s: Any,
    X_t: Any,
    reg: Any,
    a: Any = None,
    b: Any = None,
    metric: Any = "sqeuclidean",
    numIterMax: int = _LIMIT,
    stopThr: float = 1e-9,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The linear cost between two clouds less half of that of each with itself, as POT's function of this name.

    It is no Sinkhorn divergence, which is made of objectives in place of linear costs: `otkit.sinkhorn_divergence`. As
    in POT, a negative number is replaced by 0.

    Parameters
    ----------
    X_s, X_t, reg, a, b, metric, numIterMax, stopThr, verbose, log, warn
        As in `empirical_sinkhorn`.
    warmstart : tuple (u, v), optional
        Logarithms of scalings, of which those of one side start the problem of that side with itself.
    **kwargs
        `isLazy` and `batchSize`, as in `empirical_sinkhorn2`.

    Returns
    -------
    array ()
        The difference, differentiable by points and weights.
    dict
        With `log`: "sinkhorn_loss_ab", "sinkhorn_loss_a", "sinkhorn_loss_b", and "log_sinkhorn_ab" and so on.

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> x = [[0.0], [1.0]]
    >>> float(ot.bregman.empirical_sinkhorn_divergence(x, x, 1))
    0.0
    """
    starts = (warmstart,) * 3 if warmstart is None else (warmstart, (warmstart[0],) * 2, (warmstart[1],) * 2)
    losses: dict[str, Any] = {}
    logs: dict[str, Any] = {}
    sides = {"ab": ((X_s, X_t), (a, b)), "a": ((X_s, X_s), (a, a)), "b": ((X_t, X_t), (b, b))}
    for (name, (points, pair)), start in zip(sides.items(), starts, strict=True):
        options = dict(numIterMax=numIterMax, stopThr=stopThr, verbose=verbose, warn=warn, warmstart=start, **kwargs)
        loss, words = empirical_sinkhorn2(*points, reg, *pair, metric, log=True, **options)
        losses[f"sinkhorn_loss_{name}"], logs[f"log_sinkhorn_{name}"] = loss, words
    cross, one, other = losses.values()
    difference = cross - (one + other) / 2
    xp = namespace(difference)
    value = xp.where(difference > 0, difference, 0 * difference)
    return (value, {**losses, **logs}) if log else value
