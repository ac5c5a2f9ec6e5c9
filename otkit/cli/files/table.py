"""Tables: which columns are coordinates, and which are weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otkit.cli.files.measure import Reading, UnusableInput, entries, option

_GROUPED = re.compile(r"[+-]?\d{1,3}([.,'\s]\d{3})+([.,]\d+)?")
# Names of columns that are weights in most files.
_WEIGHTS = {"weight", "weights", "mass", "w"}


class Lacking(UnusableInput):
    """Error for a file without a column that was asked for.

    Attributes
    ----------
    option : str
        The option that asked for it.
    instead : str
        What the entry ``-`` of the option does for this file.
    """

    option: ClassVar[str]
    instead: ClassVar[str]


class NoWeights(Lacking):
    """Error for a file without the column of weights that was asked for."""

    option = "--weights"
    instead = "gives it equal ones"


class NoColumn(Lacking):
    """Error for a file without a column of coordinates that was asked for."""

    option = "--columns"
    instead = "reads all of that file"


def is_number(cell: object) -> bool:
    """Whether a cell is a number or the text of one, with a decimal point."""
    if isinstance(cell, str) and "_" in cell:  # Python allows underscores, files do not
        return False
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Table:
    """Columns of a file, with or without names.

    Attributes
    ----------
    columns : sequence of arrays (n,)
        Numbers; or objects or anything else where a cell is not a number.
    names : sequence of str
        One for each column, or none at all. A column without a name has ``""``.
    numbered : int, optional
        How many columns, from the left, are coordinates and can be called by their number; by default all of them.
    index : sequence of int
        The columns that name or number the rows: no coordinates, if nothing else is said.
    is_index : bool
        Whether that is sure.
    counts : bool
        Whether the first column, which is not in the index, counts the rows all the same.
    first : int
        The number of the first row, in messages.
    layout : str
        How cells are separated, in messages.
    is_number : callable
        Whether a cell of a column of objects is a number.
    notes : tuple of str
        What the user should know of how the file was read.
    """

    columns: Sequence[np.ndarray]
    names: Sequence[str] = ()
    numbered: int | None = None
    index: Sequence[int] = ()
    is_index: bool = True
    counts: bool = False
    first: int = 1
    layout: str = ""
    is_number: Callable[[str], bool] = is_number
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many columns can be called by their number."""
        return len(self.columns) if self.numbered is None else self.numbered

    def lacks(self, column: int) -> float:
        """The share of the cells of a column that are not numbers."""
        values = self.columns[column]
        if values.dtype == object and len(values):
            return sum(not self.is_number(cell) for cell in values) / len(values)
        return 0.0 if values.dtype.kind in "fiub" else 1.0

    def label(self, column: int) -> str:
        """A column, in messages."""
        name = self.names[column] if self.names else ""
        return f"column {name!r}" if name else f"column {column}"

    def spelled(self, columns: Sequence[int]) -> str:
        """The option that picks these columns."""
        ways: list[list[str | int]] = [[*columns], [column - self.width for column in columns]]
        if self.names:  # numbers from the end are no names
            ways.insert(0, [self.names[column] for column in columns])
        found = (way for way in ways if self.means(way, columns))
        return option("--columns", next(found, ways[-1]))

    def means(self, way: Sequence[str | int], columns: Sequence[int]) -> bool:
        """Whether a way to call columns is understood as these."""
        try:
            return find(self, [str(column) for column in way]) == list(columns)
        except UnusableInput:
            return False


def pick(table: Table, how: Reading) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """The coordinates and weights of a table.

    Parameters
    ----------
    table : Table
    how : Reading

    Returns
    -------
    x : array (n, d)
    a : array (n,) or None
        The weights, if there are any.
    notes : tuple of str
    names : tuple of str
        The names of the coordinates, if they were not asked for and the table has names.

    Raises
    ------
    UnusableInput
        If a column is not there or not of numbers, or if it cannot be told which are coordinates.
    """
    weights = None if how.weights in (None, "-") else _weights(table, str(how.weights))
    notes = list(table.notes)
    if how.columns is None:
        every = [column for column in range(table.width) if column != weights]
        chosen = [column for column in every if column not in table.index]
        notes += _of_index(table, every, chosen)
    else:
        chosen = find(table, entries(how.columns))
        if weights in chosen:
            raise UnusableInput(f"{table.label(weights)} is in --columns and is --weights; drop it from one of them")
    if how.weights is None and not how.histogram:
        notes += _unused_weights(table, chosen, how.columns is None)
    _check_numbers(table, chosen, [column for column in range(table.width) if column != weights])
    if weights is not None:
        _check_numbers(table, [weights], [])
    values = [table.columns[column].astype(np.float64) for column in chosen]
    a = None if weights is None else table.columns[weights].astype(np.float64)
    names = tuple(table.names[column] for column in chosen) if table.names and how.columns is None else ()
    return np.stack(values, axis=1) if chosen else np.empty((0, 0)), a, tuple(notes), names


