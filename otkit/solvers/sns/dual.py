"""Points of the dual of one item, and the entries of the plan that matter near them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.entropic.anderson import Mixing
from otkit.entropic.sparsity import FAR, Listed, left_out, thresholds
from otkit.linalg.sparse import Scaling, Sparse
from otkit.problems.linear import LinearProblem

# A plan is dense, and sweeps are cheaper, if it has more entries than this fraction of all and than this number.
_DENSE, _ALWAYS = 1 / 4, 2**17


class Point(NamedTuple):
    """A point g of the dual of one item, and quantities from one pass over the costs.

    Attributes
    ----------
    f, g : array (1, n), (1, m)
        The potentials, in the library of the problem.
    error : float
    masses, target : numpy array (m,)
        The masses of the columns, and the optimal masses at g.
    following : array (1, m)
        g after a sweep.
    listed : Entries, optional
        The entries by which nearby points can be evaluated.
    """

    f: Array
    g: Array
    error: float
    masses: np.ndarray
    target: np.ndarray
    following: Array
    listed: Entries | None

    @property
    def gradient(self) -> np.ndarray:
        return self.target - self.masses


def evaluate(part: LinearProblem, f: Array, g: Array, reg: Array, goal: float, listed: Entries | None = None) -> Point:
    """The point g of the dual, by one iteration from it or, if valid there, by the `listed` entries; `f` is a guess."""
    if listed is not None and listed.reaches(g, reg):
        return listed.evaluate(part, g, reg)
    penalties = replace(part.penalties, shifts=False)
    once = from_numpy(np.ones(1), g)
    swept = part.kernels.sweep(
        part.reduced, part.at(f, g, reg), penalties, Mixing.begin(g, once, 0), -goal * once, once, 1
    )
    b, col, here, after = (to_numpy(v)[0] for v in (part.b, part.reduced.col, g, swept.point))
    keep = float(penalties.keep(reg)[1][0])
    # The update was keep·(g − reg·log(c/b)) − (1 − keep)·col.
    ratio = (here - (after + (1 - keep) * col) / keep) / float(reg[0]) if keep else np.zeros_like(here)
    target = to_numpy(penalties.target(part.b, g + part.reduced.col, penalties.rho_b))[0]
    masses = np.where(b > 0, b * np.exp(np.minimum(ratio, 700.0)), 0.0)
    visited = None if swept.listed is None else swept.listed[0]
    listed = visited and Entries.handed(part, visited, reg)
    return Point(
        f=swept.f, g=g, error=float(swept.error[0]), masses=masses, target=target, following=swept.point, listed=listed
    )


class Entries(NamedTuple):
    """The entries of the plan at a point that matter near it; they evaluate nearby points of the dual.

    Attributes
    ----------
    f, g : array (1, n), (1, m)
        The point.
    row_masses : numpy array (n,)
    rows : Sparse
        The entries relative to the masses of their rows.
    """

    f: Array
    g: Array
    row_masses: np.ndarray
    rows: Sparse

    @staticmethod
    def of(part: LinearProblem, at: Point, reg: Array, goal: float) -> Entries | None:
        """The entries that matter for the tolerance `goal`; None if there are too many."""
        shape = part.reduced.n, part.reduced.m
        least = thresholds(left_out(goal), row_masses(part, at.f), at.masses, shape)
        return Entries._select(part, at, reg, least, max(_ALWAYS, _DENSE * shape[0] * shape[1]))

    @staticmethod
    def largest(part: LinearProblem, at: Point, reg: Array, keep: float) -> Entries:
        """The largest entries, a fraction `keep` of all."""
        entries = to_numpy(part.kernels.plan(part.reduced, part.at(at.f, at.g, reg))).reshape(-1)
        count = max(1, int(keep * entries.size))
        threshold = log_of(np.partition(entries, -count)[-count]) - 1e-12
        least = np.full(part.reduced.n, threshold), np.full(part.reduced.m, threshold)
        found = Entries._select(part, at, reg, least, np.inf)
        assert found is not None
        return found

    @staticmethod
    def _select(
        part: LinearProblem, at: Point, reg: Array, least: tuple[np.ndarray, np.ndarray], limit: float
    ) -> Entries | None:
        rows, cols = (from_numpy(v[None], at.g) for v in least)
        entries = part.kernels.select(part.reduced, part.at(at.f, at.g, reg), rows, cols, limit)
        if entries is None:
            return None
        masses = row_masses(part, at.f)
        xp, lengths = namespace(entries.log_plan), from_numpy(log_of(masses), entries.log_plan)
        with np.errstate(over="ignore"):  # where potentials are far off; no step follows
            values = xp.exp(entries.log_plan - xp.take(lengths, entries.row, axis=0))
        shape = part.reduced.n, part.reduced.m
        return Entries(at.f, at.g, masses, part.kernels.compressed((entries.row, entries.col, values), shape))

    @staticmethod
    def handed(part: LinearProblem, listed: Listed, reg: Array) -> Entries:
        """The entries that a sweep listed."""
        from scipy.sparse import csr_array

        sigma, g = (from_numpy(v[None], part.a) for v in (listed.sigma, listed.g))
        keep = part.penalties.keep(reg)[0]
        f = keep * sigma - (1 - keep) * part.reduced.row
        T = csr_array((listed.values, listed.cols, listed.ends), shape=(part.reduced.n, part.reduced.m))
        return Entries(f, g, row_masses(part, f), Sparse(T, T.T))

    def reaches(self, g: Array, reg: Array) -> bool:
        """Whether the entries are also the ones that matter at ``g (1, m)``."""
        return float(namespace(g).max(abs(g - self.g))) <= FAR * float(reg[0])

    def evaluate(self, part: LinearProblem, g: Array, reg: Array) -> Point:
        """The point g of the dual, by these entries; see the function `evaluate`."""
        keep_a, keep_b = (float(keep[0]) for keep in part.penalties.keep(reg))
        scale = float(reg[0])
        moves = np.exp(to_numpy(g - self.g)[0] / scale)
        total = self.rows.T @ moves
        total = np.where(total > 0, total, 1.0)  # rows without mass have no entries
        f = self.f - from_numpy(keep_a * scale * np.log(total)[None], g)
        masses = moves * (self.rows.transposed @ (self.row_masses / total**keep_a))
        b, col, here = (to_numpy(v)[0] for v in (part.b, part.reduced.col, g))
        target = to_numpy(part.penalties.target(part.b, g + part.reduced.col, part.penalties.rho_b))[0]
        used = masses > 0
        ratio = log_of(np.where(used, masses / np.where(used, b, 1.0), 1.0))
        following = np.where(used, keep_b * (here - scale * ratio) - (1 - keep_b) * col, here)
        error = 2 * float(abs(masses - target).sum() / (to_numpy(part.a).sum() + b.sum()))
        return Point(
            f=f, g=g, error=error, masses=masses, target=target, following=from_numpy(following[None], g), listed=self
        )

    def scaled(
        self, part: LinearProblem, at: Point, reg: Array, halves: list[np.ndarray], drop: float
    ) -> SparseHessian:
        """The plan at another point, scaled by `halves`, without at most a fraction `drop` of each row and column."""
        f, g = (np.exp(to_numpy(to - of)[0] / float(reg[0])) for to, of in ((at.f, self.f), (at.g, self.g)))
        rows, cols = thresholds(drop, row_masses(part, at.f), at.masses, self.rows.T.shape)
        matrix, mass = part.kernels.sparsified(
            self.rows, Scaling(f * self.row_masses, g, np.exp(rows), np.exp(cols), *halves)
        )
        total = float(at.masses.sum())  # 0 where penalties are far below the costs
        return SparseHessian(matrix, max(0.0, 1 - mass / total) if total > 0 else 0.0)


class SparseHessian(NamedTuple):
    """The scaled entries of the plan that a Newton step keeps, and the fraction of the mass in the dropped ones."""

    matrix: Sparse
    dropped: float

    @property
    def kept(self) -> int:
        return self.matrix.T.data.shape[0]


def row_masses(part: LinearProblem, f: Array) -> np.ndarray:
    """Optimal masses of the rows at ``f (1, n)``, which are the actual ones."""
    return to_numpy(part.penalties.target(part.a, f + part.reduced.row, part.penalties.rho_a))[0]


def log_of(x: np.ndarray | float) -> np.ndarray:
    """log x with log 0 = −inf, in NumPy."""
    with np.errstate(divide="ignore"):
        return np.log(x)
