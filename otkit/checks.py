"""Validation of input data. Every message says what must hold, what was passed and what to do.

Data are checked here once. Code below the public functions relies on it and does not check again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array

# Unit roundoffs, the largest relative errors of rounding to a type.
_DOUBLE, _SINGLE = (float(np.finfo(dtype).eps) / 2 for dtype in (np.float64, np.float32))
SMALLEST = float(np.finfo(np.float64).tiny)  # the least regularisation, whose reciprocal is finite
_LARGEST = 1e300  # coordinates for which sums over many of them do not overflow


def as_array(x: Any, name: str, like: Any = None) -> Array:
    """`x` as an array of its own library; anything that is no array is converted to NumPy, or to the library of `like`.

    Arrays of NumPy are in the byte order of the machine.
    """
    if type(x) is np.ndarray:
        return _of_numpy(x, name)
    if x is None:
        raise TypeError(f"{name} must be a number or an array of numbers, got None; pass one")
    if isinstance(x, np.ndarray):
        return _of_numpy(_plain(x, name), name)
    if arrays.is_array(x):
        return _of_library(x, name)
    if arrays.is_scipy_sparse(x):
        raise TypeError(f"{name} must be a dense array, got a {type(x).__name__} of SciPy; pass {name}.toarray()")
    try:
        found = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers, got ragged rows; give all one length: {error}") from None
    except Exception as error:
        raise TypeError(f"{name} must be an array of numbers, got {type(x).__name__}; convert it: {error}") from None
    found = _of_numpy(found, name)
    return arrays.from_numpy(found, like) if like is not None and arrays.is_array(like) else found


def _of_numpy(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype.kind not in "fiub":
        what = "pass its real part" if x.dtype.kind == "c" else "convert it first, as with .astype(float)"
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; {what}")
    if x.dtype.itemsize > 8:
        raise TypeError(f"{name} must be float64 or narrower, got {x.dtype}; convert it with .astype(float)")
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return x if x.flags.aligned else x.copy()


def _plain(x: np.ndarray, name: str) -> np.ndarray:
    """An instance of a subclass as a plain array, if that has the same meaning."""
    if isinstance(x, np.ma.MaskedArray):
        if np.ma.is_masked(x):
            raise ValueError(
                f"{name} must have no masked entries, got {np.ma.getmaskarray(x).sum()}; drop those points, or pass "
                f"{name}.filled(value)"
            )
        return x.data
    if type(x).__module__.partition(".")[0] != "numpy":
        raise TypeError(f"{name} must be a plain array, got {type(x).__name__}; pass its values")
    return np.asarray(x)


def unmasked(C: Any) -> Any:
    """Costs with inf, which forbids an arc, in place of masked entries."""
    if not isinstance(C, np.ma.MaskedArray) or not np.ma.is_masked(C):
        return C
    return np.where(np.ma.getmaskarray(C), np.inf, _of_numpy(C.data, "C"))


def _of_library(x: Array, name: str) -> Array:
    no_transform(x, name)
    if arrays.is_traced(x):
        raise TypeError(
            f"{name} must be an array of numbers, got one that JAX traces; call otkit outside of jax.jit, jax.grad and "
            "jax.vmap: leading axes are batch axes, and otkit.vjp gives gradients"
        )
    if arrays.is_tensor(x):
        if str(x.layout) != "torch.strided":
            raise TypeError(f"{name} must be a dense tensor, got one of layout {x.layout}; pass a dense one")
        if x.device.type == "meta":
            raise ValueError(f"{name} must hold numbers, got a tensor on the meta device; materialise it first")
        if x.is_quantized or (x.dtype.is_floating_point and x.dtype.itemsize == 1):
            instead = "dequantize()" if x.is_quantized else "float()"
            raise TypeError(f"{name} must be of float16 or wider, got {x.dtype}; convert it with .{instead}")
        x = x.resolve_neg()
    elif arrays.library_name(x) in ("dask", "sparse"):
        raise TypeError(f"{name} must be an array in memory, got one of {arrays.library_name(x)}; convert it to NumPy")
    xp = arrays.namespace(x)
    if not xp.isdtype(x.dtype, ("real floating", "integral", "bool")):
        what = "pass its real part" if xp.isdtype(x.dtype, "complex floating") else "convert it first"
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; {what}")
    return x


def no_transform(x: Array, name: str) -> None:
    """Refuse tensors whose derivatives or batches PyTorch tracks by a transform, of which a solve knows nothing."""
    if arrays.transformed(x):
        raise TypeError(
            f"{name} is in a transform of torch.func (grad, vmap, jacrev, jvp) or in forward mode, which otkit does "
            "not support; use backward() or torch.autograd.grad, one output at a time, and leading batch axes for vmap"
        )


def no_gradient(x: Any, name: str, instead: str) -> None:
    """Refuse an `x` that requires gradients, where no backward pass exists."""
    if arrays.requires_grad(x):
        raise ValueError(
            f"{name} requires gradients, but this call has no backward pass; pass {name}.detach(), or {instead}"
        )


def same_library(**named: Array | None) -> None:
    """Require all arrays to belong to one library and lie on one device."""
    present = {name: x for name, x in named.items() if x is not None}
    if all(isinstance(x, np.ndarray) for x in present.values()):
        return
    libraries = {name: arrays.library_name(x) for name, x in present.items()}
    if len(set(libraries.values())) > 1:
        came = ", ".join(f"{name} from {library}" for name, library in libraries.items())
        raise TypeError(f"all arrays must come from one library, got {came}; convert them to one")
    devices = {name: str(arrays.device(x)) for name, x in present.items()}
    if len(set(devices.values())) > 1:
        came = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"all arrays must lie on one device, got {came}; move them to one")


def has_axes(x: Array, count: int, name: str, shape: str) -> None:
    """Require `x` to have at least `count` axes, none of them empty."""
    if x.ndim < count:
        raise ValueError(f"{name} must have shape {shape}, got shape {tuple(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}; leave empty problems out")


def clouds(x: Array, y: Array) -> None:
    """Require points in both clouds, of the same dimension."""
    for v, name, shape in ((x, "x", "(..., n, d)"), (y, "y", "(..., m, d)")):
        if v.ndim == 1:
            raise ValueError(
                f"{name} must have shape {shape}, got shape {tuple(v.shape)}; for points on a line pass {name}[:, None]"
            )
        has_axes(v, 2, name, shape)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"points of x and y must have the same dimension, got {x.shape[-1]} and {y.shape[-1]} "
            f"(shapes {tuple(x.shape)} and {tuple(y.shape)}); coordinates are the last axis"
        )


def points(x: Array, y: Array) -> tuple[float, float]:
    """Require finite points, of the same dimension in both clouds; the smallest and the largest coordinate."""
    clouds(x, y)
    low, high = math.inf, -math.inf
    for v, name in ((x, "x"), (y, "y")):
        ends = arrays.extremes(v)
        if not all(map(math.isfinite, ends)):
            raise ValueError(f"{name} must be finite, got NaN or inf in it; drop those points")
        low, high = min(low, ends[0]), max(high, ends[1])
    return low, high


def cosine_points(x: Array, y: Array) -> None:
    """Refuse points at the origin, where the cosine is undefined."""
    for v, name in ((x, "x"), (y, "y")):
        xp = arrays.namespace(v)
        if not xp.all(xp.any(v != 0, axis=-1)):
            raise ValueError(f"metric='cosine' needs points of positive length, got a zero vector in {name}; drop it")


def differentiable(ground: Any, *, or_else: str = "") -> None:
    """Refuse gradients by the points of a distance that is a function."""
    if not isinstance(ground, str):
        raise ValueError(
            f"there is no gradient by the points of {ground}; "
            f"form the costs with it and pass them to otkit.solve{or_else}"
        )


def magnitude(x: np.ndarray, name: str, metric: str) -> None:
    """Refuse coordinates whose sums and differences may overflow."""
    if float(abs(x).max()) > _LARGEST:
        raise ValueError(
            f"metric={metric!r} needs coordinates of at most {_LARGEST:g} in absolute value, got {abs(x).max():.3g} in "
            f"{name}; divide the points by a constant"
        )


def sets(x: np.ndarray, name: str, metric: str) -> None:
    """Refuse points that are not sets, given by coordinates 0 and 1."""
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(
            f"metric={metric!r} compares sets, given by coordinates 0 and 1, got {x[(x != 0) & (x != 1)][0]:g} in "
            f"{name}; pass {name} != 0"
        )


def angles(x: np.ndarray, name: str) -> None:
    """Refuse points that are not latitudes and longitudes in radians."""
    if x.shape[-1] != 2:
        raise ValueError(
            f"metric='haversine' needs points (latitude, longitude), got {x.shape[-1]} coordinates in {name}"
        )
    most = abs(x).max(axis=tuple(range(x.ndim - 1)))
    # A pole in float32 is slightly above π/2.
    if most[0] > math.pi / 2 + 1e-6 or most[1] > 2 * math.pi + 1e-6:
        raise ValueError(
            f"metric='haversine' needs latitudes up to π/2 and longitudes up to 2π, got up to {most[0]:g} and "
            f"{most[1]:g} in {name}; pass np.radians({name}) if they are in degrees, and latitudes first"
        )


def histograms(x: np.ndarray, name: str) -> None:
    """Refuse points that are not proportional to probabilities."""
    if (x < 0).any() or not x.any(-1).all():
        raise ValueError(
            f"metric='jensenshannon' compares histograms, whose coordinates are non-negative and not all 0, got others "
            f"in {name}; clip them or drop those points"
        )


def varied(x: np.ndarray, name: str) -> None:
    """Refuse points whose coordinates are all equal, which have no correlation."""
    if (x.min(-1) == x.max(-1)).any():
        raise ValueError(
            f"metric='correlation' needs points whose coordinates differ, got one with equal coordinates in {name}; "
            "drop it"
        )


def spread(low: float, high: float, smallest: float) -> None:
    """Require coordinates to spread, unless all are equal, at least by the `smallest` distance safe from underflow."""
    if 0 < high - low < smallest:
        raise ValueError(
            f"points must not be so close that costs underflow in float64, got coordinates within "
            f"{high - low:.3g} of each other; multiply the data by a constant"
        )


def weights(w: Array, size: int, name: str) -> None:
    """Require finite, non-negative weights of the right length and of positive total."""
    has_axes(w, 1, name, f"(..., {size})")
    if w.shape[-1] != size:
        raise ValueError(
            f"{name} must have {size} weights, as many as the cost has on that side, got shape {tuple(w.shape)}"
        )
    xp = arrays.namespace(w)
    w = arrays.float64(w)
    with np.errstate(over="ignore", invalid="ignore"):
        total = xp.sum(w, axis=-1)
    if arrays.extremes(w)[0] >= 0 and arrays.every((total > 0) & (total < xp.inf)):  # false also where a weight is NaN
        return
    if xp.any(xp.isnan(w)) or xp.any(w == xp.inf):
        raise ValueError(f"{name} must be finite, got NaN or inf in it; set those weights to 0")
    if xp.any(w < 0):
        raise ValueError(
            f"{name} must be non-negative, got a smallest weight of {float(xp.min(w)):g}; clip or shift it"
        )
    if not xp.all(total > 0):
        raise ValueError(f"{name} must have positive total mass, got a total of 0; give some point a weight")
    raise ValueError(f"{name} must have a finite total mass, but its sum overflows; divide it by a constant")


def batch_shape(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Common shape of the leading axes after broadcasting."""
    some = {shape for shape in shapes.values() if shape}
    if len(some) < 2:
        return some.pop() if some else ()
    try:
        return np.broadcast_shapes(*some)
    except ValueError:
        came = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"leading axes (batch) must broadcast to one shape, got {came}; x[:, None] adds one") from None


