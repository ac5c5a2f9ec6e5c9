"""The functions `solve`, `solve_sample` and `solve_grid`: arguments → result → report."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from otkit import arrays, checks, lists
from otkit.geometry.costs import Cost, parse_cost
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.report import reported, shortfall
from otkit.results.result import Result
from otkit.solvers.base import Solver
from otkit.solvers.watch import Callback, Watch
from otkit.solving import Asked, at_once, costs_of, masses, solved


@arrays.eager
def solve(
    C: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: Any = None,
    unbalanced: Any = None,
    penalty: str = "kl",
    mass: Any = None,
    method: str | Solver[Any] = "auto",
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    time_limit: float | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Result:
    """Optimal transport for a cost matrix.

    Minimises ⟨C, P⟩ + reg·KL(P | a⊗b) over the plans P with marginals a and b. Without `reg` the objective is ⟨C, P⟩.
    With `unbalanced` the penalties ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b) replace the constraints on the marginals.

    Parameters
    ----------
    C : array (..., n, m), sparse matrix (n, m) of SciPy, Dense, PointCloud or Grid
        The costs, or a geometry; ``inf`` or a mask forbids an arc. Leading axes are a batch, here and below, and
        broadcast. Of a sparse matrix, the stored entries are the costs of arcs, also zeros, and all other arcs are
        forbidden; the matrix is never formed.
    a : array (..., n), optional
        Weights of the rows, non-negative; uniform by default. A weight of 0 removes a point, which allows padding.
    b : array (..., m), optional
        Weights of the columns, of the same total unless `unbalanced`, up to rounding of their dtype.
    reg : float or array (...), optional
        The regularisation ε, positive, in units of the cost; at least 1e-15 of their range. None: the unregularised
        problem.
    unbalanced : float, array (...) or tuple (rho_a, rho_b) of them, optional
        The penalty ρ on the KL divergence of a marginal from its weights, in units of the cost: one for both sides, or
        a tuple with one for each. ``inf`` makes a marginal exact, 0 leaves it free. Of a penalised or free side, points
        that no arc reaches stay empty. None: exact marginals.
    penalty : str
        "kl": `unbalanced` is the penalty on KL divergences. Without a `reg` the value is then in an interval of `rtol`,
        1e-6 by default. "tv": it is that on total variations, ρ_a·‖P1 − a‖₁ + ρ_b·‖Pᵀ1 − b‖₁, finite, for problems
        without a `reg`, which are solved exactly. The potentials are then from −ρ to ρ. Such values have gradients by
        the costs and weights.
    mass : float or array (...), optional
        Partial transport: of all plans of this total whose marginals are at most a and b, one of least cost. It is at
        most the smaller total of the weights, which may differ. The potentials are then at most 0, and `Result.price`
        is the derivative of the value by the mass. With a `reg` errors are relative to the mass that moves, and the
        divergence is that of the plan with one more row and column, the mass that stays. Not with `unbalanced`.
    method : str or solver
        "auto", "sns", "sinkhorn", "exact", "annealing", "frank-wolfe", "multiscale", "univariate", on grids
        "coarse-to-fine" and "flow", or a solver with its options, such as ``otkit.Sinkhorn(factor=4)``.
    tol : float, optional
        With a `reg`: tolerance on `Result.error`; 1e-6 in float64 and 1e-4 in float32 by default. For exact marginals
        the error is ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ relative to the mass.
    rtol : float, optional
        Without a `reg`: stop when ``upper − lower ≤ rtol·|upper|``, or at 1e-9 of the costs, where those of both signs
        cancel. By default the solution is exact, and with KL penalties accurate to 1e-6.
    max_iter : int, optional
        Maximum number of iterations over all stages, 10,000 by default. For the exact method: of iterations and pivots
        together, 10 million by default.
    init : tuple (f, g) or Result, optional
        Initial potentials, in units of the cost. The first update recomputes f from g. With a `mass`, a Result of one.
    time_limit : float, optional
        Seconds after which the solve ends with the status STOPPED, and the best interval so far. A step that has begun
        and the bounds are completed, which may take a few seconds more. Ctrl-C does the same in a solve that has taken
        longer than a second; the second one raises ``KeyboardInterrupt``.
    callback : callable, optional
        Called after every step with a `Progress`; stops the solve by returning True.
    progress : bool
        Show a progress bar on the standard error, if that is a terminal.
    strict : bool
        Raise `NotConverged` instead of a warning.

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid; raised before any computation.
    NotConverged
        If `strict` and the tolerance was not reached.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> C = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> result = otkit.solve(C, reg=0.5)
    >>> result.plan.round(4)
    array([[0.4404, 0.0596],
           [0.0596, 0.4404]])
    >>> otkit.solve(C, [0.5, 0.5], [0.25, 0.75]).plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    >>> otkit.solve(C, [1.0, 1.0], [1.0, 3.0], reg=0.5, unbalanced=1.0).plan.sum(0).round(4)
    array([0.8688, 2.1999])
    >>> otkit.solve(C, [1.0, 1.0], [1.0, 3.0], unbalanced=1.0).plan.sum(0).round(2)
    array([1.  , 1.73])
    >>> otkit.solve(C, [1.0, 1.0], [1.0, 3.0], unbalanced=0.25, penalty="tv").plan
    array([[1., 0.],
           [0., 1.]])
    >>> otkit.solve(C, [0.5, 0.5], [2.0, 0.0], mass=0.6).plan
    array([[0.5, 0. ],
           [0.1, 0. ]])
    """
    watch, options = Watch.of(callback, time_limit, progress), dict(tol=tol, rtol=rtol, max_iter=max_iter)
    result = solved(costs_of(C), Asked(a, b, reg, unbalanced, mass, penalty), method, options, init, watch, strict)
    return reported(result, shortfall(result), strict)


@arrays.eager
def solve_sample(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    metric: Any = "sqeuclidean",
    period: float | None = None,
    reg: Any = None,
    unbalanced: Any = None,
    penalty: str = "kl",
    mass: Any = None,
    method: str | Solver[Any] = "auto",
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    time_limit: float | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Result:
    """Optimal transport between two clouds of points, whose costs are evaluated tile by tile.

    Clouds of up to 256 MiB of pairs keep the entries of the plan in memory between iterations. They keep the costs
    themselves where the optimum is exact and at most 2²⁴ pairs have mass, and with a `reg` where costs of eight
    coordinates or more, or of a metric that is not compiled, take at most 64 MiB. Larger ones allocate no n × m array.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        The points. Of a list of arrays, clouds of any sizes, each is solved on its own, with those of the other side if
        that is a list too, and the answer is a list. `reg`, `unbalanced` and `mass` may then have one number for each
        pair. `otkit.split` makes a list of a flat array.
    a, b : array (..., n), (..., m), optional
        Their weights, of the same total unless `unbalanced`; uniform by default. A list for lists of clouds.
    metric : str, tuple or callable
        "sqeuclidean" (‖x−y‖², no ½), "euclidean", "cityblock", "cosine", ``("power", p)`` (‖x−y‖^p),
        ``("minkowski", p)``, a name of `scipy.spatial.distance`, "haversine", or a callable, as in `PointCloud`.
    period : float, optional
        The points lie on a circle of this circumference, and the distance is that along it. They have one coordinate,
        any number, which is taken modulo the period.
    reg, unbalanced, penalty, mass, method, tol, rtol, max_iter, init, time_limit, callback, progress, strict
        As in `solve`. Many points of up to three coordinates are solved by `Multiscale`: above 2¹⁸ points on the larger
        side to 1 %, unless `rtol` or `method` say otherwise. Squared distances of many points of more coordinates are
        solved exactly. On a line or a circle, with a cost that is convex in the distance and no `reg`, the solution is
        exact and takes one sort of each side.

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Examples
    --------
    >>> import otkit
    >>> otkit.solve_sample([[0.0], [2.0]], [[1.0], [5.0]], metric="sqeuclidean").value
    array(5.)
    """
    watch, options = Watch.of(callback, time_limit, progress), dict(tol=tol, rtol=rtol, max_iter=max_iter)
    if init is not None and any(map(lists.is_list, (x, y))):
        raise ValueError("init= is for one pair of clouds, got lists of them; call solve_sample for each pair")
    cost = metric if isinstance(metric, Cost) else parse_cost(metric, period=period)

    def solution(x: Any, y: Any, a: Any, b: Any, reg: Any, unbalanced: Any, mass: Any) -> Result:
        asked = Asked(a, b, reg, unbalanced, mass, penalty)
        return solved(PointCloud(x, y, cost), asked, method, options, init, watch, strict)

    def part(batch: Result, item: int, pair: tuple[Any, ...]) -> Result:
        return lists.of_pair(batch, item, pair[:6], strict=strict)

    plain = mass is None and penalty == "kl"
    compiled = partial(at_once, cost, method, options, reg is None, unbalanced is None)
    clouds = lists.Clouds(solution, part if plain else None, shortfall, compiled)
    return lists.answered(clouds, (x, y, a, b), (reg, unbalanced, mass), strict, watch)


@arrays.eager
def solve_grid(
    a: Any,
    b: Any,
    *,
    spacing: Any = 1.0,
    metric: Any = "sqeuclidean",
    reg: Any = None,
    unbalanced: Any = None,
    penalty: str = "kl",
    mass: Any = None,
    method: str | Solver[Any] = "auto",
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    time_limit: float | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    strict: bool = False,
) -> Result:
    """Optimal transport between two images, or densities on a grid of one to three axes.

    The cost is the sum of one cost for each axis, so that operations take one pass along each axis. An iteration on N
    cells takes time proportional to N, and no N × N array is formed.

    Parameters
    ----------
    a, b : array (..., n_1, ..., n_d)
        The masses of the cells, non-negative, of one shape and of the same total unless `unbalanced` or `mass`.
    spacing : float or tuple of float
        The distance between neighbours. A number is that of all axes, and every axis of `a` is one of the grid. A tuple
        has one number for each axis of the grid, and the axes of `a` before these are a batch.
    metric : str or tuple
        "sqeuclidean" (‖x−y‖²), "cityblock" (``Σ_k |x_k−y_k|``), or ``("axiswise", p)`` with p ≥ 1, ``Σ_k |x_k−y_k|^p``.
    rtol : float, optional
        Without a `reg`: stop when ``upper − lower ≤ rtol·upper``. By default the solution is exact for the city-block
        distance, on one axis, and on up to 2¹⁴ cells, or 2¹² if the cost is not the squared distance. Of the squared
        distance between images in host memory, cells without mass do not count. `CoarseToFine` solves larger grids, by
        default to 1e-4 or half of the cost between neighbours, whichever is wider. Powers above 2 are annealed, by
        default to 1 %.
    reg, unbalanced, penalty, mass, method, tol, max_iter, init, time_limit, callback, progress, strict
        As in `solve`. With a `mass`, or ``penalty="tv"``, cells are points, at most 2¹⁴ of them.

    Returns
    -------
    Result
        Its potentials, marginals and plan are of the cells in row order: ``result.f.reshape(a.shape)``.

    Raises
    ------
    ValueError, TypeError, NotConverged
        As `solve` does.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> a, b = np.zeros((2, 8, 8))
    >>> a[1:3, 1:3] = b[4:6, 3:5] = 1 / 4
    >>> round(float(otkit.solve_grid(a, b).value), 9)  # moved by 3 rows and 2 columns
    13.0
    >>> round(float(otkit.solve_grid(a, b, mass=0.5).value), 9)  # half of it, moved by 2 rows and 2 columns
    4.0
    """
    a, b = checks.as_array(a, "a", b), checks.as_array(b, "b", a)
    axes = a.ndim if np.ndim(spacing) == 0 else len(spacing)
    shapes = [tuple(w.shape[w.ndim - axes :]) for w in (a, b)]
    if min(a.ndim, b.ndim) < axes or shapes[0] != shapes[1]:
        raise ValueError(
            f"a and b must have one grid of {axes} axes, got shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "pad the smaller one with zeros"
        )
    grid = Grid(shapes[0], spacing, metric)
    a, b = (masses(grid, w, name) for w, name in ((a, "a"), (b, "b")))
    watch, options = Watch.of(callback, time_limit, progress), dict(tol=tol, rtol=rtol, max_iter=max_iter)
    result = solved(grid, Asked(a, b, reg, unbalanced, mass, penalty), method, options, init, watch, strict)
    return reported(result, shortfall(result), strict)
