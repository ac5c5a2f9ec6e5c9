"""Results of a solve in the graph of PyTorch's autograd."""

from __future__ import annotations

from typing import Any

import torch

from otkit import arrays, checks
from otkit.autograd import rules
from otkit.results.result import Result


def link(result: Result, name: str, array: torch.Tensor, parts: tuple[Any, ...]) -> torch.Tensor:
    """A field of a result, recorded as a function of the inputs of its solve and of `parts`, such as a vector."""
    tensors = {k: v for k, v in result.problem.given.by_name.items() if isinstance(v, torch.Tensor)}
    field: torch.Tensor = _Field.apply(result, name, array, tuple(tensors), *parts, *tensors.values())
    return field


class _Field(torch.autograd.Function):
    """A field of a result. Only the result is saved for the backward pass, however many iterations the solve made."""

    @staticmethod
    def forward(
        ctx: Any, result: Result, name: str, array: torch.Tensor, names: tuple[str, ...], *tensors: Any
    ) -> torch.Tensor:
        ctx.result, ctx.name, ctx.names = result, name, names
        ctx.save_for_backward(*(v for v in tensors if isinstance(v, torch.Tensor)))  # to detect changes in place
        ctx.parts = tensors[: len(tensors) - len(names)]
        return array.view_as(array)

    @staticmethod
    @arrays.eager
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[Any, ...]:
        checks.no_transform(cotangent, "the incoming gradient")
        saved = ctx.saved_tensors  # raises if they were changed in place
        needed = ctx.needs_input_grad[4:]
        count = len(ctx.parts)
        wanted = frozenset(name for name, need in zip(ctx.names, needed[count:], strict=True) if need)
        with torch.no_grad():
            found = rules.field_gradients(ctx.result, ctx.name, cotangent.detach(), ctx.parts, wanted)
            by_parts = [
                getattr(ctx.result, "apply_t" if ctx.name == "apply" else "apply")(cotangent) if need else None
                for need in needed[:count]
            ]
        given = [*by_parts, *(getattr(found, name, None) for name in ctx.names)]
        if torch.is_grad_enabled():  # create_graph=True
            given = list(_NotTwice.apply(ctx.name, given, cotangent, *saved))
        return None, None, None, None, *given


class _NotTwice(torch.autograd.Function):
    """Gradients that must not be differentiated again."""

    @staticmethod
    def forward(ctx: Any, name: str, given: list[Any], *origin: torch.Tensor) -> tuple[Any, ...]:
        """`given`, recorded as a function of `origin`."""
        ctx.name = name
        return tuple(given)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"second derivatives of {ctx.name} are not available: take the gradient without create_graph=True, or "
            "differences of otkit.vjp"
        )