def fits(shape: tuple[int, ...], batch: tuple[int, ...], name: str) -> None:
    """Require leading axes that broadcast to the batch of a problem."""
    if len(shape) > len(batch) or any(k not in (1, n) for k, n in zip(shape[::-1], batch[::-1], strict=False)):
        raise ValueError(
            f"leading axes of {name} must broadcast to the batch {batch} of the problem, got {shape}; pass "
            "one for each item"
        )


def numbers(x: Array, name: str) -> None:
    """Require one number, or one for each item."""
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}; pass a number, or one for each item")


def regularisation(reg: Any) -> np.ndarray:
    """`reg` in float64, positive and finite: one number, or one for each item."""
    reg = arrays.to_numpy(as_array(reg, "reg")).astype(np.float64)
    numbers(reg, "reg")
    if not ((reg > 0) & (reg < np.inf)).all():
        if np.any(reg == 0):
            raise ValueError("reg must be positive, got 0; for the unregularised problem pass reg=None")
        worst = reg[~((reg > 0) & np.isfinite(reg))].flat[0]
        raise ValueError(f"reg must be positive and finite, in units of the cost, got {worst:g}; try 0.01 * C.max()")
    if (reg < SMALLEST).any():
        raise ValueError(f"reg must be at least {SMALLEST:.3g}, a normal number, got {reg.min():g}; scale the costs up")
    return reg


