"""Costs with one more row and one more column, for mass that is left where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, renewed
from otkit.geometry.base import GivenGeometry, costs_along, flatten_batch, shared
from otkit.geometry.dense import Dense


@dataclass(frozen=True)
class Bordered(GivenGeometry):
    """Costs between n + 1 and m + 1 points: those of another geometry, and of a last row and a last column.

    The last column takes mass that the rows keep, and the last row gives what the columns lack. No matrix is formed.

    Attributes
    ----------
    inner : GivenGeometry
        The costs between the n and m points.
    edges : tuple of numpy array (..., n or 1), (..., m or 1) and (..., 1)
        The costs to the last column, from the last row, and of their corner. One number is for all rows or columns.
    """

    inner: GivenGeometry
    edges: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(np.broadcast_shapes(self.inner.batch, *(v.shape[:-1] for v in self.edges)))

    @property
    def n(self) -> int:
        return self.inner.n + 1

    @property
    def m(self) -> int:
        return self.inner.m + 1

    @property
    def T(self) -> Bordered:
        right, below, corner = self.edges
        return renewed(self, inner=self.inner.T, edges=(below, right, corner))

    @property
    def arrays(self) -> dict[str, Array]:
        return self.inner.arrays

    @property
    def rounding(self) -> tuple[float, float]:
        return self.inner.rounding  # the other costs are exact by definition

    @property
    def matrix(self) -> None:
        return None

    @property
    def cloud(self) -> None:
        return None

    @property
    def stored(self) -> None:
        return None

    @property
    def grid(self) -> None:
        return None

    @property
    def bordered(self) -> Bordered:
        return self

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return self.inner.called

    @property
    def non_negative(self) -> bool:
        return self.inner.non_negative and all(bool((v >= 0).all()) for v in self.edges)

    @property
    def undefined(self) -> str:
        return self.inner.undefined

    @property
    def may_forbid(self) -> bool:
        return self.inner.may_forbid

    @property
    def convex_on_line(self) -> bool:
        return False

    def check(self) -> None:
        self.inner.check()

    def detached(self) -> Bordered:
        return renewed(self, inner=self.inner.detached())

    def owned(self) -> Bordered:
        return renewed(self, inner=self.inner.owned())

    def hosted(self) -> Bordered:
        return renewed(self, inner=self.inner.hosted())

    def flat(self, batch: tuple[int, ...]) -> Bordered:
        return renewed(self, inner=self.inner.flat(batch), edges=tuple(flatten_batch(v, batch, 1) for v in self.edges))

    def block(self, items: slice, rows: slice) -> Array:
        return self.tile(items, rows, self.inner.block)

    def tile(self, items: slice, rows: slice, inside: Callable[[slice, slice], Array]) -> Array:
        """A tile of the costs, made of one of the inner ones: ``inside(items, rows)``."""
        edges = [v[shared(items, len(v))] for v in self.edges]
        some = range(*rows.indices(self.n))
        within = slice(some.start, min(some.stop, self.n - 1), some.step)
        above = inside(items, within)
        xp = namespace(above)
        right, below, corner = (from_numpy(v[:, None, :], above) for v in edges)
        if right.shape[2] > 1:
            right = right[:, :, within]
        right = xp.matrix_transpose(right)
        count = max(above.shape[0], *map(len, edges))
        above = xp.broadcast_to(above, (count, *above.shape[1:]))
        parts = [xp.concat([above, xp.broadcast_to(right, (count, above.shape[1], 1))], axis=2)]
        if some and some[-1] == self.n - 1:
            last = [xp.broadcast_to(below, (count, 1, self.m - 1)), xp.broadcast_to(corner, (count, 1, 1))]
            parts.append(xp.concat(last, axis=2))
        return xp.concat(parts, axis=1)

    def along(self, item: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """The costs of single arcs of an item, on the host: ``(K,)``."""
        last_row, last_col = rows == self.n - 1, cols == self.m - 1
        right, below, corner = (v[item % len(v)] for v in self.edges)
        at_row, at_col = (k if v.size > 1 else 0 * k for v, k in ((right, rows * ~last_row), (below, cols * ~last_col)))
        out = np.where(last_row, np.where(last_col, corner, below[at_col]), right[at_row])
        inside = ~(last_row | last_col)
        out[inside] = costs_along(self.inner, item, rows[inside], cols[inside])
        return np.asarray(out)

    def take(self, items: np.ndarray) -> Bordered:
        edges = tuple(v if len(v) == 1 else v[items] for v in self.edges)
        return renewed(self, inner=self.inner.take(items), edges=edges)

    def among(self, item: int, rows: np.ndarray) -> Dense:
        lines = [self.block(slice(item, item + 1), slice(k, k + 1)) for k in rows.tolist()]
        return Dense(namespace(*lines).concat(lines, axis=1))

    def to_numpy(self) -> Bordered:
        return renewed(self, inner=self.inner.to_numpy())
