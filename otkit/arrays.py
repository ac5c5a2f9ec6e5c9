"""Array libraries: the standard namespace, and the few functions that it lacks.

Numerical code is written against the Python array API standard, through `array_api_compat`. Here a CUDA tensor is told
from a NumPy array; `otkit.kernels.choose` asks, once for a problem.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from typing import Any, NamedTuple, TypeVar

import array_api_compat
import numpy as np

Array = Any
Namespace = Any
_Tree = TypeVar("_Tree")
_Class = TypeVar("_Class")

is_cupy = array_api_compat.is_cupy_array
is_jax = array_api_compat.is_jax_array
is_tensor = array_api_compat.is_torch_array
device = array_api_compat.device


def is_array(x: Any) -> bool:
    """Whether `x` is an array of a known library."""
    return isinstance(x, np.ndarray) or array_api_compat.is_array_api_obj(x)


def is_scipy_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix or array of SciPy, of a `scipy.sparse` that another thread may be importing."""
    known = getattr(sys.modules.get("scipy.sparse"), "issparse", None)
    return known is not None and bool(known(x))


def namespace(*arrays: Array | None) -> Namespace:
    """The standard namespace of the arrays; ``TypeError`` for arrays of several libraries."""
    present = [x for x in arrays if x is not None]
    if {type(x) for x in present} == {np.ndarray}:  # the most frequent case, and five times quicker
        import array_api_compat.numpy as xp  # it imports all of NumPy, which takes a tenth of a second

        return xp
    return array_api_compat.array_namespace(*present)


def to_numpy(x: Array) -> np.ndarray:
    """`x` as a NumPy array: a view where the library allows one, else a copy on the host; bfloat16 as float32."""
    if isinstance(x, np.ndarray):
        return x
    if is_tensor(x):
        x = x.detach().cpu()
        return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    if is_cupy(x):
        return x.get()
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.kind == "V" else x  # ml_dtypes' bfloat16, of JAX


def on_gpu(x: Array) -> bool:
    """Whether `x` is an array of CuPy or a CUDA tensor."""
    return is_cupy(x) or (is_tensor(x) and x.device.type == "cuda")


def hosted(x: Array) -> Array:
    """A tensor or an array of JAX as a NumPy array, a view where possible; unchanged: CUDA tensors, other arrays."""
    if isinstance(x, np.ndarray):
        return x
    return to_numpy(x) if (is_tensor(x) and x.device.type != "cuda") or is_jax(x) else x


def from_numpy(x: Any, like: Array) -> Array:
    """`x` in the library and on the device of `like`, with the dtype that NumPy gives it."""
    if isinstance(like, np.ndarray):
        return np.asarray(x)
    x = np.asarray(x)
    if not x.flags.writeable:  # torch cannot share read-only memory
        x = x.copy()
    return namespace(like).asarray(x, device=device(like))


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Float64 zeros in the library of `like`, made on its device."""
    xp = namespace(like)
    return xp.zeros(shape, dtype=xp.float64, device=device(like))


def full(shape: tuple[int, ...], value: float, like: Array) -> Array:
    """A float64 number in every place, in the library of `like`, made on its device."""
    xp = namespace(like)
    return xp.full(shape, value, dtype=xp.float64, device=device(like))


def extremes(x: Array) -> tuple[float, float]:
    """The smallest and the largest number; NaN where one is NaN."""
    if isinstance(x, np.ndarray):  # three times quicker, for few numbers
        return float(np.minimum.reduce(x, axis=None)), float(np.maximum.reduce(x, axis=None))
    x, xp = detached(x), namespace(x)
    return float(xp.min(x)), float(xp.max(x))


def every(condition: Array) -> bool:
    """Whether a condition holds everywhere."""
    return bool(condition.all() if isinstance(condition, np.ndarray) else namespace(condition).all(condition))


def convert(x: Array, like: Array) -> Array:
    """`x`, an array of NumPy or of the library of `like`, in that library and on that device."""
    return from_numpy(x, like) if isinstance(x, np.ndarray) else x


def float64(x: Array) -> Array:
    """`x` in float64, without a copy if it already is; in float32 for JAX, unless its 64-bit numbers are enabled."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64, copy=False)
    xp = namespace(x)
    return xp.astype(x, float if is_jax(x) else xp.float64, copy=False)


