"""Operations whose rows are shared by the processes of a group of `torch.distributed`.

Every process makes the same calls with the same data. It computes the rows of an operation that are its own, and all
processes gather them; sums over rows are added up. Vectors are on every process, and no process has an n × m array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from otkit.arrays import Array, convert, is_tensor, namespace, renewed, to_numpy
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Moved
from otkit.entropic.sinkhorn import Swept, sweep_by
from otkit.geometry.base import Geometry
from otkit.geometry.dense import Dense
from otkit.geometry.points import PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import Sharing, shared_by, sharing
from otkit.kernels.numba.checksum import checksum
from otkit.kernels.table import Kernels

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Entries of a problem from which its rows are shared: below, messages take longer.
_WORTH = 2**16


@dataclass(frozen=True)
class _Group(Sharing):
    """A group of processes, the place of this one in it, and their number."""

    group: ProcessGroup | None
    rank: int
    count: int

    def kernels(self, alone: Kernels, geometry: Geometry) -> Kernels:
        if geometry.stored is not None or geometry.grid is not None:
            raise ValueError(
                f"costs that processes share must be a matrix or points, got {geometry!r}; "
                "pass one of these, or leave otkit.sharded"
            )
        return replace(
            alone,
            name=f"{alone.name} × {self.count}",
            softmin=partial(_softmin, alone),
            c_transform=partial(_c_transform, alone),
            transport_cost=partial(_transport_cost, alone),
            marginals=partial(_marginals, alone),
            apply_plan=partial(_apply_plan, alone),
            sweep=partial(_sweep, alone),
        )

    def check_same(self, *given: Array | None) -> None:
        marks = [0 if x is None else checksum(np.atleast_2d(to_numpy(x))) for x in given]
        own = np.array([[checksum(np.array([marks], dtype=np.uint64))]], dtype=np.uint64).view(np.int64)
        if (self.gathered(own, self.count) != own).any():
            raise ValueError(
                "processes that share a call must pass the same data, got others on some of them; "
                "seed their random numbers alike, or broadcast the data"
            )

    def part(self, n: int) -> slice:
        """The rows of this process, of n."""
        size = math.ceil(n / self.count)
        return slice(min(self.rank * size, n), min((self.rank + 1) * size, n))

    def gathered(self, own: Array, n: int) -> Array:
        """The n rows ``(B, n, …)`` of all processes, from those of this one ``(B, rows, …)``."""
        x = self._tensor(own)
        sent = x.new_zeros((x.shape[0], math.ceil(n / self.count), *x.shape[2:]))
        sent[:, : x.shape[1]] = x
        parts = [torch.empty_like(sent) for _ in range(self.count)]
        dist.all_gather(parts, sent, group=self.group)
        return self._like(torch.cat(parts, dim=1)[:, :n], own)

    def total(self, own: Array) -> Array:
        """The sum over the processes."""
        x = self._tensor(own).clone()
        dist.all_reduce(x, dist.ReduceOp.SUM, group=self.group)
        return self._like(x, own)

    def _tensor(self, x: Array) -> torch.Tensor:
        found = torch.as_tensor(x)
        return found.cuda() if dist.get_backend(self.group) == "nccl" else found

    @staticmethod
    def _like(x: torch.Tensor, like: Array) -> Array:
        return x.to(like.device) if is_tensor(like) else convert(x.cpu().numpy(), like)


@contextmanager
def within(group: ProcessGroup | None) -> Generator[None]:
    """A context in which the processes of a group share the rows of operations."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("sharded needs torch.distributed, got no initialised process group; call init_process_group")
    count = dist.get_world_size(group)
    if count < 1:
        raise ValueError("this process must belong to group, and does not; call only on the members of the group")
    with sharing(_Group(group, dist.get_rank(group), count)):
        yield


def _own(geometry: Geometry) -> tuple[_Group, slice, Geometry] | None:
    """The group, the rows of this process and their costs; None if the rows are not shared, as outside the context."""
    group = shared_by()
    if not isinstance(group, _Group) or geometry.n * geometry.m < _WORTH or geometry.n < group.count**2:
        return None  # with count² rows or more, each process has some
    part = group.part(geometry.n)
    return group, part, _rows(geometry, part)


def _rows(geometry: Geometry, part: slice) -> Geometry:
    """The costs of some rows."""
    if isinstance(geometry, Reduced):
        return replace(geometry, base=_rows(geometry.base, part), row=geometry.row[:, part])
    if isinstance(geometry, PointCloud):
        return renewed(geometry, x=geometry.x[:, part])
    assert isinstance(geometry, Dense)
    return renewed(geometry, C=geometry.C[:, part])


def _softmin(kernels: Kernels, geometry: Geometry, g: Array, log_b: Array, reg: Array) -> Array:
    return _by_rows(kernels.softmin, geometry, g, log_b, reg)


def _c_transform(kernels: Kernels, geometry: Geometry, g: Array) -> Array:
    return _by_rows(kernels.c_transform, geometry, g)


def _by_rows(operation: Callable[..., Array], geometry: Geometry, *columns: Array) -> Array:
    """An operation that has a number for each row, from vectors of the columns."""
    own = _own(geometry)
    if own is None:
        return operation(geometry, *columns)
    group, _, costs = own
    return group.gathered(operation(costs, *columns), geometry.n)


def _transport_cost(kernels: Kernels, geometry: Geometry, at: Potentials) -> Moved:
    own = _own(geometry)
    if own is None:
        return kernels.transport_cost(geometry, at)
    group, part, costs = own
    moved = kernels.transport_cost(costs, _at(at, part))
    sums = group.total(namespace(at.f).concat([moved.cost[:, None], moved.col], axis=1))
    return Moved(sums[:, 0], group.gathered(moved.row, geometry.n), sums[:, 1:])


def _marginals(kernels: Kernels, geometry: Geometry, at: Potentials) -> tuple[Array, Array]:
    moved = _transport_cost(kernels, geometry, at)
    return moved.row, moved.col


def _apply_plan(kernels: Kernels, geometry: Geometry, at: Potentials, v: Array, power: int = 0) -> Array:
    own = _own(geometry)
    if own is None:
        return kernels.apply_plan(geometry, at, v, power)
    group, part, costs = own
    return group.gathered(kernels.apply_plan(costs, _at(at, part), v, power), geometry.n)


def _at(at: Potentials, part: slice) -> Potentials:
    return replace(at, f=at.f[:, part], log_a=at.log_a[:, part])


def _sweep(kernels: Kernels, costs: Reduced, *arguments: Any) -> Swept:
    # The lists of entries that other sweeps visit are of all rows.
    if _own(costs) is None:
        return kernels.sweep(costs, *arguments)
    return sweep_by(partial(_softmin, kernels), costs, *arguments[:6])
