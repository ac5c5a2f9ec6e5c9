"""The mark of a matrix of costs, by which a result sees that the matrix changed since the solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from otkit.arrays import Array, is_tensor, to_numpy
from otkit.geometry.base import GivenGeometry
from otkit.kernels.numba.checksum import checksum

# Entries that are read in host memory, where all of a large matrix would cost a tenth of a solve.
_MOST = 2**18
# Entries on each axis that are read where reading all is a transfer from another device.
_SAMPLE = 64


@dataclass(frozen=True)
class Fingerprint:
    """A matrix that a result refers to, and the mark that it had at the solve.

    The mark of an array in host memory is a checksum: of all its bits up to 2^18 entries, beyond of rows at equal
    distances, or of columns if these are contiguous. That of another tensor is its version, which
    PyTorch counts. That of an array of another library is a checksum of entries on a grid.

    Attributes
    ----------
    matrix : array (B or 1, n, m)
    mark : int
    """

    matrix: Array
    mark: int

    @staticmethod
    def of(matrix: Array) -> Fingerprint:
        """The fingerprint of a matrix as it is."""
        return Fingerprint(matrix, _mark(matrix))

    @staticmethod
    def of_costs(geometry: GivenGeometry) -> Fingerprint | None:
        """The fingerprint of the matrix of costs, if they have one, also with a border."""
        given = geometry if geometry.bordered is None else geometry.bordered.inner
        return None if given.matrix is None else Fingerprint.of(given.matrix)

    def check(self) -> None:
        """Raise ``RuntimeError`` if the matrix has changed."""
        if _mark(self.matrix) != self.mark:
            raise RuntimeError(
                "the cost matrix must stay as it was in the solve until this is read from the result, but it was "
                "changed in place; read it from the result before the change, or solve with a copy of the matrix"
            )

    def __reduce__(self) -> tuple[Callable[[Array], Fingerprint], tuple[Array]]:
        """A pickle or copy has a matrix of its own, with a mark of its own."""
        self.check()
        return Fingerprint.of, (self.matrix,)


def _mark(matrix: Array) -> int:
    if isinstance(matrix, np.ndarray):
        if matrix.size <= _MOST:
            return checksum(matrix)
        n, m = matrix.shape[-2:]
        step = -(-matrix.size // _MOST)
        rows = matrix[..., :: min(step, n), :]
        return checksum(rows if not matrix.flags.f_contiguous else matrix[..., :: min(step, m)])
    if is_tensor(matrix) and not matrix.is_inference():
        return int(matrix._version)
    rows, cols = (-(-size // _SAMPLE) for size in matrix.shape[-2:])
    return checksum(to_numpy(matrix[..., ::rows, ::cols]))
