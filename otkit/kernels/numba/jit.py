"""Compilation options of all kernels, and their elementary functions.

The wheels of Numba call libm for exp and log, one number at a time. The polynomials here are inlined and vectorised,
which makes them 6 to 9 times faster. Their time does not depend on the argument.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, update_wrapper
from typing import Any, final

import numpy as np

from otkit.kernels.numba.stamps import stamped

# Sums may be reordered, so that they vectorise. NaN and infinities keep their meaning: forbidden costs are infinite.
# A loop with a sum must not write to an array. Otherwise LLVM checks at run time whether arrays overlap. The result of
# the check may depend on their addresses, and with it the order of the sum.
_FAST = {"reassoc", "contract", "arcp", "nsz"}

_loading = threading.RLock()


@final
class Kernel:
    """A function that Numba compiles on first use, and caches on disk.

    Numba itself is loaded then, which takes half as long as all of otkit and NumPy: the command line solves small
    problems without it.
    """

    # Names by which Numba finds functions that are to be inlined.
    py_func: Callable[..., Any]
    targetoptions: dict[str, Any]

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.py_func, self.targetoptions = stamped(function), options
        update_wrapper(self, function)

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """What Numba makes of the function."""
        from otkit.kernels.numba.compiler import compiled

        with _loading:
            return vars(self).setdefault("compiled", compiled(self.py_func, self.targetoptions))

    @property
    def _numba_type_(self) -> Any:
        """The type by which Numba knows the kernel within others."""
        return self.compiled._numba_type_  # type: ignore[attr-defined]

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator of kernels."""
    return lambda function: Kernel(function, options)


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
    _told.append(tell)
    try:
        yield
    finally:
        if tell in _told:
            _told.remove(tell)


# What is called before the next kernel is compiled.
_told: list[Callable[[], object]] = []


def tell_all() -> None:
    """Call what is to be told of the next kernel that is compiled."""
    while _told:
        _told.pop()()


# Functions that `intrinsics` compiles to instructions.


def wide() -> None:
    """Compile the loops of the calling kernel with the widest vectors of the processor.

    On Intel processors, LLVM prefers vectors of half the width, since older ones reduced their clock for wide vectors.
    Exponentials then take 1.5 times as long. The attribute applies to one function, target features would apply to all
    that Numba compiles.
    """


def least(x: Any, y: Any) -> Any:
    """The smaller of two numbers of one type that are not NaN. Reductions with it vectorise."""
    return min(x, y)


def most(x: Any, y: Any) -> Any:
    """The larger of two numbers of one type that are not NaN. Reductions with it vectorise."""
    return max(x, y)


def float_of(bits: Any) -> Any:
    """The float64 with the bits of an int64."""
    return np.int64(bits).view(np.float64)


def bits_of(x: Any) -> Any:
    """The bits of a float64, as an int64."""
    return np.float64(x).view(np.int64)


def single_of(bits: Any) -> Any:
    """The float32 with the bits of an int32."""
    return np.int32(bits).view(np.float32)


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
    """Copy x to out. A slice assignment would cost seconds of compilation, for its error message."""
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
# The polynomial of degree 10 whose largest relative error from e^r over |r| ≤ ln 2 / 2 is least, 2e-16 (Remez).
_C = (
    1.0,
    1.0000000000000064,
    0.49999999999997286,
    0.16666666666557742,
    0.04166666666842606,
    0.008333333384665811,
    0.001388888849912886,
    0.0001984117138414777,
    2.480191769474716e-05,
    2.763976830309189e-06,
    2.7488441946853725e-07,
)
# Added to a number, it rounds it to a whole one k, and the last bits of the sum are those of k + 1023, the exponent of
# 2^k: processors without AVX-512 convert vectors of numbers to int64 one by one.
_WHOLE = 1.5 * 2.0**52 + 1023


@_careful
def exp(x: float) -> float:
    """e^x to 1e-15, an exact 0 below −708 and e^700 above 700."""
    clipped = min(x, _HIGH)
    shifted = clipped * _LOG2_E + _WHOLE
    k = shifted - _WHOLE
    r = clipped - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    s = r * r
    # Even and odd powers do not wait for each other: 1.1 times as fast as one chain.
    even = ((((_C[10] * s + _C[8]) * s + _C[6]) * s + _C[4]) * s + _C[2]) * s + _C[0]
    odd = (((_C[9] * s + _C[7]) * s + _C[5]) * s + _C[3]) * s + _C[1]
    power = float_of(bits_of(shifted) << np.int64(52))
    return (odd * r + even) * power if x >= _LOW else 0.0


# Constants in single precision: constants in double precision would promote the results.
_S: Any = tuple(np.float32(1 / math.factorial(k)) for k in range(7))
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
    power = single_of((np.int32(k) + np.int32(127)) << np.int32(23))
    return p * power if x >= _LOW_S else _ZERO_S


@jit
def raise_all(E):
    """Replace exponents by exponentials. All rows are one: what is left of a row beside whole vectors takes long."""
    wide()
    e = E.reshape(-1)
    for k in range(e.size):
        e[k] = exp_single(e[k]) if e.itemsize == 4 else exp(e[k])


_SQRT_HALF_BITS = np.int64(np.float64(0.5**0.5).view(np.int64))


@_careful
def log(x: float) -> float:
    """log x of a positive normal number, to a few units in the last place."""
    bits = bits_of(x)
    # The exponent for which the mantissa lies between √½ and √2.
    k = (bits - _SQRT_HALF_BITS) >> np.int64(52)
    m = float_of(bits - (k << np.int64(52)))
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
