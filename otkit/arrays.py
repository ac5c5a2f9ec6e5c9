"""Array libraries: the standard namespace, and the few things that it lacks.

Everything numerical is written against the Python array API standard, through
`array_api_compat`; no other module asks which library an array belongs to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import array_api_compat.numpy
import numpy as np

Array = Any
Namespace = Any
_Tree = TypeVar("_Tree")

is_array = array_api_compat.is_array_api_obj
is_cupy = array_api_compat.is_cupy_array
is_tensor = array_api_compat.is_torch_array
device = array_api_compat.device


def namespace(*arrays: Array | None) -> Namespace:
    """The standard namespace of the arrays; ``TypeError`` when they come from several libraries."""
    if len(arrays) == 1 and isinstance(arrays[0], np.ndarray):  # by far the most frequent, and five times quicker
        return array_api_compat.numpy
    return array_api_compat.array_namespace(*(x for x in arrays if x is not None))


def to_numpy(x: Array) -> np.ndarray:
    """`x` as a NumPy array: a view where the library allows it, else a copy on the host."""
    if isinstance(x, np.ndarray):
        return x
    if is_tensor(x):
        return x.detach().cpu().numpy()
    if is_cupy(x):
        return x.get()
    return np.asarray(x)


def on_gpu(x: Array) -> bool:
    """Whether it is an array of CuPy or a CUDA tensor."""
    return is_cupy(x) or (is_tensor(x) and x.device.type == "cuda")


def hosted(x: Array) -> Array:
    """A view in NumPy of a tensor that lies in the memory of the host, and any other array as it is.

    With ``OTKIT_KERNELS=triton`` it stays a tensor, for Triton's interpreter.
    """
    if not is_tensor(x) or x.device.type != "cpu" or os.environ.get("OTKIT_KERNELS") == "triton":
        return x
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).detach().numpy()


def from_numpy(x: Any, like: Array) -> Array:
    """`x` in the library and on the device of `like`, with the dtype that NumPy gives it."""
    x = np.asarray(x)
    if isinstance(like, np.ndarray):
        return x
    if not x.flags.writeable:  # torch cannot share what it must not write
        x = x.copy()
    return namespace(like).asarray(x, device=device(like))


def convert(x: Array, like: Array) -> Array:
    """`x`, of NumPy or of the library of `like`, in that library and on its device."""
    return from_numpy(x, like) if isinstance(x, np.ndarray) else x


def float64(x: Array) -> Array:
    """`x` in float64, not copied when it is already."""
    xp = namespace(x)
    return xp.astype(x, xp.float64, copy=False)


def detached(x: Any) -> Any:
    """A tensor that autograd records as one that it does not, and anything else as it is."""
    torch = sys.modules.get("torch")
    return x.detach() if torch is not None and isinstance(x, torch.Tensor) and x.requires_grad else x


def records() -> bool:
    """Whether autograd records at all: torch is in use, with grad mode on."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.is_grad_enabled()


def requires_grad(x: Any) -> bool:
    """Whether autograd records what is done with `x` (a torch tensor, with grad mode on)."""
    return records() and isinstance(x, sys.modules["torch"].Tensor) and x.requires_grad


_Call = TypeVar("_Call", bound=Callable[..., Any])


def eager(function: _Call) -> _Call:
    """A function that ``torch.compile`` calls as it is, with a break in its graph, and does not look into."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return sys.modules["torch"].compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def library_name(x: Array) -> str:
    """The name of the library an array belongs to, for messages."""
    return type(x).__module__.partition(".")[0]


def logsumexp(x: Array) -> Array:
    """log Σ exp over the last axis; −inf, not NaN, where every entry is −inf."""
    xp = namespace(x)
    top = xp.max(x, axis=-1, keepdims=True)
    finite = xp.isfinite(top)
    # The largest term is 1, beside which e⁻⁷⁰⁰ is nothing: the clip only spares exp its slow underflow.
    terms = xp.exp(xp.clip(x - xp.where(finite, top, xp.zeros_like(top)), -700.0, None))
    total = xp.log(xp.sum(terms, axis=-1)) + top[..., 0]
    return xp.where(finite[..., 0], total, xp.full_like(total, -xp.inf))


def finite_or_zero(x: Array) -> Array:
    """`x` with 0 in place of what is infinite or NaN."""
    xp = namespace(x)
    return xp.where(xp.isfinite(x), x, xp.zeros_like(x))


def map_arrays(function: Callable[..., Array], tree: _Tree, *others: _Tree) -> _Tree:
    """A tree of dataclasses and tuples with the function of every array, and of those in its place in other trees."""
    part: Any = tree
    if isinstance(part, np.ndarray) or is_array(part):
        return function(part, *others)
    if is_dataclass(part) and not isinstance(part, type):
        names = [field.name for field in fields(part)]
        return replace(
            part, **{k: map_arrays(function, getattr(part, k), *(getattr(x, k) for x in others)) for k in names}
        )  # type: ignore[return-value]
    if isinstance(part, tuple):
        inner = [map_arrays(function, *parts) for parts in zip(part, *others, strict=True)]
        return type(part)(*inner) if hasattr(part, "_fields") else tuple(inner)  # type: ignore[return-value]
    return tree


def take(tree: _Tree, items: np.ndarray) -> _Tree:
    """A tree whose arrays ``(B, …)`` have the rows `items` only, which are distinct and in order."""
    if items.size == _rows(tree):
        return tree
    return map_arrays(lambda x: namespace(x).take(x, from_numpy(items, x), axis=0), tree)


def put(tree: _Tree, items: np.ndarray, part: _Tree) -> _Tree:
    """A tree whose arrays ``(B, …)`` have the rows `items` replaced by those of a `part`."""
    size = _rows(tree)
    if items.size == size:
        return part
    source = np.arange(size)
    source[items] = size + np.arange(items.size)

    def joined(full: Array, new: Array) -> Array:
        xp = namespace(full)
        return xp.take(xp.concat([full, new], axis=0), from_numpy(source, full), axis=0)

    return map_arrays(joined, tree, part)


def _rows(tree: Any) -> int:
    """The length of the first axis of the first array."""
    while not (isinstance(tree, np.ndarray) or is_array(tree)):
        tree = tree[0] if isinstance(tree, tuple) else getattr(tree, fields(tree)[0].name)
    return int(tree.shape[0])


def only(x: Array, where: Array) -> Array:
    """`x` where the mask is set, −inf elsewhere: a potential that takes part in no minimum."""
    xp = namespace(x)
    return xp.where(where, x, xp.full_like(x, -xp.inf))


def log(x: Array) -> Array:
    """log x with log 0 = −inf, and no warning for it."""
    xp = namespace(x)
    positive = x > 0
    return xp.where(positive, xp.log(xp.where(positive, x, xp.ones_like(x))), -xp.inf)


# exp underflows to 0 below −746 and NumPy is then 20 times slower; e⁷⁰⁰ is near the largest float64.
_EXP_LOW, _EXP_HIGH = -745.2, 700.0


def exp(x: Array) -> Array:
    """exp x, an exact 0 below the smallest float64 and bounded above, without warnings."""
    xp = namespace(x)
    clipped = xp.clip(x, _EXP_LOW, _EXP_HIGH)
    return xp.where(x < _EXP_LOW, xp.zeros_like(x), xp.exp(clipped))
