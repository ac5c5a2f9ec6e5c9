"""Where answers are kept: in memory, or in a folder that an interrupted run goes on from.

A folder has ``question.json``, which says what was asked. While pairs are solved it has a file for each block in
``blocks``; each is written under another name and then renamed, so that it is whole or not there. In the end these are
joined in the arrays ``distance.npy``, ``lower.npy``, ``upper.npy`` and ``status.npy``, and the last is renamed last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from otkit.pairs.blocks import Grid, Options
from otkit.pairs.clouds import Clouds
from otkit.pairs.results import Answers, Layout
from otkit.results.outcome import Status

Block = tuple[int, int]

_FORMAT = "otkit pairs 1"
_STATUSES = [status.name for status in Status]
_DIGEST = 16  # bytes
_DTYPES = {"distance": "<f8", "lower": "<f8", "upper": "<f8", "status": "u1"}  # in the order of `Answers`


@dataclass(frozen=True)
class Question:
    """What was asked: answers to one question are never taken for those to another.

    Attributes
    ----------
    options : str
        Metric, tolerance and the like, in words.
    p : float
    reg : float or None
    rows : int
    cols : int or None
        The measures and the others, as in `Layout`.
    digests : list of str
        Digests of the data of all of them.
    names : list of str or None
    side : int
        The side of the blocks.
    """

    options: str
    p: float
    reg: float | None
    rows: int
    cols: int | None
    digests: list[str]
    names: list[str] | None
    side: int

    @staticmethod
    def of(clouds: Clouds, grid: Grid, options: Options, names: list[str] | None) -> Question:
        """The question that these measures and options are."""
        cost, rtol, reg, max_iter = options
        words = f"metric={cost.ground!r}, p={cost.power!r}, rtol={rtol!r}, reg={reg!r}, max_iter={max_iter!r}"
        layout = grid.layout
        return Question(words, cost.power, reg, layout.rows, layout.cols, clouds.digests(), names, grid.side)

    @property
    def grid(self) -> Grid:
        """The blocks."""
        return Grid(Layout(self.rows, self.cols), self.side)

    def key(self, block: Block) -> bytes:
        """A digest of what is asked about the pairs of a block."""
        rows, cols = self.grid.ranges(block)
        first = 0 if self.cols is None else self.rows
        own = [*(self.digests[k] for k in rows), "", *(self.digests[first + k] for k in cols)]
        return hashlib.blake2b("\0".join([self.options, *own]).encode()).digest()

    def same(self, other: Question) -> bool:
        """Whether the answers to `other` are those to this question."""
        return replace(self, names=other.names, side=other.side) == other

    def places_in(self, other: Question) -> tuple[np.ndarray, np.ndarray]:
        """For the rows and for the columns, where `other` has the same data; −1 where it has not."""

        def found(own: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
            at = {digest: k for k, digest in enumerate(theirs)}
            return np.array([at.get(digest, -1) for digest in own])

        if self.cols is None:
            both = found(self.digests, other.digests)
            return both, both
        here, there = self.rows, other.rows
        return found(self.digests[:here], other.digests[:there]), found(self.digests[here:], other.digests[there:])


class Memory:
    """Answers in arrays."""

    whole = False

    def __init__(self, grid: Grid) -> None:
        self.grid, self.answers = grid, Answers.empty(grid.layout.pairs)

    def kept(self, block: Block) -> Answers | None:
        """The answers for a block, if it is kept."""
        return None

    def known(self, block: Block) -> Answers:
        """The answers for the pairs of a block as far as they are known, and the status 0 where they are not."""
        return Answers.empty(self.grid.size(block))

    def keep(self, block: Block, answers: Answers) -> None:
        """Keep the answers for a block."""
        self.answers.put(self.grid.places(block), answers)

    def joined(self) -> Answers:
        """All answers, once each block is kept."""
        return self.answers


class Folder:
    """Answers in a folder, to one question."""

    def __init__(self, path: Path, question: Question) -> None:
        self.path, self.question, self.grid = path, question, question.grid
        before = path / "before"
        self._before = None
        if (before / "question.json").exists() and not self.whole:
            asked = _read(before)
            answers = _loaded(before, asked.grid.layout.pairs)
            if answers is not None:
                self._before = asked.grid.layout, answers, question.places_in(asked)

    @staticmethod
    def opened(path: Path, question: Question) -> Folder:
        """The folder, made if it is not there; ``ValueError`` if it has something else or other answers."""
        file = path / "question.json"
        if path.is_file() or (path.is_dir() and not file.exists() and any(path.iterdir())):
            raise ValueError(f"{path} is not a folder of pairwise answers; give the name of a new folder")
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"folder {path} must be in a folder that exists, got no {path.parent}; make it first"
            )
        path.mkdir(exist_ok=True)
        asked = _read(path) if file.exists() else None
        if asked is not None and asked.same(question):
            question = replace(question, side=asked.side)
        elif asked is not None:
            _check_grown(path, asked, question)
            Folder(path, asked)._set_aside()
        _write(file, json.dumps({"format": _FORMAT, "statuses": _STATUSES, **asdict(question)}).encode(), sync=True)
        folder = Folder(path, question)
        if not folder.whole:
            (path / "blocks").mkdir(exist_ok=True)
        return folder

    @property
    def whole(self) -> bool:
        """Whether all pairs are solved and joined."""
        return self._joined is not None

    @property
    def _joined(self) -> Answers | None:
        return _loaded(self.path, self.grid.layout.pairs)

    def kept(self, block: Block) -> Answers | None:
        """The answers for a block, if it is kept."""
        joined = self._joined
        if joined is not None:
            return joined.take(self.grid.places(block))
        try:
            content = self._file(block).read_bytes()
        except FileNotFoundError:
            content = b""
        size = self.grid.size(block)
        if len(content) != _DIGEST + 25 * size or self._digest(block, content[_DIGEST:]) != content[:_DIGEST]:
            return None
        distance, lower, upper = np.frombuffer(content, "<f8", 3 * size, _DIGEST).reshape(3, size)
        return Answers(distance, lower, upper, np.frombuffer(content, "u1", offset=_DIGEST + 24 * size))

    def known(self, block: Block) -> Answers:
        """The answers for the pairs of a block as far as they are known, and the status 0 where they are not."""
        found = self.kept(block)
        if found is not None:
            return found
        found = Answers.empty(self.grid.size(block))
        if self._before is None:
            return found
        (layout, answers, (rows, cols)), (i, j) = self._before, self.grid.pairs(block)
        i, j = rows[i], cols[j]
        there = (i >= 0) & (j >= 0) & ((i < j) | (layout.cols is not None))
        found.put(there, answers.take(layout.places(i[there], j[there])))
        return found

    def keep(self, block: Block, answers: Answers) -> None:
        """Write the file of a block."""
        content = b"".join(v.tobytes() for v in answers.arrays.values())
        try:
            _write(self._file(block), self._digest(block, content) + content)
        except FileNotFoundError:
            if not self.whole:  # else another run has joined all blocks meanwhile
                raise

    def joined(self) -> Answers:
        """All answers, in arrays mapped from files; ``ValueError`` if blocks are missing."""
        if not self.whole:
            blocks = self.grid.blocks
            missing = sum(self.kept(block) is None for block in blocks)
            if missing:
                raise ValueError(
                    f"{missing} of {len(blocks)} blocks are missing in {self.path}; "
                    "wait for the other shares, or solve what is missing by the same call without a share"
                )
            self._join(self.path)
            for done in ("blocks", "before"):
                shutil.rmtree(self.path / done, ignore_errors=True)
        answers = self._joined
        assert answers is not None
        return answers

    def _join(self, into: Path) -> None:
        """Write the arrays of what is known. Their bytes do not depend on blocks."""
        mark, size = uuid.uuid4().hex, self.grid.layout.pairs
        new = {name: into / f".{name}-{mark}" for name in _DTYPES}
        maps = {name: open_memmap(new[name], "w+", np.dtype(dtype), (size,)) for name, dtype in _DTYPES.items()}
        answers = Answers(**maps)
        for block in self.grid.blocks:
            answers.put(self.grid.places(block), self.known(block))
        for name, values in maps.items():
            values.flush()
            os.replace(new[name], into / f"{name}.npy")

    def _set_aside(self) -> None:
        """Move all answers to ``before``, where those to a wider question are looked up."""
        new = self.path / f".before-{uuid.uuid4().hex}"
        new.mkdir()
        _write(new / "question.json", (self.path / "question.json").read_bytes(), sync=True)
        self._join(new)
        shutil.rmtree(self.path / "before", ignore_errors=True)
        os.replace(new, self.path / "before")
        for name in reversed(_DTYPES):  # without a status, the folder is not whole
            (self.path / f"{name}.npy").unlink(missing_ok=True)
        shutil.rmtree(self.path / "blocks", ignore_errors=True)

    def _file(self, block: Block) -> Path:
        return self.path / "blocks" / f"{block[0]}-{block[1]}"

    def _digest(self, block: Block, content: bytes) -> bytes:
        return hashlib.blake2b(content, key=self.question.key(block), digest_size=_DIGEST).digest()


def loaded(paths: Sequence[Path]) -> tuple[Question, Answers]:
    """The answers in one or several folders of shares of one question, joined in the first.

    Raises
    ------
    ValueError
        If something is no such folder, the questions differ, or blocks are missing.
    """
    folders = [Folder(path, _read(path)) for path in paths]
    first = folders[0]
    if not first.whole:
        (first.path / "blocks").mkdir(exist_ok=True)
    for other in folders[1:]:
        if replace(other.question, names=first.question.names) != first.question:
            raise ValueError(f"{first.path} and {other.path} have answers to different questions; join them apart")
        for block in first.grid.blocks if not first.whole else ():
            if first.kept(block) is None and (found := other.kept(block)) is not None:
                first.keep(block, found)
    return first.question, first.joined()


def _loaded(path: Path, pairs: int) -> Answers | None:
    """The joined arrays of a folder; None where one is not there, or not as long as it should be."""
    found = {}
    try:
        for name, dtype in reversed(_DTYPES.items()):  # the status is written last
            array = found[name] = np.load(path / f"{name}.npy", mmap_mode="r")
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != ((pairs,), dtype):
                return None
    except (FileNotFoundError, IsADirectoryError, EOFError, ValueError):
        return None
    return Answers(**found)


def _read(path: Path) -> Question:
    try:
        content: dict[str, Any] = json.loads((path / "question.json").read_text(encoding="utf-8"))
        if (content.pop("format"), content.pop("statuses")) != (_FORMAT, _STATUSES):
            raise ValueError
        return Question(**content)
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a folder of pairwise answers; give the name of one") from None


def _write(path: Path, content: bytes, sync: bool = False) -> None:
    """Write a file under another name, and rename it. A block that a power failure leaves empty fails its digest."""
    new = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with new.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(new, path)


def _check_grown(path: Path, asked: Question, question: Question) -> None:
    """Refuse answers to another question, unless this one asks for those and more."""
    if asked.options != question.options:
        raise ValueError(
            f"{path} has answers for {asked.options}, asked for are {question.options}; give the name of a new folder"
        )
    rows, cols = asked.places_in(question)
    if (asked.cols is None) != (question.cols is None) or (rows < 0).any() or (cols < 0).any():
        raise ValueError(
            f"{path} has answers for measures that are not among these; give the name of a new folder, or remove it"
        )