def resolved(reg: np.ndarray | None, least: np.ndarray, balanced: np.ndarray) -> None:
    """Require a `reg`, if there is one, of at least ``least (B,)``, below which rounding alone makes an error of 1."""
    if reg is not None and np.any(reg < least):
        k = int(np.argmax(least / reg))
        raise ValueError(
            f"reg must be at least {least[k]:.3g}, the rounding error of the costs, below which the plan would be "
            f"noise, got {reg[k]:g}{f' (item {k})' if reg.size > 1 else ''}; raise reg"
            f"{', or solve without reg' if balanced[k] else ''}"
        )


def equal_mass(
    mass_a: np.ndarray,
    mass_b: np.ndarray,
    a: Array | None,
    b: Array | None,
    *,
    names: str = "a and b",
    otherwise: str = "",
) -> np.ndarray:
    """Relative difference of the masses; ``ValueError`` where it is too large to be rounding of the weights."""
    difference = np.abs(mass_a - mass_b) / (mass_a / 2 + mass_b / 2)
    k = int(np.argmax(difference))
    if difference[k] > math.sqrt(_DOUBLE) and difference[k] > max(allowance(a), allowance(b)):
        raise ValueError(
            f"{names} must have the same total mass, got {mass_a[k]:.9g} and {mass_b[k]:.9g} "
            f"(they differ by {difference[k]:.3g} relative{f', item {k}' if difference.size > 1 else ''}); "
            f"divide each by its sum{otherwise and f', or {otherwise}'}"
        )
    return difference


