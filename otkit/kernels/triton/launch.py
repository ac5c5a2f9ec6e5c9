"""Launch of Triton kernels: costs as arguments, precision, shape of programs, and asynchronous reads."""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from otkit.geometry.base import Geometry
from otkit.geometry.costs import DIRECT_DIMENSIONS
from otkit.kernels.triton import math as kernels
from otkit.kernels.triton.math import Costs

Tensor = torch.Tensor

_GROUNDS = {"euclidean": kernels.EUCLIDEAN, "cityblock": kernels.CITYBLOCK, "cosine": kernels.COSINE}


def multiplies(geometry: Geometry) -> bool:
    """Whether costs in single precision are computed from products of points, by tensor cores."""
    cloud = geometry.cloud
    return cloud is not None and not cloud.metric.direct(cloud.d) and cloud.d > DIRECT_DIMENSIONS


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the host."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


# Least compute capability that the kernels compile for.
_OLDEST = (7, 5)


def unfit(device: int) -> str:
    """Why kernels do not run on a GPU, and what to do; empty if they do."""
    cuda: Any = torch.cuda
    if torch.version.hip is not None:
        return "GPUs of AMD are not supported"
    if cuda.get_device_capability(device) < _OLDEST:
        return f"the GPU must have compute capability {_OLDEST[0]}.{_OLDEST[1]} or later"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["clang", "gcc", "cc"]
    if not any(map(shutil.which, compilers)):
        return f"Triton needs a C compiler, and found none of {', '.join(compilers)}; install gcc, or set CC"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return f"Triton needs the headers of Python, and {header} is missing; install python3-dev"
    return ""


class Precision(NamedTuple):
    """The types of the differences in an exponent and of the exponentials."""

    difference: Any
    exponential: Any


SINGLE = Precision(tl.float32, tl.float32)
MIXED = Precision(tl.float64, tl.float32)
DOUBLE = Precision(tl.float64, tl.float64)


def kernel_costs(geometry: Geometry, precision: Precision = DOUBLE) -> Costs:
    """A flat geometry of tensors, as an argument of kernels with the given precision."""
    row, col, columns_first = geometry.offsets or (None, None, False)
    row, col = (v if v is None else v.contiguous() for v in (row, col))
    rest = (row, col, tl.constexpr(columns_first), geometry.n, geometry.m)
    C, cloud = geometry.matrix, geometry.cloud
    if C is not None:
        C = C if C.dtype in (torch.float32, torch.float64) else C.double()
        shared, down, across = C.stride()
        item = shared if C.shape[0] > 1 else 0
        unit = math.gcd(item, down, geometry.m, 16 // C.itemsize) if across == 1 and C.data_ptr() % 16 == 0 else 1
        strides = item, down, across, tl.constexpr(unit)
        return Costs(kernels.DENSE, C, *strides, None, None, 0, 0, 0, tl.constexpr(1.0), *rest)
    assert cloud is not None
    kind, points = _GROUNDS[cloud.metric.ground], cloud
    if precision is SINGLE:  # centred first, or a common offset takes all digits
        points = cloud.centred()
        if multiplies(cloud):
            kind = kernels.COSINE_PRODUCT if cloud.metric.ground == "cosine" else kernels.PRODUCT
    x, y = (v.transpose(1, 2).contiguous() for v in (points.x, points.y))
    if precision is SINGLE:
        x, y = x.float(), y.float()
    x_item, y_item = (v.shape[1] * v.shape[2] if v.shape[0] > 1 else 0 for v in (x, y))
    power = tl.constexpr(float(cloud.metric.exponent))
    return Costs(kind, None, 0, 0, 0, tl.constexpr(1), x, y, x_item, y_item, cloud.d, power, *rest)


class Shape(NamedTuple):
    """Rows and columns of the tiles of a program, and its warps."""

    rows: int
    cols: int
    warps: int


# Multiprocessors of a large GPU, and number of programs that keep it busy.
_PROCESSORS = 132
BUSY = 2 * _PROCESSORS
# In the interpreter, the overhead of a tile costs as much as a few thousand entries.
_INTERPRETED = Shape(32, 64, 4)


def processors(like: Tensor) -> int:
    """The number of multiprocessors of the GPU of a tensor, or that of a large one for tensors of the host."""
    if not like.is_cuda:
        return _PROCESSORS
    cuda: Any = torch.cuda
    return int(cuda.get_device_properties(like.device).multi_processor_count)


def shape(n: int, items: int, precision: Precision) -> Shape:
    """The shape of programs that process the rows of `items` problems tile by tile."""
    if interpreted():
        return _INTERPRETED
    many = n * items >= 32 * BUSY
    if precision is SINGLE:
        return Shape(32, 128, 8) if many else Shape(16, 128, 8)  # products need 16 rows
    return Shape(16, 64, 4) if many else Shape(8, 64, 4)


def programs(n: int, items: int, form: Shape) -> tuple[int]:
    """The grid: the blocks of rows of one item after another, along the only axis on which more than 65,535 may lie."""
    return (items * triton.cdiv(n, form.rows),)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    like: Tensor,
    warps: int,
    registers: int | None = None,
    fused: bool = True,
) -> None:
    """Run a kernel on the device of a tensor.

    `registers` limits the registers of a thread. `fused` allows fused multiply-add, which rounds once.
    """
    cuda: Any = torch.cuda
    with cuda.device_of(like):
        kernel[grid](*args, num_warps=warps, maxnreg=registers, enable_fp_fusion=fused)


