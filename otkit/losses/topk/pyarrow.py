"""A teacher's leading entries in files of Parquet."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from torch import Tensor

from otkit.losses.topk.files import missing


def write(path: str | os.PathLike[str], indices: Tensor, logprobs: Tensor, metadata: dict[str, str]) -> None:
    """Write both as lists of the entries that a row knows."""
    there = (indices >= 0).numpy()
    offsets = pyarrow.array(np.concatenate([[0], there.sum(-1).cumsum()]), pyarrow.int32())
    wide = logprobs.float() if logprobs.dtype == torch.bfloat16 else logprobs  # which Arrow does not have
    columns = {
        name: pyarrow.ListArray.from_arrays(offsets, pyarrow.array(v.numpy()[there]))
        for name, v in (("indices", indices), ("logprobs", wide))
    }
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), path)


def read(path: str | os.PathLike[str], rows: slice) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Some rows of both columns, padded, and the metadata."""
    names = parquet.read_schema(path).names
    if not {"indices", "logprobs"} <= set(names):
        raise missing(path, names)
    table = parquet.read_table(path, columns=["indices", "logprobs"])
    start, stop, _ = rows.indices(len(table))
    table = table.slice(start, max(0, stop - start))
    indices, logprobs = _padded(table["indices"], -1), _padded(table["logprobs"], -np.inf)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return torch.from_numpy(indices.astype(np.int64)), torch.from_numpy(logprobs), metadata


def _padded(column: Any, gap: float) -> np.ndarray:
    """Lists of a column as rows of one length."""
    lists = pyarrow.concat_arrays(column.chunks)
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    out = np.full((len(lengths), max(1, lengths.max(initial=0))), gap, dtype=values.dtype)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out
