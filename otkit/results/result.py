"""The result of a solve, with derived quantities computed on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array
from otkit.problems.linear import LinearProblem
from otkit.problems.variation import Variation
from otkit.results import draws, maps, values
from otkit.results.gauge import gauged, price
from otkit.results.outcome import Outcome, SparseArcs, Stage, Status
from otkit.results.solved import Place

# Function of a result, the name of a field, its array, and the vectors that it also depends on.
Link = Callable[["Result", str, Array, tuple[Array, ...]], Array]
_INSIDE = ("problem", "outcome", "link", "whole", "variation", "origin")


@dataclass(frozen=True, repr=False)
class Result:
    """The solution of an optimal transport problem, or of a batch of them.

    In shapes, ``...`` stands for the batch axes, none for a single problem. Arrays are of the library, dtype and device
    of the input. `status`, `n_iter`, `error`, `tol` and the bounds are NumPy arrays or Python scalars, with numbers in
    float64. All properties are computed on first use.

    Attributes
    ----------
    problem : LinearProblem
        The validated problem.
    outcome : Outcome
        The outcome of the solver.
    method : str
        Name of the solver.
    kernel : str
        Names of the kernels that ran the operations, and of the array library.
    link : callable or None
        Function that makes autograd record a field of this result; None where no input requires gradients. With it, the
        values, the potentials, the plan, its marginals and its products with vectors are in autograd's graph.
    whole : Result or None
        Of partial transport and total-variation penalties, the result of the balanced problem with one more row and
        column; None for others, as are:
    variation : Variation or None
        The total-variation penalties.
    origin : Origin or None
        The place of a pair of a list of clouds in the batch that was solved.

    Examples
    --------
    >>> import otkit
    >>> result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75])
    >>> result
    Result(2 × 2, unregularised, value = 0.25 in [0.25, 0.25], 0 iterations; exact,
    numba (numpy); Converged to the tolerance.)
    >>> result.plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    """

    problem: LinearProblem
    outcome: Outcome
    method: str
    kernel: str
    link: Link | None = None
    whole: Result | None = None
    variation: Variation | None = None
    origin: Place | None = None

    # Convergence

    @property
    def status(self) -> Any:
        """Termination status: `Status`, or an object array ``(...)``."""
        return self._bookkeeping(self.outcome.status)

    @property
    def converged(self) -> Any:
        """Whether the tolerance was reached: bool, or an array ``(...)``."""
        return self._bookkeeping(self.outcome.status == Status.CONVERGED)

    @property
    def n_iter(self) -> Any:
        """Iterations over all stages: int, or an array ``(...)``."""
        return self._bookkeeping(self.outcome.n_iter)

    @property
    def error(self) -> Any:
        """(‖P1 − a·e^(−f/ρ_a)‖₁ + ‖Pᵀ1 − b·e^(−g/ρ_b)‖₁) / (½(Σa + Σb)): float, or an array ``(...)``.

        The exponential is 1 where a marginal is exact. A free side (ρ = 0) adds nothing. The error is recomputed from
        the final potentials; for a tolerance of at least 1e-3 it may be that of the last sweep, at these potentials.
        """
        return self._bookkeeping(self.outcome.error)

    @property
    def tol(self) -> Any:
        """The effective tolerance: with a `reg` on `error`, else the ``rtol`` on the certified interval."""
        return self._bookkeeping(self.outcome.tol)

    @property
    def errors(self) -> np.ndarray:
        """The error after each step of the run, ``(steps, ...)``; inf before an item's first iteration."""
        return self.outcome.errors.reshape((-1, *self.problem.batch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The log of the annealing, one `Stage` for each stage; empty for a direct method."""
        return self.outcome.stages

    @property
    def rescaled(self) -> Any:
        """The relative difference of the total masses of a and b that normalisation removed as rounding."""
        return self._bookkeeping(self.problem.rescaled)

    # The names of SciPy's results

    @property
    def success(self) -> Any:
        """Whether the solve did what was asked, so that there was no warning: bool, or an array ``(...)``.

        It is `converged`, but also True for `Status.COMPLETED`.
        """
        return self._bookkeeping(~self.outcome.short)

    @property
    def message(self) -> Any:
        """The sentence of `status`: str, or an object array ``(...)`` of them."""
        return self._bookkeeping(np.array([status.value for status in self.outcome.status], dtype=object))

    @property
    def nit(self) -> Any:
        """The same as `n_iter`."""
        return self.n_iter

    # Values

    @property
    @arrays.eager
    def value(self) -> Array:
        """The objective, ``(...)``: the sum of `value_linear`, `value_reg` and `value_marginal`, where not None."""
        return self._value("value")

    @property
    @arrays.eager
    def value_linear(self) -> Array:
        """⟨C, P⟩, ``(...)``."""
        return self._value("value_linear")

    @property
    @arrays.eager
    def value_reg(self) -> Array | None:
        """reg·KL(P | a⊗b), ``(...)``; None for an unregularised problem."""
        return self._value("value_reg")

    @property
    @arrays.eager
    def value_marginal(self) -> Array | None:
        """ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), ``(...)``, where an exact side adds 0; None for a balanced problem.

        With total-variation penalties it is ρ_a·‖P1 − a‖₁ + ρ_b·‖Pᵀ1 − b‖₁.
        """
        return self._value("value_marginal")

    @property
    @arrays.eager
    def value_dual(self) -> Array | None:
        """The dual objective at the potentials, ``(...)``; None for an unregularised problem.

        It is a lower bound on the optimal `value`, up to rounding. Its distance from the optimum is quadratic in the
        error. Gradients of `value` by the envelope theorem are the exact gradients of this number. For a measure with
        itself they are those at the mean of the two potentials, which is closer to the optimum.
        """
        return self._value("value_dual")

    # Potentials

    @property
    @arrays.eager
    def f(self) -> Array:
        """The potential of the rows ``(..., n)``, in units of the cost; ⟨a, f⟩ = ⟨b, g⟩ at mass 1 if balanced."""
        return self._linked("f", gauged(self)[0])

    @property
    @arrays.eager
    def g(self) -> Array:
        """The potential of the columns ``(..., m)``, in units of the cost; ⟨a, f⟩ = ⟨b, g⟩ at mass 1 if balanced."""
        return self._linked("g", gauged(self)[1])

    @property
    def potentials(self) -> tuple[Array, Array]:
        """``(f, g)``."""
        return self.f, self.g

    @property
    @arrays.eager
    def price(self) -> Array | None:
        """The derivative of the optimal value by the mass of partial transport, ``(...)``; None for other problems.

        The potentials are then at most 0: f_i + g_j + price ≤ C_ij, with equality where the plan moves mass, and
        f_i = 0 where a row keeps some.
        """
        partial = self.whole is not None and self.variation is None
        return self._linked("price", price(self)) if partial else None

    # The plan

    @property
    @arrays.eager
    def plan(self) -> Array:
        """The plan ``(..., n, m)``.

        Raises
        ------
        MemoryError
            If the plan does not fit in the free memory.
        """
        return self._recorded("plan", maps.dense(self))

    @arrays.eager
    def plan_sparse(self, drop: float = 1e-9) -> SparseArcs:
        """The entries of the plan, in coordinate form.

        Parameters
        ----------
        drop : float
            The fraction of the mass of every row that may be dropped, in entries below ``drop·a_i/m``.

        Returns
        -------
        SparseArcs
        """
        return maps.sparse(self, drop)

    @property
    @arrays.eager
    def marginals(self) -> tuple[Array, Array]:
        """Row and column sums of the plan, ``(..., n)`` and ``(..., m)``."""
        rows, cols = maps.marginals(self)
        return self._linked("rows", rows), self._linked("cols", cols)

    @arrays.eager
    def apply(self, v: Any) -> Array:
        """Σ_j P_ij v_j, without storing the plan.

        Parameters
        ----------
        v : array (..., m) or (..., m, k)

        Returns
        -------
        array (..., n) or (..., n, k)
        """
        return self._linked("apply", maps.apply(self, v), v)

    @arrays.eager
    def apply_t(self, u: Any) -> Array:
        """Σ_i P_ij u_i, without storing the plan.

        Parameters
        ----------
        u : array (..., n) or (..., n, k)

        Returns
        -------
        array (..., m) or (..., m, k)
        """
        return self._linked("apply_t", maps.apply_t(self, u), u)

    @arrays.eager
    def barycentric(self, y: Any = None) -> Array:
        """Mean target of each row (barycentric projection), Σ_j P_ij y_j / Σ_j P_ij.

        Parameters
        ----------
        y : array (..., m, k), optional
            Values at the columns; the points y of the problem by default.

        Returns
        -------
        array (..., n, k)
            For a row without mass, the limit for a small mass.
        """
        return maps.barycentric(self, y)

    @arrays.eager
    def transport(self, x_new: Any) -> Array:
        """Map new points by the plan, for a problem between points.

        With a `reg` this is the entropic map (Pooladian & Niles-Weed 2021). Without one, each point x is mapped to the
        y_j of smallest c(x, y_j) − g_j.

        Parameters
        ----------
        x_new : array (..., k, d)

        Returns
        -------
        array (..., k, d)
        """
        return maps.transport(self, x_new)

    @arrays.eager
    def sample(self, size: int, rng: Any = None) -> tuple[Array, Array]:
        """Pairs of points, drawn independently in proportion to the mass that the plan moves between them.

        The matrix of the plan is never formed: rows are drawn by their sums, and columns by the entries of these rows.

        Parameters
        ----------
        size : int
            Number of pairs of each problem.
        rng : int or numpy.random.Generator, optional
            The seed, or the generator, which advances. The same seed gives the same pairs.

        Returns
        -------
        i, j : array of int (..., size)
            The row and the column of each pair, in the library of the input: ``x[i], y[j]``.

        Raises
        ------
        ValueError, TypeError
            If `size` is not a positive whole number, `rng` is neither, or the plan has no mass.

        Examples
        --------
        >>> import otkit
        >>> i, j = otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.5).sample(1000, rng=0)
        >>> i.shape, bool((i == j).mean().round(1) == 0.9)
        ((1000,), True)
        """
        return draws.sample(self, size, rng)

    # Bounds

    @property
    @arrays.eager
    def lower(self) -> Any:
        """A certified lower bound on the unregularised optimum: float, or an array ``(...)``."""
        return self._bookkeeping(values.certificate(self).lower * self.problem.mass)

    @property
    @arrays.eager
    def upper(self) -> Any:
        """A certified upper bound on the unregularised optimum, inf where none was found: float, or ``(...)``."""
        return self._bookkeeping(values.certificate(self).upper * self.problem.mass)

    @property
    def gap(self) -> Any:
        """`upper` − `lower`: float, or an array ``(...)``."""
        return self.upper - self.lower

    @arrays.eager
    def __repr__(self) -> str:
        batch, problem = self.problem.batch, self.problem
        asked = "partial, " if self.whole is not None else ""
        asked = asked if self.variation is None else "total variation, "
        asked += "unregularised" if self.outcome.reg is None else "reg"
        head = f"{problem.reduced.n} × {problem.reduced.m}, {asked}"
        if batch:
            names = [status.name for status in self.outcome.status]
            ended = ", ".join(f"{names.count(s.name)} {s.name}" for s in Status if s.name in names)
            if self.outcome.reg is not None:
                k = int(np.argmax(self.outcome.error))
                ended += f"; worst error = {self.outcome.error[k]:.2g} (tol {self.outcome.tol[k]:.2g})"
            return f"Result({batch} problems of {head}: {ended}; {self.method}, {self.kernel})"
        if self.outcome.reg is not None:
            head += f" = {float(self.outcome.reg[0]):.4g}, value = {float(values.objective(self).total[0]):.8g}"
            head += f", error = {self.error:.2g} (tol {self.tol:.2g})"
        else:
            head += f", value = {float(values.objective(self).total[0]):.8g} in [{self.lower:.8g}, {self.upper:.8g}]"
        return f"Result({head}, {self.n_iter} iterations; {self.method}, {self.kernel}; {self.status.value})"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _INSIDE]

    def _value(self, name: str) -> Any:
        """A value, recorded by autograd."""
        x = values.given(self, name)
        return None if x is None else self._recorded(name, x)

    def _linked(self, name: str, x: Array | None, *parts: Array) -> Any:
        """A field ``(B, …)`` of the internal form, converted to the caller's form and recorded by autograd."""
        return None if x is None else self._recorded(name, self.problem.as_given(x), *parts)

    def _recorded(self, name: str, x: Array, *parts: Array) -> Array:
        """A field in the caller's form, in the caller's graph where there is one."""
        return x if self.link is None else self.link(self, name, x, parts)

    def _bookkeeping(self, x: np.ndarray) -> Any:
        return x.reshape(self.problem.batch) if self.problem.batch else x.item()


arrays.deferrable(Result, "problem", "outcome")
