"""Gradients of the results of a solve: formulas for any array library, and their link to PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace

from otkit.arrays import requires_grad
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result


def check_differentiable(problem: LinearProblem) -> None:
    """Refuse gradients that do not exist, before the solve."""
    asked = problem.given.geometry
    if asked.called and any(map(requires_grad, asked.arrays.values())):
        raise ValueError(
            "points require gradients, but there is no gradient by the points of a metric that is a callable, or on a "
            "circle; form the costs and pass them to otkit.solve, or pass x.detach()"
        )


def attached(result: Result) -> Result:
    """The result, with its fields in autograd's graph where the input requires gradients."""
    if not any(requires_grad(v) for v in result.problem.given.by_name.values()):
        return result
    from otkit.autograd.torch import link

    return replace(result, link=link)
