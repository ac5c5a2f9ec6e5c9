"""Lists of clouds of unequal sizes: pairs of similar sizes in one padded batch, and one report on all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from otkit import arrays, checks
from otkit.arrays import is_array, to_numpy
from otkit.autograd import attached, check_differentiable
from otkit.batches import Batch, batches
from otkit.kernels import shared_by, threads
from otkit.report import reported
from otkit.results.parts import part
from otkit.results.result import Result
from otkit.solvers.watch import Watch

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


class Clouds(NamedTuple):
    """What a call makes of two clouds, and of many in one batch.

    Attributes
    ----------
    solve : callable
        The answer from x, y, a, b, and further numbers.
    part : callable or None
        The answer of a pair from that of its batch, its index there, and its arguments. Without it, no batch is made.
    shortfall : callable
        The message about an answer that did not converge; empty if it did.
    compiled : callable
        The most entries of a pair that `solve` takes `Padded` with others, from the number of coordinates of a point.
    recorded : bool
        Whether autograd records the batch. Otherwise it records each pair.
    """

    solve: Callable[..., Any]
    part: Callable[[Any, int, tuple[Any, ...]], Any] | None
    shortfall: Callable[[Any], str]
    compiled: Callable[[int], int] = lambda d: 0
    recorded: bool = False


def answered(
    clouds: Clouds,
    measures: tuple[Any, Any, Any, Any],
    numbers: tuple[Any, ...],
    strict: bool,
    watch: Watch | None = None,
) -> Any:
    """The answer for two clouds, or the list of answers for lists of them, after a report on convergence.

    The measures x, y, a and b are each shared by all pairs unless they are lists, and then the `numbers`, each for all
    pairs or an array with one for each, or a tuple of such. Batches of NumPy arrays are shared by threads, unless a
    `watch` follows them.
    """
    if not any(map(is_list, measures[:2])):
        answer = clouds.solve(*measures, *numbers)
        return reported(answer, clouds.shortfall(answer), strict)
    listed = [is_list(v, axes) for v, axes in zip(measures, (2, 2, 1, 1), strict=True)]
    lists = [v for v, several in zip(measures, listed, strict=True) if several]
    count = len(lists[0])
    if any(len(v) != count for v in lists):
        raise ValueError(
            f"lists of clouds and of weights must have one length, got {sorted({len(v) for v in lists})}; one cloud in "
            "place of a list is shared"
        )
    columns = [v if several else [v] * count for v, several in zip(measures, listed, strict=True)]
    columns += [_numbers(v, count) for v in numbers]
    pairs, idle = list(zip(*columns, strict=True)), watch is None or watch.idle
    together = idle and clouds.part is not None
    found = list(batches(columns, clouds.compiled, recorded=clouds.recorded)) if together else []
    answers, short = _solved(clouds, pairs, found, in_threads=idle and _in_threads(columns))
    first = min(short, default=0)
    message = f"{len(short)} of {count} pairs did not converge; pair {first}: {short[first]}" if short else ""
    return reported(answers, message, strict)


def _numbers(v: Any, count: int) -> list[Any]:
    """The number of each of `count` pairs, or the tuple of its numbers."""
    if isinstance(v, tuple):
        return list(zip(*(_numbers(side, count) for side in v), strict=True))
    return [v[k] for k in range(count)] if is_array(v) and v.ndim == 1 and v.shape[0] == count else [v] * count


def _in_threads(columns: list[list[Any]]) -> bool:
    """Whether threads may share the pairs.

    Whether operations of tensors are recorded is known to their thread alone, and processes meet in one order.
    """
    kinds = set(map(type, chain(*columns, *(chain(*v) for v in columns if type(v[0]) is tuple))))
    plain = all(issubclass(kind, (np.ndarray, float, int, tuple, type(None))) for kind in kinds)
    return plain and shared_by() is None


def of_pair(
    batch: Result, item: int, given: tuple[Any, ...], shape: tuple[int, ...] = (), *, strict: bool = False
) -> Result:
    """The result of a pair with batch axes `shape`, from that of its batch.

    The pair is the one of index `item` along the first axis of the batch. It was `given` its points, weights, `reg` and
    `unbalanced`.
    """
    x, y, a, b, reg, rho = given
    found = part(batch, item, (x, y, a, b, reg, rho), shape)
    penalties = rho if isinstance(rho, tuple) else (rho,)
    if not (arrays.records() and any(map(arrays.requires_grad, (x, y, a, b, reg, *penalties)))):
        return found
    check_differentiable(found.problem)
    return attached(found, strict)


def _solved(
    clouds: Clouds, pairs: list[tuple[Any, ...]], found: list[Batch], *, in_threads: bool
) -> tuple[list[Any], dict[int, str]]:
    """The answers, and messages about those that did not converge, by pair; or the error of the first wrong pair.

    The pairs of a batch that is refused are solved one by one.
    """
    answers: dict[int, Any] = {}
    short: dict[int, str] = {}

    def together(batch: Batch) -> None:
        given, take = batch.arguments, clouds.part
        try:
            answer = clouds.solve(*(given or pairs[batch.pairs[0]]))
            found = [take(answer, i, pairs[k]) for i, k in enumerate(batch.pairs)] if given and take else [answer]
        except (ValueError, TypeError):
            return
        answers.update(zip(batch.pairs, found, strict=True))
        if clouds.shortfall(answer):
            short.update((k, clouds.shortfall(answers[k])) for k in batch.pairs)

    def alone(k: int) -> None:
        try:
            answers[k] = clouds.solve(*pairs[k])
        except (ValueError, TypeError) as error:
            raise type(error)(f"pair {k}: {error}") from None
        short[k] = clouds.shortfall(answers[k])

    sizes = np.array([np.size(x) * np.size(y) for x, y, *_ in pairs] if in_threads else [0] * len(pairs))
    entries, work = _ENTRY * int(sizes.sum()), [-sizes[batch.pairs].sum() for batch in found]
    # The longest first, so that threads end together.
    threads.answers(together, found, entries, np.argsort(work, kind="stable").tolist())
    threads.answers(alone, [k for k in range(len(pairs)) if k not in answers], entries)
    return [answers[k] for k in range(len(pairs))], {k: text for k, text in short.items() if text}
