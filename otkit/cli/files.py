"""Reading of measures from files, and writing of plans to files."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otkit.results.result import Result

ARRAYS, TABLES, IMAGES = (".npy", ".npz"), (".csv", ".tsv"), (".png", ".jpg", ".jpeg")


class UnusableInput(ValueError):
    """Error for a file that cannot be read as a measure. The message, of one line, says why and what to do."""


@dataclass(frozen=True)
class Reading:
    """Interpretation of the contents of a file.

    Attributes
    ----------
    weights : str, optional
        The column of weights in a table or 2-D array: a name from its header, or a number from 0.
    histogram : bool
        Whether an array contains masses on a grid, not points.
    unit_square : bool
        Whether a grid spans [0, 1] along its longest side. By default each cell has side 1.
    resize : int, optional
        Maximum number of cells along the longer side, to which images and 2-D histograms are averaged down.
    """

    weights: str | None = None
    histogram: bool = False
    unit_square: bool = False
    resize: int | None = None


@dataclass(frozen=True)
class Measure:
    """Points of positive mass, with masses that sum to 1.

    Attributes
    ----------
    name : str
    x : array (n, d)
    a : array (n,)
    grid : tuple of int
        The shape of the grid whose cells are the points; empty for a cloud.
    cell : float
        The side of a cell, in the units of `x`.
    """

    name: str
    x: np.ndarray
    a: np.ndarray
    grid: tuple[int, ...] = ()
    cell: float = 0.0


def read(path: str, how: Reading = Reading()) -> Measure:
    """Read a measure from ``.npy``, ``.npz``, ``.csv``, ``.tsv``, ``.png`` or ``.jpg``.

    Parameters
    ----------
    path : str
    how : Reading

    Returns
    -------
    Measure
        The measure, without points of zero mass, normalised to total mass 1.

    Raises
    ------
    UnusableInput
        If the file is missing, unreadable or does not contain a measure.
    """
    kind = Path(path).suffix.lower()
    if not Path(path).is_file():
        raise UnusableInput(f"{path}: no such file")
    names: list[str] = []
    try:
        if kind in IMAGES:
            return _grid(path, _image(path), how)
        if kind in ARRAYS:
            values = _array(path)
        elif kind in TABLES:
            values, names = _table(path, "," if kind == ".csv" else "\t")
        else:
            raise UnusableInput(f"{path}: unknown file type; use one of {', '.join(ARRAYS + TABLES + IMAGES)}")
    except UnusableInput:
        raise
    except Exception as error:  # the message of the library that read the broken file, in one line
        raise UnusableInput(
            f"{path}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    if values.dtype.kind not in "fiub":
        raise UnusableInput(f"{path}: must hold real numbers, got {values.dtype}")
    values = values.astype(np.float64)
    if not how.histogram:
        return _points(path, values, names, how)
    return _grid(path, values.reshape(-1) if values.ndim == 2 and 1 in values.shape else values, how)


def save_plan(path: str, result: Result, x: Measure, y: Measure, distance: float) -> None:
    """Write the arcs of a plan, their end points and the distance to an ``.npz`` file."""
    arcs = result.plan_sparse()
    np.savez_compressed(
        path, row=arcs.row, col=arcs.col, mass=arcs.mass, x=x.x, y=y.x, a=x.a, b=y.a, distance=np.float64(distance)
    )


def _image(path: str) -> np.ndarray:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # otkit has its own limit on size
        image = Image.open(path, formats=("PNG", "JPEG"))
    with image:
        if image.mode.startswith("I"):  # 16 bits, grey already
            return np.asarray(image, dtype=np.float64)
        colours = image.convert("RGBA") if image.mode == "P" else image
        return np.asarray(colours.convert("RGB").convert("L"), dtype=np.float64)


def _array(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                came = f"{len(loaded.files)} ({', '.join(loaded.files)})"
                raise UnusableInput(
                    f"{path}: must hold one array, got {came}; save the points, weights included, as one"
                )
            return loaded[loaded.files[0]]


def _table(path: str, delimiter: str) -> tuple[np.ndarray, list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not rows:
        raise UnusableInput(f"{path}: is empty")
    names: list[str] = []
    if not all(_is_number(cell) for cell in rows[0]):
        names, rows = [cell.strip() for cell in rows[0]], rows[1:]
    width = len(names or rows[0])
    for number, row in enumerate(rows, start=1 + bool(names)):
        wrong = next((cell for cell in row if not _is_number(cell)), None)
        if wrong is not None:
            raise UnusableInput(f"{path}: row {number} holds {wrong.strip()!r}, which is not a number")
        if len(row) != width:
            raise UnusableInput(f"{path}: row {number} has {len(row)} cells, the first has {width}")
    return np.array(rows, dtype=np.float64).reshape(len(rows), width), names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _grid(path: str, mass: np.ndarray, how: Reading) -> Measure:
    if how.weights is not None:
        raise UnusableInput(f"{path}: --weights names a column of points, but this is a grid of masses; drop it")
    if mass.ndim == 0 or mass.size == 0:
        raise UnusableInput(f"{path}: a histogram must have at least one cell, got shape {mass.shape}")
    _check_mass(path, mass)
    full = mass.shape
    if how.resize is not None:
        mass = _averaged(path, mass, how.resize)
    cells = np.argwhere(mass > 0)
    # Centres of the cells, in cells of the original grid, also after averaging.
    x = (cells + 0.5) * (np.array(full) / mass.shape) - 0.5
    cell = max(full) / max(mass.shape)
    if how.unit_square:
        x, cell = (x + 0.5) / max(full), cell / max(full)
    a = mass[mass > 0]
    return Measure(path, x, a / a.sum(), mass.shape, cell)


def _averaged(path: str, mass: np.ndarray, side: int) -> np.ndarray:
    if mass.ndim != 2:
        raise UnusableInput(f"{path}: --resize works on images and 2-D histograms, got shape {mass.shape}")
    scale = min(1.0, side / max(mass.shape))
    rows, columns = (_shares(size, max(1, round(size * scale))) for size in mass.shape)
    return rows @ mass @ columns.T


def _shares(size: int, count: int) -> np.ndarray:
    """Fraction of each of `size` cells that lies in each of `count` equal intervals: ``(count, size)``."""
    edges, cells = np.linspace(0, size, count + 1), np.arange(size)
    return np.clip(np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells), 0, None)


def _points(path: str, values: np.ndarray, names: list[str], how: Reading) -> Measure:
    if how.resize is not None or how.unit_square:
        raise UnusableInput(f"{path}: --resize and --unit-square are for images and histograms, but this holds points")
    if values.ndim != 2:
        raise UnusableInput(
            f"{path}: points must be a 2-D array (n, d), got shape {values.shape}; pass --histogram if it holds masses"
        )
    if not np.isfinite(values).all():
        raise UnusableInput(f"{path}: holds NaN or inf; drop those rows")
    x, a = values, np.ones(len(values))
    if how.weights is not None:
        column = _column(path, how.weights, names, values.shape[1])
        x, a = np.delete(values, column, axis=1), values[:, column]
    if x.size == 0:
        raise UnusableInput(f"{path}: must hold at least one point of one coordinate, got shape {x.shape}")
    _check_mass(path, a)
    kept = a > 0
    return Measure(path, x[kept], a[kept] / a.sum())


def _column(path: str, wanted: str, names: list[str], width: int) -> int:
    if wanted in names:
        return names.index(wanted)
    try:
        column = int(wanted)
    except ValueError:
        known = f"the header has {', '.join(names)}" if names else "it has no header"
        raise UnusableInput(f"{path}: no column named {wanted!r} ({known}); or give its number, from 0") from None
    if not -width <= column < width:
        raise UnusableInput(f"{path}: --weights {column} is out of range, there are columns 0 to {width - 1}")
    return column % width


def _check_mass(path: str, mass: np.ndarray) -> None:
    if not np.isfinite(mass).all():
        raise UnusableInput(f"{path}: masses must be finite, got NaN or inf")
    if (mass < 0).any():
        raise UnusableInput(f"{path}: masses must be non-negative, got {mass.min():g}")
    with np.errstate(over="ignore"):
        total = mass.sum()
    if not 0 < total < np.inf:
        raise UnusableInput(f"{path}: total mass must be positive and finite, got {total:g}")
