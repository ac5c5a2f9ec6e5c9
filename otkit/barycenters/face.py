"""The public function `barycenter`: measures → problem → run → result → report on convergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.barycenters.fixed import Averages, Averaging
from otkit.barycenters.free import on_points
from otkit.barycenters.proofs import towards
from otkit.barycenters.result import BarycenterResult
from otkit.barycenters.shares import shares_of
from otkit.geometry.base import GivenGeometry
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud
from otkit.kernels import shared_by
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import penalty_pair
from otkit.report import reported, shortfall
from otkit.results.result import Result
from otkit.solvers import run
from otkit.solvers.watch import Callback, Watch
from otkit.solving import costs_of, kernel_of, masses, with_options

# The default tolerance of debiased barycenters. They undo a blur, which is ill-conditioned.
_DEBIASED = 1e-4


@arrays.eager
def barycenter(
    measures: Any,
    weights: Any = None,
    *,
    C: Any = None,
    spacing: Any = None,
    support: Any = None,
    metric: Any = "sqeuclidean",
    reg: Any = None,
    unbalanced: Any = None,
    debias: bool = False,
    tol: float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    strict: bool = False,
) -> BarycenterResult:
    """The Wasserstein barycenter: the measure b of least mean cost Σ_k w_k·OT(a_k, b) to given measures.

    On a fixed support, histograms with a cost matrix or images, the masses are sought, and the result proves how far
    they are from the best ones. Of clouds of points, the points of the barycenter are sought.

    Parameters
    ----------
    measures : array (..., K, n), image (..., K, n_1, ..., n_d), or sequence of K clouds
        Histograms with `C`; images with `spacing`; else clouds, each an array ``(n_k, d)`` or a tuple (x, a) with
        weights ``(n_k,)``. All have the same total mass unless `unbalanced`.
    weights : array (..., K), optional
        The weights w_k of the measures, non-negative; divided by their sum. Equal by default.
    C : array (n, m) or geometry, optional
        The costs between the n points of the measures and the m points of the barycenter.
    spacing : float or tuple of float, optional
        Of images: the distance between neighbours. A number is that of all axes but the first. A tuple has one number
        for each axis of the grid, and other axes before that of the K images are a batch.
    support : int or array (k, d), optional
        Of clouds: the number of points of the barycenter, of equal masses, or points to start from. By default those of
        the first cloud, with its weights.
    metric : str or tuple
        Of images and clouds, as in `solve_grid` and `solve_sample`. Points are sought for "sqeuclidean", "euclidean",
        "cityblock" and ``("power", p)`` with 1 ≤ p ≤ 2.
    reg : float or array (...), optional
        The regularisation ε, in units of the cost: the objective is Σ_k w_k·(⟨C, P_k⟩ + reg·KL(P_k | a_k⊗r)) for plans
        with the columns b, with r uniform on the support. This blurs the barycenter. Of clouds, of the transport to
        the points. None: no regularisation.
    unbalanced : float, array (...) or tuple (rho_a, rho_b) of them, optional
        Without a `reg`, on a fixed support: the penalties of `solve`, on the marginals of each measure and on those at
        the barycenter, positive. The objective is Σ_k w_k·(⟨C, P_k⟩ + ρ_a·KL(P_k1 | a_k) + ρ_b·KL(P_kᵀ1 | b)), and the
        measures may have any totals. One number is for both.
    debias : bool
        With a `reg` on a fixed support: minimise the mean Sinkhorn divergence instead, which removes the blur. At a
        large `reg` it hardly depends on details of b, which nothing determines then.
    tol : float, optional
        With a `reg`: the largest L1 distance of the columns of a plan from b, relative to the mass; 1e-6 by default, or
        1e-4 in float32 or debiased. If debiased, also of the plan of b with itself; and on a support of at most 64
        points Newton's decrement δ: the mean divergence is about ½·reg·δ² above its minimum.
    rtol : float, optional
        Without a `reg`, on a fixed support: stop when ``upper − lower ≤ rtol·upper``; 1 % by default. Of clouds: stop
        when an update lowers the objective by less than this fraction; 1e-6 by default.
    max_iter : int, optional
        Maximum number of iterations, 10,000 by default; of clouds, of updates of the points, 100 by default.
    time_limit, callback, progress, strict
        As in `solve`.

    Returns
    -------
    BarycenterResult

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid; raised before any computation.
    NotConverged
        If `strict` and the tolerance was not reached.

    Notes
    -----
    Agueh & Carlier (2011). On a fixed support, iterative Bregman projections (Benamou et al. 2015) in the log domain,
    annealed and accelerated by Anderson mixing; debiased by Janati, Cuturi & Gramfort (2020), and by Newton's method on
    the masses of few points. The bounds are those of the linear program: Σ_k w_k·⟨a_k, f_k⟩ for feasible potentials
    with Σ_k w_k·g_k = 0, and the cost of feasible plans. With penalties they are Σ_k w_k·ρ_a·⟨a_k, 1 − e^(−f_k/ρ_a)⟩
    where Σ_k w_k·e^(−g_k/ρ_b) = 1 (Chizat et al. 2018), and the objective at the masses.
    Points by alternating minimisation (Cuturi & Doucet 2014), from exact plans: each update lowers the objective, whose
    minimum over points need not be unique.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> images = np.zeros((2, 1, 9))
    >>> images[0, 0, 1] = images[1, 0, 5] = 1.0
    >>> result = otkit.barycenter(images, [0.75, 0.25], spacing=1.0, rtol=1e-6)
    >>> int(result.masses.argmax())  # 1 + (5 − 1)/4
    2
    >>> result = otkit.barycenter([[1.0], [4.0]], C=[[0.0]], unbalanced=1.0, rtol=1e-6)  # ((√1 + √4)/2)²
    >>> result.masses.round(2)
    array([2.25])
    >>> clouds = [[[0.0, 0.0], [1.0, 0.0]], [[4.0, 2.0], [5.0, 2.0]]]
    >>> otkit.barycenter(clouds).points
    array([[2., 1.],
           [3., 1.]])
    """
    watch = Watch.of(callback, time_limit, progress)
    options = dict(tol=tol, rtol=rtol, max_iter=max_iter)
    if shared_by() is not None:
        raise ValueError("processes do not share barycenters, got a call in otkit.sharded; leave it")
    if C is not None and spacing is not None:
        raise ValueError("C= is for histograms and spacing= for images, got both; pass one of them")
    _check_options(reg, tol, rtol, unbalanced)
    if debias and (reg is None or (C is None and spacing is None)):
        raise ValueError("debias=True removes the blur of a reg on a fixed support, got none; pass reg= or drop debias")
    if C is None and spacing is None:
        if unbalanced is not None:
            raise ValueError("unbalanced= is for a fixed support, got clouds of points; pass C= or spacing=")
        result = on_points(measures, weights, support, metric, reg, options, watch)
    else:
        if support is not None:
            raise ValueError("support= is for clouds of points, got it with C= or spacing=; drop it")
        if C is None:
            result = _of_images(measures, weights, spacing, metric, (reg, unbalanced), debias, options, watch)
        else:
            a = checks.as_array(measures, "measures")
            result = on_support(a, costs_of(C), weights, reg, debias, options, watch, unbalanced)
    return reported(result, _shortfall(result), strict)


def _check_options(reg: Any, tol: float | None, rtol: float | None, unbalanced: Any) -> None:
    if unbalanced is not None and reg is not None:
        raise ValueError("unbalanced= is for barycenters without a reg, got one; drop reg=, and pass rtol=")
    if reg is None and tol is not None:
        raise ValueError(f"tol= is the error with a reg, got tol={tol!r} without one; pass rtol=, or a reg")
    if reg is not None and rtol is not None:
        raise ValueError(f"rtol= is the width of the bounds without a reg, got rtol={rtol!r}; pass tol=, or drop reg")


def _of_images(
    measures: Any,
    weights: Any,
    spacing: Any,
    metric: Any,
    prices: tuple[Any, Any],
    debias: bool,
    options: dict[str, Any],
    watch: Watch,
) -> BarycenterResult:
    images = checks.as_array(measures, "measures")
    axes = images.ndim - 1 if np.ndim(spacing) == 0 else len(spacing)
    if images.ndim <= axes:
        raise ValueError(
            f"measures must be images (K, n_1, ...) of {axes} axes, got shape {tuple(images.shape)}; stack them"
        )
    shape = tuple(images.shape[images.ndim - axes :])
    grid = Grid(shape, spacing, metric).fitted(images)
    reg, unbalanced = prices
    a = masses(grid, images, "measures")
    result = on_support(a, grid, weights, reg, debias, options, watch, unbalanced)
    b = result.masses
    return replace(result, masses=namespace(b).reshape(b, (*b.shape[:-1], *shape)))


def on_support(
    a: Array,
    geometry: GivenGeometry,
    weights: Any,
    reg: Any,
    debias: bool,
    options: dict[str, Any],
    watch: Watch,
    unbalanced: Any = None,
) -> BarycenterResult:
    """The barycenter of histograms ``a (..., K, n)`` on the support of the columns."""
    if a.ndim < 2 or a.shape[-2] < 1:
        raise ValueError(f"measures must have shape (..., K, {geometry.n}), got {tuple(a.shape)}; stack K histograms")
    checks.no_gradient(a, "measures", "use w_k·result.f, the slope of the value by the weights of measure k")
    if any(map(arrays.requires_grad, geometry.arrays.values())):
        raise ValueError("costs of a barycenter have no backward pass, got some that require gradients; detach them")
    checks.fits(geometry.batch, tuple(a.shape[:-1]), "the costs")
    shares = shares_of(weights, tuple(a.shape[:-1]))
    mass = _mean_total(a, equal=unbalanced is None)
    reg = None if reg is None else _for_each(checks.regularisation(reg), a, "reg")
    if unbalanced is not None:
        rho = penalty_pair(unbalanced)
        if not all((r > 0).all() for r in rho):
            raise ValueError("unbalanced must be positive for a barycenter, got 0; a free side costs nothing")
        unbalanced = tuple(_for_each(r, a, "unbalanced") for r in rho)
    xp = namespace(a)
    uniform = from_numpy(mass[..., None, None] / geometry.m, a)
    if xp.isdtype(a.dtype, "real floating"):
        uniform = xp.astype(uniform, a.dtype)
    problem = LinearProblem.build(geometry, a, xp.broadcast_to(uniform, (*a.shape[:-1], geometry.m)), reg, unbalanced)
    if problem.forbidden.any():
        raise ValueError("costs of a barycenter must be finite, got inf; use a large finite cost")
    support = _support(problem) if debias else None
    w = from_numpy(shares.reshape(-1, shares.shape[-1]), problem.a)
    points = tuple(geometry.arrays.values())
    shared = debias and (support is problem.geometry or points[0] is points[-1])
    solver = with_options(Averaging(w, support, shared, _DEBIASED if debias else None), **options)
    outcome = run(problem, solver, None, watch)
    assert isinstance(outcome, Averages)
    result = Result(towards(problem, outcome.b), outcome, solver.name, kernel_of(problem))
    like, lead = problem.like, shares.shape[:-1]
    b = outcome.b * from_numpy(problem.mass.reshape(-1, shares.shape[-1])[:, :1], outcome.b)
    b = arrays.convert(namespace(b).reshape(b, (*lead, b.shape[-1])), like)
    return BarycenterResult(namespace(b).astype(b, problem.dtype), None, result, shares, support)


def _for_each(v: np.ndarray, a: Array, name: str) -> np.ndarray:
    """A number for each barycenter, or the same for all, as one for each measure of ``a (..., K, n)``."""
    checks.fits(v.shape, tuple(a.shape[:-2]), name)
    return np.broadcast_to(v[..., None], tuple(a.shape[:-1])) if v.ndim else v


def _mean_total(a: Array, *, equal: bool) -> np.ndarray:
    """The mean total mass of the measures of each barycenter, ``(...)``, which are equal if they must be."""
    checks.weights(arrays.detached(a), a.shape[-1], "measures")
    totals = to_numpy(arrays.float64(a)).sum(-1)
    if equal:
        low, high = (np.reshape(end(totals, axis=-1), -1) for end in (np.min, np.max))
        checks.equal_mass(low, high, a, None, names="measures", otherwise="pass unbalanced= without a reg")
    return np.asarray(totals.mean(-1))


def _support(problem: LinearProblem) -> GivenGeometry:
    """The costs between the points of the support."""
    geometry = problem.geometry
    if geometry.grid is not None:
        return geometry
    if isinstance(geometry, PointCloud):
        return PointCloud(geometry.y, geometry.y, geometry.metric)
    C = None if geometry.matrix is None else to_numpy(geometry.matrix)
    if C is None or C.shape[-1] != C.shape[-2] or not np.allclose(C, np.swapaxes(C, -1, -2), rtol=1e-6, atol=0):
        raise ValueError(
            f"debias=True needs the costs of the support with itself: C must be square and symmetric, got a matrix of "
            f"shape {(geometry.n, geometry.m)}; pass otkit.PointCloud(x, y), or drop debias"
        )
    return geometry


def _shortfall(result: BarycenterResult) -> str:
    """Message about a barycenter that did not converge; empty if it did."""
    if result.points is not None or result.result.outcome.reg is not None:
        return shortfall(result.result)
    outcome = result.result.outcome
    if not outcome.short.any():
        return ""
    k = int(outcome.short.argmax())
    low, high = (np.reshape(v, -1)[k // result.weights.shape[-1]] for v in (result.lower, result.upper))
    return f"{outcome.status[k].value} The least mean cost lies in [{low:.6g}, {high:.6g}]."