def product_of_masses(a: Array, b: Array, rho: tuple[np.ndarray, np.ndarray]) -> None:
    """Require Σa·Σb, which is in the objective of unbalanced problems, to be finite: ``a (B, n)``, ``b (B, m)``."""
    if np.minimum(*rho).min() == np.inf:
        return
    mass_a, mass_b = (arrays.to_numpy(w).sum(-1) for w in (a, b))
    k = int(np.argmax(mass_a * mass_b))
    if mass_a[k] * mass_b[k] == np.inf:
        raise ValueError(
            f"the product of the masses of a and b must be finite in float64 with unbalanced=, got {mass_a[k]:.3g} and "
            f"{mass_b[k]:.3g}; divide both by a constant"
        )


def allowance(w: Array | None) -> float:
    """The relative error of a total that rounding may have made: of the dtype of weights, or of one that they had."""
    if w is None:
        return math.sqrt(_DOUBLE)
    xp = arrays.namespace(w)
    unit = float(xp.finfo(w.dtype).eps) / 2 if xp.isdtype(w.dtype, "real floating") else _DOUBLE
    if unit > _DOUBLE or not _was_single(arrays.float64(w)):
        return math.sqrt(unit)
    # That they were float32 is a guess, so no more is allowed than a sum in float32 can lose.
    return min(math.sqrt(_SINGLE), (w.shape[-1] + 16) * _SINGLE)


@np.errstate(over="ignore", invalid="ignore")  # numbers that overflow are none of float32
def _was_single(w: Array) -> bool:
    """Whether all numbers are of float32 and some look rounded: neither whole nor of at most 16 bits."""
    xp = arrays.namespace(w)
    if not xp.all(w == xp.astype(xp.astype(w, xp.float32), xp.float64)):
        return False
    scaled = w * (2.0**37 + 1)
    short = scaled - (scaled - w)  # w rounded to 53 − 37 bits
    return bool(xp.any((w != short) & (w != xp.floor(w))))


def positive(value: float | None, name: str, *, below: float = math.inf) -> None:
    """Require an option to be a positive number, less than `below`."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < below):
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} must be a positive number{limit}, got {value!r}")


def count(value: int | None, name: str) -> None:
    """Require an option to be a positive whole number."""
    positive(value, name)
    if value is not None and value != int(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}; round it")


def fraction(value: float, name: str, of: str) -> None:
    """Require an option to be above 0 and at most 1."""
    if not (isinstance(value, (int, float, np.number)) and 0 < value <= 1):
        raise ValueError(f"{name} must be above 0 and at most 1, a fraction {of}, got {value!r}")
