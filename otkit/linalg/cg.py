"""Linear systems of Newton steps and of gradients, by preconditioned conjugate gradients (Hestenes & Stiefel 1952)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.linalg.sparse import Coupling, Sparse


class Solution(NamedTuple):
    """Solution of a linear system, the number of iterations of conjugate gradients, and whether it is accurate."""

    y: np.ndarray
    steps: int
    accurate: bool


@dataclass(frozen=True)
class Schur:
    """The matrix ``square·I − TᵀT`` of a sparse T, with the transpose of T and the diagonal of the matrix.

    ``smooth (m,)`` is a near-null vector of the matrix, if one is known.
    """

    square: float
    T: Any
    transposed: Any
    diagonal: np.ndarray
    smooth: np.ndarray | None = None

    @staticmethod
    def of(T: Any, transposed: Any, square: float, smooth: np.ndarray | None = None) -> Schur:
        """The matrix for T and its transpose."""
        diagonal = square - transposed.power(2) @ np.ones(T.shape[0])
        return Schur(square, T, transposed, np.maximum(diagonal, 0.5 * (square - 1.0)), smooth)

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        return self.square * v - self.transposed @ (self.T @ v)


@dataclass
class Memory:
    """Preconditioner data computed for one matrix and reused for the following ones, which differ little from it."""

    coarse: Any = None


Iterative = Callable[[Schur, np.ndarray, np.ndarray, float, int], Solution]


def conjugate_gradients(
    matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int, memory: Memory | None = None
) -> Solution:
    """Solve with the diagonal as preconditioner (Hestenes & Stiefel 1952), to a residual of `rtol` times the rhs.

    This version does not use `memory`.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    count, shape = itertools.count(), (rhs.size, rhs.size)
    operator = LinearOperator(shape, matvec=matrix.__matmul__)
    jacobi = LinearOperator(shape, matvec=lambda v: v / matrix.diagonal)
    with np.errstate(divide="ignore", invalid="ignore"):  # at the limit of rounding, steps are 0/0
        y, info = cg(operator, rhs, start, rtol=rtol, maxiter=limit, M=jacobi, callback=lambda _: next(count))
    return Solution(np.nan_to_num(y), next(count), info == 0 and bool(np.isfinite(y).all()))


# Maximum number of iterations before a factorisation, and of further ones if the factorisation would be too expensive.
_FEW, _MANY = 200, 2000
# Maximum number of products of entries to form the matrix for a factorisation.
_FILL = 2**22


def solve_coupled(
    sparse: Sparse,
    rhs: np.ndarray,
    shift: float,
    rtol: float,
    iterative: Iterative = conjugate_gradients,
    smooth: tuple[np.ndarray, np.ndarray] | tuple[None, None] = (None, None),
) -> Solution:
    """Solve ``[[(1 + shift)·I, T], [Tᵀ, (1 + shift)·I]]·[x; y] = [0; rhs]`` for y, by its smaller Schur complement.

    The singular values of the sparse T are at most 1, so the matrix is positive definite. If conjugate gradients are
    slow and T has few entries, T is copied to the host and a sparse factorisation solves the system.

    Parameters
    ----------
    sparse : Sparse
        T, of shape (n, m).
    rhs : array (m,)
    shift : float
    rtol : float
        Tolerance on the residual, relative to the right-hand side.
    iterative : callable
        The implementation of conjugate gradients.
    smooth : tuple of arrays (n,), (m,)
        Vectors that T and its transpose nearly map to each other, if known. Within a strongly coupled part of the
        matrix, solutions are close to multiples of them.

    Returns
    -------
    Solution
    """
    T, transposed = sparse
    one, size = 1.0 + shift, abs(rhs).max()
    if not 0.0 < size < np.inf:
        return Solution(np.zeros_like(rhs), 0, size == 0.0)
    rhs = rhs / size  # scaled, or its squares may underflow
    if T.shape[1] <= T.shape[0]:
        found = _solve(Schur.of(T, transposed, one * one, smooth[1]), rhs * one, rtol, iterative)
        return found._replace(y=found.y * size)
    # By the first block row x = −T·y/(1 + shift), and by the second y = (rhs − Tᵀx)/(1 + shift).
    found = _solve(Schur.of(transposed, T, one * one, smooth[0]), -(T @ rhs), rtol, iterative)
    return found._replace(y=(rhs - transposed @ found.y) * (size / one))


def _solve(matrix: Schur, rhs: np.ndarray, rtol: float, iterative: Iterative) -> Solution:
    found = iterative(matrix, rhs, np.zeros_like(rhs), rtol, _FEW)
    if found.accurate:
        return found
    if (np.diff(to_numpy(matrix.T.indptr)).astype(float) ** 2).sum() <= _FILL:
        try:
            y = _factorised(matrix, rhs)
        except RuntimeError:  # singular within rounding
            return found
        return found._replace(y=y, accurate=bool(np.isfinite(y).all()))
    more = iterative(matrix, rhs, found.y, rtol, _MANY)
    return more._replace(steps=found.steps + more.steps)


