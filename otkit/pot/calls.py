"""A solve with POT's limits, and its report and log in POT's words."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.errors import warn
from otkit.geometry.base import GivenGeometry
from otkit.report import shortfall
from otkit.results import Result, Status
from otkit.solvers import Sinkhorn
from otkit.solvers.watch import Watch
from otkit.solving import Asked, solved

# POT's codes of the network simplex.
_INFEASIBLE, _OPTIMAL, _UNFINISHED = 0, 1, 3


def threshold(stop: float) -> None:
    """Require POT's stopThr to be positive, or 0."""
    if stop != 0:
        checks.positive(stop, "stopThr")


def run(
    geometry: GivenGeometry,
    asked: tuple[Any, ...],
    limit: tuple[str, int | None, int | None],
    *,
    tol: float | None = None,
    rtol: float | None = None,
    init: Any = None,
    verbose: bool = False,
    warns: bool = True,
) -> Result:
    """The solution of the problem `asked`, the fields of `Asked`, with a warning if it did not converge and `warns`.

    `limit` is the name of POT's limit on iterations, its value and its default, in place of which stands otkit's own.
    A `tol` of 0 asks for exactly so many iterations. On a line without a reg there are none, and no start.
    """
    name, most, default = limit
    checks.positive(most, name)
    if geometry.convex_on_line and asked[2:] == (None, None):
        most, init = default, None
    method: Any = "auto"
    options = dict(tol=tol, rtol=rtol, max_iter=None if most == default else most)
    if tol is not None and tol == 0:
        method, options = Sinkhorn(n_iters=most, last="rows"), dict.fromkeys(options)
    result = solved(geometry, Asked(*asked), method, options, init, Watch.of(progress=verbose))
    short = shortfall(result).replace("max_iter", name)
    if options["tol"] is None and method != "auto":
        short = f"stopThr=0 stops after {name} iterations, at an error of {np.max(result.error):.2g}; raise stopThr."
    if warns and short:
        warn(short)
    return result


def exact_log(result: Result, item: int | None = None) -> dict[str, Any]:
    """POT's log of an exact solve: cost, dual variables, and what went wrong; `item` of a batch."""
    status = result.outcome.status[item or 0]
    done = status in (Status.CONVERGED, Status.IMPRECISE)
    code = _OPTIMAL if done else _INFEASIBLE if status is Status.INFEASIBLE else _UNFINISHED
    u, v = duals(result, item)
    return {
        "cost": result.value if item is None else result.value[item],
        "u": u,
        "v": v,
        "warning": None if status is Status.CONVERGED else status.value.replace("max_iter", "numItermax"),
        "result_code": code,
    }


def duals(result: Result, item: int | None = None) -> tuple[Array, Array]:
    """Feasible dual variables of an exact solve; `item` of a batch.

    The potential of a point without mass is its derivative, which other such points do not bound. Here they do.
    """
    given, at = result.problem.given, () if item is None else item
    u, v = (arrays.detached(potential)[at] for potential in (result.f, result.g))
    M = given.geometry.matrix
    if M is None or given.a is None or given.b is None:
        return u, v
    empty = [arrays.detached(w if w.ndim == 1 else w[at]) == 0 for w in (given.a, given.b)]
    xp = namespace(u)
    if xp.any(empty[0]) and xp.any(empty[1]):
        room = xp.min(arrays.detached(M) - v, axis=-1)
        u = xp.where(empty[0], xp.minimum(u, xp.astype(room, u.dtype, copy=False)), u)
    return u, v


def entropic_log(result: Result, *, weighted: bool = True) -> dict[str, Any]:
    """The log of an entropic solve, with the keys of all methods of POT; `weighted` as in `scalings`."""
    reg = result.problem.given.reg
    log_u, log_v = scalings(result, weighted=weighted)
    xp = namespace(log_u)
    with np.errstate(over="ignore"):
        u, v = xp.exp(log_u), xp.exp(log_v)
    alpha, beta = reg * log_u, reg * log_v
    logs = {"u": u, "v": v, "log_u": log_u, "log_v": log_v, "logu": log_u, "logv": log_v, "alpha": alpha, "beta": beta}
    rounds = np.max(result.n_iter)
    return {"err": history(result), "niter": rounds, "n_iter": rounds, **logs, "warmstart": (alpha, beta)}


def history(result: Result) -> list[float]:
    """The largest error after each step."""
    return [float(np.max(error)) for error in result.errors]


def scalings(result: Result, *, weighted: bool = True) -> tuple[Array, Array]:
    """Logarithms of POT's scalings u and v. Of several histograms, one column for each.

    They contain the weights if `weighted`, P_ij = u_i·exp(−M_ij/reg)·v_j, and else P_ij = u_i·exp(−M_ij/reg)·c_ij·v_j.
    """
    given, balanced = result.problem.given, result.problem.balanced.all()
    sides, found = ((result.f, given.a), (result.g, given.b)), []
    for potential, w in sides:
        xp, log = namespace(potential), potential / given.reg
        if w is not None:
            w = arrays.float64(w)
            if weighted:
                log = log + arrays.log(w)
            if balanced:  # the potentials are those of total 1
                log = log - arrays.log(xp.sum(w, axis=-1, keepdims=True)) / 2
        elif weighted:
            log = log - float(np.log(potential.shape[-1]))
        found.append(columns(xp.astype(log, potential.dtype, copy=False)))
    return found[0], found[1]


def columns(x: Array) -> Array:
    """A batch of vectors as columns, as POT has them, and the other way round."""
    return x.T if x.ndim == 2 else x


def initial(warmstart: Any, weights: tuple[Any, Any], reg: Any, *, in_cost: bool) -> Any:
    """Potentials (f, g) from a pair of POT's duals: logarithms of scalings, or `reg` times these if `in_cost`."""
    if warmstart is None:
        return None
    if not isinstance(warmstart, (tuple, list)) or len(warmstart) != 2:
        raise ValueError(f"warmstart must be a pair of dual vectors, got {type(warmstart).__name__}; pass (u, v)")
    pairs = zip(warmstart, weights, strict=True)
    return tuple(_potential(v if in_cost else reg * v, arrays.detached(w), reg) for v, w in pairs)


def _potential(dual: Array, w: Array | None, reg: Any) -> Array:
    """The potential of a dual that contains the weights; what is not finite, as where there is no mass, counts as 0."""
    dual = arrays.finite_or_zero(columns(dual))
    return dual if w is None else dual - reg * arrays.finite_or_zero(arrays.log(w))
