"""From the names of files to measures."""

from __future__ import annotations

import difflib
import glob
import gzip
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from otkit.cli.files.measure import (
    Measure,
    Reading,
    UnusableInput,
    entries,
    from_masses,
    from_points,
    option,
)
from otkit.cli.files.table import Lacking, Table, pick

TEXTS, ARRAYS, TABLES = ("csv", "tsv", "txt"), ("npy", "npz"), ("parquet", "feather")
IMAGES = ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "pgm", "webp")
FORMATS = (*ARRAYS, *TEXTS, "json", *TABLES, "h5ad", *IMAGES)
_KEYED = ("npz", "npy", "h5ad")
_AS_IT_IS = Reading()
_PACKAGES = {"parquet": "pyarrow", "feather": "pyarrow", "h5ad": "h5py"}


def expand(arguments: Iterable[str], outputs: Iterable[str | None] = ()) -> list[str]:
    """The files of a command: those of a folder, and those that match a pattern, in the order of their names.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders and patterns; ``"-"`` is standard input.
    outputs : iterable of str or None
        Files that the command writes, which are none of a folder's.

    Returns
    -------
    list of str

    Raises
    ------
    UnusableInput
        If a folder or pattern has no file, or standard input occurs twice.
    """
    written = {os.path.realpath(path) for path in outputs if path}
    files: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            candidates = sorted(str(path) for path in Path(argument).iterdir() if _known(path.name))
            lacking = f"{argument}: no file in this folder can be read; formats are {', '.join(FORMATS)}"
        elif argument == "-" or os.path.exists(argument) or not glob.has_magic(argument):
            files.append(argument)
            continue
        else:
            candidates, lacking = sorted(glob.glob(argument)), f"{argument}: no such file; no name matches"
        found = [path for path in candidates if os.path.isfile(path) and os.path.realpath(path) not in written]
        if not found:
            raise UnusableInput(lacking)
        files += found
    if files.count("-") > 1:
        raise UnusableInput("-: standard input can be read once; save it to a file for the other")
    return files


def _known(name: str) -> bool:
    return not name.startswith(".") and _ending(name) in FORMATS


def _ending(path: str) -> str:
    """The ending of a name, without that of a compressed file."""
    return Path(path.lower().removesuffix(".gz")).suffix.removeprefix(".")


def read_all(
    paths: Sequence[str],
    how: Reading = _AS_IT_IS,
    *,
    columns: Sequence[str] = (),
    weights: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> list[Measure]:
    """Read measures from files.

    Parameters
    ----------
    paths : sequence of str
    how : Reading
    columns, weights, keys : sequence of str
        One for each file, or one for all, in place of those of `how`. The columns ``"-"`` are those of `how`.

    Returns
    -------
    list of Measure

    Raises
    ------
    UnusableInput
        If a file is not a measure, or if an option has too many entries or applies to no file.
    """
    if how.format is not None and all(path != "-" and _ending(path) in FORMATS for path in paths):
        raise UnusableInput("--format: the name of each file tells its format; drop --format")
    asked = {"--columns": columns, "--weights": weights, "--key": keys}
    each = {name: _spread(name, values, len(paths)) for name, values in asked.items()}
    measures: list[Measure] = []
    lacking: dict[int, Lacking] = {}
    for number, (path, chosen, weight, key) in enumerate(zip(paths, *each.values(), strict=True)):
        picked = how.columns if chosen == "-" else chosen
        try:
            measures.append(read(path, replace(how, columns=picked, weights=weight, key=key)))
        except Lacking as error:
            lacking[number] = error
    if lacking:
        raise _instead(lacking, each)
    return measures


def _spread(name: str, values: Sequence[str], count: int) -> Sequence[str | None]:
    if len(values) not in (0, 1, count):
        commas = "" if name == "--columns" else "; quote one that has commas"
        raise UnusableInput(
            f"{name} must be given once for all files, or for each of the {count}, got {len(values)}{commas}"
        )
    return values if len(values) == count else [*values, None][:1] * count


def _instead(lacking: dict[int, Lacking], each: dict[str, Sequence[str | None]]) -> UnusableInput:
    """The first of the errors, with an option that fits all files that it asks for columns which they lack."""
    first = next(iter(lacking.values()))
    name = first.option
    without = [number for number, error in lacking.items() if error.option == name]
    rest = ["-" if number in without else entry or "-" for number, entry in enumerate(each[name])]
    if set(rest) == {"-"}:
        return UnusableInput(f"{first}; drop {name}, or name one of those")
    # Columns have commas themselves.
    fits = " ".join(option(name, entries(e)) for e in rest) if name == "--columns" else option(name, rest)
    return UnusableInput(f"{first}; {fits} {first.instead}, or name one of those")


def notes(measures: Iterable[Measure]) -> list[str]:
    """What the user should know of how files were read, once for all files of which it is true."""
    files: dict[str, list[str]] = {}
    for measure in measures:
        for note in measure.notes:
            files.setdefault(note, []).append(measure.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}" for note, names in files.items()
    ]


