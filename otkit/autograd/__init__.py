"""Gradients of what a solve returns: the formulas for any array library, and their place in PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace

from otkit.arrays import requires_grad
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result


def check_differentiable(problem: LinearProblem) -> None:
    """Complain about gradients that could not be given, before the solve."""
    asked = problem.given.geometry
    if asked.called and any(map(requires_grad, asked.arrays.values())):
        raise ValueError(
            "points require gradients, and there are none by the points of a metric that is a callable; form the costs "
            "with it and pass them to otkit.solve, or pass x.detach()"
        )


def attached(result: Result) -> Result:
    """The result, with its fields in the graph of autograd where the input requires gradients."""
    if not any(requires_grad(v) for v in result.problem.given.by_name.values()):
        return result
    from otkit.autograd.torch import link

    return replace(result, link=link)
