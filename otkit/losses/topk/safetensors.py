"""A teacher's leading entries in files of safetensors."""

from __future__ import annotations

import os

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from otkit.losses.topk.files import missing


def write(path: str | os.PathLike[str], indices: Tensor, logprobs: Tensor, metadata: dict[str, str]) -> None:
    """Write both tensors."""
    save_file({"indices": indices, "logprobs": logprobs}, path, metadata)


def read(path: str | os.PathLike[str], rows: slice) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Some rows of both tensors, and the metadata."""
    with safe_open(path, framework="pt") as file:
        if not {"indices", "logprobs"} <= set(file.keys()):
            raise missing(path, list(file.keys()))
        indices, logprobs = (file.get_slice(name)[rows] for name in ("indices", "logprobs"))
        return indices, logprobs, file.metadata() or {}
