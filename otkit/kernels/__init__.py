"""How fast: the tables of kernels, and which of them runs a problem.

`choose` is asked once, when a problem is built, and the table is kept in it: ``problem.kernels``. Arrays of NumPy get
`otkit.kernels.numba.NUMBA`, arrays on a GPU `otkit.kernels.triton.TRITON`, and anything else
`otkit.kernels.table.REFERENCE`. A faster version replaces an operation, never an algorithm.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from otkit import arrays
from otkit.geometry.base import Geometry
from otkit.kernels.table import REFERENCE, Kernels

__all__ = ["REFERENCE", "Kernels", "choose", "lacking"]


def choose(geometry: Geometry) -> Kernels:
    """The kernels for this geometry, by where its arrays are and by the environment variable ``OTKIT_KERNELS``.

    Raises
    ------
    ValueError
        If the variable is none of its values, or asks for Triton on the host without its interpreter.
    """
    # Compiled code is loaded when it is first needed.
    asked, given = _asked(), list(geometry.arrays.values())
    if asked == "reference":
        return REFERENCE
    if all(isinstance(x, np.ndarray) for x in given):
        from otkit.kernels.numba import NUMBA

        return NUMBA
    if not all(_is_for_triton(x, asked) for x in given):
        from otkit.kernels.numba import HOSTED

        return HOSTED
    from otkit.kernels.triton import CALLED, CUPY, TRITON

    if geometry.called:
        return CALLED
    return CUPY if any(map(arrays.is_cupy, given)) else TRITON


def _is_for_triton(x: Any, asked: str) -> bool:
    """Whether Triton works on an array: one on a GPU, or a tensor of the host where its interpreter is asked for."""
    on_gpu = arrays.on_gpu(x)
    interpreted = asked == "triton" and arrays.is_tensor(x) and not on_gpu
    if interpreted and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "OTKIT_KERNELS=triton runs tensors of the host in Triton's interpreter, "
            "which TRITON_INTERPRET=1 must ask for; unset OTKIT_KERNELS for Numba's kernels"
        )
    return (interpreted or (on_gpu and asked != "numba")) and not lacking("torch", "triton")


@cache
def lacking(*packages: str) -> str:
    """The first of the packages that is not installed; empty where none is missing."""
    return next((name for name in packages if find_spec(name) is None), "")


_CHOICES = ("auto", "numba", "triton", "reference")


def _asked() -> str:
    asked = os.environ.get("OTKIT_KERNELS", "auto")
    if asked not in _CHOICES:
        raise ValueError(
            f"the environment variable OTKIT_KERNELS must be 'auto', 'numba', 'triton' or 'reference', got {asked!r}"
        )
    return asked
