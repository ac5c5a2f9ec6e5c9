"""How Triton kernels are launched: the costs as they take them, the precision, and the shape of a program."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from otkit.geometry import Dense, PointCloud
from otkit.geometry.base import Geometry, Reduced
from otkit.kernels import triton_math as kernels
from otkit.kernels.triton_math import Costs

Tensor = torch.Tensor

_GROUNDS = {"euclidean": kernels.EUCLIDEAN, "cityblock": kernels.CITYBLOCK, "cosine": kernels.COSINE}


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the host."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def kernel_costs(geometry: Geometry) -> Costs:
    """A flat geometry of tensors, as kernels take it."""
    base: Any = geometry
    offsets: tuple[Tensor | None, Tensor | None, bool] = (None, None, False)
    if isinstance(geometry, Reduced):
        base = geometry.base
        offsets = geometry.row.contiguous(), geometry.col.contiguous(), geometry.turned
    rest = (offsets[0], offsets[1], tl.constexpr(offsets[2]), geometry.n, geometry.m)
    if isinstance(base, Dense):
        C = base.C if base.C.dtype in (torch.float32, torch.float64) else base.C.double()
        shared, down, across = C.stride()
        item = shared if C.shape[0] > 1 else 0
        return Costs(kernels.DENSE, C, item, down, across, None, None, 0, 0, 0, tl.constexpr(1.0), *rest)
    assert isinstance(base, PointCloud)
    x, y = (v.transpose(1, 2).contiguous() for v in (base.x, base.y))
    x_item, y_item = (v.shape[1] * v.shape[2] if v.shape[0] > 1 else 0 for v in (x, y))
    # The sum over coordinates is of squares but for "cityblock"; that of a "cosine" is twice its distance.
    power = base.metric.power / 2 if base.metric.ground == "euclidean" else base.metric.power
    kind = _GROUNDS[base.metric.ground]
    return Costs(kind, None, 0, 0, 0, x, y, x_item, y_item, base.d, tl.constexpr(float(power)), *rest)


class Precision(NamedTuple):
    """The types of the differences in an exponent and of the exponentials."""

    difference: Any
    exponential: Any


SINGLE = Precision(tl.float32, tl.float32)
MIXED = Precision(tl.float64, tl.float32)
DOUBLE = Precision(tl.float64, tl.float64)


class Shape(NamedTuple):
    """Rows and columns of the tiles of a program, and its warps."""

    rows: int
    cols: int
    warps: int


# Programs that keep a GPU busy: two for each of its multiprocessors, of which the largest have about 130.
_BUSY = 264
# In the interpreter a tile takes as long as a few thousand entries.
_INTERPRETED = Shape(32, 64, 4)


def shape(n: int, items: int, precision: Precision) -> Shape:
    """The shape of programs that go through the rows of `items` problems tile by tile."""
    if interpreted():
        return _INTERPRETED
    cols = 64 if precision is DOUBLE else 128
    return Shape(32, cols, 8) if n * items >= 32 * _BUSY else Shape(8, cols, 4)


def programs(n: int, items: int, form: Shape) -> tuple[int, int]:
    """The grid: blocks of rows, and items."""
    return triton.cdiv(n, form.rows), items


def solid(x: Any, items: int) -> Tensor:
    """A vector of each item, contiguous and in float64."""
    return x.double().expand(items, *x.shape[1:]).contiguous()
