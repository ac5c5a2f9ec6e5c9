"""Linear algebra on graphs, behind plain NumPy arrays; sparse matrices may lie elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otkit.arrays import Array, from_numpy, namespace, to_numpy

Coupling = tuple[Array, Array, Array]


def difference(x: float, y: float) -> tuple[float, float]:
    """x − y and its rounding error, exactly (Knuth's two-sum)."""
    z = x - y
    back = z - x
    return z, (x - (z - back)) - (y + back)


@dataclass(frozen=True)
class SpanningTree:
    """A spanning forest of a bipartite graph: nodes ``0…n−1`` are rows, ``n…n+m−1`` columns.

    Attributes
    ----------
    order : array (n+m,)
        The nodes, parents before children.
    parent : array (n+m,)
        The parent of each node, −1 for the root of a component.
    weight, cost : array (n+m,)
        Weight and cost of the arc from each node to its parent; of no meaning for a root.
    """

    n: int
    order: np.ndarray
    parent: np.ndarray
    weight: np.ndarray
    cost: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        """The nodes that have an arc to a parent, parents before children."""
        return self.order[self.parent[self.order] >= 0]

    def arcs(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the arc from each of the nodes to its parent."""
        other = self.parent[nodes]
        return np.minimum(nodes, other), np.maximum(nodes, other) - self.n

    def flows(self, supply: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The flow on the arc of each node (0 for a root) that meets `supply (n+m,)`.

        Leaf by leaf, so that every flow is a plain difference of supplies. Returned beside it are the excess that is
        left at the roots, and the L1 distance between the supply and what the flows deliver in exact arithmetic.
        """
        left = supply.tolist()
        flow = [0.0] * len(left)
        excess = error = 0.0
        parent = self.parent.tolist()
        for node in reversed(self.order.tolist()):
            p = parent[node]
            if p < 0:
                excess += abs(left[node])
            else:
                flow[node] = moved = left[node]
                left[p], lost = difference(left[p], moved)
                error += abs(lost)
        return np.array(flow), excess, error + excess

    def potentials(self) -> np.ndarray:
        """Potentials ``(n+m,)`` whose sum over every arc is its cost, 0 at the roots."""
        value = [0.0] * len(self.parent)
        parent, cost = self.parent.tolist(), self.cost.tolist()
        for node in self.order.tolist():
            if parent[node] >= 0:
                value[node] = cost[node] - value[parent[node]]
        return np.array(value)


class Solution(NamedTuple):
    """What `solve_coupled` found, how many iterations of conjugate gradients it took, and whether it is accurate."""

    y: np.ndarray
    steps: int
    accurate: bool


class Sparse(NamedTuple):
    """A sparse matrix T and its transpose, both by rows: arrays of SciPy, or what stands in for them on a device.

    That has the ``data``, ``indices`` and ``indptr`` of a `csr_array` there, multiplies vectors of NumPy, and is raised
    to a `power` by entries.
    """

    T: Any
    turned: Any


def compressed(arcs: Coupling, shape: tuple[int, int]) -> Sparse:
    """The matrix of entries ``(rows, cols, values)`` in row order, of arrays of any library, in SciPy."""
    from scipy.sparse import csr_array

    rows, cols, values = (to_numpy(x) for x in arcs)
    T = csr_array((values, cols, np.searchsorted(rows, np.arange(shape[0] + 1))), shape=shape)
    return Sparse(T, T.T.tocsr())


class Scaling(NamedTuple):
    """What becomes of a sparse R: ``P = left·R·right``, and ``half_row·P·half_col`` without the small entries of P.

    Attributes
    ----------
    left, right : numpy array (n,), (m,)
        All positive, as the halves are.
    least_row, least_col : numpy array (n,), (m,)
        What is not small: an entry of P that is at least one of them.
    half_row, half_col : numpy array (n,), (m,)
    """

    left: np.ndarray
    right: np.ndarray
    least_row: np.ndarray
    least_col: np.ndarray
    half_row: np.ndarray
    half_col: np.ndarray


def sparsified(rows: Sparse, by: Scaling) -> tuple[Coupling, float]:
    """The entries that `Scaling` tells of, in row order, and the sum of those of P."""
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


@dataclass(frozen=True)
class Schur:
    """The matrix ``square·I − TᵀT`` of a sparse T, whose transpose and the diagonal are there too.

    ``smooth (m,)`` is a vector that the matrix nearly takes to zero, where one is known.
    """

    square: float
    T: Any
    turned: Any
    diagonal: np.ndarray
    smooth: np.ndarray | None = None

    @staticmethod
    def of(T: Any, turned: Any, square: float, smooth: np.ndarray | None = None) -> Schur:
        """Of T and its transpose."""
        diagonal = square - turned.power(2) @ np.ones(T.shape[0])
        return Schur(square, T, turned, np.maximum(diagonal, 0.5 * (square - 1.0)), smooth)

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        return self.square * v - self.turned @ (self.T @ v)


@dataclass
class Memory:
    """What was made for one matrix and helps with the next ones, which differ little from it."""

    coarse: Any = None


Iterative = Callable[[Schur, np.ndarray, np.ndarray, float, int], Solution]


def conjugate_gradients(
    matrix: Schur, rhs: np.ndarray, start: np.ndarray, rtol: float, limit: int, memory: Memory | None = None
) -> Solution:
    """Solve with the diagonal as preconditioner (Hestenes & Stiefel 1952), to a residual of `rtol` times the rhs.

    Nothing is made here that a `memory` could keep.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    count, shape = itertools.count(), (rhs.size, rhs.size)
    operator = LinearOperator(shape, matvec=matrix.__matmul__)
    jacobi = LinearOperator(shape, matvec=lambda v: v / matrix.diagonal)
    with np.errstate(divide="ignore", invalid="ignore"):  # beyond what rounding allows, steps are 0/0
        y, info = cg(operator, rhs, start, rtol=rtol, maxiter=limit, M=jacobi, callback=lambda _: next(count))
    return Solution(np.nan_to_num(y), next(count), info == 0 and bool(np.isfinite(y).all()))


# Iterations before a factorisation is thought of, and where there is none.
_FEW, _MANY = 200, 2000
# Products of entries that the matrix to factorise is formed of, at most.
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

    No singular value of the sparse T is above 1, so that the matrix is positive definite. Where conjugate gradients are
    slow and T has few entries, a sparse factorisation follows, for which they are brought to the host.

    Parameters
    ----------
    sparse : Sparse
        T, of shape (n, m).
    rhs : array (m,)
    shift : float
    rtol : float
        Of the residual, relative to the right-hand side.
    iterative : callable
        What does conjugate gradients.
    smooth : tuple of arrays (n,), (m,)
        Vectors that T and its transpose nearly take to each other, where some are known: solutions come nearest to
        their multiples, from one part of the matrix to the next.

    Returns
    -------
    Solution
    """
    T, turned = sparse
    one, size = 1.0 + shift, abs(rhs).max()
    if not 0.0 < size < np.inf:
        return Solution(np.zeros_like(rhs), 0, size == 0.0)
    rhs = rhs / size  # whose squares would underflow
    if T.shape[1] <= T.shape[0]:
        found = _solve(Schur.of(T, turned, one * one, smooth[1]), rhs * one, rtol, iterative)
        return found._replace(y=found.y * size)
    # From the first block row x = −T·y/(1 + shift), so that y = (rhs − Tᵀx)/(1 + shift).
    found = _solve(Schur.of(turned, T, one * one, smooth[0]), -(T @ rhs), rtol, iterative)
    return found._replace(y=(rhs - turned @ found.y) * (size / one))


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

    T, turned = (
        csr_array(tuple(to_numpy(x) for x in (half.data, half.indices, half.indptr)), shape=half.shape)
        for half in (matrix.T, matrix.turned)
    )
    whole = (matrix.square * eye_array(rhs.size, format="csc") - turned @ T).tocsc()
    factors = splu(whole, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(rhs)


Preconditioner = Callable[[np.ndarray], np.ndarray]

# Up to this size a matrix is formed and factorised as a dense one: the machine is quicker at that.
_DENSE = 2048


def coupled_preconditioner(arcs: Coupling, shape: tuple[int, int], both: float) -> Preconditioner | None:
    """The inverse of ``1 − both·TᵀT`` for the sparse T of `arcs`, positive definite; None where that takes too long."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import splu

    rows, cols, values = arcs
    T = csr_array((values, (rows, cols)), shape=shape)
    size = shape[1]
    # T may have a singular value of 1: the shift is well below what the entries left out take from it.
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
    """Solutions ``y (B, m)``, the norms of their residuals relative to the right-hand sides, and the steps taken."""

    y: Array
    residual: np.ndarray
    steps: np.ndarray


# Iterations without a smaller residual after which rounding is taken to be in the way.
_NO_BETTER = 100


def batched_conjugate_gradients(
    product: Callable[[Array], Array],
    rhs: Array,
    make: Callable[[], list[Preconditioner | None]],
    rtol: float,
    limits: tuple[int, int],
) -> BatchSolution:
    """Solve positive semidefinite systems of one diagonal, of arrays of any library.

    Parameters
    ----------
    product : callable
        The product of each matrix with a vector: ``(B, m)`` to ``(B, m)``.
    rhs : array (B, m)
        In the range of the matrices.
    make : callable
        Makes a preconditioner for each item, or None for it. It is called where few iterations are not enough.
    rtol : float
        Of the residual, relative to the right-hand side.
    limits : tuple (few, most) of int
        Iterations before `make` is called, and all of them.

    Returns
    -------
    BatchSolution
    """
    xp, few = namespace(rhs), limits[0]
    size = xp.max(xp.abs(rhs), axis=-1, keepdims=True)
    scale = xp.where(size > 0, size, 1.0)  # squares of small numbers would underflow
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


Scan = Callable[[int], tuple[np.ndarray, np.ndarray]]


def maximum_spanning_tree(n: int, m: int, row: Scan, col: Scan) -> SpanningTree:
    """The spanning forest of largest weight of a complete bipartite graph (Prim), in O(nm) time and O(n+m) memory.

    Parameters
    ----------
    n, m : int
        Rows and columns.
    row, col : callable
        ``row(i)`` gives the weights and costs of the m arcs of a row, ``col(j)`` those of the n arcs of a column. An
        arc of weight −inf is absent.
    """
    size = n + m
    best = np.full(size, -np.inf)
    parent = np.full(size, -1)
    cost = np.zeros(size)
    weight = np.full(size, -np.inf)
    outside = np.ones(size, dtype=bool)
    order = np.empty(size, dtype=np.int64)
    for step in range(size):
        node = int(best.argmax())
        if best[node] == -np.inf:  # nothing is reached any more: the next component starts
            node = int(outside.argmax())
        order[step] = node
        outside[node] = False
        weight[node], best[node] = best[node], -np.inf
        side = slice(n, size) if node < n else slice(0, n)
        weights, costs = row(node) if node < n else col(node - n)
        better = (weights > best[side]) & outside[side]
        best[side][better] = weights[better]
        cost[side][better] = costs[better]
        parent[side][better] = node
    return SpanningTree(n, order, parent, weight, cost)


def heaviest_forest(n: int, m: int, rows: np.ndarray, cols: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The indices of the arcs of the spanning forest of largest weight, of arcs in row order that are all different."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    if not rows.size:
        return np.empty(0, dtype=np.int64)
    length = weights.max() - weights + 1.0  # positive, since zeros are no arcs to SciPy
    tree = minimum_spanning_tree(coo_array((length, (rows, cols + n)), shape=(n + m, n + m))).tocoo()
    return np.searchsorted(rows * m + cols, np.sort(tree.row.astype(np.int64) * m + (tree.col - n)))


def components(finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected components of the bipartite graph ``finite (n, m)``: the label of each row and of each column."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, m = finite.shape
    rows, cols = np.nonzero(finite)
    graph = coo_array((np.ones(rows.size, dtype=bool), (rows, cols + n)), shape=(n + m, n + m))
    _, labels = connected_components(graph, directed=False)
    return labels[:n], labels[n:]
