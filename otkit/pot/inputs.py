"""POT's arguments in the forms of otkit, and the refusal of those that do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, namespace
from otkit.errors import warn
from otkit.geometry.base import GivenGeometry
from otkit.geometry.dense import Dense
from otkit.geometry.stored import StoredArcs, is_sparse

# By how much POT lets the totals of two measures differ.
_TOTALS = 1.5e-6
# Arguments of POT's stabilised and annealed iterations: how they compute.
_STEERING = ("tau", "epsilon0", "numInnerItermax")


class MarginalsError(ValueError, AssertionError):
    """Shapes or totals that do not fit each other; POT raises an ``AssertionError`` for them.

    Examples
    --------
    >>> import otkit.pot as ot
    >>> try:
    ...     ot.emd([0.5, 0.5], [1.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    ... except AssertionError as error:
    ...     print(type(error).__name__)
    MarginalsError
    """


def is_given(w: Any) -> bool:
    """Whether weights are given; POT's empty ones, and None, are uniform."""
    return w is not None and len(w) > 0


def like_of(*candidates: Any) -> Array | None:
    """The first that is an array of some library and not empty, as the model for lists."""
    return next((v for v in candidates if arrays.is_array(v) and 0 not in v.shape), None)


def is_sparse_tensor(M: Any) -> bool:
    """Whether `M` is a sparse tensor of PyTorch in coordinate form."""
    return arrays.is_tensor(M) and str(M.layout) == "torch.sparse_coo"


def costs(M: Any, *others: Any) -> GivenGeometry:
    """The geometry of a cost matrix, or of a sparse one of SciPy or PyTorch, whose other arcs are forbidden."""
    if is_sparse(M):
        return StoredArcs.of(M)
    if is_sparse_tensor(M):
        M = M.coalesce()
        dense = namespace(M).full(tuple(M.shape), np.inf, dtype=M.dtype, device=arrays.device(M))
        dense[tuple(M.indices())] = M.values()
        return Dense(dense)
    return Dense(checks.as_array(checks.unmasked(M), "M", like_of(M, *others)))


def weights(w: Any, name: str, geometry: GivenGeometry) -> Array | None:
    """Weights ``(n,)``, or histograms in columns ``(n, K)`` as a batch ``(K, n)``; None for uniform ones."""
    if not is_given(w):
        return None
    w = checks.as_array(w, name, next(iter(geometry.arrays.values())))
    if w.ndim > 2:
        raise ValueError(f"{name} must be weights (n,) or histograms (n, K), got shape {tuple(w.shape)}; stack them")
    return w.T if w.ndim == 2 else w


def centred(w: Array | None) -> Array | None:
    """The weights, with gradients of mean 0, which POT gives: a constant is free, as both totals are equal."""
    if not arrays.requires_grad(w):
        return w
    xp = namespace(w)
    return w - xp.mean(w - arrays.detached(w), axis=-1, keepdims=True)


def of_one_total(
    geometry: GivenGeometry, a: Array | None, b: Array | None, check: bool
) -> tuple[Array | None, Array | None]:
    """The weights of both sides, b scaled to the total of a as in POT; `check` that they agree to 6 decimals first.

    Raises
    ------
    MarginalsError
        If lengths or totals differ.
    """
    for w, size, name in ((a, geometry.n, "a"), (b, geometry.m, "b")):
        if w is not None and w.shape[-1] != size:
            raise MarginalsError(
                f"{name} must have {size} weights, one for each {'row' if name == 'a' else 'column'} of M, got "
                f"{w.shape[-1]}; pass M of shape (len(a), len(b))"
            )
    one, other = (1.0 if w is None else namespace(w).sum(w, axis=-1, keepdims=True) for w in (a, b))
    apart = np.max(np.abs(_number(one) - _number(other)))
    if check and not apart <= _TOTALS:
        raise MarginalsError(
            f"a and b must have the same total to 6 decimals, got totals that differ by {apart:.3g}; divide each by "
            "its sum, or pass check_marginals=False, which scales b to the total of a"
        )
    if b is None:
        b = None if a is None or apart == 0 else namespace(a).ones_like(a[..., :1]) * one / geometry.m
        return a, b if b is None else namespace(b).broadcast_to(b, (*b.shape[:-1], geometry.m))
    return a, b if apart == 0 else b * (one / other)


def _number(total: Any) -> np.ndarray:
    return np.asarray(total if isinstance(total, float) else arrays.to_numpy(total), dtype=np.float64)


def pair_of(penalty: Any) -> Any:
    """POT's penalty on the marginals, one number or an array or list of 1 or 2, as otkit takes it."""
    if penalty is None or np.ndim(penalty) == 0:
        return penalty
    if len(penalty) not in (1, 2):
        raise ValueError(f"a penalty must be 1 or 2 numbers, got {len(penalty)}; pass (rho_a, rho_b)")
    return tuple(penalty) if len(penalty) == 2 else penalty[0]


def threads(count: Any, name: str = "numThreads") -> None:
    """Check a number of threads, which POT deprecates; warn where it is not 1."""
    if count is None or count == "max" or (isinstance(count, int) and count > 1):
        warn(f"{name}={count!r} has no effect: OTKIT_NUM_THREADS sets the threads; drop it", DeprecationWarning)
    elif count != 1 or isinstance(count, bool):
        raise ValueError(f'{name} must be "max" or a positive integer, got {count!r}; drop it')


def lowered(name: Any) -> Any:
    """A name of POT, in which capitals make no difference, in lower case."""
    return name.lower() if isinstance(name, str) else name


def one_of(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """A name among those of POT, in lower case; ``ValueError`` for others."""
    known = lowered(value)
    if known not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}; pass one of these")
    return known


def steering(given: dict[str, Any]) -> None:
    """Refuse arguments that POT swallows, but for those of its stabilised iterations: no result depends on these."""
    unused({name: v for name, v in given.items() if name not in _STEERING})


def unused(given: dict[str, Any], why: str = "otkit works in the log domain and chooses its steps itself") -> None:
    """Refuse arguments that POT swallows, or that steer algorithms which do not exist here."""
    if given:
        raise TypeError(f"{', '.join(f'{name}=' for name in given)} does not apply: {why}; drop it")
