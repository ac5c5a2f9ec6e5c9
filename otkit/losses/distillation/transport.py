"""The entropic cost between the rows of two matrices at L1 distances, by a number of iterations or to a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otkit.api import solve
from otkit.losses.distillation.l1 import l1_cost
from otkit.losses.distillation.unrolled import unrolled_plan
from otkit.losses.rows import Stats

LARGEST = 2.0  # the L1 distance of two distributions


class Solved(NamedTuple):
    """⟨C, P⟩ ``(B,)``; its sum with reg·KL(P | a⊗b), if the objective needs it; detached plans; iterations."""

    linear: Tensor
    regularized: Tensor
    P: Tensor
    n_iter: Tensor | int


class Costs(NamedTuple):
    """L1 distances ``(B, n, m)`` between rows of both sides, and those of each side to itself, for a divergence."""

    between: Tensor
    student: Callable[[], Tensor] | None = None
    teacher: Callable[[], Tensor] | None = None


def l1_costs(p: Tensor, q: Tensor) -> Costs:
    """The distances of probabilities ``(B, n, V)`` and ``(B, m, V)``."""
    return Costs(l1_cost(p, q), lambda: l1_cost(p, p), lambda: l1_cost(q, q))


@dataclass(frozen=True)
class RowTransport:
    """The cost between rows at distances ``(B, n, m)``, with weights ``a (B, n)`` and ``b (B, m)``.

    Weights have the total 1.

    Attributes
    ----------
    reg : float
    n_iters : int or None
        The number of iterations; None iterates to the tolerance.
    tol : float or None
    objective : {"sharp", "regularized", "divergence"}
    detached : bool
        Whether the plan is detached, so that the gradient takes it as constant.
    """

    reg: float
    n_iters: int | None
    tol: float | None = None
    objective: str = "sharp"
    detached: bool = False

    def __call__(self, costs: Costs, a: Tensor, b: Tensor, seen: list[Stats] | None) -> Tensor:
        """The values ``(B,)``; adds statistics to `seen`."""
        C = costs.between
        solved = self._solved(C, a, b)
        if seen is not None:
            seen.append(_statistics(C.detach(), a, b, solved, self.reg))
        if self.objective == "sharp":
            return solved.linear
        if self.objective == "regularized":
            return solved.regularized
        assert costs.student is not None
        assert costs.teacher is not None
        teacher = self._solved(costs.teacher(), b, b).regularized
        return solved.regularized - (self._solved(costs.student(), a, a).regularized + teacher) / 2

    def _solved(self, C: Tensor, a: Tensor, b: Tensor) -> Solved:
        cost = C.detach() if self.detached else C
        regularized: Tensor | None
        count: Tensor | int
        if self.n_iters is not None:
            value = self.objective != "sharp"
            P, regularized = unrolled_plan(cost, a, b, self.reg, self.n_iters, LARGEST, value=value)
            linear, count = (P * C).sum((-2, -1)), self.n_iters
        else:
            result = solve(cost, a, b, reg=self.reg, tol=self.tol)
            P, count, regularized = result.plan.detach(), torch.as_tensor(result.n_iter), result.value
            linear = (P * C).sum((-2, -1)) if self.detached else result.value_linear
        if regularized is None:
            return Solved(linear, linear, P.detach(), count)
        if self.detached:  # the envelope theorem
            regularized = linear + (regularized - linear).detach()
        return Solved(linear, regularized, P.detach(), count)


def _statistics(C: Tensor, a: Tensor, b: Tensor, solved: Solved, reg: float) -> Stats:
    """Means over the problems."""
    P = solved.P
    error = (P.sum(-1) - a).abs().sum(-1) + (P.sum(-2) - b).abs().sum(-1)
    cost = (a[:, :, None] * b[:, None, :] * C).sum((-2, -1)) / reg
    entropy = -torch.xlogy(P, P).sum((-2, -1))
    each: dict[str, Any] = {
        "error": error,
        "n_iter": torch.as_tensor(solved.n_iter).to(error),
        "cost": cost,
        "entropy": entropy,
    }
    return {name: v.mean() for name, v in each.items()}
