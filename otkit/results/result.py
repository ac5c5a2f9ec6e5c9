"""The result: views of what a solve reached, computed on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array
from otkit.problems.linear import LinearProblem
from otkit.results import maps, values
from otkit.results.gauge import gauged
from otkit.results.outcome import Outcome, SparseArcs, Stage, Status

# A result, the name of a field, its array, and what else it is made of.
Link = Callable[["Result", str, Array, tuple[Array, ...]], Array]


@dataclass(frozen=True, repr=False)
class Result:
    """The solution of an optimal transport problem, or of a batch of them.

    Shapes: ``...`` is the batch, empty for one problem. Arrays are of the library, dtype and device of the input;
    `status`, `n_iter`, `error`, `tol` and the bounds are NumPy in float64. Everything is computed on first use.

    Attributes
    ----------
    problem : LinearProblem
        What was solved, after checking.
    outcome : Outcome
        What the solver handed over.
    method : str
        The solver that ran.
    kernel : str
        What ran the operations, and on which array library.
    link : callable or None
        Makes autograd record a field of this result; None where the input requires no gradients. Then the values, the
        plan and what follows from it, and the potentials are part of its graph.
    """

    problem: LinearProblem
    outcome: Outcome
    method: str
    kernel: str
    link: Link | None = None

    # How it went

    @property
    def status(self) -> Any:
        """`Status`, or an object array ``(...)`` of them."""
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
        """‖P1 − a·e^(−f/ρ_a)‖₁ + ‖Pᵀ1 − b·e^(−g/ρ_b)‖₁ over ½(Σa + Σb), recomputed: float, or an array ``(...)``.

        The exponentials are 1 where a marginal is exact; a free side (ρ = 0) adds nothing.
        """
        return self._bookkeeping(self.outcome.error)

    @property
    def tol(self) -> Any:
        """The tolerance in force: on `error` with a `reg`, else the ``rtol`` on the certified interval."""
        return self._bookkeeping(self.outcome.tol)

    @property
    def errors(self) -> np.ndarray:
        """The error seen after each step of the run, ``(steps, ...)``; inf before an item's first iteration."""
        return self.outcome.errors.reshape((-1, *self.problem.batch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The log of the annealing, a `Stage` each; empty for a direct method."""
        return self.outcome.stages

    @property
    def rescaled(self) -> Any:
        """The relative difference of the total masses of a and b that was taken for rounding and divided out."""
        return self._bookkeeping(self.problem.rescaled)

    # Values

    @property
    @arrays.eager
    def value(self) -> Array:
        """The objective, ``(...)``: `value_linear`, `value_reg` and `value_marginal`, as far as there are any."""
        return self._linked("value", values.objective(self).total)

    @property
    @arrays.eager
    def value_linear(self) -> Array:
        """⟨C, P⟩, ``(...)``."""
        return self._linked("value_linear", values.objective(self).linear)

    @property
    @arrays.eager
    def value_reg(self) -> Array | None:
        """reg·KL(P | a⊗b), ``(...)``; None for an unregularised problem."""
        return self._linked("value_reg", values.objective(self).reg)

    @property
    @arrays.eager
    def value_marginal(self) -> Array | None:
        """ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), ``(...)``, where an exact side adds 0; None for a balanced problem."""
        return self._linked("value_marginal", values.objective(self).marginal)

    @property
    @arrays.eager
    def value_dual(self) -> Array | None:
        """The dual objective at the potentials, ``(...)``; None for an unregularised problem.

        A lower bound on the optimal `value`, up to rounding, that is off by the square of the error only. The
        gradients of the value by its envelope are exact for this number.
        """
        return self._linked("value_dual", values.dual(self))

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

    # The plan

    @property
    @arrays.eager
    def plan(self) -> Array:
        """The plan ``(..., n, m)``.

        Raises
        ------
        MemoryError
            If it does not fit in the memory that is free.
        """
        return self._recorded("plan", maps.dense(self))

    def plan_sparse(self, drop: float = 1e-9) -> SparseArcs:
        """The entries of the plan, in coordinate form.

        Parameters
        ----------
        drop : float
            The fraction of the mass of every row that may be left out, as entries below ``drop·a_i/m``.

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
        """Σ_j P_ij v_j, without holding the plan.

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
        """Σ_i P_ij u_i, without holding the plan.

        Parameters
        ----------
        u : array (..., n) or (..., n, k)

        Returns
        -------
        array (..., m) or (..., m, k)
        """
        return self._linked("apply_t", maps.apply_t(self, u), u)

    def barycentric(self, y: Any = None) -> Array:
        """Where each row is sent on average, Σ_j P_ij y_j / Σ_j P_ij.

        Parameters
        ----------
        y : array (..., m, k), optional
            Values at the columns; the points y of the problem by default.

        Returns
        -------
        array (..., n, k)
            A row without mass goes where it would if it had some.
        """
        return maps.barycentric(self, y)

    def transport(self, x_new: Any) -> Array:
        """Send new points along the map of the plan, for a problem between points.

        With a `reg` this is the entropic map (Pooladian & Niles-Weed 2021), else each point goes to the y_j of smallest
        c(x, y_j) − g_j.

        Parameters
        ----------
        x_new : array (..., k, d)

        Returns
        -------
        array (..., k, d)
        """
        return maps.transport(self, x_new)

    # Bounds

    @property
    def lower(self) -> Any:
        """A certified lower bound on the optimum without the `reg`: float, or an array ``(...)``."""
        return self._bookkeeping(values.certificate(self).lower * self.problem.mass)

    @property
    def upper(self) -> Any:
        """A certified upper bound on the optimum without the `reg`, inf where none was found: float, or ``(...)``."""
        return self._bookkeeping(values.certificate(self).upper * self.problem.mass)

    @property
    def gap(self) -> Any:
        """`upper` − `lower`: float, or an array ``(...)``."""
        return self.upper - self.lower

    def __repr__(self) -> str:
        batch, problem = self.problem.batch, self.problem
        asked = "unregularised" if self.outcome.reg is None else "reg"
        head = f"{problem.reduced.n} × {problem.reduced.m}, {asked}"
        if batch:
            names = [status.name for status in self.outcome.status]
            ended = ", ".join(f"{names.count(s.name)} {s.name}" for s in Status if s.name in names)
            return f"Result({batch} problems of {head}: {ended}; {self.method}, {self.kernel})"
        if self.outcome.reg is not None:
            head += f" = {float(self.outcome.reg[0]):.4g}, value = {float(values.objective(self).total[0]):.8g}"
            head += f", error = {self.error:.2g} (tol {self.tol:.2g})"
        else:
            head += f", value = {float(values.objective(self).total[0]):.8g} in [{self.lower:.8g}, {self.upper:.8g}]"
        return f"Result({head}, {self.n_iter} iterations; {self.method}, {self.kernel}; {self.status.value})"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in ("problem", "outcome", "link")]

    def _linked(self, name: str, x: Array | None, *parts: Array) -> Any:
        """A field ``(B, …)`` of the inner form, as it is given and recorded."""
        return None if x is None else self._recorded(name, self.problem.as_given(x), *parts)

    def _recorded(self, name: str, x: Array, *parts: Array) -> Array:
        """A field as it is given, in the caller's graph where there is one."""
        return x if self.link is None else self.link(self, name, x, parts)

    def _bookkeeping(self, x: np.ndarray) -> Any:
        return x.reshape(self.problem.batch) if self.problem.batch else x.item()
