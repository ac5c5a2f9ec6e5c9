"""Numba and its options; loaded with the first kernel."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import ir, sigutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.untyped_passes import InlineInlinables

from otkit.kernels.numba import intrinsics  # noqa: F401  (registers them)

# Names of values on the stack, in a function and in one that is inlined.
_ON_STACK = re.compile(r"(\$|_v)phi\d")


@register_pass(mutates_CFG=False, analysis_only=False)
class _Ordered(FunctionPass):  # type: ignore[misc]  # without types
    """Sort what Numba keeps in sets: values on the stack where a condition within an expression ends."""

    _name = "otkit_ordered"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        for block in state.func_ir.blocks.values():
            at = [k for k, line in enumerate(block.body) if _is_on_stack(line)]
            for k, line in zip(at, sorted((block.body[k] for k in at), key=lambda line: line.target.name), strict=True):
                block.body[k] = line
        return True


def _is_on_stack(line: Any) -> bool:
    return isinstance(line, ir.Assign) and _ON_STACK.search(line.target.name) is not None


class _Repeatable(CompilerBase):  # type: ignore[misc]  # without types
    """Numba's compiler, whose machine code does not depend on the hashes of names, which each process draws anew."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Ordered, InlineInlinables)
        passes.finalize()
        return [passes]


def compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """What Numba makes of a function. No signatures, and never ``parallel``: otkit manages the threads."""
    options = options | {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    return _once(numba.njit(cache=True, pipeline_class=_Repeatable, **options)(function))


def _once(kernel: Any) -> Any:
    """The kernel, which is compiled once for arrays that count as writable or not, and for numbers known or not.

    Numba would compile it, and all that it calls, for each combination. No kernel writes to an array of the caller.
    """
    made, known, lock = kernel.compile, set(), threading.Lock()

    def compile(signature: Any) -> Any:
        given = sigutils.normalize_signature(signature)[0]
        plain = tuple(map(_plain, given))
        found = made(plain)
        with lock:
            # Two equal entries, of threads that call at once, would be ambiguous, and Numba would ask again every time.
            if plain != given and given not in known:
                known.add(given)
                kernel._insert([kind._code for kind in given], found, False)
        return found

    kernel.compile = compile
    return kernel


def _plain(kind: Any) -> Any:
    """The type of an argument, of arrays as writable, and of a constant as that of its variable."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.Array):
        return kind.copy(readonly=False)
    if isinstance(kind, types.BaseTuple):
        return types.BaseTuple.from_types([*map(_plain, kind)], getattr(kind, "instance_class", None))
    return kind
