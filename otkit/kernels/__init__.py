"""Tables of kernels, and the choice of the table for a problem.

`choose` is called once, when a problem is built. The problem keeps the table as ``problem.kernels``. NumPy arrays use
`otkit.kernels.numba.NUMBA`, many points of few coordinates `otkit.kernels.searches.TREES`, sparse costs
`otkit.kernels.arcs.STORED`, grids `otkit.kernels.cells.CELLS`, arrays on a GPU `otkit.kernels.triton.TRITON`, and all
others the operations of `otkit.kernels.table.REFERENCE`. A faster version replaces an operation, never an algorithm.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from otkit import arrays
from otkit.geometry.base import Geometry, GivenGeometry
from otkit.geometry.metrics import Named
from otkit.kernels.table import REFERENCE, Kernels

__all__ = [
    "REFERENCE",
    "Kernels",
    "Sharing",
    "choose",
    "held",
    "hosted",
    "lacking",
    "runs_on_host",
    "shared_by",
    "sharing",
]

Geometries = TypeVar("Geometries", bound=GivenGeometry)

# Bytes of costs between points that a problem keeps, and dimension from which it keeps costs that kernels compute.
# In 4, 6, 8 and 12 dimensions a step of `SinkhornLoss` on 16 × 256² pairs took 30, 33, 32 and 43 ms without costs that
# are kept, and 31, 32, 30 and 36 ms with them.
_HELD, _HELD_FROM = 2**26, 8


class Sharing(ABC):
    """Several processes that share the work of the same calls with the same data."""

    @abstractmethod
    def kernels(self, alone: Kernels, geometry: Geometry) -> Kernels:
        """The kernels of this geometry with shared operations; ``ValueError`` if its rows cannot be shared."""

    @abstractmethod
    def check_same(self, *given: arrays.Array | None) -> None:
        """Raise ``ValueError`` on every process if one has other data."""


_SHARING: ContextVar[Sharing | None] = ContextVar("sharing", default=None)


@contextmanager
def sharing(processes: Sharing) -> Generator[None]:
    """A context in which these processes share the work of calls."""
    token = _SHARING.set(processes)
    try:
        yield
    finally:
        _SHARING.reset(token)


def shared_by() -> Sharing | None:
    """The processes that share the work of this call; None if it has one process."""
    return _SHARING.get()


def choose(geometry: Geometry, *beside: arrays.Array | None) -> Kernels:
    """The kernels for this geometry; those of one process, or in the context of `sharing` those of several.

    Several processes must have the same geometry, and the same data beside it.
    """
    kernels, processes = _alone(geometry), shared_by()
    if processes is None:
        return kernels
    processes.check_same(*geometry.arrays.values(), *beside)
    return processes.kernels(kernels, geometry)


def runs_on_host() -> bool:
    """Whether compiled kernels run problems of arrays of NumPy in this call, by one process."""
    return _asked() in ("auto", "numba") and shared_by() is None


def _alone(geometry: Geometry) -> Kernels:
    """The kernels of one process, by the location of the arrays and the environment variable ``OTKIT_KERNELS``.

    Raises
    ------
    ValueError
        If the variable has an unknown value, or selects Triton on the host without its interpreter.
    """
    # Import compiled code on first use.
    asked, given = _asked(), list(geometry.arrays.values())
    if asked == "reference":
        return REFERENCE
    if geometry.stored is not None:
        from otkit.kernels.arcs import STORED

        return STORED
    if geometry.grid is not None:
        from otkit.kernels.cells import CELLS

        return CELLS
    if all(isinstance(x, np.ndarray) for x in given):
        trees, numba, searches = _on_host()
        return trees if searches(geometry) else numba
    if not all(_is_for_triton(x, asked) for x in given):
        from otkit.kernels.numba import HOSTED

        return HOSTED
    if geometry.bordered is not None:
        return REFERENCE
    from otkit.kernels.triton import CALLED, CUPY, TRITON

    if geometry.cloud is not None and not isinstance(geometry.cloud.metric.ground, str):
        return CALLED
    return CUPY if any(map(arrays.is_cupy, given)) else TRITON


@cache  # a statement of import in `_alone` would take longer than all else there
def _on_host() -> tuple[Kernels, Kernels, Callable[[Geometry], bool]]:
    from otkit.kernels.numba import NUMBA
    from otkit.kernels.searches import TREES, searches

    return TREES, NUMBA, searches


def held(kernels: Kernels, geometry: Geometry) -> np.ndarray | None:
    """The costs of points as a matrix ``(B or 1, n, m)``, for iterations that read them often; None if too large.

    It is also None where kernels compute costs as fast as they read them.
    """
    cloud = geometry.cloud
    if cloud is None or kernels.name != "numba" or 8 * geometry.batch[0] * cloud.n * cloud.m > _HELD:
        return None
    from otkit.kernels.numba.tiles import computes, filled

    return None if computes(cloud.metric) and cloud.d < _HELD_FROM else filled(geometry)


def hosted(geometry: Geometries) -> Geometries:
    """The geometry over NumPy arrays, views where possible, unless its arrays stay where they are.

    Arrays on a GPU stay there, and tensors for Triton's interpreter if it is asked for.
    """
    stays = _asked() == "triton" and _for_triton(geometry)
    return geometry if stays else geometry.hosted()


def _for_triton(geometry: GivenGeometry) -> bool:
    """Whether kernels of Triton can compute the costs."""
    named = geometry.cloud is not None and isinstance(geometry.cloud.metric.ground, Named)
    return not named and geometry.grid is None and all(arrays.is_tensor(x) for x in geometry.arrays.values())


def _is_for_triton(x: Any, asked: str) -> bool:
    """Whether Triton runs on an array: on a GPU, or a tensor on the host if its interpreter was selected."""
    on_gpu = arrays.on_gpu(x)
    interpreted = asked == "triton" and arrays.is_tensor(x) and not on_gpu
    if interpreted and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "OTKIT_KERNELS=triton runs tensors of the host in Triton's interpreter, "
            "which TRITON_INTERPRET=1 must ask for; unset OTKIT_KERNELS for Numba's kernels"
        )
    if not (interpreted or (on_gpu and asked != "numba")) or lacking("torch", "triton"):
        return False
    return interpreted or _fits(x.device.id if arrays.is_cupy(x) else x.device.index)


@cache
def _fits(device: int) -> bool:
    """Whether Triton's kernels run on this GPU; the first time, a warning says why they do not."""
    from otkit.kernels.triton.launch import unfit

    reason = unfit(device)
    if reason:
        warnings.warn(f"the reference runs in place of Triton's kernels: {reason}", RuntimeWarning, stacklevel=2)
    return not reason


@cache
def lacking(*packages: str) -> str:
    """The first of the packages that is not installed; empty if all are."""
    return next((name for name in packages if find_spec(name) is None), "")


_CHOICES = ("auto", "numba", "triton", "reference")


def _asked() -> str:
    asked = os.environ.get("OTKIT_KERNELS", "auto")
    if asked not in _CHOICES:
        raise ValueError(
            f"the environment variable OTKIT_KERNELS must be 'auto', 'numba', 'triton' or 'reference', got {asked!r}; "
            "unset it for 'auto'"
        )
    return asked
