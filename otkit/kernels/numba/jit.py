"""Compilation options of all kernels, and their elementary functions.

The wheels of Numba call libm for exp and log, one number at a time. The polynomials here are inlined and vectorised,
which makes them 6 to 9 times faster. Their time does not depend on the argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import event, sigutils
from numba.core import ir as numba_ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.untyped_passes import InlineInlinables
from numba.extending import intrinsic

from otkit.kernels.numba.stamps import stamped

# Sums may be reordered, so that they vectorise. NaN and infinities keep their meaning: forbidden costs are infinite.
# A loop with a sum must not write to an array. Otherwise LLVM checks at run time whether arrays overlap. The result of
# the check may depend on their addresses, and with it the order of the sum.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


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
    return isinstance(line, numba_ir.Assign) and _ON_STACK.search(line.target.name) is not None


class _Repeatable(CompilerBase):  # type: ignore[misc]  # without types
    """Numba's compiler, whose machine code does not depend on the hashes of names, which each process draws anew."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Ordered, InlineInlinables)
        passes.finalize()
        return [passes]


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator of kernels.

    No signatures: a kernel is compiled on first use, and cached on disk. Never ``parallel``: otkit manages the threads.
    """
    options |= {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    compiled = numba.njit(cache=True, pipeline_class=_Repeatable, **options)
    return lambda function: _once(compiled(stamped(function)))


def _once(kernel: Any) -> Any:
    """The kernel, which is compiled once for arrays that count as writable or not, and for numbers known or not.

    Numba would compile it, and all that it calls, for each combination. No kernel writes to an array of the caller.
    """
    compiled = kernel.compile

    def compile(signature: Any) -> Any:
        given = sigutils.normalize_signature(signature)[0]
        plain = tuple(map(_plain, given))
        found = compiled(plain)
        if plain != given:
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


jit = _compiler(fastmath=_FAST)
# Exact order of operations, for results that must equal NumPy's or would lose digits if reordered. All operations of a
# difference must be in one such function: LLVM reorders a chain if its last operation permits it.
exact = _compiler(fastmath={"nsz"}, forceinline=True)
# The same for longer functions: they are compiled once and called, which saves the time to compile copies of them.
ordered = _compiler(fastmath={"nsz"})
# For a function with one caller, whose long loops are in what it calls. Its lines become lines of the caller, with the
# caller's options. Otherwise it would be compiled by itself first, with all that it calls, and once more in the caller.
inlined = _compiler(fastmath=_FAST, inline="always")
_careful = _compiler(fastmath={"contract", "nsz"}, forceinline=True)  # keeps x − k·ln 2 in two steps


@contextmanager
def told(tell: Callable[[], object]) -> Iterator[None]:
    """A context in which `tell` is called once, before the first kernel is compiled that no cache has."""

    @final
    class Once(event.Listener):  # type: ignore[misc]  # without types
        told = False

        def on_start(self, begun: Any) -> None:
            if not self.told:
                self.told = True
                tell()

        def on_end(self, ended: Any) -> None:
            pass

    with event.install_listener("numba:compile", Once()):
        yield


def _bitcast(given: Any, wanted: Any) -> Any:
    """A function that reinterprets the bits of a number of one type as a number of another."""

    @intrinsic
    def cast(typing_context: Any, x: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(wanted))

        return wanted(given), build

    return cast


_float_of, _bits_of = _bitcast(types.int64, types.float64), _bitcast(types.float64, types.int64)
_single_of = _bitcast(types.int32, types.float32)


@intrinsic
def wide(typing_context: Any) -> Any:
    """Compile the loops of the calling kernel with the widest vectors of the processor.

    On Intel processors, LLVM prefers vectors of half the width, since older ones reduced their clock for wide vectors.
    Exponentials then take 1.5 times as long. The attribute applies to one function, target features would apply to all
    that Numba compiles.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite has no name for this attribute
        return context.get_dummy_value()

    return types.none(), build


def _extremum(name: str) -> Any:
    """A minimum or maximum of two numbers of one type that are not NaN. Reductions with it vectorise."""

    @intrinsic
    def extremum(typing_context: Any, x: Any, y: Any) -> Any:
        kind = types.float32 if x == y == types.float32 else types.float64

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = context.get_value_type(kind)
            function = builder.module.declare_intrinsic(name, [number], ir.FunctionType(number, [number, number]))
            return builder.call(function, args, fastmath=("nnan", "nsz"))

        return kind(kind, kind), build

    return extremum


