"""From arguments to results: problem → solver → run → result, without a report on convergence."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple, NoReturn

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array
from otkit.autograd import attached, check_differentiable
from otkit.certificates.base import sum_rounding
from otkit.geometry.base import GivenGeometry
from otkit.geometry.costs import UNIT, Cost
from otkit.geometry.dense import Dense
from otkit.geometry.grid import Grid
from otkit.geometry.stored import StoredArcs, is_sparse
from otkit.kernels import shared_by
from otkit.problems.linear import LinearProblem
from otkit.problems.partial import WithBorder, partial_problem
from otkit.problems.variation import Variation, variation_problem
from otkit.results.partial import without_border
from otkit.results.result import Result
from otkit.solvers import cells_or_points, choose_solver, descent, in_scales, on_line
from otkit.solvers.base import Solver, run
from otkit.solvers.exact import partial as small_partial
from otkit.solvers.exact import small as small_exact
from otkit.solvers.exact.solver import Exact
from otkit.solvers.sns import small as small_entropic
from otkit.solvers.watch import Watch

# Maximum number of cells of a grid that are points of a problem with one more row and one more column.
_CELLS = 2**14


class Asked(NamedTuple):
    """What is asked beside the costs, as the caller gives it."""

    a: Any = None
    b: Any = None
    reg: Any = None
    unbalanced: Any = None
    mass: Any = None
    penalty: str = "kl"


def costs_of(C: Any) -> GivenGeometry:
    """The geometry of the costs of a caller: a matrix, a sparse matrix or a geometry."""
    return StoredArcs.of(C) if is_sparse(C) else C if isinstance(C, GivenGeometry) else Dense(C)


def solved(
    geometry: GivenGeometry,
    asked: Asked,
    method: str | Solver[Any],
    options: dict[str, Any],
    init: Any,
    watch: Watch,
    strict: bool = False,
) -> Result:
    """The solution of a problem, without a report on convergence.

    `strict` is for its gradients.
    """
    if asked.mass is not None or asked.penalty != "kl":
        return _solved_with_border(geometry, asked, method, options, init, watch, strict)
    if isinstance(geometry, Grid):
        geometry = geometry.fitted(*asked[:2])
        if asked.reg is None and asked.unbalanced is None:
            geometry = cells_or_points(geometry, method, *asked[:2])
    quick = _solved_small(geometry, asked, method, options) if init is None and watch.idle else None
    if quick is not None:
        return attached(quick, strict)
    in_cells = in_scales(geometry, method, asked.reg, asked.unbalanced)
    problem = _with_exact_marginals(LinearProblem.build(geometry, *asked[:4], reduces=not in_cells), geometry, asked)
    chosen = choose_solver(problem, method, bounded=options["rtol"] is not None)
    solver = with_options(chosen, **options)
    if init is not None and "init" in solver.refuses:
        _refuse(solver, "init")
    return result_of(problem, solver, _start(problem, init), watch, strict)


def _with_exact_marginals(problem: LinearProblem, geometry: GivenGeometry, asked: Asked) -> LinearProblem:
    """The problem with exact marginals where penalties are too large for any plan to pay, and totals are equal.

    An exact plan pays nothing then, so its cost is not below the optimum. The potentials of its dual, |f|, |g| ≤ K for
    costs of size K, prove that it is above by at most Σ a f²/2ρ + Σ b g²/2ρ ≤ K²/ρ for each unit of mass: at ρ ≥ K/u
    less than a rounding error of the costs. The penalties themselves would lose more digits than that.
    """
    if asked.reg is not None or problem.balanced.all() or problem.forbidden.any() or problem.idle is not None:
        return problem
    given = asked.unbalanced if isinstance(asked.unbalanced, tuple) else (asked.unbalanced,)
    if any(map(arrays.requires_grad, given)):
        return problem
    rho_a, rho_b = (arrays.to_numpy(rho) for rho in (problem.penalties.rho_a, problem.penalties.rho_b))
    size = np.maximum(abs(problem.low), abs(problem.high)) + problem.span
    one, other = (arrays.to_numpy(total) for total in problem.totals)
    equal = abs(one - other) <= sum_rounding(geometry.n + geometry.m) * np.maximum(one, other)
    exact = equal & (np.minimum(rho_a, rho_b) * UNIT >= size)
    if not exact.any():
        return problem
    penalties = tuple(np.where(exact, np.inf, rho).reshape(problem.batch) for rho in (rho_a, rho_b))
    return LinearProblem.build(geometry, asked.a, asked.b, None, penalties)


def _solved_with_border(
    geometry: GivenGeometry,
    asked: Asked,
    method: str | Solver[Any],
    options: dict[str, Any],
    init: Any,
    watch: Watch,
    strict: bool,
) -> Result:
    """The solution of a problem whose mass may stay, by that of the balanced one with one more row and column."""
    plain = method in ("auto", "exact") and init is None and watch.idle and not any(options.values())
    if plain and asked.reg is None and asked.unbalanced is None and asked.penalty == "kl":
        quick = small_partial.solved(geometry, asked.a, asked.b, asked.mass)
        if quick is not None:
            return without_border(quick, geometry)
    geometry = _cells(geometry, asked) if isinstance(geometry, Grid) else geometry
    bordered, variation = _bordered(geometry, asked)
    exceeds = variation is not None and variation.exceeds
    if exceeds and method == "auto":
        method = "exact"  # what exceeds the weights is read off the arcs of the plan
    checks.positive(options["tol"], "tol")
    share = None if asked.reg is None else bordered.share
    if init is None and watch.idle:
        within = options if share is None else {**options, "tol": _within(options["tol"], share, bordered.unit)}
        quick = _solved_small(bordered.geometry, Asked(bordered.a, bordered.b, asked.reg), method, within)
        if quick is not None:
            whole = replace(quick, problem=bordered.typed(quick.problem))
            return without_border(attached(whole, strict), geometry, variation)
    problem = bordered.build(asked.reg)
    solver = with_options(choose_solver(problem, method, bounded=options["rtol"] is not None), **options)
    if exceeds and not isinstance(solver, Exact):
        raise ValueError(
            f"method {solver.name!r} does not apply where a marginal may exceed its weights; use method='exact'"
        )
    if share is not None and getattr(solver, "n_iters", None) is None:
        solver = with_options(solver, tol=_within(getattr(solver, "tol", None), share, bordered.unit))
    start = _start(problem, _with_border(init))
    return without_border(result_of(problem, solver, start, watch, strict), geometry, variation)


def _within(tol: float | None, share: float, unit: float) -> float:
    """The tolerance relative to the mass of a problem of which such a share has the tolerance `tol`."""
    return descent.asked(tol, unit) * share


def _cells(grid: Grid, asked: Asked) -> GivenGeometry:
    """The cells of a grid as points, for the library of the weights."""
    if grid.n > _CELLS:
        raise ValueError(
            f"mass= and penalty='tv' take at most {_CELLS} cells of a grid, as points, got {grid.n}; sum blocks of "
            "cells, or pass the cells with mass to otkit.solve_sample"
        )
    return grid.fitted(*asked[:2]).points


def _bordered(geometry: GivenGeometry, asked: Asked) -> tuple[WithBorder, Variation | None]:
    """The balanced problem of partial transport, or that of total-variation penalties with these."""
    a, b, reg, unbalanced, mass, penalty = asked
    if penalty == "kl":
        if unbalanced is not None:
            raise ValueError(
                "mass= fixes the mass that moves, and unbalanced= penalises its deviations; pass one of them"
            )
        return partial_problem(geometry, a, b, reg, mass), None
    if penalty != "tv":
        raise ValueError(f"penalty must be 'kl' or 'tv', got {penalty!r}; pass one of them")
    if unbalanced is None or mass is not None or reg is not None:
        wrong = "no unbalanced=" if unbalanced is None else "a mass" if mass is not None else "a reg"
        raise ValueError(
            f"penalty='tv' needs unbalanced=, and neither reg= nor mass=, got {wrong}; pass unbalanced= alone"
        )
    return variation_problem(geometry, a, b, unbalanced)


def _with_border(init: Any) -> Any:
    """Initial potentials of the balanced problem, from a result of such a problem."""
    if init is None:
        return None
    if not isinstance(init, Result) or init.whole is None:
        raise ValueError(
            f"init must be a result with mass= or penalty='tv', got {type(init).__name__}; drop it, or pass one"
        )
    return init.whole


def _solved_small(
    geometry: GivenGeometry, asked: Asked, method: str | Solver[Any], options: dict[str, Any]
) -> Result | None:
    """The solution by one compiled pass, of a small problem without special options; None for others."""
    a, b, reg, unbalanced = asked[:4]
    tol, rtol, max_iter = options["tol"], options["rtol"], options["max_iter"]
    if max_iter is not None:
        return None
    if reg is not None:
        entropic = rtol is None and method in ("auto", "sns")
        return small_entropic.solved(geometry, a, b, reg, unbalanced, tol) if entropic else None
    if tol is not None or unbalanced is not None:
        return None
    if geometry.convex_on_line:
        return on_line.solved(geometry, a, b) if rtol is None and method in ("auto", "univariate") else None
    return small_exact.solved(geometry, a, b, rtol) if method in ("auto", "exact") else None


def at_once(cost: Cost, method: str | Solver[Any], options: dict[str, Any], exact: bool, balanced: bool, d: int) -> int:
    """The most entries of a pair of clouds in d coordinates that one pass solves among others; 0 for none."""
    if not balanced or not (options["rtol"] is None and options["max_iter"] is None):
        return 0
    if not exact:
        return small_entropic.FEW if isinstance(cost.ground, str) and method in ("auto", "sns") else 0
    return small_exact.largest(cost, d) if method in ("auto", "exact") and options["tol"] is None else 0


def masses(grid: Grid, w: Any, name: str) -> Array:
    """The masses of images ``(..., *shape)`` in row order, ``(..., n)``."""
    w = checks.as_array(w, name)
    lead = w.ndim - len(grid.shape)
    if tuple(w.shape[max(lead, 0) :]) != grid.shape:
        raise ValueError(
            f"{name} must have the shape of the grid, (..., {grid.shape}), got {tuple(w.shape)}; pad it with zeros, or "
            "make a grid of its shape"
        )
    return arrays.namespace(w).reshape(w, (*w.shape[:lead], grid.n))


def with_options(solver: Solver[Any], **options: Any) -> Solver[Any]:
    """The solver with the options that are not None; ``ValueError`` for an option that it lacks."""
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(solver)}  # type: ignore[arg-type]
    for name, value in given.items():
        checks.positive(value, name, below=1.0 if name == "rtol" else np.inf)
        if name not in known and value != getattr(solver, name, None):
            _refuse(solver, name)
    return replace(solver, **{name: value for name, value in given.items() if name in known})  # type: ignore[type-var]


def _refuse(solver: Solver[Any], name: str) -> NoReturn:
    raise ValueError(f"{name} does not apply to method {solver.name!r}; {solver.refuses.get(name, f'drop {name}=')}")


def _start(problem: LinearProblem, init: Any) -> tuple[Array, Array] | None:
    """Initial potentials in reduced costs, from the caller's `init`."""
    if init is None:
        return None
    pair = init.potentials if isinstance(init, Result) else init
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"init must be a tuple (f, g) or a Result, got {type(init).__name__}; pass (f, g)")
    reduced = problem.reduced
    f, g = pair
    return potential_of(problem, f, "init f", reduced.row), potential_of(problem, g, "init g", reduced.col)


