"""Parquet and Feather files, by pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import feather, parquet

from otkit.cli.files.measure import UnusableInput
from otkit.cli.files.table import Table


def read_arrow(data: bytes, kind: str) -> Table:
    """Read a table; the index of pandas is none of its coordinates.

    Parameters
    ----------
    data : bytes
    kind : str
        The ending of the file's name: ``"parquet"`` or ``"feather"``.

    Returns
    -------
    Table
    """
    source = pa.BufferReader(data)
    table = parquet.read_table(source) if kind == "parquet" else feather.read_table(source)
    names = [str(name) for name in table.column_names]
    if not names:
        raise UnusableInput("has no columns; save at least one")
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    columns = [_numbers(column) for column in table.columns]
    return Table(columns, names, index=[column for column, name in enumerate(names) if name in index])


def _numbers(column: Any) -> np.ndarray:
    # Decimals would be Python objects.
    return (column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column).to_numpy()
