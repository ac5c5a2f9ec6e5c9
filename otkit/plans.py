"""Parts of a plan: entropic potentials, or a list of arcs. A plan is the sum of a few such parts."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from otkit.arrays import Array, exp, from_numpy, log, namespace, to_numpy
from otkit.entropic.dual import Potentials
from otkit.entropic.operations import Moved
from otkit.geometry.base import Geometry
from otkit.kernels import Kernels


class Plan(ABC):
    """Mass moved between n rows and m columns, for each item of one batch axis."""

    @property
    @abstractmethod
    def T(self) -> Plan:
        """The transposed plan."""

    @abstractmethod
    def dense(self, *, single: bool = False) -> Array:
        """The matrix: ``(B, n, m)``, in float32 where `single`."""

    @abstractmethod
    def apply(self, v: Array) -> Array:
        """Σ_j P_ij v_j for ``v (B, m, k)``: ``(B, n, k)``."""

    @abstractmethod
    def marginals(self) -> tuple[Array, Array]:
        """Row sums ``(B, n)`` and column sums ``(B, m)``."""

    @abstractmethod
    def arcs(self, drop: float) -> Arcs:
        """The entries of the plan, without at most a fraction `drop` of the weight of every row."""


@dataclass(frozen=True)
class Arcs:
    """Entries of plans: item, row, column and mass, NumPy arrays ``(K,)``."""

    item: np.ndarray
    row: np.ndarray
    col: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class EntropicPlan(Plan):
    """The plan exp((f_i + g_j − C_ij)/reg + log a_i + log b_j)."""

    geometry: Geometry
    at: Potentials
    kernels: Kernels

    @property
    def T(self) -> EntropicPlan:
        return EntropicPlan(self.geometry.T, self.at.T, self.kernels)

    @cached_property
    def moved(self) -> Moved:
        """⟨C, P⟩ and the marginals, computed in one pass for both the error and the value."""
        return self.kernels.transport_cost(self.geometry, self.at)

    def dense(self, *, single: bool = False) -> Array:
        return self.kernels.plan(self.geometry, self.at, single=single)

    def apply(self, v: Array) -> Array:
        return self.kernels.apply_plan(self.geometry, self.at, v)

    def marginals(self) -> tuple[Array, Array]:
        return self.moved.row, self.moved.col

    def arcs(self, drop: float) -> Arcs:
        # In a row of weight a, the m entries below drop·a/m sum to at most drop·a.
        threshold = self.at.log_a + log(namespace(self.at.f).full_like(self.at.f, drop / self.geometry.m))
        every = namespace(self.at.g).full_like(self.at.g, np.inf)
        found = self.kernels.select(self.geometry, self.at, threshold, every, np.inf)
        assert found is not None
        return Arcs(to_numpy(found.item), to_numpy(found.row), to_numpy(found.col), to_numpy(exp(found.log_plan)))


@dataclass(frozen=True)
class SparsePlan(Plan):
    """A plan given by its arcs. Masses may be negative where the part corrects another one."""

    shape: tuple[int, int, int]
    entries: Arcs
    like: Array

    @property
    def T(self) -> SparsePlan:
        items, n, m = self.shape
        e = self.entries
        return SparsePlan((items, m, n), Arcs(e.item, e.col, e.row, e.mass), self.like)

    def dense(self, *, single: bool = False) -> Array:
        plan = np.zeros(self.shape, dtype=np.float32 if single else np.float64)
        np.add.at(plan, (self.entries.item, self.entries.row, self.entries.col), self.entries.mass)
        return from_numpy(plan, self.like)

    def apply(self, v: Array) -> Array:
        e = self.entries
        moved = np.zeros((*self.shape[:2], v.shape[-1]))
        np.add.at(moved, (e.item, e.row), e.mass[:, None] * to_numpy(v)[e.item, e.col])
        return from_numpy(moved, self.like)

    def marginals(self) -> tuple[Array, Array]:
        e, (items, n, m) = self.entries, self.shape
        rows, cols = (
            np.bincount(e.item * size + k, weights=e.mass, minlength=items * size).reshape(items, size)
            for k, size in ((e.row, n), (e.col, m))
        )
        return from_numpy(rows, self.like), from_numpy(cols, self.like)

    def arcs(self, drop: float) -> Arcs:
        return self.entries


Parts = Sequence[Plan]


def apply(parts: Parts, v: Array) -> Array:
    """Σ_j P_ij v_j of the sum of the parts, for ``v (B, m, k)``: ``(B, n, k)``."""
    return add([part.apply(v) for part in parts])


def marginals(parts: Parts) -> tuple[Array, Array]:
    """Row and column sums of the sum of the parts."""
    rows, cols = zip(*(part.marginals() for part in parts), strict=True)
    return add(rows), add(cols)


def add(arrays: Sequence[Array]) -> Array:
    """Sum of the arrays."""
    return reduce(operator.add, arrays)


def add_arcs(parts: list[Arcs], shape: tuple[int, int, int]) -> Arcs:
    """The arcs of a sum of plans, in row order and without duplicates; sums that are not positive are dropped."""
    item, row, col, mass = (np.concatenate([getattr(p, k) for p in parts]) for k in ("item", "row", "col", "mass"))
    key, where = np.unique(np.ravel_multi_index((item, row, col), shape), return_inverse=True)
    total = np.bincount(where, weights=mass, minlength=key.size)
    key, total = key[total > 0], total[total > 0]
    item, row, col = np.unravel_index(key, shape)
    return Arcs(item, row, col, total)
