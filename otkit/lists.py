"""Lists of clouds of unequal sizes: one problem for each pair, and one report on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from otkit import checks
from otkit.arrays import is_array, to_numpy
from otkit.kernels import shared_by, threads
from otkit.report import reported
from otkit.solvers.watch import Watch

_Answer = TypeVar("_Answer")

# Exponentials that cost as much as a pair of coordinates of points in the quickest solve.
_ENTRY = 2


def split(x: Any, lengths: Any = None, *, batch: Any = None) -> list[Any]:
    """The clouds of a flat array of points, or their weights, as a list for `solve_sample` and the like.

    Parameters
    ----------
    x : array (N, d) or (N,)
        The points, or their weights, of one cloud after the other.
    lengths : array of int (K,), optional
        The number of points of each cloud; their sum is N.
    batch : array of int (N,), optional
        In place of `lengths`, the index of the cloud of each point, in ascending order from 0, as in PyTorch Geometric.

    Returns
    -------
    list of array
        Views of `x`, through which gradients flow.

    Raises
    ------
    ValueError, TypeError
        If the lengths or indices do not fit the points.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> x, y = np.arange(5.0)[:, None], np.zeros((2, 1))
    >>> [float(r) for r in otkit.wasserstein(otkit.split(x, [2, 3]), y, p=1)]
    [0.5, 3.0]
    >>> [len(cloud) for cloud in otkit.split(x, batch=[0, 0, 1, 1, 1])]
    [2, 3]
    """
    x = checks.as_array(x, "x")
    if (lengths is None) == (batch is None):
        raise ValueError("one of lengths and batch must say where clouds begin, got both or none; pass one of them")
    name = "lengths" if batch is None else "batch"
    given = to_numpy(checks.as_array(lengths if batch is None else batch, name))
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be whole numbers from 0, in one axis, got {given.dtype} {given.shape}; cast them"
        )
    if given.size and given.min() < 0:
        raise ValueError(f"{name} must be whole numbers from 0, got {given.min()}; pass one for each cloud or point")
    if batch is not None:
        if len(given) != x.shape[0] or (np.diff(given) < 0).any():
            raise ValueError(f"batch must be ascending, one index for each of the {x.shape[0]} points; sort the points")
        given = np.bincount(given)
    if given.sum() != x.shape[0]:
        raise ValueError(
            f"lengths must sum to the {x.shape[0]} points, got a sum of {given.sum()}; pass one for each cloud"
        )
    ends = np.cumsum(given)
    return [x[start:end, ...] for start, end in zip((ends - given).tolist(), ends.tolist(), strict=True)]


def is_list(x: Any, axes: int = 2) -> bool:
    """Whether this is a list of arrays of at least so many axes: clouds have two, and their weights one."""
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(is_array(v) and v.ndim >= axes for v in x)


def answered(
    solve: Callable[..., _Answer],
    shortfall: Callable[[_Answer], str],
    measures: tuple[Any, Any, Any, Any],
    numbers: tuple[Any, ...],
    strict: bool,
    watch: Watch | None = None,
) -> Any:
    """The answer for two clouds, or the list of answers for lists of them, after a report on convergence.

    `solve` takes x, y, a and b, each shared by all pairs unless it is a list, and then the `numbers`, each for all
    pairs or an array with one for each, or a tuple of such. Pairs of NumPy arrays are shared by threads, unless a
    `watch` follows them.
    """
    if not any(map(is_list, measures[:2])):
        answer = solve(*measures, *numbers)
        return reported(answer, shortfall(answer), strict)
    listed = [is_list(v, axes) for v, axes in zip(measures, (2, 2, 1, 1), strict=True)]
    lists = [v for v, several in zip(measures, listed, strict=True) if several]
    count = len(lists[0])
    if any(len(v) != count for v in lists):
        raise ValueError(
            f"lists of clouds and of weights must have one length, got {sorted({len(v) for v in lists})}; one cloud in "
            "place of a list is shared"
        )
    pairs = []
    for k in range(count):
        mine = [v[k] if several else v for v, several in zip(measures, listed, strict=True)]
        pairs.append((*mine, *(_number(v, k, count) for v in numbers)))
    answers = _solved(solve, pairs, in_turn=watch is not None and not watch.idle)
    short = [(k, text) for k, text in enumerate(map(shortfall, answers)) if text]
    message = f"{len(short)} of {count} pairs did not converge; pair {short[0][0]}: {short[0][1]}" if short else ""
    return reported(answers, message, strict)


def _number(v: Any, k: int, count: int) -> Any:
    """The number of pair `k` among `count`, or the tuple of its numbers."""
    if isinstance(v, tuple):
        return tuple(_number(side, k, count) for side in v)
    return v[k] if is_array(v) and v.ndim == 1 and v.shape[0] == count else v


def _solved(solve: Callable[..., _Answer], pairs: list[tuple[Any, ...]], *, in_turn: bool) -> list[_Answer]:
    """The answers for all pairs, in threads unless `in_turn`; the error of the first that has one."""

    def one(k: int) -> _Answer:
        try:
            return solve(*pairs[k])
        except (ValueError, TypeError) as error:
            raise type(error)(f"pair {k}: {error}") from None

    # Whether operations of tensors are recorded is known to their thread alone, and processes meet in one order.
    given = (side for pair in pairs for v in pair for side in (v if isinstance(v, tuple) else (v,)))
    plain = all(v is None or isinstance(v, (np.ndarray, float, int)) for v in given)
    if in_turn or not plain or shared_by() is not None:
        order, entries = np.arange(len(pairs)), 0
    else:  # the largest first, so that threads end together
        sizes = np.array([x.size * y.size for x, y, *_ in pairs])
        order, entries = np.argsort(-sizes, kind="stable"), _ENTRY * int(sizes.sum())
    return threads.answers(one, range(len(pairs)), entries, order.tolist())