def _factorised(matrix: Schur, rhs: np.ndarray) -> np.ndarray:
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.linalg import splu

    T, transposed = (
        csr_array(tuple(to_numpy(x) for x in (half.data, half.indices, half.indptr)), shape=half.shape)
        for half in (matrix.T, matrix.transposed)
    )
    whole = (matrix.square * eye_array(rhs.size, format="csc") - transposed @ T).tocsc()
    factors = splu(whole, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(rhs)


Preconditioner = Callable[[np.ndarray], np.ndarray]

# Up to this size a matrix is formed and factorised as a dense one, which is faster.
_DENSE = 2048


def coupled_preconditioner(arcs: Coupling, shape: tuple[int, int], both: float) -> Preconditioner | None:
    """The inverse of ``1 − both·TᵀT`` for the sparse T of `arcs`, positive definite; None if it is too expensive."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import splu

    rows, cols, values = arcs
    T = csr_array((values, (rows, cols)), shape=shape)
    size = shape[1]
    # T may have a singular value of 1. The shift is well below the effect of the dropped entries.
    one = 1 + 1e-10
    if size <= _DENSE:
        dense = T.toarray()
        matrix = -both * (dense.T @ dense)
        matrix[np.diag_indices(size)] += one
        try:
            factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:  # singular within rounding
            return None
        return lambda v: cho_solve(factor, v, check_finite=False)
    if (np.diff(T.indptr).astype(float) ** 2).sum() > _FILL:
        return None
    matrix = (-both * (T.T @ T)).tocsc()
    matrix.setdiag(matrix.diagonal() + one)
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return lambda v: factors.solve(v)


class BatchSolution(NamedTuple):
    """Solutions ``y (B, m)``, norms of their residuals relative to the right-hand sides, and numbers of steps."""

    y: Array
    residual: np.ndarray
    steps: np.ndarray


# Iterations without a smaller residual after which the solve stops: rounding limits the accuracy.
_NO_BETTER = 100


def batched_conjugate_gradients(
    product: Callable[[Array], Array],
    rhs: Array,
    make: Callable[[], list[Preconditioner | None]],
    rtol: float,
    limits: tuple[int, int],
) -> BatchSolution:
    """Solve a batch of positive semidefinite systems without diagonal scaling, for arrays of any library.

    Parameters
    ----------
    product : callable
        The product of each matrix with a vector: ``(B, m)`` to ``(B, m)``.
    rhs : array (B, m)
        Right-hand sides in the range of the matrices.
    make : callable
        Returns a preconditioner or None for each item. It is called after `few` iterations.
    rtol : float
        Tolerance on the residual, relative to the right-hand side.
    limits : tuple (few, most) of int
        Number of iterations before `make` is called, and maximum number of all iterations.

    Returns
    -------
    BatchSolution
    """
    xp, few = namespace(rhs), limits[0]
    size = xp.max(xp.abs(rhs), axis=-1, keepdims=True)
    scale = xp.where(size > 0, size, 1.0)  # squares of small numbers may underflow
    start = rhs / scale
    norm = to_numpy(xp.sum(start * start, axis=-1)) ** 0.5
    y, residual = xp.zeros_like(rhs), start
    left, best, steps = np.where(norm > 0, 1.0, 0.0), np.inf, np.zeros(norm.shape, dtype=np.int64)
    makers: list[Preconditioner | None] = [None] * norm.size
    z = direction = residual
    gain = xp.sum(residual * z, axis=-1, keepdims=True)
    since = 0
    for step in range(limits[1]):
        active = left > rtol
        if not active.any() or since > _NO_BETTER:
            break
        if step == few:
            makers = make()
            z = _preconditioned(makers, residual)
            direction, gain = z, xp.sum(residual * z, axis=-1, keepdims=True)
        image = product(direction)
        curvature = xp.sum(direction * image, axis=-1, keepdims=True)
        going = from_numpy(active[:, None], rhs) & (curvature > 0) & (gain > 0)
        length = xp.where(going, gain, 0.0) / xp.where(going, curvature, 1.0)
        y, residual = y + length * direction, residual - length * image
        z = _preconditioned(makers, residual)
        new = xp.sum(residual * z, axis=-1, keepdims=True)
        direction = z + xp.where(going, new, 0.0) / xp.where(going, gain, 1.0) * direction
        gain = new
        left = to_numpy(xp.sum(residual * residual, axis=-1)) ** 0.5 / np.where(norm > 0, norm, 1.0)
        steps = steps + active
        worst = float(left.max())
        best, since = (worst, 0) if worst < best else (best, since + 1)
    miss = start - product(y)
    found = to_numpy(xp.sum(miss * miss, axis=-1)) ** 0.5 / np.where(norm > 0, norm, 1.0)
    return BatchSolution(y * scale, found, steps)


def _preconditioned(makers: list[Preconditioner | None], residual: Array) -> Array:
    if all(one is None for one in makers):
        return residual
    plain = to_numpy(residual)
    return from_numpy(np.stack([v if one is None else one(v) for one, v in zip(makers, plain, strict=True)]), residual)
