"""Sparse matrices by rows: of SciPy on the host, or with the same interface on a device."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy

Coupling = tuple[Array, Array, Array]


class Sparse(NamedTuple):
    """A sparse matrix T and its transpose, both by rows: SciPy arrays, or objects with the same interface on a device.

    The interface is ``data``, ``indices`` and ``indptr`` as of a `csr_array`, products with NumPy vectors, and the
    elementwise `power`.
    """

    T: Any
    transposed: Any


def compressed(arcs: Coupling, shape: tuple[int, int]) -> Sparse:
    """The matrix of entries ``(rows, cols, values)`` in row order, of arrays of any library, in SciPy."""
    from scipy.sparse import csr_array

    rows, cols, values = (to_numpy(x) for x in arcs)
    T = csr_array((values, cols, np.searchsorted(rows, np.arange(shape[0] + 1))), shape=shape)
    return Sparse(T, T.T.tocsr())


class Scaling(NamedTuple):
    """Scaling and thresholding of a sparse R: ``P = left·R·right``, then ``half_row·P·half_col`` of its large entries.

    Attributes
    ----------
    left, right : numpy array (n,), (m,)
        Scalings of rows and columns, positive.
    least_row, least_col : numpy array (n,), (m,)
        Thresholds of rows and columns. An entry of P is kept if it is at least one of its two thresholds.
    half_row, half_col : numpy array (n,), (m,)
        Scalings of the result, positive.
    """

    left: np.ndarray
    right: np.ndarray
    least_row: np.ndarray
    least_col: np.ndarray
    half_row: np.ndarray
    half_col: np.ndarray


def sparsified(rows: Sparse, by: Scaling) -> tuple[Sparse, float]:
    """The matrix defined by a `Scaling`, and the sum of the entries of P that it keeps."""
    arcs, mass = kept_entries(rows, by)
    return compressed(arcs, rows.T.shape), mass


def kept_entries(rows: Sparse, by: Scaling) -> tuple[Coupling, float]:
    """The entries of `sparsified` in row order, in the library of `rows`, and the sum of the kept entries of P."""
    data, cols, ends = rows.T.data, rows.T.indices, rows.T.indptr
    xp = namespace(data)
    places = from_numpy(np.arange(data.shape[0]), data)
    row = xp.searchsorted(from_numpy(to_numpy(ends), data), places, side="right") - 1
    at_row = [xp.take(from_numpy(v, data), row, axis=0) for v in (by.left, by.least_row, by.left * by.half_row)]
    at_col = [xp.take(from_numpy(v, data), cols, axis=0) for v in (by.right, by.least_col, by.right * by.half_col)]
    P = data * at_row[0] * at_col[0]
    kept = xp.minimum(at_row[1], at_col[1]) <= P
    halves = data * at_row[2] * at_col[2]
    return (row[kept], cols[kept], halves[kept]), float(xp.sum(P[kept]))
