"""How Numba compiles the functions of `otkit.kernels.numba.jit` that are instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from llvmlite import ir
from numba import types
from numba.core import event
from numba.core.typing import signature
from numba.extending import lower_builtin, type_callable

from otkit.kernels.numba import jit


def _instruction(function: Callable[..., Any], typed: Callable[..., Any], build: Callable[..., Any]) -> None:
    """Let Numba compile calls of a function of jit.py by `build`, for the signature `typed` of their arguments."""
    type_callable(function)(lambda context: typed)
    lower_builtin(function, types.VarArg(types.Any))(build)


def _bitcast(function: Callable[..., Any], given: Any, wanted: Any) -> None:
    """Let a function reinterpret the bits of a number of one type as a number of another."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(wanted))

    _instruction(function, lambda x: signature(wanted, given), build)


def _extremum(function: Callable[..., Any], name: str) -> None:
    """Let a function be a minimum or maximum of two numbers of one type that are not NaN."""

    def typed(x: Any, y: Any) -> Any:
        kind = types.float32 if x == y == types.float32 else types.float64
        return signature(kind, kind, kind)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_value_type(signature.return_type)
        function = builder.module.declare_intrinsic(name, [number], ir.FunctionType(number, [number, number]))
        return builder.call(function, args, fastmath=("nnan", "nsz"))

    _instruction(function, typed, build)


def _widen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite has no name for this attribute
    return context.get_dummy_value()


_bitcast(jit.float_of, types.int64, types.float64)
_bitcast(jit.bits_of, types.float64, types.int64)
_bitcast(jit.single_of, types.int32, types.float32)
_extremum(jit.least, "llvm.minnum")
_extremum(jit.most, "llvm.maxnum")
_instruction(jit.wide, lambda: signature(types.none), _widen)


@final
class _Listener(event.Listener):  # type: ignore[misc]  # without types
    """Tells what `jit.told` has been asked to tell."""

    def on_start(self, begun: Any) -> None:
        jit.tell_all()

    def on_end(self, ended: Any) -> None:
        pass


event.register("numba:compile", _Listener())
