"""Results of a solve in the graph of PyTorch's autograd."""

from __future__ import annotations

from typing import Any

import torch

from otkit import arrays, checks
from otkit.autograd import rules
from otkit.results.result import Result


def link(
    result: Result, name: str, array: torch.Tensor, parts: tuple[Any, ...], *, strict: bool = False
) -> torch.Tensor:
    """A field of a result, recorded as a function of the inputs of its solve and of `parts`, such as a vector."""
    tensors = {k: v for k, v in result.problem.given.by_name.items() if isinstance(v, torch.Tensor)}
    field: torch.Tensor = _Field.apply(result, (name, strict), array, tuple(tensors), *parts, *tensors.values())
    return field


class _Field(torch.autograd.Function):
    """A field of a result. Only the result is saved for the backward pass, however many iterations the solve made."""

    @staticmethod
    def forward(
        ctx: Any, result: Result, field: tuple[str, bool], array: torch.Tensor, names: tuple[str, ...], *tensors: Any
    ) -> torch.Tensor:
        """`field` is its name, and whether its gradient must be accurate."""
        ctx.result, ctx.names = result, names
        ctx.name, ctx.strict = field
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
        if torch.is_grad_enabled() and _has_second_derivatives(ctx.result, ctx.name):  # create_graph=True
            inputs = {k: v for k, v, need in zip(ctx.names, saved, needed, strict=True) if need}
            by = _value_gradients(ctx.result, cotangent, inputs)
            return None, None, None, None, *(by.get(name) for name in ctx.names)
        wanted = frozenset(name for name, need in zip(ctx.names, needed[count:], strict=True) if need)
        with torch.no_grad():
            found = rules.field_gradients(ctx.result, ctx.name, cotangent.detach(), ctx.parts, wanted, ctx.strict)
            by_parts = [
                getattr(ctx.result, "apply_t" if ctx.name == "apply" else "apply")(cotangent) if need else None
                for need in needed[:count]
            ]
        given = (*by_parts, *(getattr(found, name, None) for name in ctx.names))
        return None, None, None, None, *once(ctx.name, given, cotangent, *saved)


def recorded(what: str, value: torch.Tensor, gradients: list[torch.Tensor], inputs: list[torch.Tensor]) -> torch.Tensor:
    """A value ``(...)``, recorded as a function of inputs by which it has these gradients, ``(..., *)`` each."""
    out: torch.Tensor = _Known.apply(what, value, gradients, *inputs)
    return out


class _Known(torch.autograd.Function):
    """A value with known gradients."""

    @staticmethod
    def forward(ctx: Any, what: str, value: torch.Tensor, gradients: list[torch.Tensor], *inputs: Any) -> torch.Tensor:
        ctx.what, ctx.gradients = what, gradients
        ctx.save_for_backward(*inputs)  # to detect changes in place
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[Any, ...]:
        checks.no_transform(cotangent, "the incoming gradient")
        saved, found = ctx.saved_tensors, []
        for v, gradient in zip(saved, ctx.gradients, strict=True):
            c = cotangent.detach().double().reshape(*cotangent.shape, *(1,) * (gradient.ndim - cotangent.ndim))
            found.append((c * gradient).sum_to_size(v.shape).to(v.dtype))
        return None, None, None, *once(ctx.what, tuple(found), cotangent, *saved)


def once(what: str, given: tuple[Any, ...], *origin: torch.Tensor) -> tuple[Any, ...]:
    """Gradients in the backward pass of a function that can be differentiated once, to be returned by it.

    With ``create_graph=True`` they are recorded as functions of `origin`, so that a second derivative is an error.
    `torch.autograd.function.once_differentiable` does not see to that: its error is not on the path to the input, and
    the derivative is silently 0.
    """
    return tuple(_NotTwice.apply(what, given, *origin)) if torch.is_grad_enabled() else given


class _NotTwice(torch.autograd.Function):
    """Gradients that must not be differentiated again."""

    @staticmethod
    def forward(ctx: Any, what: str, given: tuple[Any, ...], *origin: torch.Tensor) -> tuple[Any, ...]:
        """`given`, recorded as a function of `origin`."""
        ctx.what = what
        return given

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"second derivatives of {ctx.what} are not available: take the gradient without create_graph=True, or "
            "differences of gradients"
        )


