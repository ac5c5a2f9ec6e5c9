"""The barycenter of several measures, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array, from_numpy, to_numpy
from otkit.barycenters.bounds import excess, lower_bound
from otkit.barycenters.fixed import Averages
from otkit.geometry.base import GivenGeometry
from otkit.geometry.points import PointCloud
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Status
from otkit.results.result import Result
from otkit.solvers import choose_solver, run
from otkit.solving import with_options

# The tolerance of the problems of measures with themselves, whose values are subtracted.
_TOL = 1e-8


@dataclass(frozen=True, repr=False)
class BarycenterResult:
    """A barycenter, the measure of the least mean transport cost to given measures.

    In shapes, ``...`` stands for the batch axes, none for a single barycenter.

    Attributes
    ----------
    masses : array (..., m) or image (..., n_1, ..., n_d)
        The masses of its points, or of the cells of its grid. Their total is that of the measures, unless unbalanced.
    points : array (m, d) or None
        Its points, if they were sought; None on a fixed support.
    result : Result
        The transport from every measure to the barycenter, ``(..., K)`` problems: plans, potentials, costs.
    weights : numpy array (..., K)
        The weights of the measures, which sum to 1.
    support : geometry or None
        The costs between the points of the support, if debiased.

    Examples
    --------
    >>> import otkit
    >>> answer = otkit.barycenter([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], C=[[0, 1, 4], [1, 0, 1], [4, 1, 0]])
    >>> answer
    BarycenterResult(1 of 2 measures; CONVERGED)
    >>> answer.masses.round(6), answer.result.value.round(6)  # halfway, at a cost of 1 from each
    (array([0., 1., 0.]), array([1., 1.]))
    """

    masses: Array
    points: Array | None
    result: Result
    weights: np.ndarray
    support: GivenGeometry | None = None

    @property
    @arrays.eager
    def value(self) -> Any:
        """The objective: float, or a NumPy array ``(...)``.

        Without a `reg`, the mean cost of feasible plans. With one, the minimum of Σ_k w_k·(⟨C, P_k⟩ + reg·KL(P_k |
        a_k⊗r)) by its dual, with r uniform on the support; of points that were sought, the mean of the values. If
        debiased, the mean Sinkhorn divergence.
        """
        return self._scalar(self._value)

    @property
    @arrays.eager
    def lower(self) -> Any:
        """A certified lower bound on min_b Σ_k w_k·OT(a_k, b), without regularisation: float, or an array ``(...)``.

        The minimum is over all weights on the support. None for points that were sought: no bound is known there.
        """
        return None if self._averages is None else self._scalar(self._lower)

    @property
    @arrays.eager
    def upper(self) -> Any:
        """A certified upper bound on Σ_k w_k·OT(a_k, masses), without regularisation: float, or an array ``(...)``."""
        return self._scalar(self._mean(np.asarray(self.result.upper)))

    @property
    def gap(self) -> Any:
        """``upper − lower``: how far the barycenter may be from the best one: float, or an array ``(...)``."""
        return None if self._averages is None else self.upper - self.lower

    @property
    @arrays.eager
    def excess(self) -> Any:
        """A certified bound on how far the objective is above its minimum: float, or an array ``(...)``.

        With a `reg`, of the regularised objective: both the minimum and the objective at `masses` are in
        ``[value, value + excess]``. Without one it is `gap`. None if debiased, or for points that were sought.
        """
        if self._averages is None or self.support is not None:
            return None
        return self.gap if self._averages.reg is None else self._scalar(self._entropic[1])

    @property
    def status(self) -> Any:
        """Termination status: `Status`, or an object array ``(...)``."""
        return self._shared(self.result.outcome.status)

    @property
    def converged(self) -> Any:
        """Whether the tolerance was reached: bool, or an array ``(...)``."""
        return self._shared(self.result.outcome.status == Status.CONVERGED)

    @property
    def n_iter(self) -> Any:
        """Iterations over all stages, or updates of the points: int, or an array ``(...)``."""
        return self._shared(self.result.outcome.n_iter)

    @property
    def error(self) -> Any:
        """The largest error of the transport from a measure: float, or an array ``(...)``."""
        return self._scalar(self.result.outcome.error.reshape(*self._batch, -1).max(-1))

    @property
    def _averages(self) -> Averages | None:
        return self.result.outcome if isinstance(self.result.outcome, Averages) else None

    @property
    def _batch(self) -> tuple[int, ...]:
        return self.weights.shape[:-1]

    @property
    def _mass(self) -> np.ndarray:
        return self.result.problem.mass.reshape(self.weights.shape)[..., 0]

    def _mean(self, v: np.ndarray) -> np.ndarray:
        """The weighted mean over the measures of a barycenter."""
        return np.asarray((self.weights * v.reshape(self.weights.shape)).sum(-1))

    def _scalar(self, v: np.ndarray) -> Any:
        v = np.asarray(v).reshape(self._batch)
        return v if self._batch else float(v)

    def _shared(self, v: np.ndarray) -> Any:
        v = v.reshape(self.weights.shape)[..., 0]
        return v if self._batch else v.item()

    @cached_property
    def _lower(self) -> np.ndarray:
        assert self._averages is not None
        low = lower_bound(self.result.problem, self._averages.point, self._weights)
        return low.reshape(self._batch) * self._mass

    @property
    def _weights(self) -> Array:
        return from_numpy(self.weights.reshape(-1, self.weights.shape[-1]), self.result.outcome.f)

    @cached_property
    def _entropic(self) -> tuple[np.ndarray, np.ndarray]:
        """The value of the entropic problem and the bound on its excess."""
        assert self._averages is not None
        found = excess(self.result.problem, self._averages.point, self._weights)
        return tuple(v.reshape(self._batch) * self._mass for v in found)

    @cached_property
    def _value(self) -> np.ndarray:
        if self._averages is None or self._averages.reg is None:
            return self._mean(to_numpy(self.result.value))
        if self.support is None:
            return self._entropic[0]
        return self._mean(self._unbiased())

    def _unbiased(self) -> np.ndarray:
        """The Sinkhorn divergence of each measure from the barycenter."""
        problem, measures = self.result.problem, self.result.problem.geometry
        if isinstance(measures, PointCloud):
            measures = PointCloud(measures.x, measures.x, measures.metric)
        assert self.support is not None
        found = [to_numpy(self.result.value_dual).reshape(-1)]
        for geometry, w in ((measures, problem.a), (self.support, problem.b)):
            alone = LinearProblem.build(geometry, w, w, to_numpy(problem.reg))
            own = Result(alone, run(alone, with_options(choose_solver(alone, "auto"), tol=_TOL)), "", "")
            found.append(to_numpy(own.value_dual).reshape(-1) * problem.mass / 2)
        return found[0] - found[1] - found[2]

    @arrays.eager
    def __repr__(self) -> str:
        if self._batch:
            return f"BarycenterResult({self._batch} barycenters, {self.result!r})"
        return f"BarycenterResult({self.value:.8g} of {self.weights.size} measures; {self.status.name})"