def potential_of(problem: LinearProblem, v: Any, name: str, offset: Array) -> Array:
    """A potential of the caller in reduced costs, ``(B, n)`` or ``(B, m)``; `offset` has those of its side."""
    v = arrays.detached(checks.as_array(v, name, problem.like))
    checks.same_library(**{name: v, **problem.asked.arrays})
    v = problem.inside(v)
    xp, size = arrays.namespace(v), offset.shape[-1]
    if v.ndim < 1 or v.shape[-1] != size:
        raise ValueError(
            f"{name} must have shape (..., {size}), got shape {tuple(v.shape)}; start from a problem of these sizes"
        )
    if not xp.all(xp.isfinite(v)):
        raise ValueError(f"{name} must be finite, got NaN or inf in it; set it to 0 where there is no mass")
    checks.fits(tuple(v.shape[:-1]), problem.batch, name)
    processes = shared_by()
    if processes is not None:
        processes.check_same(v)
    v = xp.broadcast_to(arrays.float64(v), (*problem.batch, size))
    return xp.reshape(v, (problem.items, size)) - offset


def result_of(
    problem: LinearProblem,
    solver: Solver[Any],
    start: tuple[Array, Array] | None,
    watch: Watch,
    strict: bool = False,
) -> Result:
    """The result of a run, attached to autograd's graph where the input requires gradients."""
    check_differentiable(problem)
    return attached(Result(problem, run(problem, solver, start, watch), solver.name, kernel_of(problem)), strict)


def kernel_of(problem: LinearProblem) -> str:
    """The names of the kernels of a problem, and of the array library."""
    return f"{problem.kernels.name} ({arrays.library_name(problem.like)})"
