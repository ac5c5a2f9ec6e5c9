"""A cost given as a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otkit import checks
from otkit.arrays import Array, detached, float64, hosted, namespace, renewed, take, to_numpy
from otkit.geometry.base import GivenGeometry, flatten_batch, shared, some_rows


@dataclass(frozen=True)
class Dense(GivenGeometry):
    """A cost matrix, kept by reference and not copied, also in the results of its solves.

    Attributes
    ----------
    C : array (..., n, m)
        The costs; ``inf`` forbids an arc, and so does the mask of a masked array of NumPy.

    Raises
    ------
    ValueError, TypeError
        If `C` is not an array of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from otkit import Dense
    >>> Dense(np.zeros((5, 3, 4))).batch
    (5,)
    """

    C: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "C", checks.as_array(checks.unmasked(self.C), "C"))

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.C.shape[:-2])

    @property
    def n(self) -> int:
        return self.C.shape[-2]

    @property
    def m(self) -> int:
        return self.C.shape[-1]

    @property
    def T(self) -> Dense:
        return renewed(self, C=namespace(self.C).matrix_transpose(self.C))

    @property
    def arrays(self) -> dict[str, Array]:
        return {"C": self.C}

    @property
    def rounding(self) -> tuple[float, float]:
        return 0.0, 0.0  # the matrix is exact by definition

    @property
    def matrix(self) -> Array:
        return self.C

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
    def bordered(self) -> None:
        return None

    @property
    def offsets(self) -> None:
        return None

    @property
    def called(self) -> bool:
        return False

    @property
    def non_negative(self) -> bool:
        return False

    @property
    def undefined(self) -> str:
        return "costs must be numbers or +inf (a forbidden arc), got NaN or -inf; correct them, or pass inf to forbid"

    @property
    def may_forbid(self) -> bool:
        return True

    @property
    def convex_on_line(self) -> bool:
        return False

    def check(self) -> None:
        checks.has_axes(self.C, 2, "C", "(..., n, m)")

    def detached(self) -> Dense:
        return self._of(detached(self.C))

    def owned(self) -> Dense:
        return self.detached()

    def hosted(self) -> Dense:
        return self._of(hosted(self.C))

    def flat(self, batch: tuple[int, ...]) -> Dense:
        return self._of(flatten_batch(self.C, batch, 2))

    def _of(self, C: Array) -> Dense:
        """The costs of another matrix, which needs no check."""
        return self if C is self.C else renewed(self, C=C)

    def block(self, items: slice, rows: slice) -> Array:
        return float64(self.C[shared(items, self.C.shape[0]), rows, :])

    def take(self, items: np.ndarray) -> Dense:
        return self if self.C.shape[0] == 1 else self._of(take(self.C, items))

    def among(self, item: int, rows: np.ndarray) -> Dense:
        return self._of(some_rows(self.C, item, rows))

    def to_numpy(self) -> Dense:
        return self._of(to_numpy(float64(self.C)))
