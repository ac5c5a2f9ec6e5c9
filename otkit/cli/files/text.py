"""Tables in text: delimiters, decimal commas, names of columns, and indices as pandas and R write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from otkit.cli.files.measure import Reading, UnusableInput
from otkit.cli.files.table import Table, is_number

# In the order in which they are preferred where several read a file equally well.
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_DIVIDES = re.compile(r"[,;\t|]")
_COMMA = re.compile(r"\s*[+-]?(\d+(,\d+)?|,\d+)(e[+-]?\d+)?\s*|\s*[+-]?(nan|inf)\s*", re.IGNORECASE | re.ASCII)
_SEP = re.compile(r'"?sep=([,;\t| ]|\\t)"?\n', re.IGNORECASE)
# How much of a file decides on its layout: characters for the delimiter, rows for the header.
_SAMPLE, _ROWS = 2**16, 100
# Names of columns that may number the rows.
_INDEX = {"", "index", "id", "row"}
# Those that pandas writes and makes up for an index.
_UNNAMED = {"", "unnamed: 0"}
# A cell without any of this, or that stands for a missing value, is no name of a column.
_NAME = re.compile(r"[^\d\s.,+_-]")
_MISSING = {"na", "n/a", "<na>", "#n/a", "null", "none"}

_Rows = list[list[str]]


@dataclass(frozen=True)
class _Layout:
    """A delimiter, and how many columns of text it makes. Those that have other delimiters count twice."""

    delimiter: str
    texts: int


def read_text(data: bytes, kind: str, how: Reading) -> Table:
    """Read a table from text.

    Parameters
    ----------
    data : bytes
    kind : str
        The ending of the file's name: ``"csv"``, ``"tsv"`` or ``"txt"``.
    how : Reading

    Returns
    -------
    Table

    Raises
    ------
    UnusableInput
        If the rows differ in length, or if it cannot be told whether the first is a header.
    """
    text, named = _named(_decoded(data))
    text, comment = _uncommented(text)
    if not text.strip():
        raise UnusableInput("is empty; save at least one row")
    delimiter = named or _delimiter(text, kind)
    rows = _rows(text, delimiter)
    width = _width(rows, delimiter)
    names, note = _names(rows, comment and _rows(comment, delimiter)[0], how)
    body = rows[1:] if note is not None else rows
    names = [""] * (width - len(names)) + names if names else []
    columns, comma = _columns(body, width, "," in text and delimiter != ",")
    decimals = ", decimals have commas" if comma else ""
    layout = f" ({_DELIMITERS[delimiter]} separate cells{decimals})" if width > 1 else ""
    unnamed = range(next((j for j, name in enumerate(names) if name.lower() not in _UNNAMED), 0))
    return Table(
        columns,
        names,
        index=unnamed,
        is_index=all(columns[j].dtype == object or (columns[j] == np.floor(columns[j])).all() for j in unnamed),
        counts=(names[0] if names else "").lower() in _INDEX and _counts(columns[0]),
        first=1 + len(rows) - len(body),
        layout=layout,
        is_number=_has_comma if comma else is_number,
        notes=(note,) if note else (),
    )


def _decoded(data: bytes) -> str:
    # UTF-16 is what spreadsheets save as Unicode text.
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnusableInput(
            f"cannot be read as text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _named(text: str) -> tuple[str, str]:
    """A text without a first line as ``sep=;``, which Excel writes and reads, and the delimiter that this names."""
    found = _SEP.match(text)
    return (text[found.end() :], found[1].replace("\\t", "\t")) if found else (text, "")


def _uncommented(text: str) -> tuple[str, str]:
    """A text without the comments at its start, and the last of them, which may have the names of columns."""
    comment = ""
    while text.startswith("#"):
        line, _, text = text.partition("\n")
        comment = line[1:].removeprefix(" ").rstrip()
    return text, comment


def _rows(text: str, delimiter: str) -> _Rows:
    if delimiter == " ":
        lines = io.StringIO("\n".join(line.strip() for line in text.replace("\t", " ").split("\n")))
    else:
        lines = io.StringIO(text)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != "\t")
    rows = [row for row in reader if any(cell.strip() for cell in row) and not row[0].startswith("#")]
    if rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) and not row[-1].strip() for row in rows):
        return [row[:-1] for row in rows]  # each row ends with a delimiter
    return rows


def _delimiter(text: str, kind: str) -> str:
    """The delimiter that makes most of the cells numbers in rows of equal length."""
    sample = text[:_SAMPLE].rpartition("\n")[0] if len(text) > _SAMPLE else text
    layouts = [layout for delimiter in _DELIMITERS for layout in _layouts(sample, delimiter)]
    if not layouts:
        # One column; or rows that differ in length, of which messages tell.
        splits = [delimiter for delimiter in _DELIMITERS if _splits(sample, delimiter)]
        return max(splits, key=lambda delimiter: len(_rows(sample, delimiter)[0]), default=",")
    best = min(layouts, key=lambda layout: layout.texts)
    if kind == "tsv" and best.delimiter == "," and "\t" not in text:
        raise UnusableInput(
            "has commas and no tabs; name it .csv if they separate cells, or write decimals with points"
        )
    return best.delimiter


def _splits(text: str, delimiter: str) -> bool:
    """Whether a delimiter occurs outside quotes; spaces may occur in a lone name."""
    try:
        first, *body = _rows(text, delimiter)
    except (csv.Error, ValueError):
        return False
    header = len(first) > 1 and (delimiter != " " or any(map(is_number, first)))
    return header or any(len(row) > 1 for row in body)


def _layouts(text: str, delimiter: str) -> list[_Layout]:
    """The ways to read several columns, of which at least one is of numbers."""
    try:
        rows = _rows(text, delimiter)
        width = _width(rows, delimiter)
    except (csv.Error, UnusableInput):
        return []
    body = [row[-width:] for row in rows[1:] or rows]
    layouts = []
    for decimal in "." if delimiter == "," else ".,":
        number = is_number if decimal == "." else _has_comma
        columns = zip(*body, strict=True)
        texts = [column for column in columns if any(cell.strip() and not number(cell) for cell in column)]
        torn = [column for column in texts if all(_DIVIDES.search(cell) for cell in column)]
        if len(texts) < width > 1:
            layouts.append(_Layout(delimiter, len(texts) + len(torn)))
    return layouts


def _has_comma(cell: str) -> bool:
    """Whether a cell is a number with a decimal comma, or a whole number."""
    return bool(_COMMA.fullmatch(cell))


def _width(rows: _Rows, delimiter: str) -> int:
    """The number of cells in each row; a header may lack one, over the names of rows."""
    if not rows:
        raise UnusableInput("has comments only; save at least one row")
    first, width = len(rows[0]), len(rows[-1])
    if not (all(map(_is_name, rows[0])) or _counted(rows[0])):  # no header
        width = first
    separate = f"({_DELIMITERS[delimiter]} separate cells)"
    decimals = ", and decimals with points" if delimiter == "," else ""
    for number, row in enumerate(rows[1:], start=2):
        expected = width if first + 1 == width else first
        if len(row) != expected:
            raise UnusableInput(
                f"row {number} must have {expected} cells, as row {1 if expected == first else len(rows)} has, got"
                f" {len(row)} {separate}; write as many in each{decimals}"
            )
    if first + 1 == width == 2 and delimiter == ",":
        raise UnusableInput(
            f"row 2 must have 1 cell, as the header has, got 2 {separate}; write decimals with points, and"
            " nothing above the header"
        )
    return width


def _counted(cells: Sequence[str]) -> bool:
    """Whether cells are 0, 1, 2, …, the names that pandas gives to columns."""
    return [cell.strip() for cell in cells] == [str(number) for number in range(len(cells))]


def _is_name(cell: str) -> bool:
    return bool(_NAME.search(cell)) and cell.strip().lower() not in _MISSING and not is_number(cell)


def _names(rows: _Rows, comment: Sequence[str], how: Reading) -> tuple[list[str], str | None]:
    """The names of columns; and a note, or "", if they are the first row."""
    first = [" ".join(cell.split()) for cell in rows[0]]
    if len(first) < len(rows[-1]):
        return first, ""
    note = _heading(first, rows[1 : _ROWS + 1], how)
    if note is not None:
        return first, note
    names = [" ".join(cell.split()) for cell in comment]
    return names if len(names) == len(first) and any(map(_is_name, names)) else [], None


def _heading(first: list[str], body: _Rows, how: Reading) -> str | None:
    """A note, or "", if the first row is a header; None if it is not."""
    number: Callable[[str], bool] = lambda cell: is_number(cell) or _has_comma(cell)  # noqa: E731
    if not body:
        return None if all(map(number, first)) else ""
    for cell, column in zip(first, zip(*body, strict=True), strict=True):
        if _is_name(cell) and any(map(number, column)):
            return ""
    whole = [cell.isdecimal() for cell in first]
    if not first[0] and all(whole[1:]) and len(first) > 1 and all(row[0].strip() for row in body):
        return ""
    if not all(whole):
        return None
    decimals = not any(cell.strip().lstrip("+-").isdecimal() for row in body for cell in row)
    told = _counted(first)
    increases = len(first) > 1 and sorted(set(map(int, first))) == list(map(int, first))
    if not told and not (decimals and increases):
        return None
    shown = ",".join(first) if len(first) < 7 else f"{first[0]},{first[1]},…,{first[-1]}"
    if how.header is None and not (told and decimals and len(first) > 1):
        raise UnusableInput(
            f"the first row, {shown}, may be names of columns or numbers; pass --header yes if it is names,"
            " --header no if not"
        )
    if how.header is False:
        return None
    return f"the first row, {shown}, is read as names of columns; --header no reads it as numbers" if told else ""


def _columns(body: _Rows, width: int, may_have_commas: bool) -> tuple[list[np.ndarray], bool]:
    """The columns, and whether decimals have commas."""
    if not body:
        return [np.empty(0)] * width, False
    cells = list(zip(*body, strict=True))
    columns = [_numbers(column) for column in cells]
    if may_have_commas and any(column.dtype == object for column in columns):
        others = [_commas(column) for column in cells]
        if _lacking(others, _has_comma) < _lacking(columns, is_number):
            return others, True
    return columns, False


def _lacking(columns: Sequence[np.ndarray], number: Callable[[str], bool]) -> int:
    """How many cells are no numbers."""
    return sum(not number(cell) for column in columns if column.dtype == object for cell in column)


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """A column as numbers; as objects, if a cell is not one."""
    try:
        values = np.array(cells, dtype=np.float64)
    except ValueError:
        return _objects(cells)
    return values if "_" not in "".join(cells) else _objects(cells)


def _commas(cells: Sequence[str]) -> np.ndarray:
    """The same where decimals have commas."""
    return _numbers([cell.replace(",", ".") for cell in cells]) if all(map(_has_comma, cells)) else _objects(cells)


def _objects(cells: Sequence[str]) -> np.ndarray:
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column


def _counts(column: np.ndarray) -> bool:
    """Whether a column is 0, 1, 2, … or 1, 2, 3, …."""
    if column.dtype == object or len(column) < 2:
        return False
    return column[0] in (0, 1) and bool((np.diff(column) == 1).all())