def detached(x: Any) -> Any:
    """`x` detached from autograd's graph if it is a tensor that requires gradients, else `x` unchanged."""
    torch = sys.modules.get("torch")
    return x.detach() if torch is not None and isinstance(x, torch.Tensor) and x.requires_grad else x


def copied(x: Any) -> Any:
    """A copy of an array, in autograd's graph if `x` is; anything else unchanged."""
    if isinstance(x, np.ndarray):
        return x.copy()
    if is_tensor(x):
        return x.clone()
    return namespace(x).asarray(x, copy=True) if is_array(x) else x


def records() -> bool:
    """Whether autograd records: torch is imported and grad mode is on."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.is_grad_enabled()


def requires_grad(x: Any) -> bool:
    """Whether autograd records operations on `x` (a torch tensor, with grad mode on)."""
    if x is None or type(x) is np.ndarray:  # the most frequent cases
        return False
    return records() and isinstance(x, sys.modules["torch"].Tensor) and x.requires_grad


def batched(x: Array) -> bool:
    """Whether `x` is a tensor in a batch of ``torch.func.vmap``, on any level."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def transformed(x: Array) -> bool:
    """Whether `x` is a tensor in a transform of ``torch.func``, or with a tangent of forward mode."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return False
    functorch, forward = torch._C._functorch, torch.autograd.forward_ad
    if functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x):
        return True
    return forward._current_level >= 0 and forward.unpack_dual(x).tangent is not None


_Call = TypeVar("_Call", bound=Callable[..., Any])


def eager(function: _Call) -> _Call:
    """The public function, run as if the caller had left the settings of its libraries alone.

    It is excluded from ``torch.compile``: called eagerly, with a graph break, and never traced. Floating-point errors
    are treated as NumPy does by default: underflow to 0 is normal, and no exception follows from ``np.seterr``.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        run = function
        if "torch._dynamo" in sys.modules:
            run = sys.modules["torch"].compiler.disable(function)
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            return run(*args, **kwargs)

    return call  # type: ignore[return-value]


def for_threads(function: _Call) -> _Call:
    """The function, to be called in other threads with this thread's settings.

    These are whether JAX has 64-bit numbers, and whether PyTorch records operations.
    """
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    settings: list[Callable[[], Any]] = []
    if jax is not None and hasattr(jax, "enable_x64"):  # before JAX 0.8 it is elsewhere
        settings.append(partial(jax.enable_x64, bool(jax.config.jax_enable_x64)))
    if torch is not None:
        settings.append(partial(torch.inference_mode, torch.is_inference_mode_enabled()))
        settings.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))

    @wraps(function)
    def call(*args: Any) -> Any:
        with ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting())
            return function(*args)

    return call  # type: ignore[return-value]


def is_traced(x: Any) -> bool:
    """Whether `x` is an abstract array of a function that JAX traces, which has no numbers."""
    return is_jax(x) and isinstance(x, sys.modules["jax"].core.Tracer)


def library_name(x: Array) -> str:
    """The name of the library of an array, for messages."""
    name = type(x).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(name, name)


def logsumexp(x: Array) -> Array:
    """log Σ exp over the last axis; −inf, not NaN, where every entry is −inf."""
    xp = namespace(x)
    top = xp.max(x, axis=-1, keepdims=True)
    finite = xp.isfinite(top)
    # The largest term is 1, so e⁻⁷⁰⁰ is negligible. The clip only avoids the slow underflow of exp.
    terms = xp.exp(xp.clip(x - xp.where(finite, top, xp.zeros_like(top)), -700.0, None))
    total = xp.log(xp.sum(terms, axis=-1)) + top[..., 0]
    return xp.where(finite[..., 0], total, xp.full_like(total, -xp.inf))


