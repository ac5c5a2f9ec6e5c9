"""The operations for tensors on a GPU, by Triton's kernels.

Each has the name, the arguments and the meaning of its reference in `otkit.geometry.base`.
"""

from __future__ import annotations

import torch

from otkit.geometry.base import Geometry
from otkit.kernels import triton_math as math
from otkit.kernels.triton_tiles import DOUBLE, Precision, Tensor, kernel_costs, programs, shape, solid


def softmin(
    geometry: Geometry,
    g: Tensor,
    log_b: Tensor,
    reg: Tensor,
    *,
    guess: Tensor | None = None,
    precision: Precision = DOUBLE,
) -> Tensor:
    items = g.shape[0]
    form = shape(geometry.n, items, precision)
    out = torch.empty((items, geometry.n), dtype=torch.float64, device=g.device)
    vectors = (solid(v, items) for v in (g, log_b, reg))
    math.softmin[programs(geometry.n, items, form)](
        kernel_costs(geometry), *vectors, guess, out, *precision, form.rows, form.cols, num_warps=form.warps
    )
    return out