least, most = _extremum("llvm.minnum"), _extremum("llvm.maxnum")

# Numbers that loops process at a time, in several vectors. Remainders are processed singly, so short rows are padded.
STRIDE = 32


@exact
def difference(x, y):
    """x − y and its rounding error, as `otkit.linalg.trees.difference`."""
    z = x - y
    back = z - x
    return z, (x - (z - back)) - (y + back)


@exact
def add(total, lost, x):
    """A sum and its rounding error, after another term (Knuth's two-sum)."""
    z = total + x
    back = z - total
    return z, lost + ((total - (z - back)) + (x - back))


@jit
def copy(x, out):
    """Copy x to out. A slice assignment would cost a second of compilation, for its error message."""
    for j in range(x.size):
        out[j] = x[j]


@jit
def dot(x, y):
    """The inner product of two vectors."""
    wide()
    total = 0.0
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@jit
def gather(where, value, first, stop, v):
    """The product of a sparse row with a vector, for unsigned indices of columns."""
    total = 0.0
    for k in range(np.uint64(first), np.uint64(stop)):  # Numba would check signed indices for negative values
        total += value[k] * v[where[k]]
    return total


@jit
def clear(x):
    """Set x to zero in place."""
    for j in range(x.size):
        x[j] = 0.0


_LOG2_E = 1.4426950408889634
# ln 2 in two parts. The first has few enough digits that its multiples are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOW, _HIGH = -708.0, 700.0  # below _LOW, e^x is not a normal number; sums of terms above e^_HIGH may overflow
_C = tuple(1 / math.factorial(k) for k in range(12))


@_careful
def exp(x: float) -> float:
    """e^x to 1e-14, an exact 0 below −708 and e^700 above 700."""
    clipped = min(max(x, _LOW), _HIGH)
    k = math.floor(clipped * _LOG2_E + 0.5)
    r = clipped - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    p = _C[11]
    p = p * r + _C[10]
    p = p * r + _C[9]
    p = p * r + _C[8]
    p = p * r + _C[7]
    p = p * r + _C[6]
    p = p * r + _C[5]
    p = p * r + _C[4]
    p = p * r + _C[3]
    p = p * r + _C[2]
    p = p * r + 1.0
    p = p * r + 1.0
    power = _float_of((np.int64(k) + np.int64(1023)) << np.int64(52))
    return p * power if x >= _LOW else 0.0


# Constants in single precision: constants in double precision would promote the results.
_S: Any = tuple(np.float32(v) for v in _C[:7])
_ZERO_S, _HALF_S, _LOG2_E_S, _LN2_HIGH_S, _LN2_LOW_S, _LOW_S, _HIGH_S = (
    np.float32(v) for v in (0.0, 0.5, _LOG2_E, 0.693359375, -2.12194440e-4, -87.0, 87.0)
)


@_careful
def exp_single(x: Any) -> Any:
    """e^x of a float32, to a few units in its last place: 0 below −87, and e^87 above 87."""
    clipped: Any = min(max(x, _LOW_S), _HIGH_S)
    k = np.floor(clipped * _LOG2_E_S + _HALF_S)
    r = clipped - k * _LN2_HIGH_S
    r = r - k * _LN2_LOW_S
    p = _S[6]
    p = p * r + _S[5]
    p = p * r + _S[4]
    p = p * r + _S[3]
    p = p * r + _S[2]
    p = p * r + _S[1]
    p = p * r + _S[0]
    power = _single_of((np.int32(k) + np.int32(127)) << np.int32(23))
    return p * power if x >= _LOW_S else _ZERO_S


_SQRT_HALF_BITS = np.int64(np.float64(0.5**0.5).view(np.int64))


@_careful
def log(x: float) -> float:
    """log x of a positive normal number, to a few units in the last place."""
    bits = _bits_of(x)
    # The exponent for which the mantissa lies between √½ and √2.
    k = (bits - _SQRT_HALF_BITS) >> np.int64(52)
    m = _float_of(bits - (k << np.int64(52)))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    tail = 2.0 * s * z * p + k * _LN2_LOW
    return k * _LN2_HIGH + (2.0 * s + tail)