def read(path: str, how: Reading = _AS_IT_IS) -> Measure:
    """Read a measure from a file of any of the formats.

    Parameters
    ----------
    path : str
        ``"-"`` is standard input.
    how : Reading

    Returns
    -------
    Measure
        The measure, without points of zero mass.

    Raises
    ------
    UnusableInput
        If the file is missing, unreadable or does not contain a measure.
    """
    kind = _format(path, how)
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        data = gzip.decompress(data) if path.lower().endswith(".gz") else data
        return _measure(path, _contents(data, kind, how), kind, how)
    except UnusableInput as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:  # the message of the library that read the broken file, in one line
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnusableInput(f"{path}: cannot be read as {kind} ({reason}); is it whole, and of that format?") from None


def _nearest(path: str) -> str:
    """What may be meant by the path of a file that is not there."""
    folder, name = os.path.split(path)
    there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = difflib.get_close_matches(name, there, n=1)
    return f"is it {os.path.join(folder, near[0])}?" if near else "check its folder and its ending"


def _format(path: str, how: Reading) -> str:
    if path != "-" and not os.path.isfile(path):
        raise UnusableInput(f"{path}: no such file; {_nearest(path)}")
    kind = _ending(path)
    if path == "-" or kind not in FORMATS:
        if how.format is None:
            what = "standard input has no name that tells its format" if path == "-" else "unknown file type"
            never = ", and pickles are never loaded" if kind in ("pkl", "pickle", "pt", "joblib") else ""
            raise UnusableInput(f"{path}: {what}{never}; pass --format with one of {', '.join(FORMATS)}")
        kind = how.format
    package = _PACKAGES.get(kind)
    if package and find_spec(package) is None:
        raise UnusableInput(f"{path}: needs {package}; pip install 'otkit[table]'")
    if how.key not in (None, "-") and kind not in _KEYED:
        raise UnusableInput(f"{path}: --key is for .npz and .h5ad; drop it, or pass - for it")
    return kind


def _contents(data: bytes, kind: str, how: Reading) -> np.ndarray | Table:
    """What is in a file. What reads it is loaded when needed, so that the command line starts at once."""
    if kind in TEXTS:
        from otkit.cli.files.text import read_text

        return read_text(data, kind, how)
    if kind in TABLES:
        from otkit.cli.files.pyarrow import read_arrow

        return read_arrow(data, kind)
    if kind == "h5ad":
        from otkit.cli.files.h5py import read_h5ad

        return read_h5ad(data, how)
    if kind in IMAGES:
        from otkit.cli.files.images import read_image

        return read_image(data)
    from otkit.cli.files.arrays import read_json, read_numpy

    return read_json(data) if kind == "json" else read_numpy(data, how)


def _measure(path: str, contents: np.ndarray | Table, kind: str, how: Reading) -> Measure:
    masses = kind in IMAGES or how.histogram
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    weights = None
    if isinstance(contents, np.ndarray):
        if contents.dtype.kind not in "fiub":
            raise UnusableInput(f"must hold real numbers, got {contents.dtype}; save numbers")
        if not masses and contents.ndim != 2:
            raise UnusableInput(
                f"points must be a 2-D array (n, d), got shape {contents.shape}; pass --histogram if it holds masses"
            )
        if contents.ndim == 2 and kind not in IMAGES:
            contents = Table(list(contents.T))
    if isinstance(contents, Table):
        values, weights, notes, names = pick(contents, how)
    elif how.columns is not None:
        raise UnusableInput(
            "--columns picks columns of tables, but this is a grid of masses; drop it, or pass - for it"
        )
    else:
        values = contents.astype(np.float64)
    if not masses:
        return replace(from_points(path, values, weights, how), notes=notes, columns=names)
    if kind not in IMAGES and values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    return replace(from_masses(path, values, how), notes=notes)
