"""The tensors that losses take: dense, and with numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from otkit import arrays, checks


def check_tensor(name: str, v: Any, *, floating: bool = True) -> None:
    """Complain about what is no dense tensor of real numbers, or of another dtype than a floating one."""
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(v).__name__}; torch.as_tensor converts arrays and lists")
    if arrays.batched(v):  # entries decide nothing there
        raise TypeError(f"{name} is in torch.func.vmap, which otkit does not support; pass a leading batch axis")
    if v.is_nested or v.layout != torch.strided:
        came, instead = ("a nested one", "pad it, with a mask") if v.is_nested else (v.layout, "pass its .to_dense()")
        raise TypeError(f"{name} must be a dense tensor, got {came}; {instead}")
    if v.device.type == "meta":
        raise ValueError(f"{name} must hold numbers, got a tensor on the meta device; materialise it first")
    if v.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {v.dtype}; pass its real part")
    if floating and not v.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {v.dtype}; pass its .float()")


def check_option(name: str, value: Any) -> None:
    """Complain about an option that is no positive number, and no tensor of one, which may be learned."""
    if not isinstance(value, Tensor):
        checks.positive(value, name)
    elif value.numel() != 1 or not bool(value > 0):
        raise ValueError(
            f"{name} must be one positive number, got {value.detach()}; learn its logarithm to keep it positive"
        )


def as_mask(name: str, mask: Tensor) -> Tensor:
    """A mask of any dtype as bool: True where it is not 0."""
    if mask.dtype == torch.bool:
        return mask
    if not bool((mask >= 0).all()):
        raise ValueError(
            f"{name} must be 0 where nothing takes part, got negative entries or NaN; of an additive mask pass "
            "mask == 0, and of labels labels != -100"
        )
    return mask != 0


def numbered(name: str, mask: Tensor) -> Tensor:
    """`as_mask`, or the numbers of packed documents: whole numbers, of which some are above 1."""
    there = as_mask(name, mask)
    whole = mask.dtype != torch.bool and not mask.is_floating_point()
    return mask.long() if whole and bool((mask > 1).any()) else there


def as_numpy(v: Tensor) -> np.ndarray:
    """A tensor of the CPU as an array in the order of C, which shares its memory where it can."""
    found: np.ndarray = v.detach().contiguous().resolve_neg().numpy()
    return found


def shown(value: float | Tensor) -> str:
    """An option in the `repr` of a module."""
    if isinstance(value, Tensor) and value.ndim:
        return f"tensor {tuple(value.shape)}"
    return f"{float(value.detach() if isinstance(value, Tensor) else value):g}"