def finite_or_zero(x: Array) -> Array:
    """`x` with infinities and NaN replaced by 0."""
    xp = namespace(x)
    return xp.where(xp.isfinite(x), x, xp.zeros_like(x))


def renewed(tree: _Tree, /, **changes: Any) -> _Tree:
    """The frozen dataclass with some fields replaced by valid ones: its checks do not run again."""
    new = object.__new__(type(tree))
    vars(new).update(vars(tree), **changes)
    return new


def made(of: type[_Class], /, **fields: Any) -> _Class:
    """A frozen dataclass without its checks, for fields that are known to be valid."""
    new = object.__new__(of)
    new.__dict__.update(fields)
    return new


def map_arrays(function: Callable[..., Array], tree: _Tree, *others: _Tree) -> _Tree:
    """Map a function over the arrays of a tree of dataclasses and tuples, and the matching arrays of other trees."""
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
    """The tree with only the rows `items`, distinct and sorted, of its arrays ``(B, …)``; views of a range of rows."""
    if items.size == _rows(tree):
        return tree
    if items.size and items[-1] - items[0] == items.size - 1:
        here = slice(int(items[0]), int(items[-1]) + 1)
        return map_arrays(lambda x: x[here, ...], tree)
    return map_arrays(lambda x: namespace(x).take(x, from_numpy(items, x), axis=0), tree)


def put(tree: _Tree, items: np.ndarray, part: _Tree) -> _Tree:
    """The tree with the rows `items` of its arrays ``(B, …)`` replaced by the rows of `part`."""
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
    """Length of the first axis of the first array."""
    while not (isinstance(tree, np.ndarray) or is_array(tree)):
        tree = tree[0] if isinstance(tree, tuple) else getattr(tree, fields(tree)[0].name)
    return int(tree.shape[0])


def only(x: Array, where: Array) -> Array:
    """`x` where the mask is set, −inf elsewhere: a potential that no minimum includes."""
    xp = namespace(x)
    return xp.where(where, x, xp.full_like(x, -xp.inf))


def log(x: Array) -> Array:
    """log x with log 0 = −inf, without warnings."""
    if isinstance(x, np.ndarray) and x.min(initial=1.0) > 0:
        return np.log(x)
    xp = namespace(x)
    positive = x > 0
    return xp.where(positive, xp.log(xp.where(positive, x, xp.ones_like(x))), -xp.inf)


# exp underflows to 0 below −746, where NumPy is 20 times slower. e⁷⁰⁰ is near the largest float64.
_EXP_LOW, _EXP_HIGH = -745.2, 700.0


def exp(x: Array) -> Array:
    """exp x, an exact 0 where it would be below the smallest float64, bounded above, without warnings."""
    xp = namespace(x)
    clipped = xp.clip(x, _EXP_LOW, _EXP_HIGH)
    return xp.where(x < _EXP_LOW, xp.zeros_like(x), xp.exp(clipped))


class _Later(NamedTuple):
    """A call whose result a field takes on first use."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def later(function: Callable[..., Any], *arguments: Any) -> Any:
    """A value for a `deferrable` field, computed on first use; `function` is one of a module, for pickles."""
    return _Later(function, arguments)


class _Deferred:
    """A field of a dataclass whose value may be a `later` one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = vars(instance)[self.name]
        if type(value) is _Later:
            value = vars(instance)[self.name] = value.function(*value.arguments)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


def deferred(x: Any, name: str) -> bool:
    """Whether a field of a dataclass is a value for `later` that no one has used."""
    return type(vars(x)[name]) is _Later


def deferrable(of: type, *names: str) -> None:
    """Let these fields of a dataclass take values for `later`."""
    for name in names:
        setattr(of, name, _Deferred(name))
