"""Gradients of the results of a solve: formulas for any array library, and their link to PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from otkit import checks
from otkit.arrays import deferred, records, requires_grad
from otkit.problems.linear import LinearProblem
from otkit.results.result import Result


def check_differentiable(problem: LinearProblem) -> None:
    """Refuse gradients that do not exist, before the solve."""
    given = problem.given.geometry
    cloud = given.cloud if given.bordered is None else given.bordered.inner.cloud
    if cloud is not None and any(map(requires_grad, cloud.arrays.values())):
        checks.differentiable(cloud.metric.ground, or_else=", or pass x.detach()")


def attached(result: Result, strict: bool = False) -> Result:
    """The result, with its fields in autograd's graph where the input requires gradients.

    A problem that is made on first use is one of arrays of NumPy. With `strict` a gradient whose linear system is not
    solved is an error.
    """
    if (
        not records()
        or deferred(result, "problem")
        or not any(map(requires_grad, result.problem.given.by_name.values()))
    ):
        return result
    from otkit.autograd.torch import link

    return replace(result, link=partial(link, strict=strict))
