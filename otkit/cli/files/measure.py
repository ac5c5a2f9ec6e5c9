"""Measures: what is read from files, and how it is asked for."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otkit.geometry.grid import Grid


class UnusableInput(ValueError):
    """Error for a file that cannot be read as a measure. The message, of one line, says why and what to do."""


@dataclass(frozen=True)
class Reading:
    """Interpretation of the contents of a file.

    Attributes
    ----------
    weights : str, optional
        The column of weights in a table or 2-D array: a name from its header, or a number from 0. ``"-"`` says that
        there is none.
    histogram : bool
        Whether an array contains masses on a grid, not points.
    unit_square : bool
        Whether a grid spans [0, 1] along its longest side. By default each cell has side 1.
    resize : int, optional
        Maximum number of cells along the longer side, to which images and 2-D histograms are averaged down.
    columns : str, optional
        The columns of coordinates, separated by commas: names, or numbers from 0. By default all but an index and the
        weights.
    key : str, optional
        The name of the array in a file of several. ``"-"`` says that there is none.
    header : bool, optional
        Whether a first row of whole numbers holds the names of columns, where its cells do not tell.
    format : str, optional
        The format of standard input and of files whose name does not tell, as the ending of a name without its dot.
    """

    weights: str | None = None
    histogram: bool = False
    unit_square: bool = False
    resize: int | None = None
    columns: str | None = None
    key: str | None = None
    header: bool | None = None
    format: str | None = None


@dataclass(frozen=True)
class Measure:
    """Points of positive mass.

    Attributes
    ----------
    name : str
    x : array (n, d)
    masses : array (n,)
        As in the file. Whole numbers are exact, and their shares of the total are not.
    grid : tuple of int
        The shape of the grid whose cells are the points; empty for a cloud.
    cell : float
        The side of a cell, in the units of `x`.
    steps, first : tuple of float
        The distances of neighbouring cells along each axis of the grid, and the place of the first cell.
    notes : tuple of str
        What the user should know of how the file was read.
    columns : tuple of str
        The names of the coordinates, if the file has names and the user has not picked.
    """

    name: str
    x: np.ndarray
    masses: np.ndarray
    grid: tuple[int, ...] = ()
    cell: float = 0.0
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    steps: tuple[float, ...] = ()
    first: tuple[float, ...] = ()

    @cached_property
    def a(self) -> np.ndarray:
        """The masses over their total."""
        return self.masses / self.masses.sum()

    def image(self, shape: tuple[int, ...]) -> np.ndarray:
        """The masses of the cells on a grid of this shape, at least that of the own one."""
        out = np.zeros(shape)
        places = np.rint((self.x - np.array(self.first)) / np.array(self.steps)).astype(int)
        out[tuple(places.T)] = self.a
        return out


def common_grid(x: Measure, y: Measure) -> Grid | None:
    """The grid of two images whose cells have the same places, of two or three axes."""
    if not (1 < len(x.grid) <= 3 and (x.steps, x.first) == (y.steps, y.first)):
        return None
    return Grid(tuple(max(sizes) for sizes in zip(x.grid, y.grid, strict=True)), x.steps)


def entries(text: str) -> list[str]:
    """The entries of an option, separated by commas; an entry that has a comma is quoted, as in a table."""
    return [entry.strip() for entry in next(csv.reader([text], skipinitialspace=True), [""])]


def option(name: str, values: Sequence[str | int]) -> str:
    """An option with such entries, as it is typed in a shell."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    text = shlex.quote(line.getvalue())
    return f"{name}={text}" if text.startswith("-") and text != "-" else f"{name} {text}"


def from_masses(name: str, mass: np.ndarray, how: Reading) -> Measure:
    """The measure of masses on a grid of any dimension."""
    if how.weights not in (None, "-"):
        raise UnusableInput(
            "--weights names a column of points, but this is a grid of masses; drop it, or pass - for it"
        )
    if mass.ndim == 0 or mass.size == 0:
        raise UnusableInput(f"a histogram must have at least one cell, got shape {mass.shape}; leave this file out")
    _check_mass(mass)
    full = mass.shape
    if how.resize is not None:
        mass = _averaged(mass, how.resize)
    cells = np.argwhere(mass > 0)
    # Centres of the cells, in cells of the original grid, also after averaging.
    steps = np.array(full) / mass.shape
    x, first, cell = (cells + 0.5) * steps - 0.5, 0.5 * steps - 0.5, max(full) / max(mass.shape)
    if how.unit_square:
        x, first, steps, cell = (x + 0.5) / max(full), (first + 0.5) / max(full), steps / max(full), cell / max(full)
    return Measure(name, x, mass[mass > 0], mass.shape, cell, steps=tuple(steps.tolist()), first=tuple(first.tolist()))


def _averaged(mass: np.ndarray, side: int) -> np.ndarray:
    if mass.ndim != 2:
        raise UnusableInput(
            f"--resize works on images and 2-D histograms, got shape {mass.shape}; drop it, or save a 2-D array"
        )
    scale = min(1.0, side / max(mass.shape))
    rows, columns = (_shares(size, max(1, round(size * scale))) for size in mass.shape)
    return rows @ mass @ columns.T


def _shares(size: int, count: int) -> np.ndarray:
    """Fraction of each of `size` cells that lies in each of `count` equal intervals: ``(count, size)``."""
    edges, cells = np.linspace(0, size, count + 1), np.arange(size)
    return np.clip(np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells), 0, None)


def from_points(name: str, x: np.ndarray, a: np.ndarray | None, how: Reading) -> Measure:
    """The measure of points ``(n, d)`` with weights ``(n,)``, by default equal."""
    if how.resize is not None or how.unit_square:
        raise UnusableInput(
            "--resize and --unit-square are for images and histograms, but this holds points; drop them, or pass"
            " --histogram if it holds masses"
        )
    if a is None:
        a = np.ones(len(x))
    if not (np.isfinite(x).all() and np.isfinite(a).all()):
        row = int(np.argmin(np.isfinite(x).all(axis=1) & np.isfinite(a)))
        raise UnusableInput(
            f"points and weights must be finite, but point {row}, from 0, has NaN or inf; drop such rows"
        )
    if x.size == 0:
        raise UnusableInput(f"must hold at least one point of one coordinate, got shape {x.shape}; save one a row")
    _check_mass(a)
    kept = a > 0
    return Measure(name, x[kept], a[kept])


def _check_mass(mass: np.ndarray) -> None:
    if not np.isfinite(mass).all():
        raise UnusableInput("masses must be finite, got NaN or inf; set those cells to 0")
    if (mass < 0).any():
        raise UnusableInput(f"masses must be non-negative, got {mass.min():g}; is it the right column or array?")
    with np.errstate(over="ignore"):
        total = mass.sum()
    if total == 0:
        raise UnusableInput("total mass must be positive, got 0; leave this file out")
    if total == np.inf:
        raise UnusableInput("total mass must be finite, got inf; divide the masses by their maximum")
