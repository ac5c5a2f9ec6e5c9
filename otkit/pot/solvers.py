"""POT's unified interface: `ot.solve` and `ot.solve_sample`, whose result has POT's names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.geometry.base import GivenGeometry
from otkit.geometry.points import PointCloud
from otkit.pot.calls import duals, entropic_log, exact_log, initial, run, scalings
from otkit.pot.gaussian import empirical_bures_wasserstein_distance
from otkit.pot.inputs import costs, like_of, lowered, of_one_total, one_of, pair_of, threads, unused, weights
from otkit.pot.line import wasserstein_1d
from otkit.pot.reference import TYPES, reference
from otkit.pot.regularised import Regularised, regularisation_of
from otkit.pot.results import OTResult, lazy_plan
from otkit.pot.sides import PENALTIES
from otkit.pot.solution import minimised
from otkit.pot.utils import CLOUDS, dist
from otkit.results import Result, Status

METHODS = ("sinkhorn", "sinkhorn_log", "mm", "lbfgsb")
_GEOMLOSS = ("geomloss", "geomloss_auto", "geomloss_tensorized", "geomloss_online", "geomloss_multiscale")
_GRADS = ("autodiff", "envelope", "last_step", "detach")
_TOL = 1e-9  # POT's default
_WHY = "it is of POT's approximate methods"


@dataclass(frozen=True)
class _Asked:
    """The problem and the options of a call, after their checks.

    Attributes
    ----------
    reg, c, unbalanced
        As in `solve`; `reg` is None for an exact problem.
    reg_type : {"kl", "entropy", "l2"} or tuple of 2 functions
    penalty : {"kl", "l2", "tv"}
    max_iter, tol, init, verbose, grad
        As in `solve`.
    """

    reg: Any
    c: Any
    reg_type: Any
    unbalanced: Any
    penalty: str
    max_iter: int | None
    tol: float | None
    init: Any
    verbose: bool
    grad: str

    @staticmethod
    def of(problem: tuple[Any, ...], options: tuple[Any, ...], plan_init: Any) -> _Asked:
        """The problem (reg, c, reg_type, unbalanced, unbalanced_type), options (max_iter, tol, init, verbose, grad)."""
        reg, c, reg_type, unbalanced, unbalanced_type = problem
        max_iter, tol, init, verbose, grad = options
        checks.positive(max_iter, "max_iter")
        if plan_init is not None:
            raise NotImplementedError("plan_init= does not apply: otkit starts from potentials; pass potentials_init=")
        if isinstance(reg, (int, float)) and reg == 0:
            reg = None
        if unbalanced is not None and lowered(unbalanced_type) not in PENALTIES:
            raise NotImplementedError(f"unbalanced_type must be 'KL', 'L2' or 'TV', got {unbalanced_type!r}; pass one")
        if reg is not None:
            reg_type = regularisation_of(reg_type)
        elif c is not None:
            raise ValueError("c= is the reference of the regularisation, and there is no reg=; drop one of them")
        grad = one_of(grad, "grad", _GRADS)
        penalty = lowered(unbalanced_type)
        asked = _Asked(reg, c, reg_type, pair_of(unbalanced), penalty, max_iter, tol, init, verbose, grad)
        varied = unbalanced is not None and (reg is None or not asked.own)
        checks.positive(tol, "tol", below=np.inf if asked.own and not varied else 1.0)
        if init is not None and not (asked.own and (unbalanced is None or penalty == "kl")):
            raise NotImplementedError("potentials_init= does not apply to this regularisation or penalty; drop it")
        return asked

    @property
    def own(self) -> bool:
        """Whether the solvers of otkit have the problem."""
        if self.reg is not None and self.reg_type not in TYPES:
            return False
        return self.unbalanced is None or self.penalty == "kl" or (self.penalty == "tv" and self.reg is None)

    def solve(self, geometry: GivenGeometry, a: Any, b: Any) -> OTResult:
        """The solution at these costs and weights."""
        if self.grad == "detach":
            geometry, a, b = geometry.detached(), arrays.detached(a), arrays.detached(b)
        pair = tuple(weights(w, name, geometry) for w, name in ((a, "a"), (b, "b")))
        if not self.own:
            return self._regularised(geometry, *pair)
        if self.reg is not None:
            return self._entropic(geometry, *pair)
        return self._exact(geometry, *pair) if self.unbalanced is None else self._varied(geometry, *pair)

    def _exact(self, geometry: GivenGeometry, a: Any, b: Any) -> OTResult:
        asked = (*of_one_total(geometry, a, b, True), None, None)
        result = run(geometry, asked, ("max_iter", self.max_iter, None), init=self.init, verbose=self.verbose)
        log = exact_log(result)
        return self._named(result, (result.value, result.value_linear), duals(result), log)

    def _varied(self, geometry: GivenGeometry, a: Any, b: Any) -> OTResult:
        asked, limit = (a, b, None, self.unbalanced, None, self.penalty), ("max_iter", self.max_iter, None)
        rtol = self.tol if self.penalty == "kl" else None
        result = run(geometry, asked, limit, rtol=rtol, init=self.init, verbose=self.verbose)
        plain = replace(result, link=None)  # only the value has gradients
        log = {"cost": plain.value_linear, "total_cost": plain.value}
        return self._named(result, (result.value, plain.value_linear), plain.potentials, log)

    def _entropic(self, geometry: GivenGeometry, a: Any, b: Any) -> OTResult:
        at = reference(geometry, (a, b), self.reg, self.reg_type, self.c)
        weighted = self.unbalanced is None and at.M is None
        init = initial(self.init, (a, b) if weighted else (None, None), self.reg, in_cost=False)
        asked, tol = (a, b, self.reg, self.unbalanced), _TOL if self.tol is None else self.tol
        limit = ("max_iter", self.max_iter, None)
        result = run(at.geometry, asked, limit, tol=tol, init=init, verbose=self.verbose)
        potentials = scalings(result, weighted=weighted)
        values = at.value(result), at.linear(result)
        return self._named(result, values, potentials, entropic_log(result, weighted=weighted))

    def _regularised(self, geometry: GivenGeometry, a: Any, b: Any) -> OTResult:
        asked = (self.reg, self.reg_type, self.c), (self.unbalanced, self.penalty)
        found = minimised(Regularised.of(geometry, (a, b), *asked), ("max_iter", self.max_iter), self.tol)
        linear, status = arrays.detached(found.value_linear), found.message or "Converged"
        return OTResult(found, found.value, linear, (found.f, found.g), found.log(), status=status)

    def _named(self, result: Result, values: tuple[Any, Any], potentials: Any, log: dict[str, Any]) -> OTResult:
        value, linear = values
        if self.grad == "envelope":
            linear, potentials = arrays.detached(linear), tuple(map(arrays.detached, potentials))
        status = "Converged" if result.outcome.status[0] is Status.CONVERGED else result.message
        return OTResult(result, value, linear, potentials, log, status=status, recorded=self.grad != "envelope")


@arrays.eager
def solve(
    M: Any,
    a: Any = None,
    b: Any = None,
    reg: Any = None,
    c: Any = None,
    reg_type: Any = "KL",
    unbalanced: Any = None,
    unbalanced_type: str = "KL",
    method: str | None = None,
    n_threads: Any = 1,
    max_iter: int | None = None,
    plan_init: Any = None,
    potentials_init: Any = None,
    tol: float | None = None,
    verbose: bool = False,
    grad: str = "autodiff",
) -> OTResult:
    """Optimal transport for a cost matrix, as `ot.solve`.

    Parameters
    ----------
    M : array (n, m)
        The costs; ``inf`` forbids an arc.
    a, b : array (n,), (m,), optional
        Weights; uniform by default.
    reg : float, optional
        The regularisation; None or 0 for the exact problem.
    c : array (n, m), optional
        The reference measure of `reg_type` "KL" and "L2"; a⊗b by default.
    reg_type : str or tuple of 2 functions
        "KL", "entropy", "L2" for half the squares ½‖P − c‖², whose `c` is 0 by default without penalties, as in POT, or
        a convex f(P) and its gradient.
    unbalanced : float, or 1 or 2 numbers, optional
        The penalty on the marginals.
    unbalanced_type : str
        "KL", the divergence of the marginals, "L2", half their squared distance, or "TV", their total variation.
        Without a `reg`, or with another regularisation or penalty than entropy and "KL", the value alone has gradients.
    method : str, optional
        One of POT's names, "sinkhorn", "sinkhorn_log", "mm" or "lbfgsb", which have one answer here.
    n_threads
        No effect, as in POT; a ``DeprecationWarning`` says so.
    max_iter : int, optional
        Maximum number of iterations; by default that of `otkit.solve`.
    plan_init : None
        Refused: otkit starts from potentials.
    potentials_init : tuple (u, v), optional
        Dual variables to start from, in the units of `OTResult.potentials`.
    tol : float, optional
        Of entropic problems with exact marginals or "KL" penalties: bound on the L1 errors of both marginals, 1e-9 by
        default. Of others: bound on the relative width of the interval of the value, 1e-6 by default. An exact solution
        meets every one.
    verbose : bool
        Show a progress bar of otkit's own solvers on the standard error, if that is a terminal.
    grad : str
        "autodiff" records all that is returned, or the value alone, see `unbalanced_type`. Gradients follow from the
        optimum, not from iterations: so "last_step" is the same, and "envelope" the same for `value` alone. "detach"
        records nothing.

    Returns
    -------
    OTResult

    Raises
    ------
    ValueError, TypeError
        If the data or options are invalid.
    NotImplementedError
        For what POT solves and otkit does not.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75]).plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    """
    threads(n_threads, "n_threads")
    if method is not None:
        one_of(method, "method", METHODS)
    problem = (reg, c, reg_type, unbalanced, unbalanced_type)
    asked = _Asked.of(problem, (max_iter, tol, potentials_init, verbose, grad), plan_init)
    return asked.solve(costs(M, a, b), a, b)


@arrays.eager
def solve_sample(
    X_a: Any,
    X_b: Any,
    a: Any = None,
    b: Any = None,
    metric: Any = "sqeuclidean",
    reg: Any = None,
    c: Any = None,
    reg_type: Any = "KL",
    unbalanced: Any = None,
    unbalanced_type: str = "KL",
    lazy: bool = False,
    batch_size: int | None = None,
    method: str | None = None,
    n_threads: Any = 1,
    max_iter: int | None = None,
    plan_init: Any = None,
    rank: int = 100,
    scaling: float = 0.95,
    potentials_init: Any = None,
    X_init: Any = None,
    tol: float | None = None,
    verbose: bool = False,
    grad: str = "autodiff",
    random_state: Any = None,
    debias: Any = False,
    n_projections: int = 50,
    projections: Any = None,
    scaler: Any = None,
) -> OTResult:
    """Optimal transport between two clouds of points, as `ot.solve_sample`.

    Parameters
    ----------
    X_a, X_b : array (n, d), (m, d)
        The points.
    a, b : array (n,), (m,), optional
        Weights; uniform by default.
    metric : str or callable
        As in `dist`.
    reg, c, reg_type, unbalanced, unbalanced_type, n_threads, max_iter, plan_init, potentials_init, tol, verbose, grad
        As in `solve`.
    lazy : bool
        Form no matrix. With a `reg`, the plan is `OTResult.lazy_plan` too. Without `lazy` there is no matrix either for
        "sqeuclidean", "euclidean", "cityblock" and "cosine".
    batch_size
        How much POT computes at a time; the result does not depend on it.
    method : str, optional
        "1d" for a value in each coordinate, "gaussian" for the squared distance of Gaussians of the same moments,
        "geomloss" and its variants for the lazy entropic problem, or as in `solve`. POT's approximate methods are
        refused.
    debias : bool
        Subtract half the values of each cloud with itself; POT's "split" is refused.
    rank, scaling, X_init, random_state, n_projections, projections, scaler
        Refused: of methods that are refused.

    Returns
    -------
    OTResult

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `solve` does.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> ot.solve_sample([[0.0], [2.0]], [[1.0], [5.0]]).value
    array(5.)
    """
    threads(n_threads, "n_threads")
    kind = method.lower() if isinstance(method, str) else method
    if kind is not None and kind not in ("1d", "gaussian", *METHODS, *_GEOMLOSS):
        raise NotImplementedError(
            f"method must be None, '1d', 'gaussian' or one of {', '.join((*METHODS, *_GEOMLOSS))}, got {method!r}; "
            "drop it, or use POT"
        )
    given = dict(rank=rank, scaling=scaling, X_init=X_init, random_state=random_state, scaler=scaler)
    _only_default({**given, "n_projections": n_projections, "projections": projections})
    if kind == "1d":
        return _by_coordinates((X_a, X_b), (a, b), metric)
    if kind == "gaussian":
        return _of_moments((X_a, X_b), (a, b), metric, reg)
    lazy = lazy or kind in _GEOMLOSS
    problem = (reg, c, reg_type, unbalanced, unbalanced_type)
    asked = _Asked.of(problem, (max_iter, tol, potentials_init, verbose, grad), plan_init)
    x = checks.as_array(X_a, "X_a", like_of(X_b))
    y = checks.as_array(X_b, "X_b", x)
    if debias is not False:
        return _debiased(asked, ((x, a), (y, b)), metric, lazy, debias)
    return _between(asked, ((x, a), (y, b)), metric, lazy)


def _between(asked: _Asked, measures: tuple[Any, Any], metric: Any, lazy: bool) -> OTResult:
    """The solution between measures (points, weights)."""
    (x, a), (y, b) = measures
    moved = not asked.own or (asked.reg is not None and (asked.c is not None or asked.reg_type != "kl"))
    stays = isinstance(metric, str) and metric in CLOUDS and not moved
    if lazy and not asked.own:
        raise NotImplementedError(
            "lazy=True takes reg_type='KL' or no reg, and unbalanced_type='KL', or 'TV' without a reg; drop lazy="
        )
    if lazy and not stays:
        raise NotImplementedError(
            f"lazy=True takes reg_type='KL', no c= and a metric among {', '.join(CLOUDS)}, got {metric!r}; drop lazy="
        )
    answer = asked.solve(PointCloud(x, y, metric) if stays else costs(dist(x, y, metric)), a, b)
    if not lazy or asked.reg is None or not isinstance(answer.result, Result):
        return answer
    return replace(answer, lazy_plan=lazy_plan((x, y), scalings(answer.result), metric, asked.reg))


def _debiased(asked: _Asked, measures: tuple[Any, Any], metric: Any, lazy: bool, debias: Any) -> OTResult:
    """The values less half of those of each measure with itself."""
    if debias is not True:
        raise NotImplementedError(f"debias must be True or False, got {debias!r}; pass the halves to two calls")
    one, other = measures
    ab, aa, bb = (_between(asked, pair, metric, lazy) for pair in ((one, other), (one, one), (other, other)))
    value, linear = (
        getattr(ab, name) - (getattr(aa, name) + getattr(bb, name)) / 2 for name in ("value", "value_linear")
    )
    return replace(ab, value=value, value_linear=linear, log={"res_aa": aa, "res_bb": bb, "res_ab": ab})


def _by_coordinates(points: tuple[Any, Any], pair: tuple[Any, Any], metric: Any) -> OTResult:
    """The cost in each coordinate."""
    powers = {"sqeuclidean": 2.0, "euclidean": 1.0, "cityblock": 1.0}
    if not isinstance(metric, str) or metric not in powers:
        raise NotImplementedError(f"method='1d' takes a metric among {', '.join(powers)}, got {metric!r}; pass one")
    value = wasserstein_1d(*points, *pair, p=powers[metric])
    return OTResult(None, value, value)


def _of_moments(points: tuple[Any, Any], pair: tuple[Any, Any], metric: Any, reg: Any) -> OTResult:
    """The squared distance of Gaussians with the moments of the points."""
    if metric != "sqeuclidean":
        raise NotImplementedError(f"method='gaussian' takes metric='sqeuclidean', got {metric!r}; pass that one")
    ws, wt = (None if w is None else checks.as_array(w, "weights", like_of(*points))[:, None] for w in pair)
    reg = 1e-6 if reg is None else reg
    distance, log = empirical_bures_wasserstein_distance(*points, reg, ws, wt, log=True)
    return OTResult(None, distance**2, distance**2, log=log)


def _only_default(given: dict[str, Any]) -> None:
    """Refuse arguments of methods that do not exist here, unless they are POT's defaults."""
    default = {"rank": 100, "scaling": 0.95, "n_projections": 50}
    unused({name: v for name, v in given.items() if not (v is None or (name in default and v == default[name]))}, _WHY)
