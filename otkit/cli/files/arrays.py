"""Arrays of NumPy, and of numbers in JSON. Pickled objects are never loaded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from otkit.cli.files.measure import Reading, UnusableInput, option
from otkit.cli.files.table import Table

_T = TypeVar("_T")


def read_numpy(data: bytes, how: Reading) -> np.ndarray | Table:
    """Read an array from the bytes of an ``.npy`` or ``.npz`` file.

    Parameters
    ----------
    data : bytes
    how : Reading
        Its key is the name of the array, which may be left out if there is only one.

    Returns
    -------
    array or Table
        A table if other arrays have one number for each point: they may be weights.

    Raises
    ------
    UnusableInput
        If the array is not there, or is none, or holds Python objects.
    """
    loaded = _without_pickle(lambda: np.load(io.BytesIO(data), allow_pickle=False))
    if isinstance(loaded, np.ndarray):
        if how.key not in (None, "-"):
            raise UnusableInput("--key names one of several arrays, but this file holds one without a name; drop it")
        return loaded
    with loaded as file:
        key = key_of(file.files, how.key, "array")
        array: np.ndarray = _without_pickle(lambda: file[key])
        if array.ndim != 2 or how.histogram:
            return array
        others = [name for name in file.files if name != key]
        return with_weights(array, _without_pickle(lambda: {name: file[name] for name in others}))


def _without_pickle(load: Callable[[], _T]) -> _T:
    try:
        return load()
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise UnusableInput(
            "is no array, or holds Python objects, which may run code and are never loaded; save numbers, as"
            " numpy.save(path, x.astype(float))"
        ) from None


def key_of(names: Sequence[str], wanted: str | None, what: str) -> str:
    """The name of an array in a file of several; without a wanted one, the only one."""
    if wanted not in (None, "-"):
        if wanted not in names:
            raise UnusableInput(f"no {what} is named {wanted!r}; pass --key with one of {', '.join(names)}")
        return str(wanted)
    if len(names) != 1:
        has = (
            f"{len(names)} ({', '.join(names)}); {option('--key', names[:1])} picks the first"
            if names
            else "0; save one"
        )
        raise UnusableInput(f"must hold one {what}, got {has}")
    return names[0]


def with_weights(x: np.ndarray, others: Mapping[str, np.ndarray]) -> Table:
    """Points ``(n, d)`` as a table, beside those arrays that have one number for each."""
    beside = {name: values for name, values in others.items() if values.shape == x.shape[:1]}
    width = x.shape[1]
    names = [""] * width + list(beside) if beside else []
    return Table([*x.T, *beside.values()], names, numbered=width)


def read_json(data: bytes) -> np.ndarray | Table:
    """Read an array of numbers, nested by rows, or a list of records.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    array or Table

    Raises
    ------
    UnusableInput
        If it is neither.
    """
    value = json.loads(data)
    if not isinstance(value, list):
        raise UnusableInput(
            f"must hold a list of rows or of records, got {'an object' if isinstance(value, dict) else repr(value)};"
            " pandas writes one by to_json(path, orient='records')"
        )
    if value and all(isinstance(record, dict) for record in value):
        return _records(value)
    array = np.asarray(value)
    return array if array.dtype != object else np.asarray(value, dtype=np.float64)  # null is NaN


def _records(records: list[dict[str, Any]]) -> Table:
    names = list(records[0])
    for number, record in enumerate(records):
        if record.keys() != records[0].keys():
            differ = sorted(record.keys() ^ records[0].keys())
            raise UnusableInput(
                f"records must have the same keys, but record {number} and the first differ in {', '.join(differ)};"
                " write null where there is no value"
            )
    columns = [_column([record[name] for record in records]) for name in names]
    return Table(columns, names)


def _column(values: list[Any]) -> np.ndarray:
    if all(value is None or isinstance(value, (bool, int, float)) for value in values):
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