def _of_index(table: Table, every: list[int], chosen: list[int]) -> list[str]:
    """What is to be said of columns that may name or number the rows."""
    left = [column for column in table.index if column in every]
    counts = table.counts and 0 in chosen and len(chosen) > 1
    if not left and not counts:
        return []
    numbers = [column for column in every if table.lacks(column) <= 0.5]
    rest = [column for column in numbers if column in chosen and not (counts and column == 0)]
    if counts:
        return [f"{table.label(0)} counts the rows and is a coordinate; {table.spelled(rest)} leaves it out"]
    what, reads = ", ".join(map(table.label, left)), f"{table.spelled(numbers)} reads it"
    if not table.is_index:
        raise UnusableInput(f"may be an index or a coordinate: {what}; {table.spelled(rest)} leaves it out, {reads}")
    return [f"left out as an index: {what}{f'; {reads}' if set(left) <= set(numbers) else ''}"]


def _weights(table: Table, wanted: str) -> int:
    try:
        return find(table, [wanted])[0]
    except UnusableInput as error:
        raise NoWeights(f"--weights: {error}") from None


def find(table: Table, wanted: list[str]) -> list[int]:
    """Columns by their names or, if not all are names, by their numbers."""
    names = list(table.names)
    twice = next((name for name in wanted if name and names.count(name) > 1), None)
    if twice is not None:
        raise UnusableInput(f"{names.count(twice)} columns are named {twice!r}; give the number of one, from 0")
    if all(name and name in names for name in wanted):
        found = [names.index(name) for name in wanted]
    else:
        # What is neither is told first.
        numbers = {name: _number(table, name) for name in sorted(wanted, key=names.__contains__)}
        found = [numbers[name] for name in wanted]
    if len(set(found)) < len(found):
        raise UnusableInput(f"columns must differ, got {','.join(wanted)}; name each once")
    return found


def _number(table: Table, wanted: str) -> int:
    width = table.width
    named = [name for name in table.names if name]
    has = f"{', '.join(named)}, or by number" if named else "no names, but numbers"
    try:
        column = int(wanted)
    except ValueError:
        if wanted in named:
            mixed = f"columns must be all names or all numbers, got {wanted!r} beside a number"
            raise UnusableInput(f"{mixed}; there are {has} 0 to {width - 1}") from None
        raise NoColumn(f"no column is named {wanted!r}; there are {has} 0 to {width - 1}") from None
    if not -width <= column < width:
        raise NoColumn(f"no column has the number {column}; there are {has} 0 to {width - 1}")
    return column % width


def _unused_weights(table: Table, chosen: list[int], by_default: bool) -> list[str]:
    for column, name in enumerate(table.names):
        if name.lower() not in _WEIGHTS or table.lacks(column) or chosen == [column]:
            continue  # alone it is a coordinate, whatever its name
        if by_default or column not in chosen:
            use = "is read as a coordinate" if column in chosen else "is not used"
            return [f"{table.label(column)} {use}; {option('--weights', [name])} reads it as weights"]
    return []


def _check_numbers(table: Table, wanted: list[int], others: list[int]) -> None:
    """Refuse columns that are not numbers; of the others, tell which are."""
    for column in wanted:
        values = table.columns[column]
        if values.dtype.kind in "fiub":
            continue
        numbers = [j for j in others if table.lacks(j) <= 0.5 and j != column and j not in table.index]
        leave = f"{table.spelled(numbers)} leaves it out" if numbers else ""
        what = f"{table.label(column)} must hold real numbers, got {'text' if values.dtype == object else values.dtype}"
        bad = [not table.is_number(cell) for cell in values] if values.dtype == object else []
        if any(bad):
            cell = values[bad.index(True)]
            held = repr(cell.strip()) if isinstance(cell, str) and cell.strip() else "no number"
            what = f"row {bad.index(True) + table.first} holds {held} in {table.label(column)}, which must be numbers"
        # A column of numbers, with some rows that lack one.
        drop = "drop such rows" if any(bad) and table.lacks(column) <= 0.5 else ""
        if any(bad) and _GROUPED.fullmatch(str(cell).strip()):
            drop = "write numbers without separators of thousands"
        advice = ", or ".join(words for words in (drop, leave) if words) or "save a column of numbers"
        raise UnusableInput(f"{what}{table.layout}; {advice}")
