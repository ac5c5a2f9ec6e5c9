"""Validation of input data. Every message says what must hold, what was passed and what to do.

Data are checked here once. Code below the public functions relies on it and does not check again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from otkit import arrays
from otkit.arrays import Array


def as_array(x: Any, name: str) -> Array:
    """`x` as an array of its own library; anything that is no array is converted to NumPy."""
    if not arrays.is_array(x):
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of numbers, got a ragged sequence: {error}") from None
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; convert it first")
        if x.dtype.itemsize > 8:
            raise TypeError(f"{name} must be float64 or narrower, got {x.dtype}; convert it with .astype(float)")
    elif arrays.namespace(x).isdtype(x.dtype, "complex floating"):
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; pass its real part")
    return x


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
        raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")


def points(x: Array, y: Array) -> tuple[float, float]:
    """Require finite points, of the same dimension in both clouds; the smallest and the largest coordinate."""
    low, high = math.inf, -math.inf
    for v, name, shape in ((x, "x", "(..., n, d)"), (y, "y", "(..., m, d)")):
        if v.ndim == 1:
            raise ValueError(
                f"{name} must have shape {shape}, got shape {tuple(v.shape)}; for points on a line pass {name}[:, None]"
            )
        has_axes(v, 2, name, shape)
        ends = arrays.extremes(v)
        if not all(map(math.isfinite, ends)):
            raise ValueError(f"{name} must be finite, got NaN or inf in it; drop those points")
        low, high = min(low, ends[0]), max(high, ends[1])
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"points of x and y must have the same dimension, got {x.shape[-1]} and {y.shape[-1]} "
            f"(shapes {tuple(x.shape)} and {tuple(y.shape)})"
        )
    return low, high


def cosine_points(x: Array, y: Array) -> None:
    """Refuse points at the origin, where the cosine is undefined."""
    for v, name in ((x, "x"), (y, "y")):
        xp = arrays.namespace(v)
        if not xp.all(xp.any(v != 0, axis=-1)):
            raise ValueError(f"metric='cosine' needs points of positive length, got a zero vector in {name}; drop it")


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
    total = xp.sum(w, axis=-1)
    if arrays.extremes(w)[0] >= 0 and arrays.every((total > 0) & (total < xp.inf)):  # false also where a weight is NaN
        return
    if xp.any(xp.isnan(w)) or xp.any(w == xp.inf):
        raise ValueError(f"{name} must be finite, got NaN or inf in it")
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
        raise ValueError(f"leading (batch) axes must broadcast against each other, got {came}") from None


def regularisation(reg: Any) -> np.ndarray:
    """`reg` in float64, positive and finite: one number, or one for each item."""
    reg = arrays.to_numpy(as_array(reg, "reg")).astype(np.float64)
    if not ((reg > 0) & (reg < np.inf)).all():
        if np.any(reg == 0):
            raise ValueError("reg must be positive, got 0; for the unregularised problem pass reg=None")
        worst = reg[~((reg > 0) & np.isfinite(reg))].flat[0]
        raise ValueError(f"reg must be positive and finite, in units of the cost, got {worst:g}")
    return reg


_EXACT = np.array(np.inf), np.array(np.inf)


def penalties(unbalanced: Any, reg: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """ρ of the rows and of the columns in float64: non-negative, ``inf`` for an exact marginal."""
    if unbalanced is None:
        return _EXACT
    pair = unbalanced if isinstance(unbalanced, tuple) else (unbalanced, unbalanced)
    if len(pair) != 2:
        raise ValueError(f"unbalanced must be one penalty or a pair (rho_a, rho_b), got a tuple of {len(pair)}")
    rho_a, rho_b = (arrays.to_numpy(as_array(r, "unbalanced")).astype(np.float64) for r in pair)
    for rho in (rho_a, rho_b):
        if not np.all(rho >= 0):
            raise ValueError(
                f"unbalanced must be non-negative, in units of the cost, got {rho[~(rho >= 0)].flat[0]:g}; "
                "inf makes a marginal exact, 0 leaves it free"
            )
    if reg is None:
        raise ValueError("an unbalanced problem needs a reg in this version, got reg=None; pass reg=")
    return rho_a, rho_b


def one_penalty(unbalanced: Any) -> None:
    """Refuse a pair of penalties: a divergence has the same penalty on both sides."""
    if isinstance(unbalanced, tuple):
        raise ValueError(f"unbalanced must be one penalty for both sides of a divergence, got {unbalanced!r}; pass one")


def equal_mass(mass_a: np.ndarray, mass_b: np.ndarray, unit: float) -> np.ndarray:
    """Relative difference of the masses; ``ValueError`` where it is too large to be rounding."""
    difference = np.abs(mass_a - mass_b) / (mass_a / 2 + mass_b / 2)
    if (difference > math.sqrt(unit)).any():
        k = int(np.argmax(difference))
        raise ValueError(
            f"a and b must have the same total mass, got {mass_a[k]:.9g} and {mass_b[k]:.9g} "
            f"(they differ by {difference[k]:.3g} relative{f', item {k}' if difference.size > 1 else ''}); "
            "divide each by its sum, or pass unbalanced="
        )
    return difference


def positive(value: float | None, name: str, *, below: float = math.inf) -> None:
    """Require an option to be a positive number, less than `below`."""
    if value is not None and not (isinstance(value, (int, float, np.number)) and 0 < value < below):
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} must be a positive number{limit}, got {value!r}")


def fraction(value: float, name: str, of: str) -> None:
    """Require an option to be above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, a fraction {of}, got {value!r}")
