"""Sparse linear systems on a GPU: conjugate gradients whose iterations do not wait for the host.

An iteration consists of three kernels. Each program of the next kernel adds up all partial sums itself, in the same
order, so that all programs agree and results are deterministic. The host enqueues kernels before it knows whether they
are needed. Kernels do nothing once the state says that iterations have ended. No kernel writes data that another of its
programs or threads may still read.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch.utils.dlpack import from_dlpack

from otkit.arrays import from_numpy, to_numpy
from otkit.kernels.triton.graphs import Repeated
from otkit.kernels.triton.launch import Tensor, follow, interpreted, launch
from otkit.linalg.cg import Memory, Schur, Solution
from otkit.linalg.sparse import Coupling, Scaling, Sparse, kept_entries

# State of the iteration.
_RUNNING, _SOLVED, _BROKEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# Number of partial sums that are added at a time. Buffers are padded with zeros to a multiple of it.
_PARTS = tl.constexpr(256)
# Entries of the matrix per program at a time. Minimum elements of vectors per program, and maximum number of programs.
_ENTRIES, _ELEMENTS, _PROGRAMS = 1024, 1024, 256
# Iterations between two checks of the state, at first and later. Each check reads the state as of the check before.
_FIRST, _CHUNK = 4, 8
_WARPS = 4


class Rows(NamedTuple):
    """A sparse matrix by rows (CSR) of tensors, a member of `otkit.linalg.sparse.Sparse` and an argument of kernels.

    ``data (K,)`` has the entries and ``indices (K,)`` their columns. The entries of row i begin at ``indptr[i]``.
    """

    data: Any
    indices: Any
    indptr: Any
    n: Any
    m: Any

    @staticmethod
    def of(arcs: Coupling, shape: tuple[int, int]) -> Rows:
        """The matrix of entries in row order."""
        rows, cols, values = arcs
        starts = torch.searchsorted(rows.contiguous(), torch.arange(shape[0] + 1, device=rows.device))
        return Rows(values.double().contiguous(), cols.int().contiguous(), starts, *shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.m

    @property
    def block(self) -> tuple[int, int]:
        """Rows per program, and entries of each row at a time: about the mean number of entries of a row."""
        if interpreted():
            return 64, 16
        width = min(128, max(8, triton.next_power_of_2(self.data.shape[0] // self.n)))
        return _ENTRIES // width, width

    @property
    def programs(self) -> int:
        return triton.cdiv(self.n, self.block[0])

    def power(self, n: int) -> Rows:
        """The elementwise power."""
        return self._replace(data=self.data**n)

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        out = torch.empty(self.n, dtype=torch.float64, device=self.data.device)
        args = self, from_numpy(v, self.data), out, *self.block
        launch(_multiply, (self.programs,), *args, like=out, warps=_WARPS)
        return to_numpy(out)


def compressed(arcs: Coupling, shape: tuple[int, int]) -> Sparse:
    """The matrix of distinct entries in row order, on the GPU."""
    rows, cols, values = (from_dlpack(x) for x in arcs)
    transposed, order = torch.sort(cols, stable=True)
    return Sparse(Rows.of((rows, cols, values), shape), Rows.of((transposed, rows[order], values[order]), shape[::-1]))


def sparsified(rows: Sparse, by: Scaling) -> tuple[Sparse, float]:
    """As `otkit.linalg.sparse.sparsified`, on the device."""
    arcs, mass = kept_entries(rows, by)
    return compressed(arcs, rows.T.shape), mass


@triton.jit
def _row_sums(T, i, v, more, factor, BK: tl.constexpr):
    """Products of rows ``i`` with ``v + factor·more``, or with ``v`` if ``more`` is None."""
    inside = i < T.n
    first = tl.load(T.indptr + i, mask=inside, other=0)
    end = tl.load(T.indptr + i + 1, mask=inside, other=0)
    total = tl.zeros((i.shape[0], BK), tl.float64)
    for step in range(0, tl.max(end - first, 0).to(tl.int32), BK):
        k = first[:, None] + (step + tl.arange(0, BK))[None, :]
        mask = k < end[:, None]
        j = tl.load(T.indices + k, mask=mask, other=0)
        x = tl.load(v + j, mask=mask, other=0.0)
        if more is not None:
            x += factor * tl.load(more + j, mask=mask, other=0.0)
        total += tl.load(T.data + k, mask=mask, other=0.0) * x
    return tl.sum(total, 1)


@triton.jit
def _multiply(T, v, out, BM: tl.constexpr, BK: tl.constexpr):
    """The product of T and v."""
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    tl.store(out + i, _row_sums(T, i, v, None, 0.0, BK), mask=i < T.n)


class System(NamedTuple):
    """The arrays of an iteration, for m unknowns.

    Attributes
    ----------
    y, residual, diagonal : array (m,)
    scaled : array (m,)
        The residual divided by the diagonal.
    image : array (m,)
        The matrix times the direction.
    middle : array (n,)
        T times the direction.
    curvatures : array (parts,)
        Partial sums of direction·image.
    numbers : array (3,)
        ``square``, the residual to reach, and the coefficient of the last direction in the next.
    state : array (3,)
        The state after `_ahead`, the state after `_step`, and the number of steps.
    parts : int
        The length of `curvatures`.
    sums : int
        The length of each row of the partial sums ``(2, sums)`` of residual·residual and residual·scaled. These and the
        direction are double-buffered.
    """

    y: Any
    residual: Any
    diagonal: Any
    scaled: Any
    image: Any
    middle: Any
    curvatures: Any
    numbers: Any
    state: Any
    parts: Any
    sums: Any


@triton.jit
def _total(parts, count):
    """Sum of all parts."""
    k = tl.arange(0, _PARTS)
    total = tl.zeros((_PARTS,), tl.float64)
    for first in range(0, count, _PARTS):
        total += tl.load(parts + first + k)
    return tl.sum(total, 0)


@triton.jit
def _ahead(T, system, direction, now, before, BM: tl.constexpr, BK: tl.constexpr):
    """T times the next direction, and the coefficient of this direction in it; or the end of the iteration."""
    program = tl.program_id(0)
    state = tl.load(system.state + 1)
    if state == _RUNNING:
        size, goal = tl.sqrt(_total(now, system.sums)), tl.load(system.numbers + 1)
        finite = size < float("inf")
        if finite & (size > goal):
            share = _total(now + system.sums, system.sums) / _total(before + system.sums, system.sums)
            if program == 0:
                tl.store(system.numbers + 2, share)
            i = program * BM + tl.arange(0, BM)
            tl.store(system.middle + i, _row_sums(T, i, system.scaled, direction, share, BK), mask=i < T.n)
        else:
            state = tl.where(finite, _SOLVED, _BROKEN)
    if program == 0:
        tl.store(system.state, state)


@triton.jit
def _back(transposed, system, direction, following, BM: tl.constexpr, BK: tl.constexpr):
    """The next direction, its image and their inner product."""
    if tl.load(system.state) == _RUNNING:
        program = tl.program_id(0)
        j = program * BM + tl.arange(0, BM)
        inside = j < transposed.n
        p = tl.load(system.scaled + j, mask=inside, other=0.0)
        p += tl.load(system.numbers + 2) * tl.load(direction + j, mask=inside, other=0.0)
        image = tl.load(system.numbers) * p - _row_sums(transposed, j, system.middle, None, 0.0, BK)
        tl.store(following + j, p, mask=inside)
        tl.store(system.image + j, image, mask=inside)
        tl.store(system.curvatures + program, tl.sum(p * image, 0))


@triton.jit
def _step(system, direction, now, after, m, BLOCK: tl.constexpr):
    """The step along the direction that makes the residual orthogonal to it; or the end of the iteration."""
    program = tl.program_id(0)
    state = tl.load(system.state)
    if state == _RUNNING:
        curvature = _total(system.curvatures, system.parts)
        known = (curvature < 0) | (curvature > 0)
        length = _total(now + system.sums, system.sums) / tl.where(known, curvature, 1.0)
        if known & (tl.abs(length) < float("inf")):
            j = program * BLOCK + tl.arange(0, BLOCK)
            inside = j < m
            y = tl.load(system.y + j, mask=inside, other=0.0)
            residual = tl.load(system.residual + j, mask=inside, other=0.0)
            y += length * tl.load(direction + j, mask=inside, other=0.0)
            residual -= length * tl.load(system.image + j, mask=inside, other=0.0)
            scaled = residual / tl.load(system.diagonal + j, mask=inside, other=1.0)
            tl.store(system.y + j, y, mask=inside)
            tl.store(system.residual + j, residual, mask=inside)
            tl.store(system.scaled + j, scaled, mask=inside)
            tl.store(after + program, tl.sum(residual * residual, 0))
            tl.store(after + system.sums + program, tl.sum(residual * scaled, 0))
            if program == 0:
                tl.store(system.state + 2, tl.load(system.state + 2) + 1)
        else:
            state += _BROKEN
    if program == 0:
        tl.store(system.state + 1, state)


def conjugate_gradients(
    matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int, memory: Memory | None = None
) -> Solution:
    """As `otkit.linalg.cg.conjugate_gradients`, for a matrix whose T is `Rows`; `memory` is not used."""
    T, transposed, m = matrix.T, matrix.transposed, rhs.size
    width = max(_ELEMENTS, triton.next_power_of_2(triton.cdiv(m, _PROGRAMS)))
    programs = triton.cdiv(m, width)
    system, sums, directions = _begin(matrix, rhs, start, rtol, programs)

    def run(kernel: Any, programs: int, *args: Any) -> None:
        launch(kernel, (programs,), *args, like=system.y, warps=_WARPS)

    def iterate(here: int) -> None:
        there = 1 - here
        run(_back, transposed.programs, transposed, system, directions[here], directions[there], *transposed.block)
        run(_step, programs, system, directions[there], sums[here], sums[there], m, width)
        run(_ahead, T.programs, T, system, directions[there], sums[there], sums[here], *T.block)

    run(_ahead, T.programs, T, system, directions[0], sums[0], sums[1], *T.block)
    with Repeated(partial(iterate, 0), system.y) as even, Repeated(partial(iterate, 1), system.y) as odd:
        follow(lambda count: (odd if count % 2 else even)(), lambda: system.state[0], limit, _CHUNK, _FIRST)
    state, _, steps = to_numpy(system.state)
    return Solution(to_numpy(system.y), int(steps), bool(state == _SOLVED.value))


def _begin(
    matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, programs: int
) -> tuple[System, Tensor, Tensor]:
    """The initial system, with buffers for sums of `programs` parts and for directions, as after a step.

    The sums of this fictitious step are infinite, so its direction has the coefficient 0 in the first one.
    """
    n, m = matrix.T.shape
    residual = rhs - matrix @ start if start.any() else rhs
    scaled = residual / matrix.diagonal
    parts, room = (_PARTS.value * triton.cdiv(count, _PARTS.value) for count in (matrix.transposed.programs, programs))
    sums = np.zeros((2, 2, room))
    sums[:, :, 0] = (residual @ residual, residual @ scaled), (np.inf, np.inf)
    numbers = np.array([matrix.square, rtol * np.linalg.norm(rhs), 0.0])
    y, residual, diagonal, scaled, numbers, sums = (
        from_numpy(x, matrix.T.data) for x in (start.copy(), residual.copy(), matrix.diagonal, scaled, numbers, sums)
    )
    image, middle = (torch.empty(size, dtype=sums.dtype, device=sums.device) for size in (m, n))
    curvatures, directions = (torch.zeros(size, dtype=sums.dtype, device=sums.device) for size in (parts, (2, m)))
    state = torch.zeros(3, dtype=torch.int32, device=sums.device)
    system = System(
        y=y,
        residual=residual,
        diagonal=diagonal,
        scaled=scaled,
        image=image,
        middle=middle,
        curvatures=curvatures,
        numbers=numbers,
        state=state,
        parts=parts,
        sums=room,
    )
    return system, sums, directions
