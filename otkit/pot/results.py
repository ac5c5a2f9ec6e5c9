"""POT's `OTResult` over a result of otkit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from otkit import arrays
from otkit.arrays import Array, namespace
from otkit.pot.solution import Solution
from otkit.pot.utils import LazyTensor, dist
from otkit.results import Result


@dataclass(frozen=True, repr=False)
class OTResult:
    """The solution of a transport problem, with the names of POT.

    Attributes
    ----------
    result : Result, Solution or None
        The result of otkit, with certified bounds, status and error; None for method "1d". For a regularisation or
        penalty that is of POT alone, what was found and proved: its plan, `lower`, `upper`, `status` and `n_iter`.
    value : array ()
        The objective.
    value_linear : array ()
        ⟨M, P⟩.
    potentials : tuple of array (n,), array (m,)
        Dual variables: in units of the cost without `reg`; with an entropic one, logarithms of the scalings, as in POT.
    log : dict or None
        The log of the solver.
    lazy_plan : LazyTensor or None
        With ``lazy=True`` and `reg`: the plan, of which only the entries that are read are computed.
    status : str
        "Converged", or what went wrong. POT has it without `reg` only.
    recorded : bool
        Whether the plan is in autograd's graph where the input requires gradients.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> answer = ot.solve([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.25, 0.75])
    >>> answer.plan
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    >>> answer.result.lower <= 0.25 <= answer.result.upper
    True
    """

    result: Result | Solution | None
    value: Any
    value_linear: Any
    potentials: tuple[Any, Any] | None = None
    log: dict[str, Any] | None = None
    lazy_plan: LazyTensor | None = None
    status: str = "Converged"
    recorded: bool = True
    value_quad: None = None

    @property
    def potential_a(self) -> Any:
        """The dual variables of the rows."""
        return None if self.potentials is None else self.potentials[0]

    @property
    def potential_b(self) -> Any:
        """The dual variables of the columns."""
        return None if self.potentials is None else self.potentials[1]

    @cached_property
    @arrays.eager
    def plan(self) -> Array | None:
        """The plan ``(n, m)``."""
        if self.result is None:
            return None
        return self.result.plan if self.recorded else arrays.detached(self.result.plan)

    @property
    @arrays.eager
    def sparse_plan(self) -> Any:
        """The plan as a sparse array of SciPy, without its entries of at most 1e-9 of the weight of their row."""
        if self.result is None:
            return None
        from scipy.sparse import csr_array

        arcs = self.result.plan_sparse()
        shape = self.result.f.shape[-1], self.result.g.shape[-1]
        return csr_array((arcs.mass, (arcs.row, arcs.col)), shape=shape)

    @property
    @arrays.eager
    def marginals(self) -> tuple[Array, Array] | None:
        """Row and column sums of the plan, ``(n,)`` and ``(m,)``."""
        if self.result is None:
            return None
        rows, cols = self.result.marginals
        return (rows, cols) if self.recorded else (arrays.detached(rows), arrays.detached(cols))

    @property
    def marginal_a(self) -> Array | None:
        """Row sums of the plan."""
        return None if self.marginals is None else self.marginals[0]

    @property
    def marginal_b(self) -> Array | None:
        """Column sums of the plan."""
        return None if self.marginals is None else self.marginals[1]

    @property
    def a_to_b(self) -> NoReturn:
        """Not implemented, as in POT."""
        raise NotImplementedError("a_to_b is not implemented, in POT either; use .result.barycentric(y) − x")

    @property
    def b_to_a(self) -> NoReturn:
        """Not implemented, as in POT."""
        raise NotImplementedError("b_to_a is not implemented, in POT either; solve with both sides exchanged")

    def __repr__(self) -> str:
        shown = np.array2string(np.asarray(arrays.to_numpy(self.value)), precision=8)
        return f"OTResult(value={shown}, {self.result!r})"


def lazy_plan(points: tuple[Array, Array], scalings: tuple[Array, Array], metric: Any, reg: Any) -> LazyTensor:
    """The entropic plan of the logarithms of scalings, of which only the entries that are read are computed."""

    def tile(i: Any, j: Any, X_a: Array, X_b: Array, log_u: Array, log_v: Array) -> Array:
        i, j = (slice(k, None if k == -1 else k + 1) if isinstance(k, (int, np.integer)) else k for k in (i, j))
        exponent = log_u[i, None] + log_v[None, j] - dist(X_a[i], X_b[j], metric) / reg
        return namespace(exponent).exp(exponent)

    shape = points[0].shape[0], points[1].shape[0]
    return LazyTensor(shape, tile, X_a=points[0], X_b=points[1], log_u=scalings[0], log_v=scalings[1])