def _has_second_derivatives(result: Result, name: str) -> bool:
    """Whether `_value_gradients` gives the gradients of this field."""
    free = bool((arrays.to_numpy(result.problem.penalties.rho_a) == 0).any())
    free = free or bool((arrays.to_numpy(result.problem.penalties.rho_b) == 0).any())
    iterated = result.outcome.reg is not None and result.outcome.counted is None
    return name in ("value", "value_dual") and iterated and not free and result.problem.geometry.stored is None


def _value_gradients(
    result: Result, cotangent: torch.Tensor, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The gradients of the optimal value by the inputs `tensors`, each in its shape, as functions of them.

    By the envelope theorem they are made of the plan and the potentials. These are recorded, so that the derivative of
    the gradient follows from theirs, by the implicit function theorem. The plan is formed: ``(..., n, m)``.
    """
    # Names of one tensor are different arguments of the value.
    given = {name: v.view_as(v) for name, v in tensors.items()}
    c, found = cotangent.double(), {}
    if "C" in given:
        found["C"] = c[..., None, None] * result.plan
    elif "x" in given or "y" in given:
        found |= _by_points(result, c, given)
    if not given.keys().isdisjoint(("a", "b", "rho", "rho_a", "rho_b")):
        found |= _by_weights(result, c, given)
    if "reg" in given:
        by_reg: Any = result.value_reg
        found["reg"] = c * by_reg / given["reg"].double()
    return {name: found[name].sum_to_size(v.shape).to(v.dtype) for name, v in given.items()}


def _by_points(result: Result, c: torch.Tensor, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    problem = result.problem
    cloud: Any = problem.given.geometry.cloud
    cloud = cloud._over(given.get("x", cloud.x), given.get("y", cloud.y))
    flat = cloud.flat(problem.batch)
    W = (c[..., None, None] * result.plan).reshape(-1, cloud.n, cloud.m)
    everything = slice(0, problem.items), slice(None)
    by_x, by_y = flat.pulled(W, *everything), flat.T.pulled(W.mT, *everything)
    names = [name for name in ("x", "y") if name in given]
    ends = [(v, by.sum_to_size(v.shape)) for v, by in ((flat.x, by_x), (flat.y, by_y)) if v.requires_grad]
    through, bars = zip(*ends, strict=True)
    # Through the conversions of the points, such as the division by their length.
    by = torch.autograd.grad(through, [given[name] for name in names], bars, create_graph=True)
    return dict(zip(names, by, strict=True))


def _by_weights(result: Result, c: torch.Tensor, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the weights and the penalties of both sides."""
    problem = result.problem
    f, g = result.f.double(), result.g.double()

    def caller(name: str, otherwise: Any) -> torch.Tensor:
        value = given.get(name, otherwise)
        return torch.as_tensor(value, dtype=torch.float64, device=f.device)

    asked = problem.given
    reg = caller("reg", asked.reg)[..., None]
    uniform = [torch.full_like(v[..., :1], 1 / v.shape[-1]).expand_as(v) for v in (f, g)]
    weights = [
        caller(name, w if own is None else own).expand_as(v)
        for name, own, w, v in (("a", asked.a, uniform[0], f), ("b", asked.b, uniform[1], g))
    ]
    totals = [w.sum(-1, keepdim=True) for w in weights]
    mass = (totals[0] + totals[1]) / 2
    balanced = arrays.from_numpy(problem.balanced, f).reshape(problem.batch)[..., None]
    rho = asked.unbalanced if isinstance(asked.unbalanced, tuple) else (asked.unbalanced,) * 2
    found: dict[str, Any] = {}
    for k, (v, name, penalty) in enumerate(((f, "a", "rho_a"), (g, "b", "rho_b"))):
        w, other = weights[k], totals[1 - k]
        free = v - (w * v).sum(-1, keepdim=True) / totals[k] + result.value.double()[..., None] / (2 * mass)
        price = caller("rho" if "rho" in given else penalty, torch.inf if rho[k] is None else rho[k])[..., None]
        exact = price == torch.inf
        scale = torch.where(exact, 1.0, price)
        kept = torch.where(exact, 1.0, torch.exp(-v / scale))
        paid = torch.where(exact, v, scale * (1 - kept))
        found[name] = c[..., None] * torch.where(balanced, free, paid + reg * (other - kept))
        by_price = (w * torch.where(exact, 0.0, 1 - kept * (1 + v / scale))).sum(-1)
        found[penalty] = c * by_price
    found["rho"] = found["rho_a"] + found["rho_b"]
    return found