def room(like: Tensor) -> float:
    """Bytes that new tensors on the device of a tensor may take: free there, or kept free by torch."""
    if not like.is_cuda:
        return math.inf
    cuda: Any = torch.cuda
    free, _ = cuda.mem_get_info(like.device)
    return float(free + cuda.memory_reserved(like.device) - cuda.memory_allocated(like.device))


class DelayedRead:
    """Asynchronous read of a device scalar: each call returns the previous value and starts copying the current one.

    Parameters
    ----------
    number : callable
        Returns a tensor with one number.
    """

    def __init__(self, number: Callable[[], Tensor]) -> None:
        self.number = number
        self.before: tuple[Tensor, Any] | None = None

    def __call__(self) -> int | None:
        """The value at the time of the previous call; None at the first call."""
        before, self.before = self.before, self._ask()
        if before is None:
            return None
        copy, event = before
        if event is not None:
            event.synchronize()
        return int(copy)

    def _ask(self) -> tuple[Tensor, Any]:
        now = self.number()
        if not now.is_cuda:
            return now.clone(), None
        cuda: Any = torch.cuda
        with cuda.device_of(now):  # pinned memory belongs to the context of a device too
            copy = torch.empty(now.shape, dtype=now.dtype, pin_memory=True)
            copy.copy_(now, non_blocking=True)
            event = cuda.Event()
            event.record()
        return copy, event


def follow(
    step: Callable[[int], None], ended: Callable[[], Tensor], limit: int, chunk: int, first: int | None = None
) -> bool:
    """Enqueue at most `limit` steps, until a check finds that they have ended; returns whether it did.

    `ended` returns a number on the device, 0 while steps continue. It is checked once per chunk of steps, with a delay
    of one chunk. The `first` chunk may be shorter; each is then twice as long as the one before, up to `chunk`.
    """
    read = DelayedRead(ended)
    done, size = 0, chunk if first is None else first
    while done < limit:
        for number in range(done, min(done + size, limit)):
            step(number)
        if read():
            return True
        done, size = done + size, min(2 * size, chunk)
    return False


def solid(x: Any, items: int) -> Tensor:
    """A vector for each item, contiguous and in float64."""
    return x.double().expand(items, *x.shape[1:]).contiguous()
