"""What comes back: a status with advice, and everything that follows from the potentials or the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from otkit import arrays, plans
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.certificates import certify
from otkit.certificates.base import Certificate
from otkit.checks import as_array, no_gradient, points, positive, same_library
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Moved
from otkit.geometry.costs import UNIT
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels.memory import fits_in_memory
from otkit.plans import EntropicPlan, Plan, add_arcs
from otkit.problems.linear import LinearProblem
from otkit.problems.penalties import conjugate, penalty
from otkit.results.gauge import gauge_components
from otkit.results.outcome import Outcome, SparseArcs, Stage, Status


class Values(NamedTuple):
    """The parts of the objective in float64, ``(B,)`` each; None where there is no such part."""

    linear: Array
    reg: Array | None
    marginal: Array | None

    @property
    def total(self) -> Array:
        """The objective."""
        return sum((v for v in (self.reg, self.marginal) if v is not None), start=self.linear)


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
        return self._linked("value", self.inner_values.total)

    @property
    @arrays.eager
    def value_linear(self) -> Array:
        """⟨C, P⟩, ``(...)``."""
        return self._linked("value_linear", self.inner_values.linear)

    @property
    @arrays.eager
    def value_reg(self) -> Array | None:
        """reg·KL(P | a⊗b), ``(...)``; None for an unregularised problem."""
        return self._linked("value_reg", self.inner_values.reg)

    @property
    @arrays.eager
    def value_marginal(self) -> Array | None:
        """ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), ``(...)``, where an exact side adds 0; None for a balanced problem."""
        return self._linked("value_marginal", self.inner_values.marginal)

    @property
    @arrays.eager
    def value_dual(self) -> Array | None:
        """The dual objective at the potentials, ``(...)``; None for an unregularised problem.

        A lower bound on the optimal `value`, up to rounding, that is off by the square of the error only. The
        gradients of the value by its envelope are exact for this number.
        """
        return self._linked("value_dual", self._value_dual)

    # Potentials

    @property
    @arrays.eager
    def f(self) -> Array:
        """The potential of the rows ``(..., n)``, in units of the cost; ⟨a, f⟩ = ⟨b, g⟩ at mass 1 if balanced."""
        return self._linked("f", self.gauged[0])

    @property
    @arrays.eager
    def g(self) -> Array:
        """The potential of the columns ``(..., m)``, in units of the cost; ⟨a, f⟩ = ⟨b, g⟩ at mass 1 if balanced."""
        return self._linked("g", self.gauged[1])

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
        return self._recorded("plan", self._plan)

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
        positive(drop, "drop", below=1.0)
        costs = self.problem.reduced
        parts = [part.arcs(drop) for part in self.outcome.plan]
        arcs = add_arcs(parts, (self.problem.items, costs.n, costs.m))
        return SparseArcs(arcs.row, arcs.col, arcs.mass * self.problem.mass[arcs.item], arcs.item)

    @property
    @arrays.eager
    def marginals(self) -> tuple[Array, Array]:
        """Row and column sums of the plan, ``(..., n)`` and ``(..., m)``."""
        rows, cols = self._marginals
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
        return self._apply(self.outcome.plan, v, self.problem.reduced.m, "v")

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
        return self._apply([part.T for part in self.outcome.plan], u, self.problem.reduced.n, "u")

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
        self._no_graph("barycentric(y) does not go back to the solve; result.apply(y) does")
        y = self._points().y if y is None else y
        y, tail = self.columns(y, self.problem.reduced.m, "y")
        sent = self._conditional(self.problem.reduced).apply(y)
        if self.outcome.reg is None:
            xp, mass = namespace(y), self.problem.a[:, :, None]
            moved = plans.apply(self.outcome.plan, y)
            sent = xp.where(mass > 0, moved / xp.where(mass > 0, mass, xp.ones_like(mass)), sent)
        return self.as_given(sent if tail else sent[:, :, 0])

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
        self._no_graph("transport(x_new) does not go back to the solve; call it on a result of detached tensors")
        no_gradient(x_new, "x_new", "call under torch.no_grad()")
        asked = self._points()
        x_new = as_array(x_new, "x_new")
        same_library(x_new=x_new, y=asked.y)
        points(x_new, asked.y)
        costs = PointCloud(x_new, asked.y, asked.metric).hosted().flat(self.problem.batch)
        rows = from_numpy(np.zeros((self.problem.items, costs.n)), self.problem.a)
        y, _ = self.columns(asked.y, asked.m, "y")
        sent = self._conditional(Reduced(costs, rows, self.problem.reduced.col)).apply(y)
        return self.as_given(sent)

    # Bounds

    @cached_property
    def certificate(self) -> Certificate:
        """What proves the bounds, in the inner form of the problem."""
        out = self.outcome
        return out.certificate or certify(self.problem, out.f, out.g, out.reg)

    @property
    def lower(self) -> Any:
        """A certified lower bound on the optimum without the `reg`: float, or an array ``(...)``."""
        return self._bookkeeping(self.certificate.lower * self.problem.mass)

    @property
    def upper(self) -> Any:
        """A certified upper bound on the optimum without the `reg`, inf where none was found: float, or ``(...)``."""
        return self._bookkeeping(self.certificate.upper * self.problem.mass)

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
            head += f" = {float(self.outcome.reg[0]):.4g}, value = {float(self.inner_values.total[0]):.8g}"
            head += f", error = {self.error:.2g} (tol {self.tol:.2g})"
        else:
            head += f", value = {float(self.inner_values.total[0]):.8g} in [{self.lower:.8g}, {self.upper:.8g}]"
        return f"Result({head}, {self.n_iter} iterations; {self.method}, {self.kernel}; {self.status.value})"

    # Inner form

    @cached_property
    def _plan(self) -> Array:
        costs = self.problem.reduced
        fits_in_memory(costs.n, costs.m, self.problem.items, "a dense plan")
        parts, single = self.outcome.plan, self.problem.unit > UNIT
        P = parts[0].dense(single=single) if len(parts) == 1 else plans.add([part.dense() for part in parts])
        if (self.problem.mass != 1).any():
            P *= self._mass[:, None, None]  # in place: a second array of this size takes longer than the plan
        return self.as_given(P)

    @cached_property
    def _marginals(self) -> tuple[Array, Array]:
        rows, cols = (v * self._mass[:, None] for v in plans.marginals(self.outcome.plan))
        return rows, cols

    def _linked(self, name: str, x: Array | None, *parts: Array) -> Any:
        """A field ``(B, …)`` of the inner form, as it is given and recorded."""
        return None if x is None else self._recorded(name, self.as_given(x), *parts)

    def _recorded(self, name: str, x: Array, *parts: Array) -> Array:
        """A field as it is given, in the caller's graph where there is one."""
        return x if self.link is None else self.link(self, name, x, parts)

    @property
    def _mass(self) -> Array:
        return from_numpy(self.problem.mass, self.problem.a)

    @cached_property
    def moved(self) -> Moved:
        """⟨C, P⟩ of the reduced costs and the marginals, of an entropic plan."""
        (plan,) = self.outcome.plan
        assert isinstance(plan, EntropicPlan)
        return plan.moved

    @cached_property
    def inner_values(self) -> Values:
        """The parts of the objective."""
        problem, out, xp = self.problem, self.outcome, namespace(self.problem.a)
        if out.certificate is not None:
            return Values(from_numpy(out.certificate.linear, problem.a) * self._mass, None, None)
        moved, costs = self.moved, problem.reduced
        offset = xp.sum(costs.row * moved.row, axis=-1) + xp.sum(costs.col * moved.col, axis=-1)
        # log P/(a⊗b) is (f + g − C)/reg, so that the divergence needs no logarithm.
        gained = xp.sum(out.f * moved.row, axis=-1) + xp.sum(out.g * moved.col, axis=-1) - moved.cost
        by_reg = (gained - out.reg * (xp.sum(moved.row, axis=-1) - self._product)) * self._mass
        return Values((moved.cost + offset) * self._mass, by_reg, self._value_marginal)

    @property
    def _value_marginal(self) -> Array | None:
        problem, moved = self.problem, self.moved
        if problem.balanced.all():
            return None
        sides = ((moved.row, problem.a, problem.penalties.rho_a), (moved.col, problem.b, problem.penalties.rho_b))
        paid = plans.add([penalty(*(to_numpy(v) for v in side)) for side in sides])
        return from_numpy(paid, problem.a)

    @cached_property
    def _value_dual(self) -> Array | None:
        out, problem, xp = self.outcome, self.problem, namespace(self.problem.a)
        if out.reg is None:
            return None
        held, costs = problem.penalties, problem.reduced
        sides = ((out.f + costs.row, problem.a, held.rho_a), (out.g + costs.col, problem.b, held.rho_b))
        earned = from_numpy(plans.add([conjugate(*(to_numpy(v) for v in side)) for side in sides]), problem.a)
        return (earned - out.reg * (xp.sum(self.moved.row, axis=-1) - self._product)) * self._mass

    @property
    def _product(self) -> Array:
        """Σa·Σb."""
        xp = namespace(self.problem.a)
        return xp.sum(self.problem.a, axis=-1) * xp.sum(self.problem.b, axis=-1)

    @cached_property
    def gauged(self) -> tuple[Array, Array]:
        """Potentials in units of the cost, both sides of equal mean on every connected component."""
        costs, out, xp = self.problem.reduced, self.outcome, namespace(self.problem.a)
        f, g = out.f + costs.row, out.g + costs.col
        if not (self.problem.forbidden & self.problem.balanced).any():
            return self.problem.centred(f, g)
        f, g = gauge_components(self.problem, to_numpy(f), to_numpy(g))
        f, g = from_numpy(f, self.problem.a), from_numpy(g, self.problem.a)
        # A point without mass may hang on several components: its potential is set anew.
        conditional = self._conditional_reg
        new_f = self.problem.kernels.softmin(self.problem.geometry, g, self.problem.log_b, conditional)
        new_g = self.problem.kernels.softmin(self.problem.geometry.T, f, self.problem.log_a, conditional)
        fixed = from_numpy(~self.problem.balanced[:, None], f)
        return xp.where((self.problem.a > 0) | fixed, f, new_f), xp.where((self.problem.b > 0) | fixed, g, new_g)

    @property
    def _conditional_reg(self) -> Array:
        """The reg that spreads a single row: without one, so small that the best columns take all."""
        if self.outcome.reg is not None:
            return self.outcome.reg
        span = np.where(self.problem.span > 0, self.problem.span, 1.0)
        return from_numpy(1e-12 * span, self.problem.a)

    def _conditional(self, costs: Reduced) -> EntropicPlan:
        """The plan with every row of mass 1, for rows of `costs` that need not be those of the problem."""
        reg, g, log_b = self._conditional_reg, self.outcome.g, self.problem.log_b
        f = self.problem.kernels.softmin(costs, g, log_b, reg)
        at = Potentials(f, g, namespace(f).zeros_like(f), log_b, reg)
        return EntropicPlan(costs, at, self.problem.kernels)

    def _no_graph(self, message: str) -> None:
        if self.link is not None and arrays.records():
            raise ValueError(f"the gradient of {message}, or call under torch.no_grad()")

    def _points(self) -> PointCloud:
        if not isinstance(self.problem.asked, PointCloud):
            raise ValueError(
                "this needs points, and the problem was given as a cost matrix; pass y=, or use solve_sample"
            )
        return self.problem.asked

    def columns(self, v: Any, size: int, name: str) -> tuple[Array, tuple[int, ...]]:
        """`v` as ``(B, size, k)`` in float64, and the trailing axes (none or k) that the answer gets."""
        batch = self.problem.batch
        v = arrays.detached(as_array(v, name))
        same_library(**{name: v, "the problem": self.like})
        v = self.problem.inside(v)
        xp = namespace(v)
        is_vector = v.ndim == 1 or tuple(v.shape) == (*batch, size)
        columns = v[..., None] if is_vector else v
        if columns.ndim < 2 or columns.shape[-2] != size:
            raise ValueError(f"{name} must have shape (..., {size}) or (..., {size}, k), got shape {tuple(v.shape)}")
        k = columns.shape[-1]
        columns = arrays.float64(xp.broadcast_to(columns, (*batch, size, k)))
        return xp.reshape(columns, (self.problem.items, size, k)), () if is_vector else (k,)

    def _apply(self, parts: Sequence[Plan], v: Any, size: int, name: str) -> Array:
        columns, tail = self.columns(v, size, name)
        moved = plans.apply(parts, columns) * self._mass[:, None, None]
        output = "apply" if name == "v" else "apply_t"
        return self._linked(output, moved if tail else moved[:, :, 0], v)

    @property
    def like(self) -> Array:
        """An array of the caller's."""
        return next(iter(self.problem.asked.arrays.values()))

    def as_given(self, x: Array) -> Array:
        """An array ``(B, …)`` of the inner form in the library and the dtype of the input, with its batch axes."""
        x = arrays.convert(namespace(x).reshape(x, (*self.problem.batch, *x.shape[1:])), self.like)
        return namespace(x).astype(x, self.problem.dtype, copy=False)

    def _bookkeeping(self, x: np.ndarray) -> Any:
        return x.reshape(self.problem.batch) if self.problem.batch else x.item()
